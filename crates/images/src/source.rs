//! Where an image's bytes come from, and the first such place: a stream of any packing. Files that
//! can be read at any place are in [`crate::disk`].

use crate::{
    disk::index_of,
    error::AddError,
    format::{DETECT_LEN, Format},
    sparse::SparseInput,
};
use bugler_protocol::manifest::CHUNK_SIZE;
use std::{
    cell::{Cell, RefCell},
    io::{self, BufReader, Cursor, Read},
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering},
};

/// Gives an image chunk by chunk.
pub(crate) trait Source {
    /// Reads the next chunk into `buffer`, full but for the disk's last one, and gives its index.
    /// Indices ascend; one that is passed over is zero throughout. `None` at the end.
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<u32>, AddError>;

    /// Bytes of the disk that have been read or passed over; at the end, its size before padding.
    fn disk_bytes(&self) -> u64;

    /// Bytes of input that have been read, as they came.
    fn read_bytes(&self) -> u64;

    /// How the input is packed.
    fn format(&self) -> Format;
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<u32>, AddError> {
        (**self).next(buffer)
    }

    fn disk_bytes(&self) -> u64 {
        (**self).disk_bytes()
    }

    fn read_bytes(&self) -> u64 {
        (**self).read_bytes()
    }

    fn format(&self) -> Format {
        (**self).format()
    }
}

/// What happens on the input side of a decoder, which passes errors on but not what they mean.
struct Tally<'a> {
    read: Cell<u64>,
    failure: RefCell<Option<io::Error>>,
    expected: Option<u64>,
    cancel: Option<&'a AtomicBool>,
}

impl Tally<'_> {
    fn is_cancelled(&self) -> bool {
        self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    fn is_too_long(&self) -> bool {
        self.expected
            .is_some_and(|expected| self.read.get() > expected)
    }

    fn is_short(&self) -> bool {
        self.expected
            .is_some_and(|expected| self.read.get() < expected)
    }

    fn wrong_length(&self) -> AddError {
        AddError::Length {
            expected: self.expected.unwrap_or_default(),
            actual: self.read.get(),
        }
    }

    /// What an error that came through the decoder means.
    fn explain(&self, format: Format, source: io::Error) -> AddError {
        let read_bytes = self.read.get();
        if self.is_cancelled() {
            return AddError::Cancelled;
        }
        if let Some(source) = self.failure.take() {
            return AddError::Read { read_bytes, source };
        }
        let ends_early = source.kind() == io::ErrorKind::UnexpectedEof;
        if self.is_too_long() || (ends_early && self.is_short()) {
            return self.wrong_length();
        }
        if matches!(format, Format::Raw | Format::Qcow2 | Format::Sparse) {
            return AddError::Read { read_bytes, source };
        }
        if ends_early {
            return AddError::CutOff { format, read_bytes };
        }
        // libzstd's errors have a text only.
        if source.kind() == io::ErrorKind::OutOfMemory
            || source.to_string().contains("too much memory")
        {
            return AddError::Memory { format, source };
        }
        AddError::Corrupt {
            format,
            read_bytes,
            source,
        }
    }
}

/// The input, with what happens to it written down.
struct Input<'a, R> {
    inner: R,
    tally: Rc<Tally<'a>>,
}

impl<R: Read> Read for Input<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // Here and not between chunks: a decoder can be kept busy without giving a byte.
            if self.tally.is_cancelled() || self.tally.is_too_long() {
                return Err(io::Error::other("stopped"));
            }
            match self.inner.read(buffer) {
                Ok(length) => {
                    let read = self.tally.read.get();
                    self.tally.read.set(read.saturating_add(length as u64));
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    *self.tally.failure.borrow_mut() = Some(error);
                    return Err(io::Error::other("the input failed"));
                }
            }
        }
    }
}

/// A stream, from its beginning to its end.
pub(crate) struct Stream<'a> {
    reader: Box<dyn Read + 'a>,
    tally: Rc<Tally<'a>>,
    format: Format,
    disk_bytes: u64,
}

impl<'a> Stream<'a> {
    /// Reads the first bytes to find out how the stream is packed.
    pub(crate) fn open(
        input: impl Read + 'a,
        expected: Option<u64>,
        cancel: Option<&'a AtomicBool>,
    ) -> Result<Self, AddError> {
        let tally = Rc::new(Tally {
            read: Cell::new(0),
            failure: RefCell::new(None),
            expected,
            cancel,
        });
        let mut input = Input {
            inner: input,
            tally: Rc::clone(&tally),
        };
        let mut start = [0; DETECT_LEN];
        let length =
            fill(&mut input, &mut start).map_err(|error| tally.explain(Format::Raw, error))?;
        let start = start.get(..length).unwrap_or_default().to_vec();
        let format = Format::detect(&start);
        // Large enough for a raw image to be read past it, straight into the chunk.
        let input = BufReader::with_capacity(256 << 10, Cursor::new(start).chain(input));
        let reader = format
            .unpack(input)
            .map_err(|error| tally.explain(format, error))?;
        Ok(Self {
            reader,
            tally,
            format,
            disk_bytes: 0,
        })
    }
}

impl Stream<'_> {
    /// Reads what was unpacked until `buffer` is full or the input ends; gives how much came.
    pub(crate) fn unpacked(&mut self, buffer: &mut [u8]) -> Result<usize, AddError> {
        let length = self.fill(buffer)?;
        self.disk_bytes += length as u64;
        Ok(length)
    }

    /// Passes over what was unpacked up to `offset`, or the end of the input.
    pub(crate) fn skip_to(&mut self, offset: u64) -> Result<(), AddError> {
        let mut buffer = vec![0; 64 << 10];
        while self.disk_bytes < offset {
            let wanted = (offset - self.disk_bytes).min(buffer.len() as u64);
            let part = buffer.get_mut(..wanted as usize).unwrap_or_default();
            let length = self.unpacked(part)?;
            if length < part.len() {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl SparseInput for Stream<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, AddError> {
        let length = fill(&mut self.reader, buffer)
            .map_err(|error| self.tally.explain(self.format, error))?;
        if length < buffer.len() && (self.tally.is_short() || self.tally.is_too_long()) {
            return Err(self.tally.wrong_length());
        }
        Ok(length)
    }
}

impl Source for Stream<'_> {
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<u32>, AddError> {
        buffer.resize(CHUNK_SIZE as usize, 0);
        let length = fill(&mut self.reader, buffer)
            .map_err(|error| self.tally.explain(self.format, error))?;
        buffer.truncate(length);
        if length == 0 {
            if self.tally.is_short() || self.tally.is_too_long() {
                return Err(self.tally.wrong_length());
            }
            return Ok(None);
        }
        let index = self.disk_bytes / u64::from(CHUNK_SIZE);
        self.disk_bytes += length as u64;
        Ok(Some(index_of(index)?))
    }

    fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    fn read_bytes(&self) -> u64 {
        self.tally.read.get()
    }

    fn format(&self) -> Format {
        self.format
    }
}

/// Reads until `buffer` is full or the input ends; gives how much came.
pub(crate) fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Whether every byte is zero.
///
/// Sixteen bytes are looked at; the rest is zero where it equals itself moved by sixteen bytes,
/// which the C library compares as fast as memory can be read.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    match bytes.split_at_checked(16) {
        Some((start, rest)) => {
            start == [0; 16] && bytes.get(..rest.len()).is_some_and(|moved| moved == rest)
        }
        None => bytes.iter().all(|byte| *byte == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_set_bit_anywhere_is_not_zero(
            length in 0usize..300, at in any::<prop::sample::Index>(), bit in 0u32..8,
        ) {
            let mut bytes = vec![0; length];
            prop_assert!(is_zero(&bytes));
            if length > 0 {
                bytes[at.index(length)] = 1 << bit;
                prop_assert!(!is_zero(&bytes));
            }
        }
    }
}
