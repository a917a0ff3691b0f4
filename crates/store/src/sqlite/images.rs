//! Images: names for what is in the chunk store.

use super::fault::Fault;
use super::rows::{Json, Text, Unsigned, Word, execute, first, id, key, list, time};
use super::writer::Tx;
use bugler_model::{EventKind, Image, ImageId, ImageState, NewEvent, NewImage, TaskId, Timestamp};
use rusqlite::{Connection, Row, named_params};

fn read(row: &Row<'_>) -> rusqlite::Result<Image> {
    Ok(Image {
        id: ImageId(id(row, "id")?),
        name: row.get::<_, Text<_>>("name")?.0,
        version: row.get("version")?,
        note: row.get("note")?,
        origin: row.get::<_, Option<Json<_>>>("origin")?.map(|j| j.0),
        manifest: row.get("manifest")?,
        size: row.get::<_, Unsigned>("size")?.0,
        used: row.get::<_, Unsigned>("used")?.0,
        stored: row.get::<_, Unsigned>("stored")?.0,
        sector_size: row.get("sector_size")?,
        state: row.get::<_, Word<_>>("state")?.0,
        created: time(row, "created")?,
    })
}

/// See [`crate::Store::images`].
pub(super) fn all(sql: &Connection) -> Result<Vec<Image>, Fault> {
    list(
        sql,
        "SELECT * FROM images ORDER BY name, version DESC",
        [],
        read,
    )
}

pub(super) fn by_id(sql: &Connection, id: ImageId) -> Result<Option<Image>, Fault> {
    first(sql, "SELECT * FROM images WHERE id = ?1", [key(id.0)], read)
}

/// The version of `name` that is meant; the latest where none is.
fn by_name(sql: &Connection, name: &str, version: Option<u32>) -> Result<Option<Image>, Fault> {
    let text = "SELECT * FROM images WHERE name = ?1 AND version = ifnull(?2, version)
                ORDER BY version DESC LIMIT 1";
    first(sql, text, (name, version), read)
}

/// See [`crate::Store::image`]. No image is called like an id, and no name has an `@`.
pub(super) fn find(sql: &Connection, text: &str) -> Result<Image, Fault> {
    let found = match (text.parse(), text.split_once('@')) {
        (Ok(id), _) => by_id(sql, id)?,
        (Err(_), None) => by_name(sql, text, None)?,
        (Err(_), Some((name, version))) => match version.parse() {
            Ok(version) => by_name(sql, name, Some(version))?,
            Err(_) => None,
        },
    };
    found.ok_or_else(|| Fault::NotFound(format!("image {text:?}")))
}

fn image_event(image: &Image, text: String) -> NewEvent {
    let mut event = NewEvent::new(EventKind::Image, text);
    event.image = Some(image.id);
    event
}

/// See [`crate::Store::add_image`].
pub(super) fn add(tx: &mut Tx<'_>, new: NewImage, now: Timestamp) -> Result<Image, Fault> {
    // Whoever types it must always mean the same image.
    if new.name.as_str().parse::<ImageId>().is_ok() {
        return Err(Fault::Conflict(format!(
            "{:?} looks like an image's id: choose another name",
            new.name.as_str()
        )));
    }
    let text = "INSERT INTO image_versions (name, last) VALUES (?1, 1)
                ON CONFLICT (name) DO UPDATE SET last = last + 1 RETURNING last";
    let version: Option<u32> = first(tx.sql, text, [new.name.as_str()], |row| row.get("last"))?;
    execute(
        tx.sql,
        "INSERT INTO images (name, version, note, origin, manifest, size, used, stored, sector_size,
             state, created)
         VALUES (:name, :version, :note, :origin, :manifest, :size, :used, :stored, :sector_size,
             :state, :now)",
        named_params! {
            ":name": Text(&new.name),
            ":version": version,
            ":note": new.note,
            ":origin": new.origin.as_ref().map(Json),
            ":manifest": new.manifest,
            ":size": Unsigned(new.size),
            ":used": Unsigned(new.used),
            ":stored": Unsigned(new.stored),
            ":sector_size": new.sector_size,
            ":state": Word(ImageState::Good),
            ":now": now.0,
        },
    )?;
    let id = ImageId(tx.sql.last_insert_rowid().unsigned_abs());
    let image = get(tx, id)?;
    let text = format!(
        "image {} ({id}) was added: {} MB, {} MB of them used",
        image.label(),
        image.size / 1_000_000,
        image.used / 1_000_000
    );
    tx.keep(image_event(&image, text), now)?;
    Ok(image)
}

fn get(tx: &Tx<'_>, id: ImageId) -> Result<Image, Fault> {
    by_id(tx.sql, id)?.ok_or_else(|| Fault::NotFound(format!("image {id}")))
}

/// See [`crate::Store::remove_image`].
pub(super) fn remove(tx: &mut Tx<'_>, id: ImageId, now: Timestamp) -> Result<(), Fault> {
    let image = get(tx, id)?;
    let text = "SELECT id FROM tasks WHERE open = 1 AND image = ?1 ORDER BY id";
    let task = first(tx.sql, text, [key(id.0)], |row| {
        super::rows::id(row, "id").map(TaskId)
    })?;
    if let Some(task) = task {
        return Err(Fault::Conflict(format!(
            "image {} is needed by task {task}: wait for it, or cancel it first",
            image.label()
        )));
    }
    super::exports::image_is_free(tx, &image)?;
    execute(tx.sql, "DELETE FROM images WHERE id = ?1", [key(id.0)])?;
    let text = format!("image {} ({id}) was removed", image.label());
    tx.keep(image_event(&image, text), now)?;
    Ok(())
}

/// See [`crate::Store::set_image_note`].
pub(super) fn set_note(
    tx: &mut Tx<'_>,
    id: ImageId,
    note: String,
    now: Timestamp,
) -> Result<Image, Fault> {
    let mut image = get(tx, id)?;
    if image.note == note {
        return Ok(image);
    }
    execute(
        tx.sql,
        "UPDATE images SET note = ?2 WHERE id = ?1",
        (key(id.0), &note),
    )?;
    image.note = note;
    let text = format!("the note of image {} ({id}) was changed", image.label());
    tx.keep(image_event(&image, text), now)?;
    Ok(image)
}

/// See [`crate::Store::set_image_state`].
pub(super) fn set_state(
    tx: &mut Tx<'_>,
    id: ImageId,
    state: ImageState,
    now: Timestamp,
) -> Result<(), Fault> {
    let image = get(tx, id)?;
    if image.state == state {
        return Ok(());
    }
    execute(
        tx.sql,
        "UPDATE images SET state = ?2 WHERE id = ?1",
        (key(id.0), Word(state)),
    )?;
    let text = match state {
        ImageState::Good => format!("image {} ({id}) is whole", image.label()),
        ImageState::Damaged => {
            format!(
                "image {} ({id}) is damaged: it is not deployed any more",
                image.label()
            )
        }
    };
    tx.keep(image_event(&image, text), now)?;
    Ok(())
}
