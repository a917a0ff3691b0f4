//! Brings up the interface that the machine booted from, and keeps its address.

use super::dhcp_client::net::{Event, Session};
use super::dhcp_client::{Identity, Lease, Terms};
use super::hotplug::{Arrivals, PATIENCE};
use super::netlink::{Change, LinkWatch, apply};
use crate::log::Log;
use crate::sysfs::Sysfs;
use bugler_model::{MacAddr, Nic};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long to wait for a link: switches take up to some seconds to agree on a speed.
const LINK_WAIT: Duration = Duration::from_secs(12);

/// How long to ask for an address on an interface before another one is tried: a switch with
/// spanning tree keeps a port shut for 30 s.
const LEASE_WAIT: Duration = Duration::from_secs(40);

/// How long to wait before everything is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// The kernel's number of the loopback interface.
const LOOPBACK: u32 = 1;

/// What connecting needs to know.
pub(crate) struct Network<'a> {
    pub(crate) sysfs: &'a Sysfs,
    pub(crate) arrivals: &'a Arrivals,
    pub(crate) log: &'a Log,
    /// `BOOTIF`, where the boot loader gave it.
    pub(crate) boot_mac: Option<MacAddr>,
    pub(crate) uuid: Option<Uuid>,
}

/// An interface with an address.
pub(crate) struct Connected {
    pub(crate) nic: Nic,
    session: Session,
    index: u32,
    lease: Lease,
    identity: Identity,
    held: Held,
}

/// The lease as it was got last, for who is to go on with it in another process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<Mutex<Option<(Terms, Instant)>>>);

impl Held {
    fn note(&self, session: &Session) {
        let terms = session.terms().map(|terms| (terms, Instant::now()));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = terms;
    }

    /// The lease with its times, counted from now on; none where it is lost.
    pub(crate) fn terms(&self) -> Option<Terms> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (terms, since) = held.as_ref()?;
        Some(terms.after(since.elapsed()))
    }
}

impl Network<'_> {
    /// Finds an interface with a link and an address, however long it takes.
    pub(crate) fn connect(&self) -> Connected {
        if let Err(error) = apply(&Change::Up { index: LOOPBACK }) {
            self.log
                .line(format!("cannot set the interface lo up: {error}"));
        }
        let mut is_up = BTreeSet::new();
        loop {
            self.wait_for_interfaces();
            // All of them: the kernel tells of a carrier only on an interface that is up.
            for nic in self.sysfs.nics() {
                if !is_up.contains(&nic.name) && self.set_up(&nic.name) {
                    is_up.insert(nic.name);
                }
            }
            self.wait_for_link();
            for nic in self.sysfs.boot_order(self.boot_mac) {
                if !nic.link {
                    continue;
                }
                match self.try_interface(&nic) {
                    Ok(connected) => return connected,
                    Err(why) => self.log.line(why),
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits for the interface that the machine booted from, or for any where it is not known or
    /// does not appear.
    fn wait_for_interfaces(&self) {
        let mut told = false;
        loop {
            let wanted = || {
                let nics = self.sysfs.nics();
                let found = match self.boot_mac {
                    Some(mac) => nics.iter().any(|nic| nic.mac == mac),
                    None => !nics.is_empty(),
                };
                found.then_some(())
            };
            if self
                .arrivals
                .wait_for(Instant::now() + PATIENCE, wanted)
                .is_some()
            {
                return;
            }
            let nics = self.sysfs.nics();
            if !told {
                told = true;
                let boot = self.boot_mac.map(|mac| format!(" with the address {mac}"));
                self.log.line(format!(
                    "no network interface{} after {} s; there are: {}; is its driver in the boot \
                     environment?",
                    boot.unwrap_or_default(),
                    PATIENCE.as_secs(),
                    names(&nics),
                ));
            }
            if !nics.is_empty() {
                return;
            }
        }
    }

    fn set_up(&self, name: &str) -> bool {
        let Some(index) = self.sysfs.interface_index(name) else {
            return false;
        };
        match apply(&Change::Up { index }) {
            Ok(()) => true,
            Err(error) => {
                self.log
                    .line(format!("cannot set the interface {name} up: {error}"));
                false
            }
        }
    }

    /// Waits for a link: on the interface that the machine booted from, else on any.
    fn wait_for_link(&self) {
        let end = Instant::now() + LINK_WAIT;
        let watch = LinkWatch::open();
        loop {
            let nics = self.sysfs.nics();
            let ready = match self
                .boot_mac
                .filter(|mac| nics.iter().any(|nic| nic.mac == *mac))
            {
                Some(mac) => nics.iter().any(|nic| nic.link && nic.mac == mac),
                None => nics.iter().any(|nic| nic.link),
            };
            if ready {
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.log.line(format!(
                    "no link after {} s on {}; check the cable and the switch",
                    LINK_WAIT.as_secs(),
                    names(&nics),
                ));
                return;
            }
            // Events wake it; the second is for drivers that forget to announce their carrier.
            let wait = left.min(Duration::from_secs(1));
            match &watch {
                Ok(watch) if watch.wait(wait).is_ok() => {}
                _ => std::thread::sleep(wait),
            }
        }
    }

    fn try_interface(&self, nic: &Nic) -> Result<Connected, String> {
        let name = &nic.name;
        let index = self.sysfs.interface_index(name);
        let index = index.ok_or_else(|| format!("the interface {name} has gone"))?;
        let identity = Identity {
            mac: nic.mac,
            uuid: self.uuid,
        };
        let failed = |error: io::Error| format!("cannot ask for an address on {name}: {error}");
        let began = Instant::now();
        let mut session = Session::open(name, identity.clone()).map_err(failed)?;
        let end = began + LEASE_WAIT;
        while let Some(event) = session.step(Some(end)).map_err(failed)? {
            let Event::Bound(lease) = event else {
                continue;
            };
            let connected = Connected {
                nic: nic.clone(),
                session,
                index,
                lease,
                identity: identity.clone(),
                held: Held::default(),
            };
            connected.held.note(&connected.session);
            connected.configure(self.log);
            let time = began.elapsed().as_millis();
            self.log.line(format!(
                "{} ({}), in {time} ms",
                describe(&connected.lease),
                nic.name
            ));
            return Ok(connected);
        }
        let sent = session.trouble().map_or("nobody answered".into(), |error| {
            format!("sending failed: {error}")
        });
        Err(format!(
            "no address on {name} ({}) after {} s of asking by DHCP: {sent}; is a DHCP server on \
             this network?",
            nic.mac,
            LEASE_WAIT.as_secs(),
        ))
    }
}

impl Connected {
    /// The lease as it is now.
    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whom the lease was given to.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What becomes of the lease while [`keep`](Self::keep) keeps it.
    pub(crate) fn held(&self) -> Held {
        self.held.clone()
    }

    /// Renews the lease for as long as the machine runs.
    pub(crate) fn keep(mut self, log: &Log) {
        loop {
            let event = self.session.step(None);
            self.held.note(&self.session);
            match event {
                Ok(Some(Event::Bound(lease))) => {
                    if lease != self.lease {
                        log.line(describe(&lease));
                        self.lease = lease;
                    }
                    // Again even where it is the same: it also mends what somebody took away.
                    self.configure(log);
                }
                Ok(Some(Event::Lost(why))) => {
                    log.line(format!("lost the address {}: {why}", self.lease.address));
                    self.remove(log);
                }
                Ok(None) => {}
                Err(error) => {
                    log.line(format!("DHCP on {} failed: {error}", self.nic.name));
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Gives the lease to the kernel and the resolver.
    fn configure(&self, log: &Log) {
        let (index, lease) = (self.index, &self.lease);
        let address = Change::AddAddress {
            index,
            address: lease.address,
            prefix: lease.prefix,
        };
        let mut changes = vec![address];
        if let Some(router) = lease.router {
            if !same_network(lease, router) {
                changes.push(Change::HostRoute {
                    index,
                    host: router,
                });
            }
            changes.push(Change::DefaultRoute { index, router });
        }
        for change in changes {
            if let Err(error) = apply(&change) {
                let name = &self.nic.name;
                log.line(format!("the kernel refuses {change:?} for {name}: {error}"));
            }
        }
        let written = std::fs::create_dir_all("/etc")
            .and_then(|()| std::fs::write("/etc/resolv.conf", resolv_conf(lease)));
        if let Err(error) = written {
            log.line(format!(
                "cannot write /etc/resolv.conf: {error}; names will not resolve"
            ));
        }
    }

    fn remove(&self, log: &Log) {
        let change = Change::RemoveAddress {
            index: self.index,
            address: self.lease.address,
            prefix: self.lease.prefix,
        };
        if let Err(error) = apply(&change) {
            log.line(format!(
                "cannot take the address {} away: {error}",
                self.lease.address
            ));
        }
    }
}

fn names(nics: &[Nic]) -> String {
    let all = nics
        .iter()
        .map(|nic| format!("{} ({})", nic.name, nic.mac))
        .collect::<Vec<_>>();
    if all.is_empty() {
        "none".into()
    } else {
        all.join(", ")
    }
}

fn describe(lease: &Lease) -> String {
    let mut text = format!("address {}/{}", lease.address, lease.prefix);
    if let Some(router) = lease.router {
        // Writing to a string cannot fail.
        let _ = write!(text, ", router {router}");
    }
    let _ = write!(text, ", from the DHCP server {}", lease.server);
    text
}

fn same_network(lease: &Lease, other: Ipv4Addr) -> bool {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(lease.prefix.min(32)))
        .unwrap_or(0);
    lease.address.to_bits() & mask == other.to_bits() & mask
}

/// resolv.conf(5); three servers are the most that are asked.
pub(crate) fn resolv_conf(lease: &Lease) -> String {
    let mut text = String::new();
    if let Some(domain) = &lease.domain {
        let _ = writeln!(text, "search {domain}");
    }
    for server in lease.dns.iter().take(3) {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            address: Ipv4Addr::new(10, 20, 50, 100),
            prefix: 24,
            router: Some(Ipv4Addr::new(10, 20, 50, 1)),
            dns: (1..6).map(|n| Ipv4Addr::new(10, 20, 50, n)).collect(),
            domain: Some("lab.example".into()),
            server: Ipv4Addr::new(10, 20, 50, 1),
        }
    }

    #[test]
    fn the_resolver_gets_three_servers() {
        assert_eq!(
            resolv_conf(&lease()),
            "search lab.example\nnameserver 10.20.50.1\nnameserver 10.20.50.2\nnameserver \
             10.20.50.3\n"
        );
    }

    #[test]
    fn a_router_is_on_the_network_or_is_not() {
        let on = |prefix, last| {
            same_network(
                &Lease { prefix, ..lease() },
                Ipv4Addr::new(10, 20, 50, last),
            )
        };
        assert!(on(24, 1) && on(25, 1) && !on(26, 1) && !on(32, 1) && on(32, 100));
        assert!(on(0, 9), "everything is on one network then");
    }

    #[test]
    fn a_lease_is_told_in_a_line() {
        let text = "address 10.20.50.100/24, router 10.20.50.1, from the DHCP server 10.20.50.1";
        assert_eq!(describe(&lease()), text);
    }
}
