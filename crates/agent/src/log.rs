//! The agent's log: lines for the console, kept until a heartbeat has taken them to the server.

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most lines that wait for a heartbeat; beyond it the oldest are dropped, so that an agent that
/// is cut off for days does not fill its memory.
const MAX_WAITING: usize = 1000;

/// Longest line, in characters, as [`bugler_protocol::agent::Heartbeat`] asks.
const MAX_LINE: usize = 1000;

/// Where lines go at once.
enum Sink {
    /// To standard error: the agent runs as a normal process.
    Stderr,
    /// To the thread that writes to the machine's consoles. A full queue drops the line there: a
    /// serial line with flow control must not stop the work.
    Console(SyncSender<String>),
}

struct Inner {
    sink: Sink,
    waiting: Mutex<VecDeque<String>>,
}

/// A handle to the log; clones write to the same one.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

impl Log {
    /// A log that shows its lines on standard error.
    #[must_use]
    pub fn stderr() -> Self {
        Self::new(Sink::Stderr)
    }

    /// A log that gives its lines to whoever writes to the consoles.
    #[must_use]
    pub fn console(lines: SyncSender<String>) -> Self {
        Self::new(Sink::Console(lines))
    }

    fn new(sink: Sink) -> Self {
        Self(Arc::new(Inner {
            sink,
            waiting: Mutex::default(),
        }))
    }

    /// Logs a text. Control characters become spaces, since some of it comes from devices and
    /// from the network; it is cut at 1,000 characters.
    pub fn line(&self, text: impl AsRef<str>) {
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let line: String = text.as_ref().chars().take(MAX_LINE).map(clean).collect();
        match &self.0.sink {
            Sink::Stderr => eprintln!("bugler-agent: {line}"),
            // A console that cannot keep up loses lines; the server gets them all the same.
            Sink::Console(lines) => drop(lines.try_send(format!("bugler-agent: {line}"))),
        }
        let mut waiting = self.waiting();
        if waiting.len() >= MAX_WAITING {
            waiting.pop_front();
        }
        waiting.push_back(line);
    }

    /// Takes up to `most` lines that no heartbeat has carried yet, oldest first.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<String> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(most);
        waiting.drain(..count).collect()
    }

    /// Whether no line waits for a heartbeat.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    /// Gives back what [`take`](Self::take) gave, after a heartbeat that did not arrive.
    pub fn put_back(&self, lines: Vec<String>) {
        let mut waiting = self.waiting();
        for line in lines.into_iter().rev() {
            if waiting.len() < MAX_WAITING {
                waiting.push_front(line);
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with everything that caused it, as one line: `what: why: why`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their source; once is enough.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn lines_wait_for_a_heartbeat_and_survive_a_lost_one() {
        let (sender, console) = sync_channel(1);
        let log = Log::console(sender);
        log.line("one\nand a half");
        log.line("two");
        assert_eq!(console.recv().unwrap(), "bugler-agent: one and a half");
        assert!(console.try_recv().is_err(), "a full console drops lines");
        let first = log.take(1);
        assert_eq!(first, ["one and a half"]);
        log.put_back(first);
        assert_eq!(log.take(9), ["one and a half", "two"]);
        assert!(log.take(9).is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let (sender, _console) = sync_channel(1);
        let log = Log::console(sender);
        for n in 0..MAX_WAITING + 5 {
            log.line(format!("{n} {}", "x".repeat(2 * MAX_LINE)));
        }
        let lines = log.take(usize::MAX);
        assert_eq!(lines.len(), MAX_WAITING);
        assert!(lines[0].starts_with("5 ") && lines[0].len() == MAX_LINE);
        log.put_back(lines.clone());
        log.put_back(lines);
        assert_eq!(log.take(usize::MAX).len(), MAX_WAITING);
    }
}
