//! The consoles of the machine.

use crate::log::Log;
use std::fs::{File, OpenOptions, read_to_string};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, sync_channel};

/// Most lines that wait for a slow console.
const QUEUE: usize = 256;

/// A log that is shown on every console that the kernel uses, by a thread of its own: a serial
/// line is slow, and one with flow control and nobody at its other end stands still.
pub(crate) fn start() -> Log {
    let (sender, lines) = sync_channel(QUEUE);
    // Without the thread the log still reaches the server.
    drop(
        std::thread::Builder::new()
            .name("console".into())
            .spawn(move || show(&lines)),
    );
    Log::console(sender)
}

fn show(lines: &Receiver<String>) {
    let text = read_to_string("/proc/consoles").unwrap_or_default();
    let mut paths: Vec<String> = console_names(&text)
        .iter()
        .map(|name| format!("/dev/{name}"))
        .collect();
    if paths.is_empty() {
        paths.push("/dev/console".into());
    }
    let mut consoles: Vec<Console> = paths.into_iter().map(Console::new).collect();
    for line in lines {
        // A carriage return too: the terminal may be in raw mode under a shell.
        let bytes = format!("{line}\r\n").into_bytes();
        for console in &mut consoles {
            console.write(&bytes);
        }
    }
}

struct Console {
    path: String,
    open: Option<File>,
}

impl Console {
    fn new(path: String) -> Self {
        Self { path, open: None }
    }

    /// Writes, and opens the console first where it is not open. A shell that ends hangs up its
    /// terminal for everybody who has it open, so a write that fails is tried once more.
    fn write(&mut self, bytes: &[u8]) {
        for _ in 0..2 {
            if self.open.is_none() {
                self.open = open_tty(&self.path);
            }
            let Some(console) = &mut self.open else {
                return;
            };
            if console.write_all(bytes).is_ok() {
                return;
            }
            self.open = None;
        }
    }
}

fn open_tty(path: &str) -> Option<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).ok()?;
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(flags).open(path).ok()
}

/// The names of consoles that take output: `ttyS0   -W- (EC p a)    4:64`.
fn console_names(text: &str) -> Vec<&str> {
    let lines = text.lines().map(|line| line.split_whitespace());
    lines
        .filter_map(|mut words| {
            let name = words.next()?;
            let can = words.next()?;
            // Names come from the kernel; a path would not be one.
            (can.contains('W') && !name.contains('/')).then_some(name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_hung_up_is_opened_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut console = Console::new(file.path().to_str().unwrap().into());
        console.write(b"one");
        // Every write to this descriptor fails.
        console.open = Some(File::open(file.path()).unwrap());
        console.write(b"two");
        assert_eq!(std::fs::read(file.path()).unwrap(), b"two");
        let mut missing = Console::new("/nonexistent/tty".into());
        missing.write(b"three");
        assert!(missing.open.is_none());
    }

    #[test]
    fn consoles_that_can_be_written_are_found() {
        let text = "tty0                 -WU (EC  p  )    4:1\n\
                    ttyS0                -W- (E   p a)    4:64\n\
                    netcon0              --- (E      )\n\
                    ../x                 -W- (E      )\n";
        assert_eq!(console_names(text), ["tty0", "ttyS0"]);
        assert!(console_names("").is_empty());
    }
}
