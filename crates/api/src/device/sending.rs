//! Sends frames of chunks, part by part: see [`CHUNK_STREAM`](bugler_protocol::agent::CHUNK_STREAM).
//!
//! Each part is one short job of a blocking thread: none is kept by a client that reads slowly,
//! however many there are. What is read ahead of the network waits in the page cache, not in this
//! process: the frame after the one that is being sent is opened before it is needed, which has the
//! system read it. So a request takes a few parts of memory, whatever chunks it asks for.

use super::damage;
use crate::error::chain;
use crate::state::AppState;
use bugler_images::{ChunkStore, FrameFile, StoreError};
use bugler_model::DeviceId;
use bugler_protocol::manifest::ChunkHash;
use bytes::Bytes;
use futures::Stream;
use futures::stream;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of a part. With larger ones, memory is more; with smaller ones, the jobs and the writes
/// to the socket begin to show.
const PART: usize = 256 << 10;

/// Frames that are open before they are sent.
const AHEAD: usize = 1;

/// The body of an answer with these chunks. One that the store cannot give has the length 0, and the
/// images that need it are marked. An error cuts the answer off, and the agent asks again.
pub(super) fn frames(
    state: Arc<AppState>,
    device: DeviceId,
    hashes: Vec<ChunkHash>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let sender = Sender {
        images: state.images.clone(),
        hashes: hashes.into(),
        open: VecDeque::with_capacity(AHEAD + 1),
        spare: Arc::default(),
    };
    stream::try_unfold(sender, move |mut sender| {
        let state = state.clone();
        async move {
            let job = tokio::task::spawn_blocking(move || {
                let part = sender.part();
                (sender, part)
            });
            let (sender, part) = job.await.map_err(io::Error::other)?;
            let bytes = match part {
                Ok(Some(Part::Bytes(bytes))) => bytes,
                Ok(Some(Part::Absent(hash, error))) => {
                    // Reported beside the answer: the agent's other chunks need not wait for it.
                    tokio::spawn(async move {
                        if let Err(error) = damage::note(&state, hash, &error.to_string()).await {
                            tracing::error!("could not record that {hash} is damaged: {error}");
                        }
                    });
                    return Ok(Some((Bytes::from_static(&[0; 4]), sender)));
                }
                Ok(None) => return Ok(None),
                Err((hash, error)) => {
                    tracing::error!("could not read chunk {hash}: {}", chain(&error));
                    return Err(io::Error::other(error));
                }
            };
            state.limiter.pass(device, bytes.len()).await;
            Ok(Some((bytes, sender)))
        }
    })
}

/// Where one answer is.
struct Sender {
    images: Arc<ChunkStore>,
    /// What has not been opened yet.
    hashes: VecDeque<ChunkHash>,
    /// What has, in order; the first one is being sent.
    open: VecDeque<(ChunkHash, Result<FrameFile, StoreError>)>,
    spare: Spare,
}

enum Part {
    /// The next bytes of the answer.
    Bytes(Bytes),
    /// A chunk that the store cannot give.
    Absent(ChunkHash, StoreError),
}

impl Sender {
    /// The next part; `None` at the end.
    fn part(&mut self) -> Result<Option<Part>, (ChunkHash, StoreError)> {
        while self.open.len() <= AHEAD
            && let Some(hash) = self.hashes.pop_front()
        {
            let opened = self.images.open_chunk_frame(&hash);
            self.open.push_back((hash, opened));
        }
        let Some((hash, opened)) = self.open.pop_front() else {
            return Ok(None);
        };
        let mut frame = match opened {
            Ok(frame) => frame,
            Err(error @ (StoreError::NoChunk(_) | StoreError::DamagedChunk { .. })) => {
                return Ok(Some(Part::Absent(hash, error)));
            }
            Err(error) => return Err((hash, error)),
        };
        let mut part = Reused::take(&self.spare);
        if frame.left() == frame.len() {
            part.memory.extend_from_slice(&frame.len().to_le_bytes());
        }
        let room = u32::try_from(PART - part.memory.len()).unwrap_or(0);
        frame
            .read_part(room, &mut part.memory)
            .map_err(|error| (hash, error))?;
        if frame.left() > 0 {
            self.open.push_front((hash, Ok(frame)));
        }
        Ok(Some(Part::Bytes(Bytes::from_owner(part))))
    }
}

/// Memory for parts that is not in use: what one answer has sent is used for what it sends next.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// Memory of a part, which goes back when it was sent.
struct Reused {
    memory: Vec<u8>,
    spare: Spare,
}

impl Reused {
    fn take(spare: &Spare) -> Self {
        let found = spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self {
            memory: found.unwrap_or_else(|| Vec::with_capacity(PART)),
            spare: spare.clone(),
        }
    }
}

impl AsRef<[u8]> for Reused {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Reused {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.memory);
        memory.clear();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of every length around a part's, one that is missing among them.
    #[test]
    fn frames_come_whole_whatever_their_length_and_memory_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let images = Arc::new(ChunkStore::open(folder.path()).unwrap());
        let lengths = [1, 5, PART - 5, PART - 4, PART - 3, 2 * PART, 3 * PART + 7];
        let mut expected = Vec::new();
        let mut hashes = VecDeque::new();
        for (n, length) in (0u8..).zip(lengths) {
            let hash = ChunkHash([n; 32]);
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let name = hash.to_string();
            let path = format!("chunks/{}/{name}", &name[..2]);
            std::fs::write(folder.path().join(path), &content).unwrap();
            expected.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            expected.extend_from_slice(&content);
            hashes.push_back(hash);
            if n == 2 {
                hashes.push_back(ChunkHash([77; 32]));
                expected.extend_from_slice(&[0; 4]);
            }
        }
        let mut sender = Sender {
            images,
            hashes,
            open: VecDeque::new(),
            spare: Arc::default(),
        };
        let mut sent = Vec::new();
        while let Some(part) = sender.part().unwrap() {
            match part {
                Part::Bytes(bytes) => {
                    assert!(bytes.len() <= PART);
                    sent.extend_from_slice(&bytes);
                }
                Part::Absent(hash, error) => {
                    assert_eq!(hash, ChunkHash([77; 32]));
                    assert!(matches!(error, StoreError::NoChunk(_)));
                    sent.extend_from_slice(&[0; 4]);
                }
            }
        }
        assert!(sent == expected);
        let spare = sender.spare.lock().unwrap();
        assert_eq!(spare.len(), 1, "one part at a time was under way");
    }
}
