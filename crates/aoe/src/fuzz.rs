//! What the fuzz target calls: a frame from anybody, to a machine's disk.

use crate::keep::Forget;
use crate::machine::{Action, Link, Machine};
use crate::packet::{ATA_HEADER, Address, Header, Message, SECTOR};
use crate::target::{Options, Table, Target};
use crate::{Identity, KeepError};
use bugler_disk::{BlockDevice, DeviceError, Durability, Extent};
use bugler_model::MacAddr;
use std::sync::Arc;
use std::time::Instant;

/// Sectors of the disk.
const SECTORS: u64 = 1 << 30;

/// A disk without content.
struct Blank;

impl BlockDevice for Blank {
    fn size(&self) -> u64 {
        SECTORS * SECTOR as u64
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8], _: Durability) -> Result<(), DeviceError> {
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64, _: Durability) -> Result<(), DeviceError> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>, DeviceError> {
        Ok(vec![])
    }
}

/// Reads a frame and decides on it, as if its sender had a disk at e0.0.
///
/// # Panics
/// Where the code has a defect: what is read is not written and read back the same, or something
/// reaches past the disk.
pub fn fuzz(frame: &[u8]) {
    let Ok((header, rest)) = Header::decode(frame) else {
        return;
    };
    if let Ok(message) = Message::decode(header.command, rest) {
        let mut written = vec![];
        message.encode(&header, &mut written);
        let read = Header::decode(&written);
        let (again, rest) = read.unwrap_or_else(|error| panic!("{header:?}: {error}"));
        assert_eq!(again, header);
        assert_eq!(Message::decode(again.command, rest), Ok(message));
    }
    let table = Table::default();
    match disk() {
        Ok(disk) => table.set(header.source, vec![Arc::new(disk)]),
        Err(error) => panic!("a disk that nothing is kept of cannot be opened: {error}"),
    }
    let link = Link {
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        sectors: 17,
        buffers: 64,
    };
    let mut actions = vec![];
    let mut machine = Machine::new(Arc::new(table));
    let _ = machine.handle(&link, frame, Instant::now(), &mut actions);
    for action in actions {
        match action {
            Action::Reply(answer) => check(&answer, &header),
            Action::Read { offset, length, .. } => in_disk(offset, length),
            Action::Write { offset, data, .. } => in_disk(offset, data.len()),
            Action::Flush { answer, .. } => check(answer.done(), &header),
            Action::Change(change) => check(&change.make(|_, _| {}), &header),
        }
    }
}

fn disk() -> Result<Target, KeepError> {
    let options = Options {
        name: "e0.0".into(),
        address: Address::default(),
        identity: Identity {
            model: String::new(),
            serial: String::new(),
        },
        durability: Durability::Durable,
    };
    Target::open(options, Arc::new(Blank), Arc::new(Forget))
}

fn in_disk(offset: u64, length: usize) {
    assert!(length > 0 && length <= 17 * SECTOR);
    assert!(offset + length as u64 <= SECTORS * SECTOR as u64);
}

/// An answer is one that its client can read.
fn check(answer: &[u8], asked: &Header) {
    assert!(answer.len() <= ATA_HEADER + 17 * SECTOR);
    match Header::decode(answer) {
        Ok((header, rest)) => {
            assert!(header.response && header.tag == asked.tag);
            assert_eq!(header.destination, asked.source);
            assert!(header.error != 0 || Message::decode(header.command, rest).is_ok());
        }
        Err(error) => panic!("{error}: {answer:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Ata, LBA48, Selector, ata};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_change_of_a_command_is_survived(
            command in 0u8..5, data in prop::collection::vec(any::<u8>(), 0..1100),
            edits in prop::collection::vec((0..80usize, any::<u8>()), 0..8), cut in 0..1200usize,
        ) {
            let mac = MacAddr([2; 6]);
            let header = Header::request(mac, mac, Selector::from(Address::default()), 1);
            let mut frame = vec![];
            let message = Message::Ata(Ata {
                flags: LBA48,
                error: 0,
                count: 2,
                command: ata::WRITE_EXT,
                lba: [0; 6],
                data: &data,
            });
            message.encode(&header, &mut frame);
            frame[19] = command;
            for (place, byte) in edits {
                if let Some(at) = frame.get_mut(place) {
                    *at = byte;
                }
            }
            frame.truncate(cut);
            fuzz(&frame);
        }
    }
}
