//! Where bytes come from: a disk, a file, an image in a store, or a part of one of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that can be read at any place.
pub trait ReadAt {
    /// Fills `buf` with the bytes from `offset`.
    ///
    /// # Errors
    /// What reading gives; [`io::ErrorKind::UnexpectedEof`] where the source ends before `buf` is
    /// full.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// How many bytes there are.
    fn size(&self) -> u64;
}

impl<S: ReadAt + ?Sized> ReadAt for &S {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        (**self).size()
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let bytes = self
            .get(start..)
            .and_then(|rest| rest.get(..buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

/// A regular file. A block device has no length in its metadata: give it a [`Window`] of its size.
impl ReadAt for File {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.metadata().map_or(0, |meta| meta.len())
    }
}

/// A part of a source: a partition of a disk.
#[derive(Clone, Copy, Debug)]
pub struct Window<S> {
    source: S,
    start: u64,
    size: u64,
}

impl<S: ReadAt> Window<S> {
    /// The `size` bytes of `source` from `start`. That the source has them is found out by reading.
    pub fn new(source: S, start: u64, size: u64) -> Self {
        Self {
            source,
            start,
            size,
        }
    }
}

impl<S: ReadAt> ReadAt for Window<S> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let ends_inside = offset
            .checked_add(buf.len() as u64)
            .is_some_and(|end| end <= self.size);
        let start = self.start.checked_add(offset);
        match start {
            Some(start) if ends_inside => self.source.read_at(start, buf),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_its_part_and_nothing_else() {
        let bytes: Vec<u8> = (0..100).collect();
        let window = Window::new(&bytes, 10, 20);
        let mut buf = [0; 4];
        window.read_at(16, &mut buf).unwrap();
        assert_eq!(buf, [26, 27, 28, 29]);
        assert!(window.read_at(17, &mut buf).is_err());
        assert!(window.read_at(u64::MAX, &mut buf).is_err());
        assert!(Window::new(&bytes, 90, 20).read_at(8, &mut buf).is_err());
    }
}
