//! Who asks, as what.

use crate::pi;
use bugler_model::{Arch, Firmware, MacAddr};
use uuid::Uuid;

/// What a request tells of the machine that sent it.
///
/// Read from DHCP options by [`from_options`](Self::from_options). Firmware in the wild leaves
/// options out, sends them with odd lengths, or lies; nothing here fails, it only knows less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFacts {
    /// The interface that asks.
    pub mac: MacAddr,
    /// Option 97 (RFC 4578 section 2.3) of type 0, unless it is all zero or all ones.
    pub uuid: Option<Uuid>,
    /// Option 93 (RFC 4578 section 2.1): every value, in the client's order; where the option is
    /// missing, the `:Arch:` of option 60.
    pub archs: Vec<u16>,
    /// The architecture that the first known value of `archs` means.
    pub arch: Option<Arch>,
    /// The program that asks. `None`: it did not ask to boot (an operating system that wants an
    /// address).
    pub firmware: Option<Firmware>,
    /// Option 60 as text, at most 64 characters, control characters replaced.
    pub vendor_class: Option<String>,
    /// Which Raspberry Pi it is, where it is the boot loader of one.
    pub pi: Option<pi::Identity>,
}

/// What one value of option 93 means: architecture, and whether HTTP boot and UEFI.
fn architecture(value: u16) -> Option<(Arch, bool, bool)> {
    // IANA "Processor Architecture Types"; 9 (EBC) is what some x64 firmware sends.
    Some(match value {
        0x00 => (Arch::X86, false, false),
        0x06 => (Arch::X86, false, true),
        0x07 | 0x09 => (Arch::X86_64, false, true),
        0x0a => (Arch::Arm, false, true),
        0x0b => (Arch::Aarch64, false, true),
        0x0f => (Arch::X86, true, true),
        0x10 | 0x11 => (Arch::X86_64, true, true),
        0x12 => (Arch::Arm, true, true),
        0x13 => (Arch::Aarch64, true, true),
        0x15 => (Arch::Arm, false, false),
        0x16 => (Arch::Aarch64, false, false),
        _ => return None,
    })
}

impl ClientFacts {
    /// Reads the facts; `option` gives the value of a DHCP option by its number.
    pub fn from_options<'a>(mac: MacAddr, option: impl Fn(u8) -> Option<&'a [u8]>) -> Self {
        let vendor_class = option(60).map(printable);
        let mut archs: Vec<u16> = option(93)
            .unwrap_or_default()
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .take(16)
            .collect();
        if archs.is_empty() {
            archs.extend(vendor_class.as_deref().and_then(arch_of_vendor_class));
        }
        let known = archs.iter().find_map(|&value| architecture(value));
        let ipxe = is_ipxe(option(77)) || option(175).is_some();
        let class = vendor_class.as_deref().unwrap_or_default();
        let uefi = known.is_some_and(|(_, _, uefi)| uefi);
        let pi = pi::Identity::of_boot_loader(mac, &option);
        let firmware = if pi.is_some() {
            Some(Firmware::RaspberryPi)
        } else if ipxe {
            Some(if uefi {
                Firmware::IpxeUefi
            } else {
                Firmware::IpxeBios
            })
        } else if class.contains("U-Boot") {
            Some(Firmware::UBoot)
        } else if class.starts_with("HTTPClient") {
            Some(Firmware::UefiHttp)
        } else if class.starts_with("PXEClient") {
            Some(if uefi {
                Firmware::UefiPxe
            } else {
                Firmware::BiosPxe
            })
        } else {
            None
        };
        // A BIOS client says 0 whatever its processor; so does iPXE on BIOS when it says nothing, and
        // every Raspberry Pi.
        let arch = pi
            .map(|_| Arch::Aarch64)
            .or(known.map(|(arch, ..)| arch))
            .or((firmware.is_some() && archs.is_empty()).then_some(Arch::X86));
        Self {
            mac,
            uuid: option(97).and_then(client_uuid),
            archs,
            arch,
            firmware,
            vendor_class,
            pi,
        }
    }

    /// Facts of an iPXE that fetches its script over HTTP: all that a request path tells.
    #[must_use]
    pub fn of_script_request(mac: MacAddr, firmware: Firmware, arch: Option<Arch>) -> Self {
        Self {
            mac,
            uuid: None,
            archs: vec![],
            arch,
            firmware: Some(firmware),
            vendor_class: None,
            pi: None,
        }
    }

    /// One line for people: `52:54:00:12:34:56 (UEFI PXE, arch 7)`.
    #[must_use]
    pub fn describe(&self) -> String {
        let archs: Vec<String> = self.archs.iter().map(u16::to_string).collect();
        match self.firmware {
            Some(firmware) if archs.is_empty() => format!("{} ({firmware})", self.mac),
            Some(firmware) => format!("{} ({firmware}, arch {})", self.mac, archs.join("+")),
            None => format!("{} (not a boot request)", self.mac),
        }
    }
}

/// Option 77 is iPXE's plain text, or an RFC 3004 list whose first class is that text.
fn is_ipxe(user_class: Option<&[u8]>) -> bool {
    user_class.is_some_and(|class| class == b"iPXE" || class == b"\x04iPXE")
}

/// `PXEClient:Arch:00007:UNDI:003016` -> 7.
fn arch_of_vendor_class(class: &str) -> Option<u16> {
    let (_, rest) = class.split_once(":Arch:")?;
    rest.split(':').next()?.parse().ok()
}

fn client_uuid(option: &[u8]) -> Option<Uuid> {
    let [0, bytes @ ..] = option else { return None };
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    if bytes == [0; 16] || bytes == [0xff; 16] {
        return None;
    }
    // SMBIOS 2.6 and later stores the first three fields little-endian (DSP0134 section 7.2.1), and
    // firmware sends the structure's bytes as they are: seen from iPXE's ROM and from EDK2. Read so,
    // it is the text that the operating system shows as the machine's UUID.
    Some(Uuid::from_bytes_le(bytes))
}

fn printable(bytes: &[u8]) -> String {
    // Four times as many bytes as there are characters to keep: what is behind them costs nothing.
    String::from_utf8_lossy(bytes.get(..256).unwrap_or(bytes))
        .trim_end_matches('\0')
        .chars()
        .take(64)
        .map(|c| if c.is_control() { '.' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    fn facts(options: &[(u8, &[u8])]) -> ClientFacts {
        let map: HashMap<u8, &[u8]> = options.iter().copied().collect();
        ClientFacts::from_options(MAC, |code| map.get(&code).copied())
    }

    #[test]
    fn an_intel_nuc_is_uefi_pxe_with_its_uuid() {
        let facts = facts(&[
            (60, b"PXEClient:Arch:00007:UNDI:003016"),
            (93, &[0, 7]),
            (94, &[1, 3, 16]),
            (97, &hex("0066ffad1ee719ad849831b8aeed7d5f80")),
        ]);
        assert_eq!(facts.firmware, Some(Firmware::UefiPxe));
        assert_eq!(facts.arch, Some(Arch::X86_64));
        assert_eq!(
            facts.uuid.unwrap().to_string(),
            "1eadff66-19e7-84ad-9831-b8aeed7d5f80"
        );
    }

    #[test]
    fn the_architecture_is_read_from_the_class_when_option_93_is_missing() {
        let facts = facts(&[(60, b"PXEClient:Arch:00000:UNDI:002001")]);
        assert_eq!(
            (facts.firmware, facts.arch),
            (Some(Firmware::BiosPxe), Some(Arch::X86))
        );
        assert_eq!(facts.archs, [0]);
    }

    #[test]
    fn every_value_of_option_93_is_kept_and_the_first_known_one_counts() {
        let facts = facts(&[(60, b"PXEClient"), (93, &[0, 99, 0, 7, 0, 0, 1])]);
        assert_eq!(facts.archs, [99, 7, 0]);
        assert_eq!(facts.arch, Some(Arch::X86_64));
    }

    #[test]
    fn ipxe_is_known_by_user_class_or_by_its_feature_option() {
        for options in [
            &[(77u8, &b"iPXE"[..]), (93, &[0, 0])][..],
            &[(77, b"\x04iPXE"), (93, &[0, 0])],
            &[(175, &[0x13, 1, 1]), (93, &[0, 0])],
        ] {
            assert_eq!(facts(options).firmware, Some(Firmware::IpxeBios));
        }
        assert_eq!(
            facts(&[(77, b"iPXE"), (93, &[0, 7])]).firmware,
            Some(Firmware::IpxeUefi)
        );
    }

    #[test]
    fn an_operating_system_is_not_a_boot_client() {
        assert_eq!(facts(&[(60, b"MSFT 5.0")]).firmware, None);
        assert_eq!(facts(&[]).firmware, None);
    }

    #[test]
    fn a_filler_uuid_is_none() {
        assert_eq!(facts(&[(97, &[0; 17])]).uuid, None);
        let mut ones = [0xff; 17];
        ones[0] = 0;
        assert_eq!(facts(&[(97, &ones)]).uuid, None);
        assert_eq!(facts(&[(97, &[0, 1, 2])]).uuid, None);
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn any_options_are_read(
            options in proptest::collection::hash_map(
                prop_oneof![Just(60u8), Just(77), Just(93), Just(94), Just(97), Just(175)],
                proptest::collection::vec(any::<u8>(), 0..300), 0..6)
        ) {
            let facts = ClientFacts::from_options(MAC, |c| options.get(&c).map(Vec::as_slice));
            prop_assert!(facts.archs.len() <= 16);
            prop_assert!(facts.describe().len() < 200);
        }
    }
}
