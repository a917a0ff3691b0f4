//! `bugler image verify`.

use crate::client::encode;
use crate::commands::Session;
use crate::output;
use anyhow::{Result, bail};
use bugler_model::text;
use bugler_protocol::operator::{Verified, VerifiedAll};

pub(super) fn one(session: &Session, image: &str) -> Result<()> {
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
                text::clean(&damage.detail)
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

pub(super) fn all(session: &Session) -> Result<()> {
    let body = serde_json::json!({});
    let verified: VerifiedAll = session.client.post("images/verify", &body)?;
    if session.json {
        output::json(&verified)?;
    } else {
        for image in &verified.damaged {
            println!("{} ({}) is damaged", image.label, image.image);
        }
    }
    if verified.damaged.is_empty() {
        if !session.json {
            println!(
                "{} images: all {} chunks are right",
                verified.images, verified.chunks
            );
        }
        return Ok(());
    }
    bail!(
        "{} of {} images need {} chunks that are damaged: add them again from their files, or \
         remove them",
        verified.damaged.len(),
        verified.images,
        verified.damaged_chunks
    )
}
