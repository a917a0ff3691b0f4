//! A packet capture of the bridge, for the case that the scenario fails.

use crate::net::BRIDGE;
use crate::process::Process;
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Everything but the bulk of a deploy: TCP segments longer than this are left out (their
/// acknowledgements and the requests are in).
const LONGEST_TCP: u32 = 700;

/// A running capture; it ends when dropped.
#[derive(Debug)]
pub struct Capture {
    _tcpdump: Process,
}

impl Capture {
    /// Begins a capture into the file `pcap`, and returns once it is listening.
    ///
    /// # Errors
    ///
    /// When tcpdump does not start.
    pub fn start(pcap: &Path, log: &Path) -> Result<Self> {
        let mut command = Command::new("tcpdump");
        command
            // -U: a packet is in the file as soon as it is seen, whatever ends us.
            .args(["-i", BRIDGE, "-n", "-U", "-s", "1600", "-Z", "root", "-w"])
            .arg(pcap)
            .arg(format!("not (tcp and greater {LONGEST_TCP})"));
        let tcpdump = Process::start("tcpdump", command, log)?;
        tcpdump.wait_for("listening on", Duration::from_secs(30))?;
        Ok(Self { _tcpdump: tcpdump })
    }
}
