//! Samples of a disk, before and after.

use super::WipeError;
use crate::backoff;
use crate::disk::{AlignedBuf, DiskError, Target, is_zero};
use std::collections::BTreeSet;
use std::fmt;

/// Size of a sample in bytes; the last one of a disk may be shorter.
const SAMPLE: u64 = 4096;

/// How much of the beginning and of the end of a disk is looked at whole, and of each partition's
/// beginning, in bytes: tables, their copies, superblocks.
const EDGE: u64 = 1 << 20;
const BEGINNING: u64 = 128 << 10;

/// How many samples lie anywhere. Of a disk of which one part in a hundred was left out, 512 of them
/// miss it once in 170 times; where one in twenty was, once in 200 thousand million.
const ANYWHERE: u64 = 512;

/// What a wiped disk reads as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Zero.
    Zero,
    /// Anything that is not what it was.
    Changed,
}

/// What samples of a wiped disk showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// How many were looked at.
    pub samples: usize,
    /// How many of them read as zero.
    pub zero: usize,
    /// How many read as something else that is not what was there.
    pub changed: usize,
    /// How many were zero or full of ones before and are the same now: they prove nothing.
    pub blank: usize,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of {} samples {} read as zero and {} as something new; {} were blank before",
            self.samples, self.zero, self.changed, self.blank
        )
    }
}

/// Samples of a disk as it was.
#[derive(Debug)]
pub(crate) struct Samples(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    offset: u64,
    len: usize,
    hash: blake3::Hash,
    blank: bool,
}

impl Samples {
    /// Reads the samples of a disk whose partitions begin at these bytes.
    pub(crate) fn take(target: &Target, beginnings: &[u64]) -> Result<Self, DiskError> {
        let mut buffer = AlignedBuf::new(SAMPLE as usize);
        let places = places(target.size(), beginnings, backoff::seed());
        let taken = places.into_iter().map(|offset| {
            let content = read(target, offset, &mut buffer)?;
            Ok(Sample {
                offset,
                len: content.len(),
                hash: blake3::hash(content),
                blank: is_blank(content),
            })
        });
        Ok(Self(taken.collect::<Result<_, DiskError>>()?))
    }

    /// Reads them again.
    pub(crate) fn check(&self, target: &Target, expect: Expect) -> Result<Proof, WipeError> {
        let mut buffer = AlignedBuf::new(SAMPLE as usize);
        let mut proof = Proof::default();
        for sample in &self.0 {
            let content = read(target, sample.offset, &mut buffer)?;
            let same = blake3::hash(content) == sample.hash;
            let wrong = |what| WipeError::NotWiped {
                disk: target.path().display().to_string(),
                offset: sample.offset,
                len: sample.len,
                what,
            };
            proof.samples += 1;
            proof.blank += usize::from(sample.blank && same);
            if is_zero(content) {
                proof.zero += 1;
            } else if expect == Expect::Zero {
                return Err(wrong("do not read as zero"));
            } else if !same {
                proof.changed += 1;
            } else if !sample.blank {
                return Err(wrong("read as before"));
            }
        }
        Ok(proof)
    }
}

fn read<'a>(
    target: &Target,
    offset: u64,
    buffer: &'a mut AlignedBuf,
) -> Result<&'a [u8], DiskError> {
    let len = SAMPLE.min(target.size().saturating_sub(offset));
    let content = &mut buffer[..len as usize];
    target.read_at(content, offset)?;
    Ok(content)
}

fn is_blank(content: &[u8]) -> bool {
    is_zero(content) || content.iter().all(|&byte| byte == 0xff)
}

/// Where samples are taken, in bytes, each once.
fn places(size: u64, beginnings: &[u64], seed: u64) -> BTreeSet<u64> {
    let mut places = BTreeSet::new();
    let mut add = |start: u64, len: u64| {
        let start = start / SAMPLE * SAMPLE;
        let end = start.saturating_add(len).min(size);
        let mut at = start;
        while at < end {
            places.insert(at);
            at += SAMPLE;
        }
    };
    add(0, EDGE);
    add(size.saturating_sub(EDGE), 2 * EDGE);
    for &start in beginnings {
        add(start, BEGINNING);
    }
    let mut state = seed;
    for _ in 0..ANYWHERE {
        // Steele, Lea and Flood's SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        if size > 0 {
            add(z % size, 1);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Access;
    use proptest::prelude::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    proptest! {
        #[test]
        fn places_lie_on_the_disk(
            size in 0u64..1 << 40,
            beginnings in proptest::collection::vec(any::<u64>(), 0..5),
            seed: u64,
        ) {
            let places = places(size, &beginnings, seed);
            prop_assert!(places.iter().all(|&at| at < size && at.is_multiple_of(SAMPLE)));
            prop_assert_eq!(places.is_empty(), size == 0);
            for start in beginnings.into_iter().filter(|&start| start < size) {
                prop_assert!(places.contains(&(start / SAMPLE * SAMPLE)));
            }
        }
    }

    fn disk(content: &[u8]) -> (tempfile::NamedTempFile, Target) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let target = Target::open(file.path(), Access::Read).unwrap();
        (file, target)
    }

    #[test]
    fn what_is_left_shows() {
        let (file, target) = disk(&[7; 3 * 4096 + 512]);
        let samples = Samples::take(&target, &[]).unwrap();
        let error = samples.check(&target, Expect::Changed).unwrap_err();
        assert!(error.to_string().contains("read as before"), "{error}");
        let error = samples.check(&target, Expect::Zero).unwrap_err();
        assert!(error.to_string().contains("do not read as zero"), "{error}");

        // Everything but one sector.
        file.as_file().write_all_at(&[0; 3 * 4096], 0).unwrap();
        let error = samples.check(&target, Expect::Zero).unwrap_err();
        assert!(error.to_string().contains("byte 12288"), "{error}");
        file.as_file().write_all_at(&[1; 512], 3 * 4096).unwrap();
        let proof = samples.check(&target, Expect::Changed).unwrap();
        assert_eq!((proof.samples, proof.zero, proof.changed), (4, 3, 1));
    }

    #[test]
    fn what_was_blank_proves_nothing() {
        let (_file, target) = disk(&[0xff; 8192]);
        let samples = Samples::take(&target, &[]).unwrap();
        let proof = samples.check(&target, Expect::Changed).unwrap();
        assert_eq!((proof.samples, proof.blank, proof.changed), (2, 2, 0));
        assert!(samples.check(&target, Expect::Zero).is_err());
    }
}
