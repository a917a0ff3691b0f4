//! The set of free addresses: a bit each, with summaries, so that the next free one behind any
//! address is found in a few steps however large the set is.

use std::net::Ipv4Addr;

/// A set of addresses within one span. Takes, gives back and searches in logarithmic time; a span
/// of 2^24 addresses takes 2 MiB.
#[derive(Clone, Debug)]
pub(crate) struct AddressSet {
    first: u32,
    span: usize,
    count: usize,
    /// Level 0 has a bit for each address. A bit of a higher level is set where its word in the
    /// level below is not zero.
    levels: Vec<Vec<u64>>,
}

impl AddressSet {
    /// An empty set for addresses between these two, both included.
    pub(crate) fn new(first: Ipv4Addr, last: Ipv4Addr) -> Self {
        let (first, last) = (first.to_bits(), last.to_bits());
        let span = last
            .checked_sub(first)
            .map_or(0, |distance| distance as usize + 1);
        let mut levels = vec![];
        let mut length = span;
        loop {
            length = length.div_ceil(64);
            levels.push(vec![0; length]);
            if length <= 1 {
                break;
            }
        }
        Self {
            first,
            span,
            count: 0,
            levels,
        }
    }

    /// How many addresses are in it.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn index(&self, address: Ipv4Addr) -> Option<usize> {
        let index = address.to_bits().checked_sub(self.first)? as usize;
        (index < self.span).then_some(index)
    }

    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        self.index(address).is_some_and(|index| {
            let word = self.levels.first().and_then(|level| level.get(index / 64));
            word.is_some_and(|word| word >> (index % 64) & 1 == 1)
        })
    }

    /// Adds an address; one outside of the span is not added.
    pub(crate) fn insert(&mut self, address: Ipv4Addr) {
        let Some(mut index) = self.index(address) else {
            return;
        };
        if self.contains(address) {
            return;
        }
        self.count += 1;
        for level in &mut self.levels {
            let Some(word) = level.get_mut(index / 64) else {
                return;
            };
            let was_empty = *word == 0;
            *word |= 1 << (index % 64);
            if !was_empty {
                return;
            }
            index /= 64;
        }
    }

    /// Removes an address; returns whether it was there.
    pub(crate) fn remove(&mut self, address: Ipv4Addr) -> bool {
        let Some(mut index) = self.index(address).filter(|_| self.contains(address)) else {
            return false;
        };
        self.count -= 1;
        for level in &mut self.levels {
            let Some(word) = level.get_mut(index / 64) else {
                break;
            };
            *word &= !(1 << (index % 64));
            if *word != 0 {
                break;
            }
            index /= 64;
        }
        true
    }

    /// The first address of the set at or behind the place that `preference` picks; behind the end
    /// the search goes on at the beginning.
    pub(crate) fn pick(&self, preference: u32) -> Option<Ipv4Addr> {
        let start = (preference as usize).checked_rem(self.span)?;
        let index = self.next_from(start).or_else(|| self.next_from(0))?;
        Some(Ipv4Addr::from_bits(self.first + u32::try_from(index).ok()?))
    }

    fn next_from(&self, index: usize) -> Option<usize> {
        let mut index = index;
        for (height, level) in self.levels.iter().enumerate() {
            let at_or_behind = u64::MAX << (index % 64);
            let word = level.get(index / 64)? & at_or_behind;
            if word != 0 {
                let found = index / 64 * 64 + word.trailing_zeros() as usize;
                // Down again, to the lowest bit below each summary bit.
                return self
                    .levels
                    .get(..height)?
                    .iter()
                    .rev()
                    .try_fold(found, |index, level| {
                        Some(index * 64 + level.get(index)?.trailing_zeros() as usize)
                    });
            }
            index = index / 64 + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn address(offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a00_0000 + offset)
    }

    #[test]
    fn an_empty_span_has_nothing() {
        let set = AddressSet::new(address(5), address(4));
        assert_eq!((set.len(), set.pick(7)), (0, None));
    }

    #[test]
    fn a_large_set_is_searched_through_its_summaries() {
        let mut set = AddressSet::new(address(0), address((1 << 24) - 1));
        set.insert(address(3));
        set.insert(address(16_000_000));
        assert_eq!(set.pick(4), Some(address(16_000_000)));
        assert_eq!(set.pick(16_000_001), Some(address(3)));
        set.insert(address(1 << 24));
        assert_eq!(set.len(), 2);
    }

    proptest! {
        #[test]
        fn it_is_a_set(
            span in 1u32..9000,
            steps in proptest::collection::vec((any::<bool>(), 0u32..9000), 0..200),
            start in any::<u32>(),
        ) {
            let mut set = AddressSet::new(address(0), address(span - 1));
            let mut model = BTreeSet::new();
            for (insert, offset) in steps {
                if insert {
                    set.insert(address(offset));
                    if offset < span {
                        model.insert(offset);
                    }
                } else {
                    prop_assert_eq!(set.remove(address(offset)), model.remove(&offset));
                }
                prop_assert_eq!(set.contains(address(offset)), model.contains(&offset));
            }
            prop_assert_eq!(set.len(), model.len());
            let place = start % span;
            let expected = model.range(place..).chain(model.range(..place)).next();
            prop_assert_eq!(set.pick(start), expected.map(|&offset| address(offset)));
        }
    }
}
