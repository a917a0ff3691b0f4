//! Disks in qcow2 files, versions 2 and 3, as QEMU's docs/interop/qcow2.txt describes them.
//!
//! What is read: clusters of every size, plain, zero, and compressed with deflate or zstd; extended
//! L2 entries; the content of backing files. What is refused, with the reason: encryption, external
//! data files, files that are marked as dirty or corrupt, and features that are not known. Internal
//! snapshots are left out: what counts is the disk as it is now.
//!
//! Nothing in a file is trusted. Every offset is checked against the file's length, the memory for
//! one file is two clusters (of at most 2 MiB) and a page of its L1 table, and a file that refers to
//! the same clusters again and again, to make much of little, is refused.

mod chain;
mod cluster;
mod header;
mod layer;

pub(crate) use chain::{BackingFiles, name_of, open};
pub(crate) use header::MAGIC;

use std::path::PathBuf;

/// What is wrong with a qcow2 file, or why it is not read.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// The header makes no sense.
    #[error("it has a damaged header: {0}; fetch it again, or look at it with `qemu-img check`")]
    Header(&'static str),
    /// A version that is not known.
    #[error(
        "it is of version {0}, and 2 and 3 are known; convert it: qemu-img convert -O qcow2 IN OUT"
    )]
    Version(u32),
    /// A disk that is too large.
    #[error("it says that its disk has {0} bytes; the limit is 64 TiB")]
    DiskSize(u64),
    /// A compression that is not known.
    #[error(
        "it has clusters packed in a way ({0}) that is not known; convert it: qemu-img convert -O qcow2 IN OUT"
    )]
    Packing(u8),
    /// It is encrypted.
    #[error(
        "it is encrypted (method {method}), and there is no key to read it with; decrypt it: qemu-img \
         convert with --object secret, -O qcow2"
    )]
    Encrypted {
        /// 1: AES, 2: LUKS.
        method: u32,
    },
    /// Its content is in another file.
    #[error(
        "it keeps its content in an external data file, which is not read; put both into one: qemu-img \
         convert -O qcow2 IN OUT"
    )]
    ExternalData,
    /// The dirty bit is set.
    #[error(
        "it is marked as dirty: a program that wrote it did not close it. Stop the virtual machine that \
         uses it, or repair it: qemu-img check -r all FILE"
    )]
    Dirty,
    /// The corrupt bit is set.
    #[error("it is marked as corrupt; repair a copy of it: qemu-img check -r all FILE")]
    Corrupt,
    /// A feature that is not known.
    #[error(
        "it uses a feature that this program does not know (bit {bit}, {name}); convert it: qemu-img \
         convert -O qcow2 IN OUT"
    )]
    Feature {
        /// Number of the incompatible feature bit.
        bit: u32,
        /// What the file calls it.
        name: String,
    },
    /// A table or cluster lies behind the file's end.
    #[error(
        "it is cut off: {what} for byte {disk} of the disk ends at byte {end} of a file of {length} \
         bytes; fetch it again"
    )]
    CutOff {
        /// What lies there.
        what: &'static str,
        /// Which byte of the disk was looked for.
        disk: u64,
        /// Where it should end.
        end: u64,
        /// The file's length.
        length: u64,
    },
    /// A table entry that makes no sense.
    #[error(
        "it is damaged: {what} for byte {disk} of the disk; fetch it again, or look at it with \
         `qemu-img check`"
    )]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Which byte of the disk was looked for.
        disk: u64,
    },
    /// The same clusters are referred to again and again.
    #[error(
        "it is damaged, or made to do harm: its tables refer to the same clusters again and again; look \
         at it with `qemu-img check`"
    )]
    Repeats,
    /// A backing file was not expected.
    #[error(
        "it needs its backing file {name:?}, and what is sent must be whole. Add it with `bugler image \
         add` where both files are, or put both into one: qemu-img convert -O qcow2 IN OUT"
    )]
    NeedsBacking {
        /// As the header names it.
        name: String,
    },
    /// A backing file that is not opened without being asked.
    #[error(
        "it names a backing file elsewhere, {name:?}; files outside of its own folder are not opened \
         unasked: name it with --backing FILE"
    )]
    BackingElsewhere {
        /// As the header names it.
        name: String,
    },
    /// The backing file cannot be opened.
    #[error(
        "it needs its backing file, and {} could not be opened; name it with --backing FILE where it \
         is elsewhere", path.display()
    )]
    BackingOpen {
        /// Where it was looked for.
        path: PathBuf,
        /// What came back.
        #[source]
        source: std::io::Error,
    },
    /// The backing file's format is not given, and guessing it is not safe.
    #[error(
        "it does not say what format its backing file {} has, which looks like qcow2: a raw disk could \
         be made to look so by whoever wrote to it. Say it: qemu-img rebase -u -F qcow2 -b BACKING \
         FILE", path.display()
    )]
    BackingGuess {
        /// The backing file.
        path: PathBuf,
    },
    /// A backing file of a format that is not known.
    #[error(
        "it has a backing file of format {format:?}, and raw and qcow2 are known; put both into one: \
         qemu-img convert -O qcow2 IN OUT"
    )]
    BackingFormat {
        /// As the header names it.
        format: String,
    },
    /// A chain of backing files that bites its tail, or is too long.
    #[error("it has a chain of backing files that {what}: it comes to {}", path.display())]
    Chain {
        /// `goes round in a circle`, or is too long.
        what: &'static str,
        /// Where it was noticed.
        path: PathBuf,
    },
    /// More backing files were named than there are.
    #[error("it needs no backing file {}, which was named; leave it out", path.display())]
    NotNeeded {
        /// The first one that was too many.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("it could not be read at byte {offset}")]
    Read {
        /// Where, in the file.
        offset: u64,
        /// What came back.
        #[source]
        source: std::io::Error,
    },
}

/// Reads a file that is nothing but these bytes, all of it, for the fuzzer.
#[doc(hidden)]
pub fn fuzz_qcow2(bytes: &[u8]) {
    let Ok(mut layer) = layer::Layer::new(bytes) else {
        return;
    };
    let mut buffer = vec![0; 128 << 10];
    let (mut at, mut steps) = (0, 0);
    while at < layer.size() && steps < 2000 {
        steps += 1;
        let Ok(stretch) = layer.map(at) else { return };
        assert!(
            stretch.end > at && stretch.end <= layer.size(),
            "it goes on"
        );
        let length = (stretch.end - at).min(buffer.len() as u64);
        let part = buffer.get_mut(..length as usize).unwrap_or_default();
        if layer.read(&stretch, at, part).is_err() {
            return;
        }
        at = stretch.end;
    }
}
