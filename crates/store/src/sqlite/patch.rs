//! What an operator changes of a device.

use super::fault::Fault;
use super::policy;
use super::rows::{first, id, key};
use super::writer::Tx;
use bugler_model::{Device, DeviceId, DevicePatch, EventKind, MacAddr, NewEvent, Timestamp};
use std::sync::Arc;
use uuid::Uuid;

/// Longest name or tag, in characters.
const LONGEST: usize = 64;
/// Most tags of a device.
const TAGS: usize = 64;

/// See [`crate::Store::patch_device`].
pub(super) fn patch(
    tx: &mut Tx<'_>,
    id: DeviceId,
    patch: &DevicePatch,
    now: Timestamp,
) -> Result<Arc<Device>, Fault> {
    let before = tx.record(id)?;
    let mut record = before.clone();
    let mut said = Vec::new();
    if let Some(name) = &patch.name {
        record.device.name = new_name(tx, id, name)?;
        if record.device.name != before.device.name {
            said.push(match &record.device.name {
                Some(name) => format!("{} is now called {name}", before.device.label()),
                None => format!("{} has no name any more: it is {id}", before.device.label()),
            });
        }
    }
    let label = record.device.label();
    record.device.tags = new_tags(&before.device.tags, patch)?;
    if record.device.tags != before.device.tags {
        said.push(if record.device.tags.is_empty() {
            format!("{label} has no tags any more")
        } else {
            format!("{label} is now tagged {}", record.device.tags.join(", "))
        });
    }
    if let Some(profile) = &patch.profile {
        record.device.profile = policy::named(tx, profile)?;
    }
    if record.device.profile != before.device.profile {
        said.push(match &record.device.profile {
            Some(profile) => format!("{label} boots {profile} when nothing else is asked of it"),
            None => {
                format!("{label} has no profile of its own any more: the rules say what it boots")
            }
        });
    }
    if let Some(next) = &patch.next {
        record.device.next = policy::named(tx, next)?;
    }
    if record.device.next != before.device.next {
        said.push(match &record.device.next {
            Some(next) => format!("{label} boots {next} the next time, once"),
            None => format!("{label} boots the next time as ever"),
        });
    }
    if let Some(secure_boot) = patch.secure_boot
        && secure_boot != before.device.secure_boot
    {
        record.device.secure_boot = secure_boot;
        said.push(match secure_boot {
            true => format!("{label} is offered signed programs alone"),
            false => format!("{label} is offered programs that nobody signed"),
        });
    }
    if patch.profile.is_some() || patch.next.is_some() || patch.netboot.is_some() {
        record.device.tries = 0;
    }
    record.kept = true;
    tx.save(&record)?;
    for text in said {
        tx.keep(NewEvent::new(EventKind::Device, text).device(id), now)?;
    }
    if let Some(netboot) = patch.netboot {
        tx.set_netboot(id, netboot, "", now)?;
    }
    tx.refresh(id)
}

/// The name that a device may take; none where the text is empty.
fn new_name(tx: &Tx<'_>, device: DeviceId, name: &str) -> Result<Option<String>, Fault> {
    let name = name.trim();
    if name.is_empty() {
        return Ok(None);
    }
    check_word("name", name)?;
    // Whoever types it must always mean the same device.
    if name.parse::<DeviceId>().is_ok()
        || name.parse::<MacAddr>().is_ok()
        || name.parse::<Uuid>().is_ok()
    {
        return Err(Fault::Conflict(format!(
            "{name:?} looks like an id, a MAC address or a UUID: choose another name"
        )));
    }
    let text = "SELECT id FROM devices WHERE name = ?1 AND id <> ?2";
    if let Some(other) = first(tx.sql, text, (name, key(device.0)), |row| {
        id(row, "id").map(DeviceId)
    })? {
        return Err(Fault::Conflict(format!(
            "{other} is called {name:?} already: choose another name, or rename {other} first"
        )));
    }
    Ok(Some(name.to_owned()))
}

/// The tags after a change: sorted, each once.
fn new_tags(old: &[String], patch: &DevicePatch) -> Result<Vec<String>, Fault> {
    let mut tags = old.to_vec();
    for tag in &patch.add_tags {
        let tag = tag.trim();
        check_word("tag", tag)?;
        tags.push(tag.to_owned());
    }
    tags.retain(|tag| !patch.remove_tags.iter().any(|gone| gone.trim() == tag));
    tags.sort();
    tags.dedup();
    if tags.len() > TAGS {
        return Err(Fault::Conflict(format!(
            "a device has at most {TAGS} tags, and this would make {}: remove some first",
            tags.len()
        )));
    }
    Ok(tags)
}

fn check_word(kind: &str, word: &str) -> Result<(), Fault> {
    let good = (1..=LONGEST).contains(&word.chars().count())
        && !word.chars().any(|c| c.is_control() || c == ',');
    if good {
        return Ok(());
    }
    let shown: String = word.chars().take(LONGEST).collect();
    Err(Fault::Conflict(format!(
        "{shown:?} cannot be a {kind}: use 1 to {LONGEST} characters, none of them a comma or a \
         control character"
    )))
}
