use proptest::prelude::*;

use super::*;

fn read_request(bytes: &[u8]) -> Request<'_> {
    match Packet::decode(bytes) {
        Ok(Packet::ReadRequest(request)) => request,
        other => panic!("not a read request: {other:?}"),
    }
}

#[test]
fn the_request_of_a_bios_rom_reads_as_what_it_means() {
    let bytes = b"\0\x01undionly.kpxe\0octet\0tsize\x000\0blksize\x001456\0";
    let request = read_request(bytes);
    assert_eq!(request.filename, b"undionly.kpxe");
    assert_eq!(request.mode, Mode::Octet);
    assert_eq!(
        request.options,
        Options {
            blksize: Some(1456),
            tsize: Some(0),
            timeout: None,
            windowsize: None
        }
    );
}

#[test]
fn names_are_read_in_any_case_and_the_first_of_two_counts() {
    let bytes = b"\0\x01f\0OcTeT\0BlkSize\x001468\0blksize\x00512\0WINDOWSIZE\x0016\0";
    let options = read_request(bytes).options;
    assert_eq!(options.blksize, Some(1468));
    assert_eq!(options.windowsize, Some(16));
}

#[test]
fn options_that_cannot_be_met_are_left_out() {
    for bytes in [
        &b"\0\x01f\0octet\0blksize\x007\0"[..],
        b"\0\x01f\0octet\0blksize\0many\0",
        b"\0\x01f\0octet\0blksize\0\0",
        b"\0\x01f\0octet\0timeout\x000\0",
        b"\0\x01f\0octet\0timeout\x00256\0",
        b"\0\x01f\0octet\0windowsize\x000\0",
        b"\0\x01f\0octet\0windowsize\x0065536\0",
        b"\0\x01f\0octet\0multicast\0\0",
        b"\0\x01f\0octet\0blksize",
        b"\0\x01f\0octet\0",
        b"\0\x01f\0octet",
    ] {
        assert!(
            read_request(bytes).options.is_empty(),
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn a_block_size_beyond_the_largest_is_read_as_the_largest() {
    for bytes in [
        &b"\0\x01f\0octet\0blksize\x0065465\0"[..],
        b"\0\x01f\0octet\0blksize\x00100000\0",
        b"\0\x01f\0octet\0blksize\x0099999999999999999999999999\0",
    ] {
        assert_eq!(read_request(bytes).options.blksize, Some(MAX_BLKSIZE));
    }
}

#[test]
fn an_option_after_an_unknown_one_still_counts() {
    let bytes = b"\0\x01f\0octet\0rollover\x000\0blksize\x001024\0oddone";
    assert_eq!(read_request(bytes).options.blksize, Some(1024));
}

#[test]
fn what_is_no_packet_says_why() {
    for (bytes, error) in [
        (&b""[..], DecodeError::Short(0)),
        (b"\0", DecodeError::Short(1)),
        (b"\0\x04\0", DecodeError::Short(3)),
        (b"\0\x03\0", DecodeError::Short(3)),
        (b"\0\x05", DecodeError::Short(2)),
        (b"\0\x00", DecodeError::Opcode(0)),
        (b"\0\x07\0\0", DecodeError::Opcode(7)),
        (b"\x01\x00f\0octet\0", DecodeError::Opcode(256)),
        (b"\0\x01", DecodeError::Incomplete),
        (b"\0\x01f", DecodeError::Incomplete),
        (b"\0\x01f\0", DecodeError::Incomplete),
        (b"\0\x01\0octet\0", DecodeError::Incomplete),
        (b"\0\x01f\0mail\0", DecodeError::Mode),
        (b"\0\x02f\0\0", DecodeError::Mode),
    ] {
        assert_eq!(
            Packet::decode(bytes),
            Err(error),
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn the_bytes_of_each_packet_are_those_of_the_rfcs() {
    let options = Options {
        blksize: Some(1468),
        tsize: Some(70000),
        timeout: Some(3),
        windowsize: Some(4),
    };
    for (packet, bytes) in [
        (
            Packet::ReadRequest(Request {
                filename: b"a",
                mode: Mode::Netascii,
                options,
            }),
            &b"\0\x01a\0netascii\0blksize\x001468\0tsize\x0070000\0timeout\x003\0windowsize\x004\0"
                [..],
        ),
        (
            Packet::Data {
                block: 0x1234,
                data: b"xyz",
            },
            b"\0\x03\x12\x34xyz",
        ),
        (Packet::Ack { block: 0xfffe }, b"\0\x04\xff\xfe"),
        (
            Packet::Error {
                code: ErrorCode::FILE_NOT_FOUND,
                message: b"no such file",
            },
            b"\0\x05\0\x01no such file\0",
        ),
        (
            Packet::OptionAck(Options {
                tsize: Some(0),
                ..Options::default()
            }),
            b"\0\x06tsize\x000\0",
        ),
    ] {
        assert_eq!(packet.to_bytes(), bytes);
        assert_eq!(Packet::decode(bytes), Ok(packet));
    }
}

fn options() -> impl Strategy<Value = Options> {
    (
        prop::option::of(MIN_BLKSIZE..=MAX_BLKSIZE),
        prop::option::of(any::<u64>()),
        prop::option::of(1..=u8::MAX),
        prop::option::of(1..=u16::MAX),
    )
        .prop_map(|(blksize, tsize, timeout, windowsize)| Options {
            blksize,
            tsize,
            timeout,
            windowsize,
        })
}

proptest! {
    #[test]
    fn any_bytes_decode_or_say_why(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        if let Ok(packet) = Packet::decode(&bytes) {
            // What was understood is written in a form that is understood in the same way.
            let written = packet.to_bytes();
            prop_assert_eq!(Packet::decode(&written), Ok(packet));
        }
    }

    #[test]
    fn any_text_after_a_request_opcode_decodes_or_says_why(
        text in "(blksize|BLKSIZE|tsize|timeout|windowsize|octet|netascii|[a-z0-9]{0,6}|\u{0}){0,24}",
    ) {
        let mut bytes = vec![0, 1];
        bytes.extend_from_slice(text.as_bytes());
        if let Ok(packet) = Packet::decode(&bytes) {
            let written = packet.to_bytes();
            prop_assert_eq!(Packet::decode(&written), Ok(packet));
        }
    }

    #[test]
    fn requests_survive_the_wire(
        filename in prop::collection::vec(1..=u8::MAX, 1..300),
        netascii in any::<bool>(),
        write in any::<bool>(),
        options in options(),
    ) {
        let mode = if netascii { Mode::Netascii } else { Mode::Octet };
        let request = Request { filename: &filename, mode, options };
        let packet =
            if write { Packet::WriteRequest(request) } else { Packet::ReadRequest(request) };
        let written = packet.to_bytes();
        prop_assert_eq!(Packet::decode(&written), Ok(packet));
    }

    #[test]
    fn answers_survive_the_wire(
        options in options(),
        block in any::<u16>(),
        data in prop::collection::vec(any::<u8>(), 0..1500),
        message in prop::collection::vec(1..=u8::MAX, 0..80),
        code in any::<u16>(),
    ) {
        for packet in [
            Packet::OptionAck(options),
            Packet::Data { block, data: &data },
            Packet::Ack { block },
            Packet::Error { code: ErrorCode(code), message: &message },
        ] {
            let written = packet.to_bytes();
            prop_assert_eq!(Packet::decode(&written), Ok(packet));
        }
    }
}
