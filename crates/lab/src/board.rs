//! The boards that QEMU plays: which program, which firmware and where it lies, what is plugged in.

use crate::{nvram, uboot};
use anyhow::{Context, Result};
use bugler_model::MacAddr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// The size of each of the two flashes of QEMU's board for Arm.
const ARM_FLASH: u64 = 64 << 20;

/// What the machine's firmware is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, with iPXE in the network card's ROM.
    Bios,
    /// EDK2 (OVMF), with its own PXE client.
    Uefi,
    /// The same, set up to boot over HTTP.
    UefiHttp,
    /// EDK2 with Secure Boot on, and Microsoft's keys in it.
    UefiSecure,
    /// EDK2 of 32 bits, with its own PXE client, on a processor of 64 bits, as tablets and small PCs had
    /// it.
    UefiIa32,
    /// EDK2 for 64-bit Arm (AAVMF), with its own PXE client.
    UefiArm,
    /// The same, set up to boot over HTTP.
    UefiArmHttp,
    /// U-Boot for 64-bit Arm.
    UbootArm,
    /// The same, built so that it takes its boot file from a proxy: see [`uboot::proxydhcp`].
    UbootArmProxy,
    /// A Raspberry Pi 3B. QEMU has no boot ROM of a Pi: the machine is started from the files that
    /// the ROM would have fetched, its [`RamSystem`](crate::machine::RamSystem).
    Raspi3b,
}

/// Where a board's firmware comes from, and how it is told to boot from the network first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rom {
    /// QEMU's own; it takes the order of boot devices from QEMU.
    Own,
    /// EDK2 in flash, with its settings in a second flash: both files of the Debian package.
    Edk2 {
        code: &'static str,
        settings: &'static str,
        package: &'static str,
        way: nvram::Way,
    },
    /// U-Boot in ROM, with its settings in the second flash. An `image` without a folder is one that
    /// the lab built, in its cache.
    UBoot {
        image: &'static str,
        package: &'static str,
    },
    /// None: the machine starts from a RAM system or not at all.
    Missing,
}

/// The content of a flash with a firmware's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    bytes: Vec<u8>,
    /// The size of the flash; behind the settings it is zero.
    size: u64,
}

impl Settings {
    /// Writes them into a new file, which takes no room where it is zero.
    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        let mut file = File::create(file)?;
        file.write_all(&self.bytes)?;
        file.set_len(self.size)
    }
}

impl Rom {
    /// Settings that make a machine whose network card has the address `mac` boot from the network
    /// and then from its disk; `None` for firmware without settings.
    pub(crate) fn settings(self, mac: MacAddr) -> Result<Option<Settings>> {
        let read = |file, package| {
            fs::read(file).with_context(|| format!("cannot read {file} (package {package})"))
        };
        match self {
            Self::Own | Self::Missing => Ok(None),
            Self::Edk2 {
                settings,
                package,
                way,
                ..
            } => {
                let mut bytes = read(settings, package)?;
                let size = bytes.len() as u64;
                // On Arm the distribution's file is empty, and most of it stays so.
                if bytes.iter().all(|&byte| byte == 0) {
                    nvram::format_arm(&mut bytes)
                        .with_context(|| format!("cannot format the settings in {settings}"))?;
                }
                nvram::network_then_disk(&mut bytes, mac, way)
                    .with_context(|| format!("cannot change the settings in {settings}"))?;
                let used = bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0) + 1;
                bytes.truncate(used);
                Ok(Some(Settings { bytes, size }))
            }
            Self::UBoot { image, package } => {
                let path = uboot::path(image);
                let program = fs::read(&path)
                    .with_context(|| format!("cannot read {} ({package})", path.display()))?;
                let bytes = uboot::network_then_disk(&program, mac)
                    .with_context(|| format!("cannot make settings for {}", path.display()))?;
                Ok(Some(Settings {
                    bytes,
                    size: ARM_FLASH,
                }))
            }
        }
    }
}

/// What network card and disk hang on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bus {
    /// PCI: virtio devices.
    Pci,
    /// A Raspberry Pi's: a network card on USB, an SD card.
    Pi,
}

/// What a machine with one kind of firmware is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    /// What people read.
    pub(crate) shown: &'static str,
    /// QEMU for its processor.
    pub(crate) program: &'static str,
    /// Whether the hardware virtualisation of a PC can run it.
    pub(crate) is_pc: bool,
    /// Kind of machine and processor.
    pub(crate) arguments: &'static [&'static str],
    pub(crate) rom: Rom,
    pub(crate) bus: Bus,
    /// The serial ports before the one with the console.
    pub(crate) idle_serial_ports: usize,
}

const BIOS: Board = Board {
    shown: "BIOS (SeaBIOS, iPXE ROM)",
    program: "qemu-system-x86_64",
    is_pc: true,
    arguments: &["-M", "q35"],
    rom: Rom::Own,
    bus: Bus::Pci,
    idle_serial_ports: 0,
};

const UEFI: Board = Board {
    shown: "UEFI (EDK2)",
    rom: Rom::Edk2 {
        code: "/usr/share/OVMF/OVMF_CODE_4M.fd",
        settings: "/usr/share/OVMF/OVMF_VARS_4M.fd",
        package: "ovmf",
        way: nvram::Way::Pxe,
    },
    ..BIOS
};

const UEFI_HTTP: Board = Board {
    shown: "UEFI (EDK2), HTTP boot",
    rom: Rom::Edk2 {
        code: "/usr/share/OVMF/OVMF_CODE_4M.fd",
        settings: "/usr/share/OVMF/OVMF_VARS_4M.fd",
        package: "ovmf",
        way: nvram::Way::Http,
    },
    ..BIOS
};

const UEFI_SECURE: Board = Board {
    shown: "UEFI (EDK2) with Secure Boot",
    // The firmware keeps its settings behind system management mode.
    arguments: &[
        "-M",
        "q35,smm=on",
        "-global",
        "driver=cfi.pflash01,property=secure,value=on",
    ],
    rom: Rom::Edk2 {
        code: "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
        settings: "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
        package: "ovmf",
        way: nvram::Way::Pxe,
    },
    ..BIOS
};

const UEFI_IA32: Board = Board {
    shown: "UEFI (EDK2) of 32 bits",
    arguments: UEFI_SECURE.arguments,
    rom: Rom::Edk2 {
        code: "/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd",
        settings: "/usr/share/OVMF/OVMF32_VARS_4M.fd",
        package: "ovmf-ia32",
        way: nvram::Way::Pxe,
    },
    ..BIOS
};

const UEFI_ARM: Board = Board {
    shown: "UEFI on AArch64 (EDK2)",
    program: "qemu-system-aarch64",
    is_pc: false,
    // Emulation of newer processors is slower: pointer authentication costs a hash for each call.
    arguments: &["-M", "virt", "-cpu", "cortex-a57"],
    rom: Rom::Edk2 {
        code: "/usr/share/AAVMF/AAVMF_CODE.fd",
        settings: "/usr/share/AAVMF/AAVMF_VARS.fd",
        package: "qemu-efi-aarch64",
        way: nvram::Way::Pxe,
    },
    ..BIOS
};

const UEFI_ARM_HTTP: Board = Board {
    shown: "UEFI on AArch64 (EDK2), HTTP boot",
    rom: Rom::Edk2 {
        code: "/usr/share/AAVMF/AAVMF_CODE.fd",
        settings: "/usr/share/AAVMF/AAVMF_VARS.fd",
        package: "qemu-efi-aarch64",
        way: nvram::Way::Http,
    },
    ..UEFI_ARM
};

const UBOOT_ARM: Board = Board {
    shown: "U-Boot on AArch64",
    rom: Rom::UBoot {
        image: "/usr/lib/u-boot/qemu_arm64/u-boot.bin",
        package: "package u-boot-qemu",
    },
    ..UEFI_ARM
};

const UBOOT_ARM_PROXY: Board = Board {
    shown: "U-Boot on AArch64 that heeds a proxy",
    rom: Rom::UBoot {
        image: uboot::PROXYDHCP,
        package: "scripts/uboot-proxydhcp builds it",
    },
    ..UEFI_ARM
};

const RASPI_3B: Board = Board {
    shown: "Raspberry Pi 3B (without its boot ROM)",
    arguments: &["-M", "raspi3b"],
    rom: Rom::Missing,
    bus: Bus::Pi,
    // The device tree's console is the second, smaller one.
    idle_serial_ports: 1,
    ..UEFI_ARM
};

impl Firmware {
    /// The board with this firmware.
    pub(crate) fn board(self) -> &'static Board {
        match self {
            Self::Bios => &BIOS,
            Self::Uefi => &UEFI,
            Self::UefiHttp => &UEFI_HTTP,
            Self::UefiSecure => &UEFI_SECURE,
            Self::UefiIa32 => &UEFI_IA32,
            Self::UefiArm => &UEFI_ARM,
            Self::UefiArmHttp => &UEFI_ARM_HTTP,
            Self::UbootArm => &UBOOT_ARM,
            Self::UbootArmProxy => &UBOOT_ARM_PROXY,
            Self::Raspi3b => &RASPI_3B,
        }
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.board().shown)
    }
}
