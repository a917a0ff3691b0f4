//! Shares a rate among devices: who may move how many bytes, and when. Time is an argument.
//!
//! Whoever wants to move bytes asks and waits. Bytes are let through one request after the other, at
//! the rate set for all; among the devices that wait, the one that has had least is next, whatever
//! number of requests each has. A device can have a rate of its own as well. There is one deadline at a
//! time, so one timer, however many wait.

use bugler_model::DeviceId;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How far a rate may fall behind and catch up again: what a timer is late.
const SLACK: Duration = Duration::from_millis(50);

/// The limits. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Of all devices together, in bytes a second.
    pub(crate) all: Option<u64>,
    /// Of each device, in bytes a second.
    pub(crate) each: Option<u64>,
}

/// A rate, and when it is free again.
#[derive(Clone, Copy, Debug)]
struct Lane {
    rate: Option<u64>,
    free: Duration,
}

impl Lane {
    fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            free: Duration::ZERO,
        }
    }

    fn is_free(&self, now: Duration) -> bool {
        self.rate.is_none() || self.free <= now
    }

    fn charge(&mut self, bytes: u64, now: Duration) {
        let Some(rate) = self.rate else { return };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let took = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free = self
            .free
            .max(now.saturating_sub(SLACK))
            .saturating_add(took);
    }
}

#[derive(Debug)]
struct Queue<W> {
    lane: Lane,
    /// Bytes it has had, counted from the least of those that waited when it came.
    had: u64,
    waiting: VecDeque<(u64, W)>,
}

/// Those who wait, each with a `W` by which it is told.
#[derive(Debug)]
pub(crate) struct Throttle<W> {
    rates: Rates,
    all: Lane,
    devices: BTreeMap<DeviceId, Queue<W>>,
}

impl<W> Throttle<W> {
    pub(crate) fn new(rates: Rates) -> Self {
        Self {
            rates,
            all: Lane::new(rates.all),
            devices: BTreeMap::new(),
        }
    }

    /// `bytes` are to be moved for a device.
    pub(crate) fn ask(&mut self, device: DeviceId, bytes: u64, waiter: W) {
        // Who comes later begins level with those who wait: nobody saves up, nobody is behind.
        let least = self.waiting().map(|(_, queue)| queue.had).min();
        let each = self.rates.each;
        let queue = self.devices.entry(device).or_insert_with(|| Queue {
            lane: Lane::new(each),
            had: 0,
            waiting: VecDeque::new(),
        });
        if queue.waiting.is_empty() {
            queue.had = queue.had.max(least.unwrap_or_default());
        }
        queue.waiting.push_back((bytes, waiter));
    }

    fn waiting(&self) -> impl Iterator<Item = (&DeviceId, &Queue<W>)> {
        let queues = self.devices.iter();
        queues.filter(|(_, queue)| !queue.waiting.is_empty())
    }

    /// Lets through who may be let through. `tell` says whether the one that waited still wants it;
    /// the bytes of one that does not are not counted. Returns when to call again; `None`: when
    /// somebody has asked.
    pub(crate) fn release(
        &mut self,
        now: Duration,
        mut tell: impl FnMut(W) -> bool,
    ) -> Option<Duration> {
        while self.all.is_free(now) {
            let ready = self.waiting().filter(|(_, queue)| queue.lane.is_free(now));
            let next = ready.min_by_key(|(_, queue)| queue.had).map(|(id, _)| *id);
            let Some(queue) = next.and_then(|id| self.devices.get_mut(&id)) else {
                break;
            };
            if let Some((bytes, waiter)) = queue.waiting.pop_front()
                && tell(waiter)
            {
                queue.had = queue.had.saturating_add(bytes);
                queue.lane.charge(bytes, now);
                self.all.charge(bytes, now);
            }
        }
        // A device that waits for nothing, and owes nothing, is as good as new.
        self.devices
            .retain(|_, queue| !queue.waiting.is_empty() || !queue.lane.is_free(now));
        let first = self.waiting().map(|(_, queue)| queue.lane.free).min()?;
        let rates = [(self.rates.all, self.all.free), (self.rates.each, first)];
        let limits = rates.into_iter().filter(|(rate, _)| rate.is_some());
        limits.map(|(_, free)| free).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const MB: u64 = 1_000_000;

    /// Lets time pass until nobody waits; who was let through, when.
    fn run<W>(throttle: &mut Throttle<W>, mut now: Duration) -> Vec<(Duration, W)> {
        let mut out = Vec::new();
        loop {
            let mut told = Vec::new();
            let next = throttle.release(now, |waiter| {
                told.push(waiter);
                true
            });
            out.extend(told.into_iter().map(|waiter| (now, waiter)));
            match next {
                Some(next) => {
                    assert!(next > now, "no timer for the past");
                    now = next;
                }
                None => return out,
            }
        }
    }

    #[test]
    fn devices_share_alike_however_many_requests_each_has() {
        let mut throttle = Throttle::new(Rates {
            all: Some(10 * MB),
            each: None,
        });
        for n in 0..100 {
            throttle.ask(DeviceId(1), MB, (1, n));
        }
        for n in 0..10 {
            throttle.ask(DeviceId(2), MB, (2, n));
        }
        let order = run(&mut throttle, Duration::from_secs(100));
        let second = order.iter().rposition(|(_, (device, _))| *device == 2);
        assert!(second.unwrap() <= 20, "{second:?}");
        let (last, _) = order.last().unwrap();
        let took = *last - Duration::from_secs(100);
        // 110 MB at 10 MB/s; the first megabyte goes at once.
        assert!((10.8..=11.0).contains(&took.as_secs_f64()), "{took:?}");
    }

    #[test]
    fn a_device_has_a_rate_of_its_own_and_leaves_the_rest_to_others() {
        let mut throttle = Throttle::new(Rates {
            all: Some(10 * MB),
            each: Some(MB),
        });
        for n in 0..5 {
            throttle.ask(DeviceId(1), MB, n);
            throttle.ask(DeviceId(2), MB, n);
        }
        let order = run(&mut throttle, Duration::from_secs(100));
        let took = order.last().unwrap().0 - Duration::from_secs(100);
        assert!((3.8..=4.2).contains(&took.as_secs_f64()), "{took:?}");
    }

    #[test]
    fn one_that_has_gone_away_costs_nothing() {
        let mut throttle = Throttle::new(Rates {
            all: Some(MB),
            each: Some(MB),
        });
        throttle.ask(DeviceId(1), 1000 * MB, "gone");
        throttle.ask(DeviceId(1), MB, "here");
        let mut told = Vec::new();
        let next = throttle.release(Duration::from_secs(5), |waiter| {
            told.push(waiter);
            waiter == "here"
        });
        assert_eq!((told, next), (vec!["gone", "here"], None));
        throttle.release(Duration::from_secs(50), |_| true);
        assert!(
            throttle.devices.is_empty(),
            "nothing is kept of who is done"
        );
    }

    #[test]
    fn who_comes_later_does_not_make_up_for_lost_time() {
        let mut throttle = Throttle::new(Rates {
            all: Some(MB),
            each: None,
        });
        for n in 0..20 {
            throttle.ask(DeviceId(1), MB, (1, n));
        }
        let mut now = Duration::from_secs(10);
        for _ in 0..10 {
            now = throttle.release(now, |_| true).unwrap();
        }
        for n in 0..10 {
            throttle.ask(DeviceId(2), MB, (2, n));
        }
        let order = run(&mut throttle, now);
        let first_ten = order.iter().take(10).filter(|(_, (d, _))| *d == 2).count();
        assert!((4..=6).contains(&first_ten), "{order:?}");
    }

    proptest! {
        #[test]
        fn everybody_is_let_through_in_order_and_never_faster_than_the_rates(
            asks in prop::collection::vec((1_u64..5, 1_u64..3 * MB), 1..60),
            all in prop::option::of(MB..20 * MB),
            each in prop::option::of(MB..20 * MB),
        ) {
            let mut throttle = Throttle::new(Rates { all, each });
            for (n, (device, bytes)) in asks.iter().enumerate() {
                throttle.ask(DeviceId(*device), *bytes, n);
            }
            let start = Duration::from_secs(1000);
            let order = run(&mut throttle, start);
            prop_assert_eq!(order.len(), asks.len());
            let mut last: HashMap<u64, usize> = HashMap::new();
            let mut moved: HashMap<Option<u64>, u64> = HashMap::new();
            for (at, n) in order {
                let (device, bytes) = asks[n];
                if let Some(before) = last.insert(device, n) {
                    prop_assert!(before < n, "out of order within a device");
                }
                let passed = (at - start + SLACK).as_secs_f64();
                for (lane, rate) in [(None, all), (Some(device), each)] {
                    let moved = moved.entry(lane).or_default();
                    if let Some(rate) = rate {
                        // All but the one that is let through now must have had its time.
                        prop_assert!(*moved as f64 <= passed * rate as f64 + 2.0);
                    }
                    *moved += bytes;
                }
            }
        }
    }
}
