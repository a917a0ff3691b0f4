//! Files on a volume of any bytes, for tests and for libFuzzer.

use super::{FileKind, Volume};
use crate::ReadAt;
use crate::fuzz::Patchwork;
use std::io;
use std::ops::ControlFlow;

/// Reads every file of a volume made of any bytes, as far as it goes. The bytes are pieces of a volume
/// that is zero otherwise, as for [`fuzz_survey`](crate::fuzz_survey).
///
/// # Panics
/// Where what is read contradicts itself.
pub fn fuzz_tree(bytes: &[u8]) {
    read_all(&Patchwork::parse(bytes));
}

/// Reads all there is, as far as it goes.
pub(super) fn read_all(volume: &dyn ReadAt) {
    let Ok(volume) = Volume::open(volume) else {
        return;
    };
    let mut seen = vec![];
    let _ = volume.walk("", 500, &mut |walked| {
        seen.push(walked.entry.clone());
        ControlFlow::Continue(())
    });
    for entry in seen.iter().filter(|entry| entry.kind == FileKind::File) {
        let mut counted = Counted(0);
        if let Ok(length) = volume.read(entry, &mut counted, 1 << 20) {
            assert_eq!(
                (length, length),
                (entry.size, counted.0),
                "a file has its size"
            );
        }
        let _ = volume.extents(entry, 1000);
    }
    for entry in &seen {
        if let Some(number) = entry.number {
            let again = volume.by_number(number);
            let again = again.ok().flatten().map(|again| again.kind);
            assert!(again.is_none_or(|kind| kind == entry.kind));
        }
        let _ = (volume.numbers(entry), volume.parent(entry));
    }
    for entry in seen.iter().filter(|entry| entry.kind == FileKind::Symlink) {
        let _ = volume.entry(&entry.name);
    }
    let _ = volume.entry("deep/er/above");
}

/// Counts what is written to it.
struct Counted(u64);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
