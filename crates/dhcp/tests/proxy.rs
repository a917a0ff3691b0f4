//! Proxy mode and port 4011.

mod support;

use bugler_dhcp::{Destination, MessageType, Transmit, code};
use std::net::{Ipv4Addr, SocketAddrV4};
use support::*;

fn answer(lab: &mut Lab, client: &Client) -> Transmit {
    let out = lab.send(client);
    let [reply] = &replies(&out)[..] else {
        panic!("{out:?}")
    };
    assert_eq!(out.len(), 1, "{out:?}");
    reply.clone()
}

#[test]
fn a_bios_client_gets_an_offer_without_an_address() {
    let mut lab = Lab::proxy();
    let offer = answer(
        &mut lab,
        &Client::discover(1)
            .bios()
            .option(97, &[&[0][..], &[7; 16]].concat()),
    );
    let packet = &offer.packet;
    assert_eq!(packet.message_type(), Some(MessageType::Offer));
    assert_eq!(
        (packet.yiaddr, packet.siaddr),
        (Ipv4Addr::UNSPECIFIED, SERVER)
    );
    assert_eq!(
        (packet.file_name(), packet.options.get(67)),
        (&b"undionly.kpxe"[..], Some(&b"undionly.kpxe"[..]))
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
    for code in [code::LEASE_TIME, code::SUBNET_MASK, code::ROUTER, code::DNS] {
        assert_eq!(packet.options.get(code), None, "option {code}");
    }
    assert_eq!(offer.to, Destination::Broadcast);
    assert!(packet.wants_broadcast());
}

#[test]
fn a_uefi_client_is_sent_to_port_4011_and_answered_there() {
    let mut lab = Lab::proxy();
    let offer = answer(&mut lab, &Client::discover(1).uefi()).packet;
    assert_eq!(
        (offer.yiaddr, offer.siaddr),
        (Ipv4Addr::UNSPECIFIED, SERVER)
    );
    assert_eq!(
        offer.options.get(code::VENDOR_CLASS),
        Some(&b"PXEClient"[..])
    );
    assert_eq!(
        (
            offer.options.get(43),
            offer.options.get(67),
            offer.file_name()
        ),
        (None, None, &b""[..])
    );

    let ack = answer(
        &mut lab,
        &Client::new(1, MessageType::Request)
            .uefi()
            .using(ip(50))
            .on_4011(),
    );
    assert_eq!(ack.from, SocketAddrV4::new(SERVER, 4011));
    assert_eq!(ack.to, Destination::Udp(SocketAddrV4::new(ip(50), 68)));
    let packet = ack.packet;
    assert_eq!(packet.message_type(), Some(MessageType::Ack));
    assert_eq!(
        (packet.siaddr, packet.file_name()),
        (SERVER, &b"snponly.efi"[..])
    );
    assert_eq!(packet.options.get(67), Some(&b"snponly.efi"[..]));
    assert_eq!(
        packet.options.get(43),
        Some(&b"\x06\x01\x08\x0a\x04\0PXE\xff"[..])
    );
    assert_eq!(packet.options.get(code::LEASE_TIME), None);
    let asked = lab.plans.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [
            (mac(1), MessageType::Discover, 67),
            (mac(1), MessageType::Request, 4011)
        ]
    );
}

#[test]
fn http_and_ipxe_clients_get_everything_in_the_offer() {
    let mut lab = Lab::proxy();
    let http = answer(&mut lab, &Client::discover(1).uefi_http()).packet;
    assert_eq!(
        http.options.get(code::VENDOR_CLASS),
        Some(&b"HTTPClient"[..])
    );
    assert_eq!(
        http.options.get(67),
        Some(&b"http://10.0.0.1:8480/boot/snponly.efi"[..])
    );
    let ipxe = answer(&mut lab, &Client::discover(2).ipxe()).packet;
    assert_eq!(
        ipxe.options.get(code::VENDOR_CLASS),
        Some(&b"PXEClient"[..])
    );
    assert_eq!(
        ipxe.file_name(),
        b"http://10.0.0.1:8480/boot/ipxe/52:54:00:00:00:02"
    );
    assert_eq!(
        ipxe.options.get(code::IPXE),
        None,
        "it must not skip the proxy that we are"
    );
    let again = Client::new(2, MessageType::Request)
        .ipxe()
        .using(ip(50))
        .on_4011();
    assert_eq!(
        answer(&mut lab, &again).packet.file_name(),
        ipxe.file_name()
    );
}

#[test]
fn nobody_else_is_answered_and_nobody_is_refused() {
    let mut lab = Lab::proxy();
    for client in [
        Client::discover(1),
        Client::reboot(1, [192, 168, 1, 1].into()),
        Client::reboot(1, ip(100)).bios(),
        Client::select(1, ip(100)).bios(),
        Client::renew(1, ip(100)).uefi(),
        Client::new(1, MessageType::Inform).using(ip(50)),
        Client::new(1, MessageType::Decline).address(50, ip(100)),
        Client::new(1, MessageType::Release).using(ip(100)),
        Client::new(1, MessageType::Request).using(ip(50)).on_4011(),
        Client::discover(1).uefi().on_4011(),
    ] {
        assert_eq!(lab.send(&client), []);
    }
}

#[test]
fn a_device_that_boots_its_disk_hears_nothing() {
    let mut lab = Lab::proxy();
    lab.plans.silent = true;
    for client in [
        Client::discover(1).bios(),
        Client::discover(1).uefi(),
        Client::discover(1).ipxe(),
        Client::new(1, MessageType::Request)
            .uefi()
            .using(ip(50))
            .on_4011(),
    ] {
        assert_eq!(lab.send(&client), []);
    }
}

#[test]
fn a_boot_server_request_gets_its_item_back() {
    let mut lab = Lab::proxy();
    let request = Client::new(1, MessageType::Request)
        .bios()
        .option(43, &[71, 4, 0, 0, 0, 0, 255]);
    let mut request = request.using(ip(50)).on_4011();
    request.ingress.source.set_port(4011);
    let ack = answer(&mut lab, &request);
    assert_eq!(
        ack.packet.options.get(43),
        Some(&[71, 4, 0, 0, 0, 0, 255][..])
    );
    assert_eq!(
        (ack.packet.yiaddr, ack.packet.file_name()),
        (ip(50), &b"undionly.kpxe"[..])
    );
    assert_eq!(ack.to, Destination::Udp(SocketAddrV4::new(ip(50), 4011)));
}

#[test]
fn relayed_clients_are_answered_through_their_relay() {
    let mut lab = Lab::proxy();
    let relay = Ipv4Addr::new(192, 168, 9, 1);
    let offer = answer(
        &mut lab,
        &Client::discover(1)
            .bios()
            .option(82, &[1, 1, 5])
            .relayed(relay),
    );
    assert!(is_to_relay(&offer, relay));
    assert_eq!(offer.packet.options.get(82), Some(&[1, 1, 5][..]));
}

#[test]
fn a_boot_client_that_informs_is_acknowledged_without_an_address() {
    let mut lab = Lab::proxy();
    let ack = answer(
        &mut lab,
        &Client::new(1, MessageType::Inform).bios().using(ip(50)),
    );
    assert_eq!(ack.packet.message_type(), Some(MessageType::Ack));
    assert_eq!(
        (ack.packet.ciaddr, ack.packet.yiaddr),
        (ip(50), Ipv4Addr::UNSPECIFIED)
    );
    assert_eq!(ack.to, Destination::Udp(SocketAddrV4::new(ip(50), 68)));
}

#[test]
fn port_4011_is_answered_in_full_mode_too() {
    let mut lab = Lab::full(200);
    let ack = answer(
        &mut lab,
        &Client::new(1, MessageType::Request)
            .uefi()
            .using(ip(100))
            .on_4011(),
    );
    assert_eq!(ack.packet.file_name(), b"snponly.efi");
}
