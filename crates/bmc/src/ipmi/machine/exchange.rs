//! The exchange that begins an IPMI 2.0 session: Open Session and RAKP (sections 13.17 to 13.23).

use super::setup::{LOSSES, Step};
use super::{Failure, Known, Link, Session};
use crate::ipmi::crypto::{Handshake, Keys, Suite, same};
use crate::ipmi::packet::{
    Datagram, OpenReply, OpenRequest, PayloadType, Rakp1, Rakp2, Rakp3, Rakp4, Random, Status, V20,
};
use std::time::Duration;

/// What both sides have said so far.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    suite: Suite,
    console: u32,
    bmc: u32,
    random: Random,
    role: u8,
}

impl Session {
    /// Begins the exchange with the first candidate.
    pub(super) fn open(&mut self, now: Duration) {
        let Some(suite) = self.setup.candidates.front().copied() else {
            self.fail(Failure::NoSuite {
                offered: self.setup.offered.clone(),
                status: self.setup.passing,
            });
            return;
        };
        let console = self.nonces.number();
        self.setup.tag = self.setup.tag.wrapping_add(1);
        let payload = OpenRequest {
            tag: self.setup.tag,
            privilege: self.config.role.value(),
            console,
            algorithms: suite.algorithms(),
        }
        .to_bytes();
        let datagram = plain(PayloadType::OpenRequest, &payload);
        self.step(Step::Open { suite, console }, datagram, now);
    }

    /// None: what came cannot be read.
    pub(super) fn setup_payload(&mut self, packet: &V20<'_>, now: Duration) -> Option<()> {
        let tag = self.setup.tag;
        match (packet.kind, &self.setup.step) {
            (PayloadType::OpenReply, Step::Open { suite, console }) => {
                let (suite, console) = (*suite, *console);
                let reply = OpenReply::decode(packet.payload).ok()?;
                if reply.tag != tag {
                    return Some(());
                }
                match reply.opened {
                    Ok(_) if reply.console != console => {}
                    Ok((bmc, algorithms)) if algorithms == suite.algorithms() => {
                        self.rakp1(suite, console, bmc, now);
                    }
                    // It has put something else in the place of what was proposed.
                    Ok(_) => self.refused(Status::NO_SUITE, now),
                    Err(status) => self.refused(status, now),
                }
            }
            (PayloadType::Rakp2, Step::Rakp1(numbers)) => {
                let numbers = numbers.clone();
                let reply = Rakp2::decode(packet.payload).ok()?;
                if reply.tag != tag || (reply.body.is_ok() && reply.console != numbers.console) {
                    return Some(());
                }
                match reply.body {
                    Ok((random, guid, proof)) => self.rakp3(numbers, random, guid, proof, now),
                    Err(status) => self.refused(status, now),
                }
            }
            (
                PayloadType::Rakp4,
                Step::Rakp3 {
                    numbers,
                    integrity_key,
                    check_value,
                },
            ) => {
                let reply = Rakp4::decode(packet.payload).ok()?;
                let other = reply.status == Status::OK && reply.console != numbers.console;
                if reply.tag != tag || other {
                    return Some(());
                }
                if reply.status != Status::OK {
                    self.refused(reply.status, now);
                    return Some(());
                }
                if !same(reply.icv, check_value) {
                    self.fail(Failure::GroupKey);
                    return Some(());
                }
                self.link = Link::V20 {
                    keys: Keys::new(numbers.suite, integrity_key),
                    console: numbers.console,
                    bmc: numbers.bmc,
                    sequence: 1,
                };
                self.config.known = Some(Known::Suite(numbers.suite));
                self.ask_privilege(now);
            }
            _ => {}
        }
        Some(())
    }

    fn rakp1(&mut self, suite: Suite, console: u32, bmc: u32, now: Duration) {
        let numbers = Numbers {
            suite,
            console,
            bmc,
            random: self.nonces.bytes(),
            role: self.config.role.by_name(),
        };
        self.setup.tag = self.setup.tag.wrapping_add(1);
        let payload = Rakp1 {
            tag: self.setup.tag,
            bmc,
            random: numbers.random,
            role: numbers.role,
            user: self.config.credentials.user().as_bytes(),
        }
        .to_bytes();
        self.step(
            Step::Rakp1(numbers),
            plain(PayloadType::Rakp1, &payload),
            now,
        );
    }

    fn rakp3(
        &mut self,
        numbers: Numbers,
        random: Random,
        guid: Random,
        proof: &[u8],
        now: Duration,
    ) {
        let credentials = &self.config.credentials;
        let password = credentials.password().expose();
        let handshake = Handshake {
            suite: numbers.suite,
            console: numbers.console,
            bmc: numbers.bmc,
            console_random: numbers.random,
            bmc_random: random,
            guid,
            role: numbers.role,
            user: credentials.user().as_bytes(),
        };
        let known = same(&handshake.bmc_proof(password), proof);
        let group = credentials.group_key().unwrap_or(credentials.password());
        let integrity_key = handshake.integrity_key(group.expose());
        let check_value = handshake.check_value(&integrity_key);
        let own_proof = handshake.console_proof(password);
        self.setup.tag = self.setup.tag.wrapping_add(1);
        // A wrong proof is told, so that the BMC lets go of the session (table 13-13).
        let (status, code) = if known {
            (Status::OK, own_proof.as_slice())
        } else {
            (Status::BAD_ICV, &[][..])
        };
        let payload = Rakp3 {
            tag: self.setup.tag,
            status,
            bmc: numbers.bmc,
            code,
        }
        .to_bytes();
        let datagram = plain(PayloadType::Rakp3, &payload);
        if !known {
            self.out.push_back(datagram);
            self.fail(Failure::Password);
            return;
        }
        let step = Step::Rakp3 {
            numbers,
            integrity_key,
            check_value,
        };
        self.step(step, datagram, now);
    }

    /// The BMC has refused a step of the exchange.
    fn refused(&mut self, status: Status, now: Duration) {
        let what = self.setup.step.name();
        match status {
            // It has proved that it has the same password, so this is about other numbers: it heard RAKP
            // message 1 twice, and answered with others each time.
            Status::BAD_ICV if self.setup.losses < LOSSES => {
                self.setup.losses += 1;
                self.setup.passing = Some(status);
                self.open(now);
            }
            Status::NAME | Status::NAME_LENGTH | Status::ROLE | Status::ROLE_DENIED => {
                self.fail(Failure::User(status));
            }
            _ if status.is_about_the_suite() => {
                self.setup.passing = Some(status);
                self.setup.candidates.pop_front();
                if !self.setup.candidates.is_empty() {
                    self.setup.attempts = 1;
                    self.open(now);
                } else if self.setup.guessed {
                    self.setup.guessed = false;
                    self.capabilities(true, now);
                } else if status == Status::INSUFFICIENT_RESOURCES {
                    self.fail(Failure::Refused { what, status });
                } else {
                    self.fail(Failure::NoSuite {
                        offered: self.setup.offered.clone(),
                        status: Some(status),
                    });
                }
            }
            // It has forgotten the session, after a restart maybe: the exchange starts again in time.
            Status::BAD_SESSION => self.setup.passing = Some(status),
            _ => self.fail(Failure::Refused { what, status }),
        }
    }
}

/// A payload outside of any session.
fn plain(kind: PayloadType, payload: &[u8]) -> Vec<u8> {
    Datagram::V20(V20 {
        kind,
        encrypted: false,
        authenticated: false,
        session: 0,
        sequence: 0,
        payload,
        trailer: &[],
    })
    .to_bytes()
}
