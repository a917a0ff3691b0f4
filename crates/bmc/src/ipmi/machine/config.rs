//! What a session is to be.

use crate::credentials::Credentials;
use crate::ipmi::crypto::Suite;
use crate::ipmi::packet::{AuthType, Role};
use std::time::Duration;

/// How long a BMC is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The wait for the first answer; each further one is twice as long.
    pub first: Duration,
    /// The longest wait for one answer.
    pub most: Duration,
    /// How often a question is sent.
    pub attempts: u32,
    /// The wait for a request that is sent only once.
    pub once: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            most: Duration::from_secs(8),
            attempts: 4,
            once: Duration::from_secs(20),
        }
    }
}

impl Patience {
    /// The wait for the answer to attempt `attempt`, counted from 1, of a BMC that took `usual` lately.
    pub(super) fn wait(&self, attempt: u32, usual: Duration) -> Duration {
        let doubled = self
            .first
            .max(usual.saturating_mul(2))
            .saturating_mul(1 << attempt.saturating_sub(1).min(16));
        doubled.min(self.most.max(self.first))
    }
}

/// How a session with a BMC can be had, as it was found out: the next one starts with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// IPMI 2.0 with this suite.
    Suite(Suite),
    /// IPMI 1.5 with this authentication type.
    V15(AuthType),
}

impl std::fmt::Display for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Suite(suite) => write!(f, "IPMI 2.0, cipher suite {suite}"),
            Self::V15(auth) => write!(f, "IPMI 1.5, authentication {auth}"),
        }
    }
}

/// What a session is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who we are.
    pub credentials: Credentials,
    /// The privilege that is needed.
    pub role: Role,
    /// The suites that may be used, the best first.
    pub suites: Vec<Suite>,
    /// Whether IPMI 1.5 may be used, which sends everything in clear.
    pub allow_v15: bool,
    /// What worked last time.
    pub known: Option<Known>,
    /// How long to wait.
    pub patience: Patience,
    /// Get Device ID is sent when the session was idle for so long while a console is open.
    pub keepalive: Duration,
}

impl Config {
    /// The usual one.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            role: Role::Administrator,
            suites: Suite::ALL.to_vec(),
            allow_v15: false,
            known: None,
            patience: Patience::default(),
            keepalive: Duration::from_secs(15),
        }
    }
}
