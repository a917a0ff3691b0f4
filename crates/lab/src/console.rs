//! What a machine or a program prints: kept in a file, and searched as it comes.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Most text that stays in memory for searching; older text is in the file only.
const MAX_TEXT: usize = 1 << 20;
/// Most bytes that are written to the file: a console that scrolls for ever must not fill the disk.
const MAX_FILE: u64 = 64 << 20;
/// How many of the last lines an error shows.
const SHOWN: usize = 25;

/// The text of one console or one program, from its start to its end. Clones share it.
#[derive(Clone, Debug)]
pub struct Transcript {
    shared: Arc<Shared>,
}

/// A line that was waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The whole line, without control sequences.
    pub line: String,
    /// When it came, since the transcript began.
    pub at: Duration,
    /// Which of the patterns it was.
    pub which: usize,
}

#[derive(Debug)]
struct Shared {
    what: String,
    path: PathBuf,
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The last of the text.
    text: String,
    /// How many bytes came before `text`.
    dropped: usize,
    /// Where the next search begins, counted from the very start.
    cursor: usize,
    /// (Length of everything so far, when it was that long).
    marks: Vec<(usize, Duration)>,
    closed: bool,
}

impl Transcript {
    /// Begins a transcript of `what` (a noun for errors: "the console of n1") that reads `source` to
    /// its end, on a thread of its own, and keeps the raw bytes in the file `path`.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn record(what: &str, path: &Path, source: impl Read + Send + 'static) -> Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("cannot make {} for {what}", path.display()))?;
        let shared = Arc::new(Shared {
            what: what.to_owned(),
            path: path.to_owned(),
            started: Instant::now(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let recorder = Arc::clone(&shared);
        thread::Builder::new()
            .name("transcript".into())
            .spawn(move || recorder.read_all(source, file))
            .context("cannot start a thread")?;
        Ok(Self { shared })
    }

    /// Waits until a complete line that holds `pattern` has come, from where the last wait ended.
    ///
    /// # Errors
    ///
    /// When `limit` passes or the source ends first. The error shows the last lines.
    pub fn wait_for(&self, pattern: &str, limit: Duration) -> Result<Seen> {
        self.wait_for_any(&[pattern], limit)
    }

    /// As [`Transcript::wait_for`], for the first line that holds one of `patterns`.
    ///
    /// # Errors
    ///
    /// As [`Transcript::wait_for`].
    pub fn wait_for_any(&self, patterns: &[&str], limit: Duration) -> Result<Seen> {
        let asked = Instant::now();
        let mut state = self.shared.lock();
        loop {
            if let Some(seen) = state.take(patterns) {
                return Ok(seen);
            }
            let left = limit.saturating_sub(asked.elapsed());
            if state.closed || left.is_zero() {
                let why = if state.closed {
                    "it ended"
                } else {
                    "nothing of that came"
                };
                bail!(
                    "waited {:.1} s of {} s for {} on {}: {why}. All of it is in {}; the last lines:\n{}",
                    asked.elapsed().as_secs_f64(),
                    limit.as_secs(),
                    patterns
                        .iter()
                        .map(|p| format!("{p:?}"))
                        .collect::<Vec<_>>()
                        .join(" or "),
                    self.shared.what,
                    self.shared.path.display(),
                    state.tail()
                );
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The lines so far that hold `pattern`, without moving the place where waits go on.
    #[must_use]
    pub fn lines_with(&self, pattern: &str) -> Vec<Seen> {
        let state = self.shared.lock();
        let mut found = Vec::new();
        let mut begin = 0;
        for line in state.text.split_inclusive('\n') {
            begin += line.len();
            if line.contains(pattern) {
                let at = state.time_of(state.dropped + begin);
                found.push(Seen {
                    line: line.trim().to_owned(),
                    at,
                    which: 0,
                });
            }
        }
        found
    }

    /// Time since the transcript began.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// The last lines, indented, for an error's text.
    #[must_use]
    pub fn tail(&self) -> String {
        self.shared.lock().tail()
    }

    /// Where the raw bytes are kept.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_all(&self, mut source: impl Read, mut file: File) {
        let mut buffer = vec![0; 16 << 10];
        let mut cleaner = Cleaner::default();
        let mut written = 0;
        while let Ok(count @ 1..) = source.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            if written < MAX_FILE && file.write_all(bytes).is_ok() {
                written += count as u64;
            }
            let mut state = self.lock();
            cleaner.push(bytes, &mut state.text);
            state.mark(self.started.elapsed());
            state.shorten();
            drop(state);
            self.changed.notify_all();
        }
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl State {
    fn mark(&mut self, now: Duration) {
        let length = self.dropped + self.text.len();
        self.marks.push((length, now));
    }

    fn shorten(&mut self) {
        if self.text.len() <= MAX_TEXT {
            return;
        }
        let mut cut = self.text.len() / 2;
        while !self.text.is_char_boundary(cut) {
            cut += 1;
        }
        self.text.drain(..cut);
        self.dropped += cut;
        let dropped = self.dropped;
        self.marks.retain(|&(length, _)| length > dropped);
    }

    /// When the text was `length` bytes long.
    fn time_of(&self, length: usize) -> Duration {
        let after = self.marks.partition_point(|&(reached, _)| reached < length);
        self.marks
            .get(after)
            .or(self.marks.last())
            .map_or(Duration::ZERO, |&(_, at)| at)
    }

    /// The first complete line after the cursor that holds one of `patterns`; the cursor moves
    /// behind it.
    fn take(&mut self, patterns: &[&str]) -> Option<Seen> {
        let mut begin = self.cursor.saturating_sub(self.dropped);
        let mut found = None;
        for line in self.text.get(begin..)?.split_inclusive('\n') {
            if !line.ends_with('\n') {
                break;
            }
            begin += line.len();
            if let Some(which) = patterns.iter().position(|pattern| line.contains(pattern)) {
                found = Some((line.trim().to_owned(), which));
                break;
            }
        }
        // Complete lines without the pattern stay: the next wait may be for another one.
        let (line, which) = found?;
        self.cursor = self.dropped + begin;
        Some(Seen {
            line,
            which,
            at: self.time_of(self.cursor),
        })
    }

    fn tail(&self) -> String {
        let lines: Vec<&str> = self
            .text
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect();
        let skipped = lines.len().saturating_sub(SHOWN);
        let shown: Vec<String> = lines
            .iter()
            .skip(skipped)
            .map(|line| format!("    | {line}"))
            .collect();
        if shown.is_empty() {
            "    | (nothing)".into()
        } else {
            shown.join("\n")
        }
    }
}

/// Turns a terminal's bytes into lines: control sequences go, and one that moves the cursor to
/// another place begins a new line.
#[derive(Debug, Default)]
struct Cleaner {
    escape: Escape,
    /// Text bytes that are not in the transcript yet; a character that two reads cut in half is
    /// shown as a replacement character.
    pending: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    No,
    /// After ESC.
    Begun,
    /// After `ESC [`, until a byte from `@` to `~`.
    Sequence,
}

impl Cleaner {
    fn push(&mut self, bytes: &[u8], text: &mut String) {
        for &byte in bytes {
            match (self.escape, byte) {
                (_, 0x1b) => self.escape = Escape::Begun,
                (Escape::Begun, b'[') => self.escape = Escape::Sequence,
                (Escape::Begun, _) => self.escape = Escape::No,
                (Escape::Sequence, 0x40..=0x7e) => {
                    self.escape = Escape::No;
                    if matches!(byte, b'H' | b'f' | b'J') {
                        self.end_line(text);
                    }
                }
                (Escape::Sequence, _) => {}
                (Escape::No, b'\n') => {
                    self.flush(text);
                    text.push('\n');
                }
                (Escape::No, b'\t' | b' '..=0x7e | 0x80..) => self.pending.push(byte),
                (Escape::No, _) => {}
            }
            if self.pending.len() >= 256 {
                self.flush(text);
            }
        }
        self.flush(text);
    }

    fn end_line(&mut self, text: &mut String) {
        self.flush(text);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
    }

    fn flush(&mut self, text: &mut String) {
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(120);

    fn transcript(bytes: &'static [u8]) -> (tempfile::TempDir, Transcript) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let transcript = Transcript::record("the console of n1", &path, bytes).unwrap();
        (dir, transcript)
    }

    #[test]
    fn waits_go_forward_line_by_line() {
        let (_dir, transcript) = transcript(b"one ready\ntwo ready\nother\n");
        assert_eq!(
            transcript.wait_for("ready", SOON).unwrap().line,
            "one ready"
        );
        assert_eq!(
            transcript.wait_for("ready", SOON).unwrap().line,
            "two ready"
        );
        let seen = transcript.wait_for_any(&["panic", "other"], SOON).unwrap();
        assert_eq!((seen.line.as_str(), seen.which), ("other", 1));
        assert_eq!(transcript.lines_with("ready").len(), 2);
    }

    #[test]
    fn the_end_of_the_source_ends_a_wait_and_shows_what_came() {
        let (dir, transcript) = transcript(b"first\nlast words");
        let error = transcript.wait_for("login:", SOON).unwrap_err().to_string();
        assert!(
            error.contains("\"login:\" on the console of n1: it ended"),
            "{error}"
        );
        assert!(error.contains("    | last words"), "{error}");
        let raw = std::fs::read(dir.path().join("console.log")).unwrap();
        assert_eq!(raw, b"first\nlast words");
    }

    #[test]
    fn terminal_control_is_taken_out() {
        let (_dir, transcript) =
            transcript(b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS\x1b[01;02HBdsDxe: \x1b[31mok\r\nna\xc3\xafve \xff\n");
        assert_eq!(
            transcript.wait_for("SeaBIOS", SOON).unwrap().line,
            "SeaBIOS"
        );
        assert_eq!(
            transcript.wait_for("BdsDxe", SOON).unwrap().line,
            "BdsDxe: ok"
        );
        assert_eq!(
            transcript.wait_for("ve", SOON).unwrap().line,
            "na\u{ef}ve \u{fffd}"
        );
    }

    #[test]
    fn memory_is_bounded_and_the_cursor_survives() {
        let mut state = State::default();
        state.text.push_str("begin\n");
        assert!(state.take(&["begin"]).is_some());
        while state.dropped == 0 {
            state.text.push_str("a line that says nothing at all\n");
            state.mark(Duration::from_secs(state.text.len() as u64));
            state.shorten();
        }
        state.text.push_str("the end\n");
        state.mark(Duration::from_secs(9_999_999));
        assert!(state.text.len() < MAX_TEXT);
        let seen = state.take(&["the end"]).unwrap();
        assert_eq!(seen.at, Duration::from_secs(9_999_999));
    }
}
