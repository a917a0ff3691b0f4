//! Devices: how they are found, made, changed and forgotten.

use super::fault::Fault;
use super::identity::{identity, swapped, which};
use super::memory::{Effect, Touch};
use super::rows::{Json, Text, Word, execute, first, id, key, limit, list, mac, time, word};
use super::writer::Tx;
use crate::{Observed, Sighting};
use bugler_model::{
    Arch, Device, DeviceId, EventKind, Firmware, MacAddr, Netboot, NewEvent, Presence, Timestamp,
};
use rusqlite::{Connection, Row, named_params};
use std::sync::Arc;
use uuid::Uuid;

/// A device with what only the registry needs to know of it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) device: Device,
    /// Whether an agent has ever registered from it.
    pub(super) had_agent: bool,
    /// Whether an agent or an operator has ever had to do with it.
    pub(super) kept: bool,
}

/// How long after it was last heard an agent is taken to be running still, in milliseconds: three
/// heartbeats, as where it is marked as lost.
const ALIVE_MS: i64 = 30_000;

impl Record {
    /// Whether its agent runs now.
    pub(super) fn is_alive(&self, now: Timestamp) -> bool {
        self.had_agent
            && self.device.presence == Presence::Agent
            && now.millis_since(self.device.seen) <= ALIVE_MS
    }
}

const SELECT: &str = "SELECT *, (SELECT count(*) FROM tasks WHERE device = devices.id AND open = 1)
                      AS open_tasks FROM devices";

/// A device as its row says, without its MAC addresses.
fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let device = Device {
        id: DeviceId(id(row, "id")?),
        name: row.get("name")?,
        tags: row.get::<_, Json<_>>("tags")?.0,
        uuid: row.get::<_, Option<Text<_>>>("uuid")?.map(|t| t.0),
        macs: Vec::new(),
        arch: row.get::<_, Option<Word<_>>>("arch")?.map(|w| w.0),
        firmware: row.get::<_, Option<Word<_>>>("firmware")?.map(|w| w.0),
        netboot: row.get::<_, Word<_>>("netboot")?.0,
        profile: row.get::<_, Option<Text<_>>>("own_profile")?.map(|t| t.0),
        next: row.get::<_, Option<Text<_>>>("next_profile")?.map(|t| t.0),
        secure_boot: row.get("secure_boot")?,
        quirks: row.get::<_, Json<_>>("quirks")?.0,
        tries: row.get("tries")?,
        presence: row.get::<_, Word<_>>("presence")?.0,
        address: row.get::<_, Option<Text<_>>>("address")?.map(|t| t.0),
        inventory: row.get::<_, Option<Json<_>>>("inventory")?.map(|j| j.0),
        deployed: row.get::<_, Option<Json<_>>>("deployed")?.map(|j| j.0),
        created: time(row, "created")?,
        seen: time(row, "seen")?,
        open_tasks: row.get("open_tasks")?,
    };
    Ok(Record {
        device,
        had_agent: row.get("had_agent")?,
        kept: row.get("kept")?,
    })
}

fn macs(sql: &Connection, id: DeviceId) -> Result<Vec<MacAddr>, Fault> {
    let text = "SELECT mac FROM macs WHERE device = ?1 ORDER BY rank";
    list(sql, text, [key(id.0)], |row| mac(row, "mac"))
}

/// Every device, as the disk has them.
pub(super) fn all(sql: &Connection) -> Result<Vec<Device>, Fault> {
    let mut records = list(sql, SELECT, [], read)?;
    for record in &mut records {
        record.device.macs = macs(sql, record.device.id)?;
    }
    Ok(records.into_iter().map(|record| record.device).collect())
}

/// What is said of a device that is not there.
pub(super) fn no_device(id: DeviceId) -> Fault {
    Fault::NotFound(format!("device {id}"))
}

pub(super) fn owner_of_mac(sql: &Connection, mac: MacAddr) -> Result<Option<DeviceId>, Fault> {
    let text = "SELECT device FROM macs WHERE mac = ?1";
    first(sql, text, [mac.0], |row| id(row, "device").map(DeviceId))
}

pub(super) fn owner_of_uuid(sql: &Connection, uuid: Uuid) -> Result<Option<DeviceId>, Fault> {
    let text = "SELECT id FROM devices WHERE uuid = ?1";
    first(sql, text, [uuid.to_string()], |row| {
        id(row, "id").map(DeviceId)
    })
}

/// The device with this UUID, in whichever byte order.
fn owner_of_either_order(sql: &Connection, uuid: Option<Uuid>) -> Result<Option<DeviceId>, Fault> {
    let Some(uuid) = uuid else {
        return Ok(None);
    };
    match owner_of_uuid(sql, uuid)? {
        Some(id) => Ok(Some(id)),
        None => owner_of_uuid(sql, swapped(uuid)),
    }
}

impl Tx<'_> {
    /// A device as this transaction sees it.
    pub(super) fn record(&self, id: DeviceId) -> Result<Record, Fault> {
        let text = format!("{SELECT} WHERE id = ?1");
        let mut record = first(self.sql, &text, [key(id.0)], read)?.ok_or_else(|| no_device(id))?;
        record.device.macs = macs(self.sql, id)?;
        self.memory.overlay_device(&mut record.device);
        Ok(record)
    }

    /// The device as it is called now.
    pub(super) fn label(&self, id: DeviceId) -> Result<String, Fault> {
        let text = "SELECT name FROM devices WHERE id = ?1";
        let name: Option<Option<String>> =
            first(self.sql, text, [key(id.0)], |row| row.get("name"))?;
        Ok(name
            .ok_or_else(|| no_device(id))?
            .unwrap_or_else(|| id.to_string()))
    }

    /// Writes a device, all but its MAC addresses.
    pub(super) fn save(&self, record: &Record) -> Result<(), Fault> {
        let device = &record.device;
        execute(
            self.sql,
            "UPDATE devices SET name = :name, tags = :tags, uuid = :uuid, arch = :arch,
                 firmware = :firmware, netboot = :netboot, own_profile = :own_profile,
                 next_profile = :next_profile, secure_boot = :secure_boot, quirks = :quirks,
                 tries = :tries, presence = :presence, address = :address, inventory = :inventory,
                 deployed = :deployed, seen = :seen,
                 had_agent = :had_agent, kept = :kept
             WHERE id = :id",
            named_params! {
                ":id": key(device.id.0),
                ":name": device.name,
                ":tags": Json(&device.tags),
                ":uuid": device.uuid.map(Text),
                ":arch": device.arch.map(Word),
                ":firmware": device.firmware.map(Word),
                ":netboot": Word(device.netboot),
                ":own_profile": device.profile.as_ref().map(Text),
                ":next_profile": device.next.as_ref().map(Text),
                ":secure_boot": device.secure_boot,
                ":quirks": Json(&device.quirks),
                ":tries": device.tries,
                ":presence": Word(device.presence),
                ":address": device.address.map(Text),
                ":inventory": device.inventory.as_ref().map(Json),
                ":deployed": device.deployed.as_ref().map(Json),
                ":seen": device.seen.0,
                ":had_agent": record.had_agent,
                ":kept": record.kept,
            },
        )?;
        Ok(())
    }

    /// Writes a device's MAC addresses; each that was another device's becomes this one's.
    pub(super) fn save_macs(&self, id: DeviceId, macs: &[MacAddr]) -> Result<(), Fault> {
        execute(self.sql, "DELETE FROM macs WHERE device = ?1", [key(id.0)])?;
        for (rank, mac) in (0_i64..).zip(macs) {
            execute(
                self.sql,
                "INSERT OR REPLACE INTO macs (mac, device, rank) VALUES (?1, ?2, ?3)",
                (mac.0, key(id.0), rank),
            )?;
        }
        Ok(())
    }

    /// Makes memory see the device as it now is.
    pub(super) fn refresh(&mut self, id: DeviceId) -> Result<Arc<Device>, Fault> {
        let device = Arc::new(self.record(id)?.device);
        self.effect(Effect::Device(device.clone()));
        Ok(device)
    }

    /// Sets whether a device boots from the network, and says so where that is a change.
    pub(super) fn set_netboot(
        &mut self,
        id: DeviceId,
        netboot: Netboot,
        why: &str,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let text = "UPDATE devices SET netboot = ?2 WHERE id = ?1 AND netboot <> ?2";
        if execute(self.sql, text, (key(id.0), Word(netboot)))? > 0 {
            let text = netboot_sentence(&self.label(id)?, netboot, why);
            self.keep(NewEvent::new(EventKind::Device, text).device(id), now)?;
        }
        Ok(())
    }
}

fn netboot_sentence(label: &str, netboot: Netboot, why: &str) -> String {
    let what = match netboot {
        Netboot::On => "boots from the network from now on",
        Netboot::Off => "boots its local disk from now on",
        Netboot::Once => "boots from the network once more, then its local disk",
    };
    format!("{label} {what}{why}")
}

/// Puts what a client told of itself into what is known. `uuid` is the one it told, where that
/// can be an identity and is no other device's.
pub(super) fn absorb(
    device: &mut Device,
    seen: &Sighting,
    uuid: Option<Uuid>,
    most_macs: usize,
    now: Timestamp,
) {
    if device.macs.first() != Some(&seen.mac) {
        device.macs.retain(|mac| *mac != seen.mac);
        device.macs.insert(0, seen.mac);
        device.macs.truncate(most_macs);
    }
    // What an agent once found stands: firmware is known to send its UUID in another byte order.
    device.uuid = device.uuid.or(uuid);
    device.seen = device.seen.max(now);
    let Some(firmware) = seen.firmware else {
        device.arch = device.arch.or(seen.arch);
        return;
    };
    // iPXE that the firmware has loaded belongs to the boot that the firmware began.
    let chained = firmware.is_ipxe()
        && device.presence == Presence::Booting
        && device
            .firmware
            .is_some_and(|f| !f.is_ipxe() && f.is_uefi() == firmware.is_uefi());
    if !chained {
        device.firmware = Some(firmware);
        device.arch = seen.arch.or(device.arch);
    }
    device.presence = Presence::Booting;
}

/// See [`crate::Store::observe`].
pub(super) fn observe(tx: &mut Tx<'_>, seen: &Sighting, now: Timestamp) -> Result<Observed, Fault> {
    if !seen.mac.is_unicast() {
        return Err(Fault::Conflict(format!(
            "{} is no machine's own address: nothing is kept of what came from it",
            seen.mac
        )));
    }
    let uuid = identity(seen.uuid);
    let record = |id: Option<DeviceId>| id.map(|id| tx.record(id)).transpose();
    let by_mac = record(owner_of_mac(tx.sql, seen.mac)?)?;
    let by_uuid = record(owner_of_either_order(tx.sql, uuid)?)?;
    let free = uuid.filter(|_| by_uuid.is_none());
    let had_mac = by_mac.as_ref().map(|record| record.device.id);
    let (mac, namesake) = (by_mac.as_ref(), by_uuid.as_ref());
    let found = which(mac.map(|r| &r.device), namesake.map(|r| &r.device), uuid).map(|d| d.id);
    let known = [by_mac, by_uuid]
        .into_iter()
        .flatten()
        .find(|record| Some(record.device.id) == found)
        // An agent that runs now is not booting at the same time: this is another machine, whose
        // maker gave both one UUID.
        .filter(|record| found == had_mac || !record.is_alive(now));
    let Some(mut record) = known else {
        return discover(tx, seen, free, had_mac, now);
    };
    let id = record.device.id;
    let before = record.device.macs.clone();
    absorb(&mut record.device, seen, free, tx.limits.macs, now);
    if before != record.device.macs {
        tx.save_macs(id, &record.device.macs)?;
    }
    tx.save(&record)?;
    if let Some(other) = had_mac.filter(|other| *other != id) {
        tx.refresh(other)?;
    }
    let label = record.device.label();
    if before.contains(&seen.mac) {
        let text = format!("{label} asked to boot{}", as_what(seen));
        tx.tell(NewEvent::new(EventKind::Device, text).device(id), now);
    } else {
        let text = format!("{label} was seen with another interface, {}", seen.mac);
        tx.keep(NewEvent::new(EventKind::Device, text).device(id), now)?;
    }
    Ok(Observed {
        device: tx.refresh(id)?,
        new: false,
    })
}

fn as_what(seen: &Sighting) -> String {
    let firmware = seen.firmware.map(|firmware| firmware.to_string());
    let parts: Vec<String> = firmware
        .into_iter()
        .chain(seen.arch.map(|a| word(&a)))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    }
}

/// Makes a device of a client that nobody knows. `had_mac` is the device that had its MAC address
/// so far.
fn discover(
    tx: &mut Tx<'_>,
    seen: &Sighting,
    uuid: Option<Uuid>,
    had_mac: Option<DeviceId>,
    now: Timestamp,
) -> Result<Observed, Fault> {
    let id = insert(tx, uuid, seen.arch, seen.firmware, now)?;
    tx.save_macs(id, &[seen.mac])?;
    if let Some(other) = had_mac {
        tx.refresh(other)?;
    }
    let text = format!(
        "{id} was seen for the first time: {}{}",
        seen.mac,
        as_what(seen)
    );
    tx.keep(NewEvent::new(EventKind::Device, text).device(id), now)?;
    forget_strangers(tx, id, now)?;
    Ok(Observed {
        device: tx.refresh(id)?,
        new: true,
    })
}

/// Makes a device that has no MAC addresses yet.
pub(super) fn insert(
    tx: &Tx<'_>,
    uuid: Option<Uuid>,
    arch: Option<Arch>,
    firmware: Option<Firmware>,
    now: Timestamp,
) -> Result<DeviceId, Fault> {
    execute(
        tx.sql,
        "INSERT INTO devices (uuid, arch, firmware, netboot, presence, created, seen)
         VALUES (:uuid, :arch, :firmware, :netboot, :presence, :now, :now)",
        named_params! {
            ":uuid": uuid.map(Text),
            ":arch": arch.map(Word),
            ":firmware": firmware.map(Word),
            ":netboot": Word(Netboot::default()),
            ":presence": Word(Presence::default()),
            ":now": now.0,
        },
    )?;
    Ok(DeviceId(tx.sql.last_insert_rowid().unsigned_abs()))
}

/// Forgets the devices unheard of for longest, where there are too many of which only packets were
/// seen: whoever invents MAC addresses must not fill the disk.
fn forget_strangers(tx: &mut Tx<'_>, newest: DeviceId, now: Timestamp) -> Result<(), Fault> {
    let beyond = list(
        tx.sql,
        "SELECT id FROM devices WHERE kept = 0 AND id <> ?1
             AND id NOT IN (SELECT device FROM exports WHERE overlay = 'persistent')
         ORDER BY seen DESC, id DESC LIMIT -1 OFFSET ?2",
        (key(newest.0), limit(tx.limits.strangers.saturating_sub(1))),
        |row| id(row, "id").map(DeviceId),
    )?;
    for old in beyond {
        execute(tx.sql, "DELETE FROM devices WHERE id = ?1", [key(old.0)])?;
        tx.effect(Effect::DeviceGone(old));
        let text = format!("{old} was forgotten: too many devices are known by packets alone");
        tx.tell(NewEvent::new(EventKind::Device, text).device(old), now);
    }
    Ok(())
}

/// See [`crate::Store::remove_device`].
pub(super) fn remove(tx: &mut Tx<'_>, id: DeviceId, now: Timestamp) -> Result<(), Fault> {
    let device = tx.record(id)?.device;
    if let Some(task) = super::tasks::open_of(tx, id)?.first() {
        return Err(Fault::Conflict(format!(
            "{} has an open task, {}: cancel it first",
            device.label(),
            super::tasks::describe(task, &device.label()),
        )));
    }
    super::exports::device_is_free(tx, id)?;
    execute(tx.sql, "DELETE FROM devices WHERE id = ?1", [key(id.0)])?;
    tx.effect(Effect::DeviceGone(id));
    let text = format!("{} was removed", device.label());
    tx.keep(NewEvent::new(EventKind::Device, text).device(id), now)?;
    Ok(())
}

/// See [`crate::Store::set_presence`].
pub(super) fn set_presence(
    tx: &mut Tx<'_>,
    id: DeviceId,
    presence: Presence,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut record = tx.record(id)?;
    let changed = record.device.presence != presence;
    record.device.presence = presence;
    if presence != Presence::Lost {
        record.device.seen = record.device.seen.max(now);
    }
    tx.save(&record)?;
    if changed {
        let what = match presence {
            Presence::Booting => "is booting",
            Presence::Agent => "runs its agent",
            Presence::Local => "was told to boot its local disk, or to power off",
            Presence::Lost => "has gone silent: its agent is not heard any more",
        };
        let text = format!("{} {what}", record.device.label());
        tx.keep(NewEvent::new(EventKind::Device, text).device(id), now)?;
    }
    tx.refresh(id)?;
    Ok(())
}

/// Writes that a device was heard from.
pub(super) fn write_touch(sql: &Connection, id: DeviceId, touch: Touch) -> rusqlite::Result<()> {
    sql.prepare_cached(
        "UPDATE devices SET seen = max(seen, ?2), address = coalesce(?3, address) WHERE id = ?1",
    )?
    .execute((key(id.0), touch.seen.0, touch.address.map(Text)))?;
    Ok(())
}
