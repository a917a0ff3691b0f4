//! The parts that calls and answers are made of.

use super::{Call, MAX_HANDLE, MAX_NAME, Place, Special};
use crate::kinds::{Attributes, Kind, SetAttributes, SetTime, Status, Time};
use crate::xdr::{Reader, Writer, XdrError};

/// The handle that what any procedure but NULL is told begins with.
///
/// # Errors
/// Where there is none.
pub fn first_handle(arguments: &[u8]) -> Result<&[u8], XdrError> {
    handle(&mut Reader::new(arguments))
}

pub(super) fn handle<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], XdrError> {
    reader.opaque("a file handle", MAX_HANDLE)
}

pub(super) fn place<'a>(reader: &mut Reader<'a>) -> Result<Place<'a>, XdrError> {
    Ok(Place {
        folder: handle(reader)?,
        name: reader.opaque("a name", MAX_NAME)?,
    })
}

/// Folder and cookie. The verifier is not looked at: cookies stay good for ever.
pub(super) fn folder<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], u64), XdrError> {
    let (folder, cookie) = (handle(reader)?, reader.u64("a cookie")?);
    reader.u64("the verifier of a cookie")?;
    Ok((folder, cookie))
}

pub(super) fn number<T>(
    reader: &mut Reader<'_>,
    what: &'static str,
    known: impl Fn(u32) -> Option<T>,
) -> Result<T, XdrError> {
    let value = reader.u32(what)?;
    known(value).ok_or(XdrError::Value { what, value })
}

pub(super) fn time(reader: &mut Reader<'_>) -> Result<Time, XdrError> {
    Ok(Time {
        seconds: reader.u32("a time")?,
        nanoseconds: reader.u32("a time")?,
    })
}

pub(super) fn make_node<'a>(r: &mut Reader<'a>) -> Result<Call<'a>, XdrError> {
    let place = place(r)?;
    let kind = number(r, "kind of file", Kind::from_number)?;
    Ok(match kind {
        Kind::BlockDevice | Kind::CharDevice => {
            let set = set_attributes(r)?;
            let (major, minor) = (r.u32("a major number")?, r.u32("a minor number")?);
            Call::MakeNode(place, Special::Device(kind, major, minor), set)
        }
        Kind::Socket | Kind::Fifo => {
            let set = set_attributes(r)?;
            Call::MakeNode(place, Special::Plain(kind), set)
        }
        Kind::File | Kind::Folder | Kind::Symlink => {
            Call::MakeNode(place, Special::Other(kind), SetAttributes::default())
        }
    })
}

pub(super) fn set_attributes(r: &mut Reader<'_>) -> Result<SetAttributes, XdrError> {
    let what = "whether an attribute is set";
    let number = |r: &mut Reader<'_>| match r.bool(what)? {
        true => r.u32("an attribute").map(Some),
        false => Ok(None),
    };
    let (mode, user, group) = (number(r)?, number(r)?, number(r)?);
    let size = match r.bool(what)? {
        true => Some(r.u64("a size")?),
        false => None,
    };
    let set_time = |r: &mut Reader<'_>| match r.u32("how a time is set")? {
        0 => Ok(SetTime::Keep),
        1 => Ok(SetTime::Now),
        2 => time(r).map(SetTime::To),
        value => {
            let what = "way to set a time";
            Err(XdrError::Value { what, value })
        }
    };
    Ok(SetAttributes {
        mode,
        user,
        group,
        size,
        accessed: set_time(r)?,
        modified: set_time(r)?,
    })
}

pub(super) fn put_place(out: &mut Writer, place: &Place<'_>) {
    out.opaque(place.folder).opaque(place.name);
}

pub(super) fn put_set(out: &mut Writer, set: &SetAttributes) {
    for number in [set.mode, set.user, set.group] {
        out.bool(number.is_some());
        if let Some(number) = number {
            out.u32(number);
        }
    }
    out.bool(set.size.is_some());
    if let Some(size) = set.size {
        out.u64(size);
    }
    for time in [set.accessed, set.modified] {
        match time {
            SetTime::Keep => drop(out.u32(0)),
            SetTime::Now => drop(out.u32(1)),
            SetTime::To(time) => put_time(out.u32(2), time),
        }
    }
}

pub(super) fn put_time(out: &mut Writer, time: Time) {
    out.u32(time.seconds).u32(time.nanoseconds);
}

/// `fattr3`: 84 bytes.
pub fn put_attributes(out: &mut Writer, of: &Attributes) {
    out.u32(of.kind as u32).u32(of.mode & 0o7777).u32(of.links);
    out.u32(of.user).u32(of.group);
    out.u64(of.size).u64(of.used);
    out.u32(of.device.0).u32(of.device.1);
    // All exports are filesystems of their own for a client, so this says nothing.
    out.u64(0).u64(of.id);
    for time in [of.accessed, of.modified, of.changed] {
        put_time(out, time);
    }
}

/// Reads `fattr3`.
///
/// # Errors
/// Where it makes no sense.
pub fn read_attributes(r: &mut Reader<'_>) -> Result<Attributes, XdrError> {
    let kind = number(r, "kind of file", Kind::from_number)?;
    let [mode, links, user, group] = [(); 4].map(|()| r.u32("an attribute"));
    let (size, used) = (r.u64("a size")?, r.u64("a size")?);
    let device = (r.u32("a major number")?, r.u32("a minor number")?);
    r.u64("the number of a filesystem")?;
    Ok(Attributes {
        kind,
        mode: mode?,
        links: links?,
        user: user?,
        group: group?,
        size,
        used,
        device,
        id: r.u64("the number of a file")?,
        accessed: time(r)?,
        modified: time(r)?,
        changed: time(r)?,
    })
}

/// `post_op_attr`.
pub fn put_after(out: &mut Writer, of: Option<&Attributes>) {
    out.bool(of.is_some());
    if let Some(of) = of {
        put_attributes(out, of);
    }
}

/// `wcc_data`: what was, as far as a client compares it, and what is.
pub fn put_change(out: &mut Writer, before: Option<&Attributes>, after: Option<&Attributes>) {
    out.bool(before.is_some());
    if let Some(before) = before {
        out.u64(before.size);
        put_time(out, before.modified);
        put_time(out, before.changed);
    }
    put_after(out, after);
}

/// The number of a result: 0, or that of the status.
#[must_use]
pub fn status_number<T>(result: &Result<T, Status>) -> u32 {
    match result {
        Ok(_) => 0,
        Err(status) => *status as u32,
    }
}
