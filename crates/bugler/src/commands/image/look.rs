//! `bugler image ls`, `cat` and `diff`.

use crate::client::encode;
use crate::commands::Session;
use crate::output;
use anyhow::{Context, Result};
use bugler_model::text;
use bugler_protocol::operator::{FileChange, ImageDiff, ImageFile, ImagePartition};
use std::io::Write;

/// Ranges that are shown; `--json` has more.
const SHOWN: usize = 20;

fn query(image: &str, what: &str, partition: Option<u32>, path: &str) -> String {
    let partition = partition.map_or_else(String::new, |number| format!("&partition={number}"));
    let path = encode(path);
    format!("images/{}/{what}?path={path}{partition}", encode(image))
}

pub(super) fn ls(
    session: &Session,
    image: &str,
    partition: Option<u32>,
    path: Option<&str>,
) -> Result<()> {
    if partition.is_none() && path.is_none() {
        return partitions(session, image);
    }
    let path = query(image, "files", partition, path.unwrap_or("/"));
    let files: Vec<ImageFile> = session.client.get(&path)?;
    if session.json {
        return output::json(&files);
    }
    output::table(
        &["MODE", "OWNER", "SIZE", "NAME"],
        files.iter().map(|file| {
            let number = |id: Option<u32>| id.map_or_else(|| "-".into(), |id| id.to_string());
            let mark = match file.kind.as_str() {
                "folder" => "/".into(),
                "file" => String::new(),
                "symlink" => format!(" -> {}", file.target.as_deref().unwrap_or("?")),
                other => format!(" ({other})"),
            };
            vec![
                file.mode
                    .map_or_else(|| "-".into(), |mode| format!("{mode:04o}")),
                format!("{}:{}", number(file.uid), number(file.gid)),
                file.size.to_string(),
                format!("{}{mark}", file.name),
            ]
        }),
    )
}

fn partitions(session: &Session, image: &str) -> Result<()> {
    let path = format!("images/{}/partitions", encode(image));
    let partitions: Vec<ImagePartition> = session.client.get(&path)?;
    if session.json {
        return output::json(&partitions);
    }
    output::table(
        &[
            "PARTITION",
            "START",
            "SIZE",
            "USED",
            "CONTENT",
            "NAME",
            "FILES",
        ],
        partitions.iter().map(|part| {
            vec![
                part.number.to_string(),
                part.start.to_string(),
                text::bytes(part.size),
                text::bytes(part.used),
                part.content.clone(),
                part.name.clone().unwrap_or_default(),
                if part.readable { "yes" } else { "no" }.into(),
            ]
        }),
    )
}

pub(super) fn cat(
    session: &Session,
    image: &str,
    partition: Option<u32>,
    path: &str,
) -> Result<()> {
    let url = query(image, "file", partition, path);
    let mut response = session.client.stream(&url)?;
    let mut out = std::io::stdout().lock();
    std::io::copy(&mut response.body_mut().as_reader(), &mut out)
        .and_then(|_| out.flush())
        .with_context(|| {
            format!(
                "could not give all of {path}; `bugler image verify {image}` tells whether the \
                 image is damaged"
            )
        })
}

pub(super) fn diff(session: &Session, old: &str, new: &str) -> Result<()> {
    let path = format!("images/{}/diff?to={}", encode(old), encode(new));
    let diff: ImageDiff = session.client.get(&path)?;
    if session.json {
        return output::json(&diff);
    }
    let mut out = std::io::stdout().lock();
    let [before, after] = diff.sizes;
    if before != after {
        let (before, after) = (text::bytes(before), text::bytes(after));
        writeln!(out, "the disk: {before} before, {after} after")?;
    }
    if diff.ranges_in_all == 0 {
        writeln!(out, "no range differs")?;
        return Ok(());
    }
    let (bytes, count) = (text::bytes(diff.bytes), diff.ranges_in_all);
    writeln!(out, "{bytes} differ, in {count} ranges:")?;
    for range in diff.ranges.iter().take(SHOWN) {
        writeln!(out, "  {} bytes from {}", range.length, range.start)?;
    }
    if count > SHOWN as u64 {
        writeln!(out, "  ...")?;
    }
    for part in &diff.partitions {
        let (number, content) = (part.number, text::clean(&part.content));
        match &part.note {
            Some(note) => writeln!(out, "partition {number}, {content}: {}", text::clean(note))?,
            None => writeln!(
                out,
                "partition {number}, {content}: {} files differ",
                part.changes_in_all
            )?,
        }
        for file in &part.changes {
            let size = |size: Option<u64>| size.map_or_else(|| "-".into(), |size| size.to_string());
            let sign = match file.change {
                FileChange::Added => '+',
                FileChange::Removed => '-',
                FileChange::Content => '~',
                FileChange::Rights => '%',
            };
            let path = text::clean(&file.path);
            writeln!(
                out,
                "{sign} {path}  {} -> {}",
                size(file.before),
                size(file.after)
            )?;
        }
    }
    Ok(())
}
