//! What a timeline means: what the client is, what was answered by whom, where it stopped, why, and
//! what to try next.
//!
//! [`explain`] is a pure function. It judges the latest boot on the timeline by a ladder of rules,
//! from the furthest stage down: the first one that fits is the likely cause. What else is worth
//! knowing (a loop, a slow switch port, two servers) stands beside it.

mod beside;
mod dhcp;
mod rules;
mod story;
mod view;

#[cfg(test)]
mod tests;

use crate::timeline::Timeline;
use bugler_model::Timestamp;
use serde::Serialize;

/// What came of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It booted, or was sent to its disk as it should be.
    Fine,
    /// It is under way: too little time has passed to say.
    Underway,
    /// It stopped.
    Stopped,
    /// It did not ask to boot.
    NotAsked,
}

/// A rule that fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's name, which does not change: for scripts.
    pub rule: &'static str,
    /// What is likely the case.
    pub cause: String,
    /// What to try next.
    pub next: String,
}

impl Finding {
    fn new(rule: &'static str, cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            rule,
            cause: cause.into(),
            next: next.into(),
        }
    }
}

/// One line of the story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// When.
    pub at: Timestamp,
    /// Milliseconds since the boot began.
    pub offset_ms: i64,
    /// What happened.
    pub text: String,
}

/// What a timeline means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What the client is, in one line.
    pub client: String,
    /// How many boots are on the timeline.
    pub boots: usize,
    /// What came of the latest.
    pub verdict: Verdict,
    /// The latest boot, line by line.
    pub story: Vec<Line>,
    /// Where it stopped, or how it ended, in one sentence.
    pub stopped: String,
    /// Why, most likely, and what to try.
    pub cause: Option<Finding>,
    /// What else is worth knowing.
    pub also: Vec<Finding>,
}

/// Explains a timeline.
#[must_use]
pub fn explain(timeline: &Timeline) -> Explanation {
    let boots = view::boots(&timeline.steps);
    let empty = &timeline.steps[..0];
    let latest = boots.last().copied().unwrap_or(empty);
    let view = view::View::new(timeline, latest);
    let (verdict, stopped, cause) = rules::judge(&view);
    Explanation {
        client: story::client(&timeline.client),
        boots: boots.len(),
        verdict,
        story: story::tell(latest),
        stopped,
        cause,
        also: beside::also(&view, &boots),
    }
}
