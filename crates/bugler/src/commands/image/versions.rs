//! `bugler image list`, `show`, `note` and `remove`.

use crate::client::encode;
use crate::commands::Session;
use crate::output;
use anyhow::{Result, bail};
use bugler_model::{Image, ImageState, text};
use bugler_protocol::operator::{ImageChange, ImageSizes};
use std::collections::HashMap;
use std::io::Write;

pub(super) fn list(session: &Session, all: bool) -> Result<()> {
    let mut images: Vec<Image> = session.client.get("images")?;
    if !all {
        // The latest version of each name comes first.
        images.dedup_by(|next, kept| next.name == kept.name);
    }
    if session.json {
        return output::json(&images);
    }
    table(&images, &sizes(session)?)
}

pub(super) fn show(session: &Session, image: &str) -> Result<()> {
    let image: Image = session.client.get(&format!("images/{}", encode(image)))?;
    shown(session, image)
}

pub(super) fn note(session: &Session, image: &str, note: String) -> Result<()> {
    let path = format!("images/{}", encode(image));
    let image = session.client.patch(&path, &ImageChange { note })?;
    shown(session, image)
}

pub(super) fn remove(session: &Session, image: &str, all_versions: bool, yes: bool) -> Result<()> {
    if !all_versions {
        return session.client.delete(&format!("images/{}", encode(image)));
    }
    if !yes {
        let images: Vec<Image> = session.client.get("images")?;
        let count = images.iter().filter(|i| i.name.as_str() == image).count();
        let question = format!("remove all {count} versions of {image}?");
        if !output::confirmed(&question)? {
            bail!("nothing was removed");
        }
    }
    let path = format!("images/{}?all_versions=true", encode(image));
    session.client.delete(&path)
}

/// What each version takes, by its id.
type Sizes = HashMap<String, ImageSizes>;

fn sizes(session: &Session) -> Result<Sizes> {
    let sizes: Vec<ImageSizes> = session.client.get("image-sizes")?;
    let by_id = sizes.into_iter().map(|size| (size.image.to_string(), size));
    Ok(by_id.collect())
}

fn state(image: &Image) -> &'static str {
    match image.state {
        ImageState::Good => "good",
        ImageState::Damaged => "damaged",
    }
}

fn table(images: &[Image], sizes: &Sizes) -> Result<()> {
    let now = output::now();
    output::table(
        &[
            "ID", "NAME", "SIZE", "USED", "STORED", "OWN", "STATE", "ADDED", "NOTE",
        ],
        images.iter().map(|image| {
            let sizes = sizes.get(&image.id.to_string());
            vec![
                image.id.to_string(),
                image.label(),
                text::bytes(image.size),
                text::bytes(image.used),
                text::bytes(sizes.map_or(image.stored, |sizes| sizes.stored)),
                sizes.map_or_else(|| "?".into(), |sizes| text::bytes(sizes.own)),
                state(image).into(),
                text::ago(image.created, now),
                image.note.clone(),
            ]
        }),
    )
}

/// One version, with everything that is known of it.
pub(super) fn shown(session: &Session, image: Image) -> Result<()> {
    if session.json {
        return output::json(&image);
    }
    let sizes = sizes(session)?;
    let sizes = sizes.get(&image.id.to_string());
    let mut lines = vec![
        ("image", format!("{} ({})", image.label(), image.id)),
        ("state", state(&image).into()),
        (
            "disk",
            format!(
                "{}, sectors of {}",
                text::bytes(image.size),
                image.sector_size
            ),
        ),
        ("used", text::bytes(image.used)),
        (
            "stored",
            text::bytes(sizes.map_or(image.stored, |sizes| sizes.stored)),
        ),
    ];
    if let Some(sizes) = sizes {
        let of = format!(
            "{} in no other image, {} shared",
            text::bytes(sizes.own),
            text::bytes(sizes.shared)
        );
        lines.push(("of it", of));
    }
    lines.push(("added", text::ago(image.created, output::now())));
    if !image.note.is_empty() {
        lines.push(("note", image.note.clone()));
    }
    if let Some(origin) = &image.origin {
        let from = format!(
            "{} ({}), {}, by agent {}",
            origin.label, origin.device, origin.disk, origin.agent_version
        );
        lines.push(("taken from", from));
        lines.extend(origin.reading.iter().map(|line| ("read", line.clone())));
    }
    lines.push(("content", image.manifest.clone()));
    let mut out = std::io::stdout().lock();
    for (name, value) in lines {
        writeln!(out, "{name:<11} {}", text::clean(&value))?;
    }
    Ok(())
}
