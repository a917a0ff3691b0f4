//! Remote procedure calls (RFC 5531): who calls which procedure, and how the answer begins.

use crate::kinds::Credential;
use crate::xdr::{Reader, Writer, XdrError};

/// The program that serves files (RFC 1813, appendix II).
pub const NFS: u32 = 100_003;
/// The program that gives the handle of a root (RFC 1813, appendix I).
pub const MOUNT: u32 = 100_005;
/// The program that tells ports (RFC 1833, section 3).
pub const PORTMAP: u32 = 100_000;

/// Most bytes of a credential (RFC 5531, 8.2).
const MAX_AUTH: u32 = 400;
const CALL: u32 = 0;
const REPLY: u32 = 1;
const ACCEPTED: u32 = 0;
const DENIED: u32 = 1;
const RPC_VERSION: u32 = 2;
const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;

/// A call, as far as all programs have it alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcCall<'a> {
    /// Number of the call, for the answer.
    pub xid: u32,
    /// Which program is called.
    pub program: u32,
    /// Which version of it.
    pub version: u32,
    /// Which procedure.
    pub procedure: u32,
    /// Who calls.
    pub credential: Credential,
    /// What the procedure is told.
    pub arguments: &'a [u8],
}

/// Why a message is not taken as a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// It is something else: nothing is answered.
    #[error("not a call")]
    NotACall,
    /// It is damaged before it is known who calls what.
    #[error(transparent)]
    Xdr(#[from] XdrError),
    /// It is of another version of RPC.
    #[error("the call {xid:#x} is of RPC version {version}; only version 2 is spoken")]
    Version {
        /// Number of the call.
        xid: u32,
        /// Its version.
        version: u32,
    },
    /// The caller proves itself in a way that is not known here.
    #[error("the call {xid:#x} has a credential of kind {flavor}; AUTH_SYS is understood")]
    Credential {
        /// Number of the call.
        xid: u32,
        /// Its kind of credential.
        flavor: u32,
    },
}

/// How a call ends for all programs alike (`accept_stat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The answer of the procedure follows.
    Success,
    /// There is no such program here.
    NoProgram,
    /// There is no such version of it.
    NoVersion {
        /// The lowest that there is.
        low: u32,
        /// The highest.
        high: u32,
    },
    /// There is no such procedure.
    NoProcedure,
    /// What the procedure is told makes no sense.
    Garbage,
    /// The server cannot answer.
    SystemError,
}

impl<'a> RpcCall<'a> {
    /// Reads a call.
    ///
    /// # Errors
    /// [`RpcError`]: [`refusal`] has the answer, if there is one.
    pub fn decode(message: &'a [u8]) -> Result<Self, RpcError> {
        let mut reader = Reader::new(message);
        let xid = reader.u32("the number of a call")?;
        if reader.u32("the kind of a message")? != CALL {
            return Err(RpcError::NotACall);
        }
        let version = reader.u32("the version of RPC")?;
        if version != RPC_VERSION {
            return Err(RpcError::Version { xid, version });
        }
        let program = reader.u32("the program")?;
        let version = reader.u32("the version of the program")?;
        let procedure = reader.u32("the procedure")?;
        let flavor = reader.u32("the kind of the credential")?;
        let credential = reader.opaque("the credential", MAX_AUTH)?;
        reader.u32("the kind of the verifier")?;
        reader.opaque("the verifier", MAX_AUTH)?;
        let credential = match flavor {
            AUTH_NONE => Credential::nobody(),
            AUTH_SYS => auth_sys(credential)?,
            flavor => return Err(RpcError::Credential { xid, flavor }),
        };
        Ok(Self {
            xid,
            program,
            version,
            procedure,
            credential,
            arguments: reader.rest(),
        })
    }

    /// The bytes of the call, without the mark in front that TCP needs.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut credential = Writer::new();
        credential.u32(0).opaque(b"");
        credential.u32(self.credential.user);
        credential.u32(self.credential.group);
        credential.u32(self.credential.groups.len() as u32);
        for group in &self.credential.groups {
            credential.u32(*group);
        }
        let mut message = Writer::new();
        message.u32(self.xid).u32(CALL).u32(RPC_VERSION);
        message.u32(self.program).u32(self.version);
        message.u32(self.procedure);
        message.u32(AUTH_SYS).opaque(&credential.into_bytes());
        message.u32(AUTH_NONE).opaque(b"");
        message.raw(self.arguments);
        message.into_bytes()
    }
}

/// `authsys_parms` (RFC 5531, appendix A).
fn auth_sys(bytes: &[u8]) -> Result<Credential, XdrError> {
    let mut reader = Reader::new(bytes);
    reader.u32("the stamp of a credential")?;
    reader.opaque("the machine of a credential", 255)?;
    let user = reader.u32("the user of a credential")?;
    let group = reader.u32("the group of a credential")?;
    let count = reader.u32("the groups of a credential")?;
    if count > 16 {
        return Err(XdrError::TooLong {
            what: "the list of groups of a credential",
            length: count,
            limit: 16,
        });
    }
    let groups = (0..count).map(|_| reader.u32("the groups of a credential"));
    Ok(Credential {
        user,
        group,
        groups: groups.collect::<Result<_, _>>()?,
    })
}

/// The beginning of an answer; the answer of the procedure follows after [`Accepted::Success`].
#[must_use]
pub fn reply(xid: u32, accepted: Accepted) -> Writer {
    let mut message = Writer::new();
    message.u32(xid).u32(REPLY).u32(ACCEPTED);
    message.u32(AUTH_NONE).opaque(b"");
    match accepted {
        Accepted::Success => message.u32(0),
        Accepted::NoProgram => message.u32(1),
        Accepted::NoVersion { low, high } => message.u32(2).u32(low).u32(high),
        Accepted::NoProcedure => message.u32(3),
        Accepted::Garbage => message.u32(4),
        Accepted::SystemError => message.u32(5),
    };
    message
}

/// The answer to a message that is not taken as a call, where one is owed.
#[must_use]
pub fn refusal(error: &RpcError) -> Option<Vec<u8>> {
    let mut message = Writer::new();
    match *error {
        RpcError::NotACall | RpcError::Xdr(_) => return None,
        RpcError::Version { xid, .. } => {
            message.u32(xid).u32(REPLY).u32(DENIED);
            message.u32(0).u32(RPC_VERSION).u32(RPC_VERSION);
        }
        // AUTH_TOOWEAK: another kind of credential may be taken.
        RpcError::Credential { xid, .. } => {
            message.u32(xid).u32(REPLY).u32(DENIED);
            message.u32(1).u32(5);
        }
    }
    Some(message.into_bytes())
}

/// Reads the beginning of an answer: its number, and what follows where all went well.
///
/// # Errors
/// Where it is no answer, or damaged.
pub fn decode_reply(message: &[u8]) -> Result<(u32, Result<&[u8], u32>), XdrError> {
    let mut reader = Reader::new(message);
    let xid = reader.u32("the number of an answer")?;
    match reader.u32("the kind of a message")? {
        REPLY => {}
        value => {
            let what = "answer";
            return Err(XdrError::Value { what, value });
        }
    }
    if reader.u32("the state of an answer")? != ACCEPTED {
        return Ok((xid, Err(u32::MAX)));
    }
    reader.u32("the kind of the verifier")?;
    reader.opaque("the verifier", MAX_AUTH)?;
    Ok(match reader.u32("the state of an answer")? {
        0 => (xid, Ok(reader.rest())),
        state => (xid, Err(state)),
    })
}
