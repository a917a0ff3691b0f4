//! Doing what requests ask for, and answering.

use crate::{
    export::Export,
    machine::{Action, CONTEXT, Session},
    packet::{
        Errno, Request, put_block_status, put_data_head, put_done, put_error, put_simple_reply,
    },
    wire::Wire,
    workers::Share,
};
use bugler_disk::{DeviceError, Durability};
use std::{io, sync::Arc};

/// Most extents in a reply.
const MAX_EXTENTS: usize = 2048;
/// Zeros that are written at once where they must take space.
const ZEROS: usize = 128 << 10;

/// What requests need to be answered.
pub(crate) struct Serving {
    pub(crate) wire: Arc<Wire>,
    pub(crate) export: Arc<Export>,
    pub(crate) session: Session,
}

impl Serving {
    pub(crate) fn put_read_head(&self, request: &Request, out: &mut Vec<u8>) {
        // A structured reply of no data is not allowed to be of type OFFSET_DATA.
        if !self.session.structured {
            put_simple_reply(out, request.cookie, None);
        } else if request.length == 0 {
            put_done(out, request.cookie);
        } else {
            put_data_head(out, request.cookie, request.offset, request.length);
        }
    }

    pub(crate) fn refuse(&self, request: &Request, error: Errno, text: &str, out: &mut Vec<u8>) {
        self.export.count(0, 0, true);
        // Simple replies are allowed for all but reads and block status, also when replies are
        // structured; the text is only in a structured one.
        if self.session.structured {
            put_error(out, request.cookie, error, text);
        } else {
            put_simple_reply(out, request.cookie, Some(error));
        }
    }

    /// Does a request, in a worker.
    pub(crate) fn work(
        &self,
        request: &Request,
        action: Action,
        data: Vec<u8>,
        shares: (Share, Share),
    ) {
        let mut head = Vec::with_capacity(64);
        let mut body = Vec::new();
        let result = self.perform(request, action, &data, &mut head, &mut body);
        drop(data);
        match result {
            Ok(()) => {
                let written = if matches!(action, Action::Write { .. }) {
                    request.length
                } else {
                    0
                };
                self.export
                    .count(body.len() as u64, u64::from(written), false);
            }
            Err(error) => {
                tracing::warn!(
                    export = self.export.description(), ?action, offset = request.offset,
                    length = request.length, %error, "a request of an NBD client failed"
                );
                head.clear();
                body.clear();
                self.refuse(request, errno(&error), &error.to_string(), &mut head);
            }
        }
        if self.wire.send(&head, &body).is_err() {
            // The thread that receives finds out why.
            self.wire.shutdown();
        }
        drop(shares);
    }

    fn perform(
        &self,
        request: &Request,
        action: Action,
        data: &[u8],
        head: &mut Vec<u8>,
        body: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        let device = self.export.device();
        let (offset, length) = (request.offset, u64::from(request.length));
        let durability = |fua| {
            if fua {
                Durability::Durable
            } else {
                Durability::Cached
            }
        };
        match action {
            Action::Read => {
                body.resize(request.length as usize, 0);
                device.read(offset, body)?;
                self.put_read_head(request, head);
                return Ok(());
            }
            Action::Status { one } => {
                let limit = if one { 1 } else { MAX_EXTENTS };
                let extents = device.extents(offset, length, limit)?;
                let extents: Vec<_> = extents
                    .iter()
                    .map(|extent| {
                        // A hole whose content is in the base is data for a client, which knows of no
                        // base.
                        let state = match (extent.hole, extent.zero) {
                            (true, true) => 3,
                            (false, true) => 2,
                            (_, false) => 0,
                        };
                        // Together they are no longer than the request.
                        (u32::try_from(extent.length).unwrap_or(u32::MAX), state)
                    })
                    .collect();
                put_block_status(head, request.cookie, CONTEXT, &extents);
                return Ok(());
            }
            Action::Cache => {
                let mut buf = vec![0; (1 << 20).min(request.length as usize)];
                let mut at = offset;
                let end = offset + length;
                while at < end {
                    let now = (end - at).min(buf.len() as u64) as usize;
                    device.read(at, buf.get_mut(..now).unwrap_or_default())?;
                    at += now as u64;
                }
            }
            Action::Write { fua } => device.write(offset, data, durability(fua))?,
            Action::Flush => device.flush()?,
            Action::Trim { fua } => {
                device.discard(offset, length)?;
                if fua {
                    device.flush()?;
                }
            }
            Action::Zero {
                fua,
                allocate: false,
            } => {
                device.write_zeroes(offset, length, durability(fua))?;
            }
            Action::Zero {
                fua,
                allocate: true,
            } => {
                let zeros = vec![0; ZEROS];
                let mut at = offset;
                let end = offset + length;
                while at < end {
                    let now = (end - at).min(ZEROS as u64);
                    let zeros = zeros.get(..now as usize).unwrap_or_default();
                    device.write(at, zeros, Durability::Cached)?;
                    at += now;
                }
                if fua {
                    device.flush()?;
                }
            }
            Action::Disconnect => {}
        }
        if self.session.structured {
            put_done(head, request.cookie);
        } else {
            put_simple_reply(head, request.cookie, None);
        }
        Ok(())
    }
}

fn errno(error: &DeviceError) -> Errno {
    match error {
        DeviceError::OutOfRange { .. } => Errno::Inval,
        DeviceError::ReadOnly => Errno::Perm,
        DeviceError::Full { .. } => Errno::NoSpace,
        DeviceError::Damaged(_) => Errno::Io,
        DeviceError::Io { source, .. } => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Errno::NoSpace,
            io::ErrorKind::OutOfMemory => Errno::NoMem,
            _ => Errno::Io,
        },
    }
}
