//! Where the content of a transfer comes from.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::Bytes;

/// A read request, as a [`Source`] sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The client.
    pub peer: SocketAddrV4,
    /// The address of this machine that was asked.
    pub local: Ipv4Addr,
    /// The path, normalised (see [`normalise`](crate::normalise)): no leading slash, no `..`.
    pub path: String,
    /// The file name as it was sent.
    pub raw: Vec<u8>,
}

/// What a client is sent.
#[derive(Debug)]
pub enum Content {
    /// Bytes in memory, shared by all who are sent them.
    Bytes(Bytes),
    /// The first `len` bytes of an open file, which should not change meanwhile: a file that turns
    /// out to be shorter fails the transfer. It is read a little ahead, so that many clients who
    /// read the same file share the kernel's cache of it. It is read on the thread that serves all
    /// transfers: give files on local disks, not on a network file system that may hang.
    File {
        /// The file, open for reading.
        file: File,
        /// How many bytes of it to send.
        len: u64,
    },
}

impl Content {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// Why a [`Source`] gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such file: ERROR 1 to the client.
    #[error("there is no such file")]
    NotFound,
    /// There may be, but not for this client: ERROR 2.
    #[error("{0}")]
    Denied(String),
    /// It could not be read or made: ERROR 0. The text is reported, and not sent to the client.
    #[error("{0}")]
    Failed(String),
    /// It is being made: nothing is sent, and the client asks again after a second or so, as after a
    /// request that was lost.
    #[error("it is being made")]
    Later,
}

/// Gives the content for read requests.
///
/// [`open`](Self::open) runs on one of a few threads of its own
/// ([`Config::openers`](crate::Config::openers)), beside the transfers that are under way: it may
/// read a registry and render a script, tens of milliseconds are fine. While all of the threads are
/// in `open`, further requests wait, and clients ask again after about a second; so it must not wait
/// for the network or for other machines: [`OpenError::Later`] is for what takes long.
pub trait Source: Send + Sync {
    /// The content for `request`.
    ///
    /// # Errors
    /// [`OpenError`] decides what the client is told.
    fn open(&self, request: &Request) -> Result<Content, OpenError>;
}

impl<F> Source for F
where
    F: Fn(&Request) -> Result<Content, OpenError> + Send + Sync,
{
    fn open(&self, request: &Request) -> Result<Content, OpenError> {
        self(request)
    }
}
