//! Why solicitations could not be answered.

/// Why the responder could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be had.
    #[error("could not {operation} to answer router solicitations on {interface}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// Which interface.
        interface: String,
        /// What came back.
        #[source]
        source: std::io::Error,
    },
}
