//! The services that answer machines: DHCP, TFTP and the answer to iPXE's wait for IPv6, on each
//! interface, and NAT for networks that have no other way out.
//!
//! ```text
//!  kernel: links, addresses                   +--> Port eth1: DHCP, TFTP, NDP
//!            |                                |
//!            v         something changed      |
//!         Changes ----------------------> supervise --> Port eth2: ...
//!                                             |
//!                                             +--> Nat
//! ```
//!
//! An interface is served while it is up and has an address. When its address changes its DHCP
//! server starts again with the new one; when it goes away its services end, and start again when it
//! comes back.

mod port;

use crate::boot::BootService;
use crate::config::Config;
use crate::nat::{self, Nat};
use anyhow::{Result, bail};
use bugler_dhcp::Changes;
use bugler_model::EventKind;
use bugler_store::Store;
use port::Port;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// After a change more of them follow: an address goes before its successor comes.
const SETTLE: Duration = Duration::from_millis(300);

/// How often interfaces are looked at without news of them. What could not start is tried again.
const LOOK: Duration = Duration::from_secs(10);

/// The services that answer machines.
pub(crate) struct Network {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// Lines for people: what listens where, in which mode.
pub(crate) type Services = Arc<Mutex<Vec<String>>>;

/// Adds a line.
pub(crate) fn tell(services: &Services, line: String) {
    services
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(line);
}

/// Takes away the lines about an interface, those that DHCP told as well.
fn forget(services: &Services, interface: &str) {
    let ours = format!("{interface}:");
    // The sentences about a mode say first what was found on an interface.
    let of_dhcp = [':', ','].map(|mark| format!(" on {interface}{mark}"));
    let about =
        |line: &String| line.starts_with(&ours) || of_dhcp.iter().any(|words| line.contains(words));
    services
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|line| !about(line));
}

/// What the services are plugged into.
#[derive(Clone)]
pub(crate) struct Parts {
    /// The port of the device plane.
    pub(crate) http_port: u16,
    pub(crate) boot: Arc<BootService>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) services: Services,
}

impl Parts {
    /// Tells people: in the log and among the events.
    fn say(&self, text: String) {
        tracing::info!("{text}");
        self.boot.note(EventKind::Server, None, text);
    }
}

/// Starts them.
///
/// # Errors
/// Where an interface cannot be served, but for one that may be waited for; or NAT not set up.
pub(crate) async fn start(config: &Config, parts: &Parts) -> Result<Network> {
    // Before the interfaces are looked at, so that no change is missed.
    let changes = Changes::watch()?;
    let mut ports: Vec<Port> = config
        .interfaces
        .iter()
        .map(|interface| Port::new(interface.clone(), config.tftp))
        .collect();
    // First of all: a missing interface is not the failure of a service on another.
    for port in &mut ports {
        port.find().await?;
    }
    for port in &mut ports {
        if let Err(error) = port.start(parts).await {
            stop_all(&mut ports).await;
            return Err(error);
        }
    }
    let nat = match start_nat(&ports) {
        Ok(nat) => nat,
        Err(error) => {
            stop_all(&mut ports).await;
            return Err(error);
        }
    };
    let stop = CancellationToken::new();
    let supervisor = Supervisor {
        ports,
        nat,
        parts: parts.clone(),
        nat_failed: None,
    };
    Ok(Network {
        stop: stop.clone(),
        task: Some(tokio::spawn(supervisor.run(changes, stop))),
    })
}

impl Network {
    /// Stops them, and waits until they have.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // An error is a panic of the task, which tokio has reported; it is over in either case.
            let _ = task.await;
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn stop_all(ports: &mut [Port]) {
    for port in ports {
        port.stop().await;
    }
}

fn start_nat(ports: &[Port]) -> Result<Nat> {
    let mut nat = Nat::new();
    for port in ports {
        if let Some(outside) = &port.config().nat
            && !port.config().wait
            && !nat::is_there(outside)
        {
            bail!(
                "there is no network interface {outside}, through which machines on {} were to reach \
                 other networks: `ip link` lists those that there are",
                port.config().name
            );
        }
    }
    nat.apply(&rules(ports))?;
    Ok(nat)
}

/// What NAT is to do now.
fn rules(ports: &[Port]) -> Vec<nat::Rule> {
    ports.iter().filter_map(Port::nat).collect()
}

struct Supervisor {
    ports: Vec<Port>,
    nat: Nat,
    parts: Parts,
    /// Why NAT does not do what it should, as it was said.
    nat_failed: Option<String>,
}

impl Supervisor {
    async fn run(mut self, mut changes: Changes, stop: CancellationToken) {
        loop {
            let subscribed = tokio::select! {
                () = stop.cancelled() => break,
                subscribed = changes.next() => subscribed,
                () = tokio::time::sleep(LOOK) => true,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(SETTLE) => {}
            }
            if !subscribed && let Ok(again) = Changes::watch() {
                changes = again;
            }
            self.look().await;
        }
        stop_all(&mut self.ports).await;
    }

    /// Brings the services in line with the interfaces as they are now.
    async fn look(&mut self) {
        for port in &mut self.ports {
            port.look(&self.parts).await;
        }
        let rules = rules(&self.ports);
        // It runs a program, for some milliseconds.
        let failed = tokio::task::block_in_place(|| self.nat.apply(&rules))
            .err()
            .map(|error| format!("machines have no way out: {error:#}"));
        if let Some(text) = &failed
            && failed != self.nat_failed
        {
            self.parts.say(text.clone());
        }
        self.nat_failed = failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_an_interface_are_taken_away() {
        let lines = [
            "device plane: HTTP on 0.0.0.0:8480",
            "eth1: DHCP auto",
            "no other DHCP server answered on eth1: addresses are given out from the pool",
            "the DHCP server 10.0.0.9 (it offered 10.0.0.33) gives out addresses on eth1: it is left",
            "eth10: DHCP auto",
            "no DHCP server answered on eth2, and no pool was told: nobody asks eth1",
        ];
        let services: Services = Arc::new(Mutex::new(lines.map(str::to_owned).to_vec()));
        forget(&services, "eth1");
        let left = services.lock().unwrap().clone();
        assert_eq!(left, [lines[0], lines[4], lines[5]]);
    }
}
