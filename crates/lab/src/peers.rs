//! Programs that were on the network before Bugler.

use crate::net::{Host, INTERFACE, address};
use crate::process::Process;
use crate::run::Run;
use anyhow::Result;
use std::path::Path;
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
    /// folder `tftp` (`undionly.kpxe`, `snponly.efi`), iPXE gets the script `boot.ipxe` there.
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
                "--dhcp-userclass=set:ipxe,iPXE".into(),
                "--dhcp-boot=tag:!ipxe,tag:!efi,undionly.kpxe".into(),
                "--dhcp-boot=tag:!ipxe,tag:efi,snponly.efi".into(),
                "--dhcp-boot=tag:ipxe,boot.ipxe".into(),
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
        process.wait_for("DHCP, sockets bound", Duration::from_secs(30))?;
        Ok(Self { process })
    }

    /// The running program and what it prints.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}
