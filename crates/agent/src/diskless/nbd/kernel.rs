//! The kernel's NBD driver by netlink (`linux/nbd-netlink.h`): a device out of a socket.
//!
//! A device that was made in this way outlives the program that made it. While its connection is dead,
//! reads and writes wait, for as long as was said when it was made.

use super::genl::{Attributes, Family};
use super::packet::Export;
use rustix::fd::{AsFd, AsRawFd};
use std::io;
use std::time::Duration;

const NAME: &str = "nbd";
const VERSION: u8 = 1;

const CMD_CONNECT: u8 = 1;
const CMD_DISCONNECT: u8 = 2;
const CMD_RECONFIGURE: u8 = 3;

const ATTR_INDEX: u16 = 1;
const ATTR_SIZE_BYTES: u16 = 2;
const ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const ATTR_TIMEOUT: u16 = 4;
const ATTR_SERVER_FLAGS: u16 = 5;
const ATTR_SOCKETS: u16 = 7;
const ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

/// How long a request may take before its connection counts as dead and it is sent again on another.
/// Requests that were under way when a server ended wait this long too.
const REQUEST: Duration = Duration::from_secs(20);

/// How long reads and writes wait for another connection: until the machine is switched off.
const NO_CONNECTION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Block size where a server does not insist on a larger one, in bytes: that of the disks whose
/// partition tables are in images.
const BLOCK: u32 = 512;

/// Largest block size that the driver takes, in bytes: a page.
const MAX_BLOCK: u32 = 4096;

/// Makes a device of `export` out of a connection and returns its number.
///
/// # Errors
/// What the kernel answers; `ENOENT` where it has no driver.
pub(crate) fn connect(socket: impl AsFd, export: Export) -> io::Result<u32> {
    if export.min_block > MAX_BLOCK {
        return Err(io::Error::other(format!(
            "the server wants blocks of {} bytes at least, and the driver has {MAX_BLOCK} at most",
            export.min_block
        )));
    }
    let attributes = sockets(Attributes::default(), socket)?
        .u64(ATTR_SIZE_BYTES, export.size)
        .u64(ATTR_BLOCK_SIZE_BYTES, export.min_block.max(BLOCK).into())
        .u64(ATTR_SERVER_FLAGS, export.flags.into());
    let answer = Family::open(NAME, VERSION)?.ask(CMD_CONNECT, &patience(attributes))?;
    let index = answer.get(ATTR_INDEX).and_then(<[u8]>::first_chunk);
    let index = index.ok_or_else(|| io::Error::other("it does not say which device it made"))?;
    Ok(u32::from_ne_bytes(*index))
}

/// Gives device `index` another connection in place of one that has died.
///
/// # Errors
/// What the kernel answers; `ENOSPC` where none has died.
pub(crate) fn reconnect(index: u32, socket: impl AsFd) -> io::Result<()> {
    let attributes = sockets(Attributes::default().u32(ATTR_INDEX, index), socket)?;
    let family = Family::open(NAME, VERSION)?;
    family.ask(CMD_RECONFIGURE, &patience(attributes)).map(drop)
}

/// Gives device `index` up.
///
/// # Errors
/// What the kernel answers.
pub(crate) fn disconnect(index: u32) -> io::Result<()> {
    let attributes = Attributes::default().u32(ATTR_INDEX, index);
    let family = Family::open(NAME, VERSION)?;
    family.ask(CMD_DISCONNECT, &attributes).map(drop)
}

fn patience(attributes: Attributes) -> Attributes {
    attributes
        .u64(ATTR_TIMEOUT, REQUEST.as_secs())
        .u64(ATTR_DEAD_CONN_TIMEOUT, NO_CONNECTION.as_secs())
}

fn sockets(attributes: Attributes, socket: impl AsFd) -> io::Result<Attributes> {
    let number = u32::try_from(socket.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let item = Attributes::default().u32(SOCK_FD, number);
    let list = Attributes::default().nested(SOCK_ITEM, &item);
    Ok(attributes.nested(ATTR_SOCKETS, &list))
}
