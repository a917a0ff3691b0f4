//! The codec against what the network sends.

use bugler_dhcp::{DecodeError, MessageType, Op, Options, Packet, Triples, code};
use bugler_model::MacAddr;
use proptest::prelude::*;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

/// A request header and cookie, followed by these option bytes.
fn request(options: &[u8]) -> Vec<u8> {
    let mut bytes = Packet::new(Op::Request, 7, MAC).encode(0).bytes;
    bytes.truncate(240);
    bytes.extend(options);
    bytes
}

fn listed(packet: &Packet) -> Vec<(u8, Vec<u8>)> {
    packet
        .options
        .iter()
        .map(|(code, value)| (code, value.to_vec()))
        .collect()
}

#[test]
fn options_keep_their_order_and_end_is_optional() {
    let packet = Packet::decode(&request(&[53, 1, 1, 0, 0, 200, 0, 55, 2, 1, 3])).unwrap();
    assert_eq!(packet.message_type(), Some(MessageType::Discover));
    assert_eq!(
        listed(&packet),
        [(53, vec![1]), (200, vec![]), (55, vec![1, 3])]
    );
}

#[test]
fn an_option_that_points_behind_the_end_does_not_hide_those_before_it() {
    let packet =
        Packet::decode(&request(&[12, 3, 0xff, 0xfe, 0xfd, 53, 1, 3, 93, 200, 0])).unwrap();
    assert_eq!(
        listed(&packet),
        [(12, vec![0xff, 0xfe, 0xfd]), (53, vec![3])]
    );
}

#[test]
fn an_option_in_parts_is_one_value() {
    let packet = Packet::decode(&request(&[43, 2, 1, 2, 53, 1, 1, 43, 1, 3, 255])).unwrap();
    assert_eq!(listed(&packet), [(43, vec![1, 2, 3]), (53, vec![1])]);
}

#[test]
fn overloaded_fields_hold_options_in_the_order_of_rfc_3396() {
    let mut bytes = request(&[53, 1, 1, 52, 1, 3, 12, 1, b'a', 255]);
    bytes[108..114].copy_from_slice(&[12, 1, b'b', 60, 1, b'x']);
    bytes[114] = 255;
    bytes[44..48].copy_from_slice(&[12, 1, b'c', 255]);
    let packet = Packet::decode(&bytes).unwrap();
    assert_eq!(packet.options.get(12), Some(&b"abc"[..]));
    assert_eq!(packet.options.get(60), Some(&b"x"[..]));
    assert_eq!((packet.file, packet.sname), ([0; 128], [0; 64]));
}

#[test]
fn a_file_name_is_not_read_as_options_unless_overloaded() {
    let mut bytes = request(&[53, 1, 1, 255]);
    bytes[108..112].copy_from_slice(b"boot");
    let packet = Packet::decode(&bytes).unwrap();
    assert_eq!(packet.file_name(), b"boot");
    assert_eq!(packet.options.len(), 1);
}

#[test]
fn what_is_not_dhcp_is_refused_with_the_reason() {
    assert_eq!(Packet::decode(&[1; 239]), Err(DecodeError::TooShort(239)));
    let mut bootp = request(&[]);
    bootp[236] = 0;
    assert_eq!(Packet::decode(&bootp), Err(DecodeError::NoCookie));
    let mut odd = request(&[]);
    odd[0] = 3;
    assert_eq!(Packet::decode(&odd), Err(DecodeError::Op(3)));
    odd[0] = 1;
    odd[2] = 17;
    assert_eq!(Packet::decode(&odd), Err(DecodeError::HardwareLength(17)));
}

#[test]
fn a_reply_begins_with_its_type_ends_with_the_relays_option_and_is_padded() {
    let mut packet = Packet::new(Op::Reply, 1, MAC);
    packet.options.push(code::RELAY_INFO, &[1, 2, 9, 9]);
    packet.options.push(code::LEASE_TIME, &[0, 0, 0, 60]);
    packet.options.push(code::MESSAGE_TYPE, &[5]);
    let bytes = packet.encode(548).bytes;
    assert_eq!(bytes.len(), 300);
    assert_eq!(
        &bytes[240..256],
        [53, 1, 5, 51, 4, 0, 0, 0, 60, 82, 4, 1, 2, 9, 9, 255]
    );
}

#[test]
fn what_does_not_fit_is_left_out_and_the_relays_option_is_not() {
    let mut packet = Packet::new(Op::Reply, 1, MAC);
    packet.options.push(code::MESSAGE_TYPE, &[2]);
    packet.options.push(43, &[1; 400]);
    packet.options.push(12, b"name");
    packet.options.push(code::RELAY_INFO, &[2; 20]);
    let encoded = packet.encode(576);
    assert_eq!(encoded.left_out, [43]);
    let read = Packet::decode(&encoded.bytes).unwrap();
    assert_eq!(read.options.get(code::RELAY_INFO), Some(&[2; 20][..]));
    assert_eq!(read.options.get(12), Some(&b"name"[..]));
}

#[test]
fn a_long_option_is_split_and_read_back_whole() {
    let long: Vec<u8> = (0..600).map(|n| n as u8).collect();
    let mut packet = Packet::new(Op::Reply, 1, MAC);
    packet.options.push(code::MESSAGE_TYPE, &[5]);
    packet.options.push(121, &long);
    let bytes = packet.encode(1472).bytes;
    assert_eq!(&bytes[243..245], [121, 255]);
    assert_eq!(
        Packet::decode(&bytes).unwrap().options.get(121),
        Some(&long[..])
    );
}

#[test]
fn the_size_that_a_client_names_is_honoured_within_what_the_rfc_and_the_link_allow() {
    let limit = |size: Option<u16>, mtu| {
        let mut packet = Packet::new(Op::Request, 1, MAC);
        if let Some(size) = size {
            packet
                .options
                .push(code::MAX_MESSAGE_SIZE, &size.to_be_bytes());
        }
        packet.reply_limit(mtu)
    };
    assert_eq!(limit(None, 1500), 548);
    assert_eq!(limit(Some(1464), 1500), 1436);
    assert_eq!(limit(Some(100), 1500), 548);
    assert_eq!(limit(Some(9000), 1500), 1472);
}

#[test]
fn a_hardware_address_is_one_machines_or_none() {
    let mut packet = Packet::new(Op::Request, 1, MAC);
    assert_eq!(packet.mac(), Some(MAC));
    packet.hlen = 0;
    assert_eq!(packet.mac(), None);
    assert_eq!(Packet::new(Op::Request, 1, MacAddr([0xff; 6])).mac(), None);
}

#[test]
fn a_boot_file_longer_than_its_field_is_refused() {
    let mut packet = Packet::new(Op::Reply, 1, MAC);
    assert!(packet.set_file(&[b'a'; 127]));
    assert!(!packet.set_file(&[b'b'; 128]));
    assert_eq!(packet.file_name(), [b'a'; 127]);
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let options = proptest::collection::hash_map(
        prop_oneof![1u8..=51, 54u8..=81, 83u8..=254],
        proptest::collection::vec(any::<u8>(), 0..400),
        0..20,
    );
    let fields = (any::<[u8; 4]>(), any::<[u32; 5]>(), any::<(u16, u16)>());
    (fields, any::<[u8; 16]>(), 1u8..9, options, any::<bool>()).prop_map(
        |((head, words, (secs, flags)), chaddr, kind, map, relay)| {
            let mut options = Options::default();
            options.push(code::MESSAGE_TYPE, &[kind]);
            for (code, value) in &map {
                options.push(*code, value);
            }
            if relay {
                options.push(code::RELAY_INFO, &head);
            }
            let [xid, ci, yi, si, gi] = words;
            let mut packet = Packet::new(
                if head[0] & 1 == 0 {
                    Op::Request
                } else {
                    Op::Reply
                },
                xid,
                MAC,
            );
            (packet.htype, packet.hlen, packet.hops) = (head[1], head[2] % 17, head[3]);
            (packet.secs, packet.flags, packet.chaddr) = (secs, flags, chaddr);
            (packet.ciaddr, packet.yiaddr) = (ci.into(), yi.into());
            (packet.siaddr, packet.giaddr) = (si.into(), gi.into());
            packet.options = options;
            packet
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Packet::decode(&bytes);
    }

    #[test]
    fn any_options_behind_a_header_are_read(
        options in proptest::collection::vec(any::<u8>(), 0..1500),
        overload in proptest::option::of(0u8..5),
        fields in proptest::collection::vec(any::<u8>(), 192),
    ) {
        let mut bytes = request(&[]);
        bytes[44..236].copy_from_slice(&fields);
        if let Some(overload) = overload {
            bytes.extend([52, 1, overload]);
        }
        bytes.extend(&options);
        let packet = Packet::decode(&bytes).unwrap();
        let values: usize = packet.options.iter().map(|(_, value)| value.len()).sum();
        prop_assert!(values <= bytes.len());
        prop_assert!(packet.options.len() <= 254);
        // Whatever was read can be written, and is then read the same: nothing is made up.
        let limit = 4096;
        let again = Packet::decode(&packet.encode(limit).bytes).unwrap();
        for (code, value) in packet.options.iter() {
            if code != code::OVERLOAD {
                prop_assert_eq!(again.options.get(code), Some(value));
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back(packet in any_packet()) {
        let encoded = packet.encode(16_384);
        prop_assert_eq!(&encoded.left_out, &Vec::<u8>::new());
        prop_assert_eq!(Packet::decode(&encoded.bytes).unwrap(), packet);
    }

    #[test]
    fn the_limit_is_kept(packet in any_packet(), limit in 0usize..1500) {
        let encoded = packet.encode(limit);
        prop_assert!(encoded.bytes.len() >= 300);
        prop_assert!(encoded.bytes.len() <= limit.max(300));
        let read = Packet::decode(&encoded.bytes).unwrap();
        for (code, value) in packet.options.iter() {
            let kept = read.options.get(code) == Some(value);
            prop_assert_eq!(kept, !encoded.left_out.contains(&code));
        }
    }

    #[test]
    fn encapsulated_options_are_walked_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let found = Triples::new(&bytes).count();
        prop_assert!(found <= bytes.len() / 2);
    }
}
