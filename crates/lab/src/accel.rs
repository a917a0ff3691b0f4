//! Whether this computer runs virtual machines in hardware (KVM) or emulates them (TCG).

use crate::{paths, process::Process};
use anyhow::{Context, Result};
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a machine may take, with KVM, to get through SeaBIOS and into iPXE. It takes about one
/// second.
const PROBE: Duration = Duration::from_secs(10);

/// What runs the machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's emulation: works everywhere, and takes several times as long.
    Tcg,
}

impl Accelerator {
    /// QEMU's arguments.
    #[must_use]
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "max"],
            Self::Tcg => &["-accel", "tcg,thread=multi"],
        }
    }

    /// KVM when it really works here, else TCG. The answer is kept until the computer restarts.
    ///
    /// A `/dev/kvm` that opens proves nothing: nested in another virtual machine it may run SeaBIOS
    /// and hang in iPXE. So a machine is booted as far as iPXE, which is real mode, protected mode
    /// and interrupts.
    ///
    /// # Errors
    ///
    /// When the answer cannot be kept in the lab's folder.
    pub fn detect() -> Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let answer = paths::lab("cache")?.join(format!("accelerator-{}", boot_id.trim()));
        match fs::read_to_string(&answer).unwrap_or_default().trim() {
            "kvm" => return Ok(Self::Kvm),
            "tcg" => return Ok(Self::Tcg),
            _ => {}
        }
        let dir = tempfile::tempdir().context("cannot make a temporary folder")?;
        let found = if works(&dir.path().join("probe.log")) {
            Self::Kvm
        } else {
            Self::Tcg
        };
        let name = if found == Self::Kvm { "kvm" } else { "tcg" };
        fs::write(&answer, name).with_context(|| format!("cannot write {}", answer.display()))?;
        Ok(found)
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM (hardware virtualisation)",
            Self::Tcg => "TCG (software emulation; /dev/kvm is missing or does not run machines)",
        })
    }
}

fn works(log: &Path) -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(Accelerator::Kvm.arguments())
        .args([
            "-M",
            "q35",
            "-m",
            "128",
            "-nographic",
            "-nodefaults",
            "-no-reboot",
        ])
        .args([
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ])
        .args(["-nic", "user,model=virtio-net-pci"]);
    Process::start("a trial machine with KVM", command, log)
        .and_then(|machine| machine.wait_for("Features: ", PROBE))
        .is_ok()
}
