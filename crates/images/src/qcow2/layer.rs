//! One qcow2 file: where each byte of its disk is.

use super::{
    Qcow2Error,
    cluster::unpack,
    header::{HEAD_LEN, Header},
};
use bugler_fsread::ReadAt;

/// Bytes of the L1 table that are kept at a time.
const L1_PAGE: u64 = 32 << 10;

/// Where bytes are: bits 9 to 55 of an entry.
const OFFSET_BITS: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// How often a file may be read through, on average, before its tables are not believed any more.
/// Small compressed clusters share a sector with up to some 25 others.
const MAX_READ_THROUGH: u64 = 32;

/// What a stretch of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not in this file: in the backing file, or zero where there is none.
    Absent,
    /// Zero.
    Zero,
    /// In the file, from this byte on.
    Plain(u64),
    /// A compressed cluster: where it is in the file, how long it may be, and where it begins on
    /// the disk.
    Packed { at: u64, len: u64, cluster: u64 },
}

/// Bytes of the disk that are of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) kind: Kind,
    /// Where it ends; it begins where it was asked for.
    pub(super) end: u64,
}

/// A table, or a part of one, that was read last.
#[derive(Default)]
struct Cached {
    /// Which one.
    key: Option<u64>,
    bytes: Vec<u8>,
}

/// One file of a chain.
pub(super) struct Layer<S> {
    source: S,
    length: u64,
    header: Header,
    l1_page: Cached,
    l2: Cached,
    /// The compressed cluster that was read last, unpacked.
    cluster: Cached,
    packed: Vec<u8>,
    /// Bytes of content that have been read from the file.
    read: u64,
}

impl<S: ReadAt> Layer<S> {
    pub(super) fn new(source: S) -> Result<Self, Qcow2Error> {
        let length = source.size();
        let mut head = vec![0; length.min(HEAD_LEN as u64) as usize];
        source
            .read_at(0, &mut head)
            .map_err(|source| Qcow2Error::Read { offset: 0, source })?;
        let header = Header::decode(&head)?;
        Ok(Self {
            source,
            length,
            header,
            l1_page: Cached::default(),
            l2: Cached::default(),
            cluster: Cached::default(),
            packed: Vec::new(),
            read: 0,
        })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Size of the disk in bytes.
    pub(super) fn size(&self) -> u64 {
        self.header.size
    }

    /// What stands at `offset`, which must lie on the disk, and how far that goes on.
    pub(super) fn map(&mut self, offset: u64) -> Result<Stretch, Qcow2Error> {
        let span = self.header.l1_span();
        let index = offset / span;
        let end = (index + 1).saturating_mul(span).min(self.size());
        if !self.load_l2(index, offset)? {
            return Ok(Stretch {
                kind: Kind::Absent,
                end,
            });
        }
        let unit = self.header.unit();
        let first = offset / unit * unit;
        let kind = match self.kind_of(first)? {
            Kind::Plain(at) => Kind::Plain(at + (offset - first)),
            kind => kind,
        };
        if let Kind::Packed { cluster, .. } = kind {
            let end = end.min(cluster + self.header.cluster_size());
            return Ok(Stretch { kind, end });
        }
        let mut next = first + unit;
        while next < end {
            let goes_on = match (kind, self.kind_of(next)?) {
                (Kind::Plain(at), Kind::Plain(there)) => there - at.min(there) == next - offset,
                (Kind::Absent, Kind::Absent) | (Kind::Zero, Kind::Zero) => true,
                _ => false,
            };
            if !goes_on {
                break;
            }
            next += unit;
        }
        Ok(Stretch {
            kind,
            end: next.min(end),
        })
    }

    /// Fills `buffer` with what `stretch`, found by [`map`](Self::map), has at `offset`; zeros where
    /// it is absent. All of it must lie within the stretch.
    pub(super) fn read(
        &mut self,
        stretch: &Stretch,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Qcow2Error> {
        match stretch.kind {
            Kind::Absent | Kind::Zero => buffer.fill(0),
            Kind::Plain(at) => {
                self.count(buffer.len() as u64)?;
                self.read_source("a cluster", offset, at, buffer.len() as u64)?;
                self.source
                    .read_at(at, buffer)
                    .map_err(|source| Qcow2Error::Read { offset: at, source })?;
            }
            Kind::Packed { at, len, cluster } => {
                self.load_cluster(at, len, cluster)?;
                let within = (offset - cluster.min(offset)) as usize;
                let from = self.cluster.bytes.get(within..);
                let from = from.and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(from.ok_or(Qcow2Error::Damaged {
                    what: "a compressed cluster is too short",
                    disk: offset,
                })?);
            }
        }
        Ok(())
    }

    /// Whether `length` bytes from `at` are in the file.
    fn read_source(
        &self,
        what: &'static str,
        disk: u64,
        at: u64,
        length: u64,
    ) -> Result<(), Qcow2Error> {
        let end = at.saturating_add(length);
        if end <= self.length {
            return Ok(());
        }
        Err(Qcow2Error::CutOff {
            what,
            disk,
            end,
            length: self.length,
        })
    }

    fn count(&mut self, bytes: u64) -> Result<(), Qcow2Error> {
        self.read = self.read.saturating_add(bytes);
        let limit = self.length.saturating_mul(MAX_READ_THROUGH);
        if self.read > limit.saturating_add(64 << 20) {
            return Err(Qcow2Error::Repeats);
        }
        Ok(())
    }

    /// The entry of the L1 table.
    fn l1_entry(&mut self, index: u64, disk: u64) -> Result<u64, Qcow2Error> {
        let table = self.header.l1_entries * 8;
        let page = index * 8 / L1_PAGE;
        if self.l1_page.key != Some(page) {
            self.l1_page.key = None;
            let start = page * L1_PAGE;
            let length = L1_PAGE.min(table.saturating_sub(start));
            let at = self.header.l1_offset.saturating_add(start);
            self.read_source("the L1 table", disk, at, length)?;
            self.l1_page.bytes.resize(length as usize, 0);
            self.source
                .read_at(at, &mut self.l1_page.bytes)
                .map_err(|source| Qcow2Error::Read { offset: at, source })?;
            self.l1_page.key = Some(page);
        }
        be_u64(&self.l1_page.bytes, index * 8 % L1_PAGE).ok_or(Qcow2Error::Damaged {
            what: "the L1 table has no entry",
            disk,
        })
    }

    /// Reads the L2 table for the bytes from `index` times the span on; false where there is none.
    fn load_l2(&mut self, index: u64, disk: u64) -> Result<bool, Qcow2Error> {
        let entry = self.l1_entry(index, disk)?;
        let at = entry & OFFSET_BITS;
        if at == 0 {
            return Ok(false);
        }
        if self.l2.key == Some(index) {
            return Ok(true);
        }
        self.l2.key = None;
        let cluster = self.header.cluster_size();
        if !at.is_multiple_of(cluster) {
            return Err(Qcow2Error::Damaged {
                what: "an L2 table is not at a cluster",
                disk,
            });
        }
        self.read_source("an L2 table", disk, at, cluster)?;
        self.l2.bytes.resize(cluster as usize, 0);
        self.source
            .read_at(at, &mut self.l2.bytes)
            .map_err(|source| Qcow2Error::Read { offset: at, source })?;
        self.l2.key = Some(index);
        Ok(true)
    }

    /// What the unit that begins at `disk` is. Its L2 table must have been read.
    fn kind_of(&self, disk: u64) -> Result<Kind, Qcow2Error> {
        let damaged = |what| Qcow2Error::Damaged { what, disk };
        let header = &self.header;
        let cluster_size = header.cluster_size();
        let place = disk / cluster_size % header.l2_entries() * header.l2_entry_len();
        let lost = || damaged("an L2 table has no entry");
        let entry = be_u64(&self.l2.bytes, place).ok_or_else(lost)?;
        if entry & COMPRESSED != 0 {
            return Ok(self.packed(entry, disk / cluster_size * cluster_size));
        }
        let at = entry & OFFSET_BITS;
        if !at.is_multiple_of(cluster_size) {
            return Err(damaged("a cluster is not at a cluster boundary"));
        }
        if header.extended_l2 {
            let states = be_u64(&self.l2.bytes, place + 8).ok_or_else(lost)?;
            let part = disk % cluster_size / header.unit();
            let (is_here, is_zero) = (states >> part & 1 != 0, states >> (part + 32) & 1 != 0);
            return match (is_here, is_zero) {
                (true, true) => Err(damaged("a part of a cluster is both zero and not")),
                (true, false) if at == 0 => Err(damaged("a cluster has a state and no place")),
                (true, false) => Ok(Kind::Plain(at + part * header.unit())),
                (false, true) => Ok(Kind::Zero),
                (false, false) => Ok(Kind::Absent),
            };
        }
        if entry & ZERO != 0 && header.zero_clusters {
            return Ok(Kind::Zero);
        }
        Ok(if at == 0 {
            Kind::Absent
        } else {
            Kind::Plain(at)
        })
    }

    /// "Compressed Clusters Descriptor".
    fn packed(&self, entry: u64, cluster: u64) -> Kind {
        let offset_bits = 62 - (self.header.cluster_bits - 8);
        let at = entry & ((1 << offset_bits) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
        Kind::Packed {
            at,
            len: (sectors + 1) * 512 - at % 512,
            cluster,
        }
    }

    fn load_cluster(&mut self, at: u64, len: u64, cluster: u64) -> Result<(), Qcow2Error> {
        if self.cluster.key == Some(cluster) {
            return Ok(());
        }
        self.cluster.key = None;
        self.count(len)?;
        // The last sector may be cut short by the file's end: what counts is in front of it.
        let len = len.min(self.length.saturating_sub(at));
        if len == 0 {
            self.read_source("a compressed cluster", cluster, at, 1)?;
        }
        self.packed.resize(len as usize, 0);
        self.source
            .read_at(at, &mut self.packed)
            .map_err(|source| Qcow2Error::Read { offset: at, source })?;
        let size = self.header.cluster_size() as usize;
        unpack(
            self.header.packing,
            &self.packed,
            size,
            &mut self.cluster.bytes,
        )
        .map_err(|what| Qcow2Error::Damaged {
            what,
            disk: cluster,
        })?;
        self.cluster.key = Some(cluster);
        Ok(())
    }
}

fn be_u64(bytes: &[u8], at: u64) -> Option<u64> {
    let bytes = bytes.get(usize::try_from(at).ok()?..)?.first_chunk()?;
    Some(u64::from_be_bytes(*bytes))
}
