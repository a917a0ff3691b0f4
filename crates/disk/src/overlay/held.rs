//! What an overlay holds: for figures, and for whoever makes a new image of it.

use super::{
    Overlay,
    format::{BLOCK, State},
    guard,
};
use crate::{DeviceError, Extent, device::check};
use std::sync::atomic::Ordering;

/// A run of bytes that the overlay covers: the base is not seen there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// First byte on the disk, a multiple of 4096.
    pub offset: u64,
    /// Length in bytes; a multiple of 4096 except at the end of the disk.
    pub length: u64,
    /// It reads as zero, and takes no space.
    pub zero: bool,
}

/// What an overlay takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayUsage {
    /// Bytes of blocks that the machine wrote: what counts for the quota.
    pub data_bytes: u64,
    /// Bytes that were discarded or zeroed, and take no space.
    pub zero_bytes: u64,
    /// Most bytes of blocks; `u64::MAX` for no limit.
    pub quota: u64,
    /// Bytes of blocks that are written and not yet flushed.
    pub unflushed_bytes: u64,
    /// Bytes that the file takes on the disk of the server, 0 where that cannot be told.
    pub file_bytes: u64,
}

impl Overlay {
    /// What it takes. Counts the states of all blocks that were ever written: a few µs for a GiB.
    #[must_use]
    pub fn usage(&self) -> OverlayUsage {
        let block = BLOCK as u64;
        let (_, zero) = self.table.count();
        OverlayUsage {
            data_bytes: self.present.load(Ordering::Relaxed) * block,
            zero_bytes: zero * block,
            quota: self.quota.load(Ordering::Relaxed),
            unflushed_bytes: guard(self.maps.lock()).dirty.len() as u64 * block,
            file_bytes: self.storage.allocated().unwrap_or(0),
        }
    }

    /// What it covers from byte `from` on, at most `limit` runs; the next call goes on where the
    /// last run ends. Nothing where there is no more. Together with reads of the overlay this is
    /// what a new image needs: all that is not covered is as in the base.
    #[must_use]
    pub fn held(&self, from: u64, limit: usize) -> Vec<Held> {
        let mut held = Vec::new();
        let mut at = from / BLOCK as u64 * BLOCK as u64;
        while at < self.disk_size && held.len() < limit {
            let (state, end) = self.state_run(at, self.disk_size);
            if state != State::Absent {
                held.push(Held {
                    offset: at,
                    length: end - at,
                    zero: state == State::Zero,
                });
            }
            at = end;
        }
        held
    }

    pub(super) fn extents_of(
        &self,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<Extent>, DeviceError> {
        check(offset, length, self.disk_size)?;
        let end = offset + length;
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        while at < end {
            let (state, mut stop) = self.state_run(at, end);
            let zero = match state {
                State::Zero => true,
                State::A | State::B => false,
                State::Absent if at >= self.base_size => true,
                State::Absent => {
                    stop = stop.min(self.base_size);
                    let (length, zero) = self.base.extent(at, stop - at);
                    stop = at + length.clamp(1, stop - at);
                    zero
                }
            };
            let extent = Extent {
                length: stop - at,
                hole: !state.is_present(),
                zero,
            };
            let full = extents.len() >= limit;
            match extents.last_mut() {
                Some(last) if (last.hole, last.zero) == (extent.hole, extent.zero) => {
                    last.length += extent.length;
                }
                _ if full => break,
                _ => extents.push(extent),
            }
            at = stop;
        }
        Ok(extents)
    }

    /// The state at a byte, and where it ends, at most at `end`. The two places of present blocks
    /// count as one state.
    pub(super) fn state_run(&self, at: u64, end: u64) -> (State, u64) {
        let alike = |a: State, b: State| a == b || a.is_present() && b.is_present();
        let mut block = at / BLOCK as u64;
        let state = self.table.get(block);
        let blocks = end.div_ceil(BLOCK as u64);
        while block < blocks && alike(self.table.get(block), state) {
            let empty = self.table.empty_run(block, blocks - block);
            block += empty.max(1);
        }
        (state, (block * BLOCK as u64).min(end))
    }
}
