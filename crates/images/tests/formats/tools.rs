//! Disks to convert, and the programs that convert them.

use bugler_images::{AddOptions, Added, ChunkStore, LocalImage, LocalOptions};
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

pub(crate) const MIB: u64 = 1 << 20;

/// A folder that goes away, with a store in it.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: ChunkStore,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ChunkStore::open(dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a program in the folder; it must end well. Gives what it printed.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program)
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}; scripts/setup installs it"));
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {args:?}: {printed}{errors}"
        );
        printed
    }

    pub(crate) fn qemu_img(&self, args: &[&str]) -> String {
        self.run("qemu-img", args)
    }

    /// Writes to a qcow2 image as a virtual machine would.
    pub(crate) fn qemu_io(&self, image: &str, commands: &[&str]) {
        let mut args = vec!["-f", "qcow2"];
        for command in commands {
            args.extend(["-c", command]);
        }
        args.push(image);
        self.run("qemu-io", &args);
    }

    /// Adds the file as the command line does: read here, sent as a stream.
    pub(crate) fn send(&self, name: &str, options: LocalOptions<'_>) -> Result<Added, String> {
        let local = LocalImage::open(&self.path(name), options).map_err(chain)?;
        match local {
            LocalImage::AsIs { file, .. } => {
                self.store.add(file, AddOptions::default()).map_err(chain)
            }
            LocalImage::Sparse(mut stream) => {
                let failure = stream.failure();
                let added = self.store.add(&mut stream, AddOptions::default());
                added.map_err(|error| chain(failure.take().unwrap_or(error)))
            }
        }
    }

    /// Adds the file as it is, from a stream.
    pub(crate) fn upload(&self, name: &str) -> Result<Added, String> {
        let file = File::open(self.path(name)).unwrap();
        self.store.add(file, AddOptions::default()).map_err(chain)
    }

    /// Compares an image with a raw file.
    pub(crate) fn expect(&self, added: &Added, raw: &str, what: &str) {
        let mut found = Vec::new();
        let mut reader = self.store.open_raw(&added.manifest).unwrap();
        reader.read_to_end(&mut found).unwrap();
        let wanted = fs::read(self.path(raw)).unwrap();
        assert_eq!(found.len(), wanted.len(), "{what}: size");
        if let Some(at) = (0..found.len()).find(|at| found[*at] != wanted[*at]) {
            panic!(
                "{what}: byte {at} is {:#x}, not {:#x}",
                found[at], wanted[at]
            );
        }
    }
}

/// An error with everything below it.
pub(crate) fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        text += &format!(": {below}");
        source = below.source();
    }
    text
}

/// Bytes that do not compress, always the same for one seed (xorshift64*).
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A raw disk of so many bytes with holes, zeros, noise and text, at odd places.
pub(crate) fn make_disk(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let text: Vec<u8> = (0..20_000u32)
        .flat_map(|i| format!("line {i}\n").into_bytes())
        .collect();
    let put = |at: u64, bytes: &[u8]| {
        if at < size {
            let room = (size - at).min(bytes.len() as u64) as usize;
            file.write_all_at(&bytes[..room], at).unwrap();
        }
    };
    put(0, &noise(1, 700));
    put(MIB - 100, &noise(2, 200));
    put(2 * MIB + 4096, &text);
    put(4 * MIB, &vec![0; 300_000]);
    put(5 * MIB + 512, &noise(3, 1_500_000));
    put(9 * MIB, &text);
    put(size - 512, &noise(4, 512));
}
