//! Disks out of any bytes, for tests and for libFuzzer.

use crate::{ReadAt, Reading, SurveyOptions, Unclean, survey};
use std::io;

/// Bytes of a piece's place and length.
const PIECE_HEAD: usize = 6;

/// A disk that is zero but for some pieces: so that a few bytes can be a table at the end of a large
/// disk, or a bitmap far into it.
///
/// The first byte picks the size: 4 KiB shifted left by up to 18. Then each piece has its place (32
/// bits, in bytes), its length (16 bits) and its bytes. A later piece lies over an earlier one.
pub(crate) struct Patchwork<'a> {
    size: u64,
    pieces: Vec<(u64, &'a [u8])>,
}

impl<'a> Patchwork<'a> {
    /// Reads such a disk. Everything is one: what is too short counts as far as it goes.
    pub(crate) fn parse(bytes: &'a [u8]) -> Self {
        let (first, mut rest) = bytes.split_first().unwrap_or((&0, &[]));
        let size = 4096 << (first % 19);
        let mut pieces = Vec::new();
        while let Some((head, behind)) = rest.split_first_chunk::<PIECE_HEAD>() {
            let place = u64::from(crate::bytes::u32_at(head, 0));
            let length = usize::from(crate::bytes::u16_at(head, 4)).min(behind.len());
            let (piece, next) = behind.split_at(length);
            pieces.push((place % size, piece));
            rest = next;
        }
        Self { size, pieces }
    }
}

impl ReadAt for Patchwork<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        let end = end
            .filter(|&end| end <= self.size)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.fill(0);
        for (place, piece) in &self.pieces {
            let from = offset.max(*place);
            let to = end.min(place + piece.len() as u64);
            if from < to {
                let source = &piece[(from - place) as usize..(to - place) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// Surveys a disk made of any bytes, and checks what holds for every survey.
///
/// # Panics
/// Where it does not hold.
pub fn fuzz_survey(bytes: &[u8]) {
    let disk = Patchwork::parse(bytes);
    let size = disk.size();
    for (sector, unclean) in [(512, Unclean::Whole), (4096, Unclean::Refuse)] {
        let options = SurveyOptions {
            unclean,
            whole_disk: false,
        };
        let found = survey(&disk, sector, &options).expect("a disk without errors is read");
        assert!(
            found
                .used
                .as_slice()
                .last()
                .is_none_or(|last| last.end <= size)
        );
        assert!(!found.parts.is_empty());
        for part in &found.parts {
            assert!(
                part.start
                    .checked_add(part.size)
                    .is_some_and(|end| end <= size)
            );
            let range = part.start..part.start + part.size;
            match part.reading {
                Reading::Whole { .. } => assert!(found.used.covers(range)),
                Reading::Refused { .. } => assert_eq!(unclean, Unclean::Refuse),
                Reading::UsedBlocks | Reading::HeaderOnly => assert!(part.used > 0),
            }
            assert!(part.used <= part.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{blank, run};
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::fs::File;
    use std::path::Path;
    use std::sync::OnceLock;

    /// Remembers which sectors were read.
    struct Recorder<'a>(&'a File, RefCell<crate::Ranges>);

    impl ReadAt for Recorder<'_> {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            let end = offset + buf.len() as u64;
            self.1
                .borrow_mut()
                .insert(offset & !511..end.next_multiple_of(512));
            ReadAt::read_at(self.0, offset, buf)
        }

        fn size(&self) -> u64 {
            self.0.size()
        }
    }

    /// What a survey reads of a disk, as the bytes that [`Patchwork::parse`] takes: the disk's size is
    /// one of those that it knows.
    fn patchwork(disk: &Path) -> Vec<u8> {
        let file = File::open(disk).unwrap();
        let recorder = Recorder(&file, RefCell::default());
        for sector in [512, 4096] {
            survey(&recorder, sector, &SurveyOptions::default()).unwrap();
        }
        assert!(file.size().is_power_of_two());
        let mut bytes = vec![(file.size() / 4096).trailing_zeros() as u8];
        for range in recorder.1.borrow().as_slice() {
            for at in (range.start..range.end.min(file.size())).step_by(512) {
                let mut sector = [0; 512];
                ReadAt::read_at(&file, at, &mut sector).unwrap();
                // A head has 6 bytes: fewer zeros than that are cheaper as they are.
                let mut rest = 0;
                while let Some(first) = sector[rest..].iter().position(|&byte| byte != 0) {
                    let begin = rest + first;
                    let zeros = sector[begin..].windows(7).position(|seven| seven == [0; 7]);
                    let end = zeros.map_or(512, |zeros| begin + zeros);
                    bytes.extend_from_slice(&(at as u32 + begin as u32).to_le_bytes());
                    bytes.extend_from_slice(&((end - begin) as u16).to_le_bytes());
                    bytes.extend_from_slice(&sector[begin..end]);
                    rest = end;
                }
            }
        }
        bytes
    }

    /// Small disks of every kind that is read, by name.
    fn disks() -> &'static [(&'static str, Vec<u8>)] {
        static DISKS: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
        DISKS.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let made = |size: u64, commands: &[&[&str]]| {
                let path = folder.path().join("disk");
                blank(&path, size);
                for command in commands {
                    let path = path.to_str().unwrap();
                    let command: Vec<&str> = command
                        .iter()
                        .map(|word| if *word == "DISK" { path } else { word })
                        .collect();
                    run(command[0], &command[1..]);
                }
                patchwork(&path)
            };
            let mke2fs = |size: u64, options: &str| {
                let mut command = vec!["/usr/sbin/mke2fs", "-q", "-F"];
                command.extend(options.split(' '));
                command.push("DISK");
                made(size, &[&command])
            };
            const MIB: u64 = 1 << 20;
            vec![
                ("ext2", mke2fs(MIB, "-t ext2 -b 1024")),
                (
                    "ext4",
                    mke2fs(MIB, "-t ext4 -b 1024 -g 256 -O ^has_journal"),
                ),
                (
                    "crc16",
                    mke2fs(
                        MIB,
                        "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^has_journal",
                    ),
                ),
                (
                    "bigalloc",
                    mke2fs(4 * MIB, "-t ext4 -b 1024 -C 4096 -O bigalloc,^has_journal"),
                ),
                (
                    "meta-bg",
                    mke2fs(
                        MIB,
                        "-t ext4 -b 1024 -g 256 -O meta_bg,^resize_inode,^has_journal",
                    ),
                ),
                (
                    "gpt",
                    made(
                        2 * MIB,
                        &[&[
                            "/usr/sbin/sgdisk",
                            "-a",
                            "1",
                            "-n1:34:100",
                            "-n5:101:0",
                            "-h1",
                            "DISK",
                        ]],
                    ),
                ),
                (
                    "mbr",
                    made(
                        4 * MIB,
                        &[&[
                            "sh",
                            "-c",
                            "printf 'label: dos\\nstart=8,size=80,type=83\\nstart=100,size=4000,\
                             type=5\\nstart=128,size=100,type=83\\nstart=300,size=100,type=82\\n' \
                             | /usr/sbin/sfdisk -q --no-tell-kernel \"$0\"",
                            "DISK",
                        ]],
                    ),
                ),
                (
                    "fat12",
                    made(MIB, &[&["/usr/sbin/mkfs.fat", "-F", "12", "DISK"]]),
                ),
                ("swap", made(MIB, &[&["/usr/sbin/mkswap", "-q", "DISK"]])),
            ]
        })
    }

    /// The seeds of the fuzz target are these disks: with `BUGLER_WRITE_SEEDS=1` they are written.
    #[test]
    fn what_a_survey_reads_of_a_disk_is_enough_to_survey_it() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/fs_survey");
        for (name, bytes) in disks() {
            let disk = Patchwork::parse(bytes);
            let found = survey(&disk, 512, &SurveyOptions::default()).unwrap();
            println!("{name}: {} bytes, {:?}", bytes.len(), found.parts[0]);
            match *name {
                "gpt" | "mbr" => assert_eq!(found.parts.len(), 2 + usize::from(*name == "mbr")),
                _ => assert!(matches!(
                    found.parts[0].reading,
                    Reading::UsedBlocks | Reading::HeaderOnly
                )),
            }
            assert!(bytes.len() <= 8 << 10, "{name} has {} bytes", bytes.len());
            fuzz_survey(bytes);
            if std::env::var_os("BUGLER_WRITE_SEEDS").is_some() {
                std::fs::create_dir_all(&seeds).unwrap();
                std::fs::write(seeds.join(name), bytes).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_surveyed(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            fuzz_survey(&bytes);
        }

        /// Most of what is changed are bytes that a survey reads: fields, bitmaps, checksums.
        #[test]
        fn changed_disks_are_surveyed(
            which: prop::sample::Index,
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let (_, bytes) = &disks()[which.index(disks().len())];
            let mut bytes = bytes.clone();
            for (place, byte) in edits {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            fuzz_survey(&bytes);
        }
    }
}
