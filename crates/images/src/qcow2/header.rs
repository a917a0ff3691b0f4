//! The header of a qcow2 file: QEMU's docs/interop/qcow2.txt, "Header", "Header extensions" and
//! "Feature name table".

use super::Qcow2Error;
use bugler_protocol::manifest::MAX_DISK_SIZE;

/// `QFI\xfb`.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// What a reader needs of the header, at most: the header itself, its extensions and the name of
/// the backing file stand in the first cluster, and honest ones within these bytes.
pub(super) const HEAD_LEN: usize = 64 << 10;

/// Largest L1 table, in bytes: QEMU's own limit.
const MAX_L1_BYTES: u64 = 32 << 20;

/// Longest name of a backing file, in bytes: the specification's limit.
const MAX_BACKING_NAME: u32 = 1023;

/// Header extensions: what the backing file is, and what the feature bits are called.
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;

/// Bits of the incompatible features.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// How compressed clusters are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// RFC 1951 without a header.
    Deflate,
    /// RFC 8878.
    Zstd,
}

/// The file that has what this one leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackingName {
    /// As it stands in the header.
    pub(super) name: String,
    /// `raw`, `qcow2` or another of QEMU's formats; `None` where the header does not say.
    pub(super) format: Option<String>,
}

/// What a header says, checked.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// 9 to 21.
    pub(super) cluster_bits: u32,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    /// Number of entries of the L1 table.
    pub(super) l1_entries: u64,
    /// Where the L1 table is.
    pub(super) l1_offset: u64,
    pub(super) extended_l2: bool,
    /// Whether a cluster can be marked as zero: version 3.
    pub(super) zero_clusters: bool,
    pub(super) packing: Packing,
    pub(super) backing: Option<BackingName>,
}

/// Big-endian numbers at their places; `None` behind the end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u32(&self, at: usize) -> Result<u32, Qcow2Error> {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        bytes
            .map(|bytes| u32::from_be_bytes(*bytes))
            .ok_or(Qcow2Error::Header("it is cut off"))
    }

    fn u64(&self, at: usize) -> Result<u64, Qcow2Error> {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        bytes
            .map(|bytes| u64::from_be_bytes(*bytes))
            .ok_or(Qcow2Error::Header("it is cut off"))
    }
}

impl Header {
    /// Reads the header from the file's beginning: [`HEAD_LEN`] bytes, fewer where the file ends.
    pub(super) fn decode(head: &[u8]) -> Result<Self, Qcow2Error> {
        let bytes = Bytes(head);
        if !head.starts_with(&MAGIC) {
            return Err(Qcow2Error::Header("it does not begin with \"QFI\\xfb\""));
        }
        let version = bytes.u32(4)?;
        let header_len = match version {
            2 => 72,
            3 => bytes.u32(100)?,
            other => return Err(Qcow2Error::Version(other)),
        };
        if version == 3 && (header_len < 104 || header_len % 8 != 0) {
            return Err(Qcow2Error::Header("its length is wrong"));
        }
        let header_len = header_len as usize;
        let (incompatible, packing) = match version {
            2 => (0, 0),
            _ if header_len > 104 => {
                let packing = head.get(104).ok_or(Qcow2Error::Header("it is cut off"))?;
                (bytes.u64(72)?, *packing)
            }
            _ => (bytes.u64(72)?, 0),
        };
        let extensions = Extensions::read(&bytes, header_len)?;
        check_features(incompatible, &extensions)?;
        match bytes.u32(32)? {
            0 => {}
            method => return Err(Qcow2Error::Encrypted { method }),
        }
        let cluster_bits = bytes.u32(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Qcow2Error::Header("its cluster size is out of range"));
        }
        let extended_l2 = incompatible & EXTENDED_L2 != 0;
        if extended_l2 && cluster_bits < 14 {
            return Err(Qcow2Error::Header(
                "its clusters are too small for extended L2 entries",
            ));
        }
        let packing = match packing {
            0 => Packing::Deflate,
            1 => Packing::Zstd,
            other => return Err(Qcow2Error::Packing(other)),
        };
        if (packing == Packing::Zstd) != (incompatible & COMPRESSION_TYPE != 0) {
            return Err(Qcow2Error::Header(
                "its compression type and its feature bits contradict each other",
            ));
        }
        let header = Self {
            cluster_bits,
            size: bytes.u64(24)?,
            l1_entries: bytes.u32(36)?.into(),
            l1_offset: bytes.u64(40)?,
            extended_l2,
            zero_clusters: version >= 3,
            packing,
            backing: backing(head, &bytes, extensions.backing_format)?,
        };
        header.check_sizes()?;
        Ok(header)
    }

    /// Whether the L1 table is as large as the disk asks for, and neither is beyond limits.
    fn check_sizes(&self) -> Result<(), Qcow2Error> {
        if self.size > MAX_DISK_SIZE {
            return Err(Qcow2Error::DiskSize(self.size));
        }
        if self.l1_entries * 8 > MAX_L1_BYTES {
            return Err(Qcow2Error::Header("its L1 table is larger than 32 MiB"));
        }
        if self.l1_entries < self.size.div_ceil(self.l1_span()) {
            return Err(Qcow2Error::Header(
                "its L1 table is too small for the disk that it describes",
            ));
        }
        if !self.l1_offset.is_multiple_of(self.cluster_size()) {
            return Err(Qcow2Error::Header("its L1 table is not at a cluster"));
        }
        Ok(())
    }

    /// Bytes of one cluster.
    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Length of an L2 entry in bytes.
    pub(super) fn l2_entry_len(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries of an L2 table, which takes one cluster.
    pub(super) fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.l2_entry_len()
    }

    /// Bytes of the disk that one entry of the L1 table stands for.
    pub(super) fn l1_span(&self) -> u64 {
        self.l2_entries() * self.cluster_size()
    }

    /// The smallest part of a cluster that has a state of its own, in bytes.
    pub(super) fn unit(&self) -> u64 {
        if self.extended_l2 {
            self.cluster_size() / 32
        } else {
            self.cluster_size()
        }
    }
}

#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    /// Bit and name of incompatible features.
    names: Vec<(u8, String)>,
}

impl Extensions {
    fn read(bytes: &Bytes<'_>, mut at: usize) -> Result<Self, Qcow2Error> {
        let mut found = Self::default();
        // The list ends with a type of 0, or where the backing file's name begins.
        let end = match bytes.u64(8)? {
            0 => usize::MAX,
            name => usize::try_from(name).unwrap_or(usize::MAX),
        };
        loop {
            let kind = if at < end { bytes.u32(at) } else { Ok(0) };
            let Ok(kind @ 1..) = kind else {
                return Ok(found);
            };
            let length = bytes.u32(at + 4)? as usize;
            let content = bytes
                .0
                .get(at + 8..)
                .and_then(|rest| rest.get(..length))
                .ok_or(Qcow2Error::Header(
                    "an extension of it is longer than its first cluster",
                ))?;
            match kind {
                EXTENSION_BACKING_FORMAT => {
                    found.backing_format = Some(String::from_utf8_lossy(content).into_owned());
                }
                EXTENSION_FEATURE_NAMES => {
                    let (entries, _) = content.as_chunks::<48>();
                    found.names = entries
                        .iter()
                        .filter(|[kind, ..]| *kind == 0)
                        .map(|[_, bit, name @ ..]| (*bit, text(name)))
                        .collect();
                }
                _ => {}
            }
            at += 8 + length.next_multiple_of(8);
        }
    }
}

/// Printable text up to the first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default())
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}

fn check_features(incompatible: u64, extensions: &Extensions) -> Result<(), Qcow2Error> {
    if incompatible & CORRUPT != 0 {
        return Err(Qcow2Error::Corrupt);
    }
    if incompatible & DIRTY != 0 {
        return Err(Qcow2Error::Dirty);
    }
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(Qcow2Error::ExternalData);
    }
    let known = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;
    let unknown = incompatible & !known;
    if unknown == 0 {
        return Ok(());
    }
    let bit = unknown.trailing_zeros();
    let named = extensions
        .names
        .iter()
        .find(|(of, _)| u32::from(*of) == bit);
    Err(Qcow2Error::Feature {
        bit,
        name: named.map_or_else(|| "no name".to_owned(), |(_, name)| name.clone()),
    })
}

fn backing(
    head: &[u8],
    bytes: &Bytes<'_>,
    format: Option<String>,
) -> Result<Option<BackingName>, Qcow2Error> {
    let (offset, length) = (bytes.u64(8)?, bytes.u32(16)?);
    if offset == 0 || length == 0 {
        return Ok(None);
    }
    if length > MAX_BACKING_NAME {
        return Err(Qcow2Error::Header("its backing file's name is too long"));
    }
    let name = usize::try_from(offset)
        .ok()
        .and_then(|offset| head.get(offset..)?.get(..length as usize))
        .ok_or(Qcow2Error::Header(
            "its backing file's name is not in its first cluster",
        ))?;
    let name = std::str::from_utf8(name)
        .map_err(|_| Qcow2Error::Header("its backing file's name is not UTF-8"))?;
    Ok(Some(BackingName {
        name: name.to_owned(),
        format,
    }))
}
