//! DHCP and PXE boot server exchanges.

use super::{Watcher, printable};
use crate::timeline::{Answer, Asking, Boot, What, Who};
use bugler_boot::ClientFacts;
use bugler_dhcp::{CLIENT_PORT, MessageType, Op, PXE_PORT, Packet, SERVER_PORT, code};
use bugler_model::{MacAddr, Timestamp};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Whether these ports are DHCP's or those of a PXE boot server.
pub(super) fn is_dhcp(from: SocketAddrV4, to: SocketAddrV4) -> bool {
    [SERVER_PORT, CLIENT_PORT, PXE_PORT]
        .iter()
        .any(|port| from.port() == *port || to.port() == *port)
}

pub(super) fn packet(
    watcher: &mut Watcher,
    at: Timestamp,
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: &[u8],
) {
    let Ok(packet) = Packet::decode(payload) else {
        return;
    };
    let (Some(mac), Some(kind)) = (packet.mac(), packet.message_type()) else {
        return;
    };
    // A relay's copy of what the wire showed before: between servers and relays both ports are 67.
    if from.port() == SERVER_PORT && to.port() == SERVER_PORT && heard(watcher, mac, at, &packet) {
        return;
    }
    let what = match packet.op {
        Op::Request => asked(watcher, mac, to, &packet, kind),
        Op::Reply => answered(watcher, mac, from, &packet, kind),
    };
    if let Some(what) = what {
        watcher.step(mac, at, what);
    }
}

/// Whether the same message of this client was seen a moment ago, on the other side of a relay.
fn heard(watcher: &Watcher, mac: MacAddr, at: Timestamp, packet: &Packet) -> bool {
    const MOMENT_MS: i64 = 200;
    let Some(log) = watcher.logs.get(&mac) else {
        return false;
    };
    log.steps.iter().rev().take(6).any(|step| {
        at.millis_since(step.at) < MOMENT_MS
            && match (&step.what, packet.op) {
                (What::Asked { message, .. }, Op::Request) => {
                    Some(*message) == packet.message_type().and_then(asking)
                }
                (What::Answered { server, .. }, Op::Reply) => {
                    Some(*server) == packet.options.address(code::SERVER_ID)
                }
                _ => false,
            }
    })
}

fn asking(kind: MessageType) -> Option<Asking> {
    Some(match kind {
        MessageType::Discover => Asking::Discover,
        MessageType::Request => Asking::Request,
        MessageType::Inform => Asking::Inform,
        MessageType::Decline => Asking::Decline,
        MessageType::Release => Asking::Release,
        _ => return None,
    })
}

fn asked(
    watcher: &mut Watcher,
    mac: MacAddr,
    to: SocketAddrV4,
    packet: &Packet,
    kind: MessageType,
) -> Option<What> {
    let facts = ClientFacts::from_options(mac, |code| packet.options.get(code));
    let who = Who::from(&facts);
    watcher.knows(mac, &who);
    let has = (!packet.ciaddr.is_unspecified()).then_some(packet.ciaddr);
    if let Some(address) = has {
        watcher.learn(address, mac);
    }
    // Some firmware writes the seconds with their bytes the other way round.
    let secs = match packet.secs {
        swapped @ 256.. if swapped & 0xff == 0 => swapped >> 8,
        secs => secs,
    };
    Some(What::Asked {
        message: asking(kind)?,
        who,
        secs,
        port: if to.port() == PXE_PORT {
            PXE_PORT
        } else {
            SERVER_PORT
        },
        server: packet.options.address(code::SERVER_ID),
        address: packet.options.address(code::REQUESTED_ADDRESS).or(has),
    })
}

fn answered(
    watcher: &mut Watcher,
    mac: MacAddr,
    from: SocketAddrV4,
    packet: &Packet,
    kind: MessageType,
) -> Option<What> {
    let message = match kind {
        MessageType::Offer => Answer::Offer,
        MessageType::Ack => Answer::Ack,
        MessageType::Nak => Answer::Nak,
        _ => return None,
    };
    let address = (!packet.yiaddr.is_unspecified()).then_some(packet.yiaddr);
    if let (Answer::Ack, Some(address)) = (message, address) {
        watcher.learn(address, mac);
    }
    let named = packet
        .options
        .address(code::SERVER_ID)
        .filter(|address| !address.is_unspecified());
    // A relay's address is not the server's.
    let server = named.unwrap_or(*from.ip());
    let text = |code| packet.options.get(code).map(printable);
    Some(What::Answered {
        message,
        server,
        // On port 4011 it only repeats the client's own.
        address: address.filter(|_| from.port() != PXE_PORT),
        boot: boot(packet),
        class: text(code::VENDOR_CLASS),
        text: text(code::MESSAGE),
    })
}

/// What an answer says is to be booted. Option 67 wins over the `file` field.
fn boot(packet: &Packet) -> Option<Boot> {
    let file = packet
        .options
        .get(code::BOOT_FILE)
        .filter(|file| !file.is_empty())
        .unwrap_or(packet.file_name());
    let listed = packet.options.get(code::VENDOR).is_some();
    let class = packet.options.get(code::VENDOR_CLASS).unwrap_or_default();
    let next = (!packet.siaddr.is_unspecified()).then(|| packet.siaddr.to_string());
    let file = printable(file);
    if file.is_empty() {
        // A PXE offer without a file: port 4011 knows, or the boot servers of option 43.
        let is_pxe = class.starts_with(b"PXEClient");
        return (is_pxe && (listed || packet.yiaddr == Ipv4Addr::UNSPECIFIED)).then(|| Boot {
            file: String::new(),
            server: next,
        });
    }
    let server = packet.options.get(code::TFTP_SERVER).map(printable);
    Some(Boot {
        file,
        server: server.filter(|name| !name.is_empty()).or(next),
    })
}
