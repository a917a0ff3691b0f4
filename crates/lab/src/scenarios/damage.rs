//! A chunk that went bad on the server's disk: it is found, reported, and never written.

use crate::gpt::SECTOR;
use crate::run::Run;
use crate::site::{IMAGE, Node, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{Device, Event, EventKind, Image, ImageState};
use bugler_protocol::operator::Verified;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Damages the image in the store, orders a deploy of it to the waiting machine, and puts the image
/// right again.
pub(super) fn is_found(run: &Run, site: &Site<'_>, node: &Node, device: &Device) -> Result<()> {
    let id = device.id.to_string();
    let chunk = largest(&run.file("state/images/chunks"))?;
    let file = OpenOptions::new().read(true).write(true).open(&chunk)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[byte[0] ^ 1], middle)?;

    let output = site.try_bugler(&["deploy", IMAGE, &id, "--wait"])?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(
        output.status.code() == Some(6),
        "the deploy ended with {}: {said}",
        output.status
    );
    run.say(&format!(
        "a damaged chunk: {}",
        said.lines().last().unwrap_or_default()
    ));
    let verified = site.try_bugler(&["image", "verify", IMAGE, "--json"])?;
    ensure!(
        verified.status.code() == Some(1),
        "verify ended with {}",
        verified.status
    );
    let verified: Verified = serde_json::from_slice(&verified.stdout).context("verify's answer")?;
    let [damaged] = &verified.damaged[..] else {
        anyhow::bail!(
            "one chunk was damaged, and verify found {:?}",
            verified.damaged
        );
    };
    ensure!(
        said.contains(&damaged.hash),
        "the failure does not name chunk {}: {said}",
        damaged.hash
    );

    // The sectors of poison begin with their own numbers.
    let mut sector = [0; SECTOR as usize];
    let disk = File::open(&node.disk).context("cannot open the machine's disk")?;
    disk.read_exact_at(&mut sector, damaged.offset)
        .context("cannot read the machine's disk")?;
    ensure!(
        sector.starts_with(&(damaged.offset / SECTOR).to_le_bytes())
            && sector.ends_with(&[0xa5; 8]),
        "the damaged chunk was written at byte {}",
        damaged.offset
    );
    let image: Image = site.bugler(&["image", "show", IMAGE])?;
    ensure!(
        image.state == ImageState::Damaged,
        "the image counts as {:?}",
        image.state
    );
    let events: Vec<Event> = site.server.api().get("events?limit=1000")?;
    ensure!(
        events
            .iter()
            .any(|event| event.kind == EventKind::Image && event.text.contains("damaged")),
        "no event tells of the damage"
    );
    let refused = site.try_bugler(&["deploy", IMAGE, &id])?;
    ensure!(
        refused.status.code() == Some(4),
        "the next deploy ended with {}",
        refused.status
    );

    let removed = site.try_bugler(&["image", "remove", IMAGE])?;
    ensure!(
        removed.status.success(),
        "remove ended with {}",
        removed.status
    );
    site.add_image()?;
    let verified: Verified = site.bugler(&["image", "verify", IMAGE])?;
    ensure!(
        verified.damaged.is_empty(),
        "added again, it is damaged still: {verified:?}"
    );
    run.say("it was not written; added again, the image is good");
    Ok(())
}

/// The largest file below `dir`.
fn largest(dir: &Path) -> Result<PathBuf> {
    let mut found = None;
    for shard in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        for entry in fs::read_dir(shard?.path()).context("cannot list the chunks")? {
            let entry = entry.context("cannot list the chunks")?;
            found = found.max(Some((entry.metadata()?.len(), entry.path())));
        }
    }
    Ok(found.context("the store has no chunks")?.1)
}
