//! Decompression with bounds: whatever a header claims, neither memory nor output is without
//! limit.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

/// Most memory that an .xz file may ask for, in KiB: twice what `xz -9` needs.
const XZ_MEMORY: u32 = 128 << 10;

/// Largest window of a zstd frame, as a power of two: what `zstd --long` makes.
const ZSTD_WINDOW: u32 = 27;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// Tells it from the first bytes.
    pub(crate) fn of(start: &[u8]) -> Self {
        if start.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if start.starts_with(b"\xfd7zXZ\0") {
            Self::Xz
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// What is inside `source`, whichever way it is compressed, or not at all.
pub(crate) fn reader<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(1 << 16, source);
    let compression = Compression::of(source.fill_buf()?);
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, XZ_MEMORY)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
    })
}

/// Reads all of `source`, decompressed; an error when that is more than `limit` bytes.
pub(crate) fn read_all(source: File, limit: u64) -> io::Result<Vec<u8>> {
    read_limited(reader(source)?, limit)
}

/// Reads all of `source` as it is; an error when that is more than `limit` bytes.
pub(crate) fn read_plain(source: File, limit: u64) -> io::Result<Vec<u8>> {
    read_limited(source, limit)
}

fn read_limited(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    source
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > limit {
        let problem = format!("it has more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const CONTENT: &[u8] = b"a kernel module, a kernel module, a kernel module";

    fn unpack(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        read_limited(reader(bytes)?, limit)
    }

    fn compressed() -> [Vec<u8>; 4] {
        let gzip = {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            out.write_all(CONTENT).unwrap();
            out.finish().unwrap()
        };
        let xz = {
            let options = lzma_rust2::XzOptions::with_preset(6);
            let mut out = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            out.write_all(CONTENT).unwrap();
            out.finish().unwrap()
        };
        [
            CONTENT.to_vec(),
            gzip,
            xz,
            zstd::encode_all(CONTENT, 3).unwrap(),
        ]
    }

    #[test]
    fn every_compression_is_told_by_its_content() {
        for bytes in compressed() {
            assert_eq!(unpack(&bytes[..], 1000).unwrap(), CONTENT);
        }
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        let limit = CONTENT.len() as u64;
        for bytes in compressed() {
            assert!(unpack(&bytes[..], limit).is_ok());
            let error = unpack(&bytes[..], limit - 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        }
    }

    #[test]
    fn cut_files_are_errors() {
        for bytes in &compressed()[1..] {
            assert!(unpack(&bytes[..bytes.len() - 3], 1000).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            which in 0_usize..4, at in 0_usize..60, garbage in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut bytes = compressed()[which].clone();
            bytes.truncate(at);
            bytes.extend(garbage);
            if let Ok(content) = unpack(&bytes[..], 5000) {
                prop_assert!(content.len() <= 5000);
            }
        }
    }
}
