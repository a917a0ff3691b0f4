//! A machine: QEMU, its console and its buttons.

use crate::accel::Accelerator;
pub use crate::board::Firmware;
use crate::board::{Bus, Rom};
use crate::console::{Seen, Transcript};
use crate::enclosure::RUN_DIR;
use crate::net::Net;
use crate::nvram::{DISK_SLOT, NETWORK_SLOT};
use crate::process::Process;
use crate::qmp::Qmp;
use crate::run::Run;
use anyhow::{Context, Result, bail, ensure};
use bugler_model::MacAddr;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// QEMU's name of the machine's disk.
const DRIVE: &str = "disk0";
/// What a console says when the machine will not go on by itself.
const FATAL: &str = "Kernel panic - not syncing";

/// A kernel and an initramfs that a machine is started from, as from a USB stick.
#[derive(Clone, Debug)]
pub struct RamSystem {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The kernel's arguments.
    pub arguments: String,
    /// The device tree, for a board whose firmware brings none.
    pub device_tree: Option<PathBuf>,
}

/// The serial number of a machine's disk on NVMe.
pub const NVME_SERIAL: &str = "NVME-0001";
/// That of a disk on SATA.
pub const SATA_SERIAL: &str = "SATA-0001";

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
    /// The file that is its only disk, if it has one: virtio-blk with 512-byte sectors; on a
    /// Raspberry Pi an SD card, whose size has to be a power of two.
    pub disk: Option<PathBuf>,
    /// The disk's serial number.
    pub disk_serial: String,
    /// The file that is a second disk, on NVMe, with the serial number [`NVME_SERIAL`]; on boards with
    /// PCI.
    pub nvme: Option<PathBuf>,
    /// The file that is a third disk, on SATA, with the serial number [`SATA_SERIAL`]; on boards with
    /// PCI.
    pub sata: Option<PathBuf>,
    /// A system that it starts from, whatever its firmware would choose.
    pub ram_system: Option<RamSystem>,
    /// Whether its firmware tries the disk first, and then the network; a PC with BIOS.
    pub disk_first: bool,
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
            nvme: None,
            sata: None,
            ram_system: None,
            disk_first: false,
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
    /// The firmware's settings: they outlive the power, as on a real board.
    settings: Option<PathBuf>,
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
        let board = spec.firmware.board();
        let settings = match board.rom.settings(spec.mac)? {
            None => None,
            Some(settings) => {
                let file = run.file(&format!("{}-settings.fd", spec.name));
                settings
                    .write(&file)
                    .with_context(|| format!("cannot write {}", file.display()))?;
                Some(file)
            }
        };
        let accelerator = if board.is_pc {
            Accelerator::detect()?
        } else {
            // Of another processor than most computers that this runs on.
            Accelerator::Tcg
        };
        Ok(Self {
            tap: net.add_tap()?,
            dir: run.dir().to_owned(),
            settings,
            accelerator,
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
        let board = spec.firmware.board();
        let mut command = Command::new(board.program);
        command
            .args(self.accelerator.arguments())
            .args(["-name", &spec.name])
            .args(board.arguments)
            .args(["-m", &spec.memory_mib.to_string()])
            .args(["-nographic", "-nodefaults"])
            .args(["-chardev", "stdio,id=console,signal=off"]);
        for _ in 0..board.idle_serial_ports {
            command.args(["-serial", "null"]);
        }
        command.args(["-serial", "chardev:console"]).args([
            "-qmp",
            &format!("unix:{},server=on,wait=off", escaped(socket)),
        ]);
        match board.rom {
            Rom::Own | Rom::Missing => {}
            Rom::Edk2 { code, .. } => {
                command
                    .arg("-drive")
                    .arg(format!("if=pflash,format=raw,readonly=on,file={code}"))
                    // Without it EDK2 waits minutes for DHCPv6 before it tries the next device.
                    .args(["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]);
            }
            Rom::UBoot { image, .. } => {
                command.arg("-bios").arg(crate::uboot::path(image));
            }
        }
        if let Some(settings) = &self.settings {
            command.arg("-drive").arg(format!(
                "if=pflash,index=1,format=raw,file={}",
                escaped(settings)
            ));
        }
        if spec.network {
            command.arg("-netdev").arg(format!(
                "tap,id=net0,ifname={},script=no,downscript=no",
                self.tap
            ));
        }
        match board.bus {
            Bus::Pci => self.plug_pci(&mut command),
            Bus::Pi => self.plug_pi(&mut command),
        }
        if let Some(system) = &spec.ram_system {
            command
                .arg("-kernel")
                .arg(&system.kernel)
                .arg("-initrd")
                .arg(&system.initrd)
                .args(["-append", &system.arguments]);
            if let Some(tree) = &system.device_tree {
                command.arg("-dtb").arg(tree);
            }
        }
        if spec.pause_on_reboot {
            command.args(["-action", "reboot=shutdown,shutdown=pause"]);
        }
        command
    }

    /// Identity, network card and disk of a board with PCI.
    fn plug_pci(&self, command: &mut Command) {
        let spec = &self.spec;
        command
            .args(["-uuid", &spec.uuid])
            .arg("-smbios")
            .arg(format!(
                "type=1,manufacturer=Bugler,product=Lab machine,serial={}",
                spec.serial
            ));
        // SeaBIOS takes the order of boot devices from QEMU, others from their settings. With
        // romfile= the card has no ROM: the firmware's own PXE client is the one to be tested.
        let (network, disk) = match spec.firmware.board().rom {
            // QEMU puts it first itself.
            Rom::Own if spec.ram_system.is_some() => ("", ""),
            Rom::Own if spec.disk_first => (",bootindex=1", ",bootindex=0"),
            Rom::Own => (",bootindex=0", ",bootindex=1"),
            _ => (",romfile=", ""),
        };
        if spec.network {
            command.arg("-device").arg(format!(
                "virtio-net-pci,netdev=net0,addr={NETWORK_SLOT},mac={}{network}",
                spec.mac
            ));
        }
        if let Some(file) = &spec.disk {
            command
                .arg("-drive")
                .arg(format!("if=none,id={DRIVE},{}", drive(file)))
                .arg("-device")
                .arg(format!(
                    "virtio-blk-pci,drive={DRIVE},addr={DISK_SLOT},serial={}{disk}",
                    spec.disk_serial
                ));
        }
        if let Some(file) = &spec.nvme {
            command
                .arg("-drive")
                .arg(format!("if=none,id=nvme0,{}", drive(file)))
                .arg("-device")
                .arg(format!("nvme,drive=nvme0,serial={NVME_SERIAL}"));
        }
        if let Some(file) = &spec.sata {
            command
                .arg("-drive")
                .arg(format!("if=none,id=sata0,{}", drive(file)))
                .args(["-device", "ich9-ahci,id=ahci", "-device"])
                .arg(format!(
                    "ide-hd,drive=sata0,bus=ahci.0,serial={SATA_SERIAL}"
                ));
        }
        // EDK2's network stack and a young Linux both wait for randomness. Last, for it takes the
        // first free slot.
        command.args(["-device", "virtio-rng-pci"]);
    }

    /// Network card and SD card of a Raspberry Pi.
    fn plug_pi(&self, command: &mut Command) {
        if self.spec.network {
            command
                .arg("-device")
                .arg(format!("usb-net,netdev=net0,mac={}", self.spec.mac));
        }
        if let Some(file) = &self.spec.disk {
            command
                .arg("-drive")
                .arg(format!("if=sd,id={DRIVE},{}", drive(file)));
        }
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

    /// Sets what its firmware tries first from the next time that it is switched on.
    pub fn boot_disk_first(&mut self, disk_first: bool) {
        self.spec.disk_first = disk_first;
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
        running.qmp.wait_event("RESET", Duration::from_secs(120))?;
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

/// The file behind a disk. writeback: the guest's flushes reach the file, and what it wrote survives
/// a power cut of the machine, as on a disk that keeps its promises.
fn drive(file: &Path) -> String {
    format!(
        "file={},format=raw,cache=writeback,discard=unmap",
        escaped(file)
    )
}

/// A path as a value in QEMU's comma-separated options.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
