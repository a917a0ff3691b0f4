//! What holds whatever clients, relays and the network do.

mod support;

use bugler_dhcp::{Destination, MessageType, Mode, Op, Output, Packet, code};
use bugler_model::{Lease, LeaseState};
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;
use support::*;

/// What can happen.
#[derive(Clone, Debug)]
enum Event {
    Packet {
        client: u8,
        kind: u8,
        address: u8,
        server: Option<u8>,
        using: bool,
        boots: u8,
        id: Option<u8>,
        on_4011: bool,
    },
    /// An ARP answer for the last address that was asked for, or for any other.
    Answer {
        last: bool,
        address: u8,
        by: u8,
    },
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let packet = (
        0u8..6,
        0u8..10,
        98u8..108,
        proptest::option::of(0u8..3),
        any::<bool>(),
        0u8..5,
        proptest::option::of(0u8..3),
        any::<bool>(),
    );
    prop_oneof![
        8 => packet.prop_map(|(client, kind, address, server, using, boots, id, on_4011)| Event::Packet {
            client, kind, address, server, using, boots, id, on_4011: on_4011 && boots == 4,
        }),
        1 => (any::<bool>(), 98u8..108, 0u8..8).prop_map(|(last, address, by)| Event::Answer { last, address, by }),
        3 => prop_oneof![0u64..500, 0u64..100_000, Just(7_200_000)].prop_map(Event::Pass),
    ]
}

fn request(event: &Event) -> Option<Client> {
    let Event::Packet {
        client,
        kind,
        address,
        server,
        using,
        boots,
        id,
        on_4011,
    } = *event
    else {
        return None;
    };
    let kind = MessageType::from_number(kind.min(8)).unwrap_or(MessageType::Request);
    let mut made = Client::new(client, kind);
    made = if using {
        made.using(ip(address))
    } else {
        made.address(code::REQUESTED_ADDRESS, ip(address))
    };
    if let Some(server) = server {
        made = made.address(code::SERVER_ID, ip(server));
    }
    if let Some(id) = id {
        made = made.option(code::CLIENT_ID, &[0xff, 0, 0, 0, 0, id]);
    }
    made = match boots {
        0 => made.bios(),
        1 => made.uefi(),
        2 => made.ipxe(),
        _ => made,
    };
    Some(if on_4011 { made.on_4011() } else { made })
}

/// The leases in force, as somebody who follows the commits sees them.
#[derive(Default)]
struct Book(HashMap<Ipv4Addr, Lease>);

impl Book {
    fn check(&mut self, lab: &Lab, out: &[Output]) -> Result<(), TestCaseError> {
        for output in out {
            match output {
                Output::Commit { lease, then } => {
                    let held = self.0.get(&lease.address).filter(|held| {
                        held.state == LeaseState::Bound && held.expires > lab.now.wall
                    });
                    if let Some(held) = held.filter(|_| lease.state == LeaseState::Bound) {
                        prop_assert_eq!(held.mac, lease.mac, "an address was given to two clients");
                    }
                    if let Some(ack) = then {
                        prop_assert_eq!(ack.packet.message_type(), Some(MessageType::Ack));
                        prop_assert_eq!(
                            (ack.packet.yiaddr, lease.state),
                            (lease.address, LeaseState::Bound)
                        );
                        prop_assert!((ip(100)..=ip(104)).contains(&lease.address));
                    }
                    self.0.insert(lease.address, (**lease).clone());
                }
                Output::Send(reply) => {
                    let packet = &reply.packet;
                    let kind = packet.message_type();
                    prop_assert_eq!(packet.op, Op::Reply);
                    // An acknowledged address is always committed before.
                    prop_assert!(
                        kind != Some(MessageType::Ack)
                            || packet.options.get(code::LEASE_TIME).is_none()
                    );
                    if kind == Some(MessageType::Offer) {
                        let held = self
                            .0
                            .get(&packet.yiaddr)
                            .filter(|held| held.expires > lab.now.wall);
                        let mac = packet.mac().unwrap();
                        prop_assert!(
                            held.is_none_or(|held| held.mac == mac),
                            "{} was offered to {mac}",
                            packet.yiaddr
                        );
                    }
                    if let Destination::Link { ip, .. } = reply.to {
                        prop_assert_eq!(ip, packet.yiaddr);
                    }
                    let encoded = packet.encode(reply.limit);
                    prop_assert!(encoded.left_out.is_empty() && encoded.bytes.len() <= reply.limit);
                }
                Output::Probe { address } => prop_assert!((ip(100)..=ip(104)).contains(address)),
                Output::Report(notice) => prop_assert!(!notice.text.is_empty()),
                Output::Search(_) => prop_assert!(false, "a machine does not search"),
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_address_is_given_twice_and_every_lease_is_stored_first(events in proptest::collection::vec(event(), 1..120)) {
        let mut lab = Lab::full(104);
        let mut book = Book::default();
        let mut asked = ip(100);
        for event in &events {
            let out = match event {
                Event::Packet { .. } => lab.send(&request(event).unwrap()),
                Event::Answer { last, address, by } => {
                    let mut out = vec![];
                    let address = if *last { asked } else { ip(*address) };
                    lab.machine.probe_answered(lab.now, address, mac(*by), &mut out);
                    out
                }
                Event::Pass(millis) => lab.pass(Duration::from_millis(*millis)),
            };
            if let Some(&address) = probes(&out).last() {
                asked = address;
            }
            book.check(&lab, &out)?;
        }
        // Whatever happened, it is over at some time.
        lab.pass(Duration::from_secs(1));
        lab.pass(Duration::from_secs(1));
        lab.pass(Duration::from_secs(120));
        prop_assert_eq!(lab.machine.next_deadline(), None);
        lab.pass(Duration::from_secs(86_400));
        lab.bind(&Client::discover(77));
    }

    #[test]
    fn a_proxy_gives_no_address_and_refuses_nobody(events in proptest::collection::vec(event(), 1..60)) {
        let mut lab = Lab::proxy();
        for event in &events {
            let Some(client) = request(event) else { continue };
            for output in lab.send(&client) {
                let Output::Send(reply) = output else { panic!("a proxy only sends: {output:?}") };
                prop_assert!(reply.packet.message_type() != Some(MessageType::Nak));
                prop_assert_eq!(reply.packet.options.get(code::LEASE_TIME), None);
                prop_assert!(reply.packet.yiaddr.is_unspecified() || reply.from.port() == 4011);
            }
        }
    }

    #[test]
    fn any_packet_is_handled(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        kind in 0u8..10,
        full: bool,
        port in prop_oneof![Just(67u16), Just(4011)],
        source: u32,
        destination: u32,
    ) {
        // A header that is read, then anything.
        let mut header = Packet::new(Op::Request, 1, mac(1)).encode(0).bytes;
        header.truncate(240);
        let fields = bytes.len().min(24);
        header[4..4 + fields].copy_from_slice(&bytes[..fields]);
        header.extend([53, 1, kind]);
        header.extend(&bytes);
        let packet = Packet::decode(&header).unwrap();
        let mut lab = Lab::new(if full { Mode::Full } else { Mode::Proxy }, vec![subnet(200)], vec![]);
        let mut client = Client { packet, ingress: broadcast(port) };
        client.ingress.source.set_ip(source.into());
        client.ingress.destination = destination.into();
        for output in lab.send(&client) {
            if let Output::Send(reply) = output {
                prop_assert!(Packet::decode(&reply.packet.encode(reply.limit).bytes).is_ok());
            }
        }
        lab.pass(Duration::from_secs(100));
    }
}
