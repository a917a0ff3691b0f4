//! `bugler image`.

mod add;
mod export;
mod look;
mod verify;
mod versions;

use super::Session;
use crate::cli;
use crate::output;
use anyhow::Result;
use bugler_model::text;
use bugler_protocol::operator::{CollectGarbage, Collected};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use versions::shown;

pub(super) fn run(session: &Session, command: cli::Image) -> Result<()> {
    match command {
        cli::Image::Add(args) => add::run(session, &args),
        cli::Image::List { all } => versions::list(session, all),
        cli::Image::Show { image } => versions::show(session, &image),
        cli::Image::Note { image, text } => versions::note(session, &image, text),
        cli::Image::Export(args) => export::run(session, &args),
        cli::Image::Remove {
            image,
            all_versions,
            yes,
        } => versions::remove(session, &image, all_versions, yes),
        cli::Image::Verify { image, .. } => match image {
            Some(image) => verify::one(session, &image),
            None => verify::all(session),
        },
        cli::Image::Ls {
            image,
            path,
            partition,
        } => look::ls(session, &image, partition, path.as_deref()),
        cli::Image::Cat {
            image,
            path,
            partition,
        } => look::cat(session, &image, partition, &path),
        cli::Image::Diff { old, new } => look::diff(session, &old, &new),
        cli::Image::Gc { dry_run } => {
            let collected: Collected = session
                .client
                .post("images/gc", &CollectGarbage { dry_run })?;
            if session.json {
                return output::json(&collected);
            }
            let verb = if dry_run { "would remove" } else { "removed" };
            println!(
                "{verb} {} chunks, {}",
                collected.chunks,
                text::bytes(collected.bytes)
            );
            Ok(())
        }
    }
}

fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match length {
        Some(length) => ProgressBar::new(length).with_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        ),
        None => ProgressBar::new_spinner(),
    }
}
