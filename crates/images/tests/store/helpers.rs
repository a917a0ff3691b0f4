//! Images to add, and looks into the folder.

use bugler_images::{AddOptions, Added, ChunkStore, Format};
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

pub(crate) const CHUNK: usize = CHUNK_SIZE as usize;

/// The packings that an archive can have.
pub(crate) const ARCHIVES: [Format; 4] = [Format::Gzip, Format::Xz, Format::Zstd, Format::Bzip2];

/// A store in a folder that goes away with it.
pub(crate) fn new_store() -> (tempfile::TempDir, ChunkStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ChunkStore::open(dir.path().join("images")).unwrap();
    (dir, store)
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

/// An image of whole chunks: noise by seed, zeros for seed 0.
pub(crate) fn image(seeds: &[u64]) -> Vec<u8> {
    let chunk = |seed: &u64| match *seed {
        0 => vec![0; CHUNK],
        seed => noise(seed, CHUNK),
    };
    seeds.iter().flat_map(chunk).collect()
}

/// Packs bytes into so many members, streams or frames, one behind the other.
pub(crate) fn pack(format: Format, content: &[u8], members: usize) -> Vec<u8> {
    let size = content.len().div_ceil(members).max(1);
    if content.is_empty() {
        return pack_one(format, content);
    }
    let parts = content.chunks(size).map(|part| pack_one(format, part));
    parts.flatten().collect()
}

fn pack_one(format: Format, content: &[u8]) -> Vec<u8> {
    match format {
        Format::Raw => content.to_vec(),
        Format::Qcow2 | Format::Sparse => unreachable!("not an archive"),
        Format::Gzip => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(content).unwrap();
            packer.finish().unwrap()
        }
        Format::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(0);
            let mut packer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            packer.write_all(content).unwrap();
            packer.finish().unwrap()
        }
        Format::Zstd => {
            let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
            packer.include_checksum(true).unwrap();
            packer.write_all(content).unwrap();
            packer.finish().unwrap()
        }
        Format::Bzip2 => {
            let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            packer.write_all(content).unwrap();
            packer.finish().unwrap()
        }
    }
}

/// Adds an image that must be good.
pub(crate) fn add(store: &ChunkStore, input: &[u8]) -> Added {
    store.add(input, AddOptions::default()).unwrap()
}

/// Reads an image back whole.
pub(crate) fn read_back(store: &ChunkStore, manifest: &ChunkHash) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = store.open_raw(manifest).unwrap();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Every file under a folder, and what is in it; the lock file's note aside.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.file_name() != Some("lock".as_ref()) {
                let bytes = fs::read(&path).unwrap();
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// Where a chunk's file is.
pub(crate) fn chunk_path(store: &ChunkStore, hash: &ChunkHash) -> PathBuf {
    let name = hash.to_string();
    store.dir().join("chunks").join(&name[..2]).join(name)
}

/// A reader that gives at most so many bytes at a time.
pub(crate) struct Drip<'a>(pub(crate) &'a [u8], pub(crate) usize);

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(buffer.len());
        self.0.read(&mut buffer[..length])
    }
}

/// A reader that does something once, when so many bytes have been read.
pub(crate) struct Tripwire<'a, F: FnOnce()> {
    pub(crate) rest: &'a [u8],
    pub(crate) after: usize,
    pub(crate) act: Option<F>,
}

impl<F: FnOnce()> Read for Tripwire<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.after == 0
            && let Some(act) = self.act.take()
        {
            act();
        }
        let mut length = buffer.len();
        if self.after > 0 {
            length = length.min(self.after);
        }
        let length = self.rest.read(&mut buffer[..length])?;
        self.after = self.after.saturating_sub(length);
        Ok(length)
    }
}
