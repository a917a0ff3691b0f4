//! The wires of a scenario: one bridge, machines on taps, hosts in namespaces of their own.
//!
//! All of it is made inside the [`enclosure`](crate::enclosure), in whose network namespace the
//! bridge stands.

use crate::process::output_of;
use anyhow::{Context, Result, anyhow};
use bugler_model::MacAddr;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::cell::Cell;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

/// The name of the bridge.
pub const BRIDGE: &str = "br0";
/// The name of a host's interface on that bridge, as the host sees it.
pub const INTERFACE: &str = "eth0";
/// The length of the network's prefix.
pub const PREFIX: u8 = 24;

/// The address with the last byte `last` in the lab's network, 10.20.50.0/24.
#[must_use]
pub fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 20, 50, last)
}

/// The bridge. Dropping it removes it with its taps.
#[derive(Debug)]
pub struct Net {
    taps: Cell<u32>,
}

/// A host on the bridge, in a network namespace of its own.
#[derive(Debug)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
}

fn ip(arguments: &str) -> Result<String> {
    output_of(Command::new("ip").args(arguments.split_whitespace()))
}

impl Net {
    /// Makes the bridge.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or there is a bridge already.
    pub fn new() -> Result<Self> {
        ip("link set lo up")?;
        // No spanning tree and no delay: a port forwards as soon as it is up, as an edge port does.
        ip(&format!(
            "link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        ))?;
        ip(&format!("link set {BRIDGE} up"))?;
        Ok(Self { taps: Cell::new(0) })
    }

    /// Adds a host named `name` (at most 10 letters) with one interface, [`INTERFACE`], whose address
    /// is `address`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the name is taken.
    pub fn add_host(&self, name: &str, address: Ipv4Addr) -> Result<Host> {
        ip(&format!("netns add {name}"))?;
        let host = Host {
            name: name.to_owned(),
            address,
        };
        ip(&format!(
            "link add port-{name} type veth peer name {INTERFACE} netns {name}"
        ))?;
        ip(&format!("link set port-{name} master {BRIDGE} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!(
            "-n {name} addr add {address}/{PREFIX} dev {INTERFACE}"
        ))?;
        ip(&format!("-n {name} link set {INTERFACE} up"))?;
        Ok(host)
    }

    /// Adds a host named `name` (at most 10 letters) with one interface, [`INTERFACE`], that has this
    /// MAC address and no IP address. [`Host::set_address`] gives it one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the name is taken.
    pub fn add_card(&self, name: &str, mac: MacAddr) -> Result<Host> {
        let host = Host::alone(name)?;
        ip(&format!(
            "link add port-{name} type veth peer name {INTERFACE} address {mac} netns {name}"
        ))?;
        ip(&format!("link set port-{name} master {BRIDGE} up"))?;
        ip(&format!("-n {name} link set {INTERFACE} up"))?;
        Ok(host)
    }

    /// Adds a tap for a machine and returns its name.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: most often because `/dev/net/tun` is not there or may not be opened.
    pub fn add_tap(&self) -> Result<String> {
        let name = format!("tap{}", self.taps.get());
        self.taps.set(self.taps.get() + 1);
        ip(&format!("tuntap add {name} mode tap")).map_err(|error| {
            anyhow!(
                "{error:#}. Machines need /dev/net/tun: load the module (`modprobe tun`), and \
                     let this user open it (mode 0666, as udev sets it)"
            )
        })?;
        ip(&format!("link set {name} master {BRIDGE} up"))?;
        Ok(name)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for tap in 0..self.taps.get() {
            let _ = ip(&format!("link del tap{tap}"));
        }
        let _ = ip(&format!("link del {BRIDGE}"));
    }
}

impl Host {
    /// A host without an interface, for wires that are not the bridge's. Its address is 0.0.0.0.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the name is taken.
    pub fn alone(name: &str) -> Result<Self> {
        ip(&format!("netns add {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            address: Ipv4Addr::UNSPECIFIED,
        })
    }

    /// Gives it this address, and no other.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_address(&mut self, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let name = &self.name;
        ip(&format!("-n {name} addr flush dev {INTERFACE}"))?;
        ip(&format!(
            "-n {name} addr add {address}/{prefix} dev {INTERFACE}"
        ))?;
        self.address = address;
        Ok(())
    }

    /// Its address on the bridge.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The name of its namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run `program` on this host. The process that it starts is the program
    /// itself.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Lets it send `mbit` Mbit/s at most, from now on.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn limit_rate(&self, mbit: u32) -> Result<()> {
        let rate = format!("{mbit}mbit");
        // A burst of 256 KiB: larger than what segmentation offload hands over at once.
        let filter = [
            "root", "tbf", "rate", &rate, "burst", "256kb", "latency", "100ms",
        ];
        let mut command = Command::new("tc");
        command
            .args(["-n", &self.name, "qdisc", "replace", "dev", INTERFACE])
            .args(filter);
        output_of(&mut command).with_context(|| format!("cannot slow {} down", self.name))?;
        Ok(())
    }

    /// Does `work` on a thread whose sockets belong to this host.
    ///
    /// # Errors
    ///
    /// When the thread cannot enter the namespace, or `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                        .with_context(|| format!("cannot enter the namespace {}", self.name))?;
                    Ok(work())
                })
                .join()
                .map_err(|_| anyhow!("the work on host {} panicked", self.name))?
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = ip(&format!("link del port-{}", self.name));
        let _ = ip(&format!("netns del {}", self.name));
    }
}
