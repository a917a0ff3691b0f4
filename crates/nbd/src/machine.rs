//! What a server says to what a client says: the negotiation of options, and which requests are
//! well-formed. No sockets, no clock.

use crate::{
    error::NbdError,
    export::Refusal,
    packet::{
        Command, Errno, GoData, MAX_NAME, MAX_OPTION_DATA, MetaData, OPTION_HEAD, OptionHead,
        Request, command_flags, flags, handshake, info, option, put_greeting, put_option_reply,
        reply,
    },
};

/// Options that a client may send before it has chosen an export.
const MAX_OPTIONS: u32 = 64;
/// Longest request for data, in bytes: what clients that ask for no block sizes may send at most
/// ("Block size constraints").
pub const MAX_DATA: u32 = 32 << 20;
/// The only context that is offered.
const BASE_ALLOCATION: &str = "base:allocation";
/// Its number here.
pub const CONTEXT: u32 = 1;
/// Size of requests that suits best, in bytes: the block of an overlay.
const PREFERRED: u32 = 4096;

/// What becomes of encryption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsPolicy {
    /// There is none.
    #[default]
    Off,
    /// The client may ("SELECTIVETLS"; [`Refusal::NeedsTls`] is for single exports).
    Offered,
    /// The client must before anything else ("FORCEDTLS").
    Required,
}

/// What is said of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// For people.
    pub description: String,
}

/// Who knows the exports.
pub trait Host {
    /// Looks an export up, for a client that may go on to use it.
    ///
    /// # Errors
    /// [`Refusal`].
    fn open(&mut self, name: &str) -> Result<ExportInfo, Refusal>;

    /// Names that may be told.
    fn list(&mut self) -> Vec<String>;
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    More,
    /// The reply is to be sent, and all that follows is encrypted. What was received in clear behind the
    /// option is not to be used.
    StartTls,
    /// An export was chosen: what follows are requests.
    Transmit(Session),
    /// The client said goodbye.
    Closed,
}

/// The negotiation of one connection.
#[derive(Debug)]
pub struct Negotiation {
    tls: TlsPolicy,
    encrypted: bool,
    /// What the client said that it can; `None` before it said so.
    client: Option<u32>,
    structured: bool,
    /// The export for which the context was chosen.
    context_of: Option<String>,
    options: u32,
    /// Bytes of an option's data that are passed over.
    skip: u32,
}

impl Negotiation {
    /// Begins; what is first to be sent goes to `out`.
    #[must_use]
    pub fn new(tls: TlsPolicy, out: &mut Vec<u8>) -> Self {
        put_greeting(out);
        Self {
            tls,
            encrypted: false,
            client: None,
            structured: false,
            context_of: None,
            options: 0,
            skip: 0,
        }
    }

    /// Takes what came, says how much of it was used, and appends what is to be sent to `out`.
    ///
    /// # Errors
    /// [`NbdError::Protocol`], [`NbdError::Options`]: the connection is to be closed, after `out` was
    /// sent.
    pub fn handle(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        host: &mut dyn Host,
    ) -> Result<(usize, Progress), NbdError> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let (now, progress) = self.step(rest, out, host)?;
            used += now;
            match progress {
                Some(progress) => return Ok((used, progress)),
                None if now == 0 => return Ok((used, Progress::More)),
                None => {}
            }
        }
    }

    /// One message; `(0, None)` where it is not there as a whole.
    fn step(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        host: &mut dyn Host,
    ) -> Result<(usize, Option<Progress>), NbdError> {
        if self.skip > 0 {
            let now = input.len().min(self.skip as usize);
            // It is no more than `skip`.
            self.skip -= now as u32;
            return Ok((now, None));
        }
        let Some(client) = self.client else {
            let Some(four) = input.first_chunk::<4>() else {
                return Ok((0, None));
            };
            let client = u32::from_be_bytes(*four);
            let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
            if client & !known != 0 {
                return Err(NbdError::Protocol(
                    "it set flags of the handshake that nobody offered",
                ));
            }
            self.client = Some(client);
            return Ok((4, None));
        };
        if input.len() < OPTION_HEAD {
            return Ok((0, None));
        }
        let head = OptionHead::decode(input)
            .ok_or(NbdError::Protocol("an option does not begin with IHAVEOPT"))?;
        let length = head.length as usize;
        if length > MAX_OPTION_DATA {
            if head.option == option::EXPORT_NAME {
                return Err(NbdError::Protocol("the name of an export is too long"));
            }
            self.count()?;
            self.skip = head.length;
            put_option_reply(out, head.option, reply::TOO_BIG, b"this option is too long");
            return Ok((OPTION_HEAD, None));
        }
        let Some(data) = input.get(OPTION_HEAD..OPTION_HEAD + length) else {
            return Ok((0, None));
        };
        self.count()?;
        let progress = self.option(head.option, data, client, out, host)?;
        Ok((OPTION_HEAD + length, progress))
    }

    fn count(&mut self) -> Result<(), NbdError> {
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return Err(NbdError::Options(MAX_OPTIONS));
        }
        Ok(())
    }

    fn option(
        &mut self,
        number: u32,
        data: &[u8],
        client: u32,
        out: &mut Vec<u8>,
        host: &mut dyn Host,
    ) -> Result<Option<Progress>, NbdError> {
        let mut answer = |kind, text: &str| put_option_reply(out, number, kind, text.as_bytes());
        let is_fixed = client & u32::from(handshake::FIXED_NEWSTYLE) != 0;
        if !is_fixed && number != option::EXPORT_NAME {
            return Err(NbdError::Protocol(
                "it sent an option without fixed newstyle",
            ));
        }
        let needs_tls = self.tls == TlsPolicy::Required && !self.encrypted;
        if needs_tls && !matches!(number, option::STARTTLS | option::ABORT) {
            if number == option::EXPORT_NAME {
                return Err(NbdError::Protocol("it chose an export before STARTTLS"));
            }
            answer(reply::TLS_REQUIRED, "this server wants STARTTLS first");
            return Ok(None);
        }
        match number {
            option::EXPORT_NAME => return self.export_name(data, client, out, host).map(Some),
            option::ABORT => {
                answer(reply::ACK, "");
                return Ok(Some(Progress::Closed));
            }
            option::LIST if !data.is_empty() => answer(reply::INVALID, "LIST has no data"),
            option::LIST => {
                for name in host.list() {
                    let mut entry = (name.len() as u32).to_be_bytes().to_vec();
                    entry.extend_from_slice(name.as_bytes());
                    put_option_reply(out, number, reply::SERVER, &entry);
                }
                put_option_reply(out, number, reply::ACK, &[]);
            }
            option::STARTTLS if self.encrypted => answer(reply::INVALID, "TLS has begun already"),
            option::STARTTLS if self.tls == TlsPolicy::Off => {
                answer(reply::POLICY, "this server has no certificate");
            }
            option::STARTTLS if !data.is_empty() => answer(reply::INVALID, "STARTTLS has no data"),
            option::STARTTLS => {
                answer(reply::ACK, "");
                // What was agreed on in clear is forgotten: nobody knows who agreed.
                self.encrypted = true;
                self.structured = false;
                self.context_of = None;
                return Ok(Some(Progress::StartTls));
            }
            option::INFO | option::GO => return Ok(self.go(number, data, out, host)),
            option::STRUCTURED_REPLY if !data.is_empty() => {
                answer(reply::INVALID, "STRUCTURED_REPLY has no data");
            }
            option::STRUCTURED_REPLY => {
                self.structured = true;
                answer(reply::ACK, "");
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta(number, data, out, host);
            }
            _ => answer(reply::UNSUPPORTED, ""),
        }
        Ok(None)
    }

    fn session(&self, name: &str, info: &ExportInfo) -> Session {
        Session {
            size: info.size,
            read_only: info.read_only,
            structured: self.structured,
            allocation: self.structured && self.context_of.as_deref() == Some(name),
        }
    }

    fn export_name(
        &mut self,
        data: &[u8],
        client: u32,
        out: &mut Vec<u8>,
        host: &mut dyn Host,
    ) -> Result<Progress, NbdError> {
        let name = std::str::from_utf8(data)
            .ok()
            .filter(|name| name.len() <= MAX_NAME);
        let name = name.ok_or(NbdError::Protocol(
            "the name of an export is no text, or too long",
        ))?;
        // This option cannot be answered with a refusal.
        let info = host
            .open(name)
            .map_err(|_| NbdError::Protocol("it chose an export that it does not get"))?;
        out.extend_from_slice(&info.size.to_be_bytes());
        out.extend_from_slice(&info.flags(self.structured).to_be_bytes());
        if client & u32::from(handshake::NO_ZEROES) == 0 {
            out.extend_from_slice(&[0; 124]);
        }
        Ok(Progress::Transmit(self.session(name, &info)))
    }

    fn go(
        &mut self,
        number: u32,
        data: &[u8],
        out: &mut Vec<u8>,
        host: &mut dyn Host,
    ) -> Option<Progress> {
        let Some(go) = GoData::decode(data) else {
            put_option_reply(out, number, reply::INVALID, b"the lengths in it do not fit");
            return None;
        };
        let export = match host.open(&go.name) {
            Ok(export) => export,
            Err(refusal) => {
                refuse(number, &refusal, out);
                return None;
            }
        };
        let mut tell = |kind: u16, data: &[u8]| {
            let mut body = kind.to_be_bytes().to_vec();
            body.extend_from_slice(data);
            put_option_reply(out, number, reply::INFO, &body);
        };
        let mut size = export.size.to_be_bytes().to_vec();
        size.extend_from_slice(&export.flags(self.structured).to_be_bytes());
        tell(info::EXPORT, &size);
        // Always, so that no client has to know to ask.
        let sizes = [1, PREFERRED, MAX_DATA].map(u32::to_be_bytes);
        tell(info::BLOCK_SIZE, sizes.as_flattened());
        if go.wanted.contains(&info::NAME) {
            tell(info::NAME, go.name.as_bytes());
        }
        if go.wanted.contains(&info::DESCRIPTION) && !export.description.is_empty() {
            tell(info::DESCRIPTION, export.description.as_bytes());
        }
        put_option_reply(out, number, reply::ACK, &[]);
        (number == option::GO).then(|| Progress::Transmit(self.session(&go.name, &export)))
    }

    fn meta(&mut self, number: u32, data: &[u8], out: &mut Vec<u8>, host: &mut dyn Host) {
        let is_set = number == option::SET_META_CONTEXT;
        if is_set {
            // Also one that fails undoes what was set.
            self.context_of = None;
        }
        let Some(meta) = MetaData::decode(data) else {
            put_option_reply(out, number, reply::INVALID, b"the lengths in it do not fit");
            return;
        };
        if !self.structured {
            let text = b"contexts need structured replies";
            put_option_reply(out, number, reply::INVALID, text);
            return;
        }
        if let Err(refusal) = host.open(&meta.name) {
            refuse(number, &refusal, out);
            return;
        }
        let lists_all = !is_set && meta.queries.is_empty();
        let named = meta
            .queries
            .iter()
            .any(|query| query == BASE_ALLOCATION || !is_set && query == "base:");
        if lists_all || named {
            let mut body = if is_set { CONTEXT } else { 0 }.to_be_bytes().to_vec();
            body.extend_from_slice(BASE_ALLOCATION.as_bytes());
            put_option_reply(out, number, reply::META_CONTEXT, &body);
            if is_set {
                self.context_of = Some(meta.name);
            }
        }
        put_option_reply(out, number, reply::ACK, &[]);
    }
}

fn refuse(number: u32, refusal: &Refusal, out: &mut Vec<u8>) {
    let (kind, text) = match refusal {
        Refusal::Unknown => (reply::UNKNOWN, "there is no such export for this client"),
        Refusal::Denied(why) => (reply::POLICY, why.as_str()),
        Refusal::NeedsTls => (
            reply::TLS_REQUIRED,
            "this export is given after STARTTLS only",
        ),
    };
    let text = text
        .get(..text.floor_char_boundary(MAX_NAME))
        .unwrap_or_default();
    put_option_reply(out, number, kind, text.as_bytes());
}

impl ExportInfo {
    /// The transmission flags.
    fn flags(&self, structured: bool) -> u16 {
        let mut all = flags::HAS_FLAGS | flags::FLUSH | flags::MULTI_CONN | flags::CACHE;
        if self.read_only {
            all |= flags::READ_ONLY;
        } else {
            all |= flags::FUA | flags::TRIM | flags::WRITE_ZEROES;
        }
        if structured {
            all |= flags::DF;
        }
        all
    }
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Size of the export in bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether replies are structured.
    pub structured: bool,
    /// Whether the client may ask for `base:allocation`.
    pub allocation: bool,
}

/// A well-formed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read.
    Read,
    /// Write the data that follows.
    Write {
        /// Durable before the reply.
        fua: bool,
    },
    /// Make durable.
    Flush,
    /// Forget content.
    Trim {
        /// Durable before the reply.
        fua: bool,
    },
    /// Read into the cache.
    Cache,
    /// Write zeros.
    Zero {
        /// Durable before the reply.
        fua: bool,
        /// They must take space.
        allocate: bool,
    },
    /// Tell what is allocated.
    Status {
        /// One extent only.
        one: bool,
    },
    /// Goodbye.
    Disconnect,
}

impl Session {
    /// Looks whether a request may be done. A write that is refused is followed by its data all the same.
    ///
    /// # Errors
    /// What to reply. `NBD_EINVAL` for what is not well-formed or reaches behind the end, `NBD_ENOSPC` for
    /// a write behind the end, `NBD_EPERM` for one to a read-only export ("Error values").
    pub fn check(&self, request: &Request) -> Result<Action, Errno> {
        use command_flags::{DF, FUA, NO_HOLE, REQ_ONE};
        let fua = request.flags & FUA != 0;
        let (action, allowed) = match request.command {
            Command::Read => (Action::Read, if self.structured { FUA | DF } else { FUA }),
            Command::Write => (Action::Write { fua }, FUA),
            Command::Disconnect => return Ok(Action::Disconnect),
            Command::Flush => (Action::Flush, FUA),
            Command::Trim => (Action::Trim { fua }, FUA),
            Command::Cache => (Action::Cache, FUA),
            Command::WriteZeroes => {
                let allocate = request.flags & NO_HOLE != 0;
                (Action::Zero { fua, allocate }, FUA | NO_HOLE)
            }
            Command::BlockStatus if self.allocation => {
                let one = request.flags & REQ_ONE != 0;
                (Action::Status { one }, FUA | REQ_ONE)
            }
            Command::BlockStatus | Command::Other(_) => return Err(Errno::Inval),
        };
        if request.flags & !allowed != 0 {
            return Err(Errno::Inval);
        }
        let changes = matches!(
            action,
            Action::Write { .. } | Action::Trim { .. } | Action::Zero { .. }
        );
        if changes && self.read_only {
            return Err(Errno::Perm);
        }
        if action == Action::Flush {
            // Its range is reserved; clients send zeros.
            return Ok(action);
        }
        let end = request.offset.checked_add(u64::from(request.length));
        if end.is_none_or(|end| end > self.size) {
            let writes = matches!(action, Action::Write { .. } | Action::Zero { .. });
            return Err(if writes { Errno::NoSpace } else { Errno::Inval });
        }
        let has_data = matches!(action, Action::Read | Action::Write { .. });
        if has_data && request.length > MAX_DATA {
            return Err(Errno::Overflow);
        }
        if request.length == 0 && matches!(action, Action::Status { .. }) {
            return Err(Errno::Inval);
        }
        Ok(action)
    }
}
