//! `bugler image`.

use super::Session;
use crate::cli;
use crate::client::encode;
use crate::output;
use anyhow::{Context, Result, bail};
use bugler_model::{Image, ImageName, ImageState};
use bugler_protocol::operator::{CollectGarbage, Collected, Verified};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

pub(super) fn run(session: &Session, command: cli::Image) -> Result<()> {
    match command {
        cli::Image::Add { name, file } => add(session, &name.parse()?, &file),
        cli::Image::List => {
            let images: Vec<Image> = session.client.get("images")?;
            if session.json {
                return output::json(&images);
            }
            table(&images)
        }
        cli::Image::Show { image } => shown(
            session,
            session.client.get(&format!("images/{}", encode(&image)))?,
        ),
        cli::Image::Export {
            image,
            file,
            format,
        } => export(session, &image, &file, format),
        cli::Image::Remove { image } => {
            session.client.delete(&format!("images/{}", encode(&image)))
        }
        cli::Image::Verify { image } => verify(session, &image),
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
                output::bytes(collected.bytes)
            );
            Ok(())
        }
    }
}

fn table(images: &[Image]) -> Result<()> {
    let now = output::now();
    output::table(
        &["ID", "NAME", "SIZE", "USED", "STORED", "STATE", "ADDED"],
        images.iter().map(|image| {
            vec![
                image.id.to_string(),
                image.name.to_string(),
                output::bytes(image.size),
                output::bytes(image.used),
                output::bytes(image.stored),
                match image.state {
                    ImageState::Good => "good".into(),
                    ImageState::Damaged => "damaged".into(),
                },
                output::ago(image.created, now),
            ]
        }),
    )
}

fn shown(session: &Session, image: Image) -> Result<()> {
    if session.json {
        output::json(&image)
    } else {
        table(&[image])
    }
}

fn add(session: &Session, name: &ImageName, path: &Path) -> Result<()> {
    // Asked before the upload, so that a name that is taken costs nothing.
    let images: Vec<Image> = session.client.get("images")?;
    if let Some(there) = images.iter().find(|image| &image.name == name) {
        bail!(crate::client::ClientError::Answer {
            status: ureq::http::StatusCode::CONFLICT,
            message: format!(
                "there is an image named {name} already ({}): choose another name, or remove that \
                 one with `bugler image remove {name}`",
                there.id
            ),
        });
    }
    let stdin = path == Path::new("-");
    let (mut input, length): (Box<dyn Read>, Option<u64>) = if stdin {
        (Box::new(std::io::stdin().lock()), None)
    } else {
        let file =
            File::open(path).with_context(|| format!("could not open {}", path.display()))?;
        let meta = file
            .metadata()
            .with_context(|| format!("could not look at {}", path.display()))?;
        if meta.is_dir() {
            bail!("{} is a folder, not a disk image", path.display());
        }
        (Box::new(file), meta.is_file().then_some(meta.len()))
    };
    let bar = bar(
        length,
        "{wide_bar} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
    );
    let mut counted = bar.wrap_read(&mut input);
    let result = session
        .client
        .put_stream(&format!("images/{name}"), length, &mut counted);
    bar.finish_and_clear();
    shown(session, result?)
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

fn export(session: &Session, image: &str, path: &Path, format: cli::ExportFormat) -> Result<()> {
    let url = format!("images/{}/raw?format={}", encode(image), format.as_str());
    let mut response = session.client.stream(&url)?;
    let length = response.body().content_length();
    let mut body = response.body_mut().as_reader();
    if path == Path::new("-") {
        std::io::copy(&mut body, &mut std::io::stdout().lock())?;
        return Ok(());
    }
    let mut file = File::create_new(path).with_context(|| {
        format!(
            "could not create {} (a file that exists is not overwritten)",
            path.display()
        )
    })?;
    let bar = bar(
        length,
        "{wide_bar} {bytes} of {total_bytes}  {bytes_per_sec}",
    );
    let result = std::io::copy(&mut bar.wrap_read(&mut body), &mut file).and_then(|written| {
        file.flush()
            .and_then(|()| file.sync_all())
            .map(|()| written)
    });
    bar.finish_and_clear();
    match result {
        Ok(written) if length.is_none_or(|length| length == written) => Ok(()),
        outcome => {
            // Half an image must not be taken for one.
            let _ = std::fs::remove_file(path);
            match outcome {
                Ok(written) => bail!(
                    "the server stopped after {written} of {} bytes of {image}: {} was removed; \
                     `bugler image verify {image}` tells whether the image is damaged",
                    length.unwrap_or_default(),
                    path.display()
                ),
                Err(error) => Err(error).with_context(|| {
                    format!(
                        "could not write {image} to {}, which was removed",
                        path.display()
                    )
                }),
            }
        }
    }
}

fn verify(session: &Session, image: &str) -> Result<()> {
    let verified: Verified = session.client.post(
        &format!("images/{}/verify", encode(image)),
        &serde_json::json!({}),
    )?;
    if session.json {
        output::json(&verified)?;
    } else {
        for damage in &verified.damaged {
            println!(
                "chunk {} at byte {}: {}",
                damage.hash,
                damage.offset,
                output::safe(&damage.detail)
            );
        }
    }
    if verified.damaged.is_empty() {
        if !session.json {
            println!("{image}: all {} chunks are right", verified.chunks);
        }
        Ok(())
    } else {
        bail!(
            "{image}: {} of {} chunks are damaged: remove it and add it again from its file",
            verified.damaged.len(),
            verified.chunks
        )
    }
}
