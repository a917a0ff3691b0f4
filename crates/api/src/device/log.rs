//! Lines that come from a machine and are shown to people.

use bugler_model::{DeviceId, Timestamp};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Most characters of a line.
const MAX_CHARS: usize = 1000;

/// One line of at most 1,000 characters, with every control character replaced: what a machine
/// sends cannot move a terminal's cursor.
pub(crate) fn safe_line(text: &str) -> String {
    text.chars()
        .take(MAX_CHARS)
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Lines that an agent may log at once; a busy boot and a deploy make about a hundred.
const BURST: i64 = 1000;

/// How long it takes until it may log one line more, in milliseconds.
const REFILL_MS: i64 = 1000;

/// How much each device's agent may log: one that logs without end is not to push everybody's
/// events out of the registry.
#[derive(Default)]
pub(crate) struct LogBudget(Mutex<HashMap<DeviceId, Budget>>);

struct Budget {
    left: i64,
    /// When `left` was last refilled.
    at: Timestamp,
    told: bool,
}

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Keep it.
    Keep,
    /// Say that lines are dropped from here on.
    Announce,
    /// Drop it.
    Drop,
}

impl LogBudget {
    /// Whether this device may log one line more. What is kept is one entry for each device that
    /// ever had an agent.
    pub(super) fn take(&self, device: DeviceId, now: Timestamp) -> Verdict {
        // An entry is whole whenever the lock is let go.
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = budgets.entry(device).or_insert(Budget {
            left: BURST,
            at: now,
            told: false,
        });
        let refill = now.millis_since(budget.at).max(0) / REFILL_MS;
        if refill > 0 {
            budget.left = budget.left.saturating_add(refill).min(BURST);
            budget.at = now;
        }
        if budget.left > 0 {
            budget.left -= 1;
            budget.told = false;
            return Verdict::Keep;
        }
        if std::mem::replace(&mut budget.told, true) {
            Verdict::Drop
        } else {
            Verdict::Announce
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_agent_that_logs_without_end_is_held_to_a_line_a_second() {
        let budget = LogBudget::default();
        let take = |device, seconds: i64| budget.take(DeviceId(device), Timestamp(seconds * 1000));
        assert!((0..BURST).all(|_| take(1, 0) == Verdict::Keep));
        assert_eq!([take(1, 0), take(1, 0)], [Verdict::Announce, Verdict::Drop]);
        assert_eq!(take(2, 0), Verdict::Keep, "another device");
        assert_eq!([take(1, 1), take(1, 1)], [Verdict::Keep, Verdict::Announce]);
        // A clock that is set back gives nothing, and takes nothing.
        assert_eq!(take(1, -50), Verdict::Drop);
        assert_eq!(take(1, 9000), Verdict::Keep);
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_short_line(text in "\\PC*|[\\x00-\\x{9f}]{0,20}|.{900,1100}") {
            let line = safe_line(&text);
            prop_assert!(line.chars().count() <= MAX_CHARS);
            prop_assert!(!line.chars().any(char::is_control));
            if text.chars().count() <= MAX_CHARS && !text.chars().any(char::is_control) {
                prop_assert_eq!(line, text);
            }
        }
    }
}
