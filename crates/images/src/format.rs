//! What kind of bytes an image comes in.

use crate::{qcow2, sparse};
use lzma_rust2::XzReader;
use std::io::{self, BufRead, Read};

/// How an image is packed, told by its first bytes, never by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Not packed.
    Raw,
    /// RFC 1952, of one or more members.
    Gzip,
    /// The .xz format, of one or more streams.
    Xz,
    /// RFC 8878, of one or more frames.
    Zstd,
    /// bzip2, of one or more streams.
    Bzip2,
    /// QEMU's qcow2, version 2 or 3.
    Qcow2,
    /// What `bugler image add` sends of an image with holes.
    Sparse,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Raw => "raw",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Qcow2 => "qcow2",
            Self::Sparse => "sparse stream",
        })
    }
}

/// How many of the first bytes [`Format::detect`] looks at.
pub(crate) const DETECT_LEN: usize = 16;

/// Most memory that an .xz file may ask for, in KiB. `xz -9` needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;

impl Format {
    /// Tells the packing by the first [`DETECT_LEN`] bytes, fewer where the input ends.
    pub(crate) fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // RFC 8878, 3.1.1 and 3.1.2: a frame, or a skippable frame before the first one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            // "BZh" and a digit alone are too little to tell by: what follows is the first
            // block's mark (pi), or the end's (the square root of pi) where there is no block.
            [b'B', b'Z', b'h', b'1'..=b'9', mark @ ..]
                if mark.starts_with(&[0x31, 0x41, 0x59, 0x26, 0x53, 0x59])
                    || mark.starts_with(&[0x17, 0x72, 0x45, 0x38, 0x50, 0x90]) =>
            {
                Self::Bzip2
            }
            _ if start.starts_with(&qcow2::MAGIC) => Self::Qcow2,
            _ if start.starts_with(&sparse::MAGIC) => Self::Sparse,
            _ => Self::Raw,
        }
    }

    /// A reader of what is packed in `input`, to the end of its last member.
    pub(crate) fn unpack<'a>(self, input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            // The latter two are taken apart by those who know their parts.
            Self::Raw | Self::Qcow2 | Self::Sparse => Box::new(input),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Self::Xz => Box::new(XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB)),
            // libzstd's own limit applies: 128 MiB for the window.
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(input)?),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        })
    }
}

/// What is often mistaken for a disk image: where its mark stands, the mark, what it is, and what
/// to do. Only marks that the first sector of a disk never has.
const FOREIGN: &[(usize, &[u8], &str, &str)] = &[
    (
        0,
        b"QFI\xfb",
        "a qcow2 image inside an archive",
        "unpack the archive and add the qcow2 image",
    ),
    (
        0,
        b"KDMV",
        "a VMDK image",
        "convert it: qemu-img convert -O raw IN OUT",
    ),
    (
        0,
        b"COWD",
        "a VMDK image",
        "convert it: qemu-img convert -O raw IN OUT",
    ),
    (
        0,
        b"# Disk DescriptorFile",
        "a VMDK descriptor",
        "convert it: qemu-img convert -O raw IN OUT",
    ),
    (
        0,
        b"vhdxfile",
        "a VHDX image",
        "convert it: qemu-img convert -O raw IN OUT",
    ),
    (
        0,
        b"conectix",
        "a dynamic VHD image",
        "convert it: qemu-img convert -O raw IN OUT",
    ),
    (
        64,
        b"\x7f\x10\xda\xbe",
        "a VirtualBox VDI image",
        "convert it: qemu-img convert -O raw IN OUT",
    ),
    (
        0,
        b"\x3a\xff\x26\xed",
        "an Android sparse image",
        "convert it: simg2img IN OUT",
    ),
    (
        0,
        b"partclone-image",
        "a partclone image",
        "restore it to a raw file with partclone.restore",
    ),
    (
        0,
        b"MSWIM\0\0\0",
        "a Windows WIM archive",
        "make a raw disk image of the installed system",
    ),
    (
        0,
        b"PK\x03\x04",
        "a zip archive",
        "unpack it and add the image inside",
    ),
    (
        0,
        b"7z\xbc\xaf\x27\x1c",
        "a 7-Zip archive",
        "unpack it and add the image inside",
    ),
    (
        0,
        b"Rar!\x1a\x07",
        "a RAR archive",
        "unpack it and add the image inside",
    ),
    (
        257,
        b"ustar",
        "a tar archive",
        "unpack it and add the image inside",
    ),
    (
        0,
        b"\x04\x22\x4d\x18",
        "an lz4 archive",
        "unpack it, or pack it with zstd",
    ),
    (
        0,
        b"LZIP\x01",
        "an lzip archive",
        "unpack it, or pack it with xz",
    ),
    (
        0,
        b"\x89LZO\0\r\n\x1a\n",
        "an lzop archive",
        "unpack it, or pack it with zstd",
    ),
];

/// What HTML pages begin with, in lower case: an error page that was saved as an image.
const HTML: [&[u8]; 2] = [b"<!doctype html", b"<html"];

/// Says what unpacked bytes are, and what to do, when they are obviously not those of a disk.
/// `start` is the disk's beginning: 512 bytes, fewer where it ends.
pub(crate) fn foreign(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let marked = FOREIGN.iter().find(|(at, mark, ..)| {
        start
            .get(*at..)
            .is_some_and(|there| there.starts_with(mark))
    });
    if let Some((_, _, what, hint)) = marked {
        return Some((what, hint));
    }
    if Format::detect(start) != Format::Raw {
        return Some((
            "an archive inside an archive",
            "unpack the outer one and add what is inside",
        ));
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let text = text.trim_ascii_start();
    let is_html = HTML.iter().any(|tag| {
        text.get(..tag.len())
            .is_some_and(|there| there.eq_ignore_ascii_case(tag))
    });
    is_html.then_some((
        "a web page",
        "look at it: a download often saves the server's error message",
    ))
}

/// The sector size that a partition table is made for: a GPT header stands in the second sector
/// (UEFI specification, 5.3.2). `None` where there is none.
pub(crate) fn gpt_sector_size(start: &[u8]) -> Option<u32> {
    [512u32, 4096].into_iter().find(|size| {
        start
            .get(*size as usize..)
            .is_some_and(|header| header.starts_with(b"EFI PART"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{io::Write, sync::LazyLock};

    /// A small archive of each kind, with blocks that compress and blocks that do not.
    static ARCHIVES: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
        let content: Vec<u8> = (0..3000u32)
            .flat_map(|i| (i.wrapping_mul(2_654_435_761) >> (i / 500 * 4)).to_le_bytes())
            .collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&content).unwrap();
        let options = lzma_rust2::XzOptions::with_preset(3);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        xz.write_all(&content).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        bzip2.write_all(&content).unwrap();
        [
            gzip.finish().unwrap(),
            xz.finish().unwrap(),
            zstd::encode_all(&content[..], 19).unwrap(),
            bzip2.finish().unwrap(),
        ]
    });

    proptest! {
        /// Whatever a hostile archive says, its decoder ends, with an error or without.
        #[test]
        fn no_archive_makes_a_decoder_panic_or_hang(
            which in 0usize..4,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut archive = ARCHIVES[which].clone();
            for (at, byte) in changes {
                let at = at.index(archive.len());
                archive[at] = byte;
            }
            archive.truncate(archive.len() - cut.index(archive.len()) / 8);
            for format in [Format::Gzip, Format::Xz, Format::Zstd, Format::Bzip2] {
                if let Ok(decoder) = format.unpack(&archive[..]) {
                    let mut out = Vec::new();
                    let _ = decoder.take(1 << 20).read_to_end(&mut out);
                    prop_assert!(out.len() <= 1 << 20);
                }
            }
        }
    }

    #[test]
    fn archives_are_told_by_content() {
        let cases: [(&[u8], Format); 10] = [
            (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", Format::Gzip),
            (b"\xfd7zXZ\0\0\x04", Format::Xz),
            (b"\x28\xb5\x2f\xfd\x24", Format::Zstd),
            (b"\x5a\x2a\x4d\x18\x04\0\0\0", Format::Zstd),
            (b"BZh91AY&SY....", Format::Bzip2),
            (b"BZh1\x17\x72\x45\x38\x50\x90", Format::Bzip2),
            (b"BZh9, a text", Format::Raw),
            (b"BZh", Format::Raw),
            (b"\xfd7zXZ", Format::Raw),
            (b"", Format::Raw),
        ];
        for (start, format) in cases {
            assert_eq!(Format::detect(start), format, "{start:?}");
        }
    }

    #[test]
    fn what_is_no_disk_is_named() {
        let mut tar = vec![b'x'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let cases: [(&[u8], &str); 7] = [
            (b"QFI\xfb\0\0\0\x03", "a qcow2 image inside an archive"),
            (b"PK\x03\x04....", "a zip archive"),
            (b"\xef\xbb\xbf \r\n<!DOCTYPE HTML>", "a web page"),
            (b"<HTML><body>404", "a web page"),
            (&tar, "a tar archive"),
            (b"\x1f\x8b\x08\0", "an archive inside an archive"),
            (b"conectix\0\0", "a dynamic VHD image"),
        ];
        for (start, what) in cases {
            assert_eq!(foreign(start).map(|f| f.0), Some(what), "{start:?}");
        }
        let mut boot_sector = [0u8; 512];
        boot_sector[..3].copy_from_slice(&[0xeb, 0x63, 0x90]);
        boot_sector[510..].copy_from_slice(&[0x55, 0xaa]);
        for start in [&boot_sector[..], &[0; 512], b"plain text", b"<", b""] {
            assert_eq!(foreign(start), None);
        }
    }

    #[test]
    fn the_sector_size_is_where_the_gpt_header_is() {
        let mut disk = vec![0; 8192];
        assert_eq!(gpt_sector_size(&disk), None);
        disk[4096..4104].copy_from_slice(b"EFI PART");
        assert_eq!(gpt_sector_size(&disk), Some(4096));
        assert_eq!(gpt_sector_size(&disk[..4100]), None);
        disk[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(gpt_sector_size(&disk), Some(512));
    }
}
