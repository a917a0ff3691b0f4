//! Files that many machines fetch at once, in memory once.
//!
//! When the power comes back, thousands of machines fetch the same kernel. A buffer for each of
//! them would be gigabytes; instead, all who fetch a file at the same time share one copy of it,
//! which goes away with the last of them.

use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;
use tokio::sync::OnceCell;

/// Longest file that is held in memory, in bytes.
const LONGEST: u64 = 64 << 20;
/// Most bytes of all files that are held.
const MOST: u64 = 128 << 20;

/// What tells one content of a file from a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    changed: Option<SystemTime>,
}

#[derive(Debug)]
struct Entry {
    stamp: Stamp,
    content: OnceCell<Vec<u8>>,
}

/// Keeps an entry for as long as its bytes are in use.
struct Held(Arc<Entry>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.content.get().map_or(&[], Vec::as_slice)
    }
}

/// The files that are being fetched.
#[derive(Debug, Default)]
pub(crate) struct SharedFiles(Mutex<HashMap<PathBuf, Weak<Entry>>>);

impl SharedFiles {
    /// The content of a file; `None` where it is too long to be held, or too much is held.
    pub(crate) async fn get(&self, path: &Path) -> io::Result<Option<Bytes>> {
        let meta = tokio::fs::metadata(path).await?;
        let stamp = Stamp {
            length: meta.len(),
            changed: meta.modified().ok(),
        };
        let Some(entry) = self.entry(path, stamp) else {
            return Ok(None);
        };
        // Whoever comes first reads; the others wait for it.
        entry
            .content
            .get_or_try_init(|| tokio::fs::read(path))
            .await?;
        Ok(Some(Bytes::from_owner(Held(entry))))
    }

    fn entry(&self, path: &Path, stamp: Stamp) -> Option<Arc<Entry>> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = files.get(path).and_then(Weak::upgrade)
            && entry.stamp == stamp
        {
            return Some(entry);
        }
        files.retain(|_, entry| entry.strong_count() > 0);
        let held: u64 = files
            .values()
            .filter_map(Weak::upgrade)
            .map(|entry| entry.stamp.length)
            .sum();
        if stamp.length > LONGEST || held.saturating_add(stamp.length) > MOST {
            return None;
        }
        let entry = Arc::new(Entry {
            stamp,
            content: OnceCell::new(),
        });
        files.insert(path.to_owned(), Arc::downgrade(&entry));
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_fetch_a_file_have_one_copy_and_the_last_one_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        std::fs::write(&path, b"kernel").unwrap();
        let shared = SharedFiles::default();
        let first = shared.get(&path).await.unwrap().unwrap();
        let part = shared.get(&path).await.unwrap().unwrap().slice(1..3);
        assert_eq!(&part[..], b"er");
        assert_eq!(first.as_ptr().wrapping_add(1), part.as_ptr());
        drop(first);
        let again = shared.get(&path).await.unwrap().unwrap();
        assert_eq!(again.as_ptr().wrapping_add(1), part.as_ptr());
        drop((again, part));
        assert!(
            shared
                .0
                .lock()
                .unwrap()
                .values()
                .all(|entry| entry.strong_count() == 0)
        );
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again_and_a_long_one_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd");
        std::fs::write(&path, b"one").unwrap();
        let shared = SharedFiles::default();
        let old = shared.get(&path).await.unwrap().unwrap();
        std::fs::write(&path, b"later").unwrap();
        assert_eq!(shared.get(&path).await.unwrap().unwrap(), b"later"[..]);
        assert_eq!(old, b"one"[..]);
        let long = dir.path().join("long");
        std::fs::File::create(&long)
            .unwrap()
            .set_len(LONGEST + 1)
            .unwrap();
        assert!(shared.get(&long).await.unwrap().is_none());
        let missing = shared.get(&dir.path().join("none")).await;
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
