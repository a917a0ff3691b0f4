//! Reading and writing blocks.

use super::{
    Dirty, Maps, Overlay,
    format::{BLOCK, MAX_ENTRIES, State, checksum, place},
    guard,
};
use crate::{DeviceError, Durability, device::check};
use std::{
    io,
    ops::Range,
    sync::{MutexGuard, RwLock, RwLockWriteGuard, atomic::Ordering},
};

/// Bytes that are locked, read or written as one: a request is cut at their multiples.
const REGION: u64 = 1 << 20;
/// Blocks that may be written before they must be made durable, for the memory that each takes.
const MAX_DIRTY: usize = MAX_ENTRIES / 2;
const BLOCK64: u64 = BLOCK as u64;

/// What a write is to leave in whole blocks.
#[derive(Clone, Copy)]
enum Content<'a> {
    /// These bytes, a multiple of a block.
    Bytes(&'a [u8]),
    /// Nothing but zeros.
    Zeros,
}

impl Overlay {
    pub(super) fn read_bytes(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        check(offset, buf.len() as u64, self.disk_size)?;
        let mut at = offset;
        for piece in pieces(offset, buf) {
            let _lock = guard(self.stripe(at).read());
            self.read_piece(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    pub(super) fn read_bytes_now(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DeviceError> {
        check(offset, buf.len() as u64, self.disk_size)?;
        let mut at = offset;
        for piece in pieces(offset, buf) {
            let Ok(_lock) = self.stripe(at).try_read() else {
                return Ok(false);
            };
            let mut done = 0;
            while let Some((state, length)) = self.run(at, piece.len() - done) {
                let Some(part) = piece.get_mut(done..done + length) else {
                    break;
                };
                let ready = match state {
                    State::Zero => {
                        part.fill(0);
                        true
                    }
                    State::Absent => self.read_base_now(at, part)?,
                    State::A | State::B => {
                        let read = self.storage.read_now(self.byte_place(at, state), part);
                        read.map_err(DeviceError::io("read the overlay"))?
                    }
                };
                if !ready {
                    return Ok(false);
                }
                done += length;
                at += length as u64;
            }
        }
        Ok(true)
    }

    /// Reads within one region, whose lock the caller holds.
    fn read_piece(&self, mut at: u64, piece: &mut [u8]) -> Result<(), DeviceError> {
        let mut rest = piece;
        while let Some((state, length)) = self.run(at, rest.len()) {
            let Some((part, behind)) = rest.split_at_mut_checked(length) else {
                break;
            };
            match state {
                State::Zero => part.fill(0),
                State::Absent => self.read_base(at, part)?,
                State::A | State::B => {
                    let read = self.storage.read_at(self.byte_place(at, state), part);
                    read.map_err(DeviceError::io("read the overlay"))?;
                }
            }
            rest = behind;
            at += length as u64;
        }
        Ok(())
    }

    /// The state at a byte, and for how many of the `most` bytes from there it stays the same.
    fn run(&self, at: u64, most: usize) -> Option<(State, usize)> {
        if most == 0 {
            return None;
        }
        let mut block = at / BLOCK64;
        let state = self.table.get(block);
        let end = at + most as u64;
        loop {
            block += 1;
            let start = block * BLOCK64;
            if start >= end {
                return Some((state, most));
            }
            if self.table.get(block) != state {
                // It is less than `most`.
                return Some((state, (start - at) as usize));
            }
        }
    }

    fn byte_place(&self, at: u64, state: State) -> u64 {
        place(at / BLOCK64, state) + at % BLOCK64
    }

    /// Reads the base, which reads as zero behind its end.
    fn read_base(&self, at: u64, part: &mut [u8]) -> Result<(), DeviceError> {
        let there = self.base_size.saturating_sub(at).min(part.len() as u64) as usize;
        let (inside, behind) = part.split_at_mut(there);
        behind.fill(0);
        if inside.is_empty() {
            return Ok(());
        }
        let read = self.base.read_at(at, inside);
        read.map_err(DeviceError::io("read the base"))
    }

    fn read_base_now(&self, at: u64, part: &mut [u8]) -> Result<bool, DeviceError> {
        let there = self.base_size.saturating_sub(at).min(part.len() as u64) as usize;
        let (inside, behind) = part.split_at_mut(there);
        behind.fill(0);
        if inside.is_empty() {
            return Ok(true);
        }
        let read = self.base.read_now(at, inside);
        read.map_err(DeviceError::io("read the base"))
    }

    pub(super) fn write_bytes(
        &self,
        offset: u64,
        data: &[u8],
        durability: Durability,
    ) -> Result<(), DeviceError> {
        check(offset, data.len() as u64, self.disk_size)?;
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let length = piece_len(at, rest.len() as u64) as usize;
            let (piece, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            self.make_room()?;
            let lock = guard(self.stripe(at).write());
            if at.is_multiple_of(BLOCK64) && piece.len().is_multiple_of(BLOCK) {
                self.cover(
                    at / BLOCK64,
                    (length / BLOCK) as u64,
                    Content::Bytes(piece),
                    &lock,
                )?;
            } else {
                // A block is written as a whole: what is around the bytes is read first.
                let first = at / BLOCK64 * BLOCK64;
                let end = (at + piece.len() as u64).next_multiple_of(BLOCK64);
                let mut whole = vec![0; (end - first) as usize];
                self.read_edges(first, &mut whole, at..at + piece.len() as u64)?;
                let within = (at - first) as usize;
                if let Some(room) = whole.get_mut(within..within + piece.len()) {
                    room.copy_from_slice(piece);
                }
                let blocks = (whole.len() / BLOCK) as u64;
                self.cover(first / BLOCK64, blocks, Content::Bytes(&whole), &lock)?;
            }
            at += length as u64;
            rest = behind;
        }
        self.settle(durability)
    }

    /// Reads the first and the last block of a piece, where the bytes to be written do not cover
    /// them.
    fn read_edges(
        &self,
        first: u64,
        whole: &mut [u8],
        written: Range<u64>,
    ) -> Result<(), DeviceError> {
        let last = first + whole.len() as u64 - BLOCK64;
        if written.start > first
            && let Some(block) = whole.get_mut(..BLOCK)
        {
            self.read_piece(first, block)?;
        }
        if written.end < last + BLOCK64
            && let Some(block) = whole.last_chunk_mut::<BLOCK>()
        {
            self.read_piece(last, block)?;
        }
        Ok(())
    }

    /// Has whole blocks of a range read as zero, and with `edges` also what is around them.
    pub(super) fn zero_bytes(
        &self,
        offset: u64,
        length: u64,
        edges: bool,
        durability: Durability,
    ) -> Result<(), DeviceError> {
        check(offset, length, self.disk_size)?;
        let end = offset + length;
        let first = offset.next_multiple_of(BLOCK64).min(end);
        // The last block of a disk may be short; then its end is the disk's.
        let last = if end == self.disk_size {
            end
        } else {
            (end / BLOCK64 * BLOCK64).max(first)
        };
        if edges {
            for edge in [offset..first, last..end] {
                let zeros = [0; BLOCK];
                let zeros = zeros.get(..(edge.end - edge.start) as usize);
                self.write_bytes(edge.start, zeros.unwrap_or_default(), Durability::Cached)?;
            }
        }
        let mut at = first;
        while at < last {
            let skipped = self.already_zero(at, last - at);
            if skipped > 0 {
                at += skipped;
                continue;
            }
            let length = piece_len(at, last - at);
            self.make_room()?;
            let lock = guard(self.stripe(at).write());
            self.cover(
                at / BLOCK64,
                length.div_ceil(BLOCK64),
                Content::Zeros,
                &lock,
            )?;
            at += length;
        }
        self.settle(durability)
    }

    /// How many bytes from `at`, which begins a block, need no entry to read as zero: whole blocks,
    /// or up to the end of the range.
    fn already_zero(&self, at: u64, length: u64) -> u64 {
        let blocks = self.table.empty_run(at / BLOCK64, length.div_ceil(BLOCK64));
        let within = (blocks * BLOCK64).min(length);
        let zeros = self.base_zeros(at, within);
        if zeros == length {
            zeros
        } else {
            zeros / BLOCK64 * BLOCK64
        }
    }

    /// How many of the `length` bytes from `at` are zero in the base, or behind its end.
    fn base_zeros(&self, at: u64, length: u64) -> u64 {
        let inside = self.base_size.saturating_sub(at).min(length);
        if inside == 0 {
            return length;
        }
        match self.base.extent(at, inside) {
            (_, false) => 0,
            (zeros, true) if zeros >= inside => length,
            (zeros, true) => zeros,
        }
    }

    fn settle(&self, durability: Durability) -> Result<(), DeviceError> {
        match durability {
            Durability::Cached => Ok(()),
            Durability::Durable => self.flush_all(),
        }
    }

    /// Makes durable what was written, where so much is waiting for it that its account gets large.
    fn make_room(&self) -> Result<(), DeviceError> {
        if guard(self.maps.lock()).dirty.len() < MAX_DIRTY {
            return Ok(());
        }
        self.flush_all()
    }

    /// Gives blocks of one region new content. The caller holds the region's lock since before it
    /// read what it needed, so that nobody writes between.
    fn cover(
        &self,
        first: u64,
        count: u64,
        content: Content<'_>,
        _lock: &RwLockWriteGuard<'_, ()>,
    ) -> Result<(), DeviceError> {
        let blocks = first..first + count;
        loop {
            // Before the gate, so that a commit waits for writing and for nothing else.
            let gate = guard(self.gate.read());
            let mut maps = guard(self.maps.lock());
            maps.check()?;
            if maps.is_committing(blocks.clone()) {
                // The content that is being made durable must stay as it is until it is.
                let commit = maps.started;
                drop(gate);
                // The region's lock is kept: a commit does not need it.
                drop(self.wait_for(maps, commit)?);
                continue;
            }
            return match content {
                Content::Bytes(bytes) => self.put(maps, blocks, bytes),
                Content::Zeros => {
                    self.note_zeros(&mut maps, blocks);
                    Ok(())
                }
            };
        }
    }

    fn put(
        &self,
        maps: MutexGuard<'_, Maps>,
        blocks: Range<u64>,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let mut fresh = 0;
        let mut targets = Vec::with_capacity((blocks.end - blocks.start) as usize);
        for block in blocks.clone() {
            let current = self.table.get(block);
            fresh += u64::from(!current.is_present());
            let dirty = maps.dirty.get(&block);
            let durable = dirty.map_or(current, |dirty| dirty.durable);
            targets.push((
                durable.other_place(),
                durable,
                dirty.is_some() && current.is_present(),
            ));
        }
        let quota = self.quota.load(Ordering::Relaxed);
        let present = self.present.load(Ordering::Relaxed);
        if fresh > 0 && (present + fresh).saturating_mul(BLOCK64) > quota {
            return Err(DeviceError::Full { quota });
        }
        // Taken while the maps are locked, so that two writers cannot share the last block.
        self.present.fetch_add(fresh, Ordering::Relaxed);
        drop(maps);

        let written = self.write_runs(blocks.start, &targets, bytes);
        if let Err(source) = written {
            self.present.fetch_sub(fresh, Ordering::Relaxed);
            // Where the blocks' durable content is elsewhere, nothing has happened to it. What
            // was written and not yet flushed may be gone.
            if targets.iter().any(|(_, _, rewritten)| *rewritten) {
                let what = format!("a write failed in the middle: {source}");
                guard(self.maps.lock()).fail(what);
            }
            return Err(DeviceError::Io {
                action: "write the overlay",
                source,
            });
        }
        let sums: Vec<u64> = bytes
            .as_chunks::<BLOCK>()
            .0
            .iter()
            .map(|b| checksum(b))
            .collect();
        let mut maps = guard(self.maps.lock());
        for ((block, (target, durable, _)), sum) in blocks.zip(targets).zip(sums) {
            maps.dirty.insert(block, Dirty { durable, sum });
            self.table.set(block, target);
        }
        Ok(())
    }

    /// Writes neighbours that go to neighbouring places with one call.
    fn write_runs(
        &self,
        first: u64,
        targets: &[(State, State, bool)],
        bytes: &[u8],
    ) -> io::Result<()> {
        let (mut block, mut rest) = (first, bytes);
        for run in targets.chunk_by(|a, b| a.0 == b.0) {
            let length = run.len() * BLOCK;
            let (now, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            let target = run.first().map_or(State::A, |(target, _, _)| *target);
            self.storage.write_at(place(block, target), now)?;
            block += run.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    fn note_zeros(&self, maps: &mut Maps, blocks: Range<u64>) {
        for block in blocks {
            let current = self.table.get(block);
            let at = block * BLOCK64;
            let length = self.disk_size.saturating_sub(at).min(BLOCK64);
            let is_zero = match current {
                State::Zero => true,
                State::Absent => self.base_zeros(at, length) == length,
                State::A | State::B => false,
            };
            if is_zero {
                continue;
            }
            let durable = maps
                .dirty
                .get(&block)
                .map_or(current, |dirty| dirty.durable);
            maps.dirty.insert(block, Dirty { durable, sum: 0 });
            self.table.set(block, State::Zero);
            if current.is_present() {
                self.present.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn stripe(&self, at: u64) -> &RwLock<()> {
        let number = (at / REGION) as usize % self.stripes.len();
        // There is always one.
        self.stripes.get(number).unwrap_or(&self.gate)
    }
}

/// How much of the `length` bytes from `at` lies in the same region.
fn piece_len(at: u64, length: u64) -> u64 {
    length.min(REGION - at % REGION)
}

/// The parts of a buffer that lie in one region each.
fn pieces(offset: u64, buf: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    let mut at = offset;
    let mut rest = buf;
    std::iter::from_fn(move || {
        let length = piece_len(at, rest.len() as u64) as usize;
        at += length as u64;
        rest.split_off_mut(..length)
            .filter(|piece| !piece.is_empty())
    })
}
