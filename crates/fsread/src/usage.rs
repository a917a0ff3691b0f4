//! What a filesystem's own reader says of it.

use crate::Ranges;
use std::io;
use std::ops::Range;

/// Which bytes of a volume are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes of the volume that an image must carry; never beyond its size.
    pub(crate) used: Ranges,
    /// The filesystem was closed properly; otherwise why it counts as dirty: then nobody can say
    /// whether `used` is all.
    pub(crate) clean: Result<(), String>,
}

/// Why a filesystem's own reader cannot say which bytes are in use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// The source cannot be read.
    #[error("the volume cannot be read")]
    Io(#[from] io::Error),
    /// What it says contradicts itself, or is of a kind that is not read; with the words for the
    /// operator.
    #[error("{0}")]
    Damaged(String),
}

/// Gathers used bytes in rising order. A volume that is full of small holes would need a range for
/// each: beyond [`Gather::MOST`] ranges, holes are closed, the smallest first. That carries a little
/// more than is in use, and never less.
#[derive(Debug)]
pub(crate) struct Gather {
    used: Ranges,
    /// Holes of up to so many bytes are closed.
    gap: u64,
    most: usize,
}

impl Gather {
    /// Most ranges that are kept: 8 MiB of memory.
    pub(crate) const MOST: usize = 1 << 19;

    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            used: Ranges::new(),
            gap: 0,
            most: Self::MOST,
        }
    }

    /// Adds the bytes of `range`, which do not lie before those that were added.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let end = self.used.as_slice().last().map(|last| last.end);
        let start = match end {
            Some(end) if end < range.start && range.start - end <= self.gap => end,
            _ => range.start,
        };
        self.used.insert(start..range.end);
        while self.used.as_slice().len() > self.most {
            self.gap = (self.gap * 2).max(4096);
            let mut wider = Self {
                used: Ranges::new(),
                gap: self.gap,
                most: usize::MAX,
            };
            for range in self.used.as_slice() {
                wider.add(range.clone());
            }
            self.used = wider.used;
        }
    }

    /// Whether every byte of `range` was added.
    pub(crate) fn covers(&self, range: Range<u64>) -> bool {
        self.used.covers(range)
    }

    /// All that was added.
    pub(crate) fn finish(self) -> Ranges {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_gathered_is_carried_in_few_ranges(
            steps in proptest::collection::vec((0u64..20_000, 0u64..9000), 0..200),
            most in 1usize..40,
        ) {
            let mut gather = Gather { most, ..Gather::new() };
            let (mut exact, mut at) = (Ranges::new(), 0);
            for (hole, length) in steps {
                at += hole;
                gather.add(at..at + length);
                exact.insert(at..at + length);
                at += length;
            }
            let gathered = gather.finish();
            prop_assert!(exact.as_slice().iter().all(|range| gathered.covers(range.clone())));
            prop_assert!(gathered.as_slice().len() <= most);
            if exact.as_slice().len() <= most {
                prop_assert_eq!(gathered, exact);
            }
        }
    }
}
