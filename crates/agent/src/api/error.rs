//! Why a request to the server fails.

use super::REGISTER;

/// Why a request to the server failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server's address cannot be used.
    #[error(
        "{server:?} is not the address of a server: it should look like http://10.0.0.1:8480 \
         (kernel argument bugler.server, or --server)"
    )]
    Address {
        /// What was given.
        server: String,
    },
    /// No answer, or one that broke off.
    #[error("{request}: no answer")]
    Transport {
        /// Method and URL.
        request: String,
        /// What came back.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The server answered with an error.
    #[error("{request}: the server answered {status}: {message}")]
    Status {
        /// Method and URL.
        request: String,
        /// HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// The server answered something that is not what this protocol says.
    #[error(
        "{request}: the answer makes no sense; is {request} really a Bugler server of this version?"
    )]
    Answer {
        /// Method and URL.
        request: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Tried for long enough.
    #[error("nothing has come for {seconds} s ({why}); check the server and the network")]
    Patience {
        /// For how long, in seconds.
        seconds: u64,
        /// What came back last.
        why: String,
    },
}

impl ApiError {
    /// Whether the same request can succeed later: the server is away, restarting or busy. One
    /// that says that it has no room (507) will not have any by itself.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Transport { .. } => true,
            Self::Status { status: 507, .. } => false,
            Self::Status { status, .. } => matches!(status, 401 | 408 | 425 | 429 | 500..),
            Self::Address { .. } | Self::Answer { .. } | Self::Patience { .. } => false,
        }
    }

    /// Whether the server refused to register this boot: it does not know the boot token.
    #[must_use]
    pub fn is_unknown_boot(&self) -> bool {
        matches!(
            self,
            Self::Status { status: 401, request, .. } if request.ends_with(REGISTER)
        )
    }

    /// Whether the server said that there is no such thing (any more), or that it has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::Status {
                status: 404 | 409 | 410,
                ..
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let status = |status| ApiError::Status {
            request: "GET /".into(),
            status,
            message: "no".into(),
        };
        for (code, temporary) in [
            (400, false),
            (401, true),
            (404, false),
            (429, true),
            (503, true),
            (507, false),
        ] {
            assert_eq!(status(code).is_temporary(), temporary, "{code}");
        }
        assert!(status(409).is_gone() && !status(503).is_gone());
    }
}
