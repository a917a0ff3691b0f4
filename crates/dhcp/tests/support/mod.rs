//! A machine, a clock that the test moves, and clients.
#![allow(dead_code, reason = "each test file uses its own part")]

use bugler_boot::{BootAction, BootPlan, ClientFacts, Goal};
use bugler_dhcp::{
    Advisor, Ask, CLIENT_PORT, Destination, Identity, Ingress, Machine, MessageType, Mode, Network,
    Notice, NoticeKind, Now, Op, Output, PXE_PORT, Packet, Pool, SERVER_PORT, Subnet, Transmit,
    code,
};
use bugler_model::{Firmware, Lease, LeaseState, MacAddr, OfferShape, Timestamp};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Mutex;
use std::time::Duration;

pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

pub(crate) fn mac(n: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, n])
}

pub(crate) fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

/// 10.0.0.0/24 with the pool 10.0.0.100 to `last`.
pub(crate) fn subnet(last: u8) -> Subnet {
    let mut subnet = Subnet::new(Network {
        address: SERVER,
        prefix: 24,
    });
    subnet.pools = vec![Pool {
        first: ip(100),
        last: ip(last),
    }];
    subnet.router = Some(ip(2));
    subnet.dns = vec![ip(3), ip(4)];
    subnet.domain = Some("lab.example".into());
    subnet.ntp = vec![ip(5)];
    subnet
}

/// Gives the usual loaders, or nothing, and remembers what it was asked.
#[derive(Default)]
pub(crate) struct Plans {
    pub(crate) silent: bool,
    pub(crate) shape: OfferShape,
    pub(crate) asked: Mutex<Vec<(MacAddr, MessageType, u16)>>,
}

impl Advisor for Plans {
    fn advise(&self, facts: &ClientFacts, ask: Ask<'_>) -> BootPlan {
        self.asked
            .lock()
            .unwrap()
            .push((facts.mac, ask.message, ask.port));
        let action = match facts.firmware {
            _ if self.silent => BootAction::Silent,
            Some(Firmware::BiosPxe) => BootAction::Tftp("undionly.kpxe".into()),
            Some(Firmware::UefiPxe) => BootAction::Tftp("snponly.efi".into()),
            Some(Firmware::UefiHttp) => BootAction::Http("snponly.efi".into()),
            Some(Firmware::RaspberryPi) => BootAction::RaspberryPi,
            Some(_) => BootAction::Http(format!("ipxe/{}", facts.mac)),
            None => BootAction::Silent,
        };
        BootPlan {
            shape: self.shape,
            ..BootPlan::new(Goal::Agent, action, "")
        }
    }
}

/// A request as a client sends it.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) packet: Packet,
    pub(crate) ingress: Ingress,
}

pub(crate) fn broadcast(port: u16) -> Ingress {
    Ingress {
        port,
        source: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT),
        destination: Ipv4Addr::BROADCAST,
    }
}

impl Client {
    pub(crate) fn new(n: u8, kind: MessageType) -> Self {
        let mut packet = Packet::new(Op::Request, 0x1000 + u32::from(n), mac(n));
        packet.options.push(code::MESSAGE_TYPE, &[kind as u8]);
        Self {
            packet,
            ingress: broadcast(SERVER_PORT),
        }
    }

    pub(crate) fn discover(n: u8) -> Self {
        Self::new(n, MessageType::Discover)
    }

    /// The answer to an offer.
    pub(crate) fn select(n: u8, address: Ipv4Addr) -> Self {
        Self::new(n, MessageType::Request)
            .address(code::SERVER_ID, SERVER)
            .address(code::REQUESTED_ADDRESS, address)
    }

    /// After a restart, with an address that it had.
    pub(crate) fn reboot(n: u8, address: Ipv4Addr) -> Self {
        Self::new(n, MessageType::Request).address(code::REQUESTED_ADDRESS, address)
    }

    /// Asks this server directly for more time.
    pub(crate) fn renew(n: u8, address: Ipv4Addr) -> Self {
        Self::new(n, MessageType::Request).using(address)
    }

    /// Has the address, and writes to this server.
    pub(crate) fn using(mut self, address: Ipv4Addr) -> Self {
        self.packet.ciaddr = address;
        self.ingress.source = SocketAddrV4::new(address, CLIENT_PORT);
        self.ingress.destination = SERVER;
        self
    }

    pub(crate) fn option(mut self, code: u8, value: &[u8]) -> Self {
        self.packet.options.push(code, value);
        self
    }

    pub(crate) fn address(self, code: u8, address: Ipv4Addr) -> Self {
        self.option(code, &address.octets())
    }

    pub(crate) fn bios(self) -> Self {
        self.option(60, b"PXEClient:Arch:00000:UNDI:002001")
            .option(93, &[0, 0])
    }

    pub(crate) fn uefi(self) -> Self {
        self.option(60, b"PXEClient:Arch:00007:UNDI:003016")
            .option(93, &[0, 7])
            .option(97, &[&[0][..], &[7; 16]].concat())
    }

    pub(crate) fn uefi_http(self) -> Self {
        self.option(60, b"HTTPClient:Arch:00016:UNDI:003001")
            .option(93, &[0, 16])
    }

    pub(crate) fn ipxe(self) -> Self {
        self.bios().option(77, b"iPXE").option(175, &[0x13, 1, 1])
    }

    pub(crate) fn relayed(mut self, giaddr: Ipv4Addr) -> Self {
        self.packet.giaddr = giaddr;
        self.ingress.source = SocketAddrV4::new(giaddr, SERVER_PORT);
        self.ingress.destination = SERVER;
        self
    }

    pub(crate) fn on_4011(mut self) -> Self {
        self.ingress.port = PXE_PORT;
        self
    }
}

/// A machine and its time.
pub(crate) struct Lab {
    pub(crate) machine: Machine,
    pub(crate) now: Now,
    pub(crate) plans: Plans,
}

impl Lab {
    pub(crate) fn new(mode: Mode, subnets: Vec<Subnet>, leases: Vec<Lease>) -> Self {
        let identity = Identity {
            interface: "eth1".into(),
            address: SERVER,
            mtu: 1500,
            http_port: 8480,
        };
        Self {
            machine: Machine::new(identity, mode, subnets, leases).unwrap(),
            now: Now {
                wall: Timestamp(1_800_000_000_000),
                up: Duration::from_secs(100),
            },
            plans: Plans::default(),
        }
    }

    /// Full mode with the pool 10.0.0.100 to `last`.
    pub(crate) fn full(last: u8) -> Self {
        Self::new(Mode::Full, vec![subnet(last)], vec![])
    }

    pub(crate) fn proxy() -> Self {
        Self::new(Mode::Proxy, vec![subnet(100)], vec![])
    }

    pub(crate) fn send(&mut self, client: &Client) -> Vec<Output> {
        let mut out = vec![];
        self.machine.handle(
            self.now,
            client.ingress,
            &client.packet,
            &self.plans,
            &mut out,
        );
        out
    }

    /// Lets time pass, and does what becomes due.
    pub(crate) fn pass(&mut self, time: Duration) -> Vec<Output> {
        self.now.up += time;
        self.now.wall = self
            .now
            .wall
            .plus_millis(i64::try_from(time.as_millis()).unwrap());
        let mut out = vec![];
        self.machine.on_deadline(self.now, &mut out);
        out
    }

    /// Goes from deadline to deadline until there is a reply.
    pub(crate) fn next_reply(&mut self) -> Transmit {
        for _ in 0..10 {
            let due = self.machine.next_deadline().expect("something is due");
            let out = self.pass(due.saturating_sub(self.now.up));
            if let Some(reply) = replies(&out).into_iter().next() {
                return reply;
            }
        }
        panic!("no reply after ten deadlines");
    }

    /// What a DISCOVER is offered, after a probe that nobody answers.
    pub(crate) fn offer(&mut self, client: &Client) -> Transmit {
        let out = self.send(client);
        replies(&out).pop().unwrap_or_else(|| self.next_reply())
    }

    /// Brings a client to a lease, and returns its address.
    pub(crate) fn bind(&mut self, discover: &Client) -> Ipv4Addr {
        let offered = self.offer(discover).packet.yiaddr;
        let mut select = discover.clone();
        select.packet.options = bugler_dhcp::Options::default();
        select
            .packet
            .options
            .push(code::MESSAGE_TYPE, &[MessageType::Request as u8]);
        select.packet.options.push_address(code::SERVER_ID, SERVER);
        select
            .packet
            .options
            .push_address(code::REQUESTED_ADDRESS, offered);
        for (code, value) in discover.packet.options.iter() {
            select.packet.options.push(code, value);
        }
        let (lease, ack) = commit(&self.send(&select));
        assert_eq!(ack.unwrap().packet.message_type(), Some(MessageType::Ack));
        lease.address
    }
}

/// Replies that need no commit.
pub(crate) fn replies(out: &[Output]) -> Vec<Transmit> {
    out.iter()
        .filter_map(|output| match output {
            Output::Send(transmit) => Some((**transmit).clone()),
            _ => None,
        })
        .collect()
}

/// The only commit.
pub(crate) fn commit(out: &[Output]) -> (Lease, Option<Transmit>) {
    let mut commits = out.iter().filter_map(|output| match output {
        Output::Commit { lease, then } => Some(((**lease).clone(), then.as_deref().cloned())),
        _ => None,
    });
    let found = commits
        .next()
        .unwrap_or_else(|| panic!("no commit in {out:?}"));
    assert!(commits.next().is_none(), "more than one commit in {out:?}");
    found
}

pub(crate) fn probes(out: &[Output]) -> Vec<Ipv4Addr> {
    out.iter()
        .filter_map(|output| match output {
            Output::Probe { address } => Some(*address),
            _ => None,
        })
        .collect()
}

pub(crate) fn notices(out: &[Output]) -> Vec<Notice> {
    out.iter()
        .filter_map(|output| match output {
            Output::Report(notice) => Some(notice.clone()),
            _ => None,
        })
        .collect()
}

pub(crate) fn is_nak(out: &[Output]) -> bool {
    match replies(out).as_slice() {
        [] => false,
        [reply] => {
            assert_eq!(reply.packet.message_type(), Some(MessageType::Nak));
            assert_eq!(reply.packet.yiaddr, Ipv4Addr::UNSPECIFIED);
            true
        }
        more => panic!("{} replies", more.len()),
    }
}

pub(crate) fn bound(n: u8, address: Ipv4Addr, expires: Timestamp) -> Lease {
    Lease {
        address,
        mac: mac(n),
        client_id: None,
        hostname: None,
        state: LeaseState::Bound,
        expires,
    }
}

pub(crate) fn kinds(out: &[Output]) -> Vec<NoticeKind> {
    notices(out).into_iter().map(|notice| notice.kind).collect()
}

pub(crate) fn is_to_relay(transmit: &Transmit, relay: Ipv4Addr) -> bool {
    transmit.to == Destination::Udp(SocketAddrV4::new(relay, SERVER_PORT))
}
