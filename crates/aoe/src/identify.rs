//! What a target says of itself: the data of IDENTIFY DEVICE (ATA/ATAPI-6 section 8.15).

use crate::packet::SECTOR;

/// The most sectors that 28 bits address.
const MOST_LBA28: u64 = 0x0fff_ffff;

/// Who a disk says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Model; 40 printable ASCII characters at most.
    pub model: String,
    /// Serial number; 20 printable ASCII characters at most.
    pub serial: String,
}

/// The 512 bytes of a disk of this many sectors. `write_cache` tells whether a write may be acknowledged
/// before it is durable; FLUSH CACHE is supported either way.
#[must_use]
pub fn identify(identity: &Identity, sectors: u64, write_cache: bool) -> [u8; SECTOR] {
    let mut words = [0u16; SECTOR / 2];
    let mut set = |word: usize, value: u16| {
        if let Some(place) = words.get_mut(word) {
            *place = value;
        }
    };
    let mut text = |word: usize, room: usize, text: &str| {
        let plain = |b: u8| if (b' '..=b'~').contains(&b) { b } else { b' ' };
        let mut bytes = text.bytes().map(plain).chain(std::iter::repeat(b' '));
        for place in 0..room / 2 {
            let high = bytes.next().unwrap_or(b' ');
            let low = bytes.next().unwrap_or(b' ');
            set(word + place, u16::from_be_bytes([high, low]));
        }
    };
    text(10, 20, &identity.serial);
    text(23, 8, env!("CARGO_PKG_VERSION"));
    text(27, 40, &identity.model);
    // An ATA device that is not removable.
    set(0, 0x0040);
    // Cylinders, heads and sectors, as every disk beyond 8 GB says; smaller ones have fewer cylinders.
    let cylinders = (sectors / (16 * 63)).min(16_383) as u16;
    let of_geometry = u64::from(cylinders) * 16 * 63;
    for (word, value) in [
        (1, cylinders),
        (3, 16),
        (6, 63),
        (54, cylinders),
        (55, 16),
        (56, 63),
    ] {
        set(word, value);
    }
    set(57, of_geometry as u16);
    set(58, (of_geometry >> 16) as u16);
    // No READ MULTIPLE; LBA is supported; words 54 to 58 hold.
    set(47, 0x8000);
    set(49, 0x0200);
    set(50, 0x4000);
    set(53, 0x0001);
    let lba28 = sectors.min(MOST_LBA28);
    set(60, lba28 as u16);
    set(61, (lba28 >> 16) as u16);
    // ATA-4 to ATA-6.
    set(80, 0x0070);
    // Write cache; power management. 48-bit addresses, FLUSH CACHE and FLUSH CACHE EXT.
    set(82, 0x0028);
    set(83, 0x4000 | 0x0400 | 0x1000 | 0x2000);
    set(84, 0x4000);
    set(85, 0x0008 | if write_cache { 0x0020 } else { 0 });
    set(86, 0x0400 | 0x1000 | 0x2000);
    set(87, 0x4000);
    for place in 0..4 {
        set(100 + place, (sectors >> (16 * place)) as u16);
    }
    // Sectors of 512 bytes, physical and logical; nothing that turns.
    set(106, 0x4000);
    set(217, 1);
    // The signature; the checksum is the byte after it.
    set(255, 0x00a5);
    let mut data = [0; SECTOR];
    for (pair, word) in data.chunks_exact_mut(2).zip(words) {
        pair.copy_from_slice(&word.to_le_bytes());
    }
    let sum = data.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    if let Some(checksum) = data.last_mut() {
        *checksum = sum.wrapping_neg();
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(data: &[u8], word: usize) -> u16 {
        u16::from_le_bytes([data[2 * word], data[2 * word + 1]])
    }

    fn text(data: &[u8], word: usize, length: usize) -> String {
        let bytes = &data[2 * word..2 * word + length];
        let swapped = bytes.chunks(2).flat_map(|pair| [pair[1], pair[0]]);
        String::from_utf8(swapped.collect()).unwrap()
    }

    #[test]
    fn a_disk_tells_its_names_and_sizes() {
        let identity = Identity {
            model: "Bugler disk\n".into(),
            serial: "0123456789012345678901234".into(),
        };
        let data = identify(&identity, 0x1_2345_6789, true);
        assert_eq!(text(&data, 27, 40).trim_end(), "Bugler disk");
        assert_eq!(text(&data, 10, 20), "01234567890123456789");
        assert_eq!(
            u32::from_le_bytes(data[120..124].try_into().unwrap()),
            0x0fff_ffff
        );
        assert_eq!(
            u64::from_le_bytes(data[200..208].try_into().unwrap()),
            0x1_2345_6789
        );
        // What the Linux driver looks at to choose 48 bits.
        assert_ne!((word(&data, 83) | word(&data, 86)) & (1 << 10), 0);
        assert_eq!(data.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
    }

    #[test]
    fn the_write_cache_is_told_as_it_is() {
        let identity = Identity {
            model: "m".into(),
            serial: "s".into(),
        };
        assert_eq!(word(&identify(&identity, 8, false), 85) & 0x20, 0);
        assert_eq!(word(&identify(&identity, 8, true), 85) & 0x20, 0x20);
        assert_eq!(
            word(&identify(&identity, 8, true), 82) & 0x20,
            0x20,
            "supported either way"
        );
    }
}
