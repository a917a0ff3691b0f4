//! DHCP options: the values of one packet, in their order (RFC 2132, RFC 3396).

use std::net::Ipv4Addr;

/// Option numbers that this server reads or writes (RFC 2132 unless another RFC is named).
pub mod code {
    /// Fills space; has no length.
    pub const PAD: u8 = 0;
    /// Subnet mask.
    pub const SUBNET_MASK: u8 = 1;
    /// Routers, best first.
    pub const ROUTER: u8 = 3;
    /// Name servers.
    pub const DNS: u8 = 6;
    /// Host name.
    pub const HOST_NAME: u8 = 12;
    /// Domain name.
    pub const DOMAIN_NAME: u8 = 15;
    /// Broadcast address of the subnet.
    pub const BROADCAST: u8 = 28;
    /// NTP servers.
    pub const NTP: u8 = 42;
    /// Vendor-encapsulated options; for PXE clients the sub-options of the PXE specification.
    pub const VENDOR: u8 = 43;
    /// Address that the client asks for.
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// Lease time in seconds.
    pub const LEASE_TIME: u8 = 51;
    /// Which of `file` (1) and `sname` (2) hold options.
    pub const OVERLOAD: u8 = 52;
    /// DHCP message type.
    pub const MESSAGE_TYPE: u8 = 53;
    /// Server identifier.
    pub const SERVER_ID: u8 = 54;
    /// Parameter request list.
    pub const PARAMETER_LIST: u8 = 55;
    /// Text for people, in a NAK.
    pub const MESSAGE: u8 = 56;
    /// Largest message that the client takes, with its IP and UDP headers.
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    /// T1: seconds until renewing.
    pub const RENEWAL_TIME: u8 = 58;
    /// T2: seconds until rebinding.
    pub const REBINDING_TIME: u8 = 59;
    /// Vendor class identifier.
    pub const VENDOR_CLASS: u8 = 60;
    /// Client identifier.
    pub const CLIENT_ID: u8 = 61;
    /// TFTP server name.
    pub const TFTP_SERVER: u8 = 66;
    /// Boot file name.
    pub const BOOT_FILE: u8 = 67;
    /// User class (RFC 3004).
    pub const USER_CLASS: u8 = 77;
    /// Relay agent information (RFC 3046).
    pub const RELAY_INFO: u8 = 82;
    /// Client system architectures (RFC 4578).
    pub const CLIENT_ARCH: u8 = 93;
    /// Client network interface (RFC 4578).
    pub const CLIENT_NDI: u8 = 94;
    /// Client machine identifier (RFC 4578).
    pub const CLIENT_UUID: u8 = 97;
    /// Subnet selection: an address in the subnet that the client is to get one from (RFC 3011).
    pub const SUBNET_SELECTION: u8 = 118;
    /// Link selection: the same, said by the relay; a sub-option of [`RELAY_INFO`] (RFC 3527).
    pub const LINK_SELECTION: u8 = 5;
    /// TFTP server addresses (RFC 5859).
    pub const TFTP_SERVER_ADDRESS: u8 = 150;
    /// iPXE's own encapsulated options.
    pub const IPXE: u8 = 175;
    /// PXELINUX configuration file (RFC 5071).
    pub const PXELINUX_CONFIG: u8 = 209;
    /// PXELINUX path prefix (RFC 5071).
    pub const PXELINUX_PREFIX: u8 = 210;
    /// PXELINUX reboot time (RFC 5071).
    pub const PXELINUX_REBOOT: u8 = 211;
    /// Ends the options; has no length.
    pub const END: u8 = 255;
}

/// Message types (RFC 2132 section 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// DHCPDISCOVER
    Discover = 1,
    /// DHCPOFFER
    Offer = 2,
    /// DHCPREQUEST
    Request = 3,
    /// DHCPDECLINE
    Decline = 4,
    /// DHCPACK
    Ack = 5,
    /// DHCPNAK
    Nak = 6,
    /// DHCPRELEASE
    Release = 7,
    /// DHCPINFORM
    Inform = 8,
}

impl MessageType {
    /// The type of this number, where RFC 2132 has one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            _ => return None,
        })
    }

    /// Its name in RFC 2131, for example `DHCPDISCOVER`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Discover => "DHCPDISCOVER",
            Self::Offer => "DHCPOFFER",
            Self::Request => "DHCPREQUEST",
            Self::Decline => "DHCPDECLINE",
            Self::Ack => "DHCPACK",
            Self::Nak => "DHCPNAK",
            Self::Release => "DHCPRELEASE",
            Self::Inform => "DHCPINFORM",
        }
    }
}

impl std::fmt::Display for MessageType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Walks over code-length-value triples, as options and encapsulated options have them.
///
/// Pads are skipped; END, the end of the bytes, or a length that points behind it ends the walk.
#[derive(Clone, Debug)]
pub struct Triples<'a>(&'a [u8]);

impl<'a> Triples<'a> {
    /// A walk over these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The first value with this code.
    #[must_use]
    pub fn find_code(mut self, code: u8) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == code).then_some(value))
    }
}

impl<'a> Iterator for Triples<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while let [code::PAD, rest @ ..] = self.0 {
            self.0 = rest;
        }
        let (code, value, rest) = match self.0 {
            [] | [_] | [code::END, ..] => return self.end(),
            [code, length, rest @ ..] => match rest.split_at_checked(usize::from(*length)) {
                Some((value, rest)) => (*code, value, rest),
                None => return self.end(),
            },
        };
        self.0 = rest;
        Some((code, value))
    }
}

impl<'a> Triples<'a> {
    fn end(&mut self) -> Option<(u8, &'a [u8])> {
        self.0 = &[];
        None
    }
}

/// The options of a packet: each code at most once, in the order of first appearance.
///
/// An option that came in several parts (RFC 3396) is one value. Two allocations, whatever their
/// number.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options {
    index: Vec<Entry>,
    data: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    code: u8,
    start: usize,
    length: usize,
}

impl Options {
    /// Gathers the options of `area` and of those fields that its option 52 says hold options too, in the
    /// order that RFC 3396 section 5 gives them: `file`, then `sname`. Returns the value of option 52
    /// where it means something.
    pub(crate) fn gather(area: &[u8], file: &[u8], sname: &[u8]) -> (Self, Option<u8>) {
        // First the length of each code's whole value, then the values to their places: the time
        // is linear in the bytes however an attacker splits them.
        let mut lengths = [None::<usize>; 256];
        let mut order: Vec<u8> = Vec::with_capacity(24);
        let mut overload = None;
        let mut measure = |area: &[u8]| {
            for (code, value) in Triples::new(area) {
                if code == code::OVERLOAD && overload.is_none() {
                    overload = value.first().copied();
                }
                if let Some(length) = lengths.get_mut(usize::from(code)) {
                    if length.is_none() {
                        order.push(code);
                    }
                    *length = Some(length.unwrap_or(0) + value.len());
                }
            }
            overload.filter(|overload| (1..=3).contains(overload))
        };
        // What the other fields say of it does not count.
        let overload = measure(area);
        let told = |bit: u8| overload.is_some_and(|overload| overload & bit != 0);
        let file = if told(1) { file } else { &[] };
        let sname = if told(2) { sname } else { &[] };
        measure(file);
        measure(sname);
        let mut cursors = [0usize; 256];
        let mut index = Vec::with_capacity(order.len());
        let mut start = 0;
        for code in order {
            let length = lengths
                .get(usize::from(code))
                .copied()
                .flatten()
                .unwrap_or(0);
            if let Some(cursor) = cursors.get_mut(usize::from(code)) {
                *cursor = start;
            }
            index.push(Entry {
                code,
                start,
                length,
            });
            start += length;
        }
        let mut data = vec![0; start];
        let triples = [area, file, sname].into_iter().flat_map(Triples::new);
        for (code, value) in triples.filter(|(_, value)| !value.is_empty()) {
            let Some(cursor) = cursors.get_mut(usize::from(code)) else {
                continue;
            };
            if let Some(place) = data.get_mut(*cursor..*cursor + value.len()) {
                place.copy_from_slice(value);
            }
            *cursor += value.len();
        }
        (Self { index, data }, overload)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Every option, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.index
            .iter()
            .map(|entry| (entry.code, self.value(*entry)))
    }

    fn value(&self, entry: Entry) -> &[u8] {
        self.data
            .get(entry.start..entry.start + entry.length)
            .unwrap_or_default()
    }

    /// The value of an option.
    #[must_use]
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        let entry = self.index.iter().find(|entry| entry.code == code)?;
        Some(self.value(*entry))
    }

    /// Adds an option behind the others. Nothing happens where its code is there already, or is
    /// [`code::PAD`] or [`code::END`], which are no options.
    pub fn push(&mut self, code: u8, value: &[u8]) {
        if code == code::PAD || code == code::END || self.get(code).is_some() {
            return;
        }
        self.index.push(Entry {
            code,
            start: self.data.len(),
            length: value.len(),
        });
        self.data.extend_from_slice(value);
    }

    /// Adds an option whose value is an address.
    pub fn push_address(&mut self, code: u8, address: Ipv4Addr) {
        self.push(code, &address.octets());
    }

    /// Adds an option whose value is a number of 32 bits.
    pub fn push_u32(&mut self, code: u8, number: u32) {
        self.push(code, &number.to_be_bytes());
    }

    /// The value as an address: its first four bytes.
    #[must_use]
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = *self.get(code)?.first_chunk()?;
        Some(bytes.into())
    }

    /// The value as a number of 16 bits: its first two bytes.
    #[must_use]
    pub fn u16(&self, code: u8) -> Option<u16> {
        Some(u16::from_be_bytes(*self.get(code)?.first_chunk()?))
    }

    /// Option 53. Only the first byte counts: some clients pad it, or send it twice.
    #[must_use]
    pub fn message_type(&self) -> Option<MessageType> {
        MessageType::from_number(*self.get(code::MESSAGE_TYPE)?.first()?)
    }

    /// Whether the client wants an option: it stands in option 55, or there is no option 55.
    #[must_use]
    pub fn wants(&self, code: u8) -> bool {
        self.get(code::PARAMETER_LIST)
            .is_none_or(|list| list.contains(&code))
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
