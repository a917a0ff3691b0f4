//! Secrets that are handed to devices.

use bugler_model::{DeviceId, TaskId};
use bugler_store::TokenHash;

/// 32 random bytes.
fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    // The kernel's generator does not fail once the machine has booted.
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// A new token: 32 random bytes in hex.
pub(crate) fn new_token() -> String {
    blake3::Hash::from_bytes(random()).to_hex().to_string()
}

/// What is kept of a token.
pub(crate) fn hash(token: &str) -> TokenHash {
    TokenHash(*blake3::hash(token.as_bytes()).as_bytes())
}

/// Tokens that open one task's image to whoever was given the URL. They are computed, not kept:
/// a poll that is repeated gets the same one, and a restart of the server ends them all.
pub(crate) struct TaskTokens([u8; 32]);

impl TaskTokens {
    pub(crate) fn new() -> Self {
        Self(random())
    }

    fn mac(&self, task: TaskId, device: DeviceId) -> blake3::Hash {
        blake3::keyed_hash(&self.0, format!("raw image: {task} of {device}").as_bytes())
    }

    /// The token for a device's task.
    pub(crate) fn make(&self, task: TaskId, device: DeviceId) -> String {
        format!("{task}-{}", self.mac(task, device).to_hex())
    }

    /// Which task a token speaks of, to be checked with [`is_good`](Self::is_good).
    pub(crate) fn task(token: &str) -> Option<TaskId> {
        token.split_once('-')?.0.parse().ok()
    }

    /// Whether `token` was made for this device's task.
    pub(crate) fn is_good(&self, token: &str, task: TaskId, device: DeviceId) -> bool {
        let given = token
            .split_once('-')
            .and_then(|(_, hex)| blake3::Hash::from_hex(hex).ok());
        // `blake3::Hash` compares in constant time.
        given.is_some_and(|given| given == self.mac(task, device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_task_and_device_only() {
        let tokens = TaskTokens::new();
        let token = tokens.make(TaskId(5), DeviceId(2));
        assert_eq!(TaskTokens::task(&token), Some(TaskId(5)));
        assert!(tokens.is_good(&token, TaskId(5), DeviceId(2)));
        assert!(!tokens.is_good(&token, TaskId(6), DeviceId(2)));
        assert!(!tokens.is_good(&token, TaskId(5), DeviceId(3)));
        assert!(!TaskTokens::new().is_good(&token, TaskId(5), DeviceId(2)));
        for bad in ["", "t5", "t5-", "-", "t5-zz", "5-00"] {
            assert!(!tokens.is_good(bad, TaskId(5), DeviceId(2)), "{bad:?}");
        }
    }
}
