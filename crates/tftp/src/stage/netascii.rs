//! Netascii (RFC 1350 section 1, RFC 764): a line feed travels as CR LF, a carriage return as CR NUL.

use std::io;

use crate::source::Content;

const CHUNK: usize = 8 * 1024;

/// Converts content as it is read.
#[derive(Debug, Default)]
pub(super) struct Converter {
    chunk: Vec<u8>,
    used: usize,
    /// The second byte of a pair whose first was the last of a block.
    pending: Option<u8>,
}

impl Converter {
    /// Fills `out` with converted bytes, reading `content` from `offset` on.
    pub(super) fn read(
        &mut self,
        content: &Content,
        offset: &mut u64,
        out: &mut [u8],
    ) -> io::Result<()> {
        for slot in out {
            if let Some(byte) = self.pending.take() {
                *slot = byte;
                continue;
            }
            if self.used == self.chunk.len() {
                self.used = 0;
                read_chunk(content, *offset, &mut self.chunk)?;
                *offset += self.chunk.len() as u64;
            }
            let byte = *self.chunk.get(self.used).ok_or_else(super::shorter)?;
            self.used += 1;
            *slot = match byte {
                b'\n' => {
                    self.pending = Some(b'\n');
                    b'\r'
                }
                b'\r' => {
                    self.pending = Some(0);
                    b'\r'
                }
                other => other,
            };
        }
        Ok(())
    }
}

/// The length of the content once it is converted.
pub(super) fn length(content: &Content) -> io::Result<u64> {
    let mut chunk = Vec::new();
    let (mut offset, mut length) = (0, 0);
    while offset < content.len() {
        read_chunk(content, offset, &mut chunk)?;
        if chunk.is_empty() {
            return Err(super::shorter());
        }
        offset += chunk.len() as u64;
        let doubled = chunk
            .iter()
            .filter(|byte| matches!(byte, b'\n' | b'\r'))
            .count();
        length += (chunk.len() + doubled) as u64;
    }
    Ok(length)
}

/// Reads the next bytes into `chunk`; it is left empty at the end.
fn read_chunk(content: &Content, offset: u64, chunk: &mut Vec<u8>) -> io::Result<()> {
    let left = usize::try_from(content.len().saturating_sub(offset)).unwrap_or(usize::MAX);
    let len = left.min(CHUNK);
    chunk.clear();
    match content {
        Content::Bytes(bytes) => {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let from = bytes.get(start..).unwrap_or_default();
            chunk.extend_from_slice(from.get(..len).unwrap_or_default());
        }
        Content::File { file, .. } => {
            chunk.resize(len, 0);
            let read = loop {
                match rustix::io::pread(file, &mut *chunk, offset) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => break other?,
                }
            };
            chunk.truncate(read);
        }
    }
    Ok(())
}
