//! Leases: one for each address.

use super::devices::owner_of_mac;
use super::fault::Fault;
use super::rows::{Word, execute, first, list, mac, time};
use super::writer::Tx;
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

/// See [`crate::Store::leases`].
pub(super) fn all(sql: &Connection) -> Result<Vec<Lease>, Fault> {
    list(sql, "SELECT * FROM leases ORDER BY address", [], read)
}

/// See [`crate::Store::commit_leases`]. An event says who has an address now, where that is new;
/// a renewal is none.
pub(super) fn commit(tx: &mut Tx<'_>, leases: &[Lease], now: Timestamp) -> Result<(), Fault> {
    for lease in leases {
        let address = lease.address.to_bits();
        let before: Option<(MacAddr, LeaseState)> = first(
            tx.sql,
            "SELECT mac, state FROM leases WHERE address = ?1",
            [address],
            |row| Ok((mac(row, "mac")?, row.get::<_, Word<_>>("state")?.0)),
        )?;
        execute(
            tx.sql,
            "INSERT OR REPLACE INTO leases (address, mac, client_id, hostname, state, expires)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (
                address,
                lease.mac.0,
                &lease.client_id,
                &lease.hostname,
                Word(lease.state),
                lease.expires.0,
            ),
        )?;
        if before != Some((lease.mac, lease.state)) {
            let mut event = NewEvent::new(EventKind::Lease, sentence(lease));
            event.device = owner_of_mac(tx.sql, lease.mac)?;
            tx.keep(event, now)?;
        }
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
