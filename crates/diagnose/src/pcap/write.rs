//! Writing pcapng, so that each interface keeps its name and losses are told.

use super::{SECTION, SECTION_MAGIC};
use std::io::{self, Write};

/// Writes pcapng: one section, its interfaces, packets, and at the end what was lost.
pub struct Writer<W> {
    to: W,
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let length = u32::try_from(padded + 12).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(padded + 12);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(body);
    bytes.resize(8 + padded, 0);
    bytes.extend(length.to_le_bytes());
    bytes
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = code.to_le_bytes().to_vec();
    bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

impl<W: Write> Writer<W> {
    /// Writes the section header and a description of each interface: Ethernet, times in
    /// microseconds.
    ///
    /// # Errors
    /// Where `to` fails.
    pub fn new(mut to: W, interfaces: &[String], snap: u32) -> io::Result<Self> {
        let mut section = SECTION_MAGIC.to_le_bytes().to_vec();
        // Version 1.0; the length of the section is not known.
        section.extend([1, 0, 0, 0]);
        section.extend(u64::MAX.to_le_bytes());
        section.extend(option(4, b"bugler"));
        section.extend(option(0, b""));
        to.write_all(&block(SECTION, &section))?;
        for name in interfaces {
            let mut description = vec![1, 0, 0, 0];
            description.extend(snap.to_le_bytes());
            let name = name.as_bytes();
            description.extend(option(2, name.get(..255).unwrap_or(name)));
            description.extend(option(0, b""));
            to.write_all(&block(1, &description))?;
        }
        Ok(Self { to })
    }

    /// Writes one frame: `interface` is its place in the list; `micros` is the time since 1970.
    ///
    /// # Errors
    /// Where `to` fails.
    pub fn frame(
        &mut self,
        interface: u32,
        micros: u64,
        kept: &[u8],
        whole: u32,
    ) -> io::Result<()> {
        let mut body = Vec::with_capacity(kept.len() + 24);
        let length = u32::try_from(kept.len()).unwrap_or(u32::MAX);
        for word in [
            interface,
            (micros >> 32) as u32,
            micros as u32,
            length,
            whole,
        ] {
            body.extend(word.to_le_bytes());
        }
        body.extend(kept);
        self.to.write_all(&block(6, &body))
    }

    /// Writes how many frames an interface lost, for want of room (an interface statistics block).
    ///
    /// # Errors
    /// Where `to` fails.
    pub fn lost(&mut self, interface: u32, micros: u64, frames: u64) -> io::Result<()> {
        let mut body = vec![];
        for word in [interface, (micros >> 32) as u32, micros as u32] {
            body.extend(word.to_le_bytes());
        }
        // isb_osdrop
        body.extend(option(7, &frames.to_le_bytes()));
        body.extend(option(0, b""));
        self.to.write_all(&block(5, &body))
    }

    /// The destination.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.to
    }
}
