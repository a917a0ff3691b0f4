//! The serial console of a machine: a task that keeps it, through resets of its BMC.

use crate::bmc::Inner;
use crate::error::Error;
use crate::ipmi::commands::sol_code;
use crate::ipmi::machine::{Event, Failure, Pacing, SolEvent};
use crate::ipmi::net::Connection;
use crate::ipmi::packet::Completion;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that wait for a reader. When they are as many, the BMC is left unacknowledged, and waits too.
const EVENTS: usize = 256;
/// Orders that wait for the task.
const ORDERS: usize = 64;
/// Characters that wait for the BMC's acknowledgement before a writer has to.
const TYPED_AHEAD: usize = 4096;
/// The rest before the second attempt; each further one is twice as long.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest rest between two attempts.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// The rest after a failure that stays until somebody changes a setting.
const FINAL_REST: Duration = Duration::from_secs(300);

/// What happens on a console.
#[derive(Debug)]
pub enum ConsoleEvent {
    /// It is connected, for the first time or again.
    Up,
    /// The machine said this.
    Data(Vec<u8>),
    /// The machine sent a break.
    Break,
    /// Something that the machine said was lost on its way.
    Lost,
    /// It is not connected. It will be tried again.
    Down {
        /// Why.
        why: Error,
        /// When it is tried again.
        again_in: Duration,
    },
}

/// What the task is to do.
#[derive(Debug)]
enum Order {
    Type(Vec<u8>),
    Break,
    Pace(Pacing),
}

/// The reading side of a console. When it is dropped, the console is closed.
#[derive(Debug)]
pub struct Console {
    events: mpsc::Receiver<ConsoleEvent>,
    writer: ConsoleWriter,
}

/// The writing side. Clones are the same.
#[derive(Debug, Clone)]
pub struct ConsoleWriter {
    orders: mpsc::Sender<Order>,
}

/// The console is closed: its reader was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the console is closed: its reader is gone")]
pub struct Closed;

impl Console {
    pub(crate) fn start(bmc: Arc<Inner>, take_over: bool) -> Self {
        let (event_sender, events) = mpsc::channel(EVENTS);
        let (order_sender, orders) = mpsc::channel(ORDERS);
        tokio::spawn(
            Task {
                bmc,
                take_over,
                stale: false,
                events: event_sender,
                orders,
                pacing: Pacing::default(),
                unsent: Vec::new(),
                rest: FIRST_REST,
            }
            .run(),
        );
        Self {
            events,
            writer: ConsoleWriter {
                orders: order_sender,
            },
        }
    }

    /// What happens next. A reader that is slow slows the machine's output down; nothing is lost by it
    /// unless the BMC has no room either, which it tells ([`ConsoleEvent::Lost`]).
    pub async fn next(&mut self) -> Option<ConsoleEvent> {
        self.events.recv().await
    }

    /// The writing side.
    pub fn writer(&self) -> ConsoleWriter {
        self.writer.clone()
    }
}

impl ConsoleWriter {
    /// Types these characters, in order, also through a reset of the BMC: those that it has not
    /// acknowledged are typed again when it is back, so at most one packet of them may arrive twice.
    /// Waits while much is still to be typed.
    ///
    /// # Errors
    /// When the console is closed.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Closed> {
        self.order(Order::Type(bytes.to_vec())).await
    }

    /// Makes a break on the serial line. Without a connection, none is made.
    ///
    /// # Errors
    /// When the console is closed.
    pub async fn send_break(&self) -> Result<(), Closed> {
        self.order(Order::Break).await
    }

    /// Sets the rest after each character from now on; 0 lets the BMC's acknowledgements be the pace.
    ///
    /// # Errors
    /// When the console is closed.
    pub async fn set_delay(&self, delay: Duration) -> Result<(), Closed> {
        self.order(Order::Pace(Pacing { delay })).await
    }

    async fn order(&self, order: Order) -> Result<(), Closed> {
        self.orders.send(order).await.map_err(|_| Closed)
    }
}

struct Task {
    bmc: Arc<Inner>,
    take_over: bool,
    /// It was ours and was lost: who has it now is a session of ours that is no more.
    stale: bool,
    events: mpsc::Sender<ConsoleEvent>,
    orders: mpsc::Receiver<Order>,
    pacing: Pacing,
    /// What is to be typed when it is connected.
    unsent: Vec<u8>,
    rest: Duration,
}

/// The reader is gone.
struct Gone;

impl Task {
    async fn run(mut self) {
        loop {
            let why = match self.attempt().await {
                Ok(why) => why,
                Err(Gone) => return,
            };
            let again_in = if why.is_final() {
                FINAL_REST
            } else if let Error::Resting { remaining, .. } = why {
                remaining
            } else {
                self.rest
            };
            self.rest = self.rest.saturating_mul(2).min(LONGEST_REST);
            let down = ConsoleEvent::Down { why, again_in };
            if self.events.send(down).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(again_in) => {}
                () = self.events.closed() => return,
            }
        }
    }

    /// Connects and stays connected; says why it is no longer.
    async fn attempt(&mut self) -> Result<Error, Gone> {
        if let Err(error) = self.bmc.check() {
            return Ok(error);
        }
        let connected = self.bmc.hub.connect(self.bmc.address, self.bmc.config());
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(error) => return Ok(error),
        };
        let now = connection.now();
        connection
            .session
            .open_console(self.take_over || self.stale, self.pacing, now);
        let ended = self.serve(&mut connection).await;
        let mut unsent = connection.session.take_unsent();
        unsent.append(&mut self.unsent);
        self.unsent = unsent;
        connection.close().await;
        ended
    }

    async fn serve(&mut self, connection: &mut Connection) -> Result<Error, Gone> {
        let mut up = false;
        loop {
            let room = up && connection.session.unsent() < TYPED_AHEAD;
            let event = tokio::select! {
                event = connection.next() => event,
                order = self.orders.recv(), if room => {
                    if let Some(order) = order {
                        self.order(order, connection);
                    }
                    continue;
                }
                () = self.events.closed() => return Err(Gone),
            };
            let event = match event {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(self.failed(Failure::ConsoleEnded)),
                Err(error) => {
                    self.bmc.failed(&error);
                    return Ok(error);
                }
            };
            let told = match event {
                Event::Up(known) => {
                    self.bmc.succeeded(known);
                    continue;
                }
                Event::ConsoleUp => {
                    up = true;
                    // A session of ours that the BMC has not noticed the end of may have it next time.
                    self.stale = true;
                    self.rest = FIRST_REST;
                    let now = connection.now();
                    connection.session.set_pacing(self.pacing);
                    connection
                        .session
                        .write(&std::mem::take(&mut self.unsent), now);
                    ConsoleEvent::Up
                }
                Event::Console(SolEvent::Data(data)) => ConsoleEvent::Data(data),
                Event::Console(SolEvent::Break) => ConsoleEvent::Break,
                Event::Console(SolEvent::Lost) => ConsoleEvent::Lost,
                Event::ConsoleRefused(completion) => return Ok(self.refused(completion)),
                Event::Failed(failure) => return Ok(self.failed(failure)),
                Event::Console(SolEvent::Inactive) | Event::Answered { .. } | Event::Closed => {
                    continue;
                }
            };
            self.events.send(told).await.map_err(|_| Gone)?;
        }
    }

    fn order(&mut self, order: Order, connection: &mut Connection) {
        let now = connection.now();
        match order {
            Order::Type(bytes) => connection.session.write(&bytes, now),
            Order::Break => connection.session.send_break(now),
            Order::Pace(pacing) => {
                self.pacing = pacing;
                connection.session.set_pacing(pacing);
            }
        }
    }

    fn failed(&mut self, failure: Failure) -> Error {
        let ended = failure == Failure::ConsoleEnded;
        if ended {
            // The BMC has let our session go: if somebody has it next time, it is somebody else.
            self.stale = false;
        }
        let error = self.bmc.session_error(failure);
        if !ended {
            self.bmc.failed(&error);
        }
        error
    }

    fn refused(&self, completion: Completion) -> Error {
        let address = self.bmc.address;
        match completion {
            sol_code::ACTIVE_ELSEWHERE | sol_code::LIMIT => Error::ConsoleTaken { address },
            sol_code::DISABLED => Error::ConsoleOff { address },
            completion => Error::Refused {
                address,
                command: "Activate Payload",
                completion,
            },
        }
    }
}
