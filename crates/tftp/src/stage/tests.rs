use std::fs::File;
use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::packet::Packet;

fn file(content: &[u8]) -> Content {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Content::File {
        file,
        len: content.len() as u64,
    }
}

fn stage(content: Content, mode: Mode, blksize: u16, windowsize: u16) -> Stage {
    let size = size(&content, mode).unwrap();
    let blocks = size / u64::from(blksize) + 1;
    Stage::new(content, mode, size, blksize, windowsize, blocks)
}

/// Takes the packets of a window apart, as a network card does.
fn data(stage: &mut Stage, first: u64, count: u16) -> Vec<Vec<u8>> {
    let len = stage.packet_len();
    let packets: Vec<_> = stage.packets(first, count).unwrap().chunks(len).collect();
    assert_eq!(packets.len(), usize::from(count));
    let unpack = |(index, packet): (usize, &&[u8])| match Packet::decode(packet).unwrap() {
        Packet::Data { block, data } => {
            assert_eq!(block, (first + index as u64) as u16);
            data.to_vec()
        }
        other => panic!("{other:?}"),
    };
    packets.iter().enumerate().map(unpack).collect()
}

#[test]
fn a_file_that_shrinks_is_an_error_and_no_zeros() {
    let Content::File { file, .. } = file(&[7; 5000]) else {
        unreachable!()
    };
    let mut stage = stage(Content::File { file, len: 9000 }, Mode::Octet, 1000, 1);
    let error = stage.packets(1, 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let dir = File::open("/").unwrap();
    let mut stage = stage(Content::File { file: dir, len: 9 }, Mode::Octet, 512, 1);
    assert!(stage.packets(1, 1).is_err());
}

#[test]
fn blocks_that_were_forgotten_or_do_not_exist_are_an_error() {
    let mut stage = stage(vec![1; 100_000].into(), Mode::Octet, 512, 1);
    assert!(stage.packets(100, 1).is_err(), "reading goes front to back");
    for block in 1..=150 {
        stage.packets(block, 1).unwrap();
    }
    assert!(stage.packets(1, 1).is_err());
    assert!(stage.packets(151, 60).is_err());
    assert!(stage.packets(u64::MAX, 1).is_err());
}

#[test]
fn netascii_doubles_line_ends() {
    let mut stage = stage(b"a\nb\rc\r\n".to_vec().into(), Mode::Netascii, 8, 1);
    assert_eq!(stage.size(), 11);
    assert_eq!(data(&mut stage, 1, 1), [b"a\r\nb\r\0c\r"]);
    assert_eq!(data(&mut stage, 2, 1), [b"\0\r\n"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any content, block size, window, and any acknowledged part of a window before the next.
    #[test]
    fn windows_hold_the_content(
        size in 0..90_000usize,
        // Text has many line ends, other files few.
        step in prop_oneof![Just(1usize), 2..97usize],
        blksize in prop_oneof![8..70u16, 500..2000u16],
        windowsize in 1..40u16,
        netascii in any::<bool>(),
        on_disk in any::<bool>(),
        steps in prop::collection::vec(1..40u16, 40),
    ) {
        let content: Vec<u8> = (0..size).map(|i| (i * step + i / 251) as u8 & 0x2f).collect();
        let mode = if netascii { Mode::Netascii } else { Mode::Octet };
        let expected: Vec<u8> = if netascii {
            content.iter().flat_map(|byte| match byte {
                b'\n' => vec![b'\r', b'\n'],
                b'\r' => vec![b'\r', 0],
                other => vec![*other],
            }).collect()
        } else {
            content.clone()
        };
        let source = if on_disk { file(&content) } else { content.into() };
        let mut stage = stage(source, mode, blksize, windowsize);
        prop_assert_eq!(stage.size(), expected.len() as u64);
        let blocks = stage.blocks;
        let mut got = Vec::new();
        let mut first = 1;
        let mut steps = steps.into_iter().cycle();
        while first <= blocks {
            let count = u64::from(windowsize).min(blocks - first + 1) as u16;
            let window = data(&mut stage, first, count);
            let acked = steps.next().unwrap().min(count);
            got.extend(window.into_iter().take(usize::from(acked)).flatten());
            first += u64::from(acked);
        }
        prop_assert_eq!(got, expected);
    }
}
