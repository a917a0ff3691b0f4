//! A PC with x86-64 firmware: QEMU, its console and its buttons.

use crate::accel::Accelerator;
use crate::console::{Seen, Transcript};
use crate::enclosure::RUN_DIR;
use crate::net::Net;
use crate::nvram::{self, DISK_SLOT, NETWORK_SLOT};
use crate::process::Process;
use crate::qmp::Qmp;
use crate::run::Run;
use anyhow::{Context, Result, bail, ensure};
use bugler_model::MacAddr;
use serde_json::json;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// EDK2 for PCs, as Debian's package `ovmf` has it.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// Its empty settings store; each machine has a copy.
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// QEMU's name of the machine's disk.
const DRIVE: &str = "disk0";
/// What a console says when the machine will not go on by itself.
const FATAL: &str = "Kernel panic - not syncing";

/// What the machine's firmware is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, with iPXE in the network card's ROM.
    Bios,
    /// EDK2 (OVMF), with its own PXE client.
    Uefi,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "BIOS (SeaBIOS, iPXE ROM)",
            Self::Uefi => "UEFI (EDK2)",
        })
    }
}

/// A kernel and an initramfs that a machine is started from, as from a USB stick.
#[derive(Clone, Debug)]
pub struct RamSystem {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The kernel's arguments.
    pub arguments: String,
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name in files and messages.
    pub name: String,
    /// Its firmware.
    pub firmware: Firmware,
    /// The address of its only network card.
    pub mac: MacAddr,
    /// Whether that card is in it.
    pub network: bool,
    /// SMBIOS type 1: the machine's UUID.
    pub uuid: String,
    /// SMBIOS type 1: the machine's serial number.
    pub serial: String,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The file that is its only disk (virtio-blk, 512-byte sectors), if it has one.
    pub disk: Option<PathBuf>,
    /// The disk's serial number.
    pub disk_serial: String,
    /// A system that it starts from, whatever its firmware would choose.
    pub ram_system: Option<RamSystem>,
    /// Whether it stops, at first, where it would reboot; [`Machine::resume`] lets it go on.
    pub pause_on_reboot: bool,
}

impl Spec {
    /// A machine without a disk. `number` makes its MAC address, UUID and serial numbers.
    #[must_use]
    pub fn new(name: &str, number: u8, firmware: Firmware) -> Self {
        Self {
            name: name.to_owned(),
            firmware,
            mac: MacAddr([0x52, 0x54, 0x00, 0x20, 0x50, number]),
            network: true,
            uuid: format!("b0061e00-1ab0-4000-8000-0000000000{number:02x}"),
            serial: format!("LAB-{number:04}"),
            memory_mib: 1024,
            disk: None,
            disk_serial: format!("DISK-{number:04}"),
            ram_system: None,
            pause_on_reboot: false,
        }
    }

    /// With the file `disk` as its disk.
    #[must_use]
    pub fn disk(mut self, disk: &Path) -> Self {
        self.disk = Some(disk.to_owned());
        self
    }

    /// Without a network card: it goes to its disk at once.
    #[must_use]
    pub fn without_network(mut self) -> Self {
        self.network = false;
        self
    }

    /// With `mib` MiB of memory.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Stopping where it would reboot, so that its disk can be compared before it boots from it.
    #[must_use]
    pub fn pause_on_reboot(mut self) -> Self {
        self.pause_on_reboot = true;
        self
    }
}

/// A machine on the bridge, switched on or off. Dropping it switches it off.
#[derive(Debug)]
pub struct Machine {
    spec: Spec,
    dir: PathBuf,
    tap: String,
    /// UEFI settings: they outlive the power, as on a real board.
    vars: Option<PathBuf>,
    accelerator: Accelerator,
    power_ons: u32,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    process: Process,
    qmp: Qmp,
}

impl Machine {
    /// Builds a machine, switched off, and plugs it into the bridge.
    ///
    /// # Errors
    ///
    /// When a tap or the copy of the firmware's settings cannot be made.
    pub fn new(run: &Run, net: &Net, spec: Spec) -> Result<Self> {
        let vars = match spec.firmware {
            Firmware::Bios => None,
            Firmware::Uefi => {
                let vars = run.file(&format!("{}-vars.fd", spec.name));
                let mut settings = fs::read(OVMF_VARS)
                    .with_context(|| format!("cannot read {OVMF_VARS} (package ovmf)"))?;
                nvram::network_then_disk(&mut settings, spec.mac)
                    .with_context(|| format!("cannot change the settings in {OVMF_VARS}"))?;
                fs::write(&vars, settings)
                    .with_context(|| format!("cannot write {}", vars.display()))?;
                Some(vars)
            }
        };
        Ok(Self {
            tap: net.add_tap()?,
            dir: run.dir().to_owned(),
            vars,
            accelerator: Accelerator::detect()?,
            power_ons: 0,
            running: None,
            spec,
        })
    }

    /// Switches it on. Its console is kept in `<name>-console-<n>.log` of the run's folder.
    ///
    /// # Errors
    ///
    /// When it is on already, or QEMU does not start.
    pub fn power_on(&mut self) -> Result<()> {
        ensure!(
            self.running.is_none(),
            "{} is switched on already",
            self.spec.name
        );
        self.power_ons += 1;
        let socket = PathBuf::from(format!(
            "{RUN_DIR}/{}-{}.qmp",
            self.spec.name, self.power_ons
        ));
        let log = self
            .dir
            .join(format!("{}-console-{}.log", self.spec.name, self.power_ons));
        let what = format!("the console of {}", self.spec.name);
        let mut process = Process::start(&what, self.command(&socket), &log)?;
        let qmp = Qmp::connect(&socket, || process.is_running()).with_context(|| {
            format!(
                "{} did not start; QEMU said:\n{}",
                self.spec.name,
                process.transcript().tail()
            )
        })?;
        self.running = Some(Running { process, qmp });
        Ok(())
    }

    fn command(&self, socket: &Path) -> Command {
        let spec = &self.spec;
        let uefi = spec.firmware == Firmware::Uefi;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(self.accelerator.arguments())
            .args([
                "-name",
                &spec.name,
                "-M",
                "q35",
                "-m",
                &spec.memory_mib.to_string(),
            ])
            .args(["-nographic", "-nodefaults"])
            .args([
                "-chardev",
                "stdio,id=console,signal=off",
                "-serial",
                "chardev:console",
            ])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", escaped(socket)),
            ])
            .args(["-uuid", &spec.uuid])
            .arg("-smbios")
            .arg(format!(
                "type=1,manufacturer=Bugler,product=Lab machine,serial={}",
                spec.serial
            ));
        // BIOS takes the order of boot devices from QEMU, EDK2 from its settings. With romfile= the
        // card has no ROM: EDK2's own PXE client is the one to be tested.
        let (network, disk) = if uefi {
            (",romfile=", "")
        } else if spec.ram_system.is_some() {
            // QEMU puts it first itself.
            ("", "")
        } else {
            (",bootindex=0", ",bootindex=1")
        };
        if spec.network {
            command
                .arg("-netdev")
                .arg(format!(
                    "tap,id=net0,ifname={},script=no,downscript=no",
                    self.tap
                ))
                .arg("-device")
                .arg(format!(
                    "virtio-net-pci,netdev=net0,addr={NETWORK_SLOT},mac={}{network}",
                    spec.mac
                ));
        }
        if let Some(vars) = &self.vars {
            command
                .arg("-drive")
                .arg(format!("if=pflash,format=raw,readonly=on,file={OVMF_CODE}"))
                .arg("-drive")
                .arg(format!("if=pflash,format=raw,file={}", escaped(vars)))
                // Without it EDK2 waits minutes for DHCPv6 before it tries the next device.
                .args(["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]);
        }
        if let Some(file) = &spec.disk {
            // writeback: the guest's flushes reach the file, and what it wrote survives a power cut
            // of the machine, as on a disk that keeps its promises.
            command
                .arg("-drive")
                .arg(format!(
                    "if=none,id={DRIVE},file={},format=raw,cache=writeback,discard=unmap",
                    escaped(file)
                ))
                .arg("-device")
                .arg(format!(
                    "virtio-blk-pci,drive={DRIVE},addr={DISK_SLOT},serial={}{disk}",
                    spec.disk_serial
                ));
        }
        // EDK2's network stack and a young Linux both wait for randomness. Last, for it takes the
        // first free slot.
        command.args(["-device", "virtio-rng-pci"]);
        if let Some(system) = &spec.ram_system {
            command
                .arg("-kernel")
                .arg(&system.kernel)
                .arg("-initrd")
                .arg(&system.initrd)
                .args(["-append", &system.arguments]);
        }
        if spec.pause_on_reboot {
            command.args(["-action", "reboot=shutdown,shutdown=pause"]);
        }
        command
    }

    fn running(&mut self) -> Result<&mut Running> {
        match &mut self.running {
            Some(running) => Ok(running),
            None => bail!("{} is switched off", self.spec.name),
        }
    }

    /// What it is made of.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What runs it.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// Its console since it was switched on; times count from there.
    ///
    /// # Errors
    ///
    /// When it is switched off.
    pub fn console(&self) -> Result<&Transcript> {
        match &self.running {
            Some(running) => Ok(running.process.transcript()),
            None => bail!("{} is switched off", self.spec.name),
        }
    }

    /// Waits for a line with `pattern` on the console, after the one that the last wait found.
    ///
    /// # Errors
    ///
    /// When `limit` passes, the kernel panics, or the machine is switched off.
    pub fn wait_for(&self, pattern: &str, limit: Duration) -> Result<Seen> {
        let seen = self.console()?.wait_for_any(&[pattern, FATAL], limit)?;
        ensure!(
            seen.which == 0,
            "{} waited for {pattern:?} and got: {}",
            self.spec.name,
            seen.line
        );
        Ok(seen)
    }

    /// Types `text` on the console.
    ///
    /// # Errors
    ///
    /// When it is switched off.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.running()?.process.type_text(text)
    }

    /// Puts a RAM system in, for the next time it is switched on.
    pub fn insert(&mut self, system: RamSystem) {
        self.spec.ram_system = Some(system);
    }

    /// Takes the RAM system out again.
    pub fn eject(&mut self) {
        self.spec.ram_system = None;
    }

    /// Takes the power away, in the middle of whatever it does.
    ///
    /// # Errors
    ///
    /// When it is switched off.
    pub fn cut_power(&mut self) -> Result<()> {
        self.running()?.process.kill()?;
        self.running = None;
        Ok(())
    }

    /// Presses the reset button.
    ///
    /// # Errors
    ///
    /// When it is switched off, or QEMU refuses.
    pub fn reset(&mut self) -> Result<()> {
        let running = self.running()?;
        running.qmp.execute(
            "set-action",
            json!({ "reboot": "reset", "shutdown": "poweroff" }),
        )?;
        running.qmp.execute("system_reset", json!({}))?;
        Ok(())
    }

    /// Waits until it reboots. It has stopped then, when it was told to
    /// ([`Spec::pause_on_reboot`]), and its disk is not in use.
    ///
    /// # Errors
    ///
    /// When `limit` passes, or it is switched off.
    pub fn wait_reboot(&mut self, limit: Duration) -> Result<()> {
        let event = if self.spec.pause_on_reboot {
            "SHUTDOWN"
        } else {
            "RESET"
        };
        let running = self.running()?;
        let seen = running.qmp.wait_event(event, limit).with_context(|| {
            format!(
                "it has not rebooted; the last lines:\n{}",
                running.process.transcript().tail()
            )
        })?;
        let reason = seen.data["reason"].as_str().unwrap_or_default();
        ensure!(
            reason == "guest-reset",
            "{} should have rebooted, but: {reason}; the last lines:\n{}",
            self.spec.name,
            self.console()?.tail()
        );
        Ok(())
    }

    /// Lets a machine that stopped where it would reboot go on with the reboot. From now on it
    /// reboots without stopping.
    ///
    /// # Errors
    ///
    /// When it is switched off, or QEMU refuses.
    pub fn resume(&mut self) -> Result<()> {
        self.reset()?;
        self.spec.pause_on_reboot = false;
        let running = self.running()?;
        running.qmp.wait_event("RESET", Duration::from_secs(30))?;
        running.qmp.execute("cont", json!({}))?;
        Ok(())
    }

    /// Waits until it has switched itself off.
    ///
    /// # Errors
    ///
    /// When `limit` passes, or it is switched off already.
    pub fn wait_power_off(&mut self, limit: Duration) -> Result<()> {
        self.running()?.process.wait_exit(limit)?;
        self.running = None;
        Ok(())
    }

    /// How many bytes it has written to its disk since it was switched on.
    ///
    /// # Errors
    ///
    /// When it is off or has no disk.
    pub fn disk_written(&mut self) -> Result<u64> {
        self.running()?.qmp.bytes_written(DRIVE)
    }
}

/// A path as a value in QEMU's comma-separated options.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
