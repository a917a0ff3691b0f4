use super::super::packet::tests::reply;
use super::*;
use proptest::prelude::*;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 20, 50, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 20, 50, 100);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn client() -> Client {
    let identity = Identity {
        mac: MAC,
        uuid: Uuid::try_parse("66ffad1e-e719-ad84-9831-b8aeed7d5f80").ok(),
    };
    Client::new(identity, 0x1234_5678_9abc_def0, Duration::ZERO)
}

fn offer(client: &Client, kind: u8, address: Ipv4Addr) -> Vec<u8> {
    let options: &[(u8, &[u8])] = &[
        (53, &[kind]),
        (54, &[10, 20, 50, 1]),
        (1, &[255, 255, 255, 0]),
        (3, &[10, 20, 50, 1]),
        (6, &[10, 20, 50, 1, 9, 9, 9, 9]),
        (15, b"lab.example\0"),
        (51, &[0, 0, 0x0e, 0x10]),
    ];
    reply(client.xid, MAC, address, options)
}

fn option_of(message: &[u8], wanted: u8) -> Option<Vec<u8>> {
    let mut rest = &message[240..];
    while let [number, len, tail @ ..] = rest {
        if *number == 255 {
            break;
        }
        let (value, tail) = tail.split_at(usize::from(*len));
        if *number == wanted {
            return Some(value.to_vec());
        }
        rest = tail;
    }
    None
}

/// A client that has a lease of an hour since second 0.
fn bound() -> Client {
    let mut client = client();
    client.poll(Duration::ZERO);
    client.receive(&offer(&client, OFFER, ADDRESS), Duration::ZERO);
    let out = client.receive(&offer(&client, ACK, ADDRESS), Duration::ZERO);
    assert!(matches!(&out[..], [Output::Bound(_)]));
    client
}

#[test]
fn an_address_is_found_asked_for_and_bound() {
    let mut client = client();
    let out = client.poll(Duration::ZERO);
    let [Output::Broadcast(discover)] = &out[..] else {
        panic!("{out:?}");
    };
    assert_eq!(option_of(discover, 53), Some(vec![DISCOVER]));
    assert_eq!(option_of(discover, 60).unwrap(), b"bugler-agent");
    assert_eq!(
        option_of(discover, 61).unwrap(),
        [1, 0x52, 0x54, 0, 0, 0, 1]
    );
    assert_eq!(option_of(discover, 97).unwrap()[..4], [0, 0x1e, 0xad, 0xff]);
    assert_eq!(discover[10], 0x80, "the answer must be broadcast");

    let out = client.receive(&offer(&client, OFFER, ADDRESS), secs(1));
    let [Output::Broadcast(request)] = &out[..] else {
        panic!("{out:?}");
    };
    assert_eq!(option_of(request, 50).unwrap(), ADDRESS.octets());
    assert_eq!(option_of(request, 54).unwrap(), SERVER.octets());

    let out = client.receive(&offer(&client, ACK, ADDRESS), secs(1));
    let lease = Lease {
        address: ADDRESS,
        prefix: 24,
        router: Some(SERVER),
        dns: vec![SERVER, Ipv4Addr::new(9, 9, 9, 9)],
        domain: Some("lab.example".into()),
        server: SERVER,
    };
    assert_eq!(out, [Output::Bound(lease.clone())]);
    assert_eq!(client.lease(), Some(&lease));
    assert_eq!(client.deadline(), secs(1801));
}

#[test]
fn what_is_not_for_this_client_is_passed_over() {
    let mut client = client();
    client.poll(Duration::ZERO);
    let mut other = offer(&client, OFFER, ADDRESS);
    other[33] ^= 1;
    assert_eq!(client.receive(&other, secs(1)), []);
    let mut old = offer(&client, OFFER, ADDRESS);
    old[4] ^= 1;
    assert_eq!(client.receive(&old, secs(1)), []);
    let proxy = offer(&client, OFFER, Ipv4Addr::UNSPECIFIED);
    assert_eq!(
        client.receive(&proxy, secs(1)),
        [],
        "a proxy offers no address"
    );
    assert_eq!(client.receive(&offer(&client, ACK, ADDRESS), secs(1)), []);
    assert_eq!(client.receive(b"noise", secs(1)), []);
}

#[test]
fn a_lost_message_is_sent_again_and_an_old_offer_given_up() {
    let mut client = client();
    for _ in 0..20 {
        let now = client.deadline();
        assert!(matches!(&client.poll(now)[..], [Output::Broadcast(_)]));
        let wait = client.deadline() - now;
        assert!(wait >= FIRST_RETRY / 2 && wait <= LONGEST_RETRY, "{wait:?}");
        assert_eq!(client.poll(now), [], "not before its time");
    }
    let now = client.deadline();
    client.receive(&offer(&client, OFFER, ADDRESS), now);
    let xid = client.xid;
    let mut sent = 0;
    while client.xid == xid {
        sent += client.poll(client.deadline()).len();
    }
    assert_eq!(
        sent, REQUEST_TRIES as usize,
        "the last of them is the new DISCOVER"
    );
    assert_eq!(client.state, State::Selecting);
}

#[test]
fn a_refused_request_starts_again_after_a_wait() {
    let mut client = client();
    client.poll(Duration::ZERO);
    client.receive(&offer(&client, OFFER, ADDRESS), secs(1));
    let nak = reply(client.xid, MAC, Ipv4Addr::UNSPECIFIED, &[(53, &[NAK])]);
    let wrong_server = reply(
        client.xid,
        MAC,
        Ipv4Addr::UNSPECIFIED,
        &[(53, &[NAK]), (54, &[10, 20, 50, 9])],
    );
    assert_eq!(client.receive(&wrong_server, secs(1)), []);
    assert!(matches!(client.state, State::Requesting { .. }));
    assert_eq!(client.receive(&nak, secs(1)), []);
    assert_eq!(client.state, State::Selecting);
    assert!(client.deadline() > secs(1));
}

#[test]
fn a_lease_is_renewed_by_its_server_then_by_any_and_then_given_up() {
    let mut client = bound();
    let (mut unicast, mut broadcast) = (0, 0);
    let lost = loop {
        let now = client.deadline();
        assert!(now >= secs(1800) && now <= secs(3600), "{now:?}");
        match client.poll(now).remove(0) {
            Output::Unicast(to, message) => {
                assert_eq!((to, now < secs(3150)), (SERVER, true));
                assert_eq!(message[12..16], ADDRESS.octets());
                assert_eq!(
                    (option_of(&message, 50), option_of(&message, 54)),
                    (None, None)
                );
                unicast += 1;
            }
            Output::Broadcast(_) => broadcast += 1,
            other => break other,
        }
    };
    assert!(unicast >= 3 && broadcast >= 2, "{unicast} and {broadcast}");
    assert!(matches!(lost, Output::Lost(_)));
    assert_eq!(client.lease(), None);
}

#[test]
fn a_renewed_lease_counts_from_the_answer() {
    let mut client = bound();
    assert_eq!(
        client.receive(&offer(&client, ACK, ADDRESS), secs(5)),
        [],
        "an answer that came twice"
    );
    client.poll(secs(1800));
    let out = client.receive(&offer(&client, ACK, ADDRESS), secs(1810));
    assert!(matches!(&out[..], [Output::Bound(lease)] if lease.address == ADDRESS));
    assert_eq!(client.deadline(), secs(1810 + 1800));
}

#[test]
fn a_server_that_takes_the_address_back_is_obeyed() {
    let mut client = bound();
    client.poll(secs(1800));
    let nak = reply(client.xid, MAC, Ipv4Addr::UNSPECIFIED, &[(53, &[NAK])]);
    let out = client.receive(&nak, secs(1801));
    assert!(
        matches!(&out[..], [Output::Lost(_), Output::Broadcast(_)]),
        "{out:?}"
    );

    let mut client = bound();
    client.poll(secs(1800));
    let moved = offer(&client, ACK, Ipv4Addr::new(10, 20, 50, 101));
    let out = client.receive(&moved, secs(1801));
    assert!(
        matches!(&out[..], [Output::Lost(_), Output::Bound(_)]),
        "{out:?}"
    );
}

#[test]
fn odd_times_and_masks_are_made_sense_of() {
    let cases: [(&[u8], u8); 4] = [
        (&[255, 255, 252, 0], 22),
        (&[255, 0, 255, 0], 8),
        (&[0, 0, 0, 0], 8),
        (&[255, 255, 255, 255], 32),
    ];
    for (mask, prefix) in cases {
        let mut client = client();
        client.poll(Duration::ZERO);
        client.receive(&offer(&client, OFFER, ADDRESS), Duration::ZERO);
        let options: &[(u8, &[u8])] = &[
            (53, &[ACK]),
            (1, mask),
            (51, &[0, 0, 0, 0]),
            (58, &[255, 255, 255, 255]),
            (59, &[0, 0, 0, 0]),
        ];
        let ack = reply(client.xid, MAC, ADDRESS, options);
        let out = client.receive(&ack, Duration::ZERO);
        assert!(
            matches!(&out[..], [Output::Bound(lease)] if lease.prefix == prefix),
            "{out:?}"
        );
        assert!(client.deadline() >= secs(1) && client.deadline() < MIN_LEASE);
    }
    assert_eq!(domain(b"a b"), None);
    assert_eq!(domain(b"x.example.\0"), Some("x.example".into()));
}

#[test]
fn another_process_goes_on_with_a_lease() {
    let first = bound();
    let terms = first.terms().unwrap().after(secs(600));
    assert_eq!((terms.renew, terms.end), (secs(1200), secs(3000)));
    let identity = first.identity.clone();
    let mut second = Client::resume(identity, 7, terms, Duration::ZERO);
    assert_eq!(second.deadline(), secs(1200));
    assert!(second.poll(secs(1199)).is_empty());
    let out = second.poll(secs(1200));
    let [Output::Unicast(SERVER, message)] = &out[..] else {
        panic!("{out:?}");
    };
    assert_eq!(option_of(message, 53), Some(vec![REQUEST]));
    assert_eq!(message[12..16], ADDRESS.octets());
    let out = second.receive(&offer(&second, ACK, ADDRESS), secs(1201));
    assert!(matches!(&out[..], [Output::Bound(_)]), "{out:?}");
}

proptest! {
    /// Whatever arrives whenever: no panic, and time never stands still for ever.
    #[test]
    fn any_conversation_goes_on(
        steps in proptest::collection::vec(
            (0u64..5000, 0u8..8, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..40)),
            0..60,
        ),
    ) {
        let mut client = client();
        let mut now = Duration::ZERO;
        for (wait, kind, time, noise) in steps {
            now += secs(wait);
            client.poll(now);
            prop_assert!(client.deadline() > now, "{:?}", client.state);
            let time = time.to_be_bytes();
            let mut message = reply(client.xid, MAC, ADDRESS, &[
                (53, &[kind]), (54, &[10, 20, 50, 1]), (51, &time), (58, &time), (59, &time[..2]),
            ]);
            message.pop();
            message.extend_from_slice(&noise);
            client.receive(&message, now);
        }
    }
}
