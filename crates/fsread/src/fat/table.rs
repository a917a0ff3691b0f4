//! The file allocation table (section 4).

use super::geometry::{Geometry, Kind};
use crate::ReadAt;
use crate::bytes::{u16_at, u32_at};
use std::io;

/// What the table says of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// No file has it.
    Free,
    /// A file goes on in that cluster, which exists.
    Next(u32),
    /// The last one of a file.
    End,
    /// The disk cannot keep it; it belongs to no file.
    Bad,
    /// A value that must not occur.
    Wrong(u32),
}

/// Reads a volume's table, and keeps the piece of it that was read last: a chain mostly goes on there.
pub(crate) struct Table<'a> {
    volume: &'a dyn ReadAt,
    geometry: &'a Geometry,
    /// Where `piece` begins in the table.
    at: u64,
    piece: Vec<u8>,
    /// Bytes a piece.
    size: u64,
}

impl<'a> Table<'a> {
    /// The table that counts, in pieces of `size` bytes.
    pub(crate) fn new(volume: &'a dyn ReadAt, geometry: &'a Geometry, size: u64) -> Self {
        Self {
            volume,
            geometry,
            at: 0,
            piece: vec![],
            size,
        }
    }

    /// The entry of that number as it stands there: 12, 16 or 28 bits.
    ///
    /// # Errors
    /// Where it cannot be read; [`io::ErrorKind::UnexpectedEof`] where the table is too short for it.
    pub(crate) fn raw(&mut self, number: u32) -> io::Result<u32> {
        let number64 = u64::from(number);
        Ok(match self.geometry.kind {
            Kind::Fat12 => {
                let at = number64 + number64 / 2;
                let pair = u16::from_le_bytes([self.byte(at)?, self.byte(at + 1)?]);
                u32::from(match number.is_multiple_of(2) {
                    true => pair & 0xfff,
                    false => pair >> 4,
                })
            }
            Kind::Fat16 => {
                let at = self.load(number64 * 2, 2)?;
                u32::from(u16_at(&self.piece, at))
            }
            Kind::Fat32 => {
                let at = self.load(number64 * 4, 4)?;
                // The upper four bits are reserved.
                u32_at(&self.piece, at) & 0x0fff_ffff
            }
        })
    }

    /// What the table says of a cluster.
    ///
    /// # Errors
    /// As [`Table::raw`].
    pub(crate) fn link(&mut self, cluster: u32) -> io::Result<Link> {
        let raw = self.raw(cluster)?;
        let bad = match self.geometry.kind {
            Kind::Fat12 => 0xff7,
            Kind::Fat16 => 0xfff7,
            Kind::Fat32 => 0x0fff_fff7,
        };
        Ok(match raw {
            0 => Link::Free,
            next if self.geometry.has(next) => Link::Next(next),
            raw if raw == bad => Link::Bad,
            raw if raw > bad => Link::End,
            raw => Link::Wrong(raw),
        })
    }

    fn byte(&mut self, at: u64) -> io::Result<u8> {
        let at = self.load(at, 1)?;
        Ok(self.piece.get(at).copied().unwrap_or(0))
    }

    /// Has the `length` bytes at `at` of the table in the piece, and says where in it. An entry of two
    /// or four bytes does not cross the end of a piece.
    fn load(&mut self, at: u64, length: u64) -> io::Result<usize> {
        if at + length > self.geometry.table_length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let begin = at - at % self.size;
        if self.at != begin || self.piece.is_empty() {
            let wanted = self.size.min(self.geometry.table_length - begin) as usize;
            self.piece.resize(wanted, 0);
            let place = self.geometry.table_start() + begin;
            if let Err(error) = self.volume.read_at(place, &mut self.piece) {
                self.piece.clear();
                return Err(error);
            }
            self.at = begin;
        }
        Ok((at - begin) as usize)
    }
}
