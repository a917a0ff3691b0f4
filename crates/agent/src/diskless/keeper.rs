//! The process that stays when the system of the root has taken the machine over.
//!
//! It renews the lease of the address, and gives the kernel another connection to the NBD server when
//! one has died. Nothing of it may come from the root, which may be what is not there: its program is
//! the file of the initramfs that it was started from, its memory is locked, it opens no file. systemd
//! leaves it alone until the machine is off, because its name begins with `@` ("Storage Daemons for the
//! Root File System" in systemd's documentation).

use super::nbd;
use super::nbd::net::connect;
use crate::backoff::{self, Backoff};
use crate::boot::dhcp_client::net::{Event, Session};
use crate::boot::dhcp_client::{Identity, Terms};
use crate::log::chain;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::net::{Shutdown, shutdown};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Its name; see above for the first letter.
const NAME: &str = "@bugler-keeper";
/// Where it finds its duty.
const DUTY: &str = "BUGLER_KEEPER";
/// The stack of its second thread, in bytes; all of it is locked in memory.
const STACK: usize = 256 << 10;

/// First and longest wait between two tries to connect.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// How often, and how many times, a connection is offered to the driver, which may not have seen yet
/// that the one before it is dead.
const OFFER: Duration = Duration::from_millis(100);
const OFFERS: u32 = 50;

/// How long the DHCP client rests when its socket fails.
const PAUSE: Duration = Duration::from_secs(5);

/// What a keeper is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Duty {
    pub(super) lease: Option<LeaseDuty>,
    pub(super) nbd: Option<NbdDuty>,
}

/// A lease to be renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseDuty {
    pub(super) interface: String,
    pub(super) identity: Identity,
    /// Counted from the keeper's start on.
    pub(super) terms: Terms,
}

/// A device to be kept connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NbdDuty {
    pub(super) server: SocketAddrV4,
    pub(super) export: String,
    /// The number of the device.
    pub(super) index: u32,
    /// In bytes. A connection to an export of another size is not the same disk.
    pub(super) size: u64,
}

/// A running keeper.
#[derive(Debug)]
pub(super) struct Keeper(Child);

impl Keeper {
    /// Starts one. `socket` is the connection that the driver has now.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(super) fn start(duty: &Duty, socket: Option<TcpStream>) -> io::Result<Self> {
        let duty = serde_json::to_string(duty).map_err(io::Error::other)?;
        let stdin = socket.map_or_else(Stdio::null, |socket| {
            Stdio::from(std::os::fd::OwnedFd::from(socket))
        });
        let child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg("keep")
            // Not an argument: the name of an export may be a secret.
            .env(DUTY, duty)
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()?;
        Ok(Self(child))
    }

    /// Ends it.
    pub(super) fn end(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines for the kernel's log, which the system's own log takes them from.
struct Kmsg(Option<File>);

impl Kmsg {
    fn line(&self, text: &str) {
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = text.chars().take(800).map(clean).collect();
        if let Some(mut file) = self.0.as_ref() {
            // Priority 5, notice, of the facility "daemon" (syslog(3)); one write is one record.
            let _ = file.write_all(format!("<29>bugler-keeper: {text}\n").as_bytes());
        }
    }
}

/// The life of the keeper.
///
/// # Errors
/// Where it was not started by an agent, or the kernel refuses what it needs.
pub fn main() -> anyhow::Result<()> {
    use anyhow::Context as _;
    let text = std::env::var(DUTY).context("only the agent starts a keeper")?;
    let duty: Duty = serde_json::from_str(&text).context("cannot read the keeper's duty")?;
    let kmsg = std::sync::Arc::new(Kmsg(File::options().write(true).open("/dev/kmsg").ok()));
    // When memory is short others go first: without the root they would all stand still.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        kmsg.line(&format!(
            "cannot be kept from the out-of-memory killer: {error}"
        ));
    }
    // Else ps would show the name of the link that it was started by.
    let _ = rustix::thread::set_name(c"bugler-keeper");
    // On its own, so that no signal to the group of whoever started it ends it.
    let _ = rustix::process::setsid();
    let renewing = match duty.lease {
        None => None,
        Some(lease) => {
            let kmsg = kmsg.clone();
            let thread = std::thread::Builder::new().stack_size(STACK);
            let thread = thread.spawn(move || keep_lease(&lease, &kmsg));
            Some(thread.context("cannot start a thread")?)
        }
    };
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        kmsg.line(&format!(
            "cannot lock its memory: {error}; it may stand still under memory pressure"
        ));
    }
    if let Some(nbd) = duty.nbd {
        keep_nbd(&nbd, &kmsg);
    }
    if let Some(renewing) = renewing {
        let _ = renewing.join();
    }
    Ok(())
}

/// Renews a lease for ever. The address stays as it is, whatever the servers say: a root hangs on it.
fn keep_lease(duty: &LeaseDuty, kmsg: &Kmsg) {
    let address = duty.terms.lease.address;
    let open = || Session::resume(&duty.interface, duty.identity.clone(), duty.terms.clone());
    let mut session = loop {
        match open() {
            Ok(session) => break session,
            Err(error) => {
                kmsg.line(&format!("cannot renew the lease of {address}: {error}"));
                std::thread::sleep(PAUSE * 12);
            }
        }
    };
    loop {
        match session.step(None) {
            Ok(Some(Event::Bound(lease))) if lease.address != address => kmsg.line(&format!(
                "the DHCP server {} gives {} now; this machine goes on with {address}, since its root \
                 hangs on it",
                lease.server, lease.address
            )),
            Ok(Some(Event::Lost(why))) => kmsg.line(&format!(
                "the lease of {address} is lost: {why}; the address stays in use, since the root \
                 hangs on it"
            )),
            Ok(_) => {}
            Err(error) => {
                kmsg.line(&format!("DHCP on {} failed: {error}", duty.interface));
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Gives the driver another connection whenever one has died. Returns when the device is gone.
fn keep_nbd(duty: &NbdDuty, kmsg: &Kmsg) {
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY, backoff::seed());
    let mut said = String::new();
    loop {
        if let Err(error) = wait_for_end() {
            kmsg.line(&format!("cannot watch the connection: {error}"));
            std::thread::sleep(LONGEST_RETRY);
        }
        // The driver has seen it, or sees it now.
        let _ = shutdown(rustix::stdio::stdin(), Shutdown::Both);
        kmsg.line(&format!(
            "the connection of /dev/nbd{} to {} has ended; reads and writes wait for another",
            duty.index, duty.server
        ));
        backoff.reset();
        said.clear();
        loop {
            match renew(duty) {
                Ok(Renewed::Connected) => break,
                Ok(Renewed::Gone(error)) => {
                    kmsg.line(&format!("/dev/nbd{} is gone: {error}", duty.index));
                    return;
                }
                Err(why) => {
                    // Once, and not every ten seconds for a night.
                    if why != said {
                        kmsg.line(&why);
                        said = why;
                    }
                }
            }
            std::thread::sleep(backoff.wait());
        }
        kmsg.line(&format!(
            "/dev/nbd{} is connected to {} again",
            duty.index, duty.server
        ));
    }
}

/// Waits until the connection, which is standard input, has ended from whichever side: the driver, too,
/// shuts one down that it gives up.
fn wait_for_end() -> io::Result<()> {
    let stdin = rustix::stdio::stdin();
    loop {
        match poll(&mut [PollFd::new(&stdin, PollFlags::RDHUP)], None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

enum Renewed {
    Connected,
    /// There is no such device any more.
    Gone(io::Error),
}

fn renew(duty: &NbdDuty) -> Result<Renewed, String> {
    let (socket, export) = connect(duty.server, &duty.export).map_err(|error| chain(&error))?;
    if export.size != duty.size {
        return Err(format!(
            "the export of {} has {} bytes now and had {}: it is not the same disk, and is not used",
            duty.server, export.size, duty.size
        ));
    }
    for _ in 0..OFFERS {
        match nbd::kernel::reconnect(duty.index, &socket) {
            Ok(()) | Err(_) if is_taken(&socket) => {
                rustix::stdio::dup2_stdin(&socket)
                    .map_err(|error| format!("cannot keep the connection: {error}"))?;
                return Ok(Renewed::Connected);
            }
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::INVAL | Errno::NODEV | Errno::NOENT)
                ) =>
            {
                return Ok(Renewed::Gone(error));
            }
            Ok(()) | Err(_) => std::thread::sleep(OFFER),
        }
    }
    Err(format!(
        "the driver does not take another connection for /dev/nbd{}",
        duty.index
    ))
}

/// Whether the driver has taken a socket. Its answer does not say so: it is a yes, too, where none of
/// its connections was dead and it left the new one alone (`nbd_genl_reconfigure`). A socket that it
/// takes gets a time limit for sending, which it had not before.
fn is_taken(socket: &TcpStream) -> bool {
    matches!(socket.write_timeout(), Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::MacAddr;
    use std::net::Ipv4Addr;

    #[test]
    fn a_duty_is_handed_over_as_it_is() {
        let lease = crate::boot::dhcp_client::Lease {
            address: Ipv4Addr::new(10, 0, 0, 7),
            prefix: 24,
            router: None,
            dns: Vec::new(),
            domain: None,
            server: Ipv4Addr::new(10, 0, 0, 1),
        };
        let duty = Duty {
            lease: Some(LeaseDuty {
                interface: "eth0".into(),
                identity: Identity {
                    mac: MacAddr([2, 0, 0, 0, 0, 1]),
                    uuid: None,
                },
                terms: Terms {
                    lease,
                    renew: Duration::from_millis(1500),
                    rebind: Duration::from_secs(20),
                    end: Duration::from_secs(30),
                },
            }),
            nbd: Some(NbdDuty {
                server: "10.0.0.1:10809".parse().unwrap(),
                export: "d3".into(),
                index: 0,
                size: 1 << 40,
            }),
        };
        let text = serde_json::to_string(&duty).unwrap();
        assert_eq!(serde_json::from_str::<Duty>(&text).unwrap(), duty);
    }
}
