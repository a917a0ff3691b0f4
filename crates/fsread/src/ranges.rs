//! A set of bytes of a disk, as ranges.

use std::ops::Range;

/// Which bytes: ranges that are sorted, not empty, and neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// No bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the bytes of `range`; quick where they come in rising order.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // The first range that touches or follows it, and the first that lies behind it.
        let from = match self.0.last() {
            Some(last) if last.end < range.start => self.0.len(),
            _ => self.0.partition_point(|have| have.end < range.start),
        };
        let to = from
            + self
                .0
                .get(from..)
                .unwrap_or_default()
                .partition_point(|have| have.start <= range.end);
        let merged = self
            .0
            .get(from..to)
            .unwrap_or_default()
            .iter()
            .fold(range, |all, have| {
                all.start.min(have.start)..all.end.max(have.end)
            });
        self.0.splice(from..to, [merged]);
    }

    /// Adds every byte of `other`, moved up by `offset`.
    pub fn extend_from(&mut self, other: &Self, offset: u64) {
        for range in &other.0 {
            self.insert(range.start.saturating_add(offset)..range.end.saturating_add(offset));
        }
    }

    /// The ranges, rising.
    #[must_use]
    pub fn as_slice(&self) -> &[Range<u64>] {
        &self.0
    }

    /// How many bytes are in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// The parts of `window` that are in it, rising.
    pub fn within(&self, window: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let from = self.0.partition_point(|have| have.end <= window.start);
        self.0
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while({
                let end = window.end;
                move |have| have.start < end
            })
            .map(move |have| have.start.max(window.start)..have.end.min(window.end))
            .filter(|part| !part.is_empty())
    }

    /// Whether every byte of `window` is in it; true for an empty one.
    #[must_use]
    pub fn covers(&self, window: Range<u64>) -> bool {
        let length = window.end.saturating_sub(window.start);
        self.within(window)
            .map(|part| part.end - part.start)
            .sum::<u64>()
            == length
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut all = Self::new();
        for range in ranges {
            all.insert(range);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_set_of_its_bytes(
            list in proptest::collection::vec((0u64..60, 0u64..12), 0..20),
            window in (0u64..70, 0u64..30),
        ) {
            let list: Vec<_> = list.iter().map(|&(start, length)| start..start + length).collect();
            let ranges: Ranges = list.iter().cloned().collect();
            let inside = |byte| list.iter().any(|range| range.contains(&byte));
            let bytes: Vec<u64> = ranges.as_slice().iter().cloned().flatten().collect();
            prop_assert_eq!(&bytes, &(0..80).filter(|&byte| inside(byte)).collect::<Vec<_>>());
            prop_assert!(ranges.as_slice().windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(ranges.bytes(), bytes.len() as u64);
            let window = window.0..window.0 + window.1;
            let parts: Vec<u64> = ranges.within(window.clone()).flatten().collect();
            let wanted: Vec<u64> = window.clone().filter(|&byte| inside(byte)).collect();
            prop_assert_eq!(ranges.covers(window.clone()), wanted.len() as u64 == window.end - window.start);
            prop_assert_eq!(parts, wanted);
        }
    }
}
