//! A script for U-Boot's shell, as the legacy image that its `source` command takes.
//!
//! U-Boot's own boot sequence asks for `boot.scr.uimg`; the script sends it on to its `pxe` command,
//! which reads PXELINUX configurations.

use super::{Target, plain};

/// `IH_MAGIC` of a legacy image.
const MAGIC: u32 = 0x2705_1956;
/// `IH_OS_LINUX`.
const LINUX: u8 = 5;
/// `IH_ARCH_ARM64`; the type of a script does not depend on it.
const ARM64: u8 = 22;
/// `IH_TYPE_SCRIPT`.
const SCRIPT: u8 = 6;
/// Length of the header, in bytes.
const HEADER: usize = 64;

pub(super) fn script(target: Target<'_>) -> Vec<u8> {
    let text = format!(
        "echo Bugler: {} asks what to boot\nif pxe get; then pxe boot; fi\n",
        plain(target.label)
    );
    image(&text)
}

/// The image: a header, then the lengths of its parts with a zero behind them, then the one part.
fn image(text: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(8 + text.len());
    // A few lines: the length is far below 4 GiB.
    data.extend_from_slice(&(text.len() as u32).to_be_bytes());
    data.extend_from_slice(&[0; 4]);
    data.extend_from_slice(text.as_bytes());
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC.to_be_bytes());
    header[12..16].copy_from_slice(&(data.len() as u32).to_be_bytes());
    header[24..28].copy_from_slice(&crc32(&data).to_be_bytes());
    header[28..32].copy_from_slice(&[LINUX, ARM64, SCRIPT, 0]);
    header[32..38].copy_from_slice(b"Bugler");
    let sum = crc32(&header);
    header[4..8].copy_from_slice(&sum.to_be_bytes());
    [&header[..], &data].concat()
}

/// CRC-32 of ISO 3309, which zlib has as well. Images are a few hundred bytes: no table is needed.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_header_says_what_follows() {
        let image = image("pxe get\n");
        assert_eq!(image.len(), HEADER + 8 + 8);
        assert_eq!(image[..4], MAGIC.to_be_bytes());
        assert_eq!(image[12..16], 16u32.to_be_bytes());
        let mut header = image[..HEADER].to_vec();
        header[4..8].fill(0);
        assert_eq!(image[4..8], crc32(&header).to_be_bytes());
        assert_eq!(&image[HEADER + 8..], b"pxe get\n");
    }
}
