//! What every reply has: header, network options, and what is echoed (RFC 2131 section 4.3).

use crate::config::{CustomOption, Subnet};
use crate::machine::{CLIENT_PORT, SERVER_PORT};
use crate::options::{MessageType, code};
use crate::output::Destination;
use crate::packet::{Op, Packet};
use bugler_model::MacAddr;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// A reply with what the request makes it have (RFC 2131 table 3), without an address.
pub(crate) fn to(request: &Packet, kind: MessageType, server: Ipv4Addr) -> Packet {
    let mut reply = Packet {
        op: Op::Reply,
        hops: 0,
        secs: 0,
        ..request.clone_header()
    };
    reply.options.push(code::MESSAGE_TYPE, &[kind as u8]);
    reply.options.push_address(code::SERVER_ID, server);
    reply
}

impl Packet {
    /// The fields that a reply takes over: type and address of the hardware, xid, flags, giaddr.
    fn clone_header(&self) -> Self {
        let mut packet = Self::new(self.op, self.xid, MacAddr([0; 6]));
        packet.htype = self.htype;
        packet.hlen = self.hlen;
        packet.chaddr = self.chaddr;
        packet.flags = self.flags;
        packet.giaddr = self.giaddr;
        packet
    }
}

/// Lease time, T1 at half of it and T2 at seven eighths (RFC 2131 section 4.4.5).
pub(crate) fn put_lease_time(reply: &mut Packet, lease: Duration) {
    let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
    reply.options.push_u32(code::LEASE_TIME, seconds);
    reply.options.push_u32(code::RENEWAL_TIME, seconds / 2);
    reply
        .options
        .push_u32(code::REBINDING_TIME, seconds - seconds / 8);
}

/// Options that steer what a client boots. For a client that asks to boot only the plan decides
/// them: what an operator configured under these numbers is for other clients (telephones, access
/// points).
fn steers_boot(option: u8) -> bool {
    matches!(
        option,
        code::VENDOR
            | code::TFTP_SERVER
            | code::BOOT_FILE
            | code::TFTP_SERVER_ADDRESS
            | code::IPXE
            | code::PXELINUX_CONFIG..=code::PXELINUX_REBOOT
    )
}

/// What is told under one heading: a subnet's, or a tag's.
struct Told<'a> {
    router: Option<Ipv4Addr>,
    dns: &'a [Ipv4Addr],
    domain: Option<&'a str>,
    ntp: &'a [Ipv4Addr],
    options: &'a [CustomOption],
    /// Only the subnet has it.
    broadcast: Option<Ipv4Addr>,
    hostname: Option<&'a str>,
}

impl Told<'_> {
    /// Adds what the client wants and what is not there yet. Options by number win over the fields.
    fn put(&self, reply: &mut Packet, request: &Packet, boots: bool) {
        let is_custom = |code| self.options.iter().any(|option| option.code == code);
        let mut put = |code: u8, value: &[u8], always: bool| {
            if !value.is_empty() && !is_custom(code) && (always || request.options.wants(code)) {
                reply.options.push(code, value);
            }
        };
        let list = |addresses: &[Ipv4Addr]| -> Vec<u8> {
            addresses.iter().flat_map(Ipv4Addr::octets).collect()
        };
        let one = |address: Option<Ipv4Addr>| list(address.as_slice());
        put(code::ROUTER, &one(self.router), true);
        put(code::BROADCAST, &one(self.broadcast), false);
        put(code::DNS, &list(self.dns), false);
        let domain = self.domain.unwrap_or_default();
        put(code::DOMAIN_NAME, domain.as_bytes(), false);
        put(code::NTP, &list(self.ntp), false);
        let hostname = self.hostname.unwrap_or_default();
        put(code::HOST_NAME, hostname.as_bytes(), false);
        for option in self.options {
            let meant = option.always || request.options.wants(option.code);
            if meant && !(boots && steers_boot(option.code)) {
                reply.options.push(option.code, &option.value);
            }
        }
    }
}

/// What the subnet tells its clients, and first what it has for devices with these tags. Netmask
/// and router go to everybody, because some firmware asks for nothing and needs both; the rest to
/// those who asked for it, or asked for nothing in particular.
pub(crate) fn put_network(
    reply: &mut Packet,
    request: &Packet,
    subnet: &Subnet,
    tags: &[String],
    hostname: Option<&str>,
    boots: bool,
) {
    let is_custom = |code| subnet.options.iter().any(|option| option.code == code);
    if !is_custom(code::SUBNET_MASK) {
        let mask = subnet.network.mask().octets();
        reply.options.push(code::SUBNET_MASK, &mask);
    }
    for tagged in subnet.tagged(tags) {
        let told = Told {
            router: tagged.router,
            dns: &tagged.dns,
            domain: tagged.domain.as_deref(),
            ntp: &tagged.ntp,
            options: &tagged.options,
            broadcast: None,
            hostname: None,
        };
        told.put(reply, request, boots);
    }
    let told = Told {
        router: subnet.router,
        dns: &subnet.dns,
        domain: subnet.domain.as_deref(),
        ntp: &subnet.ntp,
        options: &subnet.options,
        broadcast: Some(subnet.network.broadcast()),
        hostname,
    };
    told.put(reply, request, boots);
}

/// What goes back as it came: the client identifier (RFC 6842), the subnet that the client named
/// (RFC 3011: it takes no reply without) and the relay's option (RFC 3046 section 2.2).
pub(crate) fn put_echoes(reply: &mut Packet, request: &Packet) {
    for code in [code::CLIENT_ID, code::SUBNET_SELECTION, code::RELAY_INFO] {
        if let Some(value) = request.options.get(code) {
            reply.options.push(code, value);
        }
    }
}

/// Where a reply with this `yiaddr` goes (RFC 2131 section 4.1).
pub(crate) fn destination(request: &Packet, yiaddr: Ipv4Addr, mac: MacAddr) -> Destination {
    if !request.giaddr.is_unspecified() {
        Destination::Udp(SocketAddrV4::new(request.giaddr, SERVER_PORT))
    } else if !request.ciaddr.is_unspecified() {
        Destination::Udp(SocketAddrV4::new(request.ciaddr, CLIENT_PORT))
    } else if request.wants_broadcast() || yiaddr.is_unspecified() {
        Destination::Broadcast
    } else {
        Destination::Link { ip: yiaddr, mac }
    }
}
