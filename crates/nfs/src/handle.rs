//! File handles: what a client holds of a file, and gives back with every call.
//!
//! | Bytes | |
//! |---|---|
//! | 2 | `B`, and the version of this table: 1 |
//! | 16 | the export |
//! | 8 | the number of the file, the highest byte first |
//! | 14 | the beginning of the keyed BLAKE3 of all before, by a key that the layer keeps |
//!
//! So a handle is the same after a restart of the server, and cannot be guessed. Numbers of files are
//! never given to another file.

/// Bytes of a handle.
pub const HANDLE: usize = 40;
/// Bytes before the keyed hash.
const HEAD: usize = 26;
const MARK: [u8; 2] = *b"B\x01";

/// Which export a handle belongs to: a number that is given by whoever makes the export, and stays the
/// same; for instance the UUID of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExportId(pub [u8; 16]);

/// The export of a handle, which is not proven by that; `None` for bytes that are no handle.
#[must_use]
pub fn export_of(handle: &[u8]) -> Option<ExportId> {
    let handle: &[u8; HANDLE] = handle.try_into().ok()?;
    let rest = handle.strip_prefix(&MARK)?;
    rest.first_chunk().copied().map(ExportId)
}

/// The handle of a file.
#[must_use]
pub fn encode(export: ExportId, id: u64, key: &[u8; 32]) -> [u8; HANDLE] {
    let mut handle = [0; HANDLE];
    let parts = [&MARK[..], &export.0, &id.to_be_bytes()].concat();
    let proof = blake3::keyed_hash(key, &parts);
    let bytes = parts.iter().chain(proof.as_bytes());
    for (to, from) in handle.iter_mut().zip(bytes) {
        *to = *from;
    }
    handle
}

/// The number of the file; `None` where the handle was not made for this export with this key.
#[must_use]
pub fn decode(handle: &[u8], export: ExportId, key: &[u8; 32]) -> Option<u64> {
    let head = handle.get(..HEAD)?;
    let id = u64::from_be_bytes(*head.last_chunk()?);
    let made = encode(export, id, key);
    // Compared as hashes: that takes the same time wherever they differ.
    let same = blake3::keyed_hash(key, &made) == blake3::keyed_hash(key, handle);
    same.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_taken_by_its_own_export_and_key_alone() {
        let (export, key) = (ExportId([7; 16]), [9; 32]);
        let handle = encode(export, 0x1234, &key);
        assert_eq!(export_of(&handle), Some(export));
        assert_eq!(decode(&handle, export, &key), Some(0x1234));
        assert_eq!(decode(&handle, ExportId([8; 16]), &key), None);
        assert_eq!(decode(&handle, export, &[8; 32]), None);
        for at in 0..HANDLE {
            let mut other = handle;
            other[at] ^= 1;
            assert_eq!(decode(&other, export, &key), None, "byte {at}");
        }
        assert_eq!(decode(&handle[..39], export, &key), None);
        assert_eq!(export_of(&[0; 40]), None);
    }
}
