//! Full mode: what an answer says and where it goes, RFC 2131 section 4.3.

mod support;

use bugler_dhcp::{
    CustomOption, Destination, MessageType, Mode, Network, NoticeKind, Pool, Subnet, code,
};
use bugler_model::LeaseState;
use std::net::{Ipv4Addr, SocketAddrV4};
use support::*;

#[test]
fn a_client_gets_an_address_and_what_the_network_needs() {
    let mut lab = Lab::full(200);
    let mut discover = Client::discover(1)
        .option(12, b"node\x001\0")
        .option(61, &[1, 2, 3]);
    discover.packet.secs = 9;
    let offer = lab.offer(&discover);
    let packet = &offer.packet;
    assert_eq!(packet.message_type(), Some(MessageType::Offer));
    assert_eq!(
        (packet.xid, packet.chaddr, packet.secs),
        (discover.packet.xid, discover.packet.chaddr, 0)
    );
    let address = packet.yiaddr;
    assert!((ip(100)..=ip(200)).contains(&address));
    assert_eq!(
        offer.to,
        Destination::Link {
            ip: address,
            mac: mac(1)
        }
    );
    assert_eq!(offer.from, SocketAddrV4::new(SERVER, 67));

    let select = Client::select(1, address)
        .option(12, b"node\x001\0")
        .option(61, &[1, 2, 3]);
    let (lease, ack) = commit(&lab.send(&select));
    assert_eq!(
        (lease.address, lease.mac, lease.state),
        (address, mac(1), LeaseState::Bound)
    );
    assert_eq!(lease.expires.millis_since(lab.now.wall), 3_600_000);
    assert_eq!(
        (lease.hostname.as_deref(), lease.client_id.as_deref()),
        (Some("node.1"), Some(&[1, 2, 3][..]))
    );
    let packet = ack.unwrap().packet;
    assert_eq!(
        (packet.message_type(), packet.yiaddr),
        (Some(MessageType::Ack), address)
    );
    let option = |code| packet.options.get(code).map(<[u8]>::to_vec);
    assert_eq!(option(code::SERVER_ID), Some(vec![10, 0, 0, 1]));
    assert_eq!(option(code::LEASE_TIME), Some(3600u32.to_be_bytes().into()));
    assert_eq!(
        option(code::RENEWAL_TIME),
        Some(1800u32.to_be_bytes().into())
    );
    assert_eq!(
        option(code::REBINDING_TIME),
        Some(3150u32.to_be_bytes().into())
    );
    assert_eq!(option(code::SUBNET_MASK), Some(vec![255, 255, 255, 0]));
    assert_eq!(option(code::ROUTER), Some(vec![10, 0, 0, 2]));
    assert_eq!(option(code::DNS), Some(vec![10, 0, 0, 3, 10, 0, 0, 4]));
    assert_eq!(option(code::DOMAIN_NAME), Some(b"lab.example".to_vec()));
    assert_eq!(option(code::NTP), Some(vec![10, 0, 0, 5]));
    assert_eq!(option(code::CLIENT_ID), Some(vec![1, 2, 3]));
    // Nobody asked it about a client that does not boot.
    assert!(lab.plans.asked.lock().unwrap().is_empty());
}

#[test]
fn only_what_was_asked_for_is_told_but_for_mask_router_and_what_always_goes() {
    let mut net = subnet(200);
    net.options = vec![
        CustomOption {
            code: 26,
            value: vec![5, 0xdc],
            always: false,
        },
        CustomOption {
            code: 119,
            value: b"\x03lab\0".to_vec(),
            always: true,
        },
        CustomOption {
            code: 6,
            value: vec![9, 9, 9, 9],
            always: false,
        },
    ];
    let mut lab = Lab::new(Mode::Full, vec![net], vec![]);
    let codes = |packet: &bugler_dhcp::Packet| -> Vec<u8> {
        packet.options.iter().map(|(code, _)| code).collect()
    };
    let some = lab.offer(&Client::discover(1).option(55, &[26, 1]));
    assert_eq!(codes(&some.packet), [53, 54, 51, 58, 59, 1, 3, 26, 119]);
    let dns = lab.offer(&Client::discover(2).option(55, &[6]));
    assert_eq!(
        dns.packet.options.get(6),
        Some(&[9, 9, 9, 9][..]),
        "the operator's own value wins"
    );
}

#[test]
fn boot_clients_get_short_leases_and_what_they_boot() {
    let mut lab = Lab::full(200);
    let packet = lab.offer(&Client::discover(1).uefi()).packet;
    assert_eq!(
        packet.options.get(code::LEASE_TIME),
        Some(&120u32.to_be_bytes()[..])
    );
    assert_eq!(
        (packet.siaddr, packet.file_name()),
        (SERVER, &b"snponly.efi"[..])
    );
    assert_eq!(
        packet.options.get(code::BOOT_FILE),
        Some(&b"snponly.efi"[..])
    );
    assert_eq!(
        packet.options.get(code::TFTP_SERVER),
        Some(&b"10.0.0.1"[..])
    );
    assert_eq!(
        packet.options.get(code::VENDOR_CLASS),
        Some(&b"PXEClient"[..])
    );
    assert_eq!(packet.options.get(code::VENDOR), Some(&[6, 1, 8, 255][..]));
    assert_eq!(
        packet.options.get(code::CLIENT_UUID),
        Some(&[&[0][..], &[7; 16]].concat()[..])
    );

    let packet = lab.offer(&Client::discover(2).uefi_http()).packet;
    assert_eq!(
        packet.options.get(code::VENDOR_CLASS),
        Some(&b"HTTPClient"[..])
    );
    assert_eq!(
        packet.options.get(code::BOOT_FILE),
        Some(&b"http://10.0.0.1:8480/boot/snponly.efi"[..])
    );
    assert_eq!(packet.options.get(code::VENDOR), None);

    let packet = lab.offer(&Client::discover(3).ipxe()).packet;
    assert_eq!(
        packet.file_name(),
        b"http://10.0.0.1:8480/boot/ipxe/52:54:00:00:00:03"
    );
    assert_eq!(packet.options.get(code::IPXE), Some(&[176, 1, 1][..]));
    let asked = lab.plans.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [1, 2, 3].map(|n| (mac(n), MessageType::Discover, 67))
    );
}

#[test]
fn a_device_that_boots_its_disk_gets_an_address_and_nothing_to_boot() {
    let mut net = subnet(200);
    net.options = [43, 66, 67, 150]
        .map(|code| CustomOption {
            code,
            value: b"telephone".to_vec(),
            always: true,
        })
        .into();
    let mut lab = Lab::new(Mode::Full, vec![net], vec![]);
    lab.plans.silent = true;
    for client in [
        Client::discover(1).bios(),
        Client::discover(2).uefi(),
        Client::discover(3).ipxe(),
    ] {
        let packet = lab.offer(&client).packet;
        assert_ne!(packet.yiaddr, Ipv4Addr::UNSPECIFIED);
        assert_eq!(
            (packet.siaddr, packet.file_name()),
            (Ipv4Addr::UNSPECIFIED, &b""[..])
        );
        for code in [43, 60, 66, 67, 97, 150, 175] {
            assert_eq!(packet.options.get(code), None, "option {code}");
        }
    }
    let telephone = lab.offer(&Client::discover(4)).packet;
    assert_eq!(telephone.options.get(66), Some(&b"telephone"[..]));
}

#[test]
fn an_inform_is_answered_without_a_lease() {
    let mut lab = Lab::full(200);
    let out = lab.send(&Client::new(1, MessageType::Inform).using(ip(50)));
    let [ack] = &replies(&out)[..] else {
        panic!("{out:?}")
    };
    assert_eq!(ack.to, Destination::Udp(SocketAddrV4::new(ip(50), 68)));
    assert_eq!(
        (ack.packet.yiaddr, ack.packet.ciaddr),
        (Ipv4Addr::UNSPECIFIED, ip(50))
    );
    assert_eq!(ack.packet.options.get(code::LEASE_TIME), None);
    assert!(ack.packet.options.get(code::DNS).is_some());
    let foreign = Ipv4Addr::new(172, 16, 0, 1);
    assert!(
        lab.send(&Client::new(1, MessageType::Inform).using(foreign))
            .is_empty()
    );
}

#[test]
fn relays_get_their_answers_by_unicast_with_their_option_last() {
    let giaddr = Ipv4Addr::new(192, 168, 5, 1);
    let mut behind = Subnet::new(Network {
        address: giaddr,
        prefix: 24,
    });
    behind.pools = vec![Pool {
        first: [192, 168, 5, 10].into(),
        last: [192, 168, 5, 20].into(),
    }];
    let mut lab = Lab::new(Mode::Full, vec![subnet(200), behind], vec![]);
    let discover = Client::discover(1)
        .option(82, &[1, 2, 7, 7])
        .relayed(giaddr);
    // No probe: ARP does not reach behind a router.
    let out = lab.send(&discover);
    let [offer] = &replies(&out)[..] else {
        panic!("{out:?}")
    };
    assert!(is_to_relay(offer, giaddr));
    assert_eq!(offer.packet.giaddr, giaddr);
    assert_eq!(
        offer.packet.options.get(code::SUBNET_MASK),
        Some(&[255, 255, 255, 0][..])
    );
    assert_eq!(
        offer.packet.options.get(code::ROUTER),
        None,
        "that of the other subnet"
    );
    let bytes = offer.packet.encode(offer.limit).bytes;
    let end = bytes.iter().rposition(|&b| b == 255).unwrap();
    assert_eq!(bytes[end - 6..end], [82, 4, 1, 2, 7, 7]);

    let nak = lab.send(&Client::reboot(1, ip(100)).relayed(giaddr));
    assert!(is_nak(&nak));
    assert!(is_to_relay(&replies(&nak)[0], giaddr) && replies(&nak)[0].packet.wants_broadcast());

    let address = offer.packet.yiaddr;
    commit(&lab.send(&Client::select(1, address).relayed(giaddr)));
    // Renewing goes around the relay.
    assert_eq!(
        commit(&lab.send(&Client::renew(1, address))).0.address,
        address
    );

    let unknown = lab.send(&Client::discover(2).relayed([172, 16, 0, 1].into()));
    assert_eq!(kinds(&unknown), [NoticeKind::UnknownNetwork]);
}

#[test]
fn the_server_answers_from_the_address_that_was_asked() {
    let mut lab = Lab::full(200);
    let mut discover = Client::discover(1).uefi().relayed(ip(9));
    discover.ingress.destination = ip(77);
    let offer = replies(&lab.send(&discover)).pop().unwrap();
    assert_eq!(offer.from, SocketAddrV4::new(ip(77), 67));
    assert_eq!(offer.packet.siaddr, ip(77));
    assert_eq!(offer.packet.options.address(code::SERVER_ID), Some(ip(77)));
}

#[test]
fn a_client_that_asks_for_broadcast_gets_it() {
    let mut lab = Lab::full(200);
    let mut discover = Client::discover(1);
    discover.packet.set_broadcast();
    assert_eq!(lab.offer(&discover).to, Destination::Broadcast);
}

#[test]
fn an_answer_fits_what_the_client_takes() {
    let mut lab = Lab::full(200);
    assert_eq!(lab.offer(&Client::discover(1)).limit, 548);
    assert_eq!(
        lab.offer(&Client::discover(2).option(57, &[5, 0xb8])).limit,
        1436
    );
}
