//! An image on a disk that is smaller than the one it was made from.
//!
//! It fits where everything that is used ends before the disk does: its partitions, room for the
//! backup of a GPT, and every other byte that is not zero. The image's own backup of its table lies
//! behind that and is left out; `finalize` makes one for this disk.
//!
//! What is known of the image is its manifest. Its table, and what lies at its end, are fetched: a
//! few chunks, before anything is written.

use super::decide::Ready;
use super::error::DeployError;
use super::gpt::{Gpt, MbrError, last_mbr_sector};
use super::readback::hash;
use crate::disk::is_zero;
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkRef, Manifest};
use std::ops::Range;

const CHUNK: u64 = CHUNK_SIZE as u64;

/// Gives the content of a listed chunk.
pub(crate) type FetchFn<'a> = dyn FnMut(&ChunkRef) -> Result<Ready, DeployError> + 'a;

/// How small a disk may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// The least size of a disk in bytes.
    pub(crate) size: u64,
    /// What ends where, for people.
    pub(crate) why: String,
    /// Bytes that the backup of a GPT takes at the end of a disk; 0 where there is no GPT.
    backup: u64,
    /// Where the image has its own.
    own_backup: Range<u64>,
}

/// An image that was made to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Of a disk of this size.
    pub(crate) manifest: Manifest,
    /// The chunk at its end, where that is another than the image's.
    pub(crate) ready: Vec<Ready>,
}

/// The image's bytes, fetched as they are asked for; the last chunk is kept.
struct Bytes<'a, 'f> {
    manifest: &'a Manifest,
    fetch: &'a mut FetchFn<'f>,
    last: Option<(u32, Vec<u8>)>,
}

impl Bytes<'_, '_> {
    fn chunk(&mut self, index: u32) -> Result<&[u8], DeployError> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != index) {
            let chunks = &self.manifest.chunks;
            let content = match chunks.binary_search_by_key(&index, |chunk| chunk.index) {
                Ok(n) => match chunks.get(n) {
                    Some(chunk) => (self.fetch)(chunk)?.content,
                    None => Vec::new(),
                },
                Err(_) => vec![0; self.manifest.chunk_len(index) as usize],
            };
            self.last = Some((index, content));
        }
        Ok(self.last.as_ref().map_or(&[], |(_, content)| content))
    }

    /// The bytes of `range`, as many of them as the image has.
    fn read(&mut self, range: Range<u64>) -> Result<Vec<u8>, DeployError> {
        let end = range.end.min(self.manifest.disk_size);
        let (mut at, mut bytes) = (range.start, Vec::new());
        while at < end {
            let index = u32::try_from(at / CHUNK).unwrap_or(u32::MAX);
            let start = u64::from(index) * CHUNK;
            let (from, to) = (at - start, (end - start).min(CHUNK));
            let chunk = self.chunk(index)?;
            bytes.extend_from_slice(chunk.get(from as usize..to as usize).unwrap_or_default());
            at = start + CHUNK;
        }
        Ok(bytes)
    }
}

/// How small a disk may be for this image; an error in words where it cannot be told, or cannot be
/// smaller than the image.
///
/// # Errors
/// [`DeployError`] of `fetch`.
pub(crate) fn need(
    manifest: &Manifest,
    fetch: &mut FetchFn<'_>,
) -> Result<Result<Need, String>, DeployError> {
    let mut image = Bytes {
        manifest,
        fetch,
        last: None,
    };
    let sector = u64::from(manifest.sector_size);
    let start = image.read(0..2 * sector)?;
    let mut need = match Gpt::read(&start, manifest.sector_size) {
        Err(error) => return Ok(Err(error.to_string())),
        Ok(Some(gpt)) => {
            let entries = image.read(gpt.entries.clone())?;
            let last = match gpt.last_partition_end(&entries) {
                Ok(last) => last,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let backup = (gpt.entries.end - gpt.entries.start).next_multiple_of(sector) + sector;
            Need {
                size: last.max(gpt.entries.end) + backup,
                why: format!(
                    "its last partition ends at byte {last}, and the backup of its partition \
                     table takes {backup} bytes more"
                ),
                backup,
                own_backup: gpt.backup_end().saturating_sub(backup)..gpt.backup_end(),
            }
        }
        Ok(None) => match last_mbr_sector(&start) {
            Ok(last) => Need {
                size: last * sector,
                why: format!("its last partition ends at byte {}", last * sector),
                backup: 0,
                own_backup: 0..0,
            },
            Err(error @ (MbrError::None | MbrError::Protective)) => {
                return Ok(Err(error.to_string()));
            }
        },
    };
    // From the end: the last byte that is anything but the image's own backup.
    for chunk in manifest.chunks.iter().rev() {
        if chunk.offset() + u64::from(manifest.chunk_len(chunk.index)) <= need.size {
            break;
        }
        let mut content = image.chunk(chunk.index)?.to_vec();
        blank(&mut content, chunk.offset(), &need.own_backup);
        if let Some(last) = content.iter().rposition(|&byte| byte != 0) {
            let end = (chunk.offset() + last as u64 + 1).next_multiple_of(sector);
            if end + need.backup > need.size {
                need.size = end + need.backup;
                need.why = format!(
                    "{}; what is behind its partitions ends at byte {end}",
                    need.why
                );
            }
            break;
        }
    }
    Ok(Ok(need))
}

/// The image for a disk of `disk_size` bytes, which is at least what it [needs](need).
///
/// # Errors
/// [`DeployError`] of `fetch`.
pub(crate) fn cut(
    manifest: &Manifest,
    need: &Need,
    disk_size: u64,
    fetch: &mut FetchFn<'_>,
) -> Result<Cut, DeployError> {
    let disk_size = disk_size - disk_size % u64::from(manifest.sector_size);
    let mut cut = Cut {
        manifest: Manifest {
            disk_size,
            ..manifest.clone()
        },
        ready: Vec::new(),
    };
    cut.manifest.chunks.clear();
    for chunk in &manifest.chunks {
        let end = chunk.offset() + u64::from(manifest.chunk_len(chunk.index));
        if end <= disk_size {
            cut.manifest.chunks.push(*chunk);
        } else if chunk.offset() < disk_size {
            let mut ready = fetch(chunk)?;
            let len = disk_size - chunk.offset();
            ready.content.truncate(usize::try_from(len).unwrap_or(0));
            // Where the backup will be, and where the image's was, so that the rest is as it is
            // whatever the size of the disk.
            blank(&mut ready.content, chunk.offset(), &need.own_backup);
            let backup = disk_size.saturating_sub(need.backup)..disk_size;
            blank(&mut ready.content, chunk.offset(), &backup);
            if !is_zero(&ready.content) {
                ready.hash = hash(&ready.content);
                cut.manifest.chunks.push(ChunkRef {
                    hash: ready.hash,
                    ..*chunk
                });
                cut.ready.push(ready);
            }
        }
    }
    Ok(cut)
}

/// Zeroes what `content`, the bytes from `offset` on, has of `range`.
fn blank(content: &mut [u8], offset: u64, range: &Range<u64>) {
    let end = offset + content.len() as u64;
    let (from, to) = (range.start.max(offset), range.end.min(end));
    if from < to {
        let place = (from - offset) as usize..(to - offset) as usize;
        content.get_mut(place).unwrap_or_default().fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A disk of 8 MiB with one MBR partition from 1 MiB to `end` MiB.
    fn mbr_image(end: u32) -> Vec<u8> {
        let mut bytes = vec![0; 8 * MIB];
        bytes[446 + 4] = 0x83;
        bytes[454..458].copy_from_slice(&2048u32.to_le_bytes());
        bytes[458..462].copy_from_slice(&((end - 1) * 2048).to_le_bytes());
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        bytes[MIB..MIB + 3].copy_from_slice(b"abc");
        bytes
    }

    fn manifest(bytes: &[u8]) -> Manifest {
        let chunks = (0..).zip(bytes.chunks(MIB)).filter(|(_, c)| !is_zero(c));
        Manifest {
            disk_size: bytes.len() as u64,
            sector_size: 512,
            chunks: chunks
                .map(|(index, content)| ChunkRef {
                    index,
                    stored_len: 1,
                    hash: hash(content),
                })
                .collect(),
        }
    }

    fn needed(bytes: &[u8]) -> Result<Need, String> {
        need(&manifest(bytes), &mut |chunk| Ok(fetched(bytes, chunk))).unwrap()
    }

    fn fetched(bytes: &[u8], chunk: &ChunkRef) -> Ready {
        let start = chunk.offset() as usize;
        Ready {
            hash: chunk.hash,
            content: bytes[start..(start + MIB).min(bytes.len())].to_vec(),
            fetched: 1,
        }
    }

    #[test]
    fn the_last_partition_must_fit_and_so_must_what_lies_behind_it() {
        assert_eq!(needed(&mbr_image(3)).unwrap().size, 3 * MIB as u64);
        let mut bytes = mbr_image(3);
        bytes[5 * MIB + 700] = 1;
        let need = needed(&bytes).unwrap();
        assert_eq!(need.size, (5 * MIB + 1024) as u64);
        assert!(need.why.contains("ends at byte 5243904"), "{}", need.why);
        assert!(
            needed(&vec![0; 8 * MIB])
                .unwrap_err()
                .contains("no partition table")
        );
    }

    #[test]
    fn what_is_cut_off_is_zero_and_the_rest_is_the_image() {
        let mut bytes = mbr_image(3);
        bytes[3 * MIB + 512] = 7;
        let manifest = manifest(&bytes);
        let need = needed(&bytes).unwrap();
        let size = need.size + 513;
        let cut = cut(&manifest, &need, size, &mut |chunk| {
            Ok(fetched(&bytes, chunk))
        })
        .unwrap();
        cut.manifest.check().unwrap();
        assert_eq!(cut.manifest.disk_size, size - 1);
        assert_eq!(cut.manifest.chunks[..2], manifest.chunks[..2]);
        let [ready] = &cut.ready[..] else {
            panic!("{:?}", cut.ready);
        };
        assert!(ready.content[..] == bytes[3 * MIB..cut.manifest.disk_size as usize]);
        assert_eq!(cut.manifest.chunks[2].hash, hash(&ready.content));
    }
}
