//! One device's boot traffic, as it crosses the interfaces of this host.
//!
//! ```text
//! packet socket of each interface --kernel's filter--> Filter --> pcapng --> whoever takes it
//! ```
//!
//! The kernel's filter lets through what may be the device's, so that a busy server copies little;
//! [`Filter`] then decides. Memory is bounded: one frame here, and what the kernel's buffers hold.
//! What did not fit there is counted in the file.

mod net;

pub use net::{Capture, Error};

use crate::frame::{Body, Frame};
use crate::pcap::Link;
use bugler_dhcp::{CLIENT_PORT, PXE_PORT, Packet, SERVER_PORT};
use bugler_model::MacAddr;
use bugler_tftp::packet::Packet as Tftp;
use socket2::SockFilter;
use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Where TFTP servers listen.
const TFTP_PORT: u16 = 69;

/// Most addresses and TFTP ports of one device that are remembered.
const MOST: usize = 64;

/// Which frames belong to the boot of one device.
///
/// DHCP that names it, its ARP and ICMP, its TFTP transfers, and TCP between it and the ports of the
/// device plane. Addresses that it is given meanwhile are learned.
#[derive(Clone, Debug)]
pub struct Filter {
    macs: Vec<MacAddr>,
    addresses: BTreeSet<Ipv4Addr>,
    ports: Vec<u16>,
    /// Ports from which it asked for a file by TFTP, the latest last.
    transfers: VecDeque<u16>,
    learned: bool,
}

impl Filter {
    /// A filter for a device with these interfaces and addresses; `ports` are the TCP ports where
    /// it reaches the server.
    #[must_use]
    pub fn new(macs: Vec<MacAddr>, addresses: Vec<Ipv4Addr>, ports: Vec<u16>) -> Self {
        Self {
            macs,
            addresses: addresses.into_iter().collect(),
            ports,
            transfers: VecDeque::new(),
            learned: false,
        }
    }

    fn learn(&mut self, address: Ipv4Addr) {
        if !address.is_unspecified() && self.addresses.len() < MOST {
            self.learned |= self.addresses.insert(address);
        }
    }

    /// Whether an address was learned since this was last asked: then the kernel's filter is made
    /// anew.
    pub fn has_learned(&mut self) -> bool {
        std::mem::take(&mut self.learned)
    }

    /// Whether this Ethernet frame belongs to the device.
    pub fn wants(&mut self, bytes: &[u8]) -> bool {
        let Some(frame) = Frame::read(Link::Ethernet, bytes) else {
            return false;
        };
        let by_mac = [frame.from, frame.to]
            .into_iter()
            .flatten()
            .any(|mac| self.macs.contains(&mac));
        let sends = |filter: &Self, address| {
            frame.from.is_some_and(|mac| filter.macs.contains(&mac))
                || filter.addresses.contains(&address)
        };
        let receives = |filter: &Self, address| {
            frame.to.is_some_and(|mac| filter.macs.contains(&mac))
                || filter.addresses.contains(&address)
        };
        match frame.body {
            Body::Arp {
                mac,
                address,
                target,
                ..
            } => {
                by_mac
                    || self.macs.contains(&mac)
                    || self.addresses.contains(&address)
                    || self.addresses.contains(&target)
            }
            Body::Udp {
                from, to, payload, ..
            } => {
                if is_dhcp(from, to) {
                    self.dhcp(payload) || by_mac
                } else if to.port() == TFTP_PORT && sends(self, *from.ip()) {
                    self.asks(from.port(), payload);
                    true
                } else {
                    sends(self, *from.ip()) && self.transfers.contains(&from.port())
                        || receives(self, *to.ip()) && self.transfers.contains(&to.port())
                }
            }
            Body::Tcp { from, to, .. } => {
                sends(self, *from.ip()) && self.ports.contains(&to.port())
                    || receives(self, *to.ip()) && self.ports.contains(&from.port())
            }
            Body::Icmp { from, to, .. } => sends(self, from) || receives(self, to),
            // The later fragments of a datagram have no ports; they tell of the MTU.
            Body::Other => by_mac && is_fragment(bytes),
        }
    }

    fn dhcp(&mut self, payload: &[u8]) -> bool {
        let Ok(packet) = Packet::decode(payload) else {
            return false;
        };
        let ours = packet.mac().is_some_and(|mac| self.macs.contains(&mac));
        if ours {
            self.learn(packet.yiaddr);
            self.learn(packet.ciaddr);
        }
        ours
    }

    fn asks(&mut self, port: u16, payload: &[u8]) {
        if matches!(Tftp::decode(payload), Ok(Tftp::ReadRequest(_)))
            && !self.transfers.contains(&port)
        {
            if self.transfers.len() >= MOST {
                self.transfers.pop_front();
            }
            self.transfers.push_back(port);
        }
    }

    /// The kernel's filter: passes all that [`wants`](Self::wants) could want, and some more.
    fn program(&self) -> Vec<SockFilter> {
        let instructions = self.instructions().into_iter();
        instructions
            .map(|(code, if_true, if_false, operand)| {
                SockFilter::new(code, if_true, if_false, operand)
            })
            .collect()
    }

    fn instructions(&self) -> Vec<bpf::Instruction> {
        use bpf::*;
        let op = |code, if_true, if_false, operand| (code, if_true, if_false, operand);
        let mut program = vec![];
        // One of these addresses, as sender or receiver.
        for mac in self.macs.iter().take(MOST) {
            let [a, b, c, d, e, f] = mac.0;
            let (high, low) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
            for at in [0, 6] {
                program.extend([
                    op(LOAD_WORD, 0, 0, at + 2),
                    op(JUMP_EQUAL, 0, 3, low),
                    op(LOAD_HALF, 0, 0, at),
                    op(JUMP_EQUAL, 0, 1, high.into()),
                    op(RETURN, 0, 0, WHOLE),
                ]);
            }
        }
        // To everybody.
        program.extend([
            op(LOAD_BYTE, 0, 0, 0),
            op(JUMP_ANY_BIT, 0, 1, 1),
            op(RETURN, 0, 0, WHOLE),
        ]);
        // Beyond here only IPv4.
        program.extend([
            op(LOAD_HALF, 0, 0, 12),
            op(JUMP_EQUAL, 1, 0, 0x0800),
            op(RETURN, 0, 0, 0),
        ]);
        for address in &self.addresses {
            for at in [26, 30] {
                program.extend([
                    op(LOAD_WORD, 0, 0, at),
                    op(JUMP_EQUAL, 0, 1, u32::from(*address)),
                    op(RETURN, 0, 0, WHOLE),
                ]);
            }
        }
        // DHCP through a relay bears the relay's addresses: every datagram to or from port 67.
        program.extend([
            op(LOAD_BYTE, 0, 0, 23),
            op(JUMP_EQUAL, 1, 0, 17),
            op(RETURN, 0, 0, 0),
            op(LOAD_X_HEADER_LENGTH, 0, 0, 14),
            op(LOAD_HALF_AT_X, 0, 0, 14),
            op(JUMP_EQUAL, 2, 0, SERVER_PORT.into()),
            op(LOAD_HALF_AT_X, 0, 0, 16),
            op(JUMP_EQUAL, 0, 1, SERVER_PORT.into()),
            op(RETURN, 0, 0, WHOLE),
            op(RETURN, 0, 0, 0),
        ]);
        program
    }
}

fn is_dhcp(from: SocketAddrV4, to: SocketAddrV4) -> bool {
    [SERVER_PORT, CLIENT_PORT, PXE_PORT]
        .iter()
        .any(|port| from.port() == *port || to.port() == *port)
}

/// Whether an Ethernet frame holds UDP over IPv4, and not its beginning.
fn is_fragment(bytes: &[u8]) -> bool {
    let offset = bytes
        .get(20..22)
        .map(|b| u16::from_be_bytes([b[0], b[1]]) & 0x1fff);
    bytes.get(12..14) == Some(&[0x08, 0x00])
        && bytes.get(23) == Some(&17)
        && offset.is_some_and(|offset| offset != 0)
}

/// Instructions of the kernel's packet filter (filter.txt in the kernel's documentation).
mod bpf {
    /// What to do, how many to skip where it is true and where it is not, and the operand.
    pub(super) type Instruction = (u16, u8, u8, u32);
    pub(super) const LOAD_WORD: u16 = 0x20;
    pub(super) const LOAD_HALF: u16 = 0x28;
    pub(super) const LOAD_BYTE: u16 = 0x30;
    pub(super) const LOAD_HALF_AT_X: u16 = 0x48;
    pub(super) const LOAD_X_HEADER_LENGTH: u16 = 0xb1;
    pub(super) const JUMP_EQUAL: u16 = 0x15;
    pub(super) const JUMP_ANY_BIT: u16 = 0x45;
    pub(super) const RETURN: u16 = 0x06;
    pub(super) const WHOLE: u32 = 65_535;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::build::{ethernet, ip, tcp, udp};
    use bugler_dhcp::{MessageType, Op, code};
    use proptest::prelude::*;

    const DEVICE: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 2]);
    const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
    const ALL: MacAddr = MacAddr([0xff; 6]);

    fn at(last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, last].into(), port)
    }

    fn filter() -> Filter {
        Filter::new(vec![DEVICE], vec![], vec![8480])
    }

    /// What the kernel would do with a frame: enough of its machine for these programs.
    fn kernel(program: &[bpf::Instruction], frame: &[u8]) -> bool {
        let load = |at: usize, n: usize| {
            let bytes = frame.get(at..at + n)?;
            Some(bytes.iter().fold(0u32, |sum, b| sum << 8 | u32::from(*b)))
        };
        let (mut a, mut x, mut pc) = (0u32, 0u32, 0usize);
        loop {
            let (code, jt, jf, k) = program[pc];
            pc += 1;
            let loaded = match code {
                bpf::LOAD_WORD => load(k as usize, 4),
                bpf::LOAD_HALF => load(k as usize, 2),
                bpf::LOAD_BYTE => load(k as usize, 1),
                bpf::LOAD_HALF_AT_X => load((k + x) as usize, 2),
                bpf::LOAD_X_HEADER_LENGTH => {
                    x = match load(k as usize, 1) {
                        Some(byte) => 4 * (byte & 0xf),
                        None => return false,
                    };
                    Some(a)
                }
                bpf::JUMP_EQUAL => {
                    pc += usize::from(if a == k { jt } else { jf });
                    Some(a)
                }
                bpf::JUMP_ANY_BIT => {
                    pc += usize::from(if a & k != 0 { jt } else { jf });
                    Some(a)
                }
                bpf::RETURN => return k != 0,
                other => panic!("{other:#x}"),
            };
            // A load beyond the frame drops it.
            match loaded {
                Some(value) => a = value,
                None => return false,
            }
        }
    }

    fn dhcp(mac: MacAddr, op: Op) -> Vec<u8> {
        let mut packet = Packet::new(op, 1, mac);
        packet
            .options
            .push(code::MESSAGE_TYPE, &[MessageType::Ack as u8]);
        packet.yiaddr = [10, 0, 0, 17].into();
        packet.encode(600).bytes
    }

    #[test]
    fn only_the_devices_boot_traffic_passes() {
        let mut filter = filter();
        let request = [&[0, 1][..], b"snponly.efi\0octet\0"].concat();
        let arp = |mac: MacAddr| {
            let body = [
                &[0, 1, 8, 0, 6, 4, 0, 1][..],
                &mac.0,
                &[10, 0, 0, 9],
                &[0; 6],
                &[10, 0, 0, 1],
            ];
            ethernet(mac, ALL, 0x0806, &body.concat())
        };
        let cases: Vec<(&str, Vec<u8>, bool)> = vec![
            ("its ARP", arp(DEVICE), true),
            ("another's ARP", arp(OTHER), false),
            (
                "an ACK for it to everybody",
                ethernet(
                    SERVER,
                    ALL,
                    0x0800,
                    &udp(at(1, 67), at(255, 68), &dhcp(DEVICE, Op::Reply)),
                ),
                true,
            ),
            (
                "an ACK for another",
                ethernet(
                    SERVER,
                    ALL,
                    0x0800,
                    &udp(at(1, 67), at(255, 68), &dhcp(OTHER, Op::Reply)),
                ),
                false,
            ),
            (
                "through a relay",
                ethernet(
                    SERVER,
                    OTHER,
                    0x0800,
                    &udp(at(3, 67), at(1, 67), &dhcp(DEVICE, Op::Request)),
                ),
                true,
            ),
            (
                "before it asked",
                ethernet(
                    SERVER,
                    DEVICE,
                    0x0800,
                    &udp(at(1, 40_000), at(17, 2000), &[0, 3, 0, 1]),
                ),
                false,
            ),
            (
                "it asks for a file",
                ethernet(
                    DEVICE,
                    SERVER,
                    0x0800,
                    &udp(at(17, 2000), at(1, 69), &request),
                ),
                true,
            ),
            (
                "a block of it",
                ethernet(
                    SERVER,
                    DEVICE,
                    0x0800,
                    &udp(at(1, 40_000), at(17, 2000), &[0, 3, 0, 1]),
                ),
                true,
            ),
            (
                "its name service",
                ethernet(DEVICE, SERVER, 0x0800, &udp(at(17, 5353), at(1, 53), b"x")),
                false,
            ),
            (
                "its HTTP",
                ethernet(
                    DEVICE,
                    SERVER,
                    0x0800,
                    &tcp(at(17, 3000), at(1, 8480), 1, 2, b""),
                ),
                true,
            ),
            (
                "the answer, routed",
                ethernet(
                    SERVER,
                    OTHER,
                    0x0800,
                    &tcp(at(1, 8480), at(17, 3000), 1, 18, b""),
                ),
                true,
            ),
            (
                "its ssh",
                ethernet(
                    DEVICE,
                    SERVER,
                    0x0800,
                    &tcp(at(17, 3000), at(1, 22), 1, 2, b""),
                ),
                false,
            ),
            (
                "another's HTTP",
                ethernet(
                    OTHER,
                    SERVER,
                    0x0800,
                    &tcp(at(18, 3000), at(1, 8480), 1, 2, b""),
                ),
                false,
            ),
            (
                "its ICMP",
                ethernet(
                    DEVICE,
                    SERVER,
                    0x0800,
                    &ip(
                        1,
                        [10, 0, 0, 17].into(),
                        [10, 0, 0, 1].into(),
                        &[3, 3, 0, 0, 0, 0, 0, 0],
                    ),
                ),
                true,
            ),
        ];
        for (what, frame, wanted) in cases {
            let by_kernel = kernel(&filter.instructions(), &frame);
            assert_eq!(filter.wants(&frame), wanted, "{what}");
            assert!(by_kernel || !wanted, "the kernel's filter drops {what}");
        }
        assert!(filter.has_learned() && !filter.has_learned());
    }

    proptest! {
        #[test]
        fn any_frame_is_judged(frame in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut filter = filter();
            filter.learn([10, 0, 0, 9].into());
            let wanted = filter.wants(&frame);
            prop_assert!(!wanted || kernel(&filter.instructions(), &frame));
        }
    }
}
