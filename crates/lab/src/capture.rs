//! A packet capture of the bridge, for the case that the scenario fails.
//!
//! tcpdump is not used: it insists on becoming another user, and in a user namespace there is none.

use crate::net::BRIDGE;
use crate::packet_address::everything_on;
use crate::process::output_of;
use anyhow::{Context, Result};
use rustix::net::netdevice::name_to_index;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, Socket, Type};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The beginning of a frame that is kept.
const SNAP: usize = 1600;
/// TCP segments longer than this are left out: the bulk of a deploy. Its requests and
/// acknowledgements are in.
const LONGEST_TCP: usize = 700;
/// Most bytes of a capture file.
const MAX_FILE: usize = 256 << 20;
/// How often a capture that sees nothing looks whether it is to end.
const IDLE: Duration = Duration::from_millis(100);

/// A running capture; it ends when dropped.
#[derive(Debug)]
pub struct Capture {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Begins a capture of all that crosses the bridge into the file `pcap`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the file cannot be made.
    pub fn start(pcap: &Path) -> Result<Self> {
        // What goes from one port to another is seen on the bridge only by a promiscuous bridge.
        output_of(Command::new("ip").args(["link", "set", BRIDGE, "promisc", "on"]))?;
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)
            .context("cannot make a packet socket to capture with")?;
        let interface = name_to_index(&socket, BRIDGE).context("there is no bridge to capture")?;
        socket
            .bind(&everything_on(interface))
            .context("cannot capture on the bridge")?;
        socket
            .set_read_timeout(Some(IDLE))
            .context("cannot set up the capture")?;
        let file = File::create(pcap).with_context(|| format!("cannot make {}", pcap.display()))?;
        let mut file = BufWriter::new(file);
        file.write_all(&file_header())
            .context("cannot write the capture")?;
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || record(&socket, file, &told))
            .context("cannot start a thread")?;
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn record(socket: &Socket, mut file: BufWriter<File>, end: &AtomicBool) {
    let mut frame = [0; SNAP];
    let mut written = 0;
    while !end.load(Ordering::Relaxed) && written < MAX_FILE {
        // With TRUNC the length is the frame's own, however much of it fits.
        let Ok((kept, length)) = recv(socket, &mut frame[..], RecvFlags::TRUNC) else {
            // Idle: what was seen is in the file, whatever ends us now.
            let _ = file.flush();
            continue;
        };
        let kept = frame.get(..kept).unwrap_or_default();
        if length > LONGEST_TCP && is_tcp(kept) {
            continue;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let header = record_header(now, kept.len(), length);
        if file
            .write_all(&header)
            .and_then(|()| file.write_all(kept))
            .is_err()
        {
            return;
        }
        written += header.len() + kept.len();
    }
}

/// Whether an Ethernet frame holds TCP over IPv4.
fn is_tcp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00]) && frame.get(23) == Some(&6)
}

/// The header of a file in libpcap's format: pcap-savefile(5).
fn file_header() -> Vec<u8> {
    let mut bytes = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    // Version 2.4, times in UTC.
    bytes.extend([2, 0, 4, 0]);
    bytes.extend([0; 8]);
    bytes.extend((SNAP as u32).to_le_bytes());
    // LINKTYPE_ETHERNET.
    bytes.extend(1_u32.to_le_bytes());
    bytes
}

fn record_header(time: Duration, kept: usize, length: usize) -> Vec<u8> {
    [
        time.as_secs() as u32,
        time.subsec_micros(),
        kept as u32,
        length as u32,
    ]
    .into_iter()
    .flat_map(u32::to_le_bytes)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_libpcaps() {
        let header = file_header();
        assert_eq!(header.len(), 24);
        assert_eq!(header[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(header[16..], [0x40, 6, 0, 0, 1, 0, 0, 0]);
        let record = record_header(Duration::from_micros(5_000_007), 60, 1514);
        assert_eq!(record, [5, 0, 0, 0, 7, 0, 0, 0, 60, 0, 0, 0, 0xea, 5, 0, 0]);
    }

    #[test]
    fn only_tcp_is_bulk() {
        let mut frame = [0; 60];
        frame[12] = 8;
        frame[23] = 6;
        assert!(is_tcp(&frame));
        frame[23] = 17;
        assert!(!is_tcp(&frame));
        assert!(!is_tcp(&frame[..20]));
    }
}
