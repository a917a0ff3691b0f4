//! Which Raspberry Pi asks.

use super::Revision;
use bugler_model::MacAddr;
use std::fmt;

/// The blocks of MAC addresses that Raspberry Pi boards have. The list goes out of date with every
/// new block: what option 97 says counts before it.
pub const OUIS: [[u8; 3]; 7] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0x28, 0xcd, 0xc1],
    [0xd8, 0x3a, 0xdd],
    [0x2c, 0xcf, 0x67],
    [0x88, 0xa2, 0x9e],
];

/// The first block: boards whose MAC address is made from the serial number, up to the 3B+.
const FIRST_OUI: [u8; 3] = [0xb8, 0x27, 0xeb];

/// What the boot ROM of a 3B sends instead of a machine identifier.
const CONSTANT_3B: [u8; 16] = [0x44; 16];

/// The vendor class of every Raspberry Pi boot ROM, and of many a BIOS PC.
const VENDOR_CLASS: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";

/// Boards that boot alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// 3B, and 2B 1.2: boot ROM in the chip, with its defects.
    Pi3,
    /// 3B+: boot ROM in the chip.
    Pi3Plus,
    /// 4B, 400: boot loader in an EEPROM.
    Pi4,
    /// CM4, CM4S: boot loader in an EEPROM.
    Cm4,
    /// 5, 500, CM5: boot loader in an EEPROM; no `start.elf`.
    Pi5,
    /// A Raspberry Pi by its MAC address, or one that is newer than this program.
    Unknown,
}

impl Family {
    /// The family of a board type (bits 4 to 11 of its revision code) and processor (bits 12 to 15).
    #[must_use]
    pub fn of_revision(revision: Revision) -> Self {
        match (revision.board_type(), revision.processor()) {
            (Some(0x14 | 0x15), _) => Self::Cm4,
            (Some(0x0d), _) => Self::Pi3Plus,
            (_, Some("BCM2837")) => Self::Pi3,
            (_, Some("BCM2711")) => Self::Pi4,
            (_, Some("BCM2712")) => Self::Pi5,
            _ => Self::Unknown,
        }
    }

    /// Whether the boot loader is in an EEPROM, with a configuration of its own.
    #[must_use]
    pub fn has_eeprom(self) -> bool {
        matches!(self, Self::Pi4 | Self::Cm4 | Self::Pi5)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pi3 => "Raspberry Pi 3B",
            Self::Pi3Plus => "Raspberry Pi 3B+",
            Self::Pi4 => "Raspberry Pi 4",
            Self::Cm4 => "Raspberry Pi CM4",
            Self::Pi5 => "Raspberry Pi 5",
            Self::Unknown => "Raspberry Pi",
        })
    }
}

/// What told that this is a Raspberry Pi, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Option 97 has "RPi", the board's revision and its serial number.
    BoardIdentifier,
    /// Option 97 has the serial number four times: 3B+, old boot loaders, `DHCP_OPTION97=0`.
    SerialNumber,
    /// Option 97 has the constant of the 3B.
    Constant,
    /// The MAC address alone.
    MacAddress,
}

/// A Raspberry Pi.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How it boots.
    pub family: Family,
    /// Its board, where option 97 tells.
    pub revision: Option<Revision>,
    /// The low 32 bits of its serial number, where option 97 tells.
    pub serial: Option<u32>,
    /// The interface that asks.
    pub mac: MacAddr,
    /// What told.
    pub evidence: Evidence,
}

impl Identity {
    /// Whether this is a Raspberry Pi, and which, whatever program runs on it: by option 97 first,
    /// then by the MAC address.
    #[must_use]
    pub fn of(mac: MacAddr, client_uuid: Option<&[u8]>) -> Option<Self> {
        let known_block = OUIS.iter().any(|oui| mac.0.starts_with(oui));
        let first_block = mac.0.starts_with(&FIRST_OUI);
        // RFC 4578 section 2.3: type 0, then 16 bytes.
        let id: Option<&[u8; 16]> = match client_uuid {
            Some([0, id @ ..]) => id.try_into().ok(),
            _ => None,
        };
        let identity = |family, revision, serial, evidence| {
            Some(Self {
                family,
                revision,
                serial,
                mac,
                evidence,
            })
        };
        if let Some(id) = id {
            if let Some((revision, serial)) = board_identifier(id, mac) {
                let family = Family::of_revision(revision);
                return identity(
                    family,
                    Some(revision),
                    Some(serial),
                    Evidence::BoardIdentifier,
                );
            }
            if *id == CONSTANT_3B && first_block {
                return identity(Family::Pi3, None, None, Evidence::Constant);
            }
            if known_block && let Some(serial) = four_times(id) {
                // Later blocks are on boards of several families.
                let family = if first_block {
                    Family::Pi3Plus
                } else if mac.0.starts_with(&[0xdc, 0xa6, 0x32]) {
                    Family::Pi4
                } else {
                    Family::Unknown
                };
                return identity(family, None, Some(serial), Evidence::SerialNumber);
            }
        }
        known_block.then_some(())?;
        identity(Family::Unknown, None, None, Evidence::MacAddress)
    }

    /// As [`of`](Self::of), but only where the message is one of the board's own boot loader: not of
    /// an operating system, nor of iPXE, U-Boot or EDK2 that run on the board. `option` gives the
    /// value of a DHCP option by its number.
    ///
    /// A DHCPREQUEST of the EEPROM boot loader has no option 60; its option 97 tells.
    pub fn of_boot_loader<'a>(
        mac: MacAddr,
        option: impl Fn(u8) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let identity = Self::of(mac, option(97))?;
        let another_loader = option(77).is_some() || option(175).is_some();
        // 41 is the Raspberry Pi's own number, which is seen in DHCPv6 only.
        let of_a_rom = matches!(option(93), None | Some([0, 0, ..] | [0, 41, ..]));
        let asks = match option(60) {
            Some(class) => class == VENDOR_CLASS,
            None => identity.evidence != Evidence::MacAddress,
        };
        (asks && of_a_rom && !another_loader).then_some(identity)
    }

    /// The folders below which it may look for its files, without a slash: the serial number in
    /// lower-case hex, the MAC address with dashes. (`TFTP_PREFIX_STR` can be any text; a 3B does not
    /// tell its serial number before it asks.)
    #[must_use]
    pub fn prefixes(&self) -> Vec<String> {
        let serial = self.serial.map(|serial| format!("{serial:08x}"));
        serial.into_iter().chain([dashed(self.mac)]).collect()
    }

    /// Whether a folder name can be this board's own, as far as is known of it.
    #[must_use]
    pub fn may_own(&self, prefix: &str) -> bool {
        if self.prefixes().iter().any(|own| own == prefix) {
            return true;
        }
        // Where the MAC address was made from the serial number, the last six digits are its.
        let [a, b, c, d, e, f] = self.mac.0;
        self.serial.is_none()
            && [a, b, c] == FIRST_OUI
            && prefix.len() == 8
            && prefix
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && prefix.ends_with(&format!("{d:02x}{e:02x}{f:02x}"))
    }

    /// One line for people: `Raspberry Pi 4B 1.4, 8 GB, Sony UK (d03114), serial number 91cdf03d`.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = match self.revision {
            Some(revision) => revision.to_string(),
            None => self.family.to_string(),
        };
        if let Some(serial) = self.serial {
            text += &format!(", serial number {serial:08x}");
        }
        if self.evidence == Evidence::MacAddress {
            text += " (by its MAC address)";
        }
        text
    }
}

/// `dc-a6-32-01-36-c2`, as `TFTP_PREFIX=2` has it.
fn dashed(mac: MacAddr) -> String {
    mac.to_string().replace(':', "-")
}

/// Bytes: "RPi4" or "RPi5" in either order, the revision, the last four bytes of the MAC address,
/// the serial number; both numbers little-endian. `DHCP_OPTION97` can change the first four: then
/// the MAC address tells.
fn board_identifier(id: &[u8; 16], mac: MacAddr) -> Option<(Revision, u32)> {
    let [code @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *id;
    let code: [u8; 4] = code;
    let [_, _, _, _, r @ .., _, _, _, _, _, _, _, _] = *id;
    let r: [u8; 4] = r;
    let [_, _, _, _, _, _, _, _, m @ .., _, _, _, _] = *id;
    let m: [u8; 4] = m;
    let [.., s0, s1, s2, s3] = *id;
    let serial = u32::from_le_bytes([s0, s1, s2, s3]);
    let plausible = |revision: Revision| {
        revision.is_new_style() && matches!(revision.processor(), Some("BCM2711" | "BCM2712"))
    };
    let named = matches!(
        code,
        [b'R', b'P', b'i', b'0'..=b'9'] | [b'0'..=b'9', b'i', b'P', b'R']
    );
    let revision = Revision(u32::from_le_bytes(r));
    let same_mac = mac.0.ends_with(&m);
    if named {
        let swapped = Revision(u32::from_be_bytes(r));
        let swap = !plausible(revision) && plausible(swapped);
        return Some((if swap { swapped } else { revision }, serial));
    }
    (same_mac && plausible(revision) && revision.model().is_some()).then_some((revision, serial))
}

/// The number that is there four times, unless it is filler.
fn four_times(id: &[u8; 16]) -> Option<u32> {
    let (first, rest) = id.split_first_chunk::<4>()?;
    let serial = u32::from_le_bytes(*first);
    let filler = serial == 0 || serial == u32::MAX;
    (!filler && rest.chunks_exact(4).all(|chunk| chunk == first)).then_some(serial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    fn of(mac: &str, id: &str) -> Option<Identity> {
        Identity::of(mac.parse().unwrap(), Some(&hex(id)))
    }

    const PI4: &str = "00 34695052 1431d000 010902f7 3df0cd91";

    #[test]
    fn a_pi_4_tells_board_serial_number_and_folder_at_discover() {
        let pi = of("dc:a6:01:09:02:f7", PI4).unwrap();
        assert_eq!(pi.family, Family::Pi4);
        assert_eq!(pi.revision, Some(Revision(0xd03114)));
        assert_eq!(pi.serial, Some(0x91cd_f03d));
        assert_eq!(pi.prefixes(), ["91cdf03d", "dc-a6-01-09-02-f7"]);
        assert_eq!(
            pi.describe(),
            "Raspberry Pi 4B 1.4, 8 GB, Sony UK (d03114), serial number 91cdf03d"
        );
        // The code in the order of its letters.
        let same = of("dc:a6:01:09:02:f7", &PI4.replace("34695052", "52506934"));
        assert_eq!(same, Some(pi));
    }

    #[test]
    fn families_come_from_the_revision() {
        for (id, family) in [
            ("00 52506934 4031c000 320136c2 efdffe9f", Family::Cm4),
            ("00 34695052 3031c000 320136c2 efdffe9f", Family::Pi4),
            ("00 35695052 7041d000 dde8271e 20fe4740", Family::Pi5),
            ("00 35695052 8041c000 dde8271e 20fe4740", Family::Pi5),
            ("00 37695052 f061f000 dde8271e 20fe4740", Family::Unknown),
        ] {
            let pi = of("02:00:00:00:00:01", id).unwrap();
            assert_eq!(
                (pi.family, pi.evidence),
                (family, Evidence::BoardIdentifier),
                "{id}"
            );
        }
    }

    #[test]
    fn a_code_that_was_changed_in_the_eeprom_still_tells_by_the_mac_address() {
        let id = PI4.replace("34695052", "deadbeef");
        let pi = of("dc:a6:01:09:02:f7", &id).unwrap();
        assert_eq!(pi.serial, Some(0x91cd_f03d));
        assert_eq!(of("52:54:00:12:34:56", &id), None);
    }

    #[test]
    fn a_3b_is_known_by_its_constant_and_its_folder_by_its_mac_address() {
        let id = format!("00{}", "44".repeat(16));
        let pi = of("b8:27:eb:28:f6:6d", &id).unwrap();
        assert_eq!((pi.family, pi.serial), (Family::Pi3, None));
        assert!(pi.may_own("4a28f66d") && pi.may_own("b8-27-eb-28-f6-6d"));
        assert!(!pi.may_own("4a28f66e") && !pi.may_own("overlays"));
        // Somebody's PC with a filler of the same kind.
        assert_eq!(of("52:54:00:12:34:56", &id), None);
    }

    #[test]
    fn a_3b_plus_sends_its_serial_number_four_times() {
        let pi = of("b8:27:eb:86:96:f5", &format!("00{}", "f596868d".repeat(4))).unwrap();
        assert_eq!((pi.family, pi.serial), (Family::Pi3Plus, Some(0x8d86_96f5)));
        assert_eq!(pi.prefixes()[0], "8d8696f5");
        // An old boot loader of a 4, and one with DHCP_OPTION97=0.
        let pi = of("dc:a6:32:0a:ef:79", &format!("00{}", "4372ee6a".repeat(4))).unwrap();
        assert_eq!((pi.family, pi.serial), (Family::Pi4, Some(0x6aee_7243)));
        assert_eq!(
            of("52:54:00:12:34:56", &format!("00{}", "f596868d".repeat(4))),
            None
        );
    }

    #[test]
    fn the_mac_address_is_the_last_resort() {
        let mac: MacAddr = "2c:cf:67:00:00:01".parse().unwrap();
        for id in [None, Some(&b"\0"[..]), Some(&[0xff; 17]), Some(&[0; 17])] {
            let pi = Identity::of(mac, id).unwrap();
            assert_eq!(
                (pi.family, pi.evidence),
                (Family::Unknown, Evidence::MacAddress)
            );
            assert_eq!(pi.prefixes(), ["2c-cf-67-00-00-01"]);
        }
        assert_eq!(
            Identity::of("52:54:00:12:34:56".parse().unwrap(), None),
            None
        );
    }

    #[test]
    fn only_the_boards_own_boot_loader_is_answered_as_one() {
        let mac: MacAddr = "dc:a6:32:09:02:f7".parse().unwrap();
        let id = hex(PI4);
        let boots = |options: &[(u8, &[u8])]| {
            Identity::of_boot_loader(mac, |code| {
                options
                    .iter()
                    .find(|(c, _)| *c == code)
                    .map(|(_, value)| *value)
            })
            .is_some()
        };
        assert!(boots(&[
            (60, VENDOR_CLASS),
            (93, &[0, 0]),
            (94, &[1, 2, 1]),
            (97, &id)
        ]));
        // DHCPREQUEST: no option 60.
        assert!(boots(&[(93, &[0, 0]), (94, &[1, 2, 1]), (97, &id)]));
        // Linux on the board; iPXE, EDK2 and U-Boot on it.
        assert!(!boots(&[(60, b"dhcpcd-9.4.1:Linux-6.1.21:aarch64")]));
        assert!(!boots(&[]));
        assert!(!boots(&[
            (60, VENDOR_CLASS),
            (77, b"iPXE"),
            (93, &[0, 0]),
            (97, &id)
        ]));
        let class = b"PXEClient:Arch:00011:UNDI:003000";
        assert!(!boots(&[(60, class), (93, &[0, 11]), (97, &id)]));
    }

    proptest! {
        #[test]
        fn any_option_is_read(
            mac: [u8; 6],
            oui in proptest::option::of(0..OUIS.len()),
            id in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut mac = mac;
            if let Some(oui) = oui {
                mac[..3].copy_from_slice(&OUIS[oui]);
            }
            let identity = Identity::of(MacAddr(mac), Some(&id));
            prop_assert!(oui.is_none() || identity.is_some());
            if let Some(identity) = identity {
                prop_assert!(identity.prefixes().iter().all(|prefix| identity.may_own(prefix)));
                prop_assert!(identity.describe().len() < 120);
            }
        }
    }
}
