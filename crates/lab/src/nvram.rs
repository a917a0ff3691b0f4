//! The settings of EDK2 firmware: boots from the network, by PXE or by HTTP, then from the disk.
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
/// The state of a variable that is there, and of one that is no longer.
const ADDED: u8 = 0x3f;
const DELETED: u8 = 0x3d;
/// Bytes before the first variable: the store's header.
const STORE_HEADER: usize = 28;
/// A variable's header.
const HEADER: usize = 60;

/// The size of the volume with the settings on QEMU's board for Arm.
const ARM_VOLUME: u64 = 0xc_0000;
/// The blocks of that board's flash, all 64 MiB of it: how many, and their size.
const ARM_BLOCKS: (u32, u32) = (256, 0x4_0000);
/// The size of the store of variables on that board.
const ARM_STORE: u32 = 0x3_ffb8;
/// The header of a firmware volume with a block map of one entry.
const VOLUME_HEADER: usize = 0x48;
/// A firmware volume with settings: FFF12B8D-7696-4C8B-A985-2747075B4F50.
const SETTINGS: [u8; 16] = [
    0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50,
];

/// Makes an empty store of settings, as EDK2 for QEMU's Arm board makes it on its first start, in a
/// flash that has never been used: all zero.
///
/// # Errors
///
/// When `flash` has been used, or is too small.
pub fn format_arm(flash: &mut [u8]) -> Result<()> {
    ensure!(
        flash.iter().all(|&byte| byte == 0),
        "the firmware's settings are not empty"
    );
    let volume = flash
        .get_mut(..usize::try_from(ARM_VOLUME)?)
        .context("the firmware's settings are too short")?;
    // Erased flash is all ones.
    volume.fill(0xff);
    let mut header = vec![0; 16];
    header.extend(SETTINGS);
    header.extend(ARM_VOLUME.to_le_bytes());
    header.extend(b"_FVH");
    // Attributes as EDK2 sets them; length, checksum, no extended header, reserved, revision.
    header.extend(0x0e36_u32.to_le_bytes());
    header.extend((VOLUME_HEADER as u16).to_le_bytes());
    header.extend([0, 0, 0, 0, 0, 2]);
    let (blocks, size) = ARM_BLOCKS;
    header.extend(blocks.to_le_bytes());
    header.extend(size.to_le_bytes());
    header.extend([0; 8]);
    let sum = header.chunks_exact(2).fold(0_u16, |sum, pair| {
        sum.wrapping_add(u16::from_le_bytes([pair[0], pair[1]]))
    });
    header[0x32..0x34].copy_from_slice(&0_u16.wrapping_sub(sum).to_le_bytes());
    header.extend(STORE);
    header.extend(ARM_STORE.to_le_bytes());
    // Formatted, healthy; reserved.
    header.extend([0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
    for (place, byte) in volume.iter_mut().zip(header) {
        *place = byte;
    }
    Ok(())
}

/// How a machine boots from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By PXE.
    Pxe,
    /// By HTTP.
    Http,
}

/// Writes into the settings `vars` that a machine with the network address `mac` boots from the
/// network and then from its disk. Boot options that were there are deleted, everything else stays:
/// the keys of Secure Boot, for one.
///
/// # Errors
///
/// When `vars` is not a firmware volume with a store of authenticated variables, or that is full.
pub fn network_then_disk(vars: &mut [u8], mac: MacAddr, way: Way) -> Result<()> {
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
        ("Boot0000", network_option(mac, way)),
        ("Boot0001", disk_option()),
        ("BootOrder", vec![0, 0, 1, 0]),
    ] {
        variables.extend(variable(name, &data)?);
        // The next one is aligned; erased flash is all ones.
        variables.resize(variables.len().next_multiple_of(4), 0xff);
    }
    let first = delete_boot_options(vars, first)?;
    let place = vars
        .get_mut(first..first + variables.len())
        .context("the store is too small")?;
    ensure!(
        place.iter().all(|&byte| byte == 0xff),
        "the store of the firmware's settings is full or damaged"
    );
    place.copy_from_slice(&variables);
    Ok(())
}

/// Deletes the boot options, which begin at `first`; returns where the variables end.
fn delete_boot_options(vars: &mut [u8], first: usize) -> Result<usize> {
    let mut at = first;
    while vars.get(at..at + 2) == Some(&[0xaa, 0x55]) {
        let header = vars.get(at..at + HEADER).context("a variable is cut off")?;
        let length = |from: usize| {
            let bytes = [
                header[from],
                header[from + 1],
                header[from + 2],
                header[from + 3],
            ];
            u32::from_le_bytes(bytes) as usize
        };
        let (name, data) = (length(36), length(40));
        let end = at + HEADER + name.checked_add(data).context("a variable is too long")?;
        let spelt = vars.get(at + HEADER..at + HEADER + name);
        let boot = spelt.is_some_and(|name| {
            name == text("BootOrder") || (name.starts_with(&text("Boot")[..8]) && name.len() == 18)
        });
        if boot && vars[at + 2] == ADDED {
            vars[at + 2] = DELETED;
        }
        at = end.next_multiple_of(4);
    }
    Ok(at)
}

fn variable(name: &str, data: &[u8]) -> Result<Vec<u8>> {
    let name = text(name);
    let mut bytes = Vec::with_capacity(HEADER + name.len() + data.len());
    // The mark of a variable, its state (added), and a reserved byte.
    bytes.extend([0xaa, 0x55, ADDED, 0]);
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

fn network_option(mac: MacAddr, way: Way) -> Vec<u8> {
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
    if way == Way::Http {
        // URI node without a URI: DHCP tells it.
        path.extend([0x03, 0x18, 4, 0]);
        return option(&format!("UEFI HTTPv4 (MAC:{digits})"), path);
    }
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
            hex(&network_option(MAC, Way::Pxe)),
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

    /// What AAVMF 2022.11 (Debian 12) made of a flash that was all zero.
    #[test]
    fn a_new_store_is_the_one_that_edk2_makes() {
        let mut flash = vec![0; 1 << 20];
        format_arm(&mut flash).unwrap();
        assert_eq!(
            hex(&flash[..0x64]),
            "000000000000000000000000000000008d2bf1ff96768b4ca9852747075b4f5000000c0000000000\
             5f465648360e00004800f8f80000000200010000000004000000000000000000782cf3aa7b949a43\
             a1802e144ec37792b8ff03005afe000000000000"
        );
        assert!(flash[0x64..0xc_0000].iter().all(|&byte| byte == 0xff));
        assert!(flash[0xc_0000..].iter().all(|&byte| byte == 0));
        network_then_disk(&mut flash, MAC, Way::Pxe).unwrap();
        assert!(format_arm(&mut flash).is_err());
        assert!(format_arm(&mut [0; 4096]).is_err());
    }

    #[test]
    fn boot_options_are_replaced_and_everything_else_stays() {
        let mut vars = vec![0xff; 4096];
        assert!(network_then_disk(&mut vars, MAC, Way::Pxe).is_err());
        vars[0x28..0x2c].copy_from_slice(b"_FVH");
        vars[0x30..0x32].copy_from_slice(&0x48_u16.to_le_bytes());
        vars[0x48..0x58].copy_from_slice(&STORE);
        let first = 0x48 + STORE_HEADER;
        let key = variable("PK", &[1, 2, 3]).unwrap();
        vars[first..first + key.len()].copy_from_slice(&key);
        network_then_disk(&mut vars, MAC, Way::Pxe).unwrap();
        let next = first + key.len().next_multiple_of(4);
        assert_eq!(vars[first..first + key.len()], key);
        assert_eq!(vars[next..next + 4], [0xaa, 0x55, ADDED, 0]);
        assert_eq!(vars[next + 36..next + 40], 18_u32.to_le_bytes());
        let end = |vars: &[u8]| vars.iter().rposition(|&byte| byte != 0xff).unwrap() + 1;
        assert_eq!(vars[end(&vars) - 4..end(&vars)], [0, 0, 1, 0]);
        let before = end(&vars);
        network_then_disk(&mut vars, MAC, Way::Http).unwrap();
        assert_eq!(vars[next + 2], DELETED);
        assert_eq!(vars[first + 2], ADDED);
        assert!(end(&vars) > before);
        assert!(network_then_disk(&mut vars[..300], MAC, Way::Pxe).is_err());
    }
}
