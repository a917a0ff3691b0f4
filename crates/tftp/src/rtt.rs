//! When to send again: the retransmission timeout, from the round trips seen so far.
//!
//! RFC 6298 (Jacobson and Karels) with bounds that fit one boot segment: a client's own timeout is a
//! second or more, so whoever waits for it loses a second for each lost datagram. A server that
//! measures can repair the loss within milliseconds.

use std::time::Duration;

/// The shortest timeout. Below it the scheduling of the client, not the network, decides when an ACK
/// comes.
pub const MIN_RTO: Duration = Duration::from_millis(20);
/// The longest timeout. It is also the shortest that a client can ask for (RFC 2349 counts in
/// seconds), so the `timeout` option is met by any timeout of this server.
pub const MAX_RTO: Duration = Duration::from_secs(1);
/// The timeout before any round trip was measured.
pub const FIRST_RTO: Duration = Duration::from_millis(200);

/// The estimate of one transfer.
#[derive(Debug, Clone)]
pub struct Rtt {
    smoothed: Option<Duration>,
    variance: Duration,
    rto: Duration,
}

impl Default for Rtt {
    /// Nothing measured yet.
    fn default() -> Self {
        Self {
            smoothed: None,
            variance: Duration::ZERO,
            rto: FIRST_RTO,
        }
    }
}

impl Rtt {
    /// The smoothed round trip, once there is one.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// How long to wait for an answer to what is sent now.
    pub fn timeout(&self) -> Duration {
        self.rto
    }

    /// Takes one round trip. The caller measures only what was sent once (Karn's rule): the answer
    /// to something sent twice does not say to which of the two it is the answer.
    pub fn sample(&mut self, round_trip: Duration) {
        match self.smoothed {
            // RFC 6298 section 2.2.
            None => {
                self.smoothed = Some(round_trip);
                self.variance = round_trip / 2;
            }
            // RFC 6298 section 2.3, with alpha = 1/8 and beta = 1/4.
            Some(smoothed) => {
                let error = smoothed.abs_diff(round_trip);
                self.variance = (self.variance * 3 + error) / 4;
                self.smoothed = Some((smoothed * 7 + round_trip) / 8);
            }
        }
        let smoothed = self.smoothed.unwrap_or(round_trip);
        self.rto = smoothed
            .saturating_add(self.variance * 4)
            .clamp(MIN_RTO, MAX_RTO);
    }

    /// Doubles the timeout after it passed without an answer (RFC 6298 section 5.5). It stays so
    /// until the next [`sample`](Self::sample).
    pub fn back_off(&mut self) {
        self.rto = (self.rto * 2).min(MAX_RTO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_timeout_follows_the_round_trips() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), FIRST_RTO);
        rtt.sample(100 * MS);
        assert_eq!(rtt.timeout(), 300 * MS);
        for _ in 0..100 {
            rtt.sample(100 * MS);
        }
        assert!(rtt.timeout() < 102 * MS, "{:?}", rtt.timeout());
        rtt.sample(300 * MS);
        assert!(rtt.timeout() > 300 * MS, "{:?}", rtt.timeout());
    }

    #[test]
    fn it_is_never_below_the_floor_nor_above_the_bound() {
        let mut rtt = Rtt::default();
        for _ in 0..50 {
            rtt.sample(Duration::from_micros(30));
        }
        assert_eq!(rtt.timeout(), MIN_RTO);
        for _ in 0..50 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), MAX_RTO);
        rtt.sample(Duration::from_secs(9));
        assert_eq!(rtt.timeout(), MAX_RTO);
    }

    #[test]
    fn it_backs_off_until_the_next_sample() {
        let mut rtt = Rtt::default();
        rtt.sample(MS);
        rtt.back_off();
        rtt.back_off();
        assert_eq!(rtt.timeout(), 80 * MS);
        rtt.sample(MS);
        assert_eq!(rtt.timeout(), MIN_RTO);
    }
}
