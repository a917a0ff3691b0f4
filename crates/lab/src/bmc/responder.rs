//! What the BMC does: datagrams and time in, datagrams and their time out.

use super::chassis::{Chassis, Death, switches};
use super::serial::Serial;
use bugler_bmc::ipmi::crypto::{Handshake, Keys, Nonces, Suite, same, v15_code};
use bugler_bmc::ipmi::packet::{
    AuthType, Completion, Datagram, Message, NetFn, OpenReply, OpenRequest, PayloadType, Rakp1,
    Rakp2, Rakp3, Rakp4, Random, Reply, SolPacket, Status, V15, V20,
};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// What kind of BMC it is.
#[derive(Debug, Clone)]
pub struct Model {
    /// The suites of IPMI 2.0; with none, it speaks only IPMI 1.5.
    pub suites: Vec<Suite>,
    /// It can list its suites.
    pub lists: bool,
    /// The authentication types of IPMI 1.5.
    pub types: Vec<AuthType>,
    /// The name of its user, and the password.
    pub user: (String, String),
    /// How long it takes over each command; it does one at a time.
    pub delay: Duration,
    /// How many sessions it keeps.
    pub sessions: usize,
    /// When it falls silent.
    pub death: Option<Death>,
    /// It says "busy" to every Chassis Control so many times first.
    pub busy: u32,
    /// How many characters its serial port takes at a time.
    pub room: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            suites: Suite::ALL.to_vec(),
            lists: true,
            types: vec![AuthType::Md5, AuthType::Password],
            user: ("admin".to_owned(), "secret".to_owned()),
            delay: Duration::ZERO,
            sessions: 8,
            death: None,
            busy: 0,
            room: 32,
        }
    }
}

enum State {
    Opened,
    Greeted { numbers: [Random; 2], role: u8 },
    Active(Keys),
    V15(AuthType),
}

struct Session {
    suite: Suite,
    console: u32,
    state: State,
    /// The number of its next packet, and those that came (section 6.12.13).
    sequence: u32,
    seen: HashSet<u32>,
    /// The number of its last packet of characters: older ones are late.
    typed: u32,
}

/// A BMC.
pub struct Responder {
    model: Model,
    nonces: Nonces,
    guid: Random,
    sessions: BTreeMap<u32, Session>,
    challenge: Random,
    /// The machine behind it.
    pub chassis: Chassis,
    serial: Serial,
    /// The session that has the serial port.
    attached: Option<u32>,
    dead: bool,
    busy_until: Duration,
    /// Logins that were refused.
    pub refused: u32,
    out: Vec<(Duration, Vec<u8>)>,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Responder({} sessions)", self.sessions.len())
    }
}

impl Responder {
    /// A BMC of this model, with a machine that is off. The seed decides about its numbers.
    pub fn new(model: Model, seed: u8) -> Self {
        let mut nonces = Nonces::new([seed; 32]);
        Self {
            guid: nonces.bytes(),
            challenge: nonces.bytes(),
            nonces,
            sessions: BTreeMap::new(),
            chassis: Chassis::default(),
            serial: Serial::new(model.room),
            attached: None,
            dead: false,
            busy_until: Duration::ZERO,
            refused: 0,
            out: Vec::new(),
            model,
        }
    }

    /// Comes back to life, without its sessions, and dies no more.
    pub fn revive(&mut self) {
        self.dead = false;
        self.model.death = None;
        self.sessions.clear();
        self.attached = None;
    }

    /// Whether it has fallen silent.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// What was typed on its serial port.
    pub fn typed(&self) -> &[u8] {
        &self.serial.typed
    }

    /// How many breaks were made there.
    pub fn breaks(&self) -> u32 {
        self.serial.breaks
    }

    /// The machine says something on its serial port.
    pub fn say(&mut self, bytes: &[u8], now: Duration) {
        self.serial.say(bytes);
        self.pump(now);
    }

    /// When [`poll`](Self::poll) has something next.
    pub fn deadline(&self) -> Option<Duration> {
        let due = self.out.iter().map(|(at, _)| *at).min();
        let serial = self.attached.and_then(|_| self.serial.deadline());
        due.into_iter().chain(serial).min()
    }

    /// What is to be sent by now.
    pub fn poll(&mut self, now: Duration) -> Vec<Vec<u8>> {
        self.pump(now);
        let mut due = Vec::new();
        self.out.retain(|(at, bytes)| {
            let is_due = *at <= now;
            if is_due {
                due.push(bytes.clone());
            }
            !is_due
        });
        due
    }

    /// Takes a datagram.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        if self.dead {
            return;
        }
        match Datagram::decode(bytes) {
            Ok(Datagram::Ping { tag }) => {
                let pong = Datagram::Pong { tag, ipmi: true };
                self.out.push((now, pong.to_bytes()));
            }
            Ok(Datagram::V15(packet)) => self.v15(&packet, now),
            Ok(Datagram::V20(packet)) => self.v20(bytes, &packet, now),
            Ok(Datagram::Pong { .. }) | Err(_) => {}
        }
    }

    /// When the work that begins now is done.
    fn work(&mut self, now: Duration) -> Duration {
        self.busy_until = self.busy_until.max(now) + self.model.delay;
        self.busy_until
    }

    fn plain(&mut self, kind: PayloadType, payload: &[u8], now: Duration) {
        let at = self.work(now);
        let bytes = Datagram::V20(V20 {
            kind,
            encrypted: false,
            authenticated: false,
            session: 0,
            sequence: 0,
            payload,
            trailer: &[],
        })
        .to_bytes();
        self.out.push((at, bytes));
    }

    fn v20(&mut self, bytes: &[u8], packet: &V20<'_>, now: Duration) {
        if self.model.suites.is_empty() {
            return;
        }
        match packet.kind {
            PayloadType::OpenRequest => self.open(packet.payload, now),
            PayloadType::Rakp1 => self.rakp1(packet.payload, now),
            PayloadType::Rakp3 => self.rakp3(packet.payload, now),
            // What needs no session may be asked in this format too; ipmitool does.
            PayloadType::Message if packet.session == 0 => {
                if let Ok(request) = Message::decode(packet.payload) {
                    let (completion, data) = self.stranger(&request);
                    let reply = reply_to(&request, completion, &data);
                    self.plain(PayloadType::Message, &reply, now);
                }
            }
            kind => {
                let Some(session) = self.sessions.get_mut(&packet.session) else {
                    return;
                };
                let State::Active(keys) = &session.state else {
                    return;
                };
                let Some(payload) = keys.unwrap(bytes, packet) else {
                    return;
                };
                if !session.seen.insert(packet.sequence) {
                    return;
                }
                match kind {
                    PayloadType::Message => self.message(packet.session, &payload, now),
                    PayloadType::Sol
                        if self.attached == Some(packet.session)
                            && packet.sequence > session.typed =>
                    {
                        session.typed = packet.sequence;
                        if let Ok(packet) = SolPacket::decode(&payload) {
                            for answer in self.serial.receive(&packet, now) {
                                self.send_sol(&answer, now);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn pump(&mut self, now: Duration) {
        if self.attached.is_some() && !self.dead {
            for packet in self.serial.poll(now) {
                self.send_sol(&packet, now);
            }
        }
    }

    fn send_sol(&mut self, payload: &[u8], now: Duration) {
        if let Some(session) = self.attached {
            self.send(session, PayloadType::Sol, payload, now);
        }
    }

    fn send(&mut self, id: u32, kind: PayloadType, payload: &[u8], at: Duration) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let sequence = session.sequence;
        session.sequence = sequence.wrapping_add(1).max(1);
        let bytes = match &session.state {
            State::Active(keys) => keys.wrap(
                kind,
                session.console,
                sequence,
                payload,
                self.nonces.bytes(),
            ),
            State::V15(auth) => {
                let password = self.model.user.1.as_bytes();
                v15_packet(*auth, password, id, sequence, payload)
            }
            State::Opened | State::Greeted { .. } => return,
        };
        self.out.push((at, bytes));
    }

    fn open(&mut self, payload: &[u8], now: Duration) {
        let Ok(request) = OpenRequest::decode(payload) else {
            return;
        };
        let suite = Suite::ALL
            .into_iter()
            .find(|suite| suite.algorithms() == request.algorithms)
            .filter(|suite| self.model.suites.contains(suite));
        // A session that was only begun makes room for another.
        if self.sessions.len() >= self.model.sessions {
            let begun = |session: &Session| !matches!(session.state, State::Active(_));
            let oldest = self.sessions.iter().find(|(_, session)| begun(session));
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.sessions.remove(&id);
            }
        }
        let opened = match suite {
            None => Err(Status::NO_SUITE),
            Some(_) if self.sessions.len() >= self.model.sessions => {
                Err(Status::INSUFFICIENT_RESOURCES)
            }
            Some(suite) => {
                let id = self.nonces.number();
                let session = Session {
                    suite,
                    console: request.console,
                    state: State::Opened,
                    sequence: 1,
                    seen: HashSet::new(),
                    typed: 0,
                };
                self.sessions.insert(id, session);
                Ok((id, suite.algorithms()))
            }
        };
        let reply = OpenReply {
            tag: request.tag,
            console: request.console,
            opened,
        };
        self.plain(PayloadType::OpenReply, &reply.to_bytes(), now);
    }

    fn rakp1(&mut self, payload: &[u8], now: Duration) {
        let Ok(request) = Rakp1::decode(payload) else {
            return;
        };
        let random = self.nonces.bytes();
        let (user, password) = self.model.user.clone();
        let guid = self.guid;
        let mut proof = Vec::new();
        let mut console = 0;
        let body = match self.sessions.get_mut(&request.bmc) {
            None => Err(Status::BAD_SESSION),
            Some(_) if request.user != user.as_bytes() => Err(Status::NAME),
            Some(session) => {
                console = session.console;
                session.state = State::Greeted {
                    numbers: [request.random, random],
                    role: request.role,
                };
                let handshake = Handshake {
                    suite: session.suite,
                    console,
                    bmc: request.bmc,
                    console_random: request.random,
                    bmc_random: random,
                    guid,
                    role: request.role,
                    user: request.user,
                };
                proof.extend_from_slice(&handshake.bmc_proof(password.as_bytes()));
                Ok((random, guid, proof.as_slice()))
            }
        };
        if body.is_err() {
            self.sessions.remove(&request.bmc);
            self.refused += 1;
        }
        let reply = Rakp2 {
            tag: request.tag,
            console,
            body,
        }
        .to_bytes();
        self.plain(PayloadType::Rakp2, &reply, now);
    }

    fn rakp3(&mut self, payload: &[u8], now: Duration) {
        let Ok(request) = Rakp3::decode(payload) else {
            return;
        };
        if request.status != Status::OK {
            self.sessions.remove(&request.bmc);
            self.refused += 1;
            return;
        }
        let (user, password) = self.model.user.clone();
        let mut icv = Vec::new();
        let mut console = 0;
        let mut status = Status::BAD_SESSION;
        if let Some(session) = self.sessions.get_mut(&request.bmc)
            && let State::Greeted { numbers, role } = session.state
        {
            console = session.console;
            let handshake = Handshake {
                suite: session.suite,
                console,
                bmc: request.bmc,
                console_random: numbers[0],
                bmc_random: numbers[1],
                guid: self.guid,
                role,
                user: user.as_bytes(),
            };
            let proof = handshake.console_proof(password.as_bytes());
            status = Status::BAD_ICV;
            if same(&proof, request.code) {
                status = Status::OK;
                let key = handshake.integrity_key(password.as_bytes());
                icv = handshake.check_value(&key);
                session.state = State::Active(Keys::new(session.suite, &key));
            }
        }
        if status == Status::BAD_ICV {
            self.sessions.remove(&request.bmc);
            self.refused += 1;
        }
        let reply = Rakp4 {
            tag: request.tag,
            status,
            console,
            icv: &icv,
        };
        self.plain(PayloadType::Rakp4, &reply.to_bytes(), now);
    }

    fn v15(&mut self, packet: &V15<'_>, now: Duration) {
        let password = self.model.user.1.clone();
        if packet.session == 0 {
            if let Ok(request) = Message::decode(packet.payload) {
                let (completion, data) = self.stranger(&request);
                let at = self.work(now);
                let reply = reply_to(&request, completion, &data);
                let bytes = v15_packet(AuthType::None, &[], 0, 0, &reply);
                self.out.push((at, bytes));
            }
            return;
        }
        let code = v15_code(
            packet.auth,
            password.as_bytes(),
            packet.session,
            packet.sequence,
            packet.payload,
        );
        let Some(session) = self.sessions.get_mut(&packet.session) else {
            return;
        };
        let State::V15(auth) = session.state else {
            return;
        };
        // A wrong password is met with silence.
        if packet.auth != auth || packet.code != code {
            self.refused += 1;
            return;
        }
        // Activate Session is outside of the count.
        if packet.sequence == 0 || session.seen.insert(packet.sequence) {
            self.message(packet.session, packet.payload, now);
        }
    }

    /// What is answered to who has no session.
    fn stranger(&mut self, request: &Message<'_>) -> (Completion, Vec<u8>) {
        match (request.netfn, request.command, request.data) {
            (NetFn::APP, 0x38, [channel, ..]) => {
                let knows_v20 = !self.model.suites.is_empty();
                if *channel & 0x80 != 0 && !knows_v20 {
                    return (Completion::INVALID_FIELD, Vec::new());
                }
                let types = self.model.types.iter();
                let types = types.fold(0, |bits, auth| bits | 1 << auth.value());
                let extended = u8::from(!self.model.types.is_empty()) | u8::from(knows_v20) << 1;
                let tells = u8::from(knows_v20) << 7;
                let data = vec![1, types | tells, 0x04, extended, 0, 0, 0, 0];
                (Completion::OK, data)
            }
            (NetFn::APP, 0x54, [_, _, index]) if self.model.lists => {
                let records: Vec<u8> = self
                    .model
                    .suites
                    .iter()
                    .flat_map(|suite| {
                        let [auth, integrity, privacy] = suite.algorithms().0;
                        [0xc0, suite.number(), auth, 0x40 | integrity, 0x80 | privacy]
                    })
                    .collect();
                let part = records.chunks(16).nth(usize::from(index & 0x3f));
                let mut data = vec![1];
                data.extend_from_slice(part.unwrap_or_default());
                (Completion::OK, data)
            }
            (NetFn::APP, 0x39, [auth, user @ ..]) => {
                let wanted = AuthType::of(*auth).filter(|auth| self.model.types.contains(auth));
                let name = user.split(|byte| *byte == 0).next().unwrap_or_default();
                let Some(auth) = wanted else {
                    return (Completion::INVALID_FIELD, Vec::new());
                };
                if name != self.model.user.0.as_bytes() {
                    self.refused += 1;
                    return (Completion(0x81), Vec::new());
                }
                let id = self.nonces.number();
                let session = Session {
                    suite: Suite::Three,
                    console: 0,
                    state: State::V15(auth),
                    sequence: 1,
                    seen: HashSet::new(),
                    typed: 0,
                };
                self.sessions.insert(id, session);
                let mut data = id.to_le_bytes().to_vec();
                data.extend_from_slice(&self.challenge);
                (Completion::OK, data)
            }
            _ => (Completion::INVALID_COMMAND, Vec::new()),
        }
    }

    fn message(&mut self, id: u32, payload: &[u8], now: Duration) {
        let Ok(request) = Message::decode(payload) else {
            return;
        };
        let at = self.work(now);
        let (completion, data) = if switches(request.netfn, request.command) {
            if self.model.death == Some(Death::Before) {
                self.dead = true;
                return;
            }
            if self.model.busy > 0 {
                self.model.busy -= 1;
                (Completion::BUSY, Vec::new())
            } else {
                self.chassis
                    .command(request.command, request.data)
                    .unwrap_or((Completion::INVALID_COMMAND, Vec::new()))
            }
        } else {
            self.command(id, &request)
        };
        if switches(request.netfn, request.command) && self.model.death == Some(Death::After) {
            self.dead = true;
            return;
        }
        let reply = reply_to(&request, completion, &data);
        self.send(id, PayloadType::Message, &reply, at);
        if request.netfn == NetFn::APP && request.command == 0x3c {
            self.sessions.remove(&id);
            if self.attached == Some(id) {
                self.attached = None;
            }
        }
    }

    fn command(&mut self, id: u32, request: &Message<'_>) -> (Completion, Vec<u8>) {
        let done = (Completion::OK, Vec::new());
        match (request.netfn, request.command, request.data) {
            (NetFn::CHASSIS, command, data) => self
                .chassis
                .command(command, data)
                .unwrap_or((Completion::INVALID_COMMAND, Vec::new())),
            (NetFn::APP, 0x01, _) => {
                let id = vec![0x20, 0x01, 0x02, 0x34, 0x02, 0x9f, 0x91, 0x12, 0, 2, 0x0f];
                (Completion::OK, id)
            }
            // Activate Session, of IPMI 1.5.
            (NetFn::APP, 0x3a, [auth, _, challenge @ ..]) => {
                if challenge.get(..16) != Some(&self.challenge[..]) {
                    return (Completion(0x85), Vec::new());
                }
                let inbound = challenge.get(16..20).and_then(|n| n.try_into().ok());
                if let (Some(session), Some(inbound)) = (self.sessions.get_mut(&id), inbound) {
                    session.sequence = u32::from_le_bytes(inbound);
                }
                let mut data = vec![*auth];
                data.extend_from_slice(&id.to_le_bytes());
                data.extend_from_slice(&1u32.to_le_bytes());
                data.push(4);
                (Completion::OK, data)
            }
            (NetFn::APP, 0x3b, [role, ..]) => (Completion::OK, vec![*role]),
            (NetFn::APP, 0x3c, _) => done,
            (NetFn::APP, 0x48, _) if self.attached.is_some() => (Completion(0x80), Vec::new()),
            (NetFn::APP, 0x48, _) => {
                self.attached = Some(id);
                self.serial.attach();
                // 80 bytes each way, header included, on port 623.
                (
                    Completion::OK,
                    vec![0, 0, 0, 0, 80, 0, 80, 0, 0x6f, 0x02, 0xff, 0xff],
                )
            }
            (NetFn::APP, 0x49, _) => {
                if self.attached.is_none() {
                    return (Completion(0x80), Vec::new());
                }
                // Whoever had it is told that it is over.
                let goodbye = [0, 0, 0, 0x10];
                let last = self.attached.filter(|owner| *owner != id);
                if let Some(owner) = last {
                    let now = self.busy_until;
                    self.send(owner, PayloadType::Sol, &goodbye, now);
                }
                self.attached = None;
                done
            }
            // Get SOL Configuration Parameters: what ipmitool looks at before it activates SOL.
            (NetFn::TRANSPORT, 0x22, [_, parameter, ..]) => {
                let value: &[u8] = match parameter {
                    0 => &[0],
                    1 => &[1],
                    2 => &[0xc2],
                    3 => &[1, 10],
                    4 => &[7, 50],
                    5 | 6 => &[0x0a],
                    7 => &[1],
                    8 => &[0x6f, 0x02],
                    _ => return (Completion(0x80), Vec::new()),
                };
                (Completion::OK, [&[0x11], value].concat())
            }
            _ => (Completion::INVALID_COMMAND, Vec::new()),
        }
    }
}

fn reply_to(request: &Message<'_>, completion: Completion, data: &[u8]) -> Vec<u8> {
    Reply {
        netfn: request.netfn,
        command: request.command,
        sequence: request.sequence,
        completion,
        data,
    }
    .to_bytes()
}

fn v15_packet(
    auth: AuthType,
    password: &[u8],
    session: u32,
    sequence: u32,
    payload: &[u8],
) -> Vec<u8> {
    Datagram::V15(V15 {
        auth,
        sequence,
        session,
        code: v15_code(auth, password, session, sequence, payload),
        payload,
    })
    .to_bytes()
}
