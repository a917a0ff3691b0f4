//! How a session begins: IPMI 2.0 section 13.15 (RMCP+), section 6.12 (IPMI 1.5).

use super::exchange::Numbers;
use super::{Answer, Config, Event, Failure, Known, Link, Owner, Phase, Session};
use crate::ipmi::commands::{self, AuthCapabilities, CIPHER_SUITE_PART, Request};
use crate::ipmi::crypto::{Suite, v15_code};
use crate::ipmi::packet::{AuthType, Completion, Datagram, Message, Reply, Status, V15};
use std::collections::VecDeque;
use std::time::Duration;
use zeroize::Zeroizing;

/// How often an exchange that was begun may start again beyond the attempts that a silent BMC is given.
pub(super) const LOSSES: u32 = 8;

#[derive(Debug)]
pub(super) enum Step {
    Capabilities {
        rmcp_plus: bool,
    },
    Suites {
        index: u8,
        records: Vec<u8>,
    },
    Open {
        suite: Suite,
        console: u32,
    },
    Rakp1(Numbers),
    Rakp3 {
        numbers: Numbers,
        integrity_key: Zeroizing<Vec<u8>>,
        check_value: Vec<u8>,
    },
    Challenge {
        auth: AuthType,
    },
    Activate {
        auth: AuthType,
    },
}

impl Step {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Capabilities { .. } => "Get Channel Authentication Capabilities",
            Self::Suites { .. } => "Get Channel Cipher Suites",
            Self::Open { .. } => "Open Session",
            Self::Rakp1(_) => "RAKP message 1",
            Self::Rakp3 { .. } => "RAKP message 3",
            Self::Challenge { .. } => "Get Session Challenge",
            Self::Activate { .. } => "Activate Session",
        }
    }

    /// Whether it belongs to the exchange that starts again as a whole.
    fn is_exchange(&self) -> bool {
        matches!(
            self,
            Self::Open { .. } | Self::Rakp1(_) | Self::Rakp3 { .. }
        )
    }
}

/// Where the beginning stands.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) step: Step,
    /// What was sent last, and the number of its message or its tag.
    pub(super) datagram: Vec<u8>,
    pub(super) number: u8,
    pub(super) tag: u8,
    /// How often the question was sent, or the exchange begun: its steps share the count.
    pub(super) attempts: u32,
    /// How often an exchange broke off in the middle.
    pub(super) losses: u32,
    /// When the question was sent for the first time.
    pub(super) begun: Duration,
    pub(super) deadline: Duration,
    /// The suites that are still to be tried.
    pub(super) candidates: VecDeque<Suite>,
    /// What the BMC lists.
    pub(super) offered: Vec<u8>,
    /// What worked last time is tried, and nothing was asked.
    pub(super) guessed: bool,
    /// A status that may pass.
    pub(super) passing: Option<Status>,
    pub(super) garbage: u32,
}

impl Setup {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            step: Step::Capabilities { rmcp_plus: true },
            datagram: Vec::new(),
            number: 0,
            tag: 0,
            attempts: 1,
            losses: 0,
            begun: Duration::ZERO,
            deadline: Duration::ZERO,
            candidates: config.suites.iter().copied().collect(),
            offered: Vec::new(),
            guessed: false,
            passing: None,
            garbage: 0,
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Something came that cannot be read.
    pub(super) fn garbage(&mut self) {
        self.garbage = self.garbage.saturating_add(1);
    }
}

impl Session {
    pub(super) fn begin(&mut self, now: Duration) {
        match self.config.known {
            Some(Known::Suite(suite)) if self.config.suites.contains(&suite) => {
                self.setup.guessed = true;
                self.setup.candidates = [suite].into();
                self.open(now);
            }
            Some(Known::V15(auth)) if self.config.allow_v15 => {
                self.setup.guessed = true;
                self.challenge(auth, now);
            }
            _ => self.capabilities(true, now),
        }
    }

    /// Sends a datagram for the first time.
    pub(super) fn step(&mut self, step: Step, datagram: Vec<u8>, now: Duration) {
        self.setup.step = step;
        self.setup.datagram.clone_from(&datagram);
        self.setup.begun = now;
        self.wait(now);
        self.out.push_back(datagram);
    }

    fn wait(&mut self, now: Duration) {
        let wait = self.config.patience.wait(self.setup.attempts, self.usual);
        self.setup.deadline = now.saturating_add(wait);
    }

    /// Asks outside of any session, in the format of IPMI 1.5 (section 13.15).
    fn question(&mut self, step: Step, request: &Request, now: Duration) {
        self.setup.attempts = 1;
        self.setup.number = self.requests.next();
        let message = self.setup_message(request);
        let datagram = Datagram::V15(V15 {
            auth: AuthType::None,
            sequence: 0,
            session: 0,
            code: None,
            payload: &message,
        })
        .to_bytes();
        self.step(step, datagram, now);
    }

    fn setup_message(&self, request: &Request) -> Vec<u8> {
        Message {
            netfn: request.netfn,
            command: request.command,
            sequence: self.setup.number,
            data: &request.data,
        }
        .to_bytes()
    }

    pub(super) fn capabilities(&mut self, rmcp_plus: bool, now: Duration) {
        let request = commands::auth_capabilities(self.config.role, rmcp_plus);
        self.question(Step::Capabilities { rmcp_plus }, &request, now);
    }

    fn suites(&mut self, index: u8, records: Vec<u8>, now: Duration) {
        let request = commands::cipher_suites(index);
        self.question(Step::Suites { index, records }, &request, now);
    }

    fn challenge(&mut self, auth: AuthType, now: Duration) {
        let user = self.config.credentials.user().as_bytes().to_vec();
        let request = commands::session_challenge(auth, &user);
        self.question(Step::Challenge { auth }, &request, now);
    }

    fn activate(&mut self, auth: AuthType, session: u32, challenge: &[u8; 16], now: Duration) {
        let inbound = self.nonces.number();
        let request = commands::activate_session(auth, self.config.role, challenge, inbound);
        self.setup.attempts = 1;
        self.setup.number = self.requests.next();
        let message = self.setup_message(&request);
        let password = self.config.credentials.password().expose();
        let datagram = Datagram::V15(V15 {
            auth,
            sequence: 0,
            session,
            code: v15_code(auth, password, session, 0, &message),
            payload: &message,
        })
        .to_bytes();
        self.step(Step::Activate { auth }, datagram, now);
    }

    pub(super) fn setup_timeout(&mut self, now: Duration) {
        if now < self.setup.deadline {
            return;
        }
        // A BMC that has answered a part of the exchange is there: only the network loses.
        let alive = matches!(self.setup.step, Step::Rakp1(_) | Step::Rakp3 { .. });
        let lost = alive && self.setup.losses < LOSSES;
        if lost || self.setup.attempts < self.config.patience.attempts {
            if lost {
                self.setup.losses += 1;
            } else {
                self.setup.attempts += 1;
            }
            if self.setup.step.is_exchange() {
                // Suites that nobody vouched for are tried in turn: a BMC may meet one with silence.
                let untold = self.setup.offered.is_empty();
                if untold && matches!(self.setup.step, Step::Open { .. }) {
                    self.setup.candidates.rotate_left(1);
                }
                self.open(now);
            } else {
                let datagram = self.setup.datagram.clone();
                self.out.push_back(datagram);
                self.wait(now);
            }
            return;
        }
        let what = self.setup.step.name();
        match (&self.setup.step, self.setup.passing, self.setup.garbage) {
            // Not to know this command is allowed, and some meet what they do not know with silence.
            (Step::Suites { .. }, ..) => {
                self.setup.attempts = 1;
                self.open(now);
            }
            (Step::Activate { .. }, None, 0) => self.fail(Failure::MaybePassword),
            (_, Some(status), _) => self.fail(Failure::Refused { what, status }),
            (_, None, 0) => self.fail(Failure::Silent(what)),
            (_, None, datagrams) => self.fail(Failure::Garbage { what, datagrams }),
        }
    }

    pub(super) fn setting_up(&mut self, datagram: &Datagram<'_>, now: Duration) {
        let understood = match datagram {
            Datagram::V15(packet) => self.setup_reply(packet, now),
            Datagram::V20(packet) if !packet.encrypted => self.setup_payload(packet, now),
            _ => None,
        };
        if understood.is_none() {
            self.setup.garbage();
        }
    }

    /// None: what came cannot be read.
    fn setup_reply(&mut self, packet: &V15<'_>, now: Duration) -> Option<()> {
        let reply = Reply::decode(packet.payload).ok()?;
        let command = match &self.setup.step {
            Step::Capabilities { .. } => 0x38,
            Step::Suites { .. } => 0x54,
            Step::Challenge { .. } => 0x39,
            Step::Activate { .. } => 0x3a,
            Step::Open { .. } | Step::Rakp1(_) | Step::Rakp3 { .. } => return Some(()),
        };
        let stale = reply.sequence != self.setup.number || reply.command != command;
        if stale || matches!(reply.completion, Completion::DUPLICATE | Completion::BUSY) {
            // "Busy" is met with patience: the question goes out again at its deadline.
            return Some(());
        }
        // A BMC that was slow with this will be slow with what comes next.
        self.usual = now.saturating_sub(self.setup.begun);
        match &mut self.setup.step {
            Step::Capabilities { rmcp_plus } => {
                if reply.completion == Completion::OK {
                    let capabilities = AuthCapabilities::read(reply.data)?;
                    self.chosen(capabilities, now);
                } else if *rmcp_plus {
                    self.capabilities(false, now);
                } else {
                    self.refused_command(reply.completion);
                }
            }
            Step::Suites { index, records } => {
                let (index, mut records) = (*index, std::mem::take(records));
                if reply.completion == Completion::OK {
                    let part = reply.data.get(1..)?;
                    records.extend_from_slice(part.get(..CIPHER_SUITE_PART).unwrap_or(part));
                    if part.len() >= CIPHER_SUITE_PART && index < 0x3f {
                        self.suites(index + 1, records, now);
                        return Some(());
                    }
                }
                self.listed(&records, now);
            }
            Step::Challenge { auth } => {
                let auth = *auth;
                if reply.completion == Completion::OK {
                    let (session, rest) = reply.data.split_first_chunk::<4>()?;
                    let challenge = *rest.first_chunk::<16>()?;
                    self.activate(auth, u32::from_le_bytes(*session), &challenge, now);
                } else if self.setup.guessed {
                    self.setup.guessed = false;
                    self.capabilities(true, now);
                } else if matches!(reply.completion.0, 0x81 | 0x82) {
                    // The command's own codes: no such user, and the nameless user is disabled.
                    self.fail(Failure::User(Status::NAME));
                } else {
                    self.refused_command(reply.completion);
                }
            }
            Step::Activate { auth } => {
                let auth = *auth;
                self.activated(auth, packet, &reply, now)?;
            }
            Step::Open { .. } | Step::Rakp1(_) | Step::Rakp3 { .. } => {}
        }
        Some(())
    }

    fn refused_command(&mut self, completion: Completion) {
        let what = self.setup.step.name();
        self.fail(Failure::Command { what, completion });
    }

    /// The BMC has said what it can.
    fn chosen(&mut self, capabilities: AuthCapabilities, now: Duration) {
        if capabilities.v20 {
            self.suites(0, Vec::new(), now);
        } else if !self.config.allow_v15 {
            self.fail(Failure::OnlyV15);
        } else {
            let auth = [AuthType::Md5, AuthType::Password, AuthType::None]
                .into_iter()
                .find(|auth| capabilities.offers(*auth));
            match auth {
                Some(auth) => self.challenge(auth, now),
                None => self.fail(Failure::NoAuthType(capabilities.offered())),
            }
        }
    }

    /// The BMC has listed its suites; an empty list says that it cannot list them.
    fn listed(&mut self, records: &[u8], now: Duration) {
        let offered = commands::suite_numbers(records);
        self.setup.candidates = self
            .config
            .suites
            .iter()
            .copied()
            .filter(|suite| offered.is_empty() || offered.contains(&suite.number()))
            .collect();
        self.setup.offered = offered;
        self.setup.attempts = 1;
        self.open(now);
    }

    fn activated(
        &mut self,
        auth: AuthType,
        packet: &V15<'_>,
        reply: &Reply<'_>,
        now: Duration,
    ) -> Option<()> {
        let password = self.config.credentials.password().expose();
        let code = v15_code(
            packet.auth,
            password,
            packet.session,
            packet.sequence,
            packet.payload,
        );
        if packet.code != code {
            return None;
        }
        if reply.completion != Completion::OK {
            self.refused_command(reply.completion);
            return Some(());
        }
        let [agreed, s0, s1, s2, s3, n0, n1, n2, n3] = *reply.data.first_chunk::<9>()?;
        // A BMC that does not authenticate each message says so here.
        let agreed = AuthType::of(agreed & 0x0f)?;
        if agreed != auth && agreed != AuthType::None {
            return None;
        }
        self.link = Link::V15 {
            auth: agreed,
            session: u32::from_le_bytes([s0, s1, s2, s3]),
            sequence: u32::from_le_bytes([n0, n1, n2, n3]).max(1),
        };
        self.config.known = Some(Known::V15(auth));
        self.ask_privilege(now);
        Some(())
    }

    pub(super) fn ask_privilege(&mut self, now: Duration) {
        self.phase = Phase::Up;
        let request = commands::set_privilege(self.config.role);
        self.ask(Owner::Privilege, request, now);
    }

    pub(super) fn privileged(&mut self, answer: &Answer) {
        if answer.completion == Completion::OK {
            if let Some(known) = self.config.known {
                self.events.push_back(Event::Up(known));
            }
        } else {
            self.fail(Failure::Command {
                what: "Set Session Privilege Level",
                completion: answer.completion,
            });
        }
    }
}
