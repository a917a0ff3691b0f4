//! What can go wrong.

use std::{io, net::SocketAddr};

/// Why a connection ended other than by the client's wish, or a server did not begin.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The client broke the protocol; there is no going on.
    #[error("the client broke the protocol: {0}")]
    Protocol(&'static str),
    /// The client took too long until it had an export.
    #[error("the client had not chosen an export after {0} s")]
    Slow(u64),
    /// Too many options before an export was chosen.
    #[error("the client sent {0} options and chose no export")]
    Options(u32),
    /// The encrypted channel failed.
    #[error("TLS: {0}")]
    Tls(#[source] rustls::Error),
    /// What certificates and keys are made of is wrong.
    #[error("could not {action}: {detail}")]
    Identity {
        /// What was tried.
        action: &'static str,
        /// What came back.
        detail: String,
    },
    /// A thread or socket could not be had.
    #[error("could not {action}: {source}")]
    Start {
        /// What was tried.
        action: &'static str,
        /// What came back.
        source: io::Error,
    },
    /// The connection itself.
    #[error("the connection to {peer} broke: {source}")]
    Connection {
        /// Who was there.
        peer: SocketAddr,
        /// What came back.
        source: io::Error,
    },
}
