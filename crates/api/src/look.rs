//! Looking into an image: its partitions, the files on those with FAT or ext, and what differs
//! between two images. Everything here blocks.

use crate::error::ApiError;
use bugler_fsread::tree::{Entry, FileKind, TreeError, Volume, Walked};
use bugler_fsread::{Content, Part, ReadAt, SurveyOptions, Window, survey};
use bugler_images::ImageReader;
use bugler_protocol::manifest::{CHUNK_SIZE, Manifest};
use bugler_protocol::operator::{
    ChangedFile, DiffRange, FileChange, ImageDiff, ImageFile, ImagePartition, PartitionDiff,
};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

/// Files and folders of a partition that are compared, at most: about 100 MB of memory.
const MAX_FILES: u64 = 400_000;

/// Ranges and changed files that are told, at most.
const MAX_TOLD: usize = 10_000;

/// Pieces of one file that are compared with the ranges that differ.
const MAX_PIECES: usize = 1 << 16;

fn tree(error: TreeError) -> ApiError {
    let text = crate::error::chain(&error);
    match error {
        TreeError::NotFound(_) => ApiError::not_found(text),
        TreeError::Io(_) => ApiError::conflict(format!("{text}; verify the image")),
        _ => ApiError::conflict(text),
    }
}

/// The partitions of an image; one that is a whole filesystem without a table has one, number 0 or
/// as the survey says.
pub(crate) fn parts(reader: &ImageReader) -> Result<Vec<Part>, ApiError> {
    let sector_size = reader.manifest().sector_size;
    let found = survey(reader, sector_size, &SurveyOptions::default());
    let found = found.map_err(|error| ApiError::conflict(crate::error::chain(&error)))?;
    Ok(found.parts)
}

/// Whether its files can be read.
fn is_readable(part: &Part) -> bool {
    matches!(part.content, Content::Ext { .. } | Content::Fat { .. })
}

/// The partitions, for people and programs.
pub(crate) fn partitions(reader: &ImageReader) -> Result<Vec<ImagePartition>, ApiError> {
    let told = |part: Part| ImagePartition {
        number: part.number,
        start: part.start,
        size: part.size,
        readable: is_readable(&part),
        content: part.content.to_string(),
        name: part.name,
        used: part.used,
    };
    Ok(parts(reader)?.into_iter().map(told).collect())
}

/// The partition with this number; without one, the only one whose files can be read.
pub(crate) fn part(reader: &ImageReader, number: Option<u32>) -> Result<Part, ApiError> {
    let parts = parts(reader)?;
    let list = |parts: &[Part]| {
        let lines = parts
            .iter()
            .map(|p| format!("{} ({})", p.number, p.content));
        lines.collect::<Vec<_>>().join(", ")
    };
    let all = list(&parts);
    let mut wanted: Vec<Part> = match number {
        Some(number) => parts.into_iter().filter(|p| p.number == number).collect(),
        None => parts.into_iter().filter(is_readable).collect(),
    };
    let part = match (wanted.pop(), wanted.is_empty()) {
        (Some(part), true) => part,
        (Some(_), false) => {
            return Err(ApiError::bad_request(format!(
                "say which partition is meant: it has {all}"
            )));
        }
        (None, _) => {
            let all = if all.is_empty() { "none".into() } else { all };
            return Err(ApiError::not_found(format!(
                "there is no such partition, or none with files that can be read: it has {all}"
            )));
        }
    };
    if !is_readable(&part) {
        return Err(ApiError::conflict(format!(
            "partition {} holds {}: only files on FAT and ext can be read",
            part.number, part.content
        )));
    }
    Ok(part)
}

/// The bytes of a partition.
pub(crate) fn window<'a>(reader: &'a ImageReader, part: &Part) -> Window<&'a ImageReader> {
    Window::new(reader, part.start, part.size)
}

fn file(entry: &Entry) -> ImageFile {
    ImageFile {
        name: entry.name.to_string_lossy().into_owned(),
        kind: match entry.kind {
            FileKind::File => "file",
            FileKind::Folder => "folder",
            FileKind::Symlink => "symlink",
            FileKind::CharDevice => "character device",
            FileKind::BlockDevice => "block device",
            FileKind::Fifo => "pipe",
            FileKind::Socket => "socket",
        }
        .into(),
        size: entry.size,
        mode: entry.mode,
        uid: entry.owner.map(|(uid, _)| uid),
        gid: entry.owner.map(|(_, gid)| gid),
        modified: entry.modified.map(|modified| modified.seconds),
        target: entry
            .target
            .as_ref()
            .map(|t| t.to_string_lossy().into_owned()),
    }
}

/// What is in a folder, or the file itself.
pub(crate) fn files(
    reader: &ImageReader,
    number: Option<u32>,
    path: &str,
) -> Result<Vec<ImageFile>, ApiError> {
    let part = part(reader, number)?;
    let source = window(reader, &part);
    let volume = Volume::open(&source).map_err(tree)?;
    let entry = volume.entry(path).map_err(tree)?;
    if entry.kind != FileKind::Folder {
        let entry = volume.link_entry(path).map_err(tree)?;
        return Ok(vec![file(&entry)]);
    }
    let entries = volume.list(path).map_err(tree)?;
    Ok(entries.iter().map(file).collect())
}

/// Gives a file: first its size to `head`, then its bytes to `out`.
pub(crate) fn cat(
    reader: &ImageReader,
    number: Option<u32>,
    path: &str,
    out: &mut dyn std::io::Write,
    head: impl FnOnce(u64),
) -> Result<(), ApiError> {
    let part = part(reader, number)?;
    let source = window(reader, &part);
    let volume = Volume::open(&source).map_err(tree)?;
    let entry = volume.entry(path).map_err(tree)?;
    if entry.kind != FileKind::File {
        return Err(ApiError::conflict(format!("{path} is no file")));
    }
    head(entry.size);
    volume.read_range(&entry, 0..entry.size, out).map_err(tree)
}

/// Where two images differ, by their manifests: ranges of bytes, rising, joined where they touch.
fn ranges(old: &Manifest, new: &Manifest) -> Vec<Range<u64>> {
    let mut chunks: BTreeMap<u32, [Option<bugler_protocol::manifest::ChunkHash>; 2]> =
        BTreeMap::new();
    for chunk in &old.chunks {
        chunks.entry(chunk.index).or_default()[0] = Some(chunk.hash);
    }
    for chunk in &new.chunks {
        chunks.entry(chunk.index).or_default()[1] = Some(chunk.hash);
    }
    let size = old.disk_size.max(new.disk_size);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (index, [before, after]) in chunks {
        if before == after {
            continue;
        }
        let start = u64::from(index) * u64::from(CHUNK_SIZE);
        let end = (start + u64::from(CHUNK_SIZE)).min(size);
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

/// Whether one of the ranges has a byte of `part`. The ranges rise.
fn touches(ranges: &[Range<u64>], part: Range<u64>) -> bool {
    let first = ranges.partition_point(|range| range.end <= part.start);
    ranges
        .get(first)
        .is_some_and(|range| range.start < part.end)
}

/// What differs between two images: which ranges, by their manifests; and which files, on partitions
/// that lie at the same place in both, hold FAT or ext in both, and have such a range.
pub(crate) fn diff(old: &ImageReader, new: &ImageReader) -> Result<ImageDiff, ApiError> {
    let ranges = ranges(old.manifest(), new.manifest());
    let mut partitions = Vec::new();
    let new_parts = parts(new)?;
    for before in parts(old)? {
        let place = before.start..before.start + before.size;
        if !touches(&ranges, place) {
            continue;
        }
        let after = new_parts.iter().find(|p| p.start == before.start);
        let (changes, note) = match after {
            Some(after) if is_readable(&before) && is_readable(after) => {
                match changed_files(old, &before, new, after, &ranges) {
                    Ok(changes) => (changes, None),
                    Err(error) => (Vec::new(), Some(error.to_string())),
                }
            }
            Some(_) => (Vec::new(), Some("its files cannot be read".into())),
            None => (
                Vec::new(),
                Some("it is not at this place in the other".into()),
            ),
        };
        partitions.push(PartitionDiff {
            number: before.number,
            content: before.content.to_string(),
            changes_in_all: changes.len() as u64,
            changes: changes.into_iter().take(MAX_TOLD).collect(),
            note,
        });
    }
    Ok(ImageDiff {
        sizes: [old.size(), new.size()],
        bytes: ranges.iter().map(|range| range.end - range.start).sum(),
        ranges_in_all: ranges.len() as u64,
        ranges: ranges
            .iter()
            .take(MAX_TOLD)
            .map(|range| DiffRange {
                start: range.start,
                length: range.end - range.start,
            })
            .collect(),
        partitions,
    })
}

fn walked(volume: &Volume<'_>) -> Result<BTreeMap<PathBuf, Walked>, ApiError> {
    let mut found = BTreeMap::new();
    let mut keep = |walked: &Walked| {
        found.insert(walked.path.clone(), walked.clone());
        ControlFlow::Continue(())
    };
    volume.walk("/", MAX_FILES, &mut keep).map_err(tree)?;
    Ok(found)
}

fn changed_files(
    old: &ImageReader,
    before: &Part,
    new: &ImageReader,
    after: &Part,
    ranges: &[Range<u64>],
) -> Result<Vec<ChangedFile>, ApiError> {
    let (old_bytes, new_bytes) = (window(old, before), window(new, after));
    let old = Volume::open(&old_bytes).map_err(tree)?;
    let new = Volume::open(&new_bytes).map_err(tree)?;
    let (was, mut is) = (walked(&old)?, walked(&new)?);
    let mut changes = Vec::new();
    let told = |path: &PathBuf, change, before: Option<&Walked>, after: Option<&Walked>| {
        let size = |walked: &Walked| walked.entry.size;
        ChangedFile {
            path: format!("/{}", path.to_string_lossy()),
            change,
            before: before.map(size),
            after: after.map(size),
        }
    };
    for (path, was) in &was {
        let Some(is) = is.remove(path) else {
            changes.push(told(path, FileChange::Removed, Some(was), None));
            continue;
        };
        let (a, b) = (&was.entry, &is.entry);
        let same = a.kind == b.kind && a.size == b.size && a.target == b.target;
        if !same || content_differs(&old, &new, was, &is, before.start, ranges)? {
            changes.push(told(path, FileChange::Content, Some(was), Some(&is)));
        } else if (a.mode, a.owner) != (b.mode, b.owner) {
            changes.push(told(path, FileChange::Rights, Some(was), Some(&is)));
        }
    }
    for (path, is) in &is {
        changes.push(told(path, FileChange::Added, None, Some(is)));
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}

/// Whether two files of the same size have other bytes. Read only where they lie at other places, or
/// where something at their place differs.
fn content_differs(
    old: &Volume<'_>,
    new: &Volume<'_>,
    was: &Walked,
    is: &Walked,
    start: u64,
    ranges: &[Range<u64>],
) -> Result<bool, ApiError> {
    if was.entry.kind != FileKind::File {
        return Ok(false);
    }
    if was.identity == is.identity {
        let extents = new.extents(&is.entry, MAX_PIECES).map_err(tree)?;
        let touched = extents.iter().any(|extent| {
            let place = start + extent.place;
            touches(ranges, place..place + extent.length)
        });
        // What is kept in the inode is in the identity.
        if !touched {
            return Ok(false);
        }
    }
    let hash = |volume: &Volume<'_>, entry: &Entry| {
        let mut hasher = blake3::Hasher::new();
        let read = volume.read_range(entry, 0..entry.size, &mut hasher);
        read.map(|()| hasher.finalize()).map_err(tree)
    };
    Ok(hash(old, &was.entry)? != hash(new, &is.entry)?)
}
