//! Programs that were on the network before Bugler.

use crate::net::{Host, INTERFACE, address};
use crate::process::Process;
use crate::run::Run;
use anyhow::{Context, Result};
use bugler_model::MacAddr;
use serde_json::{Value, json};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// dnsmasq on a host of the lab; it ends when dropped. It gives out the addresses .100 to .150.
#[derive(Debug)]
pub struct Dnsmasq {
    process: Process,
}

impl Dnsmasq {
    /// As the DHCP server that owns the addresses and knows nothing of network boot.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn addresses_only(run: &Run, host: &Host) -> Result<Self> {
        Self::start(run, host, &[])
    }

    /// As DHCP and TFTP server that boots every machine: BIOS and UEFI firmware get iPXE from the
    /// folder `tftp` (`undionly.kpxe`, `snponly.efi`), iPXE gets the script `boot.ipxe` there. 64-bit
    /// Arm gets GRUB (`grubnetaa64.efi`), which asks for `grub/grub.cfg`.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn netboot(run: &Run, host: &Host, tftp: &Path) -> Result<Self> {
        Self::start(
            run,
            host,
            &[
                "--enable-tftp".into(),
                format!("--tftp-root={}", tftp.display()),
                // RFC 4578 section 2.1: 7 is x86-64 EFI; EDK2 for PCs says 7.
                "--dhcp-match=set:efi,option:client-arch,7".into(),
                "--dhcp-match=set:arm,option:client-arch,11".into(),
                // The first request of U-Boot, for a script; the second is as EDK2's.
                "--dhcp-match=set:arm,option:client-arch,22".into(),
                "--dhcp-userclass=set:ipxe,iPXE".into(),
                "--dhcp-boot=tag:arm,grubnetaa64.efi".into(),
                "--dhcp-boot=tag:!ipxe,tag:!efi,tag:!arm,undionly.kpxe".into(),
                "--dhcp-boot=tag:!ipxe,tag:efi,snponly.efi".into(),
                "--dhcp-boot=tag:ipxe,boot.ipxe".into(),
            ],
        )
    }

    /// As DHCP and TFTP server for Raspberry Pis, as their documentation sets it up: their files are in
    /// the folder `tftp`.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn pis(run: &Run, host: &Host, tftp: &Path) -> Result<Self> {
        Self::start(
            run,
            host,
            &[
                "--enable-tftp".into(),
                format!("--tftp-root={}", tftp.display()),
                // The spaces are for the ROM of the 3B.
                "--pxe-service=0,\"Raspberry Pi Boot   \"".into(),
            ],
        )
    }

    fn start(run: &Run, host: &Host, more: &[String]) -> Result<Self> {
        let mut command = host.command("dnsmasq");
        command
            // Not a daemon: does not change to another user, of whom there is none in a user
            // namespace. Nobody else in the lab has its addresses, so it need not ping them first.
            .args(["--no-daemon", "--log-facility=-", "--log-dhcp", "--no-ping"])
            .args([
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--port=0",
            ])
            .arg(format!(
                "--dhcp-leasefile={}",
                run.file("dnsmasq.leases").display()
            ))
            .args([&format!("--interface={INTERFACE}"), "--bind-interfaces"])
            .arg("--dhcp-authoritative")
            .arg(format!("--dhcp-range={},{},1h", address(100), address(150)))
            .args(more);
        let process = Process::start("dnsmasq", command, &run.file("dnsmasq.log"))?;
        process.wait_for("DHCP, sockets bound", Duration::from_secs(120))?;
        Ok(Self { process })
    }

    /// The running program and what it prints.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// How Kea's DHCPv4 server is set up.
#[derive(Debug, Clone)]
pub struct KeaConfig {
    /// The network, with its prefix length.
    pub subnet: String,
    /// The first and the last address that it gives out.
    pub pool: (String, String),
    /// The router that it tells clients.
    pub router: Option<String>,
    /// Whether it hears the clients of the link, with raw sockets; otherwise relays only, over UDP.
    pub link: bool,
    /// How many threads serve; as its own default where nothing is said.
    pub threads: Option<u8>,
    /// From which severity on it prints: `INFO`, `WARN`.
    pub severity: &'static str,
}

impl KeaConfig {
    /// The command that runs it on this host, with its leases in a file in `dir` that is not tidied
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// When its configuration cannot be written.
    pub fn command(&self, host: &Host, dir: &Path) -> Result<Command> {
        let path = dir.join("kea.json");
        fs::write(&path, self.json(dir).to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = host.command("kea-dhcp4");
        command
            .arg("-c")
            .arg(path)
            .env("KEA_PIDFILE_DIR", dir)
            .env("KEA_LOCKFILE_DIR", dir);
        Ok(command)
    }

    /// The file in `dir` that it keeps its leases in.
    fn leases(dir: &Path) -> PathBuf {
        dir.join("kea-leases.csv")
    }

    fn json(&self, dir: &Path) -> Value {
        let (first, last) = &self.pool;
        let mut subnet = json!({
            "id": 1,
            "subnet": self.subnet,
            "pools": [{"pool": format!("{first} - {last}")}],
        });
        if let Some(router) = &self.router {
            subnet["option-data"] = json!([{"name": "routers", "data": router}]);
        }
        let mut server = json!({
            "interfaces-config": {
                "interfaces": [INTERFACE],
                "dhcp-socket-type": if self.link { "raw" } else { "udp" },
            },
            "lease-database": {
                "type": "memfile", "persist": true, "lfc-interval": 0,
                "name": Self::leases(dir).display().to_string(),
            },
            "valid-lifetime": 3600,
            "subnet4": [subnet],
            "loggers": [{
                "name": "kea-dhcp4", "severity": self.severity,
                "output_options": [{"output": "stdout", "flush": true}],
            }],
        });
        if let Some(threads) = self.threads {
            server["multi-threading"] = json!({
                "enable-multi-threading": threads > 1,
                "thread-pool-size": threads,
            });
        }
        json!({"Dhcp4": server})
    }
}

/// Kea's DHCPv4 server on a host of the lab; it ends when dropped. It gives out the addresses .100 to
/// .150 and knows nothing of network boot.
#[derive(Debug)]
pub struct Kea {
    process: Process,
    leases: PathBuf,
}

impl Kea {
    /// As the DHCP server that owns the addresses.
    ///
    /// # Errors
    ///
    /// When it does not start (package kea-dhcp4-server).
    pub fn addresses_only(run: &Run, host: &Host) -> Result<Self> {
        let config = KeaConfig {
            subnet: "10.20.50.0/24".into(),
            pool: (address(100).to_string(), address(150).to_string()),
            router: None,
            link: true,
            threads: None,
            severity: "INFO",
        };
        let dir = run.dir();
        let command = config.command(host, dir)?;
        let leases = KeaConfig::leases(dir);
        let process = Process::start("Kea", command, &run.file("kea.log"))?;
        process.wait_for("DHCP4_STARTED", Duration::from_secs(120))?;
        Ok(Self { process, leases })
    }

    /// The address that it has given to this interface last.
    ///
    /// # Errors
    ///
    /// When its leases cannot be read.
    pub fn lease(&self, mac: MacAddr) -> Result<Option<Ipv4Addr>> {
        let text = fs::read_to_string(&self.leases)
            .with_context(|| format!("cannot read {}", self.leases.display()))?;
        // address,hwaddr,client_id,...; the last line of an address counts.
        let mac = mac.to_string();
        let mut fields = text.lines().map(|line| line.split(','));
        let last = fields.rfind(|line| line.clone().nth(1) == Some(&mac));
        Ok(last
            .and_then(|mut line| line.next())
            .and_then(|address| address.parse().ok()))
    }

    /// The running program and what it prints.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}
