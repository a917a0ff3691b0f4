//! The settings of EDK2 firmware: boots from the network by PXE, then from the disk.
//!
//! Left to itself EDK2 tries, between the two, HTTP boot over IPv4 and over IPv6, and waits more
//! than a minute for each where nobody answers. An owner of such a board turns that off; EDK2 for
//! virtual machines has no such switch, but it keeps the order of boot options that it finds in its
//! settings and puts new ones behind them.
//!
//! The settings are a firmware volume with authenticated variables (UEFI Platform Initialization
//! specification 1.8, volume 3, section 3.2.1; EDK2, `VariableFormat.h`); boot options are
//! `EFI_LOAD_OPTION` (UEFI specification 2.10, section 3.1.3) with device paths (section 10.3).

use anyhow::{Context, Result, ensure};
use bugler_model::MacAddr;

/// The slot of the network card on the PCI bus that the settings speak of.
pub const NETWORK_SLOT: u8 = 1;
/// The slot of the disk.
pub const DISK_SLOT: u8 = 2;

/// Variables of the boot manager: 8BE4DF61-93CA-11D2-AA0D-00E098032B8C.
const GLOBAL: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];
/// A store of authenticated variables: AAF32C78-947B-439A-A180-2E144EC37792.
const STORE: [u8; 16] = [
    0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92,
];
/// What EDK2 puts behind boot options that it has made itself; without it, it would make others.
const MADE_BY_EDK2: [u8; 16] = [
    0x4e, 0xac, 0x08, 0x81, 0x11, 0x9f, 0x59, 0x4d, 0x85, 0x0e, 0xe2, 0x1a, 0x52, 0x2c, 0x59, 0xb2,
];
/// Non-volatile, for boot services and at run time.
const ATTRIBUTES: u32 = 7;
/// Bytes before the first variable: the store's header.
const STORE_HEADER: usize = 28;
/// A variable's header.
const HEADER: usize = 60;

/// Writes into the empty settings `vars` that a machine with the network address `mac` boots from
/// the network and then from its disk.
///
/// # Errors
///
/// When `vars` is not a firmware volume with an empty store of authenticated variables.
pub fn network_then_disk(vars: &mut [u8], mac: MacAddr) -> Result<()> {
    let volume = vars
        .get(0x28..0x32)
        .context("the firmware's settings are too short")?;
    ensure!(
        volume.starts_with(b"_FVH"),
        "the firmware's settings are not a firmware volume"
    );
    let store = usize::from(u16::from_le_bytes([volume[8], volume[9]]));
    let first = store + STORE_HEADER;
    ensure!(
        vars.get(store..first)
            .is_some_and(|header| header.starts_with(&STORE)),
        "the firmware's settings hold no store of authenticated variables"
    );
    let mut variables = Vec::new();
    for (name, data) in [
        ("Boot0000", network_option(mac)),
        ("Boot0001", disk_option()),
        ("BootOrder", vec![0, 0, 1, 0]),
    ] {
        variables.extend(variable(name, &data)?);
        // The next one is aligned; erased flash is all ones.
        variables.resize(variables.len().next_multiple_of(4), 0xff);
    }
    let place = vars
        .get_mut(first..first + variables.len())
        .context("the store is too small")?;
    ensure!(
        place.iter().all(|&byte| byte == 0xff),
        "the firmware's settings are not empty"
    );
    place.copy_from_slice(&variables);
    Ok(())
}

fn variable(name: &str, data: &[u8]) -> Result<Vec<u8>> {
    let name = text(name);
    let mut bytes = Vec::with_capacity(HEADER + name.len() + data.len());
    // The mark of a variable, its state (added), and a reserved byte.
    bytes.extend([0xaa, 0x55, 0x3f, 0]);
    bytes.extend(ATTRIBUTES.to_le_bytes());
    // Counter, time stamp and key: for variables that are signed.
    bytes.extend([0; 8 + 16 + 4]);
    bytes.extend(u32::try_from(name.len())?.to_le_bytes());
    bytes.extend(u32::try_from(data.len())?.to_le_bytes());
    bytes.extend(GLOBAL);
    bytes.extend(name);
    bytes.extend(data);
    Ok(bytes)
}

fn network_option(mac: MacAddr) -> Vec<u8> {
    let digits = mac.to_string().replace(':', "").to_uppercase();
    let mut path = pci(NETWORK_SLOT);
    // MAC address node: 32 bytes of address, then the interface's type (Ethernet).
    path.extend([0x03, 0x0b, 37, 0]);
    path.extend(mac.0);
    path.extend([0; 26]);
    path.push(1);
    // IPv4 node with nothing set: DHCP.
    path.extend([0x03, 0x0c, 27, 0]);
    path.extend([0; 23]);
    option(&format!("UEFI PXEv4 (MAC:{digits})"), path)
}

fn disk_option() -> Vec<u8> {
    // What EDK2 calls a virtio disk.
    option("UEFI Misc Device", pci(DISK_SLOT))
}

/// The device path of a slot of the first PCI bus.
fn pci(slot: u8) -> Vec<u8> {
    // ACPI node PNP0A03 number 0, then a PCI node: function, device.
    let mut path = vec![0x02, 0x01, 12, 0, 0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0];
    path.extend([0x01, 0x01, 6, 0, 0, slot]);
    path
}

fn option(description: &str, mut path: Vec<u8>) -> Vec<u8> {
    path.extend([0x7f, 0xff, 4, 0]);
    // Active.
    let mut bytes = vec![1, 0, 0, 0];
    bytes.extend((path.len() as u16).to_le_bytes());
    bytes.extend(text(description));
    bytes.extend(path);
    bytes.extend(MADE_BY_EDK2);
    bytes
}

/// UTF-16 with a zero at the end.
fn text(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0x00, 0x20, 0x50, 0x01]);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What OVMF 2022.11 (Debian 12) wrote for a virtio card in slot 1 and a virtio disk in slot 2.
    #[test]
    fn boot_options_are_those_that_edk2_makes() {
        assert_eq!(
            hex(&network_option(MAC)),
            "0100000056005500450046004900200050005800450076003400200028004d00410043003a003500\
             320035003400300030003200300035003000300031002900000002010c00d041030a000000000101\
             06000001030b25005254002050010000000000000000000000000000000000000000000000000000\
             01030c1b0000000000000000000000000000000000000000000000007fff04004eac0881119f594d\
             850ee21a522c59b2"
        );
        assert_eq!(
            hex(&disk_option()),
            "010000001600550045004600490020004d0069007300630020004400650076006900630065000000\
             02010c00d041030a000000000101060000027fff04004eac0881119f594d850ee21a522c59b2"
        );
    }

    #[test]
    fn writes_into_an_empty_store_only() {
        let mut vars = vec![0xff; 4096];
        assert!(network_then_disk(&mut vars, MAC).is_err());
        vars[0x28..0x2c].copy_from_slice(b"_FVH");
        vars[0x30..0x32].copy_from_slice(&0x48_u16.to_le_bytes());
        vars[0x48..0x58].copy_from_slice(&STORE);
        network_then_disk(&mut vars, MAC).unwrap();
        let first = 0x48 + STORE_HEADER;
        assert_eq!(vars[first..first + 4], [0xaa, 0x55, 0x3f, 0]);
        assert_eq!(vars[first + 36..first + 40], 18_u32.to_le_bytes());
        let end = vars.iter().rposition(|&byte| byte != 0xff).unwrap() + 1;
        assert_eq!(vars[end - 4..end], [0, 0, 1, 0]);
        assert!(network_then_disk(&mut vars, MAC).is_err());
        assert!(network_then_disk(&mut vars[..300], MAC).is_err());
    }
}
