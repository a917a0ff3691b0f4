//! The servers that are compared.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Process;

/// A server to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Bugler,
    Dnsmasq,
    Atftpd,
}

/// A server that runs.
#[derive(Debug)]
pub(super) struct Running {
    peer: Peer,
    process: Process,
}

impl Peer {
    pub(super) const ALL: [Self; 3] = [Self::Bugler, Self::Dnsmasq, Self::Atftpd];

    fn name(self) -> &'static str {
        match self {
            Self::Bugler => "bugler",
            Self::Dnsmasq => "dnsmasq",
            Self::Atftpd => "atftpd",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Bugler => 10_069,
            // It has no option for it.
            Self::Dnsmasq => 69,
            Self::Atftpd => 11_069,
        }
    }

    /// Starts it, and waits until it serves. Its messages go to a file beside `dir`.
    pub(super) fn start(self, dir: &Path) -> Result<Running> {
        let command = self.command(dir)?;
        let log = dir.join(format!("{}.log", self.name()));
        let process = Process::start(self.name(), command, &log)?;
        let running = Running {
            peer: self,
            process,
        };
        super::wait_until_it_serves(running.address()).with_context(|| {
            format!(
                "{} does not serve; it said: {}",
                self.name(),
                fs::read_to_string(&log).unwrap_or_default().trim()
            )
        })?;
        Ok(running)
    }

    fn command(self, dir: &Path) -> Result<Command> {
        let port = self.port().to_string();
        let mut command = match self {
            Self::Bugler => Command::new("/proc/self/exe"),
            Self::Dnsmasq => Command::new("dnsmasq"),
            Self::Atftpd => Command::new("atftpd"),
        };
        match self {
            Self::Bugler => {
                command
                    .arg("tftp-server")
                    .arg("--dir")
                    .arg(dir)
                    .args(["--port", &port]);
            }
            Self::Dnsmasq => {
                command
                    .args([
                        "--no-daemon",
                        "--conf-file=/dev/null",
                        "--port=0",
                        "--quiet-tftp",
                    ])
                    .args([
                        "--listen-address=127.0.0.1",
                        "--bind-interfaces",
                        "--user=root",
                    ])
                    // Its own limit is 50 transfers.
                    .args(["--enable-tftp", "--tftp-max=1000"])
                    .arg(format!("--tftp-root={}", dir.display()));
            }
            Self::Atftpd => {
                command
                    .args(["--daemon", "--no-fork", "--port", &port, "--verbose=0"])
                    .args(["--bind-address", "127.0.0.1", "--maxthread", "512"])
                    .args(["--user", "root.root", "--logfile", "-"])
                    .arg(dir);
            }
        }
        Ok(command)
    }
}

impl Running {
    pub(super) fn name(&self) -> &'static str {
        self.peer.name()
    }

    pub(super) fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.peer.port())
    }

    /// Its user and system time so far, its ended threads included.
    pub(super) fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }
}

/// Lets servers that give up root read everything in `dir`.
pub(super) fn open_to_all(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::set_permissions(entry?.path(), Permissions::from_mode(0o644))?;
    }
    fs::set_permissions(dir, Permissions::from_mode(0o777))?;
    Ok(())
}
