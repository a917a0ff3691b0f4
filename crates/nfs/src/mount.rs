//! Messages of the programs beside NFS: MOUNT version 3 (RFC 1813, appendix I), which gives the handle
//! of a root, and the port mapper version 2 (RFC 1833, section 3).

use crate::rpc;
use crate::xdr::{Reader, Writer, XdrError};

/// Longest path of an export, in bytes.
const MAX_PATH: u32 = 1024;

/// A call of MOUNT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountCall<'a> {
    /// Nothing is asked.
    Null,
    /// The handle of this path.
    Mount(&'a [u8]),
    /// Who has mounted what. The answer is always empty: nobody keeps a list that can be relied on.
    Dump,
    /// This path is mounted no longer.
    Unmount(&'a [u8]),
    /// Nothing is mounted any longer.
    UnmountAll,
    /// What could be mounted. The answer is always empty: exports belong to devices.
    Exports,
}

/// How MNT ends where it does not go well (`mountstat3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MountStatus {
    /// There is no such path.
    NoEntry = 2,
    /// The server's storage has an error.
    Io = 5,
    /// It belongs to another device.
    Access = 13,
    /// Something is wrong with the server.
    Fault = 10006,
}

impl<'a> MountCall<'a> {
    /// Reads what a procedure is told; `None` for a procedure that there is not.
    ///
    /// # Errors
    /// Where it makes no sense.
    pub fn decode(procedure: u32, arguments: &'a [u8]) -> Result<Option<Self>, XdrError> {
        let mut reader = Reader::new(arguments);
        Ok(Some(match procedure {
            0 => Self::Null,
            1 => Self::Mount(reader.opaque("the path of an export", MAX_PATH)?),
            2 => Self::Dump,
            3 => Self::Unmount(reader.opaque("the path of an export", MAX_PATH)?),
            4 => Self::UnmountAll,
            5 => Self::Exports,
            _ => return Ok(None),
        }))
    }
}

/// The answer to MNT: the handle of the root, and that AUTH_SYS is taken.
pub fn mounted(out: &mut Writer, handle: Result<&[u8], MountStatus>) {
    match handle {
        Ok(handle) => out.u32(0).opaque(handle).u32(1).u32(1),
        Err(status) => out.u32(status as u32),
    };
}

/// Answers the port mapper's calls; `None` for a procedure that there is not. All programs are at the
/// one TCP port.
///
/// # Errors
/// Where what it is told makes no sense.
pub fn port_mapper(
    procedure: u32,
    arguments: &[u8],
    port: u16,
    out: &mut Writer,
) -> Result<Option<()>, XdrError> {
    const TCP: u32 = 6;
    let here = [(rpc::NFS, 3), (rpc::MOUNT, 3)];
    match procedure {
        0 => {}
        3 => {
            let mut reader = Reader::new(arguments);
            let asked = (reader.u32("a program")?, reader.u32("a version")?);
            let is_here = reader.u32("a protocol")? == TCP && here.contains(&asked);
            out.u32(if is_here { port.into() } else { 0 });
        }
        4 => {
            for (program, version) in here {
                out.bool(true).u32(program).u32(version);
                out.u32(TCP).u32(port.into());
            }
            out.bool(false);
        }
        _ => return Ok(None),
    }
    Ok(Some(()))
}
