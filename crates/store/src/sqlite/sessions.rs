//! Boot sessions, and the tokens that were made for them.

use super::fault::Fault;
use super::memory::Effect;
use super::rows::{Json, Word, execute, first, id, key, limit, list, time};
use super::writer::Tx;
use crate::{AgentAuth, TokenHash};
use bugler_model::{
    BootSession, DeviceId, EventKind, Firmware, NewEvent, Outcome, Presence, SessionId, Stage,
    Timestamp,
};
use rusqlite::{Connection, Row};
use std::sync::Arc;

/// How many boots of a device back a boot token is good for.
const TOKEN_SESSIONS: i64 = 3;
/// Most boot tokens of one session: a firmware fetches its script once or twice.
const TOKENS: i64 = 16;

fn read(row: &Row<'_>) -> rusqlite::Result<BootSession> {
    Ok(BootSession {
        id: SessionId(id(row, "id")?),
        device: DeviceId(id(row, "device")?),
        firmware: row.get::<_, Option<Word<_>>>("firmware")?.map(|w| w.0),
        started: time(row, "started")?,
        stages: row.get::<_, Json<_>>("stages")?.0,
        outcome: row.get::<_, Word<_>>("outcome")?.0,
    })
}

/// Every open session.
pub(super) fn all_open(sql: &Connection) -> Result<Vec<BootSession>, Fault> {
    list(
        sql,
        "SELECT * FROM sessions WHERE outcome = 'open'",
        [],
        read,
    )
}

/// Every agent token.
pub(super) fn agent_tokens(sql: &Connection) -> Result<Vec<(TokenHash, AgentAuth)>, Fault> {
    list(sql, "SELECT * FROM agent_tokens", [], |row| {
        let device = DeviceId(id(row, "device")?);
        let session = SessionId(id(row, "session")?);
        Ok((TokenHash(row.get("hash")?), AgentAuth { device, session }))
    })
}

/// See [`crate::Store::sessions`].
pub(super) fn latest(
    sql: &Connection,
    device: DeviceId,
    most: usize,
) -> Result<Vec<BootSession>, Fault> {
    let text = "SELECT * FROM sessions WHERE device = ?1 ORDER BY id DESC LIMIT ?2";
    list(sql, text, (key(device.0), limit(most)), read)
}

/// See [`crate::Store::boot_token`].
pub(super) fn boot_token(
    sql: &Connection,
    token: TokenHash,
) -> Result<Option<(DeviceId, SessionId)>, Fault> {
    first(
        sql,
        "SELECT sessions.device, sessions.id
         FROM boot_tokens JOIN sessions ON sessions.id = boot_tokens.session
         WHERE boot_tokens.hash = ?1
           AND (SELECT count(*) FROM sessions AS later
                WHERE later.device = sessions.device AND later.id > sessions.id) < ?2",
        (token.0, TOKEN_SESSIONS),
        |row| Ok((DeviceId(id(row, "device")?), SessionId(id(row, "id")?))),
    )
}

impl Tx<'_> {
    pub(super) fn session(&self, session: SessionId) -> Result<BootSession, Fault> {
        first(
            self.sql,
            "SELECT * FROM sessions WHERE id = ?1",
            [key(session.0)],
            read,
        )?
        .ok_or_else(|| Fault::NotFound(format!("boot session {session}")))
    }

    /// Makes memory see the device's open session as it now is.
    pub(super) fn refresh_session(&mut self, device: DeviceId) -> Result<(), Fault> {
        let text = "SELECT * FROM sessions WHERE device = ?1 AND outcome = 'open'";
        let open = first(self.sql, text, [key(device.0)], read)?;
        self.effect(Effect::OpenSession(device, open.map(Arc::new)));
        Ok(())
    }

    /// Closes the device's open session, if it has one, as superseded.
    pub(super) fn supersede(&self, device: DeviceId) -> Result<(), Fault> {
        execute(
            self.sql,
            "UPDATE sessions SET outcome = ?2 WHERE device = ?1 AND outcome = 'open'",
            (key(device.0), Word(Outcome::Superseded)),
        )?;
        Ok(())
    }

    /// Drops the oldest sessions of a device beyond what is kept.
    pub(super) fn prune_sessions(&self, device: DeviceId) -> Result<(), Fault> {
        execute(
            self.sql,
            "DELETE FROM sessions WHERE device = ?1 AND id <=
                 (SELECT id FROM sessions WHERE device = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            (key(device.0), limit(self.limits.sessions)),
        )?;
        Ok(())
    }

    /// Writes a session's stages and outcome.
    pub(super) fn save_session(&self, session: &BootSession) -> Result<(), Fault> {
        execute(
            self.sql,
            "UPDATE sessions SET stages = ?2, outcome = ?3 WHERE id = ?1",
            (
                key(session.id.0),
                Json(&session.stages),
                Word(session.outcome),
            ),
        )?;
        Ok(())
    }
}

fn session_event(session: &BootSession, text: String) -> NewEvent {
    let mut event = NewEvent::new(EventKind::Boot, text).device(session.device);
    event.session = Some(session.id);
    event
}

/// See [`crate::Store::begin_session`].
pub(super) fn begin(
    tx: &mut Tx<'_>,
    device: DeviceId,
    firmware: Option<Firmware>,
    now: Timestamp,
) -> Result<SessionId, Fault> {
    let mut record = tx.record(device)?;
    tx.supersede(device)?;
    execute(
        tx.sql,
        "INSERT INTO sessions (device, firmware, started, outcome) VALUES (?1, ?2, ?3, ?4)",
        (
            key(device.0),
            firmware.map(Word),
            now.0,
            Word(Outcome::Open),
        ),
    )?;
    let session = tx.session(SessionId(tx.sql.last_insert_rowid().unsigned_abs()))?;
    tx.prune_sessions(device)?;
    record.device.firmware = firmware.or(record.device.firmware);
    record.device.presence = Presence::Booting;
    record.device.tries = record.device.tries.saturating_add(1);
    record.device.seen = record.device.seen.max(now);
    tx.save(&record)?;
    let firmware = firmware.map_or_else(String::new, |firmware| format!(" ({firmware})"));
    let text = format!("{} began to boot{firmware}", record.device.label());
    tx.keep(session_event(&session, text), now)?;
    tx.refresh_session(device)?;
    tx.refresh(device)?;
    Ok(session.id)
}

/// See [`crate::Store::reach_stage`].
pub(super) fn reach_stage(
    tx: &mut Tx<'_>,
    id: SessionId,
    stage: Stage,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut session = tx.session(id)?;
    if session.stages.iter().any(|(reached, _)| *reached == stage) {
        return Ok(());
    }
    session.stages.push((stage, now));
    tx.save_session(&session)?;
    let what = match stage {
        Stage::Dhcp => "asked for an address and a boot loader",
        Stage::Loader => "fetches its boot loader",
        Stage::Script => "asked what to boot",
        Stage::Kernel => "fetches the kernel",
        Stage::Initramfs => "fetches the initramfs",
        Stage::Start => "has the whole initramfs: its kernel starts",
        Stage::Agent => "runs its agent",
        Stage::Registered => "has registered",
        Stage::Local => "was told to boot its local disk",
    };
    let after = Seconds(now.millis_since(session.started));
    let text = format!(
        "{} {what} ({after} into its boot)",
        tx.label(session.device)?
    );
    tx.keep(session_event(&session, text), now)?;
    tx.refresh_session(session.device)
}

/// Milliseconds, shown as seconds.
pub(super) struct Seconds(pub(super) i64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tenths = self.0.max(0) / 100;
        write!(f, "{}.{} s", tenths / 10, tenths % 10)
    }
}

/// See [`crate::Store::end_session`].
pub(super) fn end(
    tx: &mut Tx<'_>,
    id: SessionId,
    outcome: Outcome,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut session = tx.session(id)?;
    let what = match outcome {
        Outcome::Open => {
            return Err(Fault::Conflict(format!(
                "boot session {id} cannot end as open: name how it ended"
            )));
        }
        Outcome::Registered => "its agent registered",
        Outcome::Local => "it was sent to its local disk",
        Outcome::Started => "it has everything that its profile boots",
        Outcome::Up => "its operating system called home",
        Outcome::Superseded => "another boot of it began",
    };
    // The first outcome stands.
    if session.outcome != Outcome::Open {
        return Ok(());
    }
    session.outcome = outcome;
    tx.save_session(&session)?;
    let after = Seconds(now.millis_since(session.started));
    let text = format!(
        "{}'s boot ended after {after}: {what}",
        tx.label(session.device)?
    );
    tx.keep(session_event(&session, text), now)?;
    tx.refresh_session(session.device)
}

/// See [`crate::Store::set_boot_token`].
pub(super) fn set_boot_token(
    tx: &mut Tx<'_>,
    id: SessionId,
    token: TokenHash,
) -> Result<(), Fault> {
    let session = tx.session(id)?;
    execute(
        tx.sql,
        "INSERT INTO boot_tokens (hash, session) VALUES (?1, ?2) ON CONFLICT (hash) DO NOTHING",
        (token.0, key(id.0)),
    )?;
    // Whoever fetches a script over and over must not fill the disk.
    execute(
        tx.sql,
        "DELETE FROM boot_tokens WHERE session = ?1 AND id <=
             (SELECT id FROM boot_tokens WHERE session = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        (key(id.0), TOKENS),
    )?;
    // Those that are too old to be good.
    execute(
        tx.sql,
        "DELETE FROM boot_tokens WHERE session IN
             (SELECT id FROM sessions WHERE device = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2)",
        (key(session.device.0), TOKEN_SESSIONS),
    )?;
    Ok(())
}

/// How many calls home of one device may be awaited, or remembered.
const PHONE_HOMES: i64 = 16;

/// See [`crate::Store::expect_phone_home`].
pub(super) fn expect_phone_home(
    tx: &mut Tx<'_>,
    device: DeviceId,
    token: TokenHash,
    now: Timestamp,
) -> Result<(), Fault> {
    tx.record(device)?;
    execute(
        tx.sql,
        "INSERT INTO phone_homes (hash, device, made) VALUES (?1, ?2, ?3)
             ON CONFLICT (hash) DO NOTHING",
        (token.0, key(device.0), now.0),
    )?;
    execute(
        tx.sql,
        "DELETE FROM phone_homes WHERE device = ?1 AND id <=
             (SELECT id FROM phone_homes WHERE device = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        (key(device.0), PHONE_HOMES),
    )?;
    Ok(())
}

/// See [`crate::Store::phone_home`].
pub(super) fn phone_home(
    tx: &mut Tx<'_>,
    token: TokenHash,
    now: Timestamp,
) -> Result<Option<DeviceId>, Fault> {
    let text = "SELECT device, called FROM phone_homes WHERE hash = ?1";
    let found: Option<(DeviceId, Option<i64>)> = first(tx.sql, text, [token.0], |row| {
        Ok((DeviceId(id(row, "device")?), row.get("called")?))
    })?;
    let Some((device, called)) = found else {
        return Ok(None);
    };
    // A call that is repeated, because its answer was lost, changes nothing.
    if called.is_some() {
        return Ok(Some(device));
    }
    execute(
        tx.sql,
        "UPDATE phone_homes SET called = ?2 WHERE hash = ?1",
        (token.0, now.0),
    )?;
    let text = "SELECT * FROM sessions WHERE device = ?1 ORDER BY id DESC LIMIT 1";
    let latest = first(tx.sql, text, [key(device.0)], read)?;
    // A boot that ended with its agent is the one before: firmware that starts the disk by itself
    // asks nobody.
    let its_boot = latest.filter(|session| {
        matches!(
            session.outcome,
            Outcome::Open | Outcome::Local | Outcome::Started
        )
    });
    let mut record = tx.record(device)?;
    let mut event = NewEvent::new(
        EventKind::Boot,
        format!(
            "{} is up: its operating system called home",
            record.device.label()
        ),
    )
    .device(device);
    if let Some(mut session) = its_boot {
        event.session = Some(session.id);
        session.outcome = Outcome::Up;
        tx.save_session(&session)?;
        tx.refresh_session(device)?;
    }
    record.device.presence = Presence::Local;
    record.device.tries = 0;
    record.device.seen = record.device.seen.max(now);
    tx.save(&record)?;
    tx.keep(event, now)?;
    tx.refresh(device)?;
    Ok(Some(device))
}
