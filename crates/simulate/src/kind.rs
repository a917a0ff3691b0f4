//! Kinds of clients, and how their DHCP messages look.

use bugler_dhcp::{MIN_LENGTH, MessageType, Op, Packet, code};
use bugler_model::MacAddr;
use serde::{Serialize, Serializer};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// What a simulated client is when it is switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A PC's BIOS with a PXE ROM.
    BiosPxe,
    /// UEFI on x86-64, PXE.
    UefiPxe,
    /// UEFI on x86-64, HTTP boot.
    UefiHttp,
    /// iPXE in the ROM of a BIOS machine.
    Ipxe,
    /// UEFI on AArch64, PXE.
    UefiPxeArm,
    /// A Raspberry Pi 4; it is done when it has its address.
    RaspberryPi4,
    /// An operating system: it wants an address and boots nothing.
    Plain,
}

/// A kind that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no kind of client called {0:?}: say one of bios, uefi, uefi-http, ipxe, uefi-arm64, pi4, plain"
)]
pub struct UnknownKind(String);

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::BiosPxe,
        Self::UefiPxe,
        Self::UefiHttp,
        Self::Ipxe,
        Self::UefiPxeArm,
        Self::RaspberryPi4,
        Self::Plain,
    ];

    /// Its name, as [`FromStr`] reads it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BiosPxe => "bios",
            Self::UefiPxe => "uefi",
            Self::UefiHttp => "uefi-http",
            Self::Ipxe => "ipxe",
            Self::UefiPxeArm => "uefi-arm64",
            Self::RaspberryPi4 => "pi4",
            Self::Plain => "plain",
        }
    }

    /// The program that asks first.
    pub(crate) fn program(self) -> Program {
        match self {
            Self::BiosPxe => Program::PXE_BIOS,
            Self::UefiPxe => Program::PXE_UEFI,
            Self::UefiHttp => Program::HTTP_UEFI,
            Self::Ipxe => Program::IPXE_BIOS,
            Self::UefiPxeArm => Program::PXE_ARM,
            Self::RaspberryPi4 => Program::PI4,
            Self::Plain => Program::PLAIN,
        }
    }

    /// iPXE, as this machine's firmware starts it.
    pub(crate) fn ipxe(self) -> Program {
        match self {
            Self::UefiPxe | Self::UefiHttp => Program::IPXE_UEFI,
            Self::UefiPxeArm => Program::IPXE_ARM,
            Self::BiosPxe | Self::Ipxe | Self::RaspberryPi4 | Self::Plain => Program::IPXE_BIOS,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let named = Self::ALL.into_iter().find(|kind| kind.name() == text);
        named.ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A program that asks by DHCP: what its messages look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Option 60.
    class: &'static str,
    /// Options 93 and 94.
    arch: Option<(u16, [u8; 3])>,
    /// Options 77 and 175.
    pub(crate) ipxe: bool,
    /// Option 97.
    uuid: Uuid,
    /// Option 55.
    parameters: &'static [u8],
    /// Option 57; zero for none.
    max_size: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uuid {
    None,
    /// Made from the MAC address.
    Machine,
    /// `RPi4`, the board's revision, the end of its MAC address, its serial number.
    Pi,
}

/// What EDK2 asks for.
const EDK2: &[u8] = &[
    1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66,
    67, 97, 128, 129, 130, 131, 132, 133, 134, 135,
];

/// What PXE ROMs and iPXE ask for.
const IPXE: &[u8] = &[
    1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 129, 130, 131, 132, 133, 134, 135, 175,
    203,
];

/// Encapsulated in option 175: DNS, PXE, HTTP, menus, bzImage, TFTP.
const FEATURES: &[u8] = &[
    0x17, 1, 1, 0x21, 1, 1, 0x13, 1, 1, 0x27, 1, 1, 0x18, 1, 1, 0x15, 1, 1,
];

impl Program {
    const PXE_BIOS: Self = Self {
        class: "PXEClient:Arch:00000:UNDI:002001",
        arch: Some((0, [1, 2, 1])),
        ipxe: false,
        uuid: Uuid::Machine,
        parameters: IPXE,
        max_size: 1260,
    };
    const PXE_UEFI: Self = Self {
        class: "PXEClient:Arch:00007:UNDI:003016",
        arch: Some((7, [1, 3, 16])),
        ipxe: false,
        uuid: Uuid::Machine,
        parameters: EDK2,
        max_size: 1472,
    };
    const PXE_ARM: Self = Self {
        class: "PXEClient:Arch:00011:UNDI:003000",
        arch: Some((11, [1, 3, 0])),
        ..Self::PXE_UEFI
    };
    const HTTP_UEFI: Self = Self {
        class: "HTTPClient:Arch:00016:UNDI:003001",
        arch: Some((16, [1, 3, 1])),
        ..Self::PXE_UEFI
    };
    const IPXE_BIOS: Self = Self {
        class: "PXEClient:Arch:00000:UNDI:002001",
        arch: Some((0, [1, 2, 1])),
        ipxe: true,
        uuid: Uuid::Machine,
        parameters: IPXE,
        max_size: 1472,
    };
    const IPXE_UEFI: Self = Self {
        class: "PXEClient:Arch:00007:UNDI:003010",
        arch: Some((7, [1, 3, 10])),
        ..Self::IPXE_BIOS
    };
    const IPXE_ARM: Self = Self {
        class: "PXEClient:Arch:00011:UNDI:003010",
        arch: Some((11, [1, 3, 10])),
        ..Self::IPXE_BIOS
    };
    const PI4: Self = Self {
        class: "PXEClient:Arch:00000:UNDI:002001",
        arch: Some((0, [1, 2, 1])),
        ipxe: false,
        uuid: Uuid::Pi,
        parameters: &[1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135],
        max_size: 1260,
    };
    const PLAIN: Self = Self {
        class: "",
        arch: None,
        ipxe: false,
        uuid: Uuid::None,
        parameters: &[1, 3, 6, 12, 15, 28],
        max_size: 0,
    };

    /// A message of this program on the machine with this MAC address.
    pub(crate) fn message(&self, kind: MessageType, mac: MacAddr, xid: u32) -> Packet {
        let mut packet = Packet::new(Op::Request, xid, mac);
        let options = &mut packet.options;
        options.push(code::MESSAGE_TYPE, &[kind as u8]);
        if self.max_size > 0 {
            options.push(code::MAX_MESSAGE_SIZE, &self.max_size.to_be_bytes());
        }
        if let Some((arch, interface)) = self.arch {
            options.push(code::CLIENT_ARCH, &arch.to_be_bytes());
            options.push(code::CLIENT_NDI, &interface);
        }
        if !self.class.is_empty() {
            options.push(code::VENDOR_CLASS, self.class.as_bytes());
        }
        if self.ipxe {
            options.push(code::USER_CLASS, b"iPXE");
        }
        options.push(code::PARAMETER_LIST, self.parameters);
        if self.ipxe {
            options.push(code::IPXE, FEATURES);
        }
        match self.uuid {
            Uuid::None => {}
            Uuid::Machine => options.push(code::CLIENT_UUID, &machine_uuid(mac)),
            Uuid::Pi => options.push(code::CLIENT_UUID, &pi_uuid(mac)),
        }
        packet
    }

    /// The answer to an offer: this address from this server (RFC 2131 section 4.3.2, SELECTING).
    pub(crate) fn request(
        &self,
        mac: MacAddr,
        xid: u32,
        address: Ipv4Addr,
        server: Ipv4Addr,
    ) -> Packet {
        let mut packet = self.message(MessageType::Request, mac, xid);
        packet
            .options
            .push_address(code::REQUESTED_ADDRESS, address);
        packet.options.push_address(code::SERVER_ID, server);
        packet
    }
}

/// Option 97 of a PC: type 0, then sixteen bytes that only this machine has.
fn machine_uuid(mac: MacAddr) -> [u8; 17] {
    let mut bytes = [0; 17];
    let [_, head @ .., _, _, _, _, _, _] = &mut bytes;
    head.copy_from_slice(b"simulated!");
    let [.., a, b, c, d, e, f] = &mut bytes;
    [*a, *b, *c, *d, *e, *f] = mac.0;
    bytes
}

/// Option 97 of a Raspberry Pi 4: revision d03114, and the serial number of its MAC address.
fn pi_uuid(mac: MacAddr) -> [u8; 17] {
    let [_, _, a, b, c, d] = mac.0;
    [
        0, 0x34, 0x69, 0x50, 0x52, 0x14, 0x31, 0xd0, 0, a, b, c, d, d, c, b, a,
    ]
}

/// The MAC address of client number `n`: locally administered. The first byte of its own half tells
/// simulated machines from others in a list.
#[must_use]
pub fn mac_of(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([0x02, 0x51, a, b, c, d])
}

/// A message as bytes, as long as BOOTP wants it.
pub(crate) fn bytes_of(packet: &Packet) -> Vec<u8> {
    packet.encode(MIN_LENGTH.max(1472)).bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_their_names() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let error = "vax".parse::<Kind>().unwrap_err().to_string();
        assert!(error.contains("\"vax\"") && error.contains("uefi-http"));
    }

    #[test]
    fn a_message_is_read_as_what_it_is() {
        let mac = mac_of(0x0102_0304);
        for kind in Kind::ALL {
            let program = kind.program();
            let bytes = bytes_of(&program.message(MessageType::Discover, mac, 7));
            let packet = Packet::decode(&bytes).unwrap();
            assert_eq!(packet.mac(), Some(mac));
            assert_eq!(packet.message_type(), Some(MessageType::Discover));
            let arch = packet.options.u16(code::CLIENT_ARCH);
            let expected = match kind {
                Kind::Plain => None,
                Kind::BiosPxe | Kind::Ipxe | Kind::RaspberryPi4 => Some(0),
                Kind::UefiPxe => Some(7),
                Kind::UefiHttp => Some(16),
                Kind::UefiPxeArm => Some(11),
            };
            assert_eq!(arch, expected, "{kind}");
            assert!(kind.ipxe().ipxe);
        }
    }

    #[test]
    fn a_pi_says_its_serial_number_as_the_reference_board_does() {
        let uuid = pi_uuid(MacAddr([0xdc, 0xa6, 0x32, 1, 0x36, 0xc2]));
        assert_eq!(uuid[..9], [0, 0x34, 0x69, 0x50, 0x52, 0x14, 0x31, 0xd0, 0]);
        assert_eq!(uuid[13..], [0xc2, 0x36, 1, 0x32]);
    }
}
