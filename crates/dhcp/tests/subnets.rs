//! Full mode: which subnet a request belongs to, and what devices with tags are given in it.

mod support;

use bugler_boot::{BootPlan, ClientFacts};
use bugler_dhcp::{
    Advisor, Ask, ConfigError, CustomOption, Identity, Machine, MessageType, Mode, Network,
    NoticeKind, Output, Pool, Subnet, Tagged, Transmit, code,
};
use proptest::prelude::*;
use std::net::Ipv4Addr;
use support::*;

const RELAY: Ipv4Addr = Ipv4Addr::new(192, 168, 5, 1);

/// 192.168.`net`.0/24 with the pool from .10 to .20.
fn remote(net: u8) -> Subnet {
    let address = |last| Ipv4Addr::new(192, 168, net, last);
    let mut subnet = Subnet::new(Network {
        address: address(1),
        prefix: 24,
    });
    subnet.pools = vec![Pool {
        first: address(10),
        last: address(20),
    }];
    subnet.router = Some(address(1));
    subnet
}

fn lab() -> Lab {
    Lab::new(Mode::Full, vec![subnet(200), remote(5), remote(6)], vec![])
}

/// Option 82 with a circuit id, and the link that it selects.
fn relay_info(link: Ipv4Addr) -> Vec<u8> {
    [&[1, 2, 0xab, 0xcd, 5, 4][..], &link.octets()].concat()
}

fn third(offer: &Transmit) -> u8 {
    offer.packet.yiaddr.octets()[2]
}

#[test]
fn the_relays_address_chooses_the_subnet() {
    let mut lab = lab();
    let offer = lab.offer(&Client::discover(1).relayed(RELAY));
    assert_eq!(third(&offer), 5);
    assert!(is_to_relay(&offer, RELAY));
    let router = offer.packet.options.address(code::ROUTER);
    assert_eq!(router, Some(RELAY));
    let other = lab.offer(&Client::discover(2).relayed([192, 168, 6, 1].into()));
    assert_eq!(third(&other), 6);
    let link = lab.offer(&Client::discover(3));
    assert_eq!(link.packet.yiaddr.octets()[..3], [10, 0, 0]);
}

/// RFC 3011: a client names the subnet, and takes no reply that does not say it again.
#[test]
fn a_client_may_name_its_subnet_and_hears_it_again() {
    let mut lab = lab();
    let named = Ipv4Addr::new(192, 168, 6, 0);
    for client in [
        Client::discover(1).address(code::SUBNET_SELECTION, named),
        Client::discover(2)
            .address(code::SUBNET_SELECTION, named)
            .relayed(RELAY),
    ] {
        let relayed = !client.packet.giaddr.is_unspecified();
        let offer = lab.offer(&client);
        assert_eq!(third(&offer), 6);
        let echoed = offer.packet.options.address(code::SUBNET_SELECTION);
        assert_eq!(echoed, Some(named));
        // It names a subnet, and not a way back.
        assert_eq!(is_to_relay(&offer, RELAY), relayed);
    }
}

/// RFC 3527 section 3: what the relay says wins, and option 82 comes back last as it came.
#[test]
fn the_relays_link_selection_wins_over_everything() {
    let mut lab = lab();
    let info = relay_info([192, 168, 6, 0].into());
    let client = Client::discover(1)
        .address(code::SUBNET_SELECTION, [10, 0, 0, 0].into())
        .option(code::RELAY_INFO, &info)
        .relayed(RELAY);
    let offer = lab.offer(&client);
    assert_eq!(third(&offer), 6);
    assert!(is_to_relay(&offer, RELAY));
    let bytes = offer.packet.encode(offer.limit).bytes;
    let end = bytes.iter().rposition(|&byte| byte == code::END).unwrap();
    assert!(bytes[..end].ends_with(&info), "{bytes:?}");
    let (lease, ack) = commit(
        &lab.send(
            &Client::select(1, offer.packet.yiaddr)
                .option(code::RELAY_INFO, &info)
                .relayed(RELAY),
        ),
    );
    assert_eq!(lease.address, offer.packet.yiaddr);
    assert!(is_to_relay(&ack.unwrap(), RELAY));
}

/// dhcrelay -U passes on what a client sends to the server itself, as coming from its upper side.
#[test]
fn a_renewal_that_a_relay_passes_on_from_its_wrong_side_is_not_refused() {
    let mut lab = lab();
    let address = lab.offer(&Client::discover(1).relayed(RELAY)).packet.yiaddr;
    commit(&lab.send(&Client::select(1, address).relayed(RELAY)));
    let renewal = Client::renew(1, address);
    assert_eq!(commit(&lab.send(&renewal)).0.address, address);
    let upper = ip(9);
    assert_eq!(lab.send(&renewal.clone().relayed(upper)), []);
    // One that nobody has is.
    let stranger = Client::renew(2, Ipv4Addr::new(192, 168, 5, 15)).relayed(upper);
    assert!(is_nak(&lab.send(&stranger)));
}

#[test]
fn a_link_selection_of_odd_length_is_none() {
    let mut lab = lab();
    for info in [&[5, 3, 192, 168, 6][..], &[5, 0], &[5], &[5, 4, 0, 0, 0, 0]] {
        let client = Client::discover(1)
            .option(code::RELAY_INFO, info)
            .relayed(RELAY);
        assert_eq!(third(&lab.offer(&client)), 5, "{info:?}");
    }
}

#[test]
fn a_subnet_that_nobody_configured_is_reported_and_gets_nothing() {
    let mut lab = lab();
    let client = Client::discover(1).address(code::SUBNET_SELECTION, [172, 16, 0, 0].into());
    let out = lab.send(&client);
    let [notice] = &notices(&out)[..] else {
        panic!("{out:?}")
    };
    assert_eq!(notice.kind, NoticeKind::UnknownNetwork);
    assert!(notice.text.contains("172.16.0.0"), "{}", notice.text);
    assert!(replies(&out).is_empty());
}

#[test]
fn subnets_that_overlap_are_refused() {
    let mut wide = remote(5);
    wide.network.prefix = 16;
    let identity = Identity {
        interface: "eth1".into(),
        address: SERVER,
        mtu: 1500,
        http_port: 8480,
    };
    let machine = Machine::new(identity, Mode::Full, vec![remote(6), wide], vec![]);
    assert!(matches!(machine.err(), Some(ConfigError::Overlap { .. })));
}

/// Knows the tags of devices by the last byte of their MAC address.
struct Tags(Vec<(u8, &'static str)>);

impl Advisor for Tags {
    fn advise(&self, facts: &ClientFacts, ask: Ask<'_>) -> BootPlan {
        Plans::default().advise(facts, ask)
    }

    fn tags(&self, facts: &ClientFacts) -> Vec<String> {
        let own = self.0.iter().filter(|(n, _)| mac(*n) == facts.mac);
        own.map(|(_, tag)| (*tag).to_owned()).collect()
    }
}

/// A lab whose link has 10.0.0.100-101 for anybody, 10.0.0.50-51 for rack1, and options for rack2.
struct Rack {
    lab: Lab,
    tags: Tags,
}

impl Rack {
    fn new(tags: &[(u8, &'static str)]) -> Self {
        let mut link = subnet(101);
        link.tagged = vec![
            Tagged {
                tag: "rack1".into(),
                pools: vec![Pool {
                    first: ip(50),
                    last: ip(51),
                }],
                router: Some(ip(7)),
                options: vec![CustomOption {
                    code: 42,
                    value: vec![10, 0, 0, 8],
                    always: true,
                }],
                ..Tagged::default()
            },
            Tagged {
                tag: "rack2".into(),
                router: Some(ip(9)),
                domain: Some("two.example".into()),
                ..Tagged::default()
            },
        ];
        Self {
            lab: Lab::new(Mode::Full, vec![link], vec![]),
            tags: Tags(tags.to_vec()),
        }
    }

    fn send(&mut self, client: &Client) -> Vec<Output> {
        let mut out = vec![];
        let Client { packet, ingress } = client;
        let (now, lab) = (self.lab.now, &mut self.lab);
        lab.machine
            .handle(now, *ingress, packet, &self.tags, &mut out);
        out
    }

    fn offer(&mut self, n: u8) -> Option<Transmit> {
        let out = self.send(&Client::discover(n));
        if !notices(&out).is_empty() {
            return None;
        }
        Some(replies(&out).pop().unwrap_or_else(|| self.lab.next_reply()))
    }

    fn bind(&mut self, n: u8) -> Ipv4Addr {
        let address = self.offer(n).unwrap().packet.yiaddr;
        let (lease, ack) = commit(&self.send(&Client::select(n, address)));
        let kind = ack.unwrap().packet.message_type();
        assert_eq!(kind, Some(MessageType::Ack));
        lease.address
    }
}

#[test]
fn a_pool_with_a_tag_is_for_devices_with_it_alone() {
    let mut rack = Rack::new(&[(1, "rack1"), (2, "rack1"), (3, "rack1")]);
    let (first, second) = (rack.bind(1), rack.bind(2));
    assert_eq!((first.min(second), first.max(second)), (ip(50), ip(51)));
    // The third gets one of those for anybody.
    let third = rack.bind(3);
    assert!([ip(100), ip(101)].contains(&third));
    // Others do not get the tag's, even when nothing else is left.
    rack.bind(4);
    assert!(rack.offer(5).is_none());
    // Not even by asking for one that is free again.
    rack.lab.pass(std::time::Duration::from_secs(4000));
    let greedy = Client::discover(6).address(code::REQUESTED_ADDRESS, ip(50));
    let out = rack.send(&greedy);
    let offered = replies(&out).pop().unwrap_or_else(|| rack.lab.next_reply());
    assert!([ip(100), ip(101)].contains(&offered.packet.yiaddr));
}

#[test]
fn a_device_moves_with_its_tag() {
    let mut rack = Rack::new(&[]);
    let before = rack.bind(1);
    assert!([ip(100), ip(101)].contains(&before));
    rack.tags.0.push((1, "rack1"));
    // What it has it may go on using until it starts again.
    let out = rack.send(&Client::renew(1, before));
    assert_eq!(commit(&out).0.address, before);
    let after = rack.bind(1);
    assert!([ip(50), ip(51)].contains(&after));
    // Without the tag the address is not its any more.
    rack.tags.0.clear();
    assert!(is_nak(&rack.send(&Client::renew(1, after))));
    assert!([ip(100), ip(101)].contains(&rack.bind(1)));
}

#[test]
fn options_of_a_tag_win_over_those_of_the_subnet() {
    let mut rack = Rack::new(&[(1, "rack1"), (2, "rack1"), (2, "rack2"), (3, "rack2")]);
    let told = |offer: &Transmit| {
        let options = &offer.packet.options;
        let domain = options.get(code::DOMAIN_NAME).map(<[u8]>::to_vec);
        (
            options.address(code::ROUTER).unwrap().octets()[3],
            options.address(code::NTP).unwrap().octets()[3],
            String::from_utf8(domain.unwrap()).unwrap(),
        )
    };
    let mut of = |n| told(&rack.offer(n).unwrap());
    assert_eq!(of(1), (7, 8, "lab.example".into()));
    // Of several tags the first in the configuration wins, field by field.
    assert_eq!(of(2), (7, 8, "two.example".into()));
    assert_eq!(of(3), (9, 5, "two.example".into()));
    assert_eq!(of(4), (2, 5, "lab.example".into()));
}

#[test]
fn tags_that_cannot_be_meant_are_refused() {
    let tagged = |tag: &str, first: u8, last: u8| Tagged {
        tag: tag.into(),
        pools: vec![Pool {
            first: ip(first),
            last: ip(last),
        }],
        ..Tagged::default()
    };
    let check = |all: Vec<Tagged>| {
        let mut link = subnet(200);
        link.tagged = all;
        link.check()
    };
    check(vec![tagged("a", 10, 19), tagged("b", 20, 29)]).unwrap();
    let twice = check(vec![tagged("a", 10, 19), tagged("a", 20, 29)]);
    assert_eq!(twice, Err(ConfigError::TagTwice("a".into())));
    for shared in [
        vec![tagged("a", 90, 100)],
        vec![tagged("a", 10, 19), tagged("b", 19, 29)],
    ] {
        let error = check(shared).unwrap_err();
        assert!(matches!(error, ConfigError::PoolShared { .. }), "{error}");
    }
    let nameless = check(vec![tagged("", 10, 19)]);
    assert!(matches!(nameless, Err(ConfigError::TagEmpty(_))));
}

#[test]
fn nobody_is_asked_for_tags_where_none_are_configured() {
    struct Never;
    impl Advisor for Never {
        fn advise(&self, facts: &ClientFacts, ask: Ask<'_>) -> BootPlan {
            Plans::default().advise(facts, ask)
        }
        fn tags(&self, facts: &ClientFacts) -> Vec<String> {
            panic!("asked about {}", facts.mac)
        }
    }
    let mut lab = lab();
    let client = Client::discover(1);
    let mut out = vec![];
    lab.machine
        .handle(lab.now, client.ingress, &client.packet, &Never, &mut out);
    assert_eq!(probes(&out).len(), 1);
}

proptest! {
    /// Whatever a relay or a client writes there: no panic, and who is answered gets it back as it was.
    #[test]
    fn any_relay_information_is_survived_and_echoed(
        info in proptest::collection::vec(any::<u8>(), 0..100),
        named in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..8)),
        plausible: bool,
    ) {
        let mut lab = lab();
        let info = if plausible {
            [&relay_info([192, 168, 6, 0].into())[..], &info].concat()
        } else {
            info
        };
        let mut client = Client::discover(1).option(code::RELAY_INFO, &info).relayed(RELAY);
        if let Some(named) = &named {
            client = client.option(code::SUBNET_SELECTION, named);
        }
        let mut out = lab.send(&client);
        out.extend(lab.pass(std::time::Duration::from_secs(1)));
        for reply in replies(&out) {
            let options = &reply.packet.options;
            prop_assert_eq!(options.get(code::RELAY_INFO), Some(&info[..]));
            prop_assert_eq!(options.get(code::SUBNET_SELECTION), named.as_deref());
        }
    }
}
