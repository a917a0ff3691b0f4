//! What the bytes of deploys and captures move over.

use super::answer::{describe, finish, nonsense, read_json};
use super::{Api, ApiError, SILENCE};
use crate::pace::Pace;
use crate::signature::SignedManifest;
use crate::stop::Stop;
use bugler_model::TaskId;
use bugler_protocol::agent::{
    CAPTURE_COMMIT, CHUNK_STREAM, Captured, Capturing, ChunkRequest, Damaged, Missing,
    SIGNATURE_HEADER, SUCCESSION_HEADER,
};
use bugler_protocol::manifest::ChunkHash;
use std::io::Read;
use std::time::Duration;

/// Time without an answer where the server first reads what it has: 4,096 chunks off a slow disk,
/// or makes a whole image durable.
const THOUGHT: Duration = Duration::from_secs(300);

/// Longest manifest in bytes: that of an image with 1.6 TB in use. It is held in memory.
const MAX_MANIFEST: u64 = 64 << 20;

/// The connections that a deploy uses.
pub struct Bulk(Api);

impl Bulk {
    /// `api` has connections that nothing else uses.
    pub(super) fn new(api: Api) -> Self {
        Self(api)
    }

    /// The bytes of a manifest, with its signature.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn manifest(&self, hash: &str) -> Result<SignedManifest, ApiError> {
        // A hash from a task, so it is nothing but hex digits in what is asked for.
        let hash: String = hash.chars().filter(char::is_ascii_hexdigit).collect();
        let path = format!("/agent/v1/manifests/{hash}");
        let mut answer = self.0.call("GET", &path, None::<&()>, SILENCE)?;
        let header = |name: &str| {
            let value = answer.headers().get(name)?.to_str();
            // One that is no text is there, and is not one that can be right.
            Some(value.unwrap_or_default().to_owned())
        };
        let (signature, succession) = (header(SIGNATURE_HEADER), header(SUCCESSION_HEADER));
        let body = answer.body_mut().with_config().limit(MAX_MANIFEST);
        let bytes = body.read_to_vec().map_err(|source| ApiError::Transport {
            request: format!("GET {path}"),
            source: Box::new(source),
        })?;
        Ok(SignedManifest {
            bytes,
            signature,
            succession,
        })
    }

    /// A stream of the chunks, as [`bugler_protocol::agent::CHUNK_STREAM`] says.
    ///
    /// # Errors
    /// [`ApiError`]. Errors in the middle of the stream come from the reader.
    pub fn chunks(&self, hashes: &[ChunkHash]) -> Result<impl Read + use<>, ApiError> {
        let body = ChunkRequest {
            hashes: hashes.iter().map(ToString::to_string).collect(),
        };
        let path = "/agent/v1/chunks";
        let answer = self.0.call("POST", path, Some(&body), SILENCE)?;
        Ok(answer.into_body().into_reader())
    }

    /// Tells the server that a chunk is not what it is named.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn damaged(&self, hash: &ChunkHash, detail: &str) -> Result<(), ApiError> {
        let body = Damaged {
            hash: hash.to_string(),
            detail: detail.into(),
        };
        let path = "/agent/v1/damaged";
        self.0.call("POST", path, Some(&body), SILENCE).map(drop)
    }

    /// Which of these chunks the store lacks, for the capture `task`: positions in `hashes`, at most
    /// [`bugler_protocol::agent::MAX_HASHES_PER_QUESTION`] of them.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn missing(&self, task: TaskId, hashes: &[ChunkHash]) -> Result<Vec<usize>, ApiError> {
        let body = ChunkRequest {
            hashes: hashes.iter().map(ToString::to_string).collect(),
        };
        let path = format!("/agent/v1/captures/{task}/missing");
        let answer = self.0.call("POST", &path, Some(&body), THOUGHT)?;
        let answer: Missing = read_json("POST which chunks are missing", answer)?;
        let positions = answer.missing.into_iter().map(|n| n as usize);
        // A position that was not asked about would be somebody else's answer: it is left out, and
        // the last look before the commit finds what is still missing.
        Ok(positions.filter(|&n| n < hashes.len()).collect())
    }

    /// Sends chunks of the capture `task`: `frames` as [`bugler_protocol::agent::CHUNK_STREAM`]
    /// says.
    ///
    /// # Errors
    /// [`ApiError`]: none, some or all of them may have arrived.
    pub fn give(
        &self,
        task: TaskId,
        frames: &[u8],
        pace: Option<&Pace>,
        stop: &Stop,
    ) -> Result<(), ApiError> {
        let path = format!("/agent/v1/captures/{task}/chunks");
        let sent = self.0.upload(&path, CHUNK_STREAM, frames, pace, stop);
        sent.map(drop)
    }

    /// Ends the capture `task` with its manifest. Sent again, it is answered as the first time.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn commit(
        &self,
        task: TaskId,
        about: &Capturing,
        manifest: &[u8],
    ) -> Result<Captured, ApiError> {
        let path = format!("/agent/v1/captures/{task}/commit");
        let json = serde_json::to_vec(about).map_err(|e| nonsense(&path, e))?;
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        let body = [&length.to_le_bytes()[..], &json, manifest].concat();
        let answer = self.0.with_token(|token| {
            let request = self
                .0
                .request("POST", &path, Some(token))
                .header("content-type", CAPTURE_COMMIT);
            let name = describe(&request);
            let answered = self.0.run(request.body(&body[..]), THOUGHT);
            finish(name, answered)
        })?;
        read_json("POST a commit", answer)
    }

    /// Ends every request of these connections at once, now and later, in whatever thread.
    pub fn interrupt(&self) {
        self.0.agent.clone().shutdown();
    }
}
