//! The demo: the whole story of one machine, told in the terminal.
//!
//! ```text
//!  host's network            | private network (the enclosure)
//!                            |
//!  bugler-lab demo ──starts──┼─> bugler-lab demo ── switches on ──> QEMU machine "n1"
//!    │                       |     │                                   │ br0
//!    │ 127.0.0.1:8481        |     └── starts ──> bugler serve, on host "srv"
//!    └──── dashboard ── a Unix socket, with --keep ──> 127.0.0.1:8481 there
//! ```
//!
//! What an operator would type is shown and run as it is; the rest is read from the server's API
//! and from the machine's serial console.
//!
//! # Without root
//!
//! It then lives in a user namespace, and needs three things of the computer: user namespaces that
//! everybody may make (Debian's default), `/dev/net/tun` open to this user (mode 0666, as udev sets
//! it; containers often have it closed), and for the first run, which builds the Debian image, a
//! range of subordinate ids for the user in `/etc/subuid` and `/etc/subgid` (`adduser` gives one)
//! and the package `uidmap`. What is missing is named when it is found missing.

mod forward;
mod screen;
mod story;
mod timeline;

use crate::enclosure;
use crate::image::{self, Variant};
use crate::machine::Firmware;
use crate::product;
use crate::run::Run;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// When the demo is ended, whatever it is doing.
const LIMIT: Duration = Duration::from_secs(900);
/// The same for a demo that is left running.
const KEPT_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// The variable that tells the inner program about the [`Meeting`].
const MEETING: &str = "BUGLER_LAB_DEMO";
/// The variable with the address of the dashboard on the host.
const DASHBOARD_ADDRESS: &str = "BUGLER_LAB_DASHBOARD";
/// The dashboard's port, on the host too where it is free.
const DASHBOARD: u16 = 8481;
/// The exit code after Ctrl-C: 128 and the number of the signal, as shells have it.
const INTERRUPTED: u8 = 130;

/// What to play.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The machine's firmware.
    pub firmware: Firmware,
    /// Whether to leave everything running at the end, until Ctrl-C.
    pub keep: bool,
}

/// Plays the demo. The exit code is 0 only when the machine came up from its own disk.
///
/// # Errors
///
/// When what the demo needs cannot be prepared. What fails later is printed, with the step that
/// failed and where the logs are, and shows in the exit code.
pub fn play(options: Options) -> Result<ExitCode> {
    if enclosure::is_inside() {
        enclosure::enter(LIMIT)?;
        return tell(options);
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .context("cannot listen for Ctrl-C")?;
    }
    let say = |text: &str| println!("{text}");
    image::ensure(Variant::Small, &say)?;
    product::ensure(&say)?;
    let meeting = Meeting::new()?;
    let mut environment = vec![(MEETING, meeting.dir.path().as_os_str().to_owned())];
    if options.keep {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, DASHBOARD))
            .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .context("cannot listen on 127.0.0.1 for the dashboard")?;
        let address = listener
            .local_addr()
            .context("cannot ask for a socket's address")?;
        environment.push((DASHBOARD_ADDRESS, address.to_string().into()));
        forward::from_tcp(listener, &socket(meeting.dir.path()))?;
    }
    let limit = if options.keep { KEPT_LIMIT } else { LIMIT };
    match enclosure::enter_with(limit, &environment, &interrupted)? {
        Some(code) => Ok(code),
        None => {
            meeting.remove_run();
            println!("\nStopped; the machine, the server and their files are gone.");
            Ok(if meeting.has_passed() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(INTERRUPTED)
            })
        }
    }
}

/// The inner program's part.
fn tell(options: Options) -> Result<ExitCode> {
    let meeting =
        PathBuf::from(std::env::var_os(MEETING).context("the demo has no outer program")?);
    let run = Run::start("demo")?;
    fs::write(meeting.join("run"), run.dir().display().to_string())
        .context("cannot tell the outer program where the run's files are")?;
    let dashboard = std::env::var(DASHBOARD_ADDRESS)
        .ok()
        .map(|address| story::Dashboard {
            address,
            socket: socket(&meeting),
        });
    let passed = || fs::write(meeting.join("passed"), "").context("cannot note the success");
    let outcome = story::play(&run, options.firmware, dashboard, &passed);
    Ok(match run.finish(outcome, false) {
        Ok(()) => ExitCode::SUCCESS,
        // `finish` has printed it.
        Err(_) => ExitCode::FAILURE,
    })
}

/// Where connections to the dashboard pass from the host's network into the private one: a socket
/// in the file system belongs to no network.
fn socket(meeting: &Path) -> PathBuf {
    meeting.join("dashboard")
}

/// A folder in which the outer and the inner program leave things for each other. Its path is
/// short, as the path of a socket has to be.
struct Meeting {
    dir: tempfile::TempDir,
}

impl Meeting {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("bugler-demo-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        Ok(Self { dir })
    }

    /// Whether the machine came up from its own disk.
    fn has_passed(&self) -> bool {
        self.dir.path().join("passed").exists()
    }

    /// Removes the files of the run that was interrupted.
    fn remove_run(&self) {
        if let Ok(dir) = fs::read_to_string(self.dir.path().join("run")) {
            // What cannot be removed now is overwritten by no one and found under target/lab/runs.
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// The address of the operator plane inside.
fn operator(server: &crate::server::Server) -> Result<SocketAddr> {
    server
        .operator()
        .parse()
        .context("the server's operator address is not one")
}
