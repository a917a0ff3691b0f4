//! What the registry has to do with leases, which are kept in the [`leaselog`](crate::leaselog):
//! their events, and taking over those of an earlier version.

use super::devices::owner_of_mac;
use super::fault::Fault;
use super::rows::{Word, execute, list, mac, time};
use super::writer::Tx;
use crate::leaselog::Changes;
use bugler_model::{EventKind, Lease, LeaseState, MacAddr, NewEvent, Timestamp};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, Row};
use std::net::Ipv4Addr;

/// An address, kept as a number: the key of a lease is the number of its row.
struct Address(Ipv4Addr);

impl FromSql for Address {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u32::try_from(number)
            .map(|bits| Self(Ipv4Addr::from_bits(bits)))
            .map_err(|_| FromSqlError::OutOfRange(number))
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Lease> {
    Ok(Lease {
        address: row.get::<_, Address>("address")?.0,
        mac: mac(row, "mac")?,
        client_id: row.get("client_id")?,
        hostname: row.get("hostname")?,
        state: row.get::<_, Word<_>>("state")?.0,
        expires: time(row, "expires")?,
    })
}

/// The leases that an earlier version kept here.
pub(super) fn earlier(sql: &Connection) -> Result<Vec<Lease>, Fault> {
    list(sql, "SELECT * FROM leases ORDER BY address", [], read)
}

/// Removes them, once the lease log has them.
pub(super) fn forget_earlier(sql: &Connection) -> Result<(), Fault> {
    execute(sql, "DELETE FROM leases", []).map(drop)
}

/// Events of who has an address now, where that is new; a renewal is none.
pub(super) fn tell(tx: &mut Tx<'_>, changes: &Changes, now: Timestamp) -> Result<(), Fault> {
    for lease in &changes.leases {
        let mut event = NewEvent::new(EventKind::Lease, sentence(lease));
        event.device = owner_of_mac(tx.sql, lease.mac)?;
        tx.keep(event, now)?;
    }
    if changes.untold > 0 {
        let text = format!(
            "{} more addresses changed hands in the same moment: too many to be told one by one",
            changes.untold
        );
        tx.keep(NewEvent::new(EventKind::Lease, text), now)?;
    }
    Ok(())
}

fn sentence(lease: &Lease) -> String {
    let Lease {
        address,
        mac,
        hostname,
        state,
        ..
    } = lease;
    let who = match hostname {
        Some(name) => format!("{mac} ({name})"),
        None => mac.to_string(),
    };
    match state {
        LeaseState::Bound => format!("{address} was given to {who}"),
        LeaseState::Released => format!("{address} was given back by {who}"),
        LeaseState::Declined if *mac == MacAddr([0; 6]) => {
            format!("{address} is in use by somebody else: a probe was answered")
        }
        LeaseState::Declined => format!("{address} is in use by somebody else, says {who}"),
    }
}
