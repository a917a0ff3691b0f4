//! Full mode: who gets which address, and keeps it, RFC 2131 sections 4.3 and 4.4.

mod support;

use bugler_dhcp::{
    Destination, MessageType, Mode, Network, NoticeKind, Pool, Reservation, Subnet, code,
};
use bugler_model::{LeaseState, MacAddr, Timestamp};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use support::*;
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn the_same_client_gets_the_same_address_through_all_stages_and_after_expiry() {
    let mut lab = Lab::full(200);
    let uuid = [&[0][..], &[7; 16]].concat();
    let first = lab.bind(&Client::discover(1).uefi().option(61, &uuid));
    assert_eq!(lab.bind(&Client::discover(1).ipxe()), first);
    assert_eq!(lab.bind(&Client::discover(1)), first);
    assert_eq!(
        lab.bind(&Client::discover(1).option(61, b"\xff1234\0\x02duid")),
        first
    );
    lab.pass(24 * HOUR);
    assert_eq!(lab.bind(&Client::discover(1).bios()), first);
    assert_ne!(lab.bind(&Client::discover(2)), first);
}

#[test]
fn machines_cloned_from_one_image_get_different_addresses() {
    let mut lab = Lab::full(200);
    let duid = b"\xff1234\0\x02same";
    let first = lab.bind(&Client::discover(1).option(61, duid));
    let second = lab.bind(&Client::discover(2).option(61, duid));
    assert_ne!(first, second);
}

#[test]
fn a_fresh_address_is_probed_and_one_that_the_client_had_is_not() {
    let mut lab = Lab::full(200);
    let out = lab.send(&Client::discover(1));
    let [address] = probes(&out)[..] else {
        panic!("{out:?}")
    };
    assert!(replies(&out).is_empty());
    // Another client does not wait for it.
    assert_eq!(probes(&lab.send(&Client::discover(2))).len(), 1);
    // Asked again, before it is known: no second probe.
    assert!(lab.send(&Client::discover(1)).is_empty());
    let started = lab.now.up;
    let offer = lab.next_reply();
    assert_eq!((offer.packet.yiaddr, offer.packet.chaddr[5]), (address, 1));
    let waited = lab.now.up - started;
    assert!(
        (Duration::from_millis(300)..=Duration::from_millis(500)).contains(&waited),
        "{waited:?}"
    );
    commit(&lab.send(&Client::select(1, address)));
    lab.pass(2 * HOUR);
    let out = lab.send(&Client::discover(1));
    assert_eq!(replies(&out)[0].packet.yiaddr, address);
}

#[test]
fn an_address_that_was_probed_a_moment_ago_is_not_probed_again() {
    let mut lab = Lab::full(100);
    lab.offer(&Client::discover(1));
    // Selects another server's offer.
    let other = Client::new(1, MessageType::Request).address(code::SERVER_ID, ip(9));
    assert!(lab.send(&other).is_empty());
    let out = lab.send(&Client::discover(2));
    assert_eq!(replies(&out)[0].packet.yiaddr, ip(100));
}

#[test]
fn an_address_in_use_is_not_offered_and_is_reported() {
    let mut lab = Lab::full(200);
    let [used] = probes(&lab.send(&Client::discover(1)))[..] else {
        panic!()
    };
    let mut out = vec![];
    lab.machine.probe_answered(lab.now, used, mac(99), &mut out);
    let (lease, then) = commit(&out);
    assert_eq!(
        (lease.address, lease.state, lease.mac),
        (used, LeaseState::Declined, MacAddr([0; 6]))
    );
    assert!(then.is_none());
    let [notice] = &notices(&out)[..] else {
        panic!("{out:?}")
    };
    assert_eq!(
        (notice.kind, notice.mac),
        (NoticeKind::AddressInUse, Some(mac(99)))
    );
    let [another] = probes(&out)[..] else {
        panic!("{out:?}")
    };
    assert_ne!(another, used);
    assert_eq!(lab.next_reply().packet.yiaddr, another);
}

#[test]
fn the_clients_own_answer_to_the_probe_is_no_conflict() {
    let mut lab = Lab::full(200);
    let [address] = probes(&lab.send(&Client::discover(1)))[..] else {
        panic!()
    };
    let mut out = vec![];
    lab.machine
        .probe_answered(lab.now, address, mac(1), &mut out);
    assert_eq!(replies(&out)[0].packet.yiaddr, address);
}

#[test]
fn where_every_address_is_in_use_the_search_ends() {
    let mut lab = Lab::full(102);
    let mut out = lab.send(&Client::discover(1));
    let mut tried = vec![];
    while let Some(&address) = probes(&out).first() {
        tried.push(address);
        out.clear();
        lab.machine
            .probe_answered(lab.now, address, mac(99), &mut out);
    }
    tried.sort();
    assert_eq!(tried, [ip(100), ip(101), ip(102)]);
    let notice = notices(&out).pop().unwrap();
    assert_eq!(notice.kind, NoticeKind::PoolExhausted);
    assert!(
        notice
            .text
            .contains("of 3 in the pools 0 are leased, 3 in quarantine"),
        "{}",
        notice.text
    );
}

#[test]
fn a_declined_address_is_quarantined_and_another_is_given() {
    let mut lab = Lab::full(200);
    let address = lab.bind(&Client::discover(1));
    let decline = Client::new(1, MessageType::Decline)
        .address(code::SERVER_ID, SERVER)
        .address(code::REQUESTED_ADDRESS, address);
    // Not by somebody else.
    let mut stranger = decline.clone();
    stranger.packet.chaddr[5] = 7;
    assert!(lab.send(&stranger).is_empty());
    let out = lab.send(&decline);
    let (lease, then) = commit(&out);
    assert_eq!(
        (lease.address, lease.state, then),
        (address, LeaseState::Declined, None)
    );
    assert_eq!(kinds(&out), [NoticeKind::AddressInUse]);
    let next = lab.bind(&Client::discover(1));
    assert_ne!(next, address);
    assert!(is_nak(&lab.send(&Client::reboot(1, address))));
    // After the quarantine it is there for those who ask for it.
    lab.pass(Duration::from_secs(601));
    let out = lab.send(&Client::discover(2).address(code::REQUESTED_ADDRESS, address));
    assert_eq!(probes(&out), [address]);
}

#[test]
fn a_released_address_goes_to_its_last_holder_first_and_then_to_others() {
    let mut lab = Lab::full(101);
    let address = lab.bind(&Client::discover(1));
    let (lease, then) = commit(&lab.send(&Client::new(1, MessageType::Release).using(address)));
    assert_eq!(
        (lease.state, lease.expires, then),
        (LeaseState::Released, lab.now.wall, None)
    );
    assert!(
        lab.send(&Client::new(1, MessageType::Release).using(address))
            .is_empty(),
        "only once"
    );
    let other = lab.bind(&Client::discover(2));
    assert_ne!(other, address, "addresses that nobody had come first");
    assert_eq!(lab.bind(&Client::discover(1)), address);
    commit(&lab.send(&Client::new(1, MessageType::Release).using(address)));
    assert_eq!(lab.bind(&Client::discover(3)), address);
}

#[test]
fn a_release_of_anothers_address_changes_nothing() {
    let mut lab = Lab::full(101);
    let address = lab.bind(&Client::discover(1));
    assert!(
        lab.send(&Client::new(2, MessageType::Release).using(address))
            .is_empty()
    );
    assert_eq!(
        replies(&lab.send(&Client::discover(1)))[0].packet.yiaddr,
        address
    );
}

#[test]
fn renewing_rebinding_and_rebooting_clients_keep_their_address() {
    let mut lab = Lab::full(200);
    let address = lab.bind(&Client::discover(1));
    lab.pass(HOUR / 2);
    let (lease, ack) = commit(&lab.send(&Client::renew(1, address)));
    assert_eq!(lease.expires.millis_since(lab.now.wall), 3_600_000);
    assert_eq!(
        ack.unwrap().to,
        Destination::Udp(SocketAddrV4::new(address, 68))
    );
    let mut rebind = Client::renew(1, address);
    rebind.ingress.destination = Ipv4Addr::BROADCAST;
    assert_eq!(commit(&lab.send(&rebind)).0.address, address);
    let (_, ack) = commit(&lab.send(&Client::reboot(1, address)));
    assert_eq!(
        ack.unwrap().to,
        Destination::Link {
            ip: address,
            mac: mac(1)
        }
    );
}

#[test]
fn wrong_addresses_are_refused_where_the_server_is_authoritative() {
    let mut lab = Lab::full(200);
    let address = lab.bind(&Client::discover(1));
    let other_net = Ipv4Addr::new(192, 168, 1, 5);
    for wrong in [
        Client::reboot(2, other_net),
        Client::reboot(2, address),
        Client::reboot(2, ip(150)),
        Client::renew(2, ip(150)),
        Client::reboot(1, ip(150)),
        Client::select(2, ip(50)),
    ] {
        let out = lab.send(&wrong);
        assert!(is_nak(&out));
        assert_eq!(replies(&out)[0].to, Destination::Broadcast);
    }
    let mut quiet = subnet(200);
    quiet.authoritative = false;
    let mut lab = Lab::new(Mode::Full, vec![quiet], vec![]);
    assert!(lab.send(&Client::reboot(2, other_net)).is_empty());
    assert!(lab.send(&Client::reboot(2, ip(150))).is_empty());
    assert!(
        is_nak(&lab.send(&Client::select(2, ip(50)))),
        "it answers an offer of ours"
    );
}

#[test]
fn a_request_that_names_another_server_is_left_to_it() {
    let mut lab = Lab::full(100);
    lab.offer(&Client::discover(1));
    let other = Client::new(1, MessageType::Request)
        .address(code::SERVER_ID, ip(9))
        .address(code::REQUESTED_ADDRESS, ip(77));
    assert!(lab.send(&other).is_empty());
    assert_eq!(
        lab.offer(&Client::discover(2)).packet.yiaddr,
        ip(100),
        "its offer is free again"
    );
}

#[test]
fn only_the_address_that_was_offered_can_be_taken() {
    let mut lab = Lab::full(200);
    let offered = lab.offer(&Client::discover(1)).packet.yiaddr;
    let another = if offered == ip(150) { ip(151) } else { ip(150) };
    assert!(is_nak(&lab.send(&Client::select(1, another))));
}

#[test]
fn an_offer_that_was_made_before_a_restart_is_still_good_and_a_lease_is_known() {
    let mut lab = Lab::full(200);
    let offered = lab.offer(&Client::discover(1)).packet.yiaddr;
    let leased = lab.bind(&Client::discover(2));
    let stored = vec![bound(2, leased, lab.now.wall.plus_millis(60_000))];
    let mut lab = Lab::new(Mode::Full, vec![subnet(200)], stored);
    assert!(is_nak(&lab.send(&Client::select(3, leased))));
    commit(&lab.send(&Client::select(1, offered)));
    commit(&lab.send(&Client::renew(2, leased)));
}

#[test]
fn reservations_are_by_mac_or_uuid_and_for_nobody_else() {
    let uuid = Uuid::from_bytes([7; 16]);
    let mut net = subnet(101);
    net.reservations = vec![
        Reservation {
            mac: Some(mac(1)),
            uuid: None,
            address: ip(20),
            hostname: Some("one".into()),
        },
        Reservation {
            mac: None,
            uuid: Some(uuid),
            address: ip(101),
            hostname: None,
        },
    ];
    let mut lab = Lab::new(Mode::Full, vec![net], vec![]);
    let offer = lab.offer(&Client::discover(1));
    assert_eq!(offer.packet.yiaddr, ip(20));
    assert_eq!(offer.packet.options.get(code::HOST_NAME), Some(&b"one"[..]));
    assert_eq!(lab.bind(&Client::discover(5)), ip(100));
    assert_eq!(
        kinds(&lab.send(&Client::discover(6))),
        [NoticeKind::PoolExhausted]
    );
    assert_eq!(
        lab.bind(&Client::discover(2).uefi()),
        ip(101),
        "by option 97"
    );
    let by_id = Client::discover(2).option(61, &[&[0][..], &[7; 16]].concat());
    assert_eq!(lab.bind(&by_id), ip(101), "by option 61");
    assert!(is_nak(&lab.send(&Client::reboot(2, ip(100)).uefi())));
}

#[test]
fn another_interface_of_a_reserved_machine_gets_its_address_unless_the_first_still_uses_it() {
    let mut net = subnet(150);
    net.reservations = vec![Reservation {
        mac: None,
        uuid: Some(Uuid::from_bytes([7; 16])),
        address: ip(20),
        hostname: None,
    }];
    let mut lab = Lab::new(Mode::Full, vec![net], vec![]);
    assert_eq!(lab.bind(&Client::discover(1).uefi()), ip(20));
    // The second interface: nobody answers the probe, so it takes the address over.
    assert_eq!(probes(&lab.send(&Client::discover(2).uefi())), [ip(20)]);
    assert_eq!(lab.next_reply().packet.yiaddr, ip(20));
    commit(&lab.send(&Client::select(2, ip(20)).uefi()));
    // A third one: the second answers, and keeps it.
    lab.pass(Duration::from_secs(130));
    let out = lab.send(&Client::renew(2, ip(20)).uefi());
    commit(&out);
    lab.send(&Client::discover(3).uefi());
    let mut out = vec![];
    lab.machine
        .probe_answered(lab.now, ip(20), mac(2), &mut out);
    assert!(notices(&out).is_empty(), "{out:?}");
    assert_ne!(lab.next_reply().packet.yiaddr, ip(20));
}

#[test]
fn an_empty_pool_takes_ended_leases_and_stale_offers_and_then_says_so_with_numbers() {
    let mut lab = Lab::full(102);
    let first = lab.bind(&Client::discover(1).bios());
    let second = lab.bind(&Client::discover(2));
    lab.offer(&Client::discover(3));
    let out = lab.send(&Client::discover(4));
    let [notice] = &notices(&out)[..] else {
        panic!("{out:?}")
    };
    assert_eq!(notice.kind, NoticeKind::PoolExhausted);
    assert!(
        notice
            .text
            .contains("of 3 in the pools 2 are leased, 0 in quarantine"),
        "{}",
        notice.text
    );
    assert!(notice.text.contains("1 on offer"), "{}", notice.text);
    assert!(
        lab.send(&Client::discover(4)).is_empty(),
        "it is not said with every packet"
    );
    // An offer that nobody takes is given to others before it lapses.
    lab.pass(Duration::from_secs(6));
    let stale = lab.bind(&Client::discover(4));
    assert!(stale != first && stale != second);
    // The boot lease of the first ended after 120 s.
    lab.pass(Duration::from_secs(120));
    assert_eq!(lab.bind(&Client::discover(5)), first);
}

#[test]
fn a_flood_of_invented_clients_takes_bounded_room_and_passes() {
    let mut net = Subnet::new(Network {
        address: [10, 0, 0, 1].into(),
        prefix: 8,
    });
    net.pools = vec![Pool {
        first: [10, 1, 0, 0].into(),
        last: [10, 2, 255, 255].into(),
    }];
    let mut lab = Lab::new(Mode::Full, vec![net], vec![]);
    let address = lab.bind(&Client::discover(1));
    for n in 0..100_000u32 {
        let mut discover = Client::discover(2);
        discover.packet.chaddr[..4].copy_from_slice(&n.to_be_bytes());
        discover.packet.chaddr[0] = 2;
        lab.send(&discover);
    }
    assert_eq!(
        commit(&lab.send(&Client::renew(1, address))).0.address,
        address
    );
    let offers = lab.pass(Duration::from_secs(1));
    assert!(offers.len() <= 32_768, "{} questions", offers.len());
    lab.pass(Duration::from_secs(1));
    lab.pass(Duration::from_secs(61));
    assert_eq!(lab.machine.next_deadline(), None, "nothing is left of it");
    lab.bind(&Client::discover(3));
}

#[test]
fn a_year_of_renewals_keeps_the_address() {
    let mut lab = Lab::full(200);
    let address = lab.bind(&Client::discover(1));
    for _ in 0..365 * 48 {
        lab.pass(HOUR / 2);
        assert_eq!(
            commit(&lab.send(&Client::renew(1, address))).0.address,
            address
        );
    }
}

#[test]
fn a_wall_clock_that_jumps_back_or_ahead_hurts_nobody() {
    let mut lab = Lab::full(200);
    lab.now.wall = Timestamp(0);
    let first = lab.bind(&Client::discover(1));
    lab.now.wall = Timestamp(1_900_000_000_000);
    commit(&lab.send(&Client::renew(1, first)));
    lab.now.wall = Timestamp(0);
    commit(&lab.send(&Client::renew(1, first)));
    assert_ne!(lab.bind(&Client::discover(2)), first);
}
