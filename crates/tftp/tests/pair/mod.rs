//! A server machine and a client machine, and a network between them that is as bad as asked. Time is
//! simulated; the same seed gives the same run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bugler_tftp::client::{Download, Settings, Step};
use bugler_tftp::machine::{End, Limits, Machine, Output, Terms};
use bugler_tftp::packet::{Options, Packet};

/// How the network treats each datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Knobs {
    /// The least time on the way, in one direction.
    pub(crate) latency: Duration,
    /// Up to so much more, by chance: datagrams overtake each other.
    pub(crate) jitter: Duration,
    /// How many of 1000 are lost.
    pub(crate) loss: u32,
    /// How many of 1000 arrive twice.
    pub(crate) repeat: u32,
}

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Until the client had everything.
    pub(crate) duration: Duration,
    pub(crate) client_finished: bool,
    pub(crate) server_end: Option<End>,
    pub(crate) data_sent: u64,
    pub(crate) retransmitted: u64,
    pub(crate) acks_received_new: u64,
    pub(crate) server_timeouts: u64,
    pub(crate) client_timeouts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Server,
    Client,
}

/// A datagram on its way: when it arrives, in which order it was sent, where to, what.
type Flying = Reverse<(Duration, u64, To, Vec<u8>)>;

pub(crate) struct Pair {
    knobs: Knobs,
    random: u64,
    now: Duration,
    sequence: u64,
    air: BinaryHeap<Flying>,
    report: Report,
}

impl Pair {
    pub(crate) fn new(knobs: Knobs, seed: u64) -> Self {
        Self {
            knobs,
            random: seed,
            now: Duration::ZERO,
            sequence: 0,
            air: BinaryHeap::new(),
            report: Report::default(),
        }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.random() % 1000 < u64::from(per_mille)
    }

    fn send(&mut self, to: To, bytes: Vec<u8>) {
        if self.chance(self.knobs.loss) {
            return;
        }
        let copies = 1 + u32::from(self.chance(self.knobs.repeat));
        for _ in 0..copies {
            let jitter = self.knobs.jitter.as_nanos() as u64;
            let extra = if jitter == 0 {
                0
            } else {
                self.random() % jitter
            };
            let arrival = self.now + self.knobs.latency + Duration::from_nanos(extra);
            self.sequence += 1;
            self.air
                .push(Reverse((arrival, self.sequence, to, bytes.clone())));
        }
    }

    /// Lets a client fetch `size` bytes, and compares what arrives.
    pub(crate) fn run(mut self, size: u64, blksize: u16, windowsize: u16) -> Report {
        let content: Vec<u8> = (0..size).map(|i| (i * 7 + i / 251) as u8).collect();
        let windowed = (windowsize > 1).then_some(windowsize);
        let settings = Settings {
            options: Options {
                blksize: Some(blksize),
                windowsize: windowed,
                ..Options::default()
            },
            retries: 60,
            ..Settings::default()
        };
        let mut client = Download::new("file", &settings, self.now);
        let mut server: Option<(Machine, Terms)> = None;
        let mut got = Vec::with_capacity(content.len());
        self.send(To::Server, client.request().to_vec());
        let mut reply = Vec::new();
        for _ in 0..10_000_000u64 {
            let server_over = self.report.server_end.is_some();
            if self.report.client_finished && server_over {
                break;
            }
            // The earliest of: an arrival, the server's deadline, the client's.
            let arrival = self.air.peek().map(|Reverse((time, ..))| *time);
            let server_due = server
                .as_ref()
                .filter(|_| !server_over)
                .map(|(machine, _)| machine.deadline());
            let client_due = (!client.done()).then(|| client.deadline());
            let next = [arrival, server_due, client_due]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let Some(Reverse((_, _, to, bytes))) = self.air.pop() else {
                    break;
                };
                match to {
                    To::Server if server_over => {}
                    To::Server => self.at_server(&mut server, &bytes, &content),
                    To::Client => {
                        let step = client.packet(&bytes, self.now, &mut reply);
                        match step {
                            Step::Data(data) => got.extend_from_slice(data),
                            Step::Last(data) => {
                                got.extend_from_slice(data);
                                self.report.client_finished = true;
                                self.report.duration = self.now;
                            }
                            Step::Nothing => {}
                            other => panic!("{other:?}"),
                        }
                        if !reply.is_empty() {
                            self.send(To::Server, reply.clone());
                        }
                    }
                }
            } else if server_due == Some(next) {
                if let Some((machine, terms)) = &mut server {
                    self.report.server_timeouts += 1;
                    let output = machine.timeout(self.now);
                    let terms = *terms;
                    self.perform(output, &terms, &content);
                }
            } else {
                self.report.client_timeouts += 1;
                assert!(
                    client.expired(self.now, &mut reply),
                    "the client gave up: {:?}",
                    self.report
                );
                self.send(To::Server, reply.clone());
            }
        }
        assert!(
            got == content,
            "{} bytes arrived of {size}, or other ones",
            got.len()
        );
        self.report.retransmitted = server.map_or(0, |(machine, _)| machine.retransmitted());
        self.report
    }

    fn at_server(&mut self, server: &mut Option<(Machine, Terms)>, bytes: &[u8], content: &[u8]) {
        let packet = Packet::decode(bytes).unwrap();
        match (&packet, server) {
            (Packet::ReadRequest(request), server @ None) => {
                let limits = Limits {
                    blksize: 1468,
                    windowsize: 64,
                    window_bytes: 128 * 1024,
                };
                let size = content.len() as u64;
                let terms = Terms::agree(&request.options, size, &limits);
                let (machine, output) = Machine::new(&terms, terms.blocks(size), self.now);
                *server = Some((machine, terms));
                self.perform(output, &terms, content);
            }
            // The request came twice; its answer is under way.
            (Packet::ReadRequest(_), Some(_)) | (_, None) => {}
            (packet, Some((machine, terms))) => {
                let before = machine.base() + u64::from(machine.progressed());
                let output = machine.packet(packet, self.now);
                if machine.base() + u64::from(machine.progressed()) > before {
                    self.report.acks_received_new += 1;
                }
                let terms = *terms;
                self.perform(output, &terms, content);
            }
        }
    }

    fn perform(&mut self, output: Output, terms: &Terms, content: &[u8]) {
        match output {
            Output::Wait => {}
            Output::OptionAck => self.send(To::Client, Packet::OptionAck(terms.oack).to_bytes()),
            Output::Blocks { first, count } => {
                for block in first..first + u64::from(count) {
                    let start = (block - 1) as usize * usize::from(terms.blksize);
                    let end = content.len().min(start + usize::from(terms.blksize));
                    let data = &content[start..end];
                    self.report.data_sent += 1;
                    self.send(
                        To::Client,
                        Packet::Data {
                            block: block as u16,
                            data,
                        }
                        .to_bytes(),
                    );
                }
            }
            Output::End(end) => self.report.server_end = Some(end),
        }
    }
}
