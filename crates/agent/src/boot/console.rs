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
    drop(std::thread::Builder::new().name("console".into()).spawn(move || show(&lines)));
    Log::console(sender)
}

fn show(lines: &Receiver<String>) {
    let mut consoles = open();
    for line in lines {
        // A carriage return too: the terminal may be in raw mode under a shell.
        let bytes = format!("{line}\r\n").into_bytes();
        consoles.retain_mut(|console| console.write_all(&bytes).is_ok());
        if consoles.is_empty() {
            consoles = open();
        }
    }
}

/// Every console of `/proc/consoles` that can be written, or `/dev/console` where there is none.
fn open() -> Vec<File> {
    let text = read_to_string("/proc/consoles").unwrap_or_default();
    let names = console_names(&text);
    let mut consoles: Vec<File> =
        names.iter().filter_map(|name| open_tty(&format!("/dev/{name}"))).collect();
    if consoles.is_empty() {
        consoles.extend(open_tty("/dev/console"));
    }
    consoles
}

fn open_tty(path: &str) -> Option<File> {
    let flags = rustix::fs::OFlags::NOCTTY.bits();
    let flags = i32::try_from(flags).ok()?;
    OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
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
    fn consoles_that_can_be_written_are_found() {
        let text = "tty0                 -WU (EC  p  )    4:1\n\
                    ttyS0                -W- (E   p a)    4:64\n\
                    netcon0              --- (E      )\n\
                    ../x                 -W- (E      )\n";
        assert_eq!(console_names(text), ["tty0", "ttyS0"]);
        assert!(console_names("").is_empty());
    }
}
