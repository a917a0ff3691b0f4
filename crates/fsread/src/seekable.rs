//! A source that is read and sought in.

use crate::ReadAt;
use std::cell::RefCell;
use std::io::{self, Read, Seek, SeekFrom};

/// Anything that can be read and sought in, as a source of bytes.
#[derive(Debug)]
pub struct Seekable<S> {
    inner: RefCell<S>,
    size: u64,
}

impl<S: Read + Seek> Seekable<S> {
    /// Takes it, and looks how long it is.
    ///
    /// # Errors
    /// Where its end cannot be sought.
    pub fn new(mut inner: S) -> io::Result<Self> {
        let size = inner.seek(SeekFrom::End(0))?;
        Ok(Self {
            inner: RefCell::new(inner),
            size,
        })
    }
}

impl<S: Read + Seek> ReadAt for Seekable<S> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        inner.seek(SeekFrom::Start(offset))?;
        inner.read_exact(buf)
    }

    fn size(&self) -> u64 {
        self.size
    }
}
