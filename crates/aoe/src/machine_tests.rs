use super::*;
use crate::keep::Forget;
use crate::packet::{LBA48, Selector, WRITE};
use crate::target::{Options, Table};
use crate::{Files, Identity, KeepError};
use bugler_disk::{BlockDevice, Durability, Extent};
use proptest::prelude::*;

const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xff]);
const ONE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const TWO: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const STRANGER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const LINK: Link = Link {
    mac: SERVER,
    sectors: 2,
    buffers: 64,
};
/// Sectors of every disk here.
const SECTORS: u64 = 1 << 29;

pub(crate) fn an_answer() -> Answer {
    Answer([0; ATA_HEADER])
}

/// A disk that says how large it is, and that nobody reads here.
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

fn target(name: &str, shelf: u16, keep: Arc<dyn Keep>) -> Arc<Target> {
    let options = Options {
        name: name.into(),
        address: Address::new(shelf, 0).unwrap(),
        identity: Identity {
            model: "Bugler disk".into(),
            serial: name.into(),
        },
        durability: Durability::Durable,
    };
    Arc::new(Target::open(options, Arc::new(Blank), keep).unwrap())
}

use crate::keep::Keep;

/// Two machines that each have a disk of their own at e0.0, and the first one another at e7.0.
struct World {
    machine: Machine,
    table: Arc<Table>,
    disks: [Arc<Target>; 3],
}

impl World {
    fn new() -> Self {
        let disks = ["one", "two", "more"].map(|name| {
            let shelf = if name == "more" { 7 } else { 0 };
            target(name, shelf, Arc::new(Forget))
        });
        let table = Arc::new(Table::default());
        table.set(ONE, vec![disks[0].clone(), disks[2].clone()]);
        table.set(TWO, vec![disks[1].clone()]);
        Self {
            machine: Machine::new(table.clone()),
            table,
            disks,
        }
    }

    /// What comes of a frame; changes are made at once.
    fn ask(
        &mut self,
        from: MacAddr,
        to: Selector,
        message: &Message<'_>,
    ) -> Result<Vec<Done>, Ignored> {
        let mut frame = vec![];
        message.encode(&Header::request(SERVER, from, to, 77), &mut frame);
        self.ask_bytes(&frame)
    }

    fn ask_bytes(&mut self, frame: &[u8]) -> Result<Vec<Done>, Ignored> {
        let mut actions = vec![];
        self.machine.refresh();
        self.machine
            .handle(&LINK, frame, Instant::now(), &mut actions)?;
        Ok(actions.into_iter().map(done).collect())
    }

    fn ask_ata(&mut self, from: MacAddr, to: Selector, ata: Ata<'_>) -> Done {
        let mut done = self.ask(from, to, &Message::Ata(ata)).unwrap();
        assert_eq!(done.len(), 1);
        done.remove(0)
    }

    /// The one answer to this command, which has to be one.
    fn answer(&mut self, from: MacAddr, message: &Message<'_>) -> (Header, Vec<u8>) {
        match &self.ask(from, E0, message).unwrap()[..] {
            [Done::Reply(frame)] => {
                let (header, rest) = Header::decode(frame).unwrap();
                assert!(header.response && header.destination == from && header.source == SERVER);
                assert_eq!((header.tag, header.target), (77, E0));
                (header, rest.to_vec())
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What came of a frame.
#[derive(Debug, PartialEq)]
enum Done {
    Reply(Vec<u8>),
    Read(String, u64, usize),
    Write(String, u64, Vec<u8>),
    Flush(String),
}

fn done(action: Action<'_>) -> Done {
    match action {
        Action::Reply(frame) => Done::Reply(frame),
        Action::Read {
            target,
            offset,
            length,
            ..
        } => Done::Read(target.name().into(), offset, length),
        Action::Write {
            target,
            offset,
            data,
            ..
        } => Done::Write(target.name().into(), offset, data.to_vec()),
        Action::Flush { target, .. } => Done::Flush(target.name().into()),
        Action::Change(change) => {
            Done::Reply(change.make(|address, error| panic!("{address}: {error}")))
        }
    }
}

const E0: Selector = Selector { shelf: 0, slot: 0 };

fn ata(command: u8, first: u64, count: u8, data: &[u8]) -> Ata<'_> {
    let [a, b, c, d, e, f, ..] = first.to_le_bytes();
    Ata {
        flags: LBA48 | if data.is_empty() { 0 } else { WRITE },
        error: 0,
        count,
        command,
        lba: [a, b, c, d, e, f],
        data,
    }
}

fn config(command: ConfigCommand, string: &[u8]) -> Message<'_> {
    Message::Config(Config {
        buffers: 0,
        firmware: 0,
        sectors: 0,
        command,
        string,
    })
}

/// Status and error register of an answer.
fn registers(done: &Done) -> (u8, u8) {
    match done {
        Done::Reply(frame) => (frame[27], frame[25]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_machine_reaches_its_own_disk_at_the_same_address() {
    let mut world = World::new();
    for (mac, name) in [(ONE, "one"), (TWO, "two")] {
        let read = world.ask_ata(mac, E0, ata(ata::READ_EXT, 5, 2, &[]));
        assert_eq!(read, Done::Read(name.into(), 5 * 512, 1024));
        let data = [7; 1024];
        // Ethernet pads short frames; what is behind the last sector is no data.
        let padded = [&data[..], &[0; 9]].concat();
        let written = world.ask_ata(mac, E0, ata(ata::WRITE_EXT, 6, 2, &padded));
        assert_eq!(written, Done::Write(name.into(), 6 * 512, data.to_vec()));
        let flushed = world.ask_ata(mac, E0, ata(ata::FLUSH, 0, 0, &[]));
        assert_eq!(flushed, Done::Flush(name.into()));
    }
    let more = Selector { shelf: 7, slot: 0 };
    let read = world.ask_ata(ONE, more, ata(ata::READ, 0, 1, &[]));
    assert_eq!(read, Done::Read("more".into(), 0, 512));
    let other = world.ask(TWO, more, &Message::Ata(ata(ata::READ, 0, 1, &[])));
    assert_eq!(other, Err(Ignored::NotForUs));
    assert_eq!(world.disks[0].counts().seen.unwrap().0, ONE);
}

#[test]
fn a_broadcast_finds_only_what_is_the_machines_own() {
    let mut world = World::new();
    let query = config(ConfigCommand::Read, b"");
    let found = |mac, world: &mut World| -> Vec<String> {
        let done = world.ask(mac, Selector::ALL, &query).unwrap();
        done.iter()
            .map(|done| match done {
                Done::Reply(frame) => {
                    let (header, rest) = Header::decode(frame).unwrap();
                    let Ok(Message::Config(config)) = Message::decode(1, rest) else {
                        panic!("{rest:?}")
                    };
                    assert_eq!((config.buffers, config.sectors), (64, 2));
                    format!("e{}.{}", header.target.shelf, header.target.slot)
                }
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(found(ONE, &mut world), ["e0.0", "e7.0"]);
    assert_eq!(found(TWO, &mut world), ["e0.0"]);
    // A write to whoever is there is nobody's.
    let write = Message::Ata(ata(ata::WRITE_EXT, 0, 1, &[1; 512]));
    assert_eq!(
        world.ask(ONE, Selector::ALL, &write),
        Err(Ignored::NotForUs)
    );
}

#[test]
fn a_stranger_is_not_answered_and_is_said_once() {
    let mut world = World::new();
    let query = config(ConfigCommand::Read, b"");
    for first in [true, false, false] {
        let ignored = Err(Ignored::Unknown {
            mac: STRANGER,
            first,
        });
        assert_eq!(world.ask(STRANGER, Selector::ALL, &query), ignored);
    }
    world.table.set(STRANGER, vec![]);
    assert_eq!(
        world.ask(STRANGER, Selector::ALL, &query),
        Err(Ignored::NotForUs)
    );
    world.table.remove(ONE);
    assert!(matches!(
        world.ask(ONE, E0, &query),
        Err(Ignored::Unknown { first: true, .. })
    ));
}

#[test]
fn what_a_disk_cannot_do_is_told_in_the_ata_status() {
    let mut world = World::new();
    for (command, expected) in [
        (ata(ata::READ_EXT, SECTORS - 1, 2, &[]), (0x41, 0x10)),
        (ata(ata::READ_EXT, (1 << 48) - 1, 2, &[]), (0x41, 0x10)),
        (ata(ata::READ_EXT, 0, 0, &[]), (0x41, 0x04)),
        (ata(ata::READ_EXT, 0, 3, &[]), (0x41, 0x04)),
        (ata(ata::WRITE_EXT, 0, 2, &[0; 1023]), (0x41, 0x04)),
        (ata(ata::WRITE_EXT, SECTORS, 1, &[0; 512]), (0x41, 0x10)),
        // SMART.
        (ata(0xb0, 0, 1, &[]), (0x41, 0x04)),
        (ata(ata::CHECK_POWER, 0, 0, &[]), (0x40, 0)),
        (ata(ata::IDENTIFY, 0, 1, &[]), (0x40, 0)),
    ] {
        let done = world.ask_ata(ONE, E0, command);
        assert_eq!(registers(&done), expected, "{command:?}");
        let Done::Reply(frame) = done else { panic!() };
        match command.command {
            ata::CHECK_POWER => assert_eq!(frame[26], 0xff),
            ata::IDENTIFY => assert_eq!(&frame[ATA_HEADER..], world.disks[0].identify()),
            _ => assert_eq!(frame.len(), ATA_HEADER),
        }
    }
    let full = DeviceError::Full { quota: 1 };
    let answer = an_answer().failed(Failure::of_write(&full));
    // The bits that the Linux driver takes for a failure.
    assert_ne!(answer[27] & 0xa9, 0);
    let damaged = DeviceError::Damaged("x".into());
    assert_eq!(Failure::of_read(&damaged), Failure::Unreadable);
    assert_eq!(Failure::of_write(&DeviceError::ReadOnly), Failure::Aborted);
}

#[test]
fn config_strings_are_told_tested_and_set() {
    let mut world = World::new();
    let string = |world: &mut World, command, string: &[u8]| {
        let (header, rest) = world.answer(ONE, &config(command, string));
        if header.error != 0 {
            return Err(header.error);
        }
        match Message::decode(1, &rest) {
            Ok(Message::Config(config)) => Ok(config.string.to_vec()),
            other => panic!("{other:?}"),
        }
    };
    let none = Err(Ignored::NotForUs);
    assert_eq!(string(&mut world, ConfigCommand::Read, b""), Ok(vec![]));
    assert_eq!(
        string(&mut world, ConfigCommand::Set, b"root"),
        Ok(b"root".to_vec())
    );
    // Sent again.
    assert_eq!(
        string(&mut world, ConfigCommand::Set, b"root"),
        Ok(b"root".to_vec())
    );
    assert_eq!(string(&mut world, ConfigCommand::Set, b"other"), Err(4));
    assert_eq!(
        string(&mut world, ConfigCommand::Test, b"root"),
        Ok(b"root".to_vec())
    );
    assert_eq!(
        world.ask(ONE, E0, &config(ConfigCommand::Test, b"roo")),
        none
    );
    assert_eq!(
        string(&mut world, ConfigCommand::Prefix, b"ro"),
        Ok(b"root".to_vec())
    );
    assert_eq!(
        world.ask(ONE, E0, &config(ConfigCommand::Prefix, b"x")),
        none
    );
    assert_eq!(
        string(&mut world, ConfigCommand::Force, b"x"),
        Ok(b"x".to_vec())
    );
    assert_eq!(string(&mut world, ConfigCommand::Other(9), b""), Err(2));
    assert_eq!(world.disks[0].state().config, b"x");
    assert!(
        world.disks[1].state().config.is_empty(),
        "the other machine's disk"
    );
}

fn mask(command: u8, directives: &[u8]) -> Message<'_> {
    Message::Mask(Mask {
        command,
        error: 0,
        directives: Directives::from(directives),
    })
}

#[test]
fn a_mac_mask_is_edited_and_leaves_others_out() {
    let mut world = World::new();
    // The second machine sees the first one's disk as well.
    world.table.set(TWO, vec![world.disks[0].clone()]);
    let edit = |world: &mut World, list: &[(u8, MacAddr)]| {
        let bytes = directive_bytes(
            list.iter()
                .map(|&(command, mac)| Directive { command, mac }),
        );
        let (header, rest) = world.answer(ONE, &mask(1, &bytes));
        assert_eq!(header.error, 0);
        match Message::decode(2, &rest) {
            Ok(Message::Mask(mask)) => (
                mask.error,
                mask.directives.iter().map(|d| d.mac).collect::<Vec<_>>(),
            ),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(edit(&mut world, &[]), (0, vec![]));
    assert_eq!(
        edit(&mut world, &[(1, ONE), (1, ONE), (0, TWO)]),
        (0, vec![ONE])
    );
    let query = config(ConfigCommand::Read, b"");
    assert_eq!(world.ask(TWO, E0, &query), Err(Ignored::Masked));
    assert_eq!(
        edit(&mut world, &[(1, TWO), (7, TWO)]),
        (2, vec![ONE]),
        "all or nothing"
    );
    assert_eq!(
        edit(&mut world, &[(1, TWO), (2, STRANGER)]),
        (0, vec![ONE, TWO])
    );
    assert!(world.ask(TWO, E0, &query).is_ok());
    let (_, rest) = world.answer(ONE, &mask(0, &[]));
    assert_eq!(rest[3], 2);
    let many: Vec<_> = (0..MOST_MASKS)
        .map(|n| (1, MacAddr([2, 1, 0, 0, (n >> 8) as u8, n as u8])))
        .collect();
    let (error, list) = edit(&mut world, &many[..100]);
    assert_eq!((error, list.len()), (0, 102));
    assert_eq!(edit(&mut world, &many[100..]), (3, list));
    assert_eq!(
        world.answer(ONE, &mask(5, &[])).0.error,
        ErrorCode::BadArgument as u8
    );
}

#[test]
fn a_reservation_keeps_others_from_the_disk() {
    let mut world = World::new();
    world.table.set(TWO, vec![world.disks[0].clone()]);
    let reserve = |world: &mut World, from, command, macs: &[MacAddr]| {
        let bytes = mac_bytes(macs);
        let message = Message::Reserve(Reserve {
            command,
            macs: MacList::from(&bytes[..]),
        });
        let (header, rest) = world.answer(from, &message);
        match Message::decode(3, &rest) {
            _ if header.error != 0 => Err(header.error),
            Ok(Message::Reserve(reserve)) => Ok(reserve.macs.iter().collect::<Vec<_>>()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reserve(&mut world, ONE, 0, &[]), Ok(vec![]));
    assert_eq!(reserve(&mut world, ONE, 1, &[ONE]), Ok(vec![ONE]));
    assert_eq!(reserve(&mut world, TWO, 0, &[]), Ok(vec![ONE]));
    assert_eq!(reserve(&mut world, TWO, 1, &[TWO]), Err(6));
    let read = Message::Ata(ata(ata::READ_EXT, 0, 1, &[]));
    assert_eq!(world.answer(TWO, &read).0.error, 6);
    assert_eq!(
        world
            .answer(TWO, &config(ConfigCommand::Force, b"x"))
            .0
            .error,
        6
    );
    assert_eq!(
        world.answer(TWO, &config(ConfigCommand::Read, b"")).0.error,
        0
    );
    assert!(matches!(
        world.ask(ONE, E0, &read).unwrap()[..],
        [Done::Read(..)]
    ));
    assert_eq!(
        reserve(&mut world, TWO, 2, &[TWO]),
        Ok(vec![TWO]),
        "by force"
    );
    assert_eq!(reserve(&mut world, TWO, 1, &[]), Ok(vec![]), "released");
    assert!(matches!(
        world.ask(ONE, E0, &read).unwrap()[..],
        [Done::Read(..)]
    ));
}

#[test]
fn what_is_set_is_kept_or_not_set() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(Files::new(dir.path()));
    let mut world = World::new();
    world
        .table
        .set(ONE, vec![target("lab-7", 0, files.clone())]);
    world.answer(ONE, &config(ConfigCommand::Set, b"kept"));
    let again = target("lab-7", 0, files);
    assert_eq!(again.state().config, b"kept");

    let nowhere = Arc::new(Files::new(&dir.path().join("none")));
    let unkept = target("lab-8", 0, nowhere);
    world.table.set(ONE, vec![unkept.clone()]);
    let mut frame = vec![];
    config(ConfigCommand::Set, b"x").encode(&Header::request(SERVER, ONE, E0, 1), &mut frame);
    let mut actions = vec![];
    world.machine.refresh();
    world
        .machine
        .handle(&LINK, &frame, Instant::now(), &mut actions)
        .unwrap();
    let [Action::Change(change)] = &actions[..] else {
        panic!("{actions:?}")
    };
    let mut said = None;
    let answer = change.make(|_, error| said = Some(error));
    assert!(matches!(said, Some(KeepError::Io { .. })));
    assert_eq!(
        Header::decode(&answer).unwrap().0.error,
        ErrorCode::Unavailable as u8
    );
    assert!(unkept.state().config.is_empty());
}

#[test]
fn other_versions_and_commands_get_an_error_and_answers_get_none() {
    let mut world = World::new();
    assert_eq!(world.answer(ONE, &Message::Other(9)).0.error, 1);
    let header = Header::request(SERVER, ONE, E0, 77);
    let newer = Header {
        version: 2,
        ..header
    };
    match &world.ask_bytes(&newer.encode()).unwrap()[..] {
        [Done::Reply(frame)] => assert_eq!(Header::decode(frame).unwrap().0.error, 5),
        other => panic!("{other:?}"),
    }
    let answer = Header {
        response: true,
        ..header
    };
    assert_eq!(world.ask_bytes(&answer.encode()), Err(Ignored::NotForUs));
    assert_eq!(
        world.ask_bytes(&header.encode()),
        Err(Ignored::Malformed),
        "no registers"
    );
    assert_eq!(world.ask_bytes(&[0; 10]), Err(Ignored::Malformed));
}

proptest! {
    /// Whatever comes, what is done stays within the machine's own disk.
    #[test]
    fn no_frame_reaches_past_a_disk(
        bytes in prop::collection::vec(any::<u8>(), 0..1600), command in 0u8..5, wild: bool,
        ata_command in prop::sample::select(vec![0x20, 0x24, 0x30, 0x34, 0xec, 0xe5, 0xe7, 0xea, 0]),
        count in 0u8..4, near: bool,
    ) {
        let mut world = World::new();
        let mut frame = bytes;
        if frame.len() >= ATA_HEADER {
            frame[6..12].copy_from_slice(&ONE.0);
            frame[12..20].copy_from_slice(&[0x88, 0xa2, 0x10, 0, 0, 0, 0, command]);
            if wild {
                frame[16..19].copy_from_slice(&[255; 3]);
            }
            frame[26] = count;
            frame[27] = ata_command;
            if near {
                frame[28..34].copy_from_slice(&(SECTORS - 2).to_le_bytes()[..6]);
            }
        }
        for done in world.ask_bytes(&frame).unwrap_or_default() {
            match done {
                Done::Reply(answer) => {
                    let (header, rest) = Header::decode(&answer).unwrap();
                    prop_assert!(header.response && header.destination == ONE);
                    prop_assert!(header.error != 0 || Message::decode(header.command, rest).is_ok());
                    prop_assert!(answer.len() <= 1514);
                }
                Done::Read(name, offset, length) => {
                    prop_assert_eq!(name, "one");
                    prop_assert!(offset + length as u64 <= SECTORS * 512 && length <= 1024);
                }
                Done::Write(name, offset, data) => {
                    prop_assert_eq!(name, "one");
                    prop_assert!(offset + data.len() as u64 <= SECTORS * 512 && !wild);
                }
                Done::Flush(name) => prop_assert_eq!(name, "one"),
            }
        }
    }
}
