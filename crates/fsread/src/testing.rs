//! What tests of volumes share: the usual tools, and restoring what an image would carry.

use crate::ReadAt;
use crate::usage::Usage;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// What fills the bytes that an image does not carry, so that their use shows.
const POISON: u8 = 0xa5;

/// Runs a program, and gives what it printed; it must end well.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error} (scripts/setup)"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file of zeros.
pub(crate) fn blank(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

/// Writes what an image of the volume would carry onto a disk that was full of something else.
pub(crate) fn restore(volume: &Path, usage: &Usage, onto: &Path) {
    let source = File::open(volume).unwrap();
    let size = source.metadata().unwrap().len();
    let mut target = File::create(onto).unwrap();
    let poison = vec![POISON; 1 << 20];
    let mut left = size;
    while left > 0 {
        let length = left.min(poison.len() as u64);
        target.write_all(&poison[..length as usize]).unwrap();
        left -= length;
    }
    for range in usage.used.as_slice() {
        assert!(range.end <= size, "{range:?} leads out of the volume");
        let mut bytes = vec![0; (range.end - range.start) as usize];
        source.read_exact_at(&mut bytes, range.start).unwrap();
        target.seek(SeekFrom::Start(range.start)).unwrap();
        target.write_all(&bytes).unwrap();
    }
}

/// Bytes that are different for each number, and do not compress away.
pub(crate) fn content(number: u32, length: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    let mut bytes = Vec::with_capacity(length);
    for _ in 0..length {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.push(state as u8);
    }
    bytes
}

/// Runs a script of `sh` in a mount namespace of its own, with `arguments` as `$1` and so on; false
/// where this system does not let it mount with FUSE.
pub(crate) fn with_mounts(script: &str, arguments: &[&str]) -> bool {
    if File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_err()
    {
        return false;
    }
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    let unshare = if is_root { "-m" } else { "-Urm" };
    let mut all = vec![unshare, "sh", "-ec", script, "sh"];
    all.extend(arguments);
    run("unshare", &all);
    true
}

/// A volume with some bytes changed.
pub(crate) struct Changed<'a> {
    volume: &'a [u8],
    changes: Vec<(u64, u8)>,
}

impl<'a> Changed<'a> {
    /// Each change is a place, and the byte there.
    pub(crate) fn new(volume: &'a [u8], changes: Vec<(u64, u8)>) -> Self {
        Self { volume, changes }
    }
}

impl ReadAt for Changed<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.volume.read_at(offset, buf)?;
        for (at, byte) in &self.changes {
            let place = at
                .checked_sub(offset)
                .and_then(|at| buf.get_mut(at as usize));
            if let Some(place) = place {
                *place = *byte;
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.volume.size()
    }
}
