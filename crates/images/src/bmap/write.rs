//! Writing a block map of version 2.0, with SHA-256.

use super::hex;
use sha2::{Digest, Sha256};
use std::{fmt::Write, ops::Range};

/// Bytes of one block.
const BLOCK: u64 = 4096;

/// Takes the content of an image from front to back.
pub(crate) struct Writer {
    image_size: u64,
    /// Blocks from first to last, and the checksum of what they hold.
    ranges: Vec<(u64, u64, String)>,
    /// The range that is being taken.
    open: Option<(Range<u64>, Sha256)>,
}

impl Writer {
    pub(crate) fn new(image_size: u64) -> Self {
        Self {
            image_size,
            ranges: Vec::new(),
            open: None,
        }
    }

    /// Takes content that stands at `offset`, a multiple of 4096. Only the image's last piece may
    /// end within a block.
    pub(crate) fn take(&mut self, offset: u64, content: &[u8]) {
        let end = offset + content.len() as u64;
        match &mut self.open {
            Some((range, hasher)) if range.end == offset => {
                range.end = end;
                hasher.update(content);
            }
            _ => {
                self.close();
                self.open = Some((offset..end, Sha256::new_with_prefix(content)));
            }
        }
    }

    fn close(&mut self) {
        if let Some((range, hasher)) = self.open.take() {
            let checksum = hex(&hasher.finalize());
            let last = range.end.div_ceil(BLOCK) - 1;
            self.ranges.push((range.start / BLOCK, last, checksum));
        }
    }

    /// The block map.
    pub(crate) fn finish(mut self) -> String {
        self.close();
        let zeros = "0".repeat(64);
        let mapped: u64 = self
            .ranges
            .iter()
            .map(|(first, last, _)| last - first + 1)
            .sum();
        let blocks = self.image_size.div_ceil(BLOCK);
        let mut text = format!(
            "<?xml version=\"1.0\" ?>\n\
             <!-- Which blocks of an image have content. bmaptool writes these and no others. -->\n\
             <bmap version=\"2.0\">\n    \
             <ImageSize> {} </ImageSize>\n    \
             <BlockSize> {BLOCK} </BlockSize>\n    \
             <BlocksCount> {blocks} </BlocksCount>\n    \
             <MappedBlocksCount> {mapped} </MappedBlocksCount>\n    \
             <ChecksumType> sha256 </ChecksumType>\n    \
             <!-- Of this file, with the digit 0 in place of each of these. -->\n    \
             <BmapFileChecksum> {zeros} </BmapFileChecksum>\n    \
             <BlockMap>\n",
            self.image_size
        );
        for (first, last, checksum) in &self.ranges {
            let blocks = if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "        <Range chksum=\"{checksum}\"> {blocks} </Range>"
            );
        }
        text += "    </BlockMap>\n</bmap>\n";
        let own = hex(&Sha256::digest(&text));
        text.replacen(&zeros, &own, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bmap::Bmap;

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = Writer::new(3 * 4096 + 100);
        writer.take(4096, &[1; 4096]);
        writer.take(8192, &[2; 4096]);
        let text = writer.finish();
        let bmap = Bmap::parse(text.as_bytes()).unwrap();
        assert_eq!(bmap.image_size, 3 * 4096 + 100);
        let content = [[1; 4096], [2; 4096]].concat();
        assert_eq!(bmap.ranges.len(), 1);
        assert_eq!(bmap.ranges[0].bytes, 4096..3 * 4096);
        assert_eq!(
            bmap.ranges[0].checksum,
            Some(Sha256::digest(content).into())
        );
        let damaged = text.replace("1-2", "1-1");
        assert!(Bmap::parse(damaged.as_bytes()).is_err());
    }
}
