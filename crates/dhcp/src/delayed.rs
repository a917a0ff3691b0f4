//! Offers that are held back, because their client can miss one that comes at once.

use crate::machine::Request;
use crate::output::{Output, Transmit};
use bugler_boot::pi::{Family, REPLY_DELAY};
use bugler_model::MacAddr;
use std::collections::VecDeque;
use std::time::Duration;

/// Most offers at a time that wait; one more is sent at once. All boards of a large classroom, and
/// little memory for who invents them.
const MOST: usize = 1024;

/// How long the offer to this client waits.
fn delay(request: &Request<'_>) -> Duration {
    match request.facts.pi {
        Some(pi) if pi.family == Family::Pi3 => REPLY_DELAY,
        _ => Duration::ZERO,
    }
}

/// Offers with the moment at which each is due. All wait equally long, so the first is due first.
#[derive(Default)]
pub(crate) struct Delayed(VecDeque<(Duration, MacAddr, Box<Transmit>)>);

impl Delayed {
    /// Sends an offer, now or later. One to the same client that still waits is replaced, and keeps
    /// its moment: a client that asks again in between is not put off again.
    pub(crate) fn send(
        &mut self,
        request: &Request<'_>,
        transmit: Box<Transmit>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let (delay, mac) = (delay(request), request.client.mac);
        if delay.is_zero() {
            return out.push(Output::Send(transmit));
        }
        let full = self.0.len() >= MOST;
        let waiting = self.0.iter_mut().find(|(_, waits, _)| *waits == mac);
        match waiting {
            Some((_, _, older)) => *older = transmit,
            None if full => out.push(Output::Send(transmit)),
            None => self.0.push_back((now + delay, mac, transmit)),
        }
    }

    /// When the next one is due.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.0.front().map(|(due, ..)| *due)
    }

    /// Sends those that are due.
    pub(crate) fn on_deadline(&mut self, now: Duration, out: &mut Vec<Output>) {
        while self.0.front().is_some_and(|(due, ..)| *due <= now) {
            let due = self.0.pop_front();
            out.extend(due.map(|(_, _, transmit)| Output::Send(transmit)));
        }
    }
}
