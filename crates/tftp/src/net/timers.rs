//! Deadlines, cheap to move: a deadline is pushed back with every ACK, and passes almost never.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Which entry of a timer counts. Kept by whoever waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alarm(Duration);

/// Deadlines of transfers, each named by its token.
///
/// A later deadline is not entered: when the earlier entry comes up, its owner says that it is not
/// yet due and is entered again. So a transfer costs one entry for each timeout's length, and not one
/// for each block.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Duration, u64)>>,
}

impl Timers {
    /// Enters a deadline.
    pub(super) fn set(&mut self, token: u64, deadline: Duration) -> Alarm {
        self.heap.push(Reverse((deadline, token)));
        Alarm(deadline)
    }

    /// Makes sure that the owner of `alarm` is woken at `deadline` or before.
    pub(super) fn move_to(&mut self, alarm: Alarm, token: u64, deadline: Duration) -> Alarm {
        if deadline < alarm.0 {
            self.set(token, deadline)
        } else {
            alarm
        }
    }

    /// The earliest entry.
    pub(super) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((time, _))| *time)
    }

    /// Takes one entry that has come up: whose it is, and which alarm it was. Entries that an earlier
    /// one has replaced come up too; their alarm is not the one that the owner keeps.
    pub(super) fn pop(&mut self, now: Duration) -> Option<(u64, Alarm)> {
        let Reverse((time, token)) = *self.heap.peek()?;
        if time > now {
            return None;
        }
        self.heap.pop();
        Some((token, Alarm(time)))
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Drops the entries that nobody waits for.
    pub(super) fn retain(&mut self, wanted: impl Fn(u64, Alarm) -> bool) {
        self.heap
            .retain(|Reverse((time, token))| wanted(*token, Alarm(*time)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn entries_come_up_in_order_and_not_before_their_time() {
        let mut timers = Timers::default();
        timers.set(1, 30 * MS);
        let two = timers.set(2, 10 * MS);
        assert_eq!(timers.next(), Some(10 * MS));
        assert_eq!(timers.pop(9 * MS), None);
        assert_eq!(timers.pop(10 * MS), Some((2, two)));
        assert_eq!(timers.pop(29 * MS), None);
        assert_eq!(timers.pop(30 * MS).unwrap().0, 1);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_later_deadline_costs_nothing_and_an_earlier_one_replaces() {
        let mut timers = Timers::default();
        let first = timers.set(1, 30 * MS);
        let kept = timers.move_to(first, 1, 90 * MS);
        assert_eq!((kept, timers.len()), (first, 1));
        let earlier = timers.move_to(kept, 1, 20 * MS);
        assert_ne!(earlier, kept);
        assert_eq!(timers.pop(MS * 100), Some((1, earlier)));
        let (token, stale) = timers.pop(MS * 100).unwrap();
        assert_eq!(token, 1);
        assert_ne!(stale, earlier);
    }

    #[test]
    fn entries_of_the_dead_can_be_dropped() {
        let mut timers = Timers::default();
        timers.set(1, MS);
        let two = timers.set(2, MS);
        timers.set(2, 2 * MS);
        timers.retain(|token, alarm| token == 2 && alarm == two);
        assert_eq!(timers.len(), 1);
    }
}
