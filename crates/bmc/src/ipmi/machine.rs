//! One session with one BMC, without sockets and without a clock: datagrams, wishes and time in,
//! datagrams and events out.
//!
//! ```text
//!            known suite
//!   start ──────────────────────────────┐
//!     │ Get Channel Auth Capabilities   v
//!     ├─> Cipher Suites ──> Open ──> RAKP 1/2 ──> RAKP 3/4 ──┐
//!     │   (IPMI 2.0)          ^  a silence starts here again ├─> Set Privilege ──> up ──> Close
//!     └─> Challenge ──> Activate ────────────────────────────┘
//!         (IPMI 1.5, where allowed)
//! ```
//!
//! * A question is sent again when no answer comes, after 1 s, 2 s, 4 s. What begins a session is
//!   never repeated singly: the whole exchange starts again with new numbers.
//! * A request that is not [repeatable](Request::repeatable) is sent once, whatever comes back. Only
//!   the completion code "busy" lets it go out again: then the BMC has said that it did nothing.
//! * A wrong password ends it at once. Nothing is tried again.

mod config;
mod exchange;
mod failure;
mod requests;
mod setup;
mod sol;
mod window;

use crate::ipmi::commands::{self, Request, SolActivated};
use crate::ipmi::crypto::{Keys, Nonces, v15_code};
use crate::ipmi::packet::{AuthType, Completion, Datagram, PayloadType, SolPacket, V15, V20};
use requests::Requests;
use setup::Setup;
use sol::Sol;
use std::collections::VecDeque;
use std::time::Duration;
use window::Window;

pub use config::{Config, Known, Patience};
pub use failure::Failure;
pub use requests::Answer;
pub use sol::{Pacing, SolEvent};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The session is there.
    Up(Known),
    /// A request was answered, or was not: then it may have been carried out all the same.
    Answered {
        /// The number that [`Session::request`] gave it.
        id: u64,
        /// What came back.
        answer: Option<Answer>,
    },
    /// The console is there.
    ConsoleUp,
    /// The console cannot be had.
    ConsoleRefused(Completion),
    /// Of the console.
    Console(SolEvent),
    /// The session is over, or never was. Requests that had no answer get none.
    Failed(Failure),
    /// The session was closed as it was asked to be.
    Closed,
}

/// Which packets go out, and which are taken in.
#[derive(Debug)]
enum Link {
    /// No session yet.
    None,
    V15 {
        auth: AuthType,
        session: u32,
        /// The number of the next packet.
        sequence: u32,
    },
    V20 {
        keys: Keys,
        /// The console's number, by which the BMC's packets are known.
        console: u32,
        /// The BMC's number.
        bmc: u32,
        sequence: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The exchange that begins a session.
    Setup,
    Up,
    Closing,
    Over,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    config: Config,
    nonces: Nonces,
    phase: Phase,
    setup: Setup,
    link: Link,
    window: Window,
    requests: Requests,
    /// The longest that an answer took lately.
    usual: Duration,
    console: Option<Sol>,
    console_wanted: Option<Pacing>,
    /// The session's number of the last packet of the console.
    console_number: Option<u32>,
    /// When something was last sent to the BMC.
    spoke: Duration,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

/// Whose answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Caller(u64),
    Keepalive,
    Privilege,
    SolActivate { take_over: bool },
    SolDeactivate,
    SolEnd,
    Close,
}

impl Session {
    /// Begins a session. `seed` is 32 bytes of chance that are used for nothing else; times are since
    /// any fixed moment that the caller chooses.
    pub fn new(config: Config, seed: [u8; 32], now: Duration) -> Self {
        let mut session = Self {
            nonces: Nonces::new(seed),
            phase: Phase::Setup,
            setup: Setup::new(&config),
            link: Link::None,
            window: Window::default(),
            requests: Requests::default(),
            usual: Duration::ZERO,
            console: None,
            console_wanted: None,
            console_number: None,
            spoke: now,
            out: VecDeque::new(),
            events: VecDeque::new(),
            config,
        };
        session.begin(now);
        session
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`timeout`](Self::timeout) is due; None once the session is over or nothing is awaited.
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Over => None,
            Phase::Setup => Some(self.setup.deadline()),
            Phase::Up | Phase::Closing => {
                let console = self.console.as_ref();
                let alive = console.map(|_| self.spoke.saturating_add(self.config.keepalive));
                [
                    self.requests.deadline(),
                    console.and_then(Sol::deadline),
                    alive,
                ]
                .into_iter()
                .flatten()
                .min()
            }
        }
    }

    /// Whether nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Asks something, now or as soon as the session is there and what was asked before is answered.
    /// The number comes back in [`Event::Answered`]. Requests of a session that is over get no answer.
    pub fn request(&mut self, request: Request, now: Duration) -> u64 {
        let id = self.requests.number();
        self.ask(Owner::Caller(id), request, now);
        id
    }

    /// Opens the machine's console, with or without taking it away from somebody else.
    pub fn open_console(&mut self, take_over: bool, pacing: Pacing, now: Duration) {
        self.console_wanted = Some(pacing);
        self.ask(
            Owner::SolActivate { take_over },
            commands::activate_sol(),
            now,
        );
    }

    /// Types these characters. Nothing is typed while there is no console.
    pub fn write(&mut self, bytes: &[u8], now: Duration) {
        if let Some(console) = &mut self.console {
            console.write(bytes, now);
            self.pump_console(now);
        }
    }

    /// Makes a break on the serial line.
    pub fn send_break(&mut self, now: Duration) {
        if let Some(console) = &mut self.console {
            console.send_break(now);
            self.pump_console(now);
        }
    }

    /// Sets how characters are typed from now on.
    pub fn set_pacing(&mut self, pacing: Pacing) {
        if let Some(console) = &mut self.console {
            console.set_pacing(pacing);
        }
    }

    /// How many typed characters the BMC has not acknowledged.
    pub fn unsent(&self) -> usize {
        self.console.as_ref().map_or(0, Sol::unsent)
    }

    /// Takes the characters that the BMC has not acknowledged, to be typed in another session. Those of
    /// the last packet may have arrived.
    pub fn take_unsent(&mut self) -> Vec<u8> {
        self.console
            .as_mut()
            .map(Sol::take_unsent)
            .unwrap_or_default()
    }

    /// Ends the console, then the session. [`Event::Closed`] or [`Event::Failed`] is the last event.
    pub fn close(&mut self, now: Duration) {
        match self.phase {
            Phase::Over | Phase::Closing => {}
            Phase::Setup => {
                self.phase = Phase::Over;
                self.events.push_back(Event::Closed);
            }
            Phase::Up => {
                self.requests.clear();
                self.phase = Phase::Closing;
                if self.console.is_some() {
                    self.ask(Owner::SolEnd, commands::deactivate_sol(), now);
                }
                let session = match self.link {
                    Link::None => 0,
                    Link::V15 { session, .. } => session,
                    Link::V20 { bmc, .. } => bmc,
                };
                self.ask(Owner::Close, commands::close_session(session), now);
            }
        }
    }

    /// Takes a datagram of the BMC. What belongs to no question of ours is left alone.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        if self.phase == Phase::Over {
            return;
        }
        let Ok(datagram) = Datagram::decode(bytes) else {
            self.setup.garbage();
            return;
        };
        if self.phase == Phase::Setup {
            self.setting_up(&datagram, now);
            return;
        }
        match &datagram {
            Datagram::V15(packet) => self.v15(packet, now),
            Datagram::V20(packet) => self.v20(bytes, packet, now),
            Datagram::Ping { .. } | Datagram::Pong { .. } => {}
        }
    }

    /// Takes the passing of time. Before the deadline this does nothing.
    pub fn timeout(&mut self, now: Duration) {
        match self.phase {
            Phase::Over => {}
            Phase::Setup => self.setup_timeout(now),
            Phase::Up | Phase::Closing => {
                self.requests_timeout(now);
                if let Some(console) = &mut self.console {
                    if console.timeout(now) {
                        self.pump_console(now);
                    } else {
                        self.fail(Failure::Silent("characters for the console"));
                    }
                }
                self.stay_alive(now);
            }
        }
    }

    fn stay_alive(&mut self, now: Duration) {
        let idle = now.saturating_sub(self.spoke) >= self.config.keepalive;
        if self.phase == Phase::Up && self.console.is_some() && idle && self.requests.idle() {
            self.ask(Owner::Keepalive, commands::device_id(), now);
        }
        if idle {
            self.spoke = now;
        }
    }

    fn v15(&mut self, packet: &V15<'_>, now: Duration) {
        let Link::V15 { auth, session, .. } = self.link else {
            return;
        };
        if packet.session != session {
            return;
        }
        let password = self.config.credentials.password().expose();
        let code = v15_code(
            packet.auth,
            password,
            session,
            packet.sequence,
            packet.payload,
        );
        if packet.auth != auth || packet.code != code {
            return;
        }
        if self.window.take(packet.sequence) {
            self.reply(packet.payload, now);
        }
    }

    fn v20(&mut self, bytes: &[u8], packet: &V20<'_>, now: Duration) {
        let Link::V20 { keys, console, .. } = &self.link else {
            return;
        };
        if packet.session != *console {
            return;
        }
        let Some(payload) = keys.unwrap(bytes, packet) else {
            return;
        };
        if !self.window.take(packet.sequence) {
            return;
        }
        match packet.kind {
            PayloadType::Message => self.reply(&payload, now),
            // One that was overtaken says what is no longer so: with 15 numbers, SOL cannot tell itself.
            // What it carried comes again, for it was not acknowledged.
            PayloadType::Sol if !newer(packet.sequence, self.console_number) => {}
            PayloadType::Sol => {
                self.console_number = Some(packet.sequence);
                if let (Some(console), Ok(packet)) =
                    (&mut self.console, SolPacket::decode(&payload))
                {
                    console.receive(&packet, now);
                    self.pump_console(now);
                }
            }
            _ => {}
        }
    }

    /// Sends a payload inside of the session.
    fn transmit(&mut self, kind: PayloadType, payload: &[u8], now: Duration) {
        self.spoke = now;
        let datagram = match &mut self.link {
            Link::None => return,
            Link::V15 {
                auth,
                session,
                sequence,
            } => {
                let password = self.config.credentials.password().expose();
                let code = v15_code(*auth, password, *session, *sequence, payload);
                let datagram = Datagram::V15(V15 {
                    auth: *auth,
                    sequence: *sequence,
                    session: *session,
                    code,
                    payload,
                })
                .to_bytes();
                // 0 stands for "outside of a session" (section 6.12.12).
                *sequence = sequence.wrapping_add(1).max(1);
                datagram
            }
            Link::V20 {
                keys,
                bmc,
                sequence,
                ..
            } => {
                let datagram = keys.wrap(kind, *bmc, *sequence, payload, self.nonces.bytes());
                *sequence = sequence.wrapping_add(1).max(1);
                datagram
            }
        };
        self.out.push_back(datagram);
    }

    fn pump_console(&mut self, now: Duration) {
        let mut inactive = false;
        while let Some(packet) = self.console.as_mut().and_then(Sol::poll) {
            self.transmit(PayloadType::Sol, &packet, now);
        }
        while let Some(event) = self.console.as_mut().and_then(Sol::poll_event) {
            inactive |= event == SolEvent::Inactive;
            self.events.push_back(Event::Console(event));
        }
        if inactive && self.phase == Phase::Up {
            self.fail(Failure::ConsoleEnded);
        }
    }

    fn answered(&mut self, owner: Owner, answer: Option<Answer>, now: Duration) {
        match (owner, answer) {
            (Owner::Caller(id), answer) => {
                self.events.push_back(Event::Answered { id, answer });
            }
            (Owner::Keepalive | Owner::SolEnd, _) => {}
            (Owner::Privilege, Some(answer)) => self.privileged(&answer),
            (Owner::SolActivate { take_over }, Some(answer)) => {
                self.console_answered(take_over, &answer, now);
            }
            (Owner::SolDeactivate, Some(_)) => self.ask(
                Owner::SolActivate { take_over: false },
                commands::activate_sol(),
                now,
            ),
            (Owner::Close, _) => {
                self.phase = Phase::Over;
                self.events.push_back(Event::Closed);
            }
            // Each of these is repeatable, and its silence has ended the session.
            (Owner::Privilege | Owner::SolActivate { .. } | Owner::SolDeactivate, None) => {}
        }
    }

    fn console_answered(&mut self, take_over: bool, answer: &Answer, now: Duration) {
        if answer.completion == commands::sol_code::ACTIVE_ELSEWHERE && take_over {
            self.ask(Owner::SolDeactivate, commands::deactivate_sol(), now);
            return;
        }
        let activated = SolActivated::read(&answer.data)
            .filter(|_| answer.completion == Completion::OK)
            .zip(self.console_wanted);
        match activated {
            Some((activated, pacing)) => {
                self.console = Some(Sol::new(activated.to_bmc, pacing));
                self.events.push_back(Event::ConsoleUp);
            }
            None => self
                .events
                .push_back(Event::ConsoleRefused(answer.completion)),
        }
    }

    fn fail(&mut self, failure: Failure) {
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            self.requests.clear();
            self.events.push_back(Event::Failed(failure));
        }
    }
}

/// Whether a number is behind no other one.
fn newer(number: u32, last: Option<u32>) -> bool {
    last.is_none_or(|last| number.wrapping_sub(last) < u32::MAX / 2)
}
