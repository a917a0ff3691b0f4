use super::*;
use proptest::prelude::*;

const CLIENT: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
const SERVER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 2]);

fn decode(frame: &[u8]) -> Result<(Header, Message<'_>), DecodeError> {
    let (header, rest) = Header::decode(frame)?;
    Ok((header, Message::decode(header.command, rest)?))
}

#[test]
fn a_read_of_the_linux_driver_is_read() {
    // LBA48 read of 2 sectors from 0x123456789abc of e7.3.
    let frame = [
        0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xa2, 0x10, 0, 0, 7, 3, 0, 0xde,
        0xad, 0, 5, 0x40, 0, 2, 0x24, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 0, 0,
    ];
    let (header, message) = decode(&frame).unwrap();
    assert_eq!(
        header,
        Header::request(
            SERVER,
            CLIENT,
            Address::new(7, 3).unwrap().into(),
            0xdead_0005
        )
    );
    let Message::Ata(ata) = message else {
        panic!("{message:?}")
    };
    assert_eq!((ata.sector(), ata.count), (0x1234_5678_9abc, 2));
    let mut written = vec![];
    message.encode(&header, &mut written);
    assert_eq!(written, frame);
    for end in 0..frame.len() {
        assert!(
            matches!(decode(&frame[..end]), Err(DecodeError::Short(_))),
            "{end}"
        );
    }
}

#[test]
fn twenty_eight_bits_leave_the_device_register_out() {
    let ata = Ata {
        flags: 0,
        error: 0,
        count: 1,
        command: ata::READ,
        lba: [1, 2, 3, 0xe4, 5, 6],
        data: &[],
    };
    assert_eq!(ata.sector(), 0x0403_0201);
    let wide = Ata {
        flags: LBA48,
        ..ata
    };
    assert_eq!(wide.sector(), 0x0605_e403_0201);
}

#[test]
fn addresses_that_mean_something_else_are_refused() {
    assert_eq!("e7.3".parse(), Address::new(7, 3));
    assert_eq!("0.0".parse(), Address::new(0, 0));
    assert_eq!(Address::new(7, 3).unwrap().to_string(), "e7.3");
    for text in ["e65535.0", "e4095.0", "e0.255", "e0", "e0.x", "", "e-1.0"] {
        let error = text.parse::<Address>().unwrap_err().to_string();
        assert!(error.contains("should look like e7.3"), "{error}");
    }
    let address = Address::new(1, 2).unwrap();
    assert!(Selector::ALL.takes(address) && Selector::ALL.is_wild());
    assert!(
        Selector {
            shelf: 0xffff,
            slot: 2
        }
        .takes(address)
    );
    assert!(
        !Selector {
            shelf: 0xffff,
            slot: 3
        }
        .takes(address)
    );
    assert!(!Selector::from(address).is_wild());
}

#[test]
fn sectors_of_a_frame() {
    for (mtu, sectors) in [(0, 0), (500, 0), (1500, 2), (9000, 17), (1_000_000, 255)] {
        assert_eq!(sectors_in(mtu), sectors, "{mtu}");
    }
}

#[test]
fn what_is_impossible_is_refused() {
    let header = Header::request(SERVER, CLIENT, Selector::ALL, 1);
    let frame = |command, rest: &[u8]| {
        let mut frame = Header { command, ..header }.encode().to_vec();
        frame.extend_from_slice(rest);
        frame
    };
    for (command, rest, error) in [
        (
            1,
            &[0, 0, 0, 0, 0, 0x10, 4, 1][..],
            DecodeError::Bad("length of a config string"),
        ),
        (
            1,
            &[0, 0, 0, 0, 0, 0x10, 0, 2, 9],
            DecodeError::Short("config string"),
        ),
        (2, &[0, 1, 0, 1, 0, 1, 2, 3], DecodeError::Short("MAC mask")),
        (3, &[1, 1, 0, 1, 2, 3], DecodeError::Short("reservation")),
    ] {
        assert_eq!(decode(&frame(command, rest)), Err(error));
    }
    let mut other = frame(0, &[0; 12]);
    other[12] = 8;
    other[13] = 0;
    assert_eq!(decode(&other), Err(DecodeError::NotAoe(0x800)));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, command in 0u8..5, aoe: bool) {
        let mut bytes = bytes;
        if aoe && bytes.len() > 20 {
            bytes[12] = 0x88;
            bytes[13] = 0xa2;
            bytes[19] = command;
        }
        if let Ok((header, message)) = decode(&bytes) {
            let mut written = vec![];
            message.encode(&header, &mut written);
            let (again, read) = decode(&written).unwrap();
            prop_assert_eq!((again, read), (header, message));
            prop_assert!(written.len() <= bytes.len());
        }
    }

    #[test]
    fn what_is_written_is_read_back(
        source: [u8; 6], shelf: u16, slot: u8, tag: u32, response: bool, error: u8, lba: [u8; 6],
        data in prop::collection::vec(any::<u8>(), 0..1025), pick in 0u8..5, small in 0u8..5, many: u16,
    ) {
        let header = Header {
            destination: SERVER,
            source: MacAddr(source),
            version: 1,
            response,
            error,
            target: Selector { shelf, slot },
            command: 0,
            tag,
        };
        let message = match pick {
            0 => Message::Ata(Ata { flags: small, error, count: slot, command: small, lba, data: &data }),
            1 => Message::Config(Config {
                buffers: many,
                firmware: shelf,
                sectors: slot,
                command: small.into(),
                string: data.get(..1024).unwrap_or(&data),
            }),
            2 => Message::Mask(Mask { command: small, error, directives: Directives::from(&data[..]) }),
            3 => Message::Reserve(Reserve { command: small, macs: MacList::from(&data[..]) }),
            _ => Message::Other(slot.max(4)),
        };
        let mut frame = vec![];
        message.encode(&header, &mut frame);
        // A mask's entries have a reserved byte, which is not kept.
        let (read_header, read) = decode(&frame).unwrap();
        prop_assert_eq!(read_header, Header { command: message.command(), ..header });
        prop_assert_eq!(read, message);
    }
}
