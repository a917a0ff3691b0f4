//! The boot ROM of a Raspberry Pi 3B: it can miss an offer that comes at once, and boots with what it
//! was offered, without a DHCPREQUEST.

mod support;

use bugler_boot::pi::REPLY_DELAY;
use bugler_dhcp::{MessageType, Mode, NoticeKind};
use bugler_model::MacAddr;
use std::net::Ipv4Addr;
use std::time::Duration;
use support::*;

/// A board with this last byte in its MAC address and this machine identifier.
fn board(n: u8, identifier: [u8; 16]) -> Client {
    let mut client = Client::discover(n)
        .bios()
        .option(97, &[&[0][..], &identifier].concat());
    let mac = MacAddr([0xb8, 0x27, 0xeb, 0, 0, n]);
    client.packet.chaddr[..6].copy_from_slice(&mac.0);
    client
}

fn pi_3b(n: u8) -> Client {
    board(n, [0x44; 16])
}

/// Its serial number four times.
fn pi_3b_plus(n: u8) -> Client {
    board(n, [n, 2, 3, 4, n, 2, 3, 4, n, 2, 3, 4, n, 2, 3, 4])
}

fn is_offered(lab: &mut Lab, client: &Client) -> Ipv4Addr {
    let offer = lab.offer(client);
    assert_eq!(offer.packet.message_type(), Some(MessageType::Offer));
    assert_eq!(offer.packet.chaddr, client.packet.chaddr);
    offer.packet.yiaddr
}

#[test]
fn an_offer_to_a_3b_waits_a_second_in_both_modes() {
    let mut lab = Lab::proxy();
    let begun = lab.now.up;
    assert!(lab.send(&pi_3b(1)).is_empty());
    lab.next_reply();
    assert_eq!(lab.now.up - begun, REPLY_DELAY);

    let mut lab = Lab::full(200);
    let address = is_offered(&mut lab, &pi_3b(1));
    // Asked again, the address is known to be free: only the second is waited.
    let begun = lab.now.up;
    assert!(lab.send(&pi_3b(1)).is_empty());
    let offer = lab.next_reply();
    assert_eq!(
        (offer.packet.yiaddr, lab.now.up - begun),
        (address, REPLY_DELAY)
    );
}

#[test]
fn other_boards_and_computers_are_answered_at_once() {
    for client in [
        pi_3b_plus(1),
        Client::discover(1).bios(),
        Client::discover(1).uefi(),
    ] {
        let mut lab = Lab::proxy();
        assert_eq!(replies(&lab.send(&client)).len(), 1);
        assert_eq!(lab.machine.next_deadline(), None);
    }
}

#[test]
fn asking_again_meanwhile_does_not_put_the_offer_off() {
    let mut lab = Lab::proxy();
    lab.send(&pi_3b(1));
    let begun = lab.now.up;
    lab.pass(REPLY_DELAY / 2);
    let mut again = pi_3b(1);
    again.packet.xid = 77;
    assert!(lab.send(&again).is_empty());
    let offer = lab.next_reply();
    assert_eq!((offer.packet.xid, lab.now.up - begun), (77, REPLY_DELAY));
    assert_eq!(lab.machine.next_deadline(), None, "one offer, not two");
}

#[test]
fn a_flood_of_invented_boards_is_not_all_kept() {
    let mut lab = Lab::proxy();
    let mut sent_at_once = 0;
    for n in 0..3000u16 {
        let mut client = pi_3b(1);
        client.packet.chaddr[4..6].copy_from_slice(&n.to_be_bytes());
        sent_at_once += replies(&lab.send(&client)).len();
    }
    assert_eq!(sent_at_once, 3000 - 1024);
    assert_eq!(replies(&lab.pass(REPLY_DELAY)).len(), 1024);
}

#[test]
fn a_3b_and_a_3b_plus_keep_their_address_for_the_whole_boot_without_a_request() {
    // One address, so that somebody else can only get it by taking it away.
    for board in [pi_3b(1), pi_3b_plus(1)] {
        let mut lab = Lab::full(100);
        let address = is_offered(&mut lab, &board);
        let pc = Client::discover(2).bios();
        for seconds in [10, 50, 60, 200, 215] {
            lab.pass(Duration::from_secs(seconds));
            let out = lab.send(&pc);
            assert!(
                replies(&out).is_empty() && probes(&out).is_empty(),
                "{out:?}"
            );
        }
        // The second stage asks again: from then on it is kept as long again.
        assert_eq!(is_offered(&mut lab, &board), address);
        lab.pass(Duration::from_secs(500));
        let out = lab.send(&pc);
        assert!(
            replies(&out).is_empty() && probes(&out).is_empty(),
            "{out:?}"
        );
        // In the end it is somebody else's.
        lab.pass(Duration::from_secs(101));
        assert_eq!(is_offered(&mut lab, &pc), address);
    }
}

#[test]
fn the_operating_system_of_the_board_gets_the_same_address_and_a_lease() {
    let mut lab = Lab::full(200);
    let address = is_offered(&mut lab, &pi_3b(1));
    lab.pass(Duration::from_secs(240));
    let mut linux = Client::discover(1);
    linux.packet.chaddr = pi_3b(1).packet.chaddr;
    assert_eq!(lab.bind(&linux), address);
}

#[test]
fn what_boots_with_a_request_or_not_at_all_is_held_for_a_minute_only() {
    let mut silent = Lab::full(100);
    silent.plans.silent = true;
    let cases = [
        (Lab::full(100), Client::discover(1).bios()),
        (silent, pi_3b(1)),
    ];
    for (mut lab, client) in cases {
        let address = is_offered(&mut lab, &client);
        lab.pass(Duration::from_secs(61));
        assert_eq!(is_offered(&mut lab, &Client::discover(2)), address);
    }
}

#[test]
fn a_full_pool_is_reported_while_boards_boot() {
    let mut lab = Lab::new(Mode::Full, vec![subnet(101)], vec![]);
    is_offered(&mut lab, &pi_3b(1));
    is_offered(&mut lab, &pi_3b(2));
    lab.pass(Duration::from_secs(100));
    let out = lab.send(&Client::discover(3));
    assert_eq!(notices(&out)[0].kind, NoticeKind::PoolExhausted);
}
