//! Values to columns and back. What a column holds is checked on its way in: a row that was
//! changed by hand gives an error, never a panic.

use super::fault::Fault;
use bugler_model::{MacAddr, Timestamp};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Params, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;

/// Runs one statement; returns how many rows it changed.
pub(super) fn execute(sql: &Connection, text: &str, params: impl Params) -> Result<usize, Fault> {
    Ok(sql.prepare_cached(text)?.execute(params)?)
}

/// The first row, if there is one.
pub(super) fn first<T>(
    sql: &Connection,
    text: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, Fault> {
    Ok(sql
        .prepare_cached(text)?
        .query_row(params, read)
        .optional()?)
}

/// Every row.
pub(super) fn list<T>(
    sql: &Connection,
    text: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Fault> {
    let mut statement = sql.prepare_cached(text)?;
    let rows = statement.query_map(params, read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A whole number that SQLite keeps as a signed one. An identifier beyond what it can keep names
/// no row: no row has a negative one.
pub(super) fn key(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(-1)
}

/// `LIMIT` for a count.
pub(super) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// One word for a value of a plain enumeration, as `serde` writes it.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

/// A value of a plain enumeration, kept as one word.
pub(super) struct Word<T>(pub(super) T);

impl<T: Serialize> ToSql for Word<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(word(&self.0).into())
    }
}

impl<T: DeserializeOwned> FromSql for Word<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let word = value.as_str()?;
        let read = StrDeserializer::<serde::de::value::Error>::new(word);
        T::deserialize(read).map(Self).map_err(FromSqlError::other)
    }
}

/// A structure, kept as JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        serde_json::to_string(&self.0)
            .map(ToSqlOutput::from)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }
}

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?)
            .map(Self)
            .map_err(FromSqlError::other)
    }
}

/// A value with a text form, kept as that.
pub(super) struct Text<T>(pub(super) T);

impl<T: std::fmt::Display> ToSql for Text<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.to_string().into())
    }
}

impl<T> FromSql for Text<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value
            .as_str()?
            .parse()
            .map(Self)
            .map_err(FromSqlError::other)
    }
}

/// A whole number that is never negative.
pub(super) struct Unsigned(pub(super) u64);

impl ToSql for Unsigned {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        i64::try_from(self.0)
            .map(ToSqlOutput::from)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }
}

impl FromSql for Unsigned {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u64::try_from(number)
            .map(Self)
            .map_err(|_| FromSqlError::OutOfRange(number))
    }
}

/// The number of an identifier's row.
pub(super) fn id(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    row.get::<_, Unsigned>(column).map(|n| n.0)
}

/// The number of an identifier's row, where there is one.
pub(super) fn optional_id(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<Unsigned>>(column)?.map(|n| n.0))
}

/// A time.
pub(super) fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp)
}

/// An Ethernet address.
pub(super) fn mac(row: &Row<'_>, column: &str) -> rusqlite::Result<MacAddr> {
    row.get(column).map(MacAddr)
}
