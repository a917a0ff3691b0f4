//! What diskless devices run from.

use super::fault::Fault;
use super::rows::{Text, Unsigned, Word, execute, first, id, key, list, time};
use super::writer::Tx;
use crate::{KnownExport, TokenHash};
use bugler_model::{
    DeviceId, EventKind, Export, ExportId, ExportProtocol, Image, ImageId, NewEvent, NewExport,
    Timestamp,
};
use rusqlite::{Connection, Row, named_params};

const COLUMNS: &str = "SELECT exports.*, images.name || '@' || images.version AS label,
    images.manifest AS manifest FROM exports JOIN images ON images.id = exports.image";

fn read(row: &Row<'_>) -> rusqlite::Result<KnownExport> {
    Ok(KnownExport {
        export: Export {
            id: ExportId(id(row, "id")?),
            device: DeviceId(id(row, "device")?),
            image: ImageId(id(row, "image")?),
            label: row.get("label")?,
            manifest: row.get("manifest")?,
            over: row.get::<_, Word<_>>("protocol")?.0,
            overlay: row.get::<_, Word<_>>("overlay")?.0,
            overlay_size: row.get::<_, Unsigned>("overlay_size")?.0,
            durable: row.get("durable")?,
            aoe_address: row.get::<_, Text<_>>("aoe_address")?.0,
            current: row.get("current")?,
            created: time(row, "created")?,
            booted: time(row, "booted")?,
        },
        token: TokenHash(row.get("token")?),
    })
}

/// See [`crate::Store::exports`].
pub(super) fn all(sql: &Connection) -> Result<Vec<KnownExport>, Fault> {
    let text = format!("{COLUMNS} ORDER BY exports.device, exports.booted DESC, exports.id DESC");
    list(sql, &text, [], read)
}

fn get(sql: &Connection, id: ExportId) -> Result<KnownExport, Fault> {
    let text = format!("{COLUMNS} WHERE exports.id = ?1");
    first(sql, &text, [key(id.0)], read)?.ok_or_else(|| Fault::NotFound(format!("export {id}")))
}

/// See [`crate::Store::begin_export`].
pub(super) fn begin(
    tx: &mut Tx<'_>,
    new: &NewExport,
    token: TokenHash,
    now: Timestamp,
) -> Result<Export, Fault> {
    let device = tx.record(new.device)?.device;
    if super::images::by_id(tx.sql, new.image)?.is_none() {
        return Err(Fault::NotFound(format!("image {}", new.image)));
    }
    execute(
        tx.sql,
        "UPDATE exports SET current = 0 WHERE device = ?1",
        [key(new.device.0)],
    )?;
    let text =
        "INSERT INTO exports (device, image, files, protocol, overlay, overlay_size, durable,
             aoe_address, current, token, created, booted)
         VALUES (:device, :image, :files, :protocol, :overlay, :overlay_size, :durable,
             :aoe_address, 1, :token, :now, :now)
         ON CONFLICT (device, image, files) DO UPDATE SET protocol = excluded.protocol,
             overlay = excluded.overlay, overlay_size = excluded.overlay_size,
             durable = excluded.durable, aoe_address = excluded.aoe_address, current = 1,
             token = excluded.token, booted = excluded.booted
         RETURNING id";
    let params = named_params! {
        ":device": key(new.device.0),
        ":image": key(new.image.0),
        ":files": new.over == ExportProtocol::Nfs,
        ":protocol": Word(new.over),
        ":overlay": Word(new.overlay),
        ":overlay_size": Unsigned(new.overlay_size),
        ":durable": new.durable,
        ":aoe_address": Text(new.aoe_address),
        ":token": token.0,
        ":now": now.0,
    };
    let made = first(tx.sql, text, params, |row| id(row, "id").map(ExportId))?;
    let made = made.ok_or_else(|| Fault::NotFound("the export that was just made".into()))?;
    let export = get(tx.sql, made)?.export;
    let text = format!(
        "{} runs {} over {} with a layer of its own ({}, {made})",
        device.label(),
        export.label,
        export.over,
        export.overlay
    );
    tx.keep(NewEvent::new(EventKind::Boot, text).device(new.device), now)?;
    Ok(export)
}

/// See [`crate::Store::remove_export`].
pub(super) fn remove(tx: &mut Tx<'_>, id: ExportId, now: Timestamp) -> Result<(), Fault> {
    let export = get(tx.sql, id)?.export;
    execute(tx.sql, "DELETE FROM exports WHERE id = ?1", [key(id.0)])?;
    let label = tx.label(export.device)?;
    let text = format!(
        "the layer of {label} on {} ({id}) was removed",
        export.label
    );
    tx.keep(
        NewEvent::new(EventKind::Device, text).device(export.device),
        now,
    )?;
    Ok(())
}

/// Why an image cannot be removed: layers stand on it.
pub(super) fn image_is_free(tx: &Tx<'_>, image: &Image) -> Result<(), Fault> {
    let text = "SELECT device FROM exports WHERE image = ?1 ORDER BY device";
    let devices = list(tx.sql, text, [key(image.id.0)], |row| {
        id(row, "device").map(DeviceId)
    })?;
    let Some(first) = devices.first() else {
        return Ok(());
    };
    let others = match devices.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    Err(Fault::Conflict(format!(
        "image {} lies under the layer of {}{others}: see `bugler overlay list`, and give those up \
         first (`bugler overlay reset`)",
        image.label(),
        tx.label(*first)?,
    )))
}

/// Why a device cannot be forgotten: it has a layer that is kept.
pub(super) fn device_is_free(tx: &Tx<'_>, device: DeviceId) -> Result<(), Fault> {
    let text = "SELECT id FROM exports WHERE device = ?1 AND overlay = 'persistent' LIMIT 1";
    let found = first(tx.sql, text, [key(device.0)], |row| {
        id(row, "id").map(ExportId)
    })?;
    match found {
        None => Ok(()),
        Some(export) => Err(Fault::Conflict(format!(
            "{} has a layer of its own that would be lost ({export}): give it up first (`bugler \
             overlay reset {device}`)",
            tx.label(device)?
        ))),
    }
}
