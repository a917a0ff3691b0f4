//! What a boot client is told: PXE specification 2.1, RFC 4578, UEFI HTTP boot, and iPXE's own
//! options. Also the two answers that a proxy gives.

use crate::machine::{Advisor, CLIENT_PORT, Machine, Now, Request};
use crate::options::{MessageType, Triples, code};
use crate::output::{Destination, Output};
use crate::packet::Packet;
use crate::reply;
use bugler_boot::{BootAction, BootPlan, OptionText, pi};
use bugler_model::{Firmware, OfferShape};
use std::net::SocketAddrV4;

/// Option 43, PXE discovery control (6) = 8: use the boot file as given, ask no boot server.
const USE_BOOT_FILE: [u8; 4] = [6, 1, 8, code::END];

/// The same, with a menu prompt (10) of no seconds and the text "PXE": without it EDK2 does not
/// take the answer of a boot server that has no menu.
const USE_BOOT_FILE_OF_SERVER: [u8; 10] = [6, 1, 8, 10, 4, 0, b'P', b'X', b'E', code::END];

/// Sub-option 71 of option 43: the boot server type and layer that the client picked.
const BOOT_ITEM: u8 = 71;

/// Sub-option 176 of option 175, "no-pxedhcp" = 1: iPXE does not wait for a proxy.
const NO_PXEDHCP: [u8; 3] = [176, 1, 1];

/// Which of our answers this is: clients expect different shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Together with an address.
    WithAddress,
    /// A proxy's offer on port 67.
    Proxy,
    /// A boot server's answer on port 4011.
    BootServer,
}

/// What the boot ROM of a Raspberry Pi looks for; it takes its server from any of three places.
fn put_raspberry_pi(reply: &mut Packet, request: &Request<'_>) {
    reply.siaddr = request.server;
    let id = request.packet.options.get(code::CLIENT_UUID);
    for (code, value) in pi::reply_options(request.server, id) {
        reply.options.push(code, &value);
    }
}

impl Machine {
    /// Adds what a boot client is to be given. [`BootAction::Silent`] adds nothing: the firmware
    /// goes on to its next boot device.
    pub(crate) fn put_boot(
        &self,
        reply: &mut Packet,
        request: &Request<'_>,
        plan: &BootPlan,
        shape: Shape,
    ) {
        let Some(firmware) = request.facts.firmware else {
            return;
        };
        let url = |path: &str| {
            let port = self.identity.http_port;
            format!("http://{}:{port}/boot/{path}", request.server)
        };
        let file = match &plan.action {
            BootAction::Silent => return,
            BootAction::RaspberryPi => return put_raspberry_pi(reply, request),
            BootAction::Tftp(path) => path.clone(),
            BootAction::Http(path) => url(path),
        };
        reply.siaddr = request.server;
        let rom = matches!(firmware, Firmware::BiosPxe | Firmware::UefiPxe);
        // One offer with everything, as a DHCP server that knows nothing of PXE makes it.
        let plain = rom && plan.shape == OfferShape::Direct && shape == Shape::WithAddress;
        // Firmware takes a proxy's answer only when it names its own class.
        let class: &[u8] = if firmware == Firmware::UefiHttp {
            b"HTTPClient"
        } else {
            b"PXEClient"
        };
        if !plain {
            reply.options.push(code::VENDOR_CLASS, class);
        }
        if let Some(id) = request.packet.options.get(code::CLIENT_UUID) {
            reply.options.push(code::CLIENT_UUID, id);
        }
        let asks_server = match plan.shape {
            OfferShape::Standard => shape == Shape::Proxy && firmware == Firmware::UefiPxe,
            OfferShape::Direct => false,
            OfferShape::BootServer => shape != Shape::BootServer && firmware.is_rom(),
        };
        match (firmware, shape) {
            // An offer without option 43 and without a file sends UEFI to port 4011 of `siaddr`;
            // that is the one kind of proxy that all of EDK2's descendants take.
            _ if asks_server => return,
            _ if plain => {}
            (Firmware::UefiPxe, Shape::BootServer) => {
                reply.options.push(code::VENDOR, &USE_BOOT_FILE_OF_SERVER);
            }
            (Firmware::UefiPxe | Firmware::BiosPxe, _) => {
                reply.options.push(code::VENDOR, &USE_BOOT_FILE);
            }
            (Firmware::IpxeBios | Firmware::IpxeUefi, Shape::WithAddress) => {
                reply.options.push(code::IPXE, &NO_PXEDHCP);
            }
            _ => {}
        }
        for (code, text) in &plan.options {
            match text {
                OptionText::Plain(text) => reply.options.push(*code, text.as_bytes()),
                OptionText::Url(path) => reply.options.push(*code, url(path).as_bytes()),
            }
        }
        // U-Boot's proxy path reads only the header; EDK2 prefers option 67. A name that is too
        // long for the header is only in the option.
        reply.set_file(file.as_bytes());
        reply.options.push(code::BOOT_FILE, file.as_bytes());
        if request.packet.options.wants(code::TFTP_SERVER) {
            reply
                .options
                .push(code::TFTP_SERVER, request.server.to_string().as_bytes());
        }
    }

    /// Port 67 in proxy mode: boot clients get an offer that has no address. Nobody is refused
    /// anything, and requests for an address are the other server's.
    pub(crate) fn proxy(
        &mut self,
        now: Now,
        request: &Request<'_>,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        let kind = match request.kind {
            MessageType::Discover => MessageType::Offer,
            MessageType::Inform => MessageType::Ack,
            _ => return,
        };
        let Some(plan) = self
            .advice(request, advisor)
            .filter(|plan| plan.action != BootAction::Silent)
        else {
            return;
        };
        let mut packet = reply::to(request.packet, kind, request.server);
        if kind == MessageType::Ack {
            packet.ciaddr = request.packet.ciaddr;
        }
        self.put_boot(&mut packet, request, &plan, Shape::Proxy);
        reply::put_echoes(&mut packet, request.packet);
        let to = reply::destination(request.packet, packet.yiaddr, request.client.mac);
        if to == Destination::Broadcast {
            packet.set_broadcast();
        }
        let reply = self.transmit(request, packet, to);
        self.delayed.send(request, reply, now.up, out);
    }

    /// Port 4011, in either mode: the answer of a boot server to a client that has its address.
    pub(crate) fn boot_server(
        &self,
        request: &Request<'_>,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        if !matches!(request.kind, MessageType::Request | MessageType::Inform) {
            return;
        }
        let Some(plan) = self
            .advice(request, advisor)
            .filter(|plan| plan.action != BootAction::Silent)
        else {
            return;
        };
        let asked = request.packet;
        let mut packet = reply::to(asked, MessageType::Ack, request.server);
        packet.ciaddr = asked.ciaddr;
        let item = asked
            .options
            .get(code::VENDOR)
            .and_then(|value| Triples::new(value).find_code(BOOT_ITEM));
        if let Some(item @ [_, _, _, _]) = item {
            // PXE specification 2.1 section 2.2.6: the picked item comes back, and the client's
            // address in yiaddr.
            packet.yiaddr = asked.ciaddr;
            let mut vendor = vec![BOOT_ITEM, 4];
            vendor.extend_from_slice(item);
            vendor.push(code::END);
            packet.options.push(code::VENDOR, &vendor);
        }
        self.put_boot(&mut packet, request, &plan, Shape::BootServer);
        reply::put_echoes(&mut packet, asked);
        let client = if asked.ciaddr.is_unspecified() {
            *request.ingress.source.ip()
        } else {
            asked.ciaddr
        };
        let to = if client.is_unspecified() {
            Destination::Broadcast
        } else {
            // EDK2 asks from port 68, BIOS ROMs from 68 or 4011: the answer goes where it came from.
            let port = request.ingress.source.port();
            Destination::Udp(SocketAddrV4::new(
                client,
                if port == 0 { CLIENT_PORT } else { port },
            ))
        };
        out.push(Output::Send(self.transmit(request, packet, to)));
    }
}
