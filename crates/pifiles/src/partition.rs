//! Where the boot partition of a disk image is.

use bugler_fsread::tree::{Filesystem, TreeError, Volume};
use bugler_fsread::{Seekable, Window};
use std::io::{self, Cursor, Read, Seek, SeekFrom};

/// Files of which a boot partition of a Raspberry Pi has at least one.
const MARKS: [&str; 5] = [
    "config.txt",
    "start4.elf",
    "start.elf",
    "bootcode.bin",
    "boot.img",
];
/// Most entries of a GPT that are looked at.
const MAX_GPT_ENTRIES: u32 = 256;

/// Finds the boot partition: where it begins and how long it is, in bytes. It is the first FAT volume
/// that has a file of a boot partition, or else the first FAT volume: in the partitions of a GPT or
/// MBR, or without any. `None`: there is no FAT volume.
///
/// # Errors
/// Where the disk cannot be read.
pub fn boot_partition<D: Read + Seek>(disk: &mut D) -> io::Result<Option<(u64, u64)>> {
    let size = disk.seek(SeekFrom::End(0))?;
    let mut first = None;
    for (start, length) in places(disk, size)? {
        let length = length.min(size.saturating_sub(start));
        let source = Window::new(Seekable::new(&mut *disk)?, start, length);
        let volume = match Volume::open(&source) {
            Ok(volume) => volume,
            Err(TreeError::Io(error)) => return Err(error),
            Err(_) => continue,
        };
        if !matches!(volume.filesystem(), Filesystem::Fat { .. }) {
            continue;
        }
        match volume.list("") {
            Ok(entries) => {
                let is_there = |mark: &&str| {
                    let mut names = entries.iter().map(|entry| &entry.name);
                    names.any(|name| name.eq_ignore_ascii_case(mark))
                };
                if MARKS.iter().any(is_there) {
                    return Ok(Some((start, length)));
                }
                first = first.or(Some((start, length)));
            }
            Err(TreeError::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
    Ok(first)
}

/// Where volumes may begin, and how long they may be: partitions in their order, then the whole disk.
fn places<D: Read + Seek>(disk: &mut D, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut places = gpt(disk, size, 512)?;
    if places.is_empty() {
        places = gpt(disk, size, 4096)?;
    }
    let mut sector = [0; 512];
    if places.is_empty() && read(disk, 0, &mut sector)? && sector[510..] == [0x55, 0xaa] {
        for entry in sector[446..510].chunks_exact(16) {
            let number = |at: usize| {
                let four = entry.get(at..).and_then(|rest| rest.first_chunk());
                u64::from(four.map_or(0, |four| u32::from_le_bytes(*four)))
            };
            // Type 0 is a free entry. Which other type a FAT volume has, tools do not agree on.
            if entry[4] != 0 && number(8) != 0 {
                places.push((number(8) * 512, number(12) * 512));
            }
        }
    }
    places.push((0, size));
    Ok(places)
}

/// The partitions of a GPT (UEFI 2.10, section 5.3), on a disk with sectors of this size.
fn gpt<D: Read + Seek>(disk: &mut D, size: u64, sector: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut header = [0; 92];
    if !read(disk, sector, &mut header)? || header[..8] != *b"EFI PART" {
        return Ok(vec![]);
    }
    let number = |at: usize| {
        let bytes = header.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let (count, length) = (number(80) as u32, (number(80) >> 32) as u32);
    if !(128..=4096).contains(&length) {
        return Ok(vec![]);
    }
    let mut places = vec![];
    for index in 0..count.min(MAX_GPT_ENTRIES) {
        let at = number(72)
            .checked_mul(sector)
            .and_then(|table| table.checked_add(u64::from(index) * u64::from(length)));
        let mut entry = [0; 48];
        let Some(at) = at.filter(|at| *at < size) else {
            break;
        };
        if !read(disk, at, &mut entry)? {
            break;
        }
        let number = |at: usize| {
            let bytes = entry.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let (first, last) = (number(32), number(40));
        if entry[..16] == [0; 16] || last < first {
            continue;
        }
        let begin = first.checked_mul(sector).filter(|begin| *begin < size);
        let length = (last - first).saturating_add(1).saturating_mul(sector);
        places.extend(begin.map(|begin| (begin, length)));
    }
    Ok(places)
}

/// Fills the buffer from this place; false where the disk ends before.
fn read<D: Read + Seek>(disk: &mut D, at: u64, buffer: &mut [u8]) -> io::Result<bool> {
    disk.seek(SeekFrom::Start(at))?;
    match disk.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Looks for a boot partition in any bytes and reads a file from it, for fuzzing. The bytes are the
/// beginning of a disk of 3 MiB that is zero otherwise.
pub fn fuzz(bytes: &[u8]) {
    let mut disk = bytes.to_vec();
    disk.resize(3 << 20, 0);
    let mut disk = Cursor::new(disk);
    let Ok(Some((start, length))) = boot_partition(&mut disk) else {
        return;
    };
    let Ok(disk) = Seekable::new(disk) else {
        return;
    };
    let source = Window::new(disk, start, length);
    if let Ok(volume) = Volume::open(&source) {
        if let Ok(file) = volume.entry("config.txt") {
            let _ = volume.read(&file, &mut io::sink(), 1 << 20);
        }
        let _ = volume.list("overlays");
    }
}
