use super::*;
use proptest::prelude::*;

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

/// Reads the bytes as everything there is.
fn read_all(bytes: &[u8]) {
    let _ = Datagram::decode(bytes);
    let _ = Message::decode(bytes);
    let _ = Reply::decode(bytes);
    let _ = OpenRequest::decode(bytes);
    let _ = OpenReply::decode(bytes);
    let _ = Rakp1::decode(bytes);
    let _ = Rakp2::decode(bytes);
    let _ = Rakp3::decode(bytes);
    let _ = Rakp4::decode(bytes);
    let _ = SolPacket::decode(bytes);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in bytes(200)) {
        read_all(&bytes);
    }

    #[test]
    fn any_bytes_behind_an_rmcp_header_are_read_and_written_the_same(
        class in prop_oneof![Just(6u8), Just(7)],
        format in prop_oneof![Just(None), Just(Some(6u8)), Just(Some(2)), Just(Some(0))],
        rest in bytes(120),
    ) {
        let mut datagram = vec![6, 0, 0xff, class];
        datagram.extend(format);
        datagram.extend(rest);
        if let Ok(read) = Datagram::decode(&datagram) {
            let written = read.to_bytes();
            prop_assert_eq!(Datagram::decode(&written), Ok(read));
        }
    }

    #[test]
    fn requests_and_replies_are_written_and_read_back(
        netfn in 0..32u8, command: u8, sequence in 0..64u8, code: u8, data in bytes(60),
        flip: prop::sample::Index, bit in 0..8u8,
    ) {
        let message = Message { netfn: NetFn(netfn << 1), command, sequence, data: &data };
        let mut written = message.to_bytes();
        prop_assert_eq!(Message::decode(&written), Ok(message));
        let reply = Reply {
            netfn: NetFn(netfn << 1), command, sequence, completion: Completion(code), data: &data,
        };
        prop_assert!(Reply::decode(&reply.to_bytes()) == Ok(reply));
        // Checksums find every single bit.
        let place = flip.index(written.len());
        written[place] ^= 1 << bit;
        prop_assert!(Message::decode(&written).is_err());
    }

    #[test]
    fn the_beginning_of_a_session_is_written_and_read_back(
        tag: u8, numbers: (u32, u32), random: [u8; 16], guid: [u8; 16], role: u8,
        user in bytes(16), code in bytes(32), status in 1..=255u8,
        algorithms in prop::array::uniform3(0..64u8), privilege in 0..16u8,
    ) {
        let (console, bmc) = numbers;
        let algorithms = Algorithms(algorithms);
        let open = OpenRequest { tag, privilege, console, algorithms };
        prop_assert!(OpenRequest::decode(&open.to_bytes()) == Ok(open));
        for opened in [Ok((bmc, algorithms)), Err(Status(status))] {
            let reply = OpenReply { tag, console, opened };
            prop_assert!(OpenReply::decode(&reply.to_bytes()) == Ok(reply));
        }
        let one = Rakp1 { tag, bmc, random, role, user: &user };
        prop_assert!(Rakp1::decode(&one.to_bytes()) == Ok(one));
        for body in [Ok((random, guid, &code[..])), Err(Status(status))] {
            let two = Rakp2 { tag, console, body };
            prop_assert!(Rakp2::decode(&two.to_bytes()) == Ok(two));
        }
        let three = Rakp3 { tag, status: Status(status), bmc, code: &code };
        prop_assert!(Rakp3::decode(&three.to_bytes()) == Ok(three));
        let four = Rakp4 { tag, status: Status(status), console, icv: &code };
        prop_assert!(Rakp4::decode(&four.to_bytes()) == Ok(four));
    }

    #[test]
    fn characters_are_written_and_read_back(
        sequence in 0..16u8, acked in 0..16u8, accepted: u8, flags: u8, data in bytes(255),
    ) {
        let packet = SolPacket { sequence, acked, accepted, flags: SolFlags(flags), data: &data };
        prop_assert!(SolPacket::decode(&packet.to_bytes()) == Ok(packet));
    }
}

#[test]
fn a_ping_is_the_one_of_the_specification() {
    let ping = Datagram::Ping { tag: 9 };
    assert_eq!(
        ping.to_bytes(),
        [6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 9, 0, 0]
    );
    let pong = Datagram::Pong { tag: 9, ipmi: true };
    assert_eq!(Datagram::decode(&pong.to_bytes()), Ok(pong));
}

#[test]
fn a_refusal_may_end_after_its_status() {
    // As ipmi_sim says that it does not know an algorithm.
    let reply = OpenReply::decode(&[1, 4]).unwrap();
    assert_eq!(reply.opened, Err(Status::BAD_AUTHENTICATION));
    assert!(OpenReply::decode(&[1, 0]).is_err());
    assert!(Rakp2::decode(&[1, 0x0d]).unwrap().body.is_err());
    assert_eq!(Rakp4::decode(&[1, 0x0f]).unwrap().status, Status::BAD_ICV);
}
