//! An agent introduces itself: which machine it runs on, and what that machine is made of.

use super::devices::{self, Record, owner_of_mac, owner_of_uuid};
use super::fault::Fault;
use super::identity::{agent_uuid, identity, same};
use super::memory::Effect;
use super::rows::{Word, execute, key};
use super::writer::Tx;
use crate::{AgentAuth, Registration};
use bugler_model::{
    Device, DeviceId, EventKind, Inventory, MacAddr, Netboot, NewEvent, Outcome, Presence,
    ProfileName, Stage, Timestamp,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// See [`crate::Store::register`].
///
/// The UUID that an agent read from SMBIOS says most: see [`which_machine`].
pub(super) fn register(
    tx: &mut Tx<'_>,
    registration: &Registration,
    now: Timestamp,
) -> Result<Arc<Device>, Fault> {
    let Registration {
        device: asked,
        session,
        boot_mac,
        address,
        inventory,
        agent_token,
    } = registration;
    let asked = tx.record(*asked)?;
    let mut boot = tx.session(*session)?;
    if boot.device != asked.device.id {
        return Err(Fault::NotFound(format!(
            "boot session {session} of device {}",
            asked.device.id
        )));
    }

    let uuid = identity(inventory.uuid);
    let found = found_macs(*boot_mac, inventory);
    let mut others: BTreeSet<DeviceId> = BTreeSet::new();
    for mac in &found {
        others.extend(owner_of_mac(tx.sql, *mac)?);
    }
    others.insert(asked.device.id);
    let Machine {
        record: mut machine,
        uuid,
        namesake,
    } = which_machine(tx, asked, uuid, &found, now)?;
    let id = machine.device.id;
    others.extend(namesake);
    others.remove(&id);

    // First: there is room for one open session a device.
    if boot
        .stages
        .iter()
        .all(|(stage, _)| *stage != Stage::Registered)
    {
        boot.stages.push((Stage::Registered, now));
    }
    if boot.outcome == Outcome::Open {
        boot.outcome = Outcome::Registered;
    }
    tx.save_session(&boot)?;
    if boot.device != id {
        execute(
            tx.sql,
            "UPDATE sessions SET device = ?2 WHERE id = ?1",
            (key(boot.id.0), key(id.0)),
        )?;
    }
    // What this machine had begun before is not what its agent came up in.
    execute(
        tx.sql,
        "UPDATE sessions SET outcome = ?3 WHERE device = ?1 AND id < ?2 AND outcome = 'open'",
        (key(id.0), key(boot.id.0), Word(Outcome::Superseded)),
    )?;

    let mut macs = found.clone();
    macs.extend(&machine.device.macs);
    for other in others {
        let other = tx.record(other)?;
        if other.had_agent {
            rob(tx, &other, &found)?;
        } else {
            macs.extend(&other.device.macs);
            merge(tx, other, &mut machine, now)?;
        }
    }
    machine.device.macs = first_of_each(macs, tx.limits.macs);
    tx.save_macs(id, &machine.device.macs)?;

    machine.had_agent = true;
    machine.kept = true;
    machine.device.uuid = uuid;
    machine.device.inventory = Some(inventory.clone());
    machine.device.address = address.or(machine.device.address);
    machine.device.presence = Presence::Agent;
    machine.device.seen = machine.device.seen.max(now);
    machine.device.tries = 0;
    // The agent was what it was to boot this once.
    machine
        .device
        .next
        .take_if(|next| *next == ProfileName::agent());
    tx.save(&machine)?;
    let text = format!(
        "{} registered: {}",
        machine.device.label(),
        summary(inventory)
    );
    let mut event = NewEvent::new(EventKind::Device, text).device(id);
    event.session = Some(boot.id);
    tx.keep(event, now)?;
    if machine.device.netboot == Netboot::Once {
        tx.set_netboot(
            id,
            Netboot::Off,
            ": it has booted from the network this once",
            now,
        )?;
    }

    execute(
        tx.sql,
        "INSERT INTO agent_tokens (device, hash, session) VALUES (?1, ?2, ?3)
         ON CONFLICT (device) DO UPDATE SET hash = excluded.hash, session = excluded.session",
        (key(id.0), agent_token.0, key(boot.id.0)),
    )?;
    tx.effect(Effect::AgentToken(
        *agent_token,
        AgentAuth {
            device: id,
            session: boot.id,
        },
    ));
    tx.prune_sessions(id)?;
    tx.refresh_session(id)?;
    tx.refresh(id)
}

/// Whose registration it is.
struct Machine {
    record: Record,
    /// The UUID that is this device's identity from now on.
    uuid: Option<Uuid>,
    /// Another device that had this UUID, and is a part of this machine or this machine itself.
    namesake: Option<DeviceId>,
}

/// Which machine it is that booted as `asked`, and whose agent read `uuid`.
///
/// - Another device with that UUID: this is that machine, booted from a new or borrowed interface.
///   Where nothing but packets were seen of the other, it is `asked` and the other a part of it.
/// - But where the other runs now and has none of these interfaces, the two are twins: machines
///   whose maker gave both one UUID. They stay apart, and it identifies the other one only.
/// - Where an agent of `asked` has read another UUID, this is not that machine, but one that
///   borrows its interface; nothing that `asked` is to do is for it.
fn which_machine(
    tx: &mut Tx<'_>,
    asked: Record,
    uuid: Option<Uuid>,
    found: &[MacAddr],
    now: Timestamp,
) -> Result<Machine, Fault> {
    let known_as = agent_uuid(&asked.device);
    let Some(uuid) = uuid else {
        return Ok(Machine {
            uuid: asked.device.uuid,
            record: asked,
            namesake: None,
        });
    };
    let is_itself = known_as.is_some_and(|known| same(known, uuid));
    let borrows = known_as.is_some() && !is_itself;
    let namesake = match owner_of_uuid(tx.sql, uuid)? {
        Some(id) if id != asked.device.id => Some(tx.record(id)?),
        _ => None,
    };
    let twin = namesake.as_ref().filter(|other| {
        // Once told apart, they stay apart when one of them is off.
        other.had_agent && (is_itself || other.is_alive(now) && !shares(&other.device, found))
    });
    if let Some(twin) = twin {
        let twin = twin.device.label();
        let record = if borrows {
            split(tx, &asked, now)?
        } else {
            asked
        };
        if !is_itself {
            let text = format!(
                "{} and {twin} are two machines with one UUID, {uuid}: they are told apart by \
                 their interfaces",
                record.device.label()
            );
            let event = NewEvent::new(EventKind::Device, text).device(record.device.id);
            tx.keep(event, now)?;
        }
        return Ok(Machine {
            record,
            uuid: None,
            namesake: None,
        });
    }
    let id = namesake.as_ref().map(|record| record.device.id);
    let record = match namesake {
        Some(record) if record.had_agent || borrows => record,
        _ if borrows => split(tx, &asked, now)?,
        _ => asked,
    };
    Ok(Machine {
        record,
        uuid: Some(uuid),
        namesake: id,
    })
}

/// Whether the device's agent last found one of these interfaces.
fn shares(device: &Device, found: &[MacAddr]) -> bool {
    let nics = device
        .inventory
        .iter()
        .flat_map(|inventory| &inventory.nics);
    nics.into_iter().any(|nic| found.contains(&nic.mac))
}

/// A new device for a machine that booted from an interface of `asked`.
fn split(tx: &mut Tx<'_>, asked: &Record, now: Timestamp) -> Result<Record, Fault> {
    let device = &asked.device;
    let id = devices::insert(tx, None, device.arch, device.firmware, now)?;
    let text = format!(
        "{id} is a new machine: it booted from an interface that was in {} before, and has \
         another UUID",
        device.label()
    );
    tx.keep(NewEvent::new(EventKind::Device, text).device(id), now)?;
    tx.record(id)
}

/// The addresses that an agent found, the one it booted from first.
fn found_macs(boot_mac: MacAddr, inventory: &Inventory) -> Vec<MacAddr> {
    let nics = inventory.nics.iter().map(|nic| nic.mac);
    std::iter::once(boot_mac)
        .chain(nics)
        .filter(MacAddr::is_unicast)
        .collect()
}

/// Each address once, in the order of their first.
fn first_of_each(macs: Vec<MacAddr>, most: usize) -> Vec<MacAddr> {
    let mut seen = BTreeSet::new();
    macs.into_iter()
        .filter(|mac| seen.insert(*mac))
        .take(most)
        .collect()
}

/// Takes addresses from a device that has had an agent of its own: an interface moved.
fn rob(tx: &mut Tx<'_>, from: &Record, found: &[MacAddr]) -> Result<(), Fault> {
    let mut macs = from.device.macs.clone();
    macs.retain(|mac| !found.contains(mac));
    tx.save_macs(from.device.id, &macs)?;
    tx.refresh_session(from.device.id)?;
    tx.refresh(from.device.id)?;
    Ok(())
}

/// Makes `from`, of which nothing but another interface was ever seen, a part of `into`.
fn merge(tx: &mut Tx<'_>, from: Record, into: &mut Record, now: Timestamp) -> Result<(), Fault> {
    let (old, new) = (from.device.id, into.device.id);
    tx.supersede(old)?;
    for text in [
        "UPDATE sessions SET device = ?2 WHERE device = ?1",
        "UPDATE tasks SET device = ?2 WHERE device = ?1",
        "UPDATE phone_homes SET device = ?2 WHERE device = ?1",
        "UPDATE OR IGNORE exports SET device = ?2, current = 0 WHERE device = ?1",
        "UPDATE OR IGNORE power_drivers SET device = ?2 WHERE device = ?1",
        "UPDATE events SET device = ?2 WHERE device = ?1",
    ] {
        execute(tx.sql, text, (key(old.0), key(new.0)))?;
    }
    execute(tx.sql, "DELETE FROM devices WHERE id = ?1", [key(old.0)])?;
    tx.effect(Effect::DeviceGone(old));

    let was = from.device.label();
    if from.kept && !into.kept {
        // What an operator set of it, they set of this machine.
        into.device.netboot = from.device.netboot;
        into.device.profile = from.device.profile;
        into.device.next = from.device.next;
        into.device.secure_boot = from.device.secure_boot;
    }
    into.kept |= from.kept;
    into.device.name = into.device.name.take().or(from.device.name);
    into.device.tags.extend(from.device.tags);
    into.device.tags.sort();
    into.device.tags.dedup();
    into.device.arch = into.device.arch.or(from.device.arch);
    into.device.firmware = into.device.firmware.or(from.device.firmware);
    into.device.created = into.device.created.min(from.device.created);
    let mut open = super::tasks::open_of(tx, new)?.into_iter();
    let first = open.next();
    for task in open {
        // Two machines were each to do something; of one machine, the first order stands.
        let why = format!("{was} and {new} are one machine, which has an earlier task");
        super::tasks::cancel(tx, task.id, &why, now)?;
    }
    if let Some(task) = first {
        tx.effect(Effect::Task(Box::new(task)));
    }
    let text = format!(
        "{was} was another interface of {}: the two are one now",
        new
    );
    tx.keep(NewEvent::new(EventKind::Device, text).device(new), now)?;
    Ok(())
}

/// A machine in a few words.
fn summary(inventory: &Inventory) -> String {
    let named = [&inventory.vendor, &inventory.model].into_iter().flatten();
    let mut parts: Vec<String> = Vec::new();
    let name = named.map(String::as_str).collect::<Vec<_>>().join(" ");
    if !name.is_empty() {
        parts.push(name);
    }
    parts.push(format!("{} threads", inventory.cpu.threads));
    parts.push(format!("{} MiB of memory", inventory.memory >> 20));
    parts.push(count(inventory.disks.len(), "disk"));
    parts.push(count(inventory.nics.len(), "wired interface"));
    parts.join(", ")
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
