//! Requests inside of a session: one at a time, each with the waits that are its due.

use super::{Event, Failure, Link, Owner, Phase, Session};
use crate::ipmi::commands::Request;
use crate::ipmi::packet::{Completion, Message, PayloadType, Reply};
use std::collections::VecDeque;
use std::time::Duration;

/// How long a BMC that said "busy" is left alone.
const BUSY_REST: Duration = Duration::from_millis(500);
/// How often it may say so of one request.
const BUSY_MOST: u32 = 20;

/// What came back of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it went.
    pub completion: Completion,
    /// What came with it.
    pub data: Vec<u8>,
}

#[derive(Debug)]
struct Flight {
    owner: Owner,
    request: Request,
    number: u8,
    attempts: u32,
    busy: u32,
    /// The BMC said that it did nothing: the request goes out again at the deadline.
    again: bool,
    sent: Duration,
    deadline: Duration,
}

/// What is asked, and what will be.
#[derive(Debug, Default)]
pub(super) struct Requests {
    last_id: u64,
    /// The number of the last message, 0 to 63.
    last_number: u8,
    flight: Option<Flight>,
    queue: VecDeque<(Owner, Request)>,
}

impl Requests {
    /// A number for a request of the caller's.
    pub(super) fn number(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The number of the next message.
    pub(super) fn next(&mut self) -> u8 {
        self.last_number = (self.last_number + 1) & 0x3f;
        self.last_number
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.flight.as_ref().map(|flight| flight.deadline)
    }

    pub(super) fn idle(&self) -> bool {
        self.flight.is_none() && self.queue.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.flight = None;
        self.queue.clear();
    }
}

impl Session {
    pub(super) fn ask(&mut self, owner: Owner, request: Request, now: Duration) {
        if self.phase != Phase::Over {
            // The privilege comes before everything that was asked while there was no session.
            if owner == Owner::Privilege {
                self.requests.queue.push_front((owner, request));
            } else {
                self.requests.queue.push_back((owner, request));
            }
            self.next_request(now);
        }
    }

    pub(super) fn next_request(&mut self, now: Duration) {
        if self.requests.flight.is_some() || matches!(self.link, Link::None) {
            return;
        }
        while let Some((owner, request)) = self.requests.queue.pop_front() {
            // Serial over LAN came with IPMI 2.0.
            let console = matches!(owner, Owner::SolActivate { .. });
            if console && matches!(self.link, Link::V15 { .. }) {
                self.events
                    .push_back(Event::ConsoleRefused(Completion::INVALID_COMMAND));
                continue;
            }
            self.requests.flight = Some(Flight {
                owner,
                request,
                number: self.requests.next(),
                attempts: 0,
                busy: 0,
                again: false,
                sent: now,
                deadline: now,
            });
            self.send_flight(now);
            return;
        }
    }

    fn send_flight(&mut self, now: Duration) {
        let (usual, patience) = (self.usual, self.config.patience);
        let Some(flight) = &mut self.requests.flight else {
            return;
        };
        flight.attempts += 1;
        let wait = if flight.request.repeatable {
            patience.wait(flight.attempts, usual)
        } else {
            patience.once
        };
        flight.deadline = now.saturating_add(wait);
        let message = Message {
            netfn: flight.request.netfn,
            command: flight.request.command,
            sequence: flight.number,
            data: &flight.request.data,
        }
        .to_bytes();
        self.transmit(PayloadType::Message, &message, now);
    }

    /// Takes the reply in a message of the BMC.
    pub(super) fn reply(&mut self, payload: &[u8], now: Duration) {
        let Ok(reply) = Reply::decode(payload) else {
            return;
        };
        let Some(flight) = &mut self.requests.flight else {
            return;
        };
        let same = flight.number == reply.sequence
            && flight.request.command == reply.command
            && flight.request.netfn == reply.netfn;
        // A duplicate's code says only that the answer proper is still to come.
        if !same || flight.again || reply.completion == Completion::DUPLICATE {
            return;
        }
        if reply.completion == Completion::BUSY && flight.busy < BUSY_MOST {
            flight.busy += 1;
            flight.again = true;
            flight.deadline = now.saturating_add(BUSY_REST);
            return;
        }
        self.usual = now.saturating_sub(flight.sent).max(self.usual / 2);
        let answer = Answer {
            completion: reply.completion,
            data: reply.data.to_vec(),
        };
        if let Some(flight) = self.requests.flight.take() {
            self.answered(flight.owner, Some(answer), now);
        }
        self.next_request(now);
    }

    pub(super) fn requests_timeout(&mut self, now: Duration) {
        let attempts = match self.phase {
            // Nobody waits for the end of a session for long.
            Phase::Closing => 2,
            _ => self.config.patience.attempts,
        };
        if self
            .requests
            .deadline()
            .is_none_or(|deadline| now < deadline)
        {
            return;
        }
        let number = self.requests.next();
        let Some(flight) = &mut self.requests.flight else {
            return;
        };
        if flight.again {
            // It is another request to the BMC, not a repetition of the one that it turned away.
            flight.again = false;
            flight.number = number;
            flight.attempts = 0;
            flight.sent = now;
            self.send_flight(now);
            return;
        }
        if flight.request.repeatable && flight.attempts < attempts {
            self.send_flight(now);
            return;
        }
        if let Some(flight) = self.requests.flight.take() {
            let (name, repeatable) = (flight.request.name, flight.request.repeatable);
            self.answered(flight.owner, None, now);
            if repeatable && self.phase != Phase::Over {
                if self.phase == Phase::Closing {
                    // The console's end had no answer; the session's is asked for all the same.
                    self.next_request(now);
                } else {
                    self.fail(Failure::Silent(name));
                }
                return;
            }
        }
        self.next_request(now);
    }
}
