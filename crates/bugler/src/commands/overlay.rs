//! `bugler overlay`.

use super::Session;
use crate::cli;
use crate::client::encode;
use crate::output;
use anyhow::{Context, Result, bail};
use bugler_model::text::bytes;
use bugler_model::{Device, DeviceId, ExportId};
use bugler_protocol::operator::{CommitOverlay, Committed, GrowOverlay, OverlayView};

pub(super) fn run(session: &Session, command: cli::Overlay) -> Result<()> {
    match command {
        cli::Overlay::List { device } => list(session, device.as_deref()),
        cli::Overlay::Reset { layer, running } => {
            let id = find(session, &layer)?;
            session
                .client
                .delete(&format!("overlays/{id}?running={running}"))
        }
        cli::Overlay::Grow { layer, size } => {
            let id = find(session, &layer)?;
            session
                .client
                .post_quietly(&format!("overlays/{id}/grow"), &GrowOverlay { size })
        }
        cli::Overlay::Commit {
            layer,
            image,
            note,
            running,
        } => {
            let id = find(session, &layer)?;
            let wanted = CommitOverlay {
                name: image,
                note,
                running,
            };
            let path = format!("overlays/{id}/commit");
            let made: Committed = session.client.post(&path, &wanted)?;
            if session.json {
                return output::json(&made);
            }
            println!(
                "{} ({}): {} of chunks that were not in the store",
                made.image.label(),
                made.image.id,
                bytes(made.new)
            );
            Ok(())
        }
    }
}

fn device(session: &Session, text: &str) -> Result<DeviceId> {
    let device: Device = session.client.get(&format!("devices/{}", encode(text)))?;
    Ok(device.id)
}

/// The layer that is meant.
fn find(session: &Session, text: &str) -> Result<ExportId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let device = device(session, text)?;
    let all: Vec<OverlayView> = session.client.get("overlays")?;
    let mut own = all.into_iter().filter(|view| view.export.device == device);
    match own.find(|view| view.export.current) {
        Some(view) => Ok(view.export.id),
        None => bail!("{text} has no layer: `bugler overlay list` shows those that there are"),
    }
}

fn list(session: &Session, of: Option<&str>) -> Result<()> {
    let of = of.map(|text| device(session, text)).transpose()?;
    let mut all: Vec<OverlayView> = session
        .client
        .get("overlays")
        .context("could not list the layers")?;
    all.retain(|view| of.is_none_or(|of| view.export.device == of));
    if session.json {
        return output::json(&all);
    }
    output::table(
        &[
            "LAYER",
            "DEVICE",
            "IMAGE",
            "OVER",
            "KIND",
            "HOLDS",
            "OF",
            "READ/s",
            "WRITTEN/s",
            "STATE",
        ],
        all.iter().map(|view| {
            let export = &view.export;
            vec![
                export.id.to_string(),
                view.device.clone(),
                export.label.clone(),
                export.over.to_string(),
                export.overlay.to_string(),
                bytes(view.used),
                bytes(export.overlay_size),
                bytes(view.read_rate),
                bytes(view.write_rate),
                state(view),
            ]
        }),
    )
}

/// Whether its machine is there, in a few words.
fn state(view: &OverlayView) -> String {
    if let Some(problem) = &view.problem {
        return problem.clone();
    }
    match (view.clients.as_slice(), view.idle_s, view.export.current) {
        ([], _, false) => "kept from an earlier version".into(),
        ([], None, true) => "not connected".into(),
        ([], Some(idle), true) => format!("gone for {idle} s"),
        ([one], ..) => format!("connected: {one}"),
        (several, ..) => format!("connected: {} times", several.len()),
    }
}
