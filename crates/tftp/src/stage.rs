//! The next blocks of a transfer, ready to be sent.
//!
//! Blocks stand side by side in one buffer, each with its header before it, so that a window is one
//! slice: one `send` with segmentation offload, and no copy between the file and the socket. Content
//! is read front to back; what a client may still ask for again stays in the buffer.

mod netascii;
#[cfg(test)]
mod tests;

use std::io::{self, IoSliceMut};

use crate::packet::{DATA_HEADER, Mode, data_header};
use crate::source::Content;

use netascii::Converter;

/// How much is read from a file at a time, about. More saves system calls; less stays in the cache
/// of the processor between the read and the send, that of dozens of transfers together.
const READ_AHEAD: usize = 6 * 1024;

/// The content of one transfer, cut into DATA packets.
#[derive(Debug)]
pub(crate) struct Stage {
    reader: Reader,
    /// Bytes that will be sent.
    size: u64,
    blksize: usize,
    blocks: u64,
    /// The block in the first slot, and how many slots are filled.
    first: u64,
    filled: usize,
    slots: usize,
    buffer: Vec<u8>,
}

/// How many bytes `content` takes in this mode. In netascii mode the content is read once for it.
///
/// # Errors
/// Whatever reading brings.
pub(crate) fn size(content: &Content, mode: Mode) -> io::Result<u64> {
    match mode {
        Mode::Octet => Ok(content.len()),
        Mode::Netascii => netascii::length(content),
    }
}

impl Stage {
    /// Prepares `blocks` blocks of `blksize` bytes, with room for at least `windowsize` at a time.
    /// `size` is what [`size`] gave.
    pub(crate) fn new(
        content: Content,
        mode: Mode,
        size: u64,
        blksize: u16,
        windowsize: u16,
        blocks: u64,
    ) -> Self {
        let blksize = usize::from(blksize);
        let window = usize::from(windowsize.max(1));
        // Whole windows: then a new window never begins in the middle of what is left of the last.
        let ahead = READ_AHEAD / (blksize + DATA_HEADER) / window * window;
        let slots = ahead
            .max(window)
            .min(usize::try_from(blocks).unwrap_or(usize::MAX));
        let converter = (mode == Mode::Netascii).then(Converter::default);
        Self {
            reader: Reader {
                content,
                offset: 0,
                converter,
            },
            size,
            blksize,
            blocks,
            first: 1,
            filled: 0,
            slots,
            buffer: vec![0; slots * (blksize + DATA_HEADER)],
        }
    }

    /// Bytes that will be sent.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes in the first `blocks` blocks.
    pub(crate) fn bytes_in(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(self.blksize as u64).min(self.size)
    }

    /// Bytes of one full DATA packet.
    pub(crate) fn packet_len(&self) -> usize {
        self.blksize + DATA_HEADER
    }

    /// The DATA packets of the blocks from `first` on, one after the other; all but the last block
    /// of the file are [`packet_len`](Self::packet_len) long. Blocks before `first` are forgotten.
    ///
    /// # Errors
    /// Whatever reading brings, and `UnexpectedEof` when the content is shorter than it was. Blocks
    /// that were forgotten, or more than the window, are `InvalidInput`.
    pub(crate) fn packets(&mut self, first: u64, count: u16) -> io::Result<&[u8]> {
        let count = usize::from(count);
        let end = first.saturating_add(count as u64);
        if first < self.first || count > self.slots || end > self.blocks.saturating_add(1) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no such blocks are at hand",
            ));
        }
        if end > self.first.saturating_add(self.filled as u64) {
            self.refill(first)?;
        }
        let packet = self.packet_len();
        let start = usize::try_from(first - self.first)
            .unwrap_or(usize::MAX)
            .saturating_mul(packet);
        let mut stop = start.saturating_add(count * packet);
        if end > self.blocks {
            stop = stop.saturating_sub(self.blksize - self.block_len(self.blocks));
        }
        self.buffer
            .get(start..stop)
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Bytes of data in a block.
    fn block_len(&self, block: u64) -> usize {
        if block < self.blocks {
            return self.blksize;
        }
        let before = self
            .blocks
            .saturating_sub(1)
            .saturating_mul(self.blksize as u64);
        usize::try_from(self.size.saturating_sub(before))
            .unwrap_or(0)
            .min(self.blksize)
    }

    /// Moves `first` to the first slot and fills the slots behind what is there.
    fn refill(&mut self, first: u64) -> io::Result<()> {
        let packet = self.packet_len();
        let gone = usize::try_from(first - self.first)
            .unwrap_or(usize::MAX)
            .min(self.filled);
        self.buffer
            .copy_within(gone * packet..self.filled * packet, 0);
        self.first += gone as u64;
        self.filled -= gone;
        let next = self.first + self.filled as u64;
        let left = usize::try_from(self.blocks + 1 - next).unwrap_or(usize::MAX);
        let fill = left.min(self.slots - self.filled);
        let last_len = self.block_len(next + fill as u64 - 1);
        let mut parts = Vec::with_capacity(fill);
        let free = self
            .buffer
            .get_mut(self.filled * packet..)
            .unwrap_or_default();
        for (index, slot) in free.chunks_exact_mut(packet).take(fill).enumerate() {
            let (header, data) = slot.split_at_mut(DATA_HEADER);
            header.copy_from_slice(&data_header((next + index as u64) as u16));
            let len = if index + 1 == fill {
                last_len
            } else {
                data.len()
            };
            parts.push(IoSliceMut::new(data.get_mut(..len).unwrap_or_default()));
        }
        self.reader.read(&mut parts)?;
        self.filled += fill;
        Ok(())
    }
}

/// Content, read front to back.
#[derive(Debug)]
struct Reader {
    content: Content,
    offset: u64,
    converter: Option<Converter>,
}

impl Reader {
    /// Fills all of `parts`.
    fn read(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        if let Some(converter) = &mut self.converter {
            for part in parts {
                converter.read(&self.content, &mut self.offset, part)?;
            }
            return Ok(());
        }
        match &self.content {
            Content::Bytes(bytes) => {
                let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
                let mut rest = bytes.get(start..).unwrap_or_default();
                for part in parts {
                    let (now, later) = rest.split_at_checked(part.len()).ok_or_else(shorter)?;
                    part.copy_from_slice(now);
                    self.offset += now.len() as u64;
                    rest = later;
                }
                Ok(())
            }
            Content::File { file, .. } => {
                let mut parts = parts;
                IoSliceMut::advance_slices(&mut parts, 0);
                while !parts.is_empty() {
                    match rustix::io::preadv(file, parts, self.offset) {
                        Ok(0) => return Err(shorter()),
                        Ok(read) => {
                            self.offset += read as u64;
                            IoSliceMut::advance_slices(&mut parts, read);
                        }
                        Err(rustix::io::Errno::INTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Ok(())
            }
        }
    }
}

fn shorter() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the content became shorter while it was sent",
    )
}
