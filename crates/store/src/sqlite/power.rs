//! What switches devices.

use super::fault::Fault;
use super::rows::{Json, Word, execute, first, id, key, list};
use super::writer::Tx;
use bugler_model::{DeviceId, EventKind, NewEvent, PowerEntry, PowerRole, Timestamp};
use rusqlite::{Connection, Row, named_params};

fn read(row: &Row<'_>) -> rusqlite::Result<PowerEntry> {
    Ok(PowerEntry {
        device: DeviceId(id(row, "device")?),
        role: row.get::<_, Word<_>>("role")?.0,
        driver: row.get::<_, Json<_>>("driver")?.0,
        sealed: row.get("sealed")?,
        known: row.get("known")?,
    })
}

/// See [`crate::Store::power_entries`].
pub(super) fn entries(
    sql: &Connection,
    device: Option<DeviceId>,
) -> Result<Vec<PowerEntry>, Fault> {
    // `power` comes after `hard` in the alphabet, and is the one that is used first.
    let order = "ORDER BY device, role DESC";
    match device {
        None => list(
            sql,
            &format!("SELECT * FROM power_drivers {order}"),
            [],
            read,
        ),
        Some(device) => list(
            sql,
            &format!("SELECT * FROM power_drivers WHERE device = ?1 {order}"),
            [key(device.0)],
            read,
        ),
    }
}

/// See [`crate::Store::set_power`].
pub(super) fn set(tx: &mut Tx<'_>, entry: &PowerEntry, now: Timestamp) -> Result<(), Fault> {
    let mut record = tx.record(entry.device)?;
    execute(
        tx.sql,
        "INSERT INTO power_drivers (device, role, driver, sealed, known)
         VALUES (:device, :role, :driver, :sealed, :known)
         ON CONFLICT (device, role) DO UPDATE SET driver = excluded.driver,
             sealed = excluded.sealed, known = excluded.known",
        named_params! {
            ":device": key(entry.device.0),
            ":role": Word(entry.role),
            ":driver": Json(&entry.driver),
            ":sealed": entry.sealed,
            ":known": entry.known,
        },
    )?;
    if !record.kept {
        record.kept = true;
        tx.save(&record)?;
    }
    let label = record.device.label();
    let how = entry.driver.summary();
    let text = match entry.role {
        PowerRole::Power => format!("{label} is switched by {how} from now on"),
        PowerRole::Hard => format!("the power of {label} is cut by {how} from now on"),
    };
    tx.keep(
        NewEvent::new(EventKind::Power, text).device(entry.device),
        now,
    )?;
    tx.refresh(entry.device).map(drop)
}

/// See [`crate::Store::remove_power`].
pub(super) fn remove(
    tx: &mut Tx<'_>,
    device: DeviceId,
    role: PowerRole,
    now: Timestamp,
) -> Result<(), Fault> {
    let label = tx.label(device)?;
    let text = "DELETE FROM power_drivers WHERE device = ?1 AND role = ?2";
    if execute(tx.sql, text, (key(device.0), Word(role)))? == 0 {
        return Err(Fault::NotFound(format!(
            "driver with the role {role} of {label}"
        )));
    }
    let text = format!("{label} has no driver with the role {role} any more");
    tx.keep(NewEvent::new(EventKind::Power, text).device(device), now)?;
    Ok(())
}

/// See [`crate::Store::learn_power`].
pub(super) fn learn(tx: &mut Tx<'_>, entry: &PowerEntry) -> Result<(), Fault> {
    // Not where it was replaced meanwhile: what is known is of the one that was asked.
    let text = "SELECT * FROM power_drivers WHERE device = ?1 AND role = ?2";
    let stored = first(tx.sql, text, (key(entry.device.0), Word(entry.role)), read)?;
    if stored.is_none_or(|stored| stored.driver != entry.driver) {
        return Ok(());
    }
    execute(
        tx.sql,
        "UPDATE power_drivers SET known = ?3 WHERE device = ?1 AND role = ?2",
        (key(entry.device.0), Word(entry.role), &entry.known),
    )?;
    Ok(())
}
