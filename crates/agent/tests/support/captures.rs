//! The store of the test server: what a capture brings, and what can go wrong with it.

use super::{CHUNK, Image, State, answer};
use bugler_model::ImageId;
use bugler_protocol::agent::{Captured, Capturing, ChunkRequest, Missing};
use bugler_protocol::manifest::{ChunkHash, MAX_FRAME_LEN, Manifest};
use serde_json::{from_slice, to_vec};
use std::collections::{HashMap, HashSet};
use std::net::TcpStream;
use std::sync::Arc;

/// What happens to one request of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    /// Nothing.
    Good,
    /// The connection is cut before anything is done.
    Cut,
    /// Everything is done, and then the connection is cut.
    LoseAnswer,
    /// The server is busy.
    Busy,
    /// One byte of what was sent comes damaged.
    Damage,
    /// The server is started again without what it was sent.
    Forget,
    /// The server has no room.
    Full,
}

/// What the store has.
#[derive(Default)]
pub struct Captures {
    /// Contents by their names.
    pub chunks: HashMap<String, Vec<u8>>,
    /// What it had before the captures: never forgotten.
    pub before: HashSet<String>,
    /// Every chunk that was taken, in order.
    pub taken: Vec<String>,
    /// Every question's length.
    pub questions: Vec<usize>,
    pub commits: Vec<(Capturing, Manifest)>,
}

impl Captures {
    /// The store has this image already.
    pub fn know(&mut self, image: &Image) {
        for (hash, frame) in &image.frames {
            let content = zstd::bulk::decompress(frame, CHUNK).unwrap();
            self.chunks.insert(hash.clone(), content);
            self.before.insert(hash.clone());
        }
    }

    fn forget(&mut self) {
        let before = &self.before;
        self.chunks.retain(|hash, _| before.contains(hash));
    }

    /// The bytes of the disk of the last commit.
    pub fn disk(&self) -> Vec<u8> {
        let (_, manifest) = self.commits.last().expect("nothing was committed");
        let mut bytes = vec![0; manifest.disk_size as usize];
        for chunk in &manifest.chunks {
            let content = &self.chunks[&chunk.hash.to_string()];
            let offset = chunk.offset() as usize;
            bytes[offset..offset + content.len()].copy_from_slice(content);
        }
        bytes
    }

    /// The same as an image to deploy.
    pub fn image(&self) -> Arc<Image> {
        let (_, manifest) = self.commits.last().expect("nothing was committed");
        Arc::new(Image::new(self.disk(), manifest.sector_size))
    }

    fn missing(&mut self, request: &ChunkRequest) -> Missing {
        self.questions.push(request.hashes.len());
        let mut asked = HashSet::new();
        let lacks = (0..).zip(&request.hashes).filter(|(_, hash)| {
            hash.parse::<ChunkHash>().unwrap();
            asked.insert((*hash).clone()) && !self.chunks.contains_key(*hash)
        });
        Missing {
            missing: lacks.map(|(n, _)| n).collect(),
        }
    }

    /// Takes frames; says what is wrong with the first bad one.
    fn take(&mut self, mut body: &[u8]) -> Result<(), String> {
        while let Some((length, rest)) = body.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length);
            assert!((1..=MAX_FRAME_LEN).contains(&length));
            let (frame, rest) = rest.split_at(length as usize);
            let content = zstd::bulk::decompress(frame, CHUNK).map_err(|e| e.to_string())?;
            assert!(content.iter().any(|&byte| byte != 0), "a chunk of zeroes");
            let hash = blake3::hash(&content).to_hex().to_string();
            self.taken.push(hash.clone());
            self.chunks.insert(hash, content);
            body = rest;
        }
        assert!(body.is_empty(), "half a length");
        Ok(())
    }

    fn commit(&mut self, body: &[u8]) -> Result<Captured, String> {
        let (length, rest) = body.split_first_chunk::<4>().unwrap();
        let (json, manifest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        let about: Capturing = from_slice(json).unwrap();
        let manifest = Manifest::decode(manifest).unwrap();
        for chunk in &manifest.chunks {
            let content = self.chunks.get(&chunk.hash.to_string());
            let content = content.ok_or_else(|| format!("chunk {} is missing", chunk.hash))?;
            assert_eq!(content.len(), manifest.chunk_len(chunk.index) as usize);
        }
        if self.commits.last() != Some(&(about.clone(), manifest.clone())) {
            self.commits.push((about, manifest));
        }
        Ok(Captured {
            image: ImageId(9),
            version: 3,
        })
    }
}

impl State {
    pub(super) fn capture(&self, stream: &mut TcpStream, path: &str, body: &[u8]) -> Option<()> {
        let trick = self.faults.lock().unwrap().tricks.pop_front();
        let trick = trick.unwrap_or(Trick::Good);
        let mut body = body.to_vec();
        let words: Vec<&str> = path.split('/').collect();
        let [_, "t5", what] = words[..] else {
            return answer(stream, 404, b"{\"error\":\"not your task\"}");
        };
        let is_upload = what == "chunks";
        match trick {
            Trick::Cut => {
                self.note(|seen| seen.log.push("cut".into()));
                return None;
            }
            Trick::Busy => return answer(stream, 503, b"{\"error\":\"busy\"}"),
            Trick::Full if is_upload => return answer(stream, 507, b"{\"error\":\"no room\"}"),
            Trick::Forget => self.captures.lock().unwrap().forget(),
            Trick::Damage if is_upload => {
                let at = body.len() - 1;
                body[at] ^= 0x10;
            }
            _ => {}
        }
        let mut captures = self.captures.lock().unwrap();
        let (status, body) = match what {
            "missing" => {
                let missing = captures.missing(&from_slice(&body).unwrap());
                (200, to_vec(&missing).unwrap())
            }
            "chunks" => match captures.take(&body) {
                Ok(()) => (204, Vec::new()),
                Err(error) => (400, format!("{{\"error\":{error:?}}}").into_bytes()),
            },
            "commit" => match captures.commit(&body) {
                Ok(captured) => (200, to_vec(&captured).unwrap()),
                Err(error) => (409, format!("{{\"error\":{error:?}}}").into_bytes()),
            },
            _ => (404, b"{}".to_vec()),
        };
        drop(captures);
        self.note(|_| {});
        if trick == Trick::LoseAnswer {
            return None;
        }
        answer(stream, status, &body)
    }
}
