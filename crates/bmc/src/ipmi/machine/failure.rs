//! Why there is no session.

use crate::ipmi::packet::{Completion, Status};

/// Why there is no session, or why it ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No answer, however often it was asked.
    #[error("no answer to {0}")]
    Silent(&'static str),
    /// No answer that can be read.
    #[error("{datagrams} datagrams came back for {what}, and none of them is IPMI")]
    Garbage {
        /// What was asked.
        what: &'static str,
        /// How many came.
        datagrams: u32,
    },
    /// The password is not the one of this user.
    #[error("the password is wrong")]
    Password,
    /// An IPMI 1.5 controller fell silent when it was shown the password, as it does when it is wrong.
    #[error("it stopped answering when it was shown the password: most likely that is wrong")]
    MaybePassword,
    /// The user is not known, or may not do this.
    #[error("the user is not accepted: {0}")]
    User(Status),
    /// The password is right; the group key is not.
    #[error("the group key (Kg) is wrong, or one is needed and none is set")]
    GroupKey,
    /// None of the suites that may be used is offered or taken.
    #[error("it takes none of the cipher suites that may be used{}", offer(.offered, *.status))]
    NoSuite {
        /// The numbers that the BMC listed; empty where it lists none.
        offered: Vec<u8>,
        /// What it said to the last one.
        status: Option<Status>,
    },
    /// The BMC has IPMI 1.5 only, which was not allowed.
    #[error("it speaks only IPMI 1.5, which sends everything in clear and is not allowed for it")]
    OnlyV15,
    /// No authentication type of IPMI 1.5 that is spoken.
    #[error("it offers only these authentication types of IPMI 1.5: {0}")]
    NoAuthType(String),
    /// The beginning of the session was refused.
    #[error("{what} was refused: {status}")]
    Refused {
        /// Which step.
        what: &'static str,
        /// What the BMC said.
        status: Status,
    },
    /// A command that a session needs was refused.
    #[error("{what} was refused: {completion}")]
    Command {
        /// Which one.
        what: &'static str,
        /// What the BMC said.
        completion: Completion,
    },
    /// The BMC ended the console.
    #[error("the controller ended the console")]
    ConsoleEnded,
}

fn offer(offered: &[u8], status: Option<Status>) -> String {
    let mut text = String::new();
    if !offered.is_empty() {
        let numbers: Vec<_> = offered.iter().map(u8::to_string).collect();
        text = format!("; it offers {}", numbers.join(", "));
    }
    if let Some(status) = status {
        text.push_str(&format!("; it said: {status}"));
    }
    text
}
