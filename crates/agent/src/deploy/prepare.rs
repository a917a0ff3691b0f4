//! Before a disk is opened: the manifest, and which disk it is.

use super::check::{ChoiceError, Needs, choose, depends_on_all, describe};
use super::error::DeployError;
use super::fetch::fetch_one;
use super::fit::{self, Cut};
use super::{LOOK_AGAIN, Settings, Work, short_backoff};
use crate::log::chain;
use crate::signature;
use bugler_model::Disk;
use bugler_protocol::manifest::{ChunkHash, ChunkRef, Manifest};
use std::time::Instant;

impl Work<'_> {
    /// Gets the manifest and checks that it is the one that the task names.
    pub(super) fn manifest(&self) -> Result<Manifest, DeployError> {
        let hash = &self.task.manifest;
        let began = Instant::now();
        let mut backoff = short_backoff(self.context.settings);
        let signed = loop {
            match self.context.bulk.manifest(hash) {
                Ok(signed) => break signed,
                Err(error) if self.may_wait(&error, began) => {
                    self.context
                        .log
                        .line(format!("{}; trying again", chain(&error)));
                    if self.halt.sleep(backoff.wait()) {
                        return Err(DeployError::Cancelled);
                    }
                }
                Err(source) => {
                    let what = format!("manifest {hash}");
                    return Err(DeployError::Server { what, source });
                }
            }
        };
        let found = ChunkHash(*blake3::hash(&signed.bytes).as_bytes());
        if found.to_string() != *hash {
            return Err(DeployError::ManifestHash {
                wanted: hash.clone(),
                found,
            });
        }
        match self.context.settings.key {
            Some(key) => {
                if let Some(newer) = signature::check(key, found, &signed)? {
                    let line = format!("the server's key is {newer} by now, which {key} leads to");
                    self.context.log.line(line);
                }
            }
            None => self.context.log.line(signature::unchecked_line()),
        }
        Manifest::decode(&signed.bytes).map_err(|source| DeployError::Manifest {
            hash: hash.clone(),
            source,
        })
    }

    /// Chooses the disk, and where it is smaller than the image makes the image fit.
    pub(super) fn place(&self, manifest: Manifest) -> Result<(Disk, Cut), DeployError> {
        let needs = Needs {
            size: manifest.disk_size,
            sector_size: manifest.sector_size,
        };
        let choice = match self.choose(needs) {
            Ok(disk) => {
                let ready = Vec::new();
                return Ok((disk, Cut { manifest, ready }));
            }
            Err(choice) => choice,
        };
        // Where anything but the size is wrong, the table of the image does not matter.
        let smaller = Needs { size: 0, ..needs };
        if choose(&self.task.disk, &(self.context.disks)(), smaller).is_err() {
            return Err(choice.into());
        }
        let began = Instant::now();
        let mut backoff = short_backoff(self.context.settings);
        let mut fetch = |chunk: &ChunkRef| {
            let len = manifest.chunk_len(chunk.index);
            fetch_one(self.context.bulk, chunk, len, |error| {
                self.may_wait(error, began) && !self.halt.sleep(backoff.wait())
            })
        };
        let too_small = |why| DeployError::TooSmall {
            choice: choice.to_string(),
            why,
        };
        let need = fit::need(&manifest, &mut fetch)?.map_err(too_small)?;
        let smaller = Needs {
            size: need.size,
            ..needs
        };
        let disk = self
            .choose(smaller)
            .map_err(|_| too_small(format!("{} bytes, since {}", need.size, need.why)))?;
        self.context.log.line(format!(
            "{} is smaller than the image, which needs {} of its {} bytes: {}",
            describe(&disk),
            need.size,
            manifest.disk_size,
            need.why
        ));
        let cut = fit::cut(&manifest, &need, disk.size, &mut fetch)?;
        Ok((disk, cut))
    }

    /// Applies the task's rule to the disks, when all of them are there where it matters; waits a
    /// little where none fits yet.
    fn choose(&self, needs: Needs) -> Result<Disk, ChoiceError> {
        let Settings {
            disk_wait,
            settle_wait,
            ..
        } = self.context.settings;
        let began = Instant::now();
        loop {
            let disks = (self.context.disks)();
            if depends_on_all(&self.task.disk, &disks) && !(self.context.settled)() {
                let waited = began.elapsed() >= settle_wait;
                if waited || self.halt.sleep(LOOK_AGAIN) {
                    return Err(ChoiceError::Unsettled);
                }
                continue;
            }
            match choose(&self.task.disk, &disks, needs) {
                Ok(disk) => return Ok(disk.clone()),
                Err(error @ (ChoiceError::NoDisk | ChoiceError::NotFound { .. })) => {
                    let waited = began.elapsed() >= disk_wait;
                    if waited || self.halt.sleep(LOOK_AGAIN) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}
