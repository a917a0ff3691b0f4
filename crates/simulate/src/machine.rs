//! One boot client, from power-on to its kernel, without sockets and without a clock.
//!
//! ```text
//!  firmware                               iPXE
//!  DISCOVER, OFFER, REQUEST, ACK          DISCOVER, OFFER, REQUEST, ACK
//!       |                                      |
//!       +-- TFTP path or HTTP URL: loader      +-- URL: script
//!               |                                      |
//!               '-- it is iPXE ----^                   +-- kernel, then each initramfs --> done
//! ```
//!
//! It goes where the server's answers send it. A message that is not answered is sent again after
//! 4, 8, 16 and 32 s (RFC 2131 section 4.1). It takes the first offer that has an address.

use crate::kind::{Kind, Program, mac_of};
use crate::script::{self, Script};
use bugler_dhcp::{MessageType, Op, Packet, code};
use bugler_model::MacAddr;
use serde::Serialize;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The first wait for an answer; each next one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(4);
/// How often a message is sent.
const TRIES: u32 = 5;
/// How many scripts may follow each other.
const CHAINS: u32 = 10;

/// What a client is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Its firmware asks for an address.
    Dhcp,
    /// It fetches its loader.
    Loader,
    /// The loader asks for an address.
    LoaderDhcp,
    /// It fetches a script.
    Script,
    /// It fetches its kernel.
    Kernel,
    /// It fetches an initial ramdisk.
    Initramfs,
}

impl Step {
    /// Every step, in their order.
    pub const ALL: [Self; 6] = [
        Self::Dhcp,
        Self::Loader,
        Self::LoaderDhcp,
        Self::Script,
        Self::Kernel,
        Self::Initramfs,
    ];

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dhcp => "DHCP",
            Self::Loader => "loader",
            Self::LoaderDhcp => "DHCP of the loader",
            Self::Script => "script",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
        }
    }
}

/// Something to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tftp { server: Ipv4Addr, path: String },
    Http { url: String },
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It has everything that it was told to boot.
    Booted,
    /// It has a loader that is not played any further.
    Loader,
    /// It was told to boot nothing, or its local disk.
    Local,
    /// Something did not come, or made no sense.
    Failed(String),
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send this, and wait until [`Client::deadline`] for an answer.
    Send(Box<Packet>),
    /// Fetch this, and tell [`Client::fetched`]; the content is only wanted of a script.
    Fetch { step: Step, place: Place },
    /// It is over.
    End(End),
}

#[derive(Clone, Debug)]
enum State {
    Off,
    Discovering,
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
    Fetching { step: Step, place: Place },
    Over,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    kind: Kind,
    mac: MacAddr,
    program: Program,
    state: State,
    xid: u32,
    /// Times that the message at hand was sent.
    tries: u32,
    deadline: Duration,
    began: Duration,
    address: Option<Ipv4Addr>,
    /// What is to be fetched after the kernel.
    initrds: Vec<String>,
    chains: u32,
    /// Messages that were sent again.
    pub(crate) repeated: u64,
}

impl Client {
    /// Client number `n`, switched off.
    pub(crate) fn new(kind: Kind, n: u32) -> Self {
        Self {
            kind,
            mac: mac_of(n),
            program: kind.program(),
            state: State::Off,
            // Different for every client and round, the same in every run.
            xid: n.wrapping_mul(0x9e37_79b9) ^ 0x5151_5151,
            tries: 0,
            deadline: Duration::ZERO,
            began: Duration::ZERO,
            address: None,
            initrds: Vec::new(),
            chains: 0,
            repeated: 0,
        }
    }

    /// The address that it has.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.address
    }

    /// What it is at.
    pub(crate) fn step(&self) -> Step {
        match &self.state {
            State::Fetching { step, .. } => *step,
            _ if self.program == self.kind.program() => Step::Dhcp,
            _ => Step::LoaderDhcp,
        }
    }

    /// Switches it on.
    pub(crate) fn start(&mut self, now: Duration) -> Output {
        self.discover(now)
    }

    fn discover(&mut self, now: Duration) -> Output {
        self.xid = self.xid.wrapping_add(1);
        self.state = State::Discovering;
        self.began = now;
        self.tries = 0;
        self.send(now)
    }

    fn send(&mut self, now: Duration) -> Output {
        let mut packet = match &self.state {
            State::Requesting { address, server } => {
                self.program.request(self.mac, self.xid, *address, *server)
            }
            _ => self
                .program
                .message(MessageType::Discover, self.mac, self.xid),
        };
        let seconds = now.saturating_sub(self.began).as_secs();
        packet.secs = u16::try_from(seconds).unwrap_or(u16::MAX);
        self.deadline = now + FIRST_WAIT * (1 << self.tries.min(4));
        self.tries += 1;
        Output::Send(Box::new(packet))
    }

    /// When [`expired`](Self::expired) is due; `None` while nothing is waited for.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        matches!(self.state, State::Discovering | State::Requesting { .. }).then_some(self.deadline)
    }

    /// No answer came in time.
    pub(crate) fn expired(&mut self, now: Duration) -> Output {
        if self.tries < TRIES {
            self.repeated += 1;
            return self.send(now);
        }
        let text = match &self.state {
            State::Requesting { server, .. } => {
                format!("{server} made an offer and did not answer the request for it")
            }
            _ => "no server made an offer with an address".to_owned(),
        };
        self.end(End::Failed(text))
    }

    fn end(&mut self, end: End) -> Output {
        self.state = State::Over;
        Output::End(end)
    }

    /// Takes a packet; `None` where it is nothing to this client now.
    pub(crate) fn packet(&mut self, packet: &Packet, now: Duration) -> Option<Output> {
        if packet.op != Op::Reply || packet.xid != self.xid || packet.mac() != Some(self.mac) {
            return None;
        }
        match (packet.message_type()?, &self.state) {
            (MessageType::Offer, State::Discovering) if !packet.yiaddr.is_unspecified() => {
                let server = packet.options.address(code::SERVER_ID)?;
                self.state = State::Requesting {
                    address: packet.yiaddr,
                    server,
                };
                self.tries = 0;
                Some(self.send(now))
            }
            (MessageType::Ack, State::Requesting { server, .. }) => {
                let server = *server;
                self.address = Some(packet.yiaddr);
                Some(self.bound(packet, server))
            }
            (MessageType::Nak, State::Requesting { .. }) => {
                self.repeated += 1;
                Some(self.discover(now))
            }
            _ => None,
        }
    }

    /// What an ACK says to boot.
    fn bound(&mut self, ack: &Packet, server: Ipv4Addr) -> Output {
        if matches!(self.kind, Kind::Plain | Kind::RaspberryPi4) {
            return self.end(End::Booted);
        }
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.trim_end_matches('\0').to_owned()
        };
        // UEFI and iPXE prefer option 67 to the field of the header.
        let file = ack
            .options
            .get(code::BOOT_FILE)
            .map(text)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| text(ack.file_name()));
        if file.is_empty() {
            return self.end(End::Local);
        }
        let from = if ack.siaddr.is_unspecified() {
            server
        } else {
            ack.siaddr
        };
        let step = if self.program.ipxe {
            Step::Script
        } else {
            Step::Loader
        };
        self.fetch(step, &file, from)
    }

    fn fetch(&mut self, step: Step, name: &str, server: Ipv4Addr) -> Output {
        let tftp = format!("tftp://{server}/");
        let place = if name.starts_with("http://") {
            Place::Http {
                url: name.to_owned(),
            }
        } else if let Some(path) = name.strip_prefix(&tftp) {
            Place::Tftp {
                server,
                path: path.to_owned(),
            }
        } else if name.contains("://") {
            return self.end(End::Failed(format!(
                "it was told to fetch {name}, and this simulation knows TFTP and HTTP"
            )));
        } else {
            Place::Tftp {
                server,
                path: name.to_owned(),
            }
        };
        self.state = State::Fetching {
            step,
            place: place.clone(),
        };
        Output::Fetch { step, place }
    }

    /// What it fetched has come, or why not. `content` counts for a script.
    pub(crate) fn fetched(&mut self, content: Result<&[u8], String>, now: Duration) -> Output {
        let State::Fetching { step, place } = self.state.clone() else {
            return self.end(End::Failed(
                "something came that was not asked for".to_owned(),
            ));
        };
        let (name, server) = match &place {
            Place::Tftp { server, path } => (format!("tftp://{server}/{path}"), *server),
            Place::Http { url } => (url.clone(), Ipv4Addr::UNSPECIFIED),
        };
        let content = match content {
            Ok(content) => content,
            Err(why) => return self.end(End::Failed(format!("{}: {why}", step.name()))),
        };
        match step {
            Step::Loader => {
                let file = name.rsplit(['/', '\\']).next().unwrap_or_default();
                let is_ipxe = ["undionly", "snponly", "ipxe"]
                    .iter()
                    .any(|known| file.starts_with(known));
                if !is_ipxe {
                    return self.end(End::Loader);
                }
                self.program = self.kind.ipxe();
                self.discover(now)
            }
            Step::Script => {
                let text = String::from_utf8_lossy(content);
                match script::read(&text, &name) {
                    Script::Boot {
                        kernel,
                        mut initrds,
                    } => {
                        initrds.reverse();
                        self.initrds = initrds;
                        self.fetch(Step::Kernel, &kernel, server)
                    }
                    Script::Local => self.end(End::Local),
                    Script::Chain(next) if self.chains < CHAINS => {
                        self.chains += 1;
                        self.fetch(Step::Script, &next, server)
                    }
                    Script::Chain(_) => self.end(End::Failed(format!(
                        "{CHAINS} scripts follow each other and boot nothing"
                    ))),
                    Script::Unclear => self.end(End::Failed(format!(
                        "the script {name} does not say what to boot"
                    ))),
                }
            }
            Step::Kernel | Step::Initramfs => match self.initrds.pop() {
                Some(next) => self.fetch(Step::Initramfs, &next, server),
                None => self.end(End::Booted),
            },
            Step::Dhcp | Step::LoaderDhcp => self.end(End::Failed(
                "something came while it had no address".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const ZERO: Duration = Duration::ZERO;

    fn answer(request: &Packet, file: &str) -> Packet {
        let kind = match request.message_type() {
            Some(MessageType::Discover) => MessageType::Offer,
            _ => MessageType::Ack,
        };
        let mut packet = Packet::new(Op::Reply, request.xid, request.mac().unwrap());
        packet.yiaddr = Ipv4Addr::new(10, 0, 0, 9);
        packet.siaddr = SERVER;
        packet.options.push(code::MESSAGE_TYPE, &[kind as u8]);
        packet.options.push_address(code::SERVER_ID, SERVER);
        packet.set_file(file.as_bytes());
        packet
    }

    /// Plays the DHCP server; returns what follows.
    fn dhcp(client: &mut Client, first: Output, file: &str) -> Output {
        let mut output = first;
        for _ in 0..2 {
            let Output::Send(packet) = output else {
                panic!("{output:?}")
            };
            output = client.packet(&answer(&packet, file), ZERO).unwrap();
        }
        output
    }

    fn http(step: Step, url: &str) -> Output {
        let place = Place::Http { url: url.into() };
        Output::Fetch { step, place }
    }

    #[test]
    fn firmware_becomes_ipxe_and_fetches_what_its_script_names() {
        let mut client = Client::new(Kind::UefiPxe, 1);
        let first = client.start(ZERO);
        let path = "snponly.efi".to_owned();
        let loader = Place::Tftp {
            server: SERVER,
            path,
        };
        let expected = Output::Fetch {
            step: Step::Loader,
            place: loader,
        };
        assert_eq!(dhcp(&mut client, first, "snponly.efi"), expected);
        let again = client.fetched(Ok(&[]), ZERO);
        assert_eq!(client.step(), Step::LoaderDhcp);
        let url = "http://10.0.0.1/script";
        assert_eq!(dhcp(&mut client, again, url), http(Step::Script, url));
        let script = b"#!ipxe\nkernel http://k\ninitrd http://a\ninitrd http://b\nboot\n";
        assert_eq!(
            client.fetched(Ok(script), ZERO),
            http(Step::Kernel, "http://k")
        );
        assert_eq!(
            client.fetched(Ok(&[]), ZERO),
            http(Step::Initramfs, "http://a")
        );
        assert_eq!(
            client.fetched(Ok(&[]), ZERO),
            http(Step::Initramfs, "http://b")
        );
        assert_eq!(client.fetched(Ok(&[]), ZERO), Output::End(End::Booted));
        assert_eq!(client.deadline(), None);
    }

    #[test]
    fn no_boot_file_means_the_local_disk() {
        let mut client = Client::new(Kind::BiosPxe, 1);
        let first = client.start(ZERO);
        assert_eq!(dhcp(&mut client, first, ""), Output::End(End::Local));
    }

    #[test]
    fn what_is_lost_is_sent_again_and_then_given_up() {
        let mut client = Client::new(Kind::Plain, 1);
        client.start(ZERO);
        let mut waited = vec![];
        while let Some(deadline) = client.deadline() {
            waited.push(deadline.as_secs());
            client.expired(deadline);
        }
        assert_eq!(waited, [4, 12, 28, 60, 124]);
        assert_eq!(client.repeated, 4);
    }

    #[test]
    fn answers_to_others_are_not_taken() {
        let mut client = Client::new(Kind::Ipxe, 1);
        let Output::Send(mut packet) = client.start(ZERO) else {
            panic!()
        };
        packet.xid ^= 1;
        assert_eq!(client.packet(&answer(&packet, "x"), ZERO), None);
    }

    proptest! {
        #[test]
        fn any_answers_end_somewhere(
            kind in proptest::sample::select(&Kind::ALL[..]),
            files in proptest::collection::vec("[ -~]{0,40}", 1..4),
            contents in proptest::collection::vec("(#!ipxe\n)?[ -~\n]{0,80}", 1..30),
        ) {
            let mut client = Client::new(kind, 3);
            let mut output = client.start(ZERO);
            let (mut files, mut contents) = (files.iter(), contents.iter());
            for _ in 0..60 {
                output = match output {
                    Output::Send(packet) if packet.message_type() == Some(MessageType::Discover) => {
                        client.packet(&answer(&packet, ""), ZERO).unwrap()
                    }
                    Output::Send(packet) => {
                        let file = files.next().map_or("", String::as_str);
                        client.packet(&answer(&packet, file), ZERO).unwrap()
                    }
                    Output::Fetch { .. } => match contents.next() {
                        Some(content) => client.fetched(Ok(content.as_bytes()), ZERO),
                        None => client.fetched(Err("no more".into()), ZERO),
                    },
                    Output::End(_) => return Ok(()),
                };
            }
            prop_assert!(false, "it did not end");
        }
    }
}
