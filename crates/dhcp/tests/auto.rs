//! `auto`: looking for another server, then picking.

mod support;

use bugler_dhcp::{
    Engine, Identity, MessageType, Mode, Network, NoticeKind, Now, Op, Output, Packet, Policy,
    Subnet, code,
};
use bugler_model::Timestamp;
use std::net::Ipv4Addr;
use std::time::Duration;
use support::*;

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

struct Auto {
    engine: Engine,
    now: Now,
    plans: Plans,
}

impl Auto {
    fn new(policy: Policy, subnet: Subnet) -> Self {
        let identity = Identity {
            interface: "eth1".into(),
            address: SERVER,
            mtu: 1500,
            http_port: 8480,
        };
        let now = Now {
            wall: Timestamp(1_800_000_000_000),
            up: Duration::from_secs(5),
        };
        let engine =
            Engine::new(identity, policy, vec![subnet], vec![], (mac(77), 7), now).unwrap();
        Self {
            engine,
            now,
            plans: Plans::default(),
        }
    }

    fn send(&mut self, client: &Client) -> Vec<Output> {
        let mut out = vec![];
        self.engine.handle(
            self.now,
            client.ingress,
            &client.packet,
            &self.plans,
            &mut out,
        );
        out
    }

    fn overhear(&mut self, packet: &Packet) -> Vec<Output> {
        let mut out = vec![];
        self.engine
            .overhear(self.now, OTHER, packet, &self.plans, &mut out);
        out
    }

    /// Goes to the next deadline.
    fn step(&mut self) -> Vec<Output> {
        self.now.up = self.engine.next_deadline().expect("something is due");
        let mut out = vec![];
        self.engine.on_deadline(self.now, &self.plans, &mut out);
        out
    }

    /// Listens to the end of the search; returns the questions that were sent and the rest.
    fn listen(&mut self) -> (Vec<Packet>, Vec<Output>) {
        let (mut questions, mut rest) = (vec![], vec![]);
        while self.engine.mode().is_none() {
            for output in self.step() {
                match output {
                    Output::Search(packet) => questions.push(*packet),
                    other => rest.push(other),
                }
            }
        }
        (questions, rest)
    }
}

fn nothing_to_give() -> Subnet {
    Subnet::new(Network {
        address: SERVER,
        prefix: 24,
    })
}

fn reply(kind: MessageType, yiaddr: Ipv4Addr) -> Packet {
    let mut packet = Packet::new(Op::Reply, 7, mac(77));
    packet.yiaddr = yiaddr;
    packet.options.push(code::MESSAGE_TYPE, &[kind as u8]);
    packet.options.push_address(code::SERVER_ID, OTHER);
    packet
}

#[test]
fn a_server_that_offers_makes_it_a_proxy_at_once_and_is_named() {
    let mut auto = Auto::new(Policy::Auto, subnet(200));
    auto.step();
    let out = auto.overhear(&reply(MessageType::Offer, ip(33)));
    assert_eq!(auto.engine.mode(), Some(Mode::Proxy));
    let [notice] = &notices(&out)[..] else {
        panic!("{out:?}")
    };
    assert_eq!(notice.kind, NoticeKind::Mode);
    assert!(
        notice.text.contains("10.0.0.9 (it offered 10.0.0.33)"),
        "{}",
        notice.text
    );
    // It is known from then on.
    assert_eq!(auto.overhear(&reply(MessageType::Ack, ip(34))), []);
    assert_eq!(auto.send(&Client::discover(1)), []);
}

#[test]
fn a_client_that_chose_another_server_is_evidence_too() {
    let mut auto = Auto::new(Policy::Auto, subnet(200));
    auto.step();
    let request = Client::new(1, MessageType::Request)
        .address(code::SERVER_ID, OTHER)
        .bios();
    let out = auto.send(&request);
    assert_eq!(auto.engine.mode(), Some(Mode::Proxy));
    assert!(notices(&out)[0].text.contains("10.0.0.9"));
}

#[test]
fn alone_with_a_pool_it_gives_addresses_and_answers_who_asked_meanwhile() {
    let mut auto = Auto::new(Policy::Auto, subnet(200));
    let began = auto.now.up;
    auto.step();
    assert_eq!(auto.send(&Client::discover(1).bios()), []);
    let mut again = Client::discover(1).bios();
    again.packet.xid = 99;
    assert_eq!(auto.send(&again), []);
    let (questions, out) = auto.listen();
    assert_eq!(questions.len(), 2, "and one before");
    for question in questions {
        assert_eq!(question.message_type(), Some(MessageType::Discover));
        assert!(question.wants_broadcast());
        assert_eq!(question.mac(), Some(mac(77)));
    }
    assert!(auto.now.up - began <= Duration::from_secs(5));
    assert_eq!(auto.engine.mode(), Some(Mode::Full));
    assert_eq!(kinds(&out), [NoticeKind::Mode]);
    assert_eq!(
        probes(&out).len(),
        1,
        "the latest request of the client, once: {out:?}"
    );
    let mut offer = vec![];
    while offer.is_empty() {
        offer = replies(&auto.step());
    }
    assert_eq!(
        (offer[0].packet.xid, offer[0].packet.file_name()),
        (99, &b"undionly.kpxe"[..])
    );
}

#[test]
fn without_a_pool_it_never_gives_an_address_and_says_what_to_do() {
    let mut auto = Auto::new(Policy::Auto, nothing_to_give());
    let (_, out) = auto.listen();
    assert_eq!(auto.engine.mode(), Some(Mode::Proxy));
    let [notice] = &notices(&out)[..] else {
        panic!("{out:?}")
    };
    assert!(
        notice.text.contains("nobody gives out addresses") && notice.text.contains("--pool"),
        "{}",
        notice.text
    );
    assert_eq!(auto.send(&Client::discover(1)), []);
    // The server of that network comes up later.
    let out = auto.overhear(&reply(MessageType::Ack, ip(33)));
    assert_eq!(kinds(&out), [NoticeKind::ForeignServer]);
    assert_eq!(auto.overhear(&reply(MessageType::Ack, ip(33))), []);
}

#[test]
fn another_boot_server_is_no_dhcp_server() {
    let mut auto = Auto::new(Policy::Auto, subnet(200));
    auto.step();
    let mut proxy = reply(MessageType::Offer, Ipv4Addr::UNSPECIFIED);
    proxy.options.push(code::VENDOR_CLASS, b"PXEClient");
    assert_eq!(kinds(&auto.overhear(&proxy)), [NoticeKind::ForeignServer]);
    assert_eq!(auto.engine.mode(), None);
    auto.listen();
    assert_eq!(auto.engine.mode(), Some(Mode::Full));
}

/// A router that starts after us has clients whose addresses we do not know: they are right.
#[test]
fn a_server_that_comes_later_keeps_its_clients() {
    let stranger = Client::new(9, MessageType::Request).option(50, &ip(250).octets());
    let refused = |out: &[Output]| {
        out.iter().any(|output| {
            matches!(output, Output::Send(reply)
                if reply.packet.message_type() == Some(MessageType::Nak))
        })
    };
    for (policy, still_refused) in [(Policy::Auto, false), (Policy::Full, true)] {
        let mut auto = Auto::new(policy, subnet(200));
        auto.listen();
        assert_eq!(auto.engine.mode(), Some(Mode::Full));
        assert!(
            refused(&auto.send(&stranger)),
            "alone on the segment, it knows every lease"
        );
        auto.overhear(&reply(MessageType::Offer, ip(33)));
        assert_eq!(refused(&auto.send(&stranger)), still_refused, "{policy:?}");
    }
}

#[test]
fn in_full_mode_another_server_is_reported_now_and_then() {
    let mut auto = Auto::new(Policy::Full, subnet(200));
    assert_eq!(auto.engine.mode(), Some(Mode::Full));
    assert_eq!(
        kinds(&auto.overhear(&reply(MessageType::Offer, ip(33)))),
        [NoticeKind::ForeignServer]
    );
    assert_eq!(auto.overhear(&reply(MessageType::Offer, ip(34))), []);
    auto.now.up += Duration::from_secs(601);
    let out = auto.overhear(&reply(MessageType::Offer, ip(33)));
    assert!(notices(&out)[0].text.contains("--dhcp proxy"));
}

#[test]
fn our_own_packets_and_other_clients_requests_are_no_evidence() {
    let mut auto = Auto::new(Policy::Auto, subnet(200));
    auto.step();
    let mut own = reply(MessageType::Ack, ip(33));
    own.options = bugler_dhcp::Options::default();
    own.options
        .push(code::MESSAGE_TYPE, &[MessageType::Ack as u8]);
    own.options.push_address(code::SERVER_ID, SERVER);
    assert_eq!(auto.overhear(&own), []);
    assert_eq!(auto.send(&Client::select(1, ip(100))), []);
    let request = Client::new(1, MessageType::Request)
        .address(code::SERVER_ID, OTHER)
        .packet;
    assert_eq!(
        auto.overhear(&request),
        [],
        "a request does not come to port 68"
    );
    assert_eq!(auto.engine.mode(), None);
}

#[test]
fn a_flood_during_the_search_is_bounded() {
    let mut auto = Auto::new(Policy::Auto, subnet(200));
    for n in 0..5000u32 {
        let mut discover = Client::discover(1);
        discover.packet.chaddr[2..6].copy_from_slice(&n.to_be_bytes());
        auto.send(&discover);
    }
    let (_, out) = auto.listen();
    assert!(out.len() <= 1026, "{} outputs", out.len());
}

#[test]
fn full_without_addresses_is_refused() {
    let identity = Identity {
        interface: "eth1".into(),
        address: SERVER,
        mtu: 1500,
        http_port: 8480,
    };
    let engine = Engine::new(
        identity,
        Policy::Full,
        vec![nothing_to_give()],
        vec![],
        (mac(77), 7),
        Now::default(),
    );
    assert!(engine.err().unwrap().to_string().contains("--pool"));
}

/// What a server that was told its mode goes on doing while it serves.
fn first_seconds(auto: &mut Auto) -> (usize, Vec<Output>) {
    let end = auto.now.up + Duration::from_secs(10);
    let (mut questions, mut rest) = (0, vec![]);
    while auto.engine.next_deadline().is_some_and(|due| due < end) {
        for output in auto.step() {
            match output {
                Output::Search(_) => questions += 1,
                other => rest.push(other),
            }
        }
    }
    (questions, rest)
}

#[test]
fn a_server_that_was_told_its_mode_asks_for_others_too() {
    for policy in [Policy::Full, Policy::Proxy] {
        let mut auto = Auto::new(policy, subnet(200));
        let out = auto.overhear(&reply(MessageType::Offer, ip(33)));
        assert_eq!(kinds(&out), [NoticeKind::ForeignServer], "{policy:?}");
        let (questions, rest) = first_seconds(&mut auto);
        assert_eq!((questions, kinds(&rest)), (3, vec![]), "{policy:?}");
        let mut other_proxy = reply(MessageType::Offer, Ipv4Addr::UNSPECIFIED);
        other_proxy.options = bugler_dhcp::Options::default();
        let options = &mut other_proxy.options;
        options.push(code::MESSAGE_TYPE, &[MessageType::Offer as u8]);
        options.push_address(code::SERVER_ID, ip(8));
        options.push(code::VENDOR_CLASS, b"PXEClient");
        let out = auto.overhear(&other_proxy);
        assert_eq!(kinds(&out), [NoticeKind::ForeignServer], "{policy:?}");
        assert!(
            notices(&out)[0]
                .text
                .contains("another boot server, 10.0.0.8")
        );
    }
}

#[test]
fn a_proxy_without_a_dhcp_server_beside_it_says_so() {
    let mut auto = Auto::new(Policy::Proxy, nothing_to_give());
    let (_, rest) = first_seconds(&mut auto);
    let [notice] = &notices(&rest)[..] else {
        panic!("{rest:?}")
    };
    assert_eq!(notice.kind, NoticeKind::NoServer);
    assert!(notice.text.contains("get no address"), "{}", notice.text);
}

#[test]
fn a_client_that_a_switch_held_back_is_reported_once_with_the_remedy() {
    let mut auto = Auto::new(Policy::Full, subnet(200));
    auto.now.up += Duration::from_secs(60);
    let mut late = Client::discover(1).uefi();
    late.packet.secs = 28;
    let said = |out: Vec<Output>| -> Vec<bugler_dhcp::Notice> {
        let all = notices(&out).into_iter();
        all.filter(|notice| notice.kind == NoticeKind::Unheard)
            .collect()
    };
    let [notice] = &said(auto.send(&late))[..] else {
        panic!("not reported")
    };
    assert_eq!(notice.mac, Some(mac(1)));
    assert!(notice.text.contains("28 s") && notice.text.contains("portfast"));
    late.packet.secs = 60;
    auto.now.up += Duration::from_secs(32);
    assert_eq!(said(auto.send(&late)), []);
    let mut relayed = Client::discover(2).relayed([10, 0, 0, 3].into());
    relayed.packet.secs = 28;
    assert_eq!(said(auto.send(&relayed)), []);
}

#[test]
fn an_address_that_two_machines_use_is_reported() {
    let mut auto = Auto::new(Policy::Full, subnet(200));
    let mut answer = |address, by| {
        let mut out = vec![];
        auto.engine
            .arp_answered(auto.now, address, mac(by), &mut out);
        out
    };
    assert_eq!(answer(ip(20), 1), []);
    let out = answer(ip(20), 2);
    assert_eq!(kinds(&out), [NoticeKind::DuplicateAddress]);
    let text = &notices(&out)[0].text;
    assert!(
        text.contains("52:54:00:00:00:01 and 52:54:00:00:00:02"),
        "{text}"
    );
    assert_eq!(answer(ip(20), 1), []);
    let out = answer(SERVER, 3);
    assert!(notices(&out)[0].text.contains("this server's own address"));
}
