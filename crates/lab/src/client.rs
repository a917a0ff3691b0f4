//! The agent as a process: a host of the lab does what a machine's boot environment would, with files
//! as its disks. It costs no virtual machine.

use crate::disk;
use crate::net::{Host, INTERFACE, address};
use crate::process::{Process, output_of};
use crate::product::Product;
use crate::run::Run;
use crate::server::Server;
use anyhow::{Context, Result};
use bugler_model::MacAddr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where machines reach the server.
pub const DEVICE_PORT: u16 = 8480;

/// A host on which an agent runs as a process, with a file as its disk.
#[derive(Debug)]
pub struct Client {
    host: Host,
    program: PathBuf,
    /// The host's interface: the server tells a device's script to nobody else.
    mac: MacAddr,
}

impl Client {
    /// Makes `host` one.
    ///
    /// # Errors
    /// When its interface cannot be looked at.
    pub fn new(host: Host, product: &Product) -> Result<Self> {
        let mac = output_of(
            host.command("cat")
                .arg(format!("/sys/class/net/{INTERFACE}/address")),
        )?;
        Ok(Self {
            mac: mac
                .trim()
                .parse()
                .context("the client's interface has no MAC address")?,
            program: product.bugler.with_file_name("bugler-agent"),
            host,
        })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Makes the server know the device, with a disk of `size` bytes: an agent registers, and is
    /// ended. Returns the device's id.
    ///
    /// # Errors
    /// When the agent does not register.
    pub fn introduce(&self, run: &Run, server: &Server, size: u64) -> Result<String> {
        let target = run.file(&format!("known-{}.raw", self.host.name()));
        disk::empty(&target, size)?;
        let agent = self.agent(&target)?;
        let agent = Process::start(
            "the agent",
            agent,
            &run.file(&format!("introduction-{}.log", self.host.name())),
        )?;
        agent.wait_for("registered as", Duration::from_secs(120))?;
        drop(agent);
        fs::remove_file(&target).context("cannot remove a disk")?;
        let device = server
            .api()
            .device(self.mac)?
            .context("the server has forgotten the agent")?;
        Ok(device.id.to_string())
    }

    /// The agent with `target` as its disk, and with a token of its own as in every boot. It ends
    /// after its first task.
    ///
    /// # Errors
    /// When the server gives no script with a token.
    pub fn agent(&self, target: &Path) -> Result<Command> {
        self.agent_of(&format!("http://{}:{DEVICE_PORT}", address(1)), target)
    }

    /// As [`Client::agent`], with the server at `base`. What the script says beside the server's
    /// address goes to the agent as it would on a machine, the key of signatures too.
    ///
    /// # Errors
    /// As [`Client::agent`].
    pub fn agent_of(&self, base: &str, target: &Path) -> Result<Command> {
        let url = format!("http://{}:{DEVICE_PORT}/boot/ipxe/{}", address(1), self.mac);
        let script = output_of(self.host.command("curl").args(["-sSf", &url]))?;
        let word = |start: &str| {
            script
                .split_whitespace()
                .find_map(|word| word.strip_prefix(start))
        };
        let token = word("bugler.token=")
            .with_context(|| format!("the boot script has no token:\n{script}"))?;
        let mut command = self.host.command(&self.program.display().to_string());
        command
            .args(["run", "--once", "--server", base, "--boot-token", token])
            .args(["--boot-mac", &self.mac.to_string(), "--disk"])
            .arg(target);
        if let Some(key) = word("bugler.key=") {
            command.args(["--key", key]);
        }
        Ok(command)
    }
}
