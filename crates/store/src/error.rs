//! What can go wrong in the registry.

/// Why an operation did not happen. Nothing of it did.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing; the text names it.
    #[error("there is no {0}")]
    NotFound(String),
    /// It would contradict what is there; the text says what, and what to do.
    #[error("{0}")]
    Conflict(String),
    /// The rules are not those any more that the caller knew.
    #[error(
        "could not save the rules: somebody else changed them in the meantime. Look at them again, and \
         make the change in what is there now"
    )]
    RulesChanged,
    /// The database could not do it.
    #[error("the registry could not {operation}")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// What came back.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry has been closed.
    #[error("the registry is closed: the server is stopping")]
    Closed,
}

/// Why a text does not name one device.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nothing begins with it.
    #[error("no device has an id, name, MAC address or UUID that begins with {0:?}")]
    Unknown(String),
    /// Several things begin with it.
    #[error("{text:?} could be any of {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked.
        text: String,
        /// The labels of the devices it could be, at most ten.
        candidates: Vec<String>,
    },
    /// The registry itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
