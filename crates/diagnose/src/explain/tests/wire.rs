//! Exchanges written down frame by frame.

use crate::explain::{Explanation, explain};
use crate::frame::build;
use crate::pcap::classic;
use crate::recording::read;
use bugler_dhcp::{MessageType, Op, Packet, code};
use bugler_model::MacAddr;
use bugler_tftp::packet::{Mode, Options, Packet as Tftp, Request};
use std::net::{Ipv4Addr, SocketAddrV4};

pub(super) const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
pub(super) const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
pub(super) const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 17);
pub(super) const UEFI: &[u8] = b"PXEClient:Arch:00007:UNDI:003016";

/// A wire being written down; the time is in milliseconds.
#[derive(Default)]
pub(super) struct Wire {
    now: i64,
    frames: Vec<(i64, Vec<u8>)>,
}

pub(super) fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

impl Wire {
    pub(super) fn new() -> Self {
        Self {
            now: 1_800_000_000_000,
            frames: vec![],
        }
    }

    pub(super) fn pause(&mut self, millis: i64) -> &mut Self {
        self.now += millis;
        self
    }

    fn frame(&mut self, from: MacAddr, to: MacAddr, kind: u16, packet: &[u8]) -> &mut Self {
        self.frames
            .push((self.now, build::ethernet(from, to, kind, packet)));
        self.now += 10;
        self
    }

    pub(super) fn up(&mut self, packet: &[u8]) -> &mut Self {
        self.frame(MAC, SERVER_MAC, 0x0800, packet)
    }

    pub(super) fn down(&mut self, packet: &[u8]) -> &mut Self {
        self.frame(SERVER_MAC, MAC, 0x0800, packet)
    }

    pub(super) fn ask(
        &mut self,
        kind: MessageType,
        port: u16,
        edit: impl FnOnce(&mut Packet),
    ) -> &mut Self {
        let mut packet = Packet::new(Op::Request, 7, MAC);
        packet.options.push(code::MESSAGE_TYPE, &[kind as u8]);
        edit(&mut packet);
        let bytes = packet.encode(1200).bytes;
        let from = at(Ipv4Addr::UNSPECIFIED, 68);
        self.up(&build::udp(from, at(Ipv4Addr::BROADCAST, port), &bytes))
    }

    /// Firmware of UEFI asks.
    pub(super) fn discover(&mut self) -> &mut Self {
        self.ask(MessageType::Discover, 67, |packet| {
            packet.options.push(code::VENDOR_CLASS, UEFI);
            packet.options.push(code::CLIENT_ARCH, &[0, 7]);
        })
    }

    pub(super) fn ipxe_discover(&mut self) -> &mut Self {
        self.ask(MessageType::Discover, 67, |packet| {
            packet.options.push(code::VENDOR_CLASS, UEFI);
            packet.options.push(code::CLIENT_ARCH, &[0, 7]);
            packet.options.push(code::USER_CLASS, b"iPXE");
        })
    }

    pub(super) fn request(&mut self, server: Ipv4Addr) -> &mut Self {
        self.ask(MessageType::Request, 67, |packet| {
            packet.options.push(code::VENDOR_CLASS, UEFI);
            packet.options.push(code::CLIENT_ARCH, &[0, 7]);
            packet.options.push_address(code::SERVER_ID, server);
            packet.options.push_address(code::REQUESTED_ADDRESS, CLIENT);
        })
    }

    pub(super) fn answer(
        &mut self,
        kind: MessageType,
        server: Ipv4Addr,
        address: Option<Ipv4Addr>,
        file: Option<&str>,
    ) -> &mut Self {
        let mut packet = Packet::new(Op::Reply, 7, MAC);
        packet.options.push(code::MESSAGE_TYPE, &[kind as u8]);
        packet.options.push_address(code::SERVER_ID, server);
        packet.yiaddr = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        if let Some(file) = file {
            packet.siaddr = server;
            packet.set_file(file.as_bytes());
            packet.options.push(code::VENDOR_CLASS, b"PXEClient");
        }
        let bytes = packet.encode(1200).bytes;
        self.down(&build::udp(
            at(server, 67),
            at(Ipv4Addr::BROADCAST, 68),
            &bytes,
        ))
    }

    /// A whole exchange that ends with an address and a boot file.
    pub(super) fn addressed(&mut self, file: &str) -> &mut Self {
        self.discover()
            .answer(MessageType::Offer, OURS, Some(CLIENT), Some(file))
            .request(OURS)
            .answer(MessageType::Ack, OURS, Some(CLIENT), Some(file))
    }

    pub(super) fn tftp_ask(&mut self, port: u16, path: &str, blksize: Option<u16>) -> &mut Self {
        let options = Options {
            blksize,
            ..Options::default()
        };
        let request = Tftp::ReadRequest(Request {
            filename: path.as_bytes(),
            mode: Mode::Octet,
            options,
        });
        self.up(&build::udp(
            at(CLIENT, port),
            at(OURS, 69),
            &request.to_bytes(),
        ))
    }

    pub(super) fn tftp_down(&mut self, port: u16, packet: &Tftp<'_>) -> &mut Self {
        self.down(&build::udp(
            at(OURS, 40_000),
            at(CLIENT, port),
            &packet.to_bytes(),
        ))
    }

    pub(super) fn tftp_up(&mut self, port: u16, packet: &Tftp<'_>) -> &mut Self {
        self.up(&build::udp(
            at(CLIENT, port),
            at(OURS, 40_000),
            &packet.to_bytes(),
        ))
    }

    /// A file of 700 bytes, in two blocks, arrives.
    pub(super) fn tftp_whole(&mut self, port: u16, path: &str) -> &mut Self {
        self.tftp_ask(port, path, None);
        for (block, data) in [(1, &[0; 512][..]), (2, &[0; 188])] {
            self.tftp_down(port, &Tftp::Data { block, data });
            self.tftp_up(port, &Tftp::Ack { block });
        }
        self
    }

    pub(super) fn http(&mut self, port: u16, path: &str, head: &str, body: usize) -> &mut Self {
        let ask = format!("GET {path} HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n");
        self.up(&build::tcp(
            at(CLIENT, port),
            at(OURS, 8480),
            1,
            0x18,
            ask.as_bytes(),
        ));
        self.down(&build::tcp(
            at(OURS, 8480),
            at(CLIENT, port),
            500,
            0x18,
            head.as_bytes(),
        ));
        let mut sequence = 500 + head.len() as u32;
        for part in vec![7; body].chunks(1400) {
            self.down(&build::tcp(
                at(OURS, 8480),
                at(CLIENT, port),
                sequence,
                0x10,
                part,
            ));
            sequence += part.len() as u32;
        }
        self
    }

    pub(super) fn http_whole(&mut self, port: u16, path: &str) -> &mut Self {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n";
        self.http(port, path, head, 5000)
    }

    /// What is explained of the one client, a minute or so after the last frame.
    pub(super) fn explain_after(&mut self, millis: i64) -> Explanation {
        self.pause(millis);
        // Somebody else's ARP: the recording goes on.
        let arp = [
            &[0, 1, 8, 0, 6, 4, 0, 1][..],
            &SERVER_MAC.0,
            &OURS.octets(),
            &[0; 6],
            &OTHER.octets(),
        ]
        .concat();
        self.frame(SERVER_MAC, MacAddr([0xff; 6]), 0x0806, &arp);
        let recording = read(&classic(&self.frames)[..]).unwrap();
        assert_eq!(recording.timelines.len(), 1, "{recording:#?}");
        explain(&recording.timelines[0])
    }

    pub(super) fn explain(&mut self) -> Explanation {
        self.explain_after(200_000)
    }
}
