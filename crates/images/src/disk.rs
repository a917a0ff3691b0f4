//! Images that can be read at any place: a raw file with holes, and whatever else has the bytes of
//! a disk somewhere in a file.

use crate::{error::AddError, format::Format, source::Source};
use bugler_protocol::manifest::{CHUNK_SIZE, MAX_DISK_SIZE};
use rustix::{fs::SeekFrom, io::Errno};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, Ordering},
};

/// Bytes of a disk that are alike: content to be read, or nothing but zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Whether there may be something else than zeros.
    pub(crate) is_data: bool,
    /// Where it ends: behind the byte that was asked for, at most the disk's end.
    pub(crate) end: u64,
}

/// The bytes of a disk, wherever they are.
pub(crate) trait VirtualDisk {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// What stands at `offset`, which lies on the disk, and how far that goes on.
    fn extent(&mut self, offset: u64) -> Result<Extent, AddError>;

    /// Fills `buffer` from `offset`; all of it must lie on the disk.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), AddError>;

    /// Asked once at the end: whether what was read can be trusted.
    fn check_end(&mut self) -> Result<(), AddError> {
        Ok(())
    }
}

/// A raw file, whose holes are passed over unread.
pub(crate) struct RawFile {
    file: File,
    length: u64,
}

impl RawFile {
    /// The file must be `length` bytes long, and stay so.
    pub(crate) fn new(file: File, length: u64) -> Self {
        Self { file, length }
    }

    fn changed(&self, actual: u64) -> AddError {
        AddError::Length {
            expected: self.length,
            actual,
        }
    }
}

impl VirtualDisk for RawFile {
    fn size(&self) -> u64 {
        self.length
    }

    fn extent(&mut self, offset: u64) -> Result<Extent, AddError> {
        let data = |end: u64| Extent {
            is_data: true,
            end: end.max(offset.saturating_add(1)).min(self.length),
        };
        Ok(match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) if start > offset => Extent {
                is_data: false,
                end: start.min(self.length),
            },
            Ok(_) => {
                let end = rustix::fs::seek(&self.file, SeekFrom::Hole(offset));
                data(end.unwrap_or(self.length))
            }
            Err(Errno::NXIO) => Extent {
                is_data: false,
                end: self.length,
            },
            // A filesystem that knows nothing of holes.
            Err(_) => data(self.length),
        })
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), AddError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => self.changed(offset),
                _ => AddError::Read {
                    read_bytes: offset,
                    source,
                },
            })
    }

    fn check_end(&mut self) -> Result<(), AddError> {
        let now = self.file.metadata().map_err(|source| AddError::Read {
            read_bytes: self.length,
            source,
        })?;
        if now.len() == self.length {
            Ok(())
        } else {
            Err(self.changed(now.len()))
        }
    }
}

/// Gives the chunks of a disk that have content.
pub(crate) struct DiskSource<'a> {
    disk: Box<dyn VirtualDisk + 'a>,
    format: Format,
    cancel: Option<&'a AtomicBool>,
    position: u64,
    read: u64,
    /// Bytes of input, where they were all read before this began.
    spooled: Option<u64>,
    /// The data that was found last ends here.
    data_end: u64,
}

impl<'a> DiskSource<'a> {
    pub(crate) fn new(
        disk: Box<dyn VirtualDisk + 'a>,
        format: Format,
        cancel: Option<&'a AtomicBool>,
    ) -> Self {
        Self {
            disk,
            format,
            cancel,
            position: 0,
            read: 0,
            spooled: None,
            data_end: 0,
        }
    }

    /// Says that the disk's file was kept aside first, and had so many bytes.
    pub(crate) fn spooled(mut self, bytes: u64) -> Self {
        self.spooled = Some(bytes);
        self
    }

    /// The first byte at or behind `position` that may be no zero; the disk's end where none is.
    fn find_data(&mut self) -> Result<u64, AddError> {
        let size = self.disk.size();
        let mut at = self.position;
        while at < size {
            if at < self.data_end {
                return Ok(at);
            }
            // Looking for data in a large empty disk takes a while.
            if self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                return Err(AddError::Cancelled);
            }
            let extent = self.disk.extent(at)?;
            if extent.is_data {
                self.data_end = extent.end;
                return Ok(at);
            }
            at = extent.end.max(at.saturating_add(1));
        }
        Ok(size)
    }
}

impl Source for DiskSource<'_> {
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<u32>, AddError> {
        let (chunk_size, size) = (u64::from(CHUNK_SIZE), self.disk.size());
        let found = self.find_data()?;
        let first = found / chunk_size * chunk_size;
        self.position = self.position.max(first).min(size);
        if found >= size {
            self.position = size;
            self.disk.check_end()?;
            return Ok(None);
        }
        let wanted = (size - self.position).min(chunk_size);
        buffer.resize(wanted as usize, 0);
        self.disk.read_at(self.position, buffer)?;
        let index = index_of(self.position / chunk_size)?;
        self.position += wanted;
        self.read += wanted;
        Ok(Some(index))
    }

    fn disk_bytes(&self) -> u64 {
        self.position
    }

    fn read_bytes(&self) -> u64 {
        match (self.spooled, self.format) {
            (Some(bytes), _) => bytes,
            // A hole counts as read.
            (None, Format::Raw) => self.position,
            (None, _) => self.read,
        }
    }

    fn format(&self) -> Format {
        self.format
    }
}

/// The index of a chunk, where a manifest has one for it.
pub(crate) fn index_of(index: u64) -> Result<u32, AddError> {
    u32::try_from(index).map_err(|_| AddError::TooLarge {
        limit: MAX_DISK_SIZE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of which every other stretch has content.
    struct Stripes {
        size: u64,
        stretch: u64,
        lookups: u32,
    }

    impl VirtualDisk for Stripes {
        fn size(&self) -> u64 {
            self.size
        }

        fn extent(&mut self, offset: u64) -> Result<Extent, AddError> {
            self.lookups += 1;
            let number = offset / self.stretch;
            Ok(Extent {
                is_data: number % 2 == 1,
                end: ((number + 1) * self.stretch).min(self.size),
            })
        }

        fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), AddError> {
            for (at, byte) in (offset..).zip(buffer) {
                *byte = u8::from(at / self.stretch % 2 == 1);
            }
            Ok(())
        }
    }

    fn chunks(stretch: u64, size: u64) -> (Vec<(u32, Vec<u8>)>, u64) {
        let disk = Stripes {
            size,
            stretch,
            lookups: 0,
        };
        let mut source = DiskSource::new(Box::new(disk), Format::Raw, None);
        let (mut found, mut buffer) = (Vec::new(), Vec::new());
        while let Some(index) = source.next(&mut buffer).unwrap() {
            found.push((index, buffer.clone()));
        }
        (found, source.disk_bytes())
    }

    #[test]
    fn only_chunks_with_content_are_read_each_once_and_whole() {
        let chunk = u64::from(CHUNK_SIZE);
        let (found, end) = chunks(2 * chunk, 9 * chunk + 512);
        let indices: Vec<u32> = found.iter().map(|(index, _)| *index).collect();
        assert_eq!((indices, end), (vec![2, 3, 6, 7], 9 * chunk + 512));
        let (found, _) = chunks(1000, chunk + 1500);
        let lengths: Vec<_> = found.iter().map(|(i, bytes)| (*i, bytes.len())).collect();
        assert_eq!(lengths, [(0, CHUNK_SIZE as usize), (1, 1500)]);
        assert_eq!(found[0].1[999..1001], [0, 1]);
        assert!(chunks(chunk, 0).0.is_empty());
    }
}
