//! Other DHCP and PXE servers on the segment: who answers one DISCOVER that takes no address.
//!
//! It says that it is a PXE client, so that boot servers answer as well as those that give
//! addresses. What this host itself sends is not heard: its own server is not taken for another.

use super::links::Link;
use super::{Check, Dhcp, Level, Wanted};
use crate::frame::{Body, Frame};
use crate::pcap;
use crate::unsafe_system::everything_on;
use bugler_dhcp::{CLIENT_PORT, MessageType, Op, Packet, SERVER_PORT, code};
use bugler_model::MacAddr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, SockFilter, Socket, Type};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// When it is asked, from the start. dnsmasq pings an address for 3 s, and ISC dhcpd for 1 s, before
/// they offer it: the second question still has that time.
const ASKED: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(1200),
    Duration::from_millis(2400),
];

/// How long answers are waited for.
const LISTEN: Duration = Duration::from_millis(4500);

/// Somebody who answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) server: Ipv4Addr,
    pub(super) mac: Option<MacAddr>,
    pub(super) offered: Option<Ipv4Addr>,
    pub(super) boots: bool,
}

pub(super) async fn check(usable: &[(&Wanted, &Link)]) -> Vec<Check> {
    let mut asked = vec![];
    for (wanted, link) in usable {
        let Some(mac) = link.mac else { continue };
        let index = link.index;
        let task = tokio::task::spawn_blocking(move || ask(index, mac));
        asked.push((*wanted, task));
    }
    let mut checks = vec![];
    for (wanted, task) in asked {
        match task.await {
            Ok(Ok(found)) => checks.extend(judge(wanted, &found)),
            Ok(Err(error)) => checks.push(
                Check::new(
                    Level::Note,
                    "other-servers",
                    &wanted.name,
                    format!(
                        "other DHCP servers on {} could not be looked for: {error}",
                        wanted.name
                    ),
                )
                .remedy("run this as root: it needs a packet socket (CAP_NET_RAW)"),
            ),
            Err(_) => {}
        }
    }
    checks
}

/// Asks, and listens.
fn ask(interface: u32, mac: MacAddr) -> io::Result<Vec<Found>> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    socket.attach_filter(&incoming_udp())?;
    socket.bind(&everything_on(interface))?;
    // Any number that differs from run to run.
    let xid = std::hash::RandomState::new().build_hasher().finish() as u32;
    let started = Instant::now();
    let mut sent = 0;
    let mut found: Vec<Found> = vec![];
    let mut buffer = vec![0; 2048];
    loop {
        let now = started.elapsed();
        if let Some(due) = ASKED.get(sent)
            && now >= *due
        {
            sent += 1;
            let frame = question(mac, xid, u16::try_from(sent).unwrap_or(1));
            send(&socket, &frame, SendFlags::DONTWAIT)?;
        }
        if now >= LISTEN {
            return Ok(found);
        }
        let next = ASKED.get(sent).copied().unwrap_or(LISTEN);
        let wait = Timespec::try_from(next.saturating_sub(now)).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        while let Ok((length, _)) = recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            let frame = buffer.get(..length).unwrap_or_default();
            if let Some(one) = answer(frame, xid)
                && !found.contains(&one)
                && found.len() < 64
            {
                found.push(one);
            }
        }
    }
}

/// A DISCOVER as a PXE client sends it, in a frame.
fn question(mac: MacAddr, xid: u32, secs: u16) -> Vec<u8> {
    let mut packet = Packet::new(Op::Request, xid, mac);
    packet.secs = secs;
    // Answers must reach us although we take no address.
    packet.set_broadcast();
    packet
        .options
        .push(code::MESSAGE_TYPE, &[MessageType::Discover as u8]);
    packet.options.push(
        code::PARAMETER_LIST,
        &[
            code::SUBNET_MASK,
            code::ROUTER,
            code::DNS,
            code::VENDOR,
            code::VENDOR_CLASS,
            code::TFTP_SERVER,
            code::BOOT_FILE,
        ],
    );
    packet
        .options
        .push(code::VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003016");
    packet.options.push(code::CLIENT_ARCH, &[0, 7]);
    packet.options.push(code::CLIENT_NDI, &[1, 3, 16]);
    let payload = packet.encode(bugler_dhcp::DEFAULT_LIMIT).bytes;

    let mut frame = vec![0xff; 6];
    frame.extend(mac.0);
    frame.extend([0x08, 0x00]);
    let udp_length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut ip = vec![0x45, 0];
    ip.extend((udp_length + 20).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(Ipv4Addr::UNSPECIFIED.octets());
    ip.extend(Ipv4Addr::BROADCAST.octets());
    let checksum = checksum(&ip);
    ip.splice(10..12, checksum.to_be_bytes());
    frame.extend(ip);
    frame.extend(CLIENT_PORT.to_be_bytes());
    frame.extend(SERVER_PORT.to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    // No checksum, which UDP over IPv4 allows (RFC 768).
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// The Internet checksum (RFC 1071) of a header, which has an even length.
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What a frame tells of another server.
fn answer(frame: &[u8], xid: u32) -> Option<Found> {
    let frame = Frame::read(pcap::Link::Ethernet, frame)?;
    let Body::Udp { from, payload, .. } = frame.body else {
        return None;
    };
    let packet = Packet::decode(payload).ok()?;
    if packet.op != Op::Reply
        || packet.xid != xid
        || packet.message_type() != Some(MessageType::Offer)
    {
        return None;
    }
    let named = packet
        .options
        .address(code::SERVER_ID)
        .filter(|address| !address.is_unspecified());
    let class = packet.options.get(code::VENDOR_CLASS).unwrap_or_default();
    let offered = (!packet.yiaddr.is_unspecified()).then_some(packet.yiaddr);
    Some(Found {
        server: named.unwrap_or(*from.ip()),
        mac: frame.from,
        offered,
        boots: !packet.file_name().is_empty()
            || packet.options.get(code::BOOT_FILE).is_some()
            || class.starts_with(b"PXEClient"),
    })
}

fn judge(wanted: &Wanted, found: &[Found]) -> Vec<Check> {
    let name = &wanted.name;
    let check = |level, text: String| Check::new(level, "other-servers", name, text);
    let list = |of: &[&Found]| {
        let names: Vec<String> = of
            .iter()
            .map(|found| match found.mac {
                Some(mac) => format!("{} ({mac})", found.server),
                None => found.server.to_string(),
            })
            .collect();
        names.join(" and ")
    };
    let giving: Vec<&Found> = found
        .iter()
        .filter(|found| found.offered.is_some())
        .collect();
    let proxies: Vec<&Found> = found
        .iter()
        .filter(|found| found.offered.is_none())
        .collect();
    let booting: Vec<&Found> = giving.iter().filter(|found| found.boots).copied().collect();
    let mut checks = vec![];
    checks.push(match (giving.is_empty(), wanted.dhcp) {
        (true, Dhcp::Full | Dhcp::Off) => {
            check(Level::Ok, format!("no other DHCP server answers on {name}"))
        }
        (true, Dhcp::Proxy) => check(
            Level::Problem,
            format!("nobody gives addresses on {name}, and a proxy gives none either"),
        )
        .remedy("start the DHCP server of this segment, or use `dhcp = \"full\"` with a pool"),
        (true, Dhcp::Auto) if wanted.has_pool => check(
            Level::Ok,
            format!("no other DHCP server answers on {name}: `auto` will give addresses"),
        ),
        (true, Dhcp::Auto) => check(
            Level::Problem,
            format!(
                "no other DHCP server answers on {name}, and there is no pool: nobody would give \
                 addresses"
            ),
        )
        .remedy("give the interface a pool (--pool A-B), or start the segment's DHCP server"),
        (false, Dhcp::Full) => check(
            Level::Problem,
            format!(
                "another DHCP server gives addresses on {name}: {}",
                list(&giving)
            ),
        )
        .remedy("use `dhcp = \"proxy\"` beside it, or switch it off on this segment"),
        (false, Dhcp::Proxy | Dhcp::Auto) => check(
            Level::Ok,
            format!(
                "{} gives addresses on {name}: a proxy stands beside it",
                list(&giving)
            ),
        ),
        (false, Dhcp::Off) => check(
            Level::Note,
            format!("{} gives addresses on {name}", list(&giving)),
        ),
    });
    if giving.len() > 1 {
        checks.push(
            check(
                Level::Warning,
                format!(
                    "more than one server gives addresses on {name}: {}",
                    list(&giving)
                ),
            )
            .remedy("leave one of them; machines take whichever is first"),
        );
    }
    if wanted.dhcp != Dhcp::Off && !proxies.is_empty() {
        checks.push(
            check(
                Level::Warning,
                format!("another boot server answers on {name}: {}", list(&proxies)),
            )
            .remedy("machines take either: leave one of them"),
        );
    }
    if wanted.dhcp != Dhcp::Off && !booting.is_empty() {
        checks.push(
            check(
                Level::Warning,
                format!(
                    "the DHCP server on {name} tells machines what to boot itself: {}",
                    list(&booting)
                ),
            )
            .remedy(
                "take the boot file (options 66 and 67, `next-server`, `filename`) out of that \
                 server: some firmware prefers it to this one",
            ),
        );
    }
    checks
}

/// Passes UDP that came in from the link (PACKET_OUTGOING is 4).
fn incoming_udp() -> [SockFilter; 8] {
    [
        // SKF_AD_OFF + SKF_AD_PKTTYPE
        SockFilter::new(0x20, 0, 0, 0xffff_f004),
        SockFilter::new(0x15, 5, 0, 4),
        SockFilter::new(0x28, 0, 0, 12),
        SockFilter::new(0x15, 0, 3, 0x0800),
        SockFilter::new(0x30, 0, 0, 23),
        SockFilter::new(0x15, 0, 1, 17),
        SockFilter::new(0x06, 0, 0, 65_535),
        SockFilter::new(0x06, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::build;
    use std::net::SocketAddrV4;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn offer(server: [u8; 4], address: Option<[u8; 4]>, file: &str) -> Found {
        let mut packet = Packet::new(Op::Reply, 7, MAC);
        packet
            .options
            .push(code::MESSAGE_TYPE, &[MessageType::Offer as u8]);
        packet.options.push_address(code::SERVER_ID, server.into());
        packet.yiaddr = address.unwrap_or_default().into();
        packet.set_file(file.as_bytes());
        let (from, to) = (
            SocketAddrV4::new(server.into(), 67),
            SocketAddrV4::new(Ipv4Addr::BROADCAST, 68),
        );
        let datagram = build::udp(from, to, &packet.encode(600).bytes);
        let frame = build::ethernet(MAC, MacAddr([0xff; 6]), 0x0800, &datagram);
        assert_eq!(answer(&frame, 8), None, "an answer to somebody else");
        answer(&frame, 7).unwrap()
    }

    #[test]
    fn the_question_is_one_that_servers_answer() {
        let frame = question(MAC, 7, 1);
        assert_eq!(checksum(&frame[14..34]), 0);
        let read = Frame::read(pcap::Link::Ethernet, &frame).unwrap();
        let Body::Udp { payload, to, .. } = read.body else {
            panic!()
        };
        let packet = Packet::decode(payload).unwrap();
        assert_eq!(to.port(), 67);
        assert_eq!(packet.message_type(), Some(MessageType::Discover));
        assert!(packet.wants_broadcast());
    }

    #[test]
    fn what_other_servers_mean_depends_on_what_is_wanted() {
        let wanted = |dhcp, has_pool| Wanted {
            name: "eth0".into(),
            dhcp,
            has_pool,
        };
        let levels = |dhcp, pool, found: &[Found]| -> Vec<Level> {
            let checks = judge(&wanted(dhcp, pool), found);
            checks.iter().map(|check| check.level).collect()
        };
        use Level::{Note, Ok, Problem, Warning};
        let plain = [offer([10, 0, 0, 2], Some([10, 0, 0, 17]), "")];
        assert_eq!(levels(Dhcp::Full, true, &[]), [Ok]);
        assert_eq!(levels(Dhcp::Full, true, &plain), [Problem]);
        assert_eq!(levels(Dhcp::Proxy, false, &[]), [Problem]);
        assert_eq!(levels(Dhcp::Proxy, false, &plain), [Ok]);
        assert_eq!(levels(Dhcp::Auto, false, &[]), [Problem]);
        assert_eq!(levels(Dhcp::Auto, true, &[]), [Ok]);
        assert_eq!(levels(Dhcp::Off, false, &plain), [Note]);
        let boots = [offer([10, 0, 0, 2], Some([10, 0, 0, 17]), "pxelinux.0")];
        assert_eq!(levels(Dhcp::Proxy, false, &boots), [Ok, Warning]);
        let proxy = [plain[0].clone(), offer([10, 0, 0, 3], None, "x.efi")];
        assert_eq!(levels(Dhcp::Proxy, false, &proxy), [Ok, Warning]);
        let two = [
            plain[0].clone(),
            offer([10, 0, 0, 4], Some([10, 0, 0, 18]), ""),
        ];
        assert_eq!(levels(Dhcp::Auto, false, &two), [Ok, Warning]);
        let text = &judge(&wanted(Dhcp::Full, true), &plain)[0].text;
        assert!(text.contains("10.0.0.2 (02:00:00:00:00:09)"), "{text}");
    }
}
