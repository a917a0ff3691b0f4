//! The servers that are compared.

use crate::net::{Host, INTERFACE};
use crate::paths;
use crate::peers::KeaConfig;
use crate::process::{Process, output_of};
use crate::run::Run;
use anyhow::{Context, Result};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Length of the networks' prefixes: room for 100,000 leases and more.
const PREFIX: u8 = 14;

/// A server to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Bugler,
    /// With this many threads.
    Kea(u8),
    Dnsmasq,
}

impl Which {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bugler => "bugler",
            Self::Kea(1) => "kea, 1 thread",
            Self::Kea(_) => "kea, 2 threads",
            Self::Dnsmasq => "dnsmasq",
        }
    }
}

/// A server that runs on a host of its own, with a wire to the clients' host.
#[derive(Debug)]
pub(super) struct Running {
    which: Which,
    base: u8,
    process: Process,
    /// Kept for as long as the server runs.
    _host: Host,
}

fn ip(arguments: &str) -> Result<()> {
    output_of(Command::new("ip").args(arguments.split_whitespace()))?;
    Ok(())
}

impl Running {
    /// Starts it on a new host; `index` tells the hosts apart.
    pub(super) fn start(run: &Run, clients: &Host, which: Which, index: usize) -> Result<Self> {
        let base = u8::try_from(16 + 4 * index).context("too many servers")?;
        let name = format!("srv{index}");
        let host = Host::alone(&name)?;
        let at = clients.name();
        ip(&format!(
            "-n {at} link add to-{name} type veth peer name {INTERFACE} netns {name}"
        ))?;
        for (namespace, interface, last) in [
            (at, format!("to-{name}"), 2),
            (&name, INTERFACE.to_owned(), 1),
        ] {
            ip(&format!(
                "-n {namespace} addr add 10.{base}.0.{last}/{PREFIX} dev {interface}"
            ))?;
            ip(&format!("-n {namespace} link set {interface} up"))?;
        }
        ip(&format!("-n {name} link set lo up"))?;
        let dir = run.file(&name);
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let command = match which {
            Which::Bugler => bugler(&host, &dir, base)?,
            Which::Kea(threads) => kea(&host, &dir, base, threads)?,
            Which::Dnsmasq => dnsmasq(&host, &dir, base),
        };
        let process = Process::start(which.name(), command, &run.file(&format!("{name}.log")))?;
        if which == Which::Bugler {
            process.wait_for("ready: dashboard", Duration::from_secs(60))?;
        }
        Ok(Self {
            which,
            base,
            process,
            _host: host,
        })
    }

    pub(super) fn which(&self) -> Which {
        self.which
    }

    pub(super) fn name(&self) -> &'static str {
        self.which.name()
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.base, 0, 1)
    }

    /// The address of the clients' host on the wire.
    pub(super) fn relay(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.base, 0, 2)
    }

    pub(super) fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }
}

/// First and last address that is given out.
fn pool(base: u8) -> (String, String) {
    (format!("10.{base}.1.0"), format!("10.{}.255.254", base + 2))
}

fn bugler(host: &Host, dir: &Path, base: u8) -> Result<Command> {
    // A copy without an agent beside it: with one it would build a boot environment meanwhile.
    let program = dir.join("bugler");
    copy_program(&program)?;
    crate::bench::storm::fake_bootenv(&dir.join("state"), 1 << 20, 1 << 20)?;
    let (first, last) = pool(base);
    let mut command = host.command(&program.display().to_string());
    command
        .arg("serve")
        .arg(format!("--state-dir={}", dir.join("state").display()))
        .arg(format!("--interface={INTERFACE}"))
        .args(["--dhcp=full", &format!("--pool={first}-{last}")])
        .arg("--operator-listen=127.0.0.1:8481");
    Ok(command)
}

/// Copies the program that `make build` built.
pub(in crate::bench) fn copy_program(to: &Path) -> Result<()> {
    let built: PathBuf = paths::target().join("release/bugler");
    fs::copy(&built, to)
        .with_context(|| format!("cannot copy {}; `make build` builds it", built.display()))?;
    Ok(())
}

fn kea(host: &Host, dir: &Path, base: u8, threads: u8) -> Result<Command> {
    let config = KeaConfig {
        subnet: format!("10.{base}.0.0/{PREFIX}"),
        pool: pool(base),
        router: Some(format!("10.{base}.0.1")),
        link: false,
        threads: Some(threads),
        severity: "WARN",
    };
    config.command(host, dir)
}

fn dnsmasq(host: &Host, dir: &Path, base: u8) -> Command {
    let (first, last) = pool(base);
    let mut command = host.command("dnsmasq");
    command
        .args([
            "--no-daemon",
            "--conf-file=/dev/null",
            "--port=0",
            "--quiet-dhcp",
        ])
        .args([
            "--no-ping",
            "--dhcp-authoritative",
            "--dhcp-lease-max=500000",
            "--user=root",
        ])
        .args([&format!("--interface={INTERFACE}"), "--bind-interfaces"])
        .arg(format!("--dhcp-leasefile={}", dir.join("leases").display()))
        .arg(format!("--dhcp-range={first},{last},255.252.0.0,1h"));
    command
}
