//! The boards' DHCP: the messages byte for byte, and what a board takes from the replies.

use super::{Board, Pi};
use std::net::Ipv4Addr;

/// The transaction of every message of every 3B and 3B+: a constant in the ROM.
pub const ROM_XID: u32 = 0x26f3_0339;

/// Option 60 of all boards.
const VENDOR_CLASS: &[u8; 32] = b"PXEClient:Arch:00000:UNDI:002001";

/// What the menu in option 43 has to have in it.
const MENU_TEXT: &[u8] = b"Raspberry Pi Boot";
/// The ROM of the 3B counts wrongly and looks for this.
const MENU_TEXT_3B: &[u8] = b"Raspberry Pi Boot   ";

/// Option 55 of the ROM, in its order.
const PARAMETERS_ROM: [u8; 12] = [43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66];
/// Option 55 of the EEPROM boot loaders.
const PARAMETERS_EEPROM: [u8; 14] = [1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135];

/// The header of a request without options, as all boards fill it.
fn header(pi: &Pi, xid: u32) -> Vec<u8> {
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend(xid.to_be_bytes());
    // secs, flags, and four addresses, all zero.
    bytes.extend([0; 20]);
    bytes.extend(pi.mac.0);
    // The rest of chaddr, sname, file.
    bytes.resize(236, 0);
    bytes.extend([0x63, 0x82, 0x53, 0x63]);
    bytes
}

fn option(bytes: &mut Vec<u8>, code: u8, value: &[u8]) {
    bytes.extend([code, value.len() as u8]);
    bytes.extend_from_slice(value);
}

/// Option 97: the constant of the 3B, the serial number of the 3B+, and the identifier of the others.
fn identifier(pi: &Pi) -> [u8; 17] {
    let serial = pi.serial.to_le_bytes();
    let [_, _, mac @ ..] = pi.mac.0;
    let words = match pi.board {
        Board::Pi3B => [[0x44; 4]; 4],
        Board::Pi3BPlus => [serial; 4],
        // As recorded of a 4 and a 5.
        Board::Pi4 => [*b"4iPR", pi.revision.to_le_bytes(), mac, serial],
        Board::Pi5 => [*b"5iPR", pi.revision.to_le_bytes(), mac, serial],
    };
    let mut id = [0; 17];
    for (to, from) in id[1..].iter_mut().zip(words.as_flattened()) {
        *to = *from;
    }
    id
}

/// The transaction of a board: constant in the ROM, otherwise `random`.
#[must_use]
pub fn transaction(pi: &Pi, random: u32) -> u32 {
    if pi.board.has_rom() { ROM_XID } else { random }
}

/// DHCPDISCOVER.
#[must_use]
pub fn discover(pi: &Pi, xid: u32) -> Vec<u8> {
    let mut bytes = header(pi, xid);
    option(&mut bytes, 53, &[1]);
    if pi.board.has_rom() {
        option(&mut bytes, 55, &PARAMETERS_ROM);
    } else {
        option(&mut bytes, 55, &PARAMETERS_EEPROM);
    }
    option(&mut bytes, 93, &[0, 0]);
    option(&mut bytes, 94, &[1, 2, 1]);
    option(&mut bytes, 97, &identifier(pi));
    option(&mut bytes, 60, VENDOR_CLASS);
    bytes.push(255);
    bytes
}

/// DHCPREQUEST of an EEPROM boot loader: no option 60. (The place of options 50 and 54 is assumed.)
#[must_use]
pub fn request(pi: &Pi, xid: u32, offer: &Reply) -> Vec<u8> {
    let mut bytes = header(pi, xid);
    option(&mut bytes, 53, &[3]);
    option(&mut bytes, 50, &offer.yiaddr.octets());
    option(
        &mut bytes,
        54,
        &offer.server.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
    );
    option(&mut bytes, 55, &PARAMETERS_EEPROM);
    option(&mut bytes, 93, &[0, 0]);
    option(&mut bytes, 94, &[1, 2, 1]);
    option(&mut bytes, 97, &identifier(pi));
    bytes.push(255);
    bytes
}

/// What a board reads of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Option 53: 2 OFFER, 5 ACK, 6 NAK.
    pub kind: u8,
    /// The address for the board; 0.0.0.0 from a server that gives out none.
    pub yiaddr: Ipv4Addr,
    /// The relay that it came through.
    pub giaddr: Ipv4Addr,
    /// Option 1: bits of the subnet mask.
    pub prefix: Option<u8>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 66, where it is an address as text.
    pub tftp: Option<Ipv4Addr>,
    /// Option 60.
    pub vendor_class: Vec<u8>,
    /// Option 43.
    pub menu: Vec<u8>,
}

impl Reply {
    /// Reads a BOOTREPLY to this board and transaction; `None` for everything else.
    #[must_use]
    pub fn read(pi: &Pi, xid: u32, bytes: &[u8]) -> Option<Self> {
        let (header, mut options) = bytes.split_at_checked(240)?;
        let fits = header.first() == Some(&2)
            && header.get(4..8) == Some(&xid.to_be_bytes())
            && header.get(28..34) == Some(&pi.mac.0)
            && header.get(236..) == Some(&[0x63, 0x82, 0x53, 0x63]);
        fits.then_some(())?;
        let address = |at: usize| {
            header
                .get(at..)?
                .first_chunk::<4>()
                .copied()
                .map(Ipv4Addr::from)
        };
        let mut reply = Self {
            kind: 0,
            yiaddr: address(16)?,
            giaddr: address(24)?,
            prefix: None,
            server: None,
            tftp: None,
            vendor_class: vec![],
            menu: vec![],
        };
        loop {
            match options {
                [] | [255, ..] => return Some(reply),
                [0, rest @ ..] => options = rest,
                [code, length, rest @ ..] => {
                    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                    let number = value.first_chunk::<4>().copied();
                    match code {
                        53 => reply.kind = value.first().copied()?,
                        1 => {
                            reply.prefix =
                                number.map(|mask| u32::from_be_bytes(mask).count_ones() as u8)
                        }
                        54 => reply.server = number.map(Ipv4Addr::from),
                        66 => {
                            let text = String::from_utf8_lossy(value);
                            reply.tftp = text.trim_end_matches('\0').parse().ok();
                        }
                        60 => reply.vendor_class = value.to_vec(),
                        43 => reply.menu = value.to_vec(),
                        _ => {}
                    }
                    options = rest;
                }
                [_] => return None,
            }
        }
    }

    /// Whether this board takes the menu for its own.
    fn has_menu(&self, board: Board) -> bool {
        let text = if board == Board::Pi3B {
            MENU_TEXT_3B
        } else {
            MENU_TEXT
        };
        self.vendor_class.starts_with(b"PXEClient")
            && self.menu.windows(text.len()).any(|window| window == text)
    }

    /// Where this board would get its files from, by this reply: the address in option 66, else the
    /// server itself where the menu is the board's. The ROM of a 3B wants the menu in any case, and no
    /// relay.
    #[must_use]
    pub fn tftp_server(&self, board: Board) -> Option<Ipv4Addr> {
        let menu = self.has_menu(board);
        if board == Board::Pi3B && (!menu || !self.giaddr.is_unspecified()) {
            return None;
        }
        self.tftp.or(self.server.filter(|_| menu))
    }
}

/// What a board has been offered so far.
#[derive(Clone, Debug, Default)]
pub struct Offers {
    /// The first one with an address.
    pub address: Option<Reply>,
    /// Where the files are.
    pub tftp: Option<Ipv4Addr>,
    seen: Vec<Reply>,
}

impl Offers {
    /// Takes an OFFER. Returns whether the board has all it needs now.
    pub fn take(&mut self, board: Board, reply: Reply) -> bool {
        if reply.kind != 2 {
            return false;
        }
        if self.address.is_none() && !reply.yiaddr.is_unspecified() {
            self.address = Some(reply.clone());
        }
        self.tftp = self.tftp.or(reply.tftp_server(board));
        self.seen.push(reply);
        self.address.is_some() && self.tftp.is_some()
    }

    /// Why it cannot go on, for people.
    #[must_use]
    pub fn lack(&self) -> String {
        match (self.seen.len(), &self.address) {
            (0, _) => "nobody made an offer".into(),
            (count, None) => format!("none of {count} offers has an address"),
            (count, Some(_)) => format!(
                "none of {count} offers says where the files are: option 66, or the menu text \
                 \"Raspberry Pi Boot\" in option 43"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_boot::pi::{Family, Identity, MENU};

    fn options(bytes: &[u8]) -> bugler_dhcp::Packet {
        bugler_dhcp::Packet::decode(bytes).unwrap()
    }

    /// The trace in the documentation, "Network booting": 320 bytes; a 4 in issues of rpi-eeprom: 322.
    #[test]
    fn discover_is_what_was_recorded() {
        let pi = Pi::new(Board::Pi3B, 0x6d);
        let bytes = discover(&pi, transaction(&pi, 7));
        assert_eq!(bytes.len(), 320);
        assert_eq!(bytes[..8], [1, 1, 6, 0, 0x26, 0xf3, 0x03, 0x39]);
        assert_eq!(bytes[28..34], [0xb8, 0x27, 0xeb, 0x28, 0xf6, 0x6d]);
        let mut expected = vec![
            53, 1, 1, 55, 12, 43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66,
        ];
        expected.extend([93, 2, 0, 0, 94, 3, 1, 2, 1, 97, 17, 0]);
        expected.extend([0x44; 16]);
        expected.extend([60, 32]);
        expected.extend(VENDOR_CLASS);
        expected.push(255);
        assert_eq!(bytes[240..], expected);

        let pi = Pi::new(Board::Pi4, 0xf7);
        let bytes = discover(&pi, transaction(&pi, 7));
        assert_eq!(bytes.len(), 322);
        assert_eq!(bytes[4..8], [0, 0, 0, 7]);
        assert_eq!(
            bytes[271..281],
            [0x34, 0x69, 0x50, 0x52, 0x14, 0x31, 0xd0, 0x00, 0x32, 0x09][..]
        );
    }

    #[test]
    fn the_server_knows_each_board_by_its_messages() {
        for (board, family) in [
            (Board::Pi3B, Family::Pi3),
            (Board::Pi3BPlus, Family::Pi3Plus),
            (Board::Pi4, Family::Pi4),
            (Board::Pi5, Family::Pi5),
        ] {
            let pi = Pi::new(board, 3);
            let asked = options(&discover(&pi, 1));
            let identity = Identity::of_boot_loader(pi.mac, |code| asked.options.get(code));
            let identity = identity.unwrap();
            assert_eq!((identity.family, identity.mac), (family, pi.mac));
            assert!(
                identity.may_own(pi.prefix().trim_end_matches('/')),
                "{board}"
            );
            if board.has_rom() {
                continue;
            }
            assert_eq!(identity.serial, Some(pi.serial));
            let offer = Reply::read(&pi, 1, &offer(&pi, |_| {})).unwrap();
            let asked = options(&request(&pi, 1, &offer));
            assert_eq!(asked.options.get(60), None);
            let again = Identity::of_boot_loader(pi.mac, |code| asked.options.get(code));
            assert_eq!(again, Some(identity));
        }
    }

    fn offer(pi: &Pi, more: impl Fn(&mut bugler_dhcp::Packet)) -> Vec<u8> {
        let mut packet = bugler_dhcp::Packet::new(bugler_dhcp::Op::Reply, 1, pi.mac);
        packet.options.push(53, &[2]);
        packet
            .options
            .push_address(54, Ipv4Addr::new(10, 20, 50, 1));
        packet
            .options
            .push_address(1, Ipv4Addr::new(255, 255, 255, 0));
        packet.yiaddr = Ipv4Addr::new(10, 20, 50, 100);
        more(&mut packet);
        packet.encode(1000).bytes
    }

    #[test]
    fn a_board_takes_its_server_from_66_or_from_the_menu() {
        let here = Ipv4Addr::new(10, 20, 50, 1);
        let of = |board, more: &dyn Fn(&mut bugler_dhcp::Packet)| {
            let pi = Pi::new(board, 1);
            Reply::read(&pi, 1, &offer(&pi, more))
                .unwrap()
                .tftp_server(board)
        };
        let unspaced: Vec<u8> = [&MENU[..10], &[0x14, 0, 0, 0x11], &MENU[14..31], &[255]].concat();
        for board in Board::ALL {
            let menu = |menu: &[u8]| {
                let menu = menu.to_vec();
                move |packet: &mut bugler_dhcp::Packet| {
                    packet.options.push(60, b"PXEClient");
                    packet.options.push(43, &menu);
                }
            };
            assert_eq!(of(board, &menu(&MENU)), Some(here), "{board}");
            let with_spaces_only = (board != Board::Pi3B).then_some(here);
            assert_eq!(of(board, &menu(&unspaced)), with_spaces_only, "{board}");
            // A menu for PCs.
            assert_eq!(of(board, &menu(&[6, 1, 8, 255])), None, "{board}");
            assert_eq!(of(board, &|_| {}), None);
        }
        let there = |packet: &mut bugler_dhcp::Packet| packet.options.push(66, b"10.20.50.9");
        assert_eq!(of(Board::Pi4, &there), Some(Ipv4Addr::new(10, 20, 50, 9)));
    }

    #[test]
    fn an_address_and_a_boot_server_may_come_from_two() {
        let pi = Pi::new(Board::Pi4, 1);
        let mut offers = Offers::default();
        let addresses = Reply::read(&pi, 1, &offer(&pi, |_| {})).unwrap();
        assert!(!offers.take(pi.board, addresses.clone()));
        assert!(
            offers.lack().contains("says where the files are"),
            "{}",
            offers.lack()
        );
        let proxy = Reply {
            yiaddr: Ipv4Addr::UNSPECIFIED,
            server: Some(Ipv4Addr::new(10, 20, 50, 2)),
            menu: MENU.to_vec(),
            vendor_class: b"PXEClient".to_vec(),
            ..addresses.clone()
        };
        assert!(offers.take(pi.board, proxy));
        assert_eq!(offers.address, Some(addresses));
        assert_eq!(offers.tftp, Some(Ipv4Addr::new(10, 20, 50, 2)));
        // Somebody else's reply, and one that is cut off.
        let other = Pi::new(Board::Pi4, 2);
        assert_eq!(Reply::read(&other, 1, &offer(&pi, |_| {})), None);
        assert_eq!(Reply::read(&pi, 1, &[2; 239]), None);
    }
}
