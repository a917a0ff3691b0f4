//! Reading a block map. It is XML, of which only what bmaptool writes is understood: elements,
//! attributes, text, comments, and a declaration in front.

use super::{BmapError, hex};
use bugler_protocol::manifest::MAX_DISK_SIZE;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// Longest block map, in bytes: some 700,000 ranges.
pub(crate) const MAX_LEN: u64 = 64 << 20;

/// Length of a SHA-256 in hex.
const HEX_LEN: usize = 64;

/// A block map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bmap {
    /// Size of the image in bytes.
    pub(crate) image_size: u64,
    /// Bytes of one block.
    pub(crate) block_size: u64,
    /// What has content, rising.
    pub(crate) ranges: Vec<Mapped>,
}

/// A range that has content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Bytes of the image, not empty.
    pub(crate) bytes: Range<u64>,
    /// SHA-256 of them, where the block map has it.
    pub(crate) checksum: Option<[u8; 32]>,
}

impl Bmap {
    /// Reads a block map of version 1.2 to 2.0, and checks its own checksum.
    ///
    /// # Errors
    /// [`BmapError`]. Checksums of another type than SHA-256, which versions before 1.4 have, are
    /// refused.
    pub fn parse(text: &[u8]) -> Result<Self, BmapError> {
        let damaged = |what: &str| BmapError::Damaged(what.to_owned());
        if text.len() as u64 > MAX_LEN {
            return Err(damaged("it is longer than 64 MiB"));
        }
        let source = std::str::from_utf8(text).map_err(|_| damaged("it is not UTF-8"))?;
        let mut document = Document::default();
        let mut scanner = Scanner { rest: source };
        while let Some(element) = scanner.next()? {
            document.take(&element)?;
        }
        let version = document
            .version
            .ok_or_else(|| damaged("it has no <bmap>"))?;
        let has_type = match version {
            "1.2" => false,
            "1.3" => return Err(BmapError::ChecksumType("sha1".to_owned())),
            "1.4" | "2.0" => true,
            other => return Err(BmapError::Version(clean(other))),
        };
        let need = |value: Option<u64>, name: &str| {
            value.ok_or_else(|| BmapError::Damaged(format!("it has no {name}")))
        };
        let image_size = need(document.image_size, "ImageSize")?;
        let block_size = need(document.block_size, "BlockSize")?;
        if image_size == 0 || image_size > MAX_DISK_SIZE {
            return Err(damaged("its image size is 0, or more than 64 TiB"));
        }
        if !(512..=1 << 30).contains(&block_size) || !block_size.is_power_of_two() {
            return Err(damaged(
                "its block size is no power of two from 512 bytes on",
            ));
        }
        let blocks = image_size.div_ceil(block_size);
        if document.blocks.is_some_and(|count| count != blocks) {
            return Err(damaged("its counts contradict each other"));
        }
        if has_type {
            match document.checksum_type {
                Some("sha256") | None => {}
                Some(other) => return Err(BmapError::ChecksumType(clean(other))),
            }
            if let Some(own) = document.own_checksum {
                check_own(text, source, own)?;
            }
        }
        let mut ranges = Vec::new();
        let mut next = 0;
        for (first, last, checksum) in document.ranges {
            if first < next || last < first || last >= blocks {
                return Err(damaged(
                    "a range is out of order, or behind the image's end",
                ));
            }
            next = last + 1;
            let checksum = match checksum.filter(|_| has_type) {
                Some(hex) => Some(unhex(hex).ok_or_else(|| damaged("a checksum is malformed"))?),
                None => None,
            };
            ranges.push(Mapped {
                bytes: first * block_size..(next * block_size).min(image_size),
                checksum,
            });
        }
        if document.mapped.is_some_and(|count| {
            count
                != ranges
                    .iter()
                    .map(|r| blocks_of(&r.bytes, block_size))
                    .sum::<u64>()
        }) {
            return Err(damaged("its ranges are not as many blocks as it says"));
        }
        Ok(Self {
            image_size,
            block_size,
            ranges,
        })
    }

    /// Size of the image in bytes.
    #[must_use]
    pub fn image_size(&self) -> u64 {
        self.image_size
    }

    /// Bytes of the image that have content.
    #[must_use]
    pub fn mapped_bytes(&self) -> u64 {
        let length = |mapped: &Mapped| mapped.bytes.end - mapped.bytes.start;
        self.ranges.iter().map(length).sum()
    }

    /// Bytes of the image that have content and a checksum.
    #[must_use]
    pub fn verified_bytes(&self) -> u64 {
        let checked = self
            .ranges
            .iter()
            .filter(|mapped| mapped.checksum.is_some());
        checked
            .map(|mapped| mapped.bytes.end - mapped.bytes.start)
            .sum()
    }
}

fn blocks_of(range: &Range<u64>, block_size: u64) -> u64 {
    (range.end - range.start).div_ceil(block_size)
}

/// The checksum of a block map is that of its bytes with `0` in place of each digit of it.
fn check_own(text: &[u8], source: &str, own: &str) -> Result<(), BmapError> {
    let wanted = own.to_ascii_lowercase();
    // Where it stands: `own` is a part of `source`.
    let at = (own.as_ptr() as usize).checked_sub(source.as_ptr() as usize);
    let place = at.map(|at| at..at + own.len());
    let (Some(place), true) = (place, unhex(own).is_some()) else {
        return Err(BmapError::Damaged(
            "its own checksum is malformed".to_owned(),
        ));
    };
    let mut hasher = Sha256::new();
    hasher.update(text.get(..place.start).unwrap_or_default());
    hasher.update([b'0'; HEX_LEN]);
    hasher.update(text.get(place.end..).unwrap_or_default());
    let found = hex(&hasher.finalize());
    if found == wanted {
        Ok(())
    } else {
        Err(BmapError::OwnChecksum { wanted, found })
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != HEX_LEN || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// A short, printable form of what stands in a block map.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(20).collect()
}

/// What was found in a block map.
#[derive(Default)]
struct Document<'a> {
    version: Option<&'a str>,
    image_size: Option<u64>,
    block_size: Option<u64>,
    blocks: Option<u64>,
    mapped: Option<u64>,
    checksum_type: Option<&'a str>,
    own_checksum: Option<&'a str>,
    ranges: Vec<(u64, u64, Option<&'a str>)>,
}

impl<'a> Document<'a> {
    fn take(&mut self, element: &Element<'a>) -> Result<(), BmapError> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let value = text.parse::<u64>().ok().filter(|_| digits);
            value.ok_or_else(|| BmapError::Damaged(format!("{:?} is no number", clean(text))))
        };
        let text = element.text;
        match element.name {
            "bmap" => self.version = Some(element.attribute("version").unwrap_or_default()),
            "ImageSize" => self.image_size = Some(number(text)?),
            "BlockSize" => self.block_size = Some(number(text)?),
            "BlocksCount" => self.blocks = Some(number(text)?),
            "MappedBlocksCount" => self.mapped = Some(number(text)?),
            "ChecksumType" => self.checksum_type = Some(text),
            "BmapFileChecksum" => self.own_checksum = Some(text),
            "Range" => {
                let (first, last) = match text.split_once('-') {
                    Some((first, last)) => (number(first.trim())?, number(last.trim())?),
                    None => (number(text)?, number(text)?),
                };
                self.ranges.push((first, last, element.attribute("chksum")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The beginning of an element, and the text up to the next one.
struct Element<'a> {
    name: &'a str,
    attributes: &'a str,
    text: &'a str,
}

impl<'a> Element<'a> {
    fn attribute(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.attributes;
        while let Some((before, after)) = rest.split_once('=') {
            let after = after.trim_start();
            let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            let (value, behind) = after.get(1..)?.split_once(quote)?;
            if before.trim() == name {
                return Some(value.trim());
            }
            rest = behind;
        }
        None
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    /// The next element; ends of elements, comments and declarations are passed over.
    fn next(&mut self) -> Result<Option<Element<'a>>, BmapError> {
        let open = || BmapError::Damaged("it ends in the middle of a tag".to_owned());
        loop {
            let Some((_, tag)) = self.rest.split_once('<') else {
                return Ok(None);
            };
            let end = if tag.starts_with("!--") { "-->" } else { ">" };
            let (inside, behind) = tag.split_once(end).ok_or_else(open)?;
            self.rest = behind;
            if inside.starts_with(['!', '?', '/']) {
                continue;
            }
            let inside = inside.trim_end_matches('/');
            let (name, attributes) = inside
                .split_once(|c: char| c.is_ascii_whitespace())
                .unwrap_or((inside, ""));
            let text = behind.split('<').next().unwrap_or_default().trim();
            return Ok(Some(Element {
                name,
                attributes,
                text,
            }));
        }
    }
}

/// Reads any bytes as a block map, for the fuzzer.
#[doc(hidden)]
pub fn fuzz_bmap(bytes: &[u8]) {
    let Ok(bmap) = Bmap::parse(bytes) else { return };
    let mut end = 0;
    for mapped in &bmap.ranges {
        assert!(mapped.bytes.start >= end && mapped.bytes.start < mapped.bytes.end);
        end = mapped.bytes.end;
    }
    assert!(end <= bmap.image_size());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "<?xml version=\"1.0\" ?>\n<!-- <bmap version=\"9.9\"> -->\n";

    fn map(version: &str, inside: &str) -> Result<Bmap, String> {
        let text = format!("{HEAD}<bmap version='{version}'>\n{inside}</bmap>\n");
        Bmap::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn ranges_are_bytes_of_the_image() {
        let sizes = "<ImageSize> 9000 </ImageSize><BlockSize>4096</BlockSize>\
                     <BlocksCount> 3 </BlocksCount>";
        let sum = "ab".repeat(32);
        let list = format!(
            "{sizes}<BlockMap><Range chksum=\"{sum}\"> 0 </Range>\
                            <Range>1-2</Range></BlockMap>"
        );
        let bmap = map("2.0", &list).unwrap();
        assert_eq!(bmap.ranges[0].bytes, 0..4096);
        assert_eq!(bmap.ranges[0].checksum, Some([0xab; 32]));
        assert_eq!(
            (bmap.ranges[1].bytes.clone(), bmap.ranges[1].checksum),
            (4096..9000, None)
        );
        assert_eq!((bmap.mapped_bytes(), bmap.verified_bytes()), (9000, 4096));
        assert!(map("1.2", &list).is_ok() && map("1.4", &list).is_ok());
        let wrong = [
            ("3.0", list.as_str(), "version 3.0"),
            ("1.3", &list, "type sha1"),
            ("2.0", "", "no ImageSize"),
            ("2.0", "<ImageSize>x</ImageSize>", "no number"),
            ("2.0", "<ImageSize", "no ImageSize"),
            ("2.0", &list.replace("1-2", "1-3"), "behind the image's end"),
            ("2.0", &list.replace("1-2", "0-2"), "out of order"),
            ("2.0", &list.replace("> 3 <", "> 4 <"), "contradict"),
            ("2.0", &list.replace("4096", "4095"), "power of two"),
            ("2.0", &list.replace("abab", "zz"), "malformed"),
            (
                "2.0",
                &format!("{list}<ChecksumType>md5</ChecksumType>"),
                "type md5",
            ),
            (
                "2.0",
                &format!("{list}<MappedBlocksCount>2</MappedBlocksCount>"),
                "as many",
            ),
            (
                "2.0",
                &format!("{list}<BmapFileChecksum>{sum}</BmapFileChecksum>"),
                "should be abab",
            ),
        ];
        for (version, inside, word) in wrong {
            let error = map(version, inside).unwrap_err();
            assert!(error.contains(word), "{error} lacks {word}");
        }
        assert!(Bmap::parse(b"<html>").is_err() && Bmap::parse(b"<bmap").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(<|>|<bmap version=\"2.0\">|<Range>|-|[0-9]{1,20}|</?[A-Za-z]{1,9}>|=|\"|'| ){0,40}") {
            super::fuzz_bmap(text.as_bytes());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            super::fuzz_bmap(&bytes);
        }
    }
}
