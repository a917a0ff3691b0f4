//! The checksums of partition tables and of ext: cyclic redundancy checks, all with the lowest bit
//! first.

/// What each byte does to the register of a check with this polynomial.
const fn table32(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ if value & 1 == 1 { polynomial } else { 0 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

/// CRC-32 as in Ethernet and GPT.
static CRC32: [u32; 256] = table32(0xedb8_8320);
/// CRC-32C (Castagnoli), as in ext4.
static CRC32C: [u32; 256] = table32(0x82f6_3b78);
/// CRC-16 as in Modbus; its 16 bits are the low ones.
static CRC16: [u32; 256] = table32(0xa001);

fn run(table: &[u32; 256], start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |register, &byte| {
        (register >> 8) ^ table[usize::from(register as u8 ^ byte)]
    })
}

/// The CRC-32 of a GPT (UEFI specification 2.10, section 5.3.2).
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !run(&CRC32, u32::MAX, bytes)
}

/// Goes on with a CRC-32C from `start`, with neither end inverted: as ext4 does it.
pub(crate) fn crc32c(start: u32, bytes: &[u8]) -> u32 {
    run(&CRC32C, start, bytes)
}

/// Goes on with a CRC-16 from `start`: as ext4 does it for group descriptors.
pub(crate) fn crc16(start: u16, bytes: &[u8]) -> u16 {
    // The register never has more than 16 bits: neither the table nor the start does.
    run(&CRC16, u32::from(start), bytes) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values that catalogues of these algorithms give for the nine digits.
    #[test]
    fn the_check_values_of_the_algorithms() {
        let digits = b"123456789";
        assert_eq!(crc32(digits), 0xcbf4_3926);
        assert_eq!(!crc32c(u32::MAX, digits), 0xe306_9283);
        assert_eq!(crc16(u16::MAX, digits), 0x4b37);
    }
}
