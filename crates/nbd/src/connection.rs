//! One client, from its greeting to its end.

use crate::{
    answer::Serving,
    error::NbdError,
    export::{Export, Exports, Peer, Refusal},
    machine::{Action, ExportInfo, Host, MAX_DATA, Negotiation, Progress, Session},
    net::Shared,
    packet::{self, Command, REQUEST_LEN, Request},
    wire::{Incoming, Wire},
    workers::Budget,
};
use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

/// What is received at once.
const RECEIVE: usize = 256 << 10;
/// Replies that are collected before they are sent.
const COLLECT: usize = 512 << 10;
/// Longest read that is answered by the thread that receives.
const INLINE_READ: u32 = 1 << 20;

/// A connection in the thread that receives from it.
pub(crate) struct Connection<'a> {
    shared: &'a Arc<Shared>,
    wire: Arc<Wire>,
    stream: TcpStream,
    peer: Peer,
    requests: Arc<Budget>,
    incoming: Incoming,
    /// Received bytes; those before `start` are used.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Replies that are not sent yet.
    output: Vec<u8>,
}

/// The exports as one client sees them.
struct Asking<'a> {
    exports: &'a dyn Exports,
    peer: &'a Peer,
    /// What was opened last: the name that is chosen in the end is among the last two.
    found: Option<(String, Arc<Export>)>,
}

impl Host for Asking<'_> {
    fn open(&mut self, name: &str) -> Result<ExportInfo, Refusal> {
        let export = match &self.found {
            Some((known, export)) if known == name => Arc::clone(export),
            _ => self.exports.open(name, self.peer)?,
        };
        self.found = Some((name.to_owned(), Arc::clone(&export)));
        Ok(ExportInfo {
            size: export.device().size(),
            read_only: export.device().read_only(),
            description: export.description().to_owned(),
        })
    }

    fn list(&mut self) -> Vec<String> {
        self.exports.list(self.peer)
    }
}

impl<'a> Connection<'a> {
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        wire: Arc<Wire>,
        stream: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        requests: Arc<Budget>,
    ) -> Self {
        Self {
            shared,
            wire,
            stream,
            peer: Peer {
                address: peer,
                local,
                encrypted: false,
            },
            requests,
            incoming: Incoming::default(),
            input: vec![0; 4096],
            start: 0,
            end: 0,
            output: Vec::new(),
        }
    }

    pub(crate) fn run(mut self) {
        let address = self.peer.address;
        match self.negotiate() {
            Ok(Some((name, export, session))) => {
                self.input.resize(RECEIVE, 0);
                export.client_came();
                self.shared.exports.attached(&name, &self.peer, &export);
                let serving = Arc::new(Serving {
                    wire: Arc::clone(&self.wire),
                    export: Arc::clone(&export),
                    session,
                });
                let result = self.serve(&serving);
                // What is in work is finished first: then nothing changes the disk any more.
                self.requests.wait_empty();
                export.client_went();
                let why = result.err().map(|error| error.to_string());
                if let Some(why) = &why {
                    tracing::info!(peer = %address, why, "an NBD client is gone");
                }
                self.shared
                    .exports
                    .detached(&name, &self.peer, &export, why.as_deref());
            }
            Ok(None) => {}
            Err(error) => tracing::info!(peer = %address, %error, "an NBD client got no export"),
        }
        self.wire.shutdown();
    }

    fn broken(&self) -> impl Fn(io::Error) -> NbdError + use<> {
        let peer = self.peer.address;
        move |source| NbdError::Connection { peer, source }
    }

    fn negotiate(&mut self) -> Result<Option<(String, Arc<Export>, Session)>, NbdError> {
        let seconds = self.shared.options.negotiation_seconds;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let exports = Arc::clone(&self.shared.exports);
        let mut found = None;
        let mut negotiation = Negotiation::new(self.shared.options.tls, &mut self.output);
        loop {
            self.send_output()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NbdError::Slow(seconds));
            }
            let limit = self.stream.set_read_timeout(Some(left));
            limit.map_err(self.broken())?;
            match self.receive_more() {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(NbdError::Connection { source, .. })
                    if matches!(
                        source.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    return Err(NbdError::Slow(seconds));
                }
                Err(error) => return Err(error),
            }
            let peer = self.peer;
            let mut asking = Asking {
                exports: &*exports,
                peer: &peer,
                found: found.take(),
            };
            let input = self.input.get(self.start..self.end).unwrap_or_default();
            let handled = negotiation.handle(input, &mut self.output, &mut asking);
            found = asking.found;
            let (used, progress) = match handled {
                Ok(handled) => handled,
                Err(error) => {
                    self.send_output()?;
                    return Err(error);
                }
            };
            self.start += used;
            match progress {
                Progress::More => {}
                Progress::Closed => {
                    self.send_output()?;
                    return Ok(None);
                }
                Progress::StartTls => {
                    if self.start < self.end {
                        return Err(NbdError::Protocol("it sent bytes in clear behind STARTTLS"));
                    }
                    let Some(identity) = &self.shared.options.identity else {
                        return Err(NbdError::Protocol("there is no certificate"));
                    };
                    self.send_output()?;
                    self.wire
                        .start_tls(identity.config())
                        .map_err(self.broken())?;
                    self.peer.encrypted = true;
                    // What was given in clear is asked for again.
                    found = None;
                }
                Progress::Transmit(session) => {
                    self.send_output()?;
                    self.stream.set_read_timeout(None).map_err(self.broken())?;
                    return Ok(found.map(|(name, export)| (name, export, session)));
                }
            }
        }
    }

    fn send_output(&mut self) -> Result<(), NbdError> {
        if !self.output.is_empty() {
            self.wire.send(&self.output, &[]).map_err(self.broken())?;
            self.output.clear();
        }
        Ok(())
    }

    /// Receives behind what is there; false at the end of the stream.
    fn receive_more(&mut self) -> Result<bool, NbdError> {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.input.len() {
            // An option that is longer; its length was looked at.
            self.input
                .resize(self.input.len() + packet::MAX_OPTION_DATA, 0);
        }
        let room = self.input.get_mut(self.end..).unwrap_or_default();
        let received = self
            .wire
            .receive(&mut self.incoming, room)
            .map_err(self.broken())?;
        self.end += received;
        Ok(received > 0)
    }

    fn serve(&mut self, serving: &Arc<Serving>) -> Result<(), NbdError> {
        loop {
            let waiting = self.input.get(self.start..self.end).unwrap_or_default();
            let Some(head) = waiting.first_chunk::<REQUEST_LEN>() else {
                // Nothing more is here: time to send, and then to wait.
                self.send_output()?;
                if !self.receive_more()? {
                    return Err(NbdError::Protocol(
                        "it closed the connection without goodbye",
                    ));
                }
                serving.export.seen(Instant::now());
                continue;
            };
            let request = Request::decode(head).ok_or(NbdError::Protocol(
                "a request does not begin with its magic number",
            ))?;
            self.start += REQUEST_LEN;
            if !self.request(serving, request)? {
                self.send_output()?;
                return Ok(());
            }
            if self.output.len() >= COLLECT {
                self.send_output()?;
            }
        }
    }

    /// Takes one request; false where it is goodbye.
    fn request(&mut self, serving: &Arc<Serving>, request: Request) -> Result<bool, NbdError> {
        let action = serving.session.check(&request);
        if request.command == Command::Write && request.length > MAX_DATA {
            // So much is not read only to be thrown away.
            return Err(NbdError::Protocol("a write is longer than 32 MiB"));
        }
        let action = match action {
            Ok(Action::Disconnect) => return Ok(false),
            Ok(action) => action,
            Err(error) => {
                if request.command == Command::Write {
                    self.skip(request.length as usize)?;
                }
                let text = "this request is not possible here";
                serving.refuse(&request, error, text, &mut self.output);
                return Ok(true);
            }
        };
        if action == Action::Read
            && request.length <= INLINE_READ
            && self.read_now(serving, &request)
        {
            return Ok(true);
        }
        let holds = match action {
            Action::Read | Action::Write { .. } => u64::from(request.length),
            _ => 0,
        };
        // Replies that are ready must not wait until there is room.
        self.send_output()?;
        let shares = (self.requests.take(holds), self.shared.memory.take(holds));
        let data = match action {
            Action::Write { .. } => self.take_data(request.length as usize)?,
            _ => Vec::new(),
        };
        let serving = Arc::clone(serving);
        self.shared
            .workers
            .give(move || serving.work(&request, action, data, shares));
        Ok(true)
    }

    /// Answers a read if no disk has to be waited for.
    fn read_now(&mut self, serving: &Serving, request: &Request) -> bool {
        let before = self.output.len();
        serving.put_read_head(request, &mut self.output);
        let data = self.output.len();
        self.output.resize(data + request.length as usize, 0);
        let room = self.output.get_mut(data..).unwrap_or_default();
        match serving.export.device().read_now(request.offset, room) {
            Ok(true) => {
                serving.export.count(u64::from(request.length), 0, false);
                true
            }
            // An error is found again by the worker, which has words for it.
            Ok(false) | Err(_) => {
                self.output.truncate(before);
                false
            }
        }
    }

    /// Takes the data of a write.
    fn take_data(&mut self, length: usize) -> Result<Vec<u8>, NbdError> {
        let here = length.min(self.end - self.start);
        let mut data = Vec::with_capacity(length);
        data.extend_from_slice(
            self.input
                .get(self.start..self.start + here)
                .unwrap_or_default(),
        );
        self.start += here;
        data.resize(length, 0);
        let mut at = here;
        while let Some(room) = data.get_mut(at..)
            && !room.is_empty()
        {
            match self
                .wire
                .receive(&mut self.incoming, room)
                .map_err(self.broken())?
            {
                0 => return Err(NbdError::Protocol("it ended in the middle of a write")),
                received => at += received,
            }
        }
        Ok(data)
    }

    fn skip(&mut self, mut length: usize) -> Result<(), NbdError> {
        while length > 0 {
            let now = length.min(64 << 10);
            self.take_data(now)?;
            length -= now;
        }
        Ok(())
    }
}
