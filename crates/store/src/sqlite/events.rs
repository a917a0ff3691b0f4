//! Events: kept in order, told to listeners once they are true.

use super::fault::Fault;
use super::memory::Effect;
use super::rows::{Word, execute, id, key, limit, list, optional_id, time};
use super::writer::Tx;
use crate::EventFilter;
use bugler_model::{
    DeviceId, Event, EventId, EventKind, ImageId, NewEvent, SessionId, TaskId, Timestamp,
};
use rusqlite::{Connection, Row, named_params};
use std::sync::Arc;

/// Longest text of an event, in characters.
const TEXT: usize = 1000;
/// How many of the oldest events go in one transaction, and how often it is looked.
const PRUNE: u64 = 256;

/// The text as it may be shown: one line, not too long. It may come from a machine on the network.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .take(TEXT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// The event, numbered and with its text cut.
pub(super) fn event(id: EventId, new: NewEvent, at: Timestamp) -> Event {
    let NewEvent {
        kind,
        device,
        session,
        task,
        image,
        text,
    } = new;
    Event {
        id,
        at,
        kind,
        device,
        session,
        task,
        image,
        text: one_line(&text),
    }
}

impl Tx<'_> {
    /// Keeps an event and tells it once this is committed.
    pub(super) fn keep(&mut self, new: NewEvent, now: Timestamp) -> Result<Arc<Event>, Fault> {
        let mut event = event(EventId(0), new, now);
        execute(
            self.sql,
            "INSERT INTO events (at, kind, device, session, task, image, text)
             VALUES (:at, :kind, :device, :session, :task, :image, :text)",
            named_params! {
                ":at": event.at.0,
                ":kind": Word(event.kind),
                ":device": event.device.map(|id| key(id.0)),
                ":session": event.session.map(|id| key(id.0)),
                ":task": event.task.map(|id| key(id.0)),
                ":image": event.image.map(|id| key(id.0)),
                ":text": event.text,
            },
        )?;
        event.id = EventId(self.sql.last_insert_rowid().unsigned_abs());
        if event.id.0.is_multiple_of(PRUNE.min(self.limits.events)) {
            self.prune_events(event.id)?;
        }
        let event = Arc::new(event);
        self.effect(Effect::Event(event.clone()));
        Ok(event)
    }

    /// Tells an event that is not kept, once this is committed.
    pub(super) fn tell(&mut self, new: NewEvent, now: Timestamp) {
        self.effect(Effect::Event(Arc::new(event(EventId(0), new, now))));
    }

    /// Drops the oldest events beyond what is kept, a few at a time: looked at once for every
    /// [`PRUNE`] new ones and taking twice as many, so that it catches up.
    fn prune_events(&self, newest: EventId) -> Result<(), Fault> {
        let beyond = key(newest.0.saturating_sub(self.limits.events));
        execute(
            self.sql,
            "DELETE FROM events
             WHERE id <= ?1 AND id < (SELECT min(id) FROM events) + ?2",
            (beyond, key(2 * PRUNE)),
        )?;
        Ok(())
    }
}

/// See [`crate::Store::append_event`].
pub(super) fn append(tx: &mut Tx<'_>, new: NewEvent, now: Timestamp) -> Result<Event, Fault> {
    if new.kind == EventKind::Progress {
        let event = event(EventId(0), new, now);
        tx.effect(Effect::Event(Arc::new(event.clone())));
        return Ok(event);
    }
    tx.keep(new, now).map(|event| (*event).clone())
}

/// See [`crate::Store::events`].
pub(super) fn filtered(sql: &Connection, filter: &EventFilter) -> Result<Vec<Event>, Fault> {
    let columns = "id, at, kind, device, session, task, image, text";
    let order = if filter.after.is_some() {
        "ASC"
    } else {
        "DESC"
    };
    let device = if filter.device.is_some() {
        "device = :device"
    } else {
        ":device IS NULL"
    };
    let mut events = list(
        sql,
        &format!(
            "SELECT {columns} FROM events
             WHERE id > :after AND {device} AND (:kind IS NULL OR kind = :kind)
             ORDER BY id {order} LIMIT :limit"
        ),
        named_params! {
            ":after": filter.after.map_or(0, |id| i64::try_from(id.0).unwrap_or(i64::MAX)),
            ":device": filter.device.map(|id| key(id.0)),
            ":kind": filter.kind.map(Word),
            ":limit": limit(filter.limit),
        },
        read,
    )?;
    if filter.after.is_none() {
        events.reverse();
    }
    Ok(events)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: EventId(id(row, "id")?),
        at: time(row, "at")?,
        kind: row.get::<_, Word<_>>("kind")?.0,
        device: optional_id(row, "device")?.map(DeviceId),
        session: optional_id(row, "session")?.map(SessionId),
        task: optional_id(row, "task")?.map(TaskId),
        image: optional_id(row, "image")?.map(ImageId),
        text: row.get("text")?,
    })
}
