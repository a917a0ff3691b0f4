//! `pieeprom.bin`: the content of the boot EEPROM.
//!
//! A chain of sections, each `[magic: u32][length: u32][content]`, big-endian, at places that are
//! multiples of 8. A file that may be changed is a section of its own kind: its content begins with 12
//! bytes of name and 4 of which the tools take no notice. Each such file has an erase block of 4 KiB
//! for itself, filled up by a padding section. (As `rpi-eeprom-config` reads and writes it.)

use super::{Config, ConfigError};
use std::fmt;

/// Bits of a magic number that all sections have in common.
const MAGIC_MASK: u32 = 0xffff_f00f;
const MAGIC: u32 = 0x55aa_f00f;
const FILE_MAGIC: u32 = 0x55aa_f11f;
const PAD_MAGIC: u32 = 0x55aa_feef;
/// Bytes of magic number and length.
const HEADER: usize = 8;
const NAME: usize = 12;
/// Name, and four bytes more.
const FILE_HEADER: usize = NAME + 4;
/// What the flash erases at once. The last such block of an image is the boot loader's own.
const BLOCK: usize = 4096;
/// More sections than any image has.
const MAX_SECTIONS: usize = 1024;

/// The file with the configuration.
const CONFIG: &str = "bootconf.txt";
/// Its signature, on boards that start only what their owner signed.
const CONFIG_SIGNATURE: &str = "bootconf.sig";

/// One section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Where its header begins, in bytes from the beginning of the image.
    pub offset: usize,
    /// Its magic number.
    pub magic: u32,
    /// Bytes behind the header.
    pub length: usize,
    /// Its name, where it is a file that may be changed.
    pub name: Option<String>,
}

/// Why an image cannot be read or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Neither 512 KiB nor 2 MiB: so many bytes.
    Size(usize),
    /// No section where one should begin.
    Section {
        /// Where.
        offset: usize,
        /// What is there.
        magic: u32,
    },
    /// A section that goes on behind the end of the image, or too many of them; where it begins.
    Length(usize),
    /// There is no file of this name.
    NoFile(&'static str),
    /// The file would have so many bytes, and has room for fewer.
    NoRoom {
        /// Its bytes.
        length: usize,
        /// The room.
        room: usize,
    },
    /// The configuration is signed: the board would not take another one without a new signature.
    Signed,
    /// The configuration makes no sense.
    Config(ConfigError),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(
                f,
                "the boot loader image has {size} bytes and should have 524288 (Raspberry Pi 4) or \
                 2097152 (5): is it a pieeprom.bin?"
            ),
            Self::Section { offset, magic } => write!(
                f,
                "the boot loader image is damaged: at byte {offset} is {magic:#010x} and no section"
            ),
            Self::Length(offset) => write!(
                f,
                "the boot loader image is damaged: the section at byte {offset} has no end"
            ),
            Self::NoFile(name) => write!(
                f,
                "the boot loader image has no {name}: take one of the package rpi-eeprom"
            ),
            Self::NoRoom { length, room } => write!(
                f,
                "the configuration has {length} bytes and the boot loader image has room for {room}"
            ),
            Self::Signed => f.write_str(
                "the configuration in this boot loader image is signed, and the board would refuse \
                 another one: change it where the key is",
            ),
            Self::Config(_) => {
                f.write_str("the configuration in the boot loader image is not usable")
            }
        }
    }
}

impl std::error::Error for ImageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            _ => None,
        }
    }
}

/// An image whose sections have been found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    bytes: Vec<u8>,
    sections: Vec<Section>,
}

impl Image {
    /// Bytes of an image for the BCM2711: 4, 400, CM4.
    pub const SIZE_2711: usize = 512 << 10;
    /// Bytes of an image for the BCM2712: 5, 500, CM5.
    pub const SIZE_2712: usize = 2 << 20;

    /// Finds the sections.
    ///
    /// # Errors
    /// Where the bytes are not such an image, or a damaged one.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ImageError> {
        if ![Self::SIZE_2711, Self::SIZE_2712].contains(&bytes.len()) {
            return Err(ImageError::Size(bytes.len()));
        }
        let sections = sections(&bytes)?;
        Ok(Self { bytes, sections })
    }

    /// The whole image.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its sections, in order.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The content of a file that may be changed.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        let section = self.find(name)?;
        let begin = section.offset + HEADER + FILE_HEADER;
        self.bytes
            .get(begin..section.offset + HEADER + section.length)
    }

    /// The configuration.
    ///
    /// # Errors
    /// Where there is none, or it is no text.
    pub fn config(&self) -> Result<Config, ImageError> {
        let text = self.file(CONFIG).ok_or(ImageError::NoFile(CONFIG))?;
        Config::parse(text).map_err(ImageError::Config)
    }

    /// Whether the configuration is signed: for a board that starts only what its owner signed.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        let signature = self.file(CONFIG_SIGNATURE).unwrap_or_default();
        signature.windows(8).any(|window| window == b"rsa2048:")
    }

    /// Puts another configuration in. All else stays, byte for byte.
    ///
    /// # Errors
    /// Where there is no configuration to replace, it is signed, or there is no room.
    pub fn set_config(&mut self, config: &Config) -> Result<(), ImageError> {
        if self.is_signed() {
            return Err(ImageError::Signed);
        }
        let text = config.to_string();
        let found = |section: &Section| section.name.as_deref() == Some(CONFIG);
        let at = self
            .sections
            .iter()
            .position(found)
            .ok_or(ImageError::NoFile(CONFIG))?;
        let (Some(section), Some(behind)) = (self.sections.get(at), self.sections.get(at + 1..))
        else {
            return Err(ImageError::NoFile(CONFIG));
        };
        // Up to the next section that is more than padding, or to the end of the erase block.
        let next = behind.iter().find(|section| section.magic != PAD_MAGIC);
        let is_last = next.is_none();
        let last_end = behind.last().unwrap_or(section).end();
        let end = match next {
            Some(next) => next.offset,
            None => last_end
                .next_multiple_of(BLOCK)
                .min(self.bytes.len() - BLOCK),
        };
        let begin = section.offset;
        let room = end.saturating_sub(begin + HEADER + FILE_HEADER);
        let length = text.len();
        if length > room {
            return Err(ImageError::NoRoom { length, room });
        }
        let Some(place) = self.bytes.get_mut(begin..end) else {
            return Err(ImageError::Length(begin));
        };
        let (header, content) = place.split_at_mut(HEADER + FILE_HEADER);
        // An image is smaller than 4 GiB.
        let number = |length: usize| (length as u32).to_be_bytes();
        header[4..HEADER].copy_from_slice(&number(FILE_HEADER + length));
        content.fill(0xff);
        content[..length].copy_from_slice(text.as_bytes());
        let padding = length.next_multiple_of(8);
        if !is_last
            && let Some(padding) = content.get_mut(padding..)
            && padding.len() >= HEADER
        {
            let length = padding.len() - HEADER;
            padding[..4].copy_from_slice(&PAD_MAGIC.to_be_bytes());
            padding[4..HEADER].copy_from_slice(&number(length));
        }
        self.sections = sections(&self.bytes)?;
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.name.as_deref() == Some(name))
    }
}

impl Section {
    /// Where the next one begins.
    fn end(&self) -> usize {
        (self.offset + HEADER + self.length).next_multiple_of(8)
    }
}

fn sections(bytes: &[u8]) -> Result<Vec<Section>, ImageError> {
    let number = |at: usize| {
        bytes
            .get(at..)?
            .first_chunk()
            .copied()
            .map(u32::from_be_bytes)
    };
    let mut sections = vec![];
    let mut offset = 0;
    while let (Some(magic), Some(length)) = (number(offset), number(offset + 4)) {
        if matches!(magic, 0 | u32::MAX) {
            break;
        }
        if magic & MAGIC_MASK != MAGIC {
            return Err(ImageError::Section { offset, magic });
        }
        let length = length as usize;
        let content = bytes
            .get(offset + HEADER..)
            .and_then(|rest| rest.get(..length));
        let content = content.ok_or(ImageError::Length(offset))?;
        if sections.len() == MAX_SECTIONS {
            return Err(ImageError::Length(offset));
        }
        let name = (magic == FILE_MAGIC && length >= FILE_HEADER).then(|| {
            let name = content.get(..NAME).unwrap_or_default();
            String::from_utf8_lossy(name)
                .trim_end_matches('\0')
                .to_owned()
        });
        let section = Section {
            offset,
            magic,
            length,
            name,
        };
        offset = section.end();
        sections.push(section);
    }
    Ok(sections)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An image as they are: code, then files in blocks of their own.
    pub(in super::super) fn synthetic(size: usize, files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut image = vec![];
        section(&mut image, 0x55aa_f00f, &[0x11; 20_001]);
        section(&mut image, 0x55aa_f22f, &[0x22; 70]);
        let rest = BLOCK - image.len() % BLOCK;
        section(&mut image, PAD_MAGIC, &vec![0xff; rest - HEADER]);
        for (name, content) in files {
            assert_eq!(image.len() % BLOCK, 0);
            let mut file = name.as_bytes().to_vec();
            file.resize(FILE_HEADER, 0);
            file.extend_from_slice(content);
            section(&mut image, FILE_MAGIC, &file);
            let rest = BLOCK - image.len() % BLOCK;
            section(&mut image, PAD_MAGIC, &vec![0xff; rest - HEADER]);
        }
        image.resize(size, 0xff);
        image
    }

    fn section(image: &mut Vec<u8>, magic: u32, content: &[u8]) {
        image.extend(magic.to_be_bytes());
        image.extend((content.len() as u32).to_be_bytes());
        image.extend_from_slice(content);
        image.resize(image.len().next_multiple_of(8), 0xff);
    }

    const TEXT: &[u8] = b"[all]\nBOOT_UART=0\nBOOT_ORDER=0xf41\n";

    #[test]
    fn the_configuration_is_found_and_replaced_and_nothing_else() {
        for size in [Image::SIZE_2711, Image::SIZE_2712] {
            for files in [
                &[
                    ("pubkey.bin", &[7; 264][..]),
                    ("bootconf.txt", TEXT),
                    ("bootconf.sig", b""),
                ][..],
                &[("pubkey.bin", &[7; 264]), ("bootconf.txt", TEXT)],
            ] {
                let before = synthetic(size, files);
                let mut image = Image::parse(before.clone()).unwrap();
                assert_eq!(image.file("pubkey.bin"), Some(&[7; 264][..]));
                let mut config = image.config().unwrap();
                assert_eq!(config.get("BOOT_ORDER"), Some("0xf41"));
                config.set("BOOT_ORDER", "0xf412").unwrap();
                config.set("TFTP_PREFIX", "2").unwrap();
                image.set_config(&config).unwrap();

                let again = Image::parse(image.as_bytes().to_vec()).unwrap();
                assert_eq!(again, image);
                assert_eq!(again.config().unwrap(), config);
                assert_eq!(again.file("bootconf.sig").is_some(), files.len() == 3);
                let place = again.find(CONFIG).unwrap().offset;
                assert_eq!(place % BLOCK, 0);
                let changed = |bytes: &[u8]| {
                    let mut bytes = bytes.to_vec();
                    bytes.drain(place..place + BLOCK);
                    bytes
                };
                assert_eq!(changed(&before), changed(again.as_bytes()));

                // There and back: the same bytes. (A last file has no padding section afterwards.)
                config.remove("TFTP_PREFIX");
                config.set("BOOT_ORDER", "0xf41").unwrap();
                image.set_config(&config).unwrap();
                if files.len() == 3 {
                    assert_eq!(image.as_bytes(), before);
                }
            }
        }
    }

    #[test]
    fn every_length_fits_with_its_padding() {
        let files = [("bootconf.txt", TEXT), ("bootconf.sig", b"")];
        let mut image = Image::parse(synthetic(Image::SIZE_2711, &files)).unwrap();
        for length in (0..40).chain(2000..2020) {
            let text = format!("#{}\n", "x".repeat(length));
            let config = Config::parse(text.as_bytes()).unwrap();
            image.set_config(&config).unwrap();
            assert_eq!(image.file("bootconf.txt"), Some(text.as_bytes()));
            assert_eq!(image.file("bootconf.sig"), Some(&b""[..]));
        }
    }

    #[test]
    fn a_signed_configuration_is_not_touched() {
        let files = [
            ("bootconf.txt", TEXT),
            ("bootconf.sig", b"00ff\nts: 1\nrsa2048: 01\n"),
        ];
        let mut image = Image::parse(synthetic(Image::SIZE_2711, &files)).unwrap();
        let config = image.config().unwrap();
        assert_eq!(image.set_config(&config), Err(ImageError::Signed));
    }

    #[test]
    fn what_is_no_image_is_said() {
        assert_eq!(Image::parse(vec![0; 100]), Err(ImageError::Size(100)));
        let mut image = synthetic(Image::SIZE_2711, &[("bootconf.txt", TEXT)]);
        image[1] = 0;
        let error = Image::parse(image.clone()).unwrap_err().to_string();
        assert!(error.contains("at byte 0 is 0x5500f00f"), "{error}");
        image[1] = 0xaa;
        image[4] = 0xff;
        assert_eq!(Image::parse(image), Err(ImageError::Length(0)));
        let empty = Image::parse(vec![0xff; Image::SIZE_2711]).unwrap();
        assert_eq!(empty.config(), Err(ImageError::NoFile("bootconf.txt")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_images_are_read_or_refused(
            damage in proptest::collection::vec((0..BLOCK * 9, any::<u8>()), 0..6),
        ) {
            let files = [("bootconf.txt", TEXT), ("bootconf.sig", b"")];
            let mut bytes = synthetic(Image::SIZE_2711, &files);
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            if let Ok(mut image) = Image::parse(bytes)
                && let Ok(mut config) = image.config()
                && config.set("BOOT_ORDER", "0xf12").is_ok()
                && image.set_config(&config).is_ok()
            {
                prop_assert_eq!(image.config().unwrap(), config);
            }
        }
    }
}
