use super::{
    format::{BLOCK, GROUPS_START, JOURNAL_START, page_place, place},
    memory::Memory,
    open::{create_in, open_in},
    *,
};
use bugler_fsread::ReadAt;
use proptest::prelude::*;
use std::collections::BTreeMap;

const SIZE: u64 = 40 << 20;

/// A base whose blocks differ from each other, and from all that is written.
struct Pattern(u8);

fn base_block(block: u64) -> Vec<u8> {
    fill(block, u64::MAX)
}

/// Content of a block that no other version of any block has, in any of its sectors.
fn fill(block: u64, version: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK);
    for word in 0..BLOCK as u64 / 16 {
        out.extend_from_slice(&(block << 16 | word).to_le_bytes());
        out.extend_from_slice(&version.to_le_bytes());
    }
    out
}

impl ReadAt for Pattern {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let within = (at % BLOCK as u64) as usize;
            let length = rest.len().min(BLOCK - within);
            let block = base_block(at / BLOCK as u64);
            let (now, behind) = rest.split_at_mut(length);
            now.copy_from_slice(&block[within..within + length]);
            at += length as u64;
            rest = behind;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        SIZE - 8192 - 512
    }
}

impl BaseRead for Pattern {
    fn id(&self) -> BaseId {
        BaseId([self.0; 32])
    }
}

fn make(memory: &Memory, options: &OverlayOptions) -> Overlay {
    let size = Some(options.size.unwrap_or(SIZE));
    let options = OverlayOptions { size, ..*options };
    create_in(
        Box::new(memory.clone()),
        Path::new("test"),
        Arc::new(Pattern(1)),
        &options,
    )
    .unwrap()
}

fn reopen(memory: &Memory) -> Result<Overlay, OverlayError> {
    let options = OverlayOptions::default();
    open_in(
        Box::new(memory.clone()),
        Path::new("test"),
        Arc::new(Pattern(1)),
        &options,
    )
}

fn read(overlay: &Overlay, offset: u64, length: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; length];
    overlay.read(offset, &mut buf).unwrap();
    let mut now = vec![0xaa; length];
    if overlay.read_now(offset, &mut now).unwrap() {
        assert_eq!(now, buf, "read_now at {offset}");
    }
    buf
}

fn read_block(overlay: &Overlay, block: u64) -> Vec<u8> {
    read(overlay, block * BLOCK as u64, BLOCK)
}

#[test]
fn parts_of_blocks_are_laid_over_the_base() {
    let memory = Memory::default();
    let overlay = make(&memory, &OverlayOptions::default());
    let mut expected = read(&overlay, 0, SIZE as usize);
    assert_eq!(expected[..BLOCK], base_block(0));
    assert!(
        expected[SIZE as usize - 8192 - 512..]
            .iter()
            .all(|&byte| byte == 0),
        "behind the base"
    );
    let mut put = |offset: usize, data: &[u8]| {
        overlay
            .write(offset as u64, data, Durability::Cached)
            .unwrap();
        expected[offset..offset + data.len()].copy_from_slice(data);
    };
    put(512, &[1; 512]);
    put(BLOCK - 512, &[2; 1024]);
    put((1 << 20) - 1536, &[3; 3 * BLOCK]);
    put((32 << 20) - 512, &[4; 2 << 20]);
    put(SIZE as usize - 9 * 512, &[5; 9 * 512]);
    assert!(read(&overlay, 0, SIZE as usize) == expected);
    overlay
        .write_zeroes(1024, 5 * BLOCK as u64, Durability::Durable)
        .unwrap();
    expected[1024..1024 + 5 * BLOCK].fill(0);
    overlay
        .discard(100 * BLOCK as u64 + 512, 3 * BLOCK as u64)
        .unwrap();
    expected[101 * BLOCK..103 * BLOCK].fill(0);
    assert!(read(&overlay, 0, SIZE as usize) == expected);
    drop(overlay);
    let overlay = reopen(&memory).unwrap();
    assert!(read(&overlay, 0, SIZE as usize) == expected);
    assert!(matches!(
        overlay.write(SIZE - 512, &[0; 1024], Durability::Cached),
        Err(DeviceError::OutOfRange { .. })
    ));
    // Base, then what was written, zeros behind the base.
    let held = overlay.held(0, 100);
    assert_eq!(
        held[0],
        Held {
            offset: 0,
            length: 4096,
            zero: false
        }
    );
    assert_eq!(
        held[1],
        Held {
            offset: 4096,
            length: 16384,
            zero: true
        }
    );
    let covered: u64 = held.iter().filter(|h| !h.zero).map(|h| h.length).sum();
    assert_eq!(covered, overlay.usage().data_bytes);
    let extents = overlay.extents(0, SIZE, 1000).unwrap();
    assert_eq!(
        extents.iter().map(|extent| extent.length).sum::<u64>(),
        SIZE
    );
}

#[test]
fn the_quota_is_an_error_that_leaves_everything_as_it_was() {
    let memory = Memory::default();
    let quota = Some(10 * BLOCK as u64);
    let overlay = make(
        &memory,
        &OverlayOptions {
            quota,
            ..OverlayOptions::default()
        },
    );
    for block in 0..10 {
        overlay
            .write(block * BLOCK as u64, &[1; BLOCK], Durability::Cached)
            .unwrap();
    }
    let full = overlay.write(20 * BLOCK as u64, &[2; BLOCK], Durability::Cached);
    assert!(
        matches!(full, Err(DeviceError::Full { quota: 40960 })),
        "{full:?}"
    );
    assert_eq!(read_block(&overlay, 20), base_block(20));
    // What is there can be written again, before and after a flush; zeros need no room.
    for _ in 0..3 {
        overlay
            .write(0, &[3; 10 * BLOCK], Durability::Durable)
            .unwrap();
    }
    overlay
        .write_zeroes(30 * BLOCK as u64, 4096, Durability::Cached)
        .unwrap();
    overlay.discard(0, 4096).unwrap();
    overlay
        .write(20 * BLOCK as u64, &[2; BLOCK], Durability::Cached)
        .unwrap();
    assert!(
        overlay
            .write(21 * BLOCK as u64, &[2; 512], Durability::Cached)
            .is_err()
    );
    overlay.set_quota(11 * BLOCK as u64).unwrap();
    overlay
        .write(21 * BLOCK as u64, &[2; 512], Durability::Cached)
        .unwrap();
    drop(overlay);
    let usage = reopen(&memory).unwrap().usage();
    assert_eq!((usage.data_bytes, usage.quota), (11 * 4096, 11 * 4096));
}

#[test]
fn a_disk_grows_and_never_shrinks_and_stays_over_its_base() {
    let memory = Memory::default();
    let overlay = make(
        &memory,
        &OverlayOptions {
            size: Some(SIZE - 512),
            ..OverlayOptions::default()
        },
    );
    overlay
        .write(SIZE - 1024, &[7; 512], Durability::Cached)
        .unwrap();
    drop(overlay);
    let grow = OverlayOptions {
        size: Some(3 * SIZE),
        ..OverlayOptions::default()
    };
    let open = |base, options| {
        open_in(
            Box::new(memory.clone()),
            Path::new("lab-7.overlay"),
            Arc::new(Pattern(base)),
            &options,
        )
    };
    let overlay = open(1, grow).unwrap();
    assert_eq!(overlay.size(), 3 * SIZE);
    assert_eq!(read(&overlay, SIZE - 1024, 1024)[511..513], [7, 0]);
    overlay
        .write(3 * SIZE - 512, &[8; 512], Durability::Cached)
        .unwrap();
    drop(overlay);
    let overlay = open(1, OverlayOptions::default()).unwrap();
    assert_eq!(read(&overlay, 3 * SIZE - 512, 512), [8; 512]);
    drop(overlay);
    let shrink = OverlayOptions {
        size: Some(SIZE),
        ..OverlayOptions::default()
    };
    let error = open(1, shrink).unwrap_err();
    assert!(
        error.to_string().contains("cannot be made smaller"),
        "{error}"
    );
    let error = open(2, OverlayOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains("lab-7.overlay was made over the base 0101"),
        "{error}"
    );
    assert!(error.contains("cannot be put over 0202"), "{error}");
    let odd = OverlayOptions {
        size: Some(SIZE + 1),
        ..OverlayOptions::default()
    };
    assert!(matches!(open(1, odd), Err(OverlayError::Size(_))));
}

/// Flushes beyond what the journal has room for, and writes beyond what a transaction has.
#[test]
fn checkpoints_come_by_themselves() {
    let memory = Memory::default();
    let overlay = make(&memory, &OverlayOptions::default());
    for version in 0..600 {
        let block = version % 7 * 1300;
        overlay
            .write(block * 4096, &fill(block, version), Durability::Durable)
            .unwrap();
    }
    assert_eq!(guard(overlay.journal.lock()).header.generation, 3);
    let left = memory.after_kill();
    std::mem::forget(overlay);
    let overlay = reopen(&left).unwrap();
    for version in 593..600 {
        let block = version % 7 * 1300;
        assert!(
            read_block(&overlay, block) == fill(block, version),
            "{version}"
        );
    }
}

#[test]
fn damage_is_refused_and_said_and_a_header_is_mended() {
    let whole = Memory::default();
    let overlay = make(&whole, &OverlayOptions::default());
    overlay.write(0, &fill(0, 1), Durability::Durable).unwrap();
    overlay.checkpoint().unwrap();
    overlay.write(0, &fill(0, 2), Durability::Durable).unwrap();
    overlay
        .write(4096, &fill(1, 3), Durability::Durable)
        .unwrap();
    overlay
        .write(8192, &fill(2, 4), Durability::Durable)
        .unwrap();
    std::mem::forget(overlay);
    let after = |offset: u64, length: usize| {
        let damaged = whole.after_kill();
        damaged.damage(offset, &vec![0xee; length]);
        reopen(&damaged).map(|overlay| read(&overlay, 0, 3 * BLOCK))
    };
    let good = [fill(0, 2), fill(1, 3), fill(2, 4)].concat();
    assert!(
        after(GROUPS_START - 4096, 512).unwrap() == good,
        "behind the journal"
    );
    assert!(after(100, 4).unwrap() == good, "the first header");
    assert!(after(4096 + 100, 4).unwrap() == good, "the second header");
    let says = |offset, text: &str| {
        let error = after(offset, 16).unwrap_err().to_string();
        assert!(
            error.contains("is damaged") && error.contains(text),
            "{error}"
        );
    };
    says(page_place(0, 0) + 60, "a page of its block states");
    says(JOURNAL_START + 60, "transaction 0 of its journal");
    says(JOURNAL_START + 4096, "transaction 1 of its journal");
    says(place(0, State::B), "block 0 is not what was written");
    // The last transaction may have been cut off: what it spoke of is as before.
    let cut = [fill(0, 2), fill(1, 3), base_block(2)].concat();
    assert!(after(JOURNAL_START + 2 * 4096, 16).unwrap() == cut);
    assert!(after(place(2, State::A) + 600, 16).unwrap() == cut);
    let both = whole.after_kill();
    both.damage(0, &[0xee; 8192]);
    assert!(matches!(reopen(&both), Err(OverlayError::NotAnOverlay(_))));
    let both = whole.after_kill();
    both.damage(90, &[0xee; 8]);
    both.damage(4096 + 90, &[0xee; 8]);
    assert!(
        reopen(&both)
            .unwrap_err()
            .to_string()
            .contains("both copies of its header")
    );
}

/// Old content is given back, and what is current stays.
#[test]
fn space_of_old_content_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlay");
    let options = OverlayOptions {
        size: Some(SIZE),
        ..OverlayOptions::default()
    };
    let overlay = Overlay::create(&path, Arc::new(Pattern(1)), &options).unwrap();
    let data = vec![1; 24 << 20];
    overlay.write(0, &data, Durability::Durable).unwrap();
    overlay.write(0, &data, Durability::Durable).unwrap();
    let usage = overlay.usage();
    assert_eq!(usage.data_bytes, 24 << 20);
    assert!(usage.file_bytes < 27 << 20, "{usage:?}");
    assert_eq!(read(&overlay, 0, data.len()), data);
    overlay.discard(0, SIZE).unwrap();
    overlay.flush().unwrap();
    let journal = guard(overlay.journal.lock());
    overlay.reclaim(&journal).unwrap();
    drop(journal);
    let usage = overlay.usage();
    assert!(usage.file_bytes < 2 << 20, "{usage:?}");
    assert!(read(&overlay, 0, data.len()).iter().all(|&byte| byte == 0));
    // One at a time, and what is not open can be looked at.
    let again = Overlay::open(&path, Arc::new(Pattern(1)), &options).unwrap_err();
    assert!(matches!(again, OverlayError::Locked(_)), "{again}");
    assert_eq!(Overlay::inspect(&path).unwrap().data_bytes, None);
    let again = Overlay::create(&path, Arc::new(Pattern(1)), &options).unwrap_err();
    assert!(matches!(again, OverlayError::Exists(_)), "{again}");
    drop(overlay);
    let info = Overlay::inspect(&path).unwrap();
    assert_eq!(
        (info.data_bytes, info.disk_size, info.quota),
        (Some(0), SIZE, u64::MAX)
    );
}

/// Many threads write and flush blocks of their own and read blocks of others, in a file.
#[test]
fn many_threads_find_what_they_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlay");
    let options = OverlayOptions {
        size: Some(SIZE),
        ..OverlayOptions::default()
    };
    let overlay = Overlay::create(&path, Arc::new(Pattern(1)), &options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let overlay = &overlay;
            scope.spawn(move || {
                for version in 0..60 {
                    let block = version % 5 * 8 + thread;
                    let durability = match version % 4 {
                        0 => Durability::Durable,
                        _ => Durability::Cached,
                    };
                    overlay
                        .write(block * 4096, &fill(block, version), durability)
                        .unwrap();
                    assert!(read_block(overlay, block) == fill(block, version));
                    // A block of another thread is one of its versions as a whole. (It may be
                    // written again at any moment, so it is read once.)
                    let other = (block + 3) % 40;
                    let mut seen = vec![0xaa; BLOCK];
                    overlay.read(other * BLOCK as u64, &mut seen).unwrap();
                    let version = u64::from_le_bytes(*seen[8..].first_chunk().unwrap());
                    assert!(seen == fill(other, version), "block {other}");
                }
            });
        }
    });
    drop(overlay);
    let overlay = Overlay::open(&path, Arc::new(Pattern(1)), &OverlayOptions::default()).unwrap();
    for block in 0..40 {
        let version = (0..60).rfind(|version| version % 5 == block / 8).unwrap();
        assert!(read_block(&overlay, block) == fill(block, version));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        at: usize,
        blocks: usize,
        durable: bool,
    },
    /// Half a block.
    Part {
        at: usize,
    },
    Zero {
        at: usize,
        blocks: usize,
    },
    Flush,
    Checkpoint,
    Reclaim,
    /// The process is killed, now or in the middle of a later step.
    Kill {
        after: u64,
    },
    /// The power goes; the seed says which sectors arrived.
    Cut {
        after: u64,
        seed: u64,
    },
}

/// Blocks that are written: few, so that they are written often, and in both groups.
const WRITTEN: [u64; 12] = [0, 1, 2, 3, 4, 5, 8189, 8190, 8191, 8192, 8193, 10_239];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = 0..WRITTEN.len();
    let step = prop_oneof![
        6 => (at.clone(), 1..5_usize, any::<bool>())
            .prop_map(|(at, blocks, durable)| Step::Write { at, blocks, durable }),
        2 => at.clone().prop_map(|at| Step::Part { at }),
        2 => (at, 1..4_usize).prop_map(|(at, blocks)| Step::Zero { at, blocks }),
        4 => Just(Step::Flush),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Reclaim),
        1 => (0..20_u64).prop_map(|after| Step::Kill { after }),
        3 => (0..20_u64, any::<u64>()).prop_map(|(after, seed)| Step::Cut { after, seed }),
    ];
    prop::collection::vec(step, 1..50)
}

/// What may be found in each block: what the last flush made durable, then all that was written since.
struct Model(BTreeMap<u64, Vec<Vec<u8>>>);

impl Model {
    fn note(&mut self, block: u64, content: Vec<u8>) {
        self.0.get_mut(&block).unwrap().push(content);
    }

    fn flushed(&mut self) {
        for versions in self.0.values_mut() {
            versions.drain(..versions.len() - 1);
        }
    }
}

/// Does what a step says; an error is one of the burnt fuse.
fn perform(
    overlay: &Overlay,
    step: &Step,
    model: &mut Model,
    version: u64,
) -> Result<(), DeviceError> {
    match *step {
        Step::Write {
            at,
            blocks,
            durable,
        } => {
            for &block in WRITTEN.iter().skip(at).take(blocks) {
                let content = fill(block, version);
                model.note(block, content.clone());
                let durability = if durable {
                    Durability::Durable
                } else {
                    Durability::Cached
                };
                overlay.write(block * BLOCK as u64, &content, durability)?;
                if durable {
                    model.flushed();
                }
            }
        }
        Step::Part { at } => {
            let block = WRITTEN[at];
            let new = fill(block, version);
            let mut content = model.0[&block].last().unwrap().clone();
            content[1024..3072].copy_from_slice(&new[1024..3072]);
            model.note(block, content);
            overlay.write(
                block * BLOCK as u64 + 1024,
                &new[1024..3072],
                Durability::Cached,
            )?;
        }
        Step::Zero { at, blocks } => {
            for &block in WRITTEN.iter().skip(at).take(blocks) {
                model.note(block, vec![0; BLOCK]);
                overlay.discard(block * BLOCK as u64, BLOCK as u64)?;
            }
        }
        Step::Flush => {
            overlay.flush()?;
            model.flushed();
        }
        Step::Checkpoint => {
            overlay.checkpoint()?;
            model.flushed();
        }
        Step::Reclaim => {
            let journal = guard(overlay.journal.lock());
            overlay
                .reclaim(&journal)
                .map_err(DeviceError::io("reclaim"))?;
        }
        Step::Kill { .. } | Step::Cut { .. } => {}
    }
    Ok(())
}

fn check_all(overlay: &Overlay, model: &mut Model, exact: bool) -> Result<(), TestCaseError> {
    for (&block, versions) in &mut model.0 {
        let found = read_block(overlay, block);
        if exact {
            prop_assert!(&found == versions.last().unwrap(), "block {block}");
        } else {
            prop_assert!(
                versions.contains(&found),
                "block {block} is none of what was written"
            );
            *versions = vec![found];
        }
    }
    Ok(())
}

fn live_through(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut memory = Memory::default();
    let mut overlay = make(&memory, &OverlayOptions::default());
    let start = WRITTEN
        .iter()
        .map(|&block| (block, vec![read_block(&overlay, block)]));
    let mut model = Model(start.collect());
    // How it will end, once the fuse has burnt.
    let mut end: Option<Step> = None;
    for (version, step) in steps
        .into_iter()
        .chain([Step::Cut { after: 0, seed: 1 }])
        .enumerate()
    {
        let failed = perform(&overlay, &step, &mut model, version as u64).is_err();
        if let Step::Kill { after } | Step::Cut { after, .. } = step
            && end.is_none()
        {
            memory.burn_after(after);
            end = Some(step.clone());
        }
        let is_over = failed
            || matches!(
                end,
                Some(Step::Kill { after: 0 } | Step::Cut { after: 0, .. })
            );
        if is_over && let Some(how) = end.take() {
            let mut seed = match how {
                Step::Cut { seed, .. } => Some(seed),
                _ => None,
            };
            let left = match &mut seed {
                None => memory.after_kill(),
                Some(seed) => memory.after_cut(|versions| {
                    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (*seed >> 33) as usize % versions
                }),
            };
            std::mem::forget(overlay);
            memory = left;
            overlay = reopen(&memory).map_err(|error| TestCaseError::fail(error.to_string()))?;
            check_all(&overlay, &mut model, false)?;
        } else if !failed {
            check_all(&overlay, &mut model, true)?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// After a kill or a loss of power at any moment, each block is a whole version of what was written,
    /// not older than the last flush that returned; and the file opens.
    #[test]
    fn what_was_flushed_survives_kills_and_losses_of_power(steps in steps()) {
        live_through(steps)?;
    }

    #[test]
    fn changed_files_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz_overlay(&bytes);
    }
}
