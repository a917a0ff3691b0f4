//! The boards.

use bugler_model::MacAddr;
use std::fmt;

/// A board that the simulator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// 3B: boot ROM in the chip.
    Pi3B,
    /// 3B+: boot ROM in the chip.
    Pi3BPlus,
    /// 4B: boot loader in an EEPROM.
    Pi4,
    /// 5: boot loader in an EEPROM, no `start.elf`.
    Pi5,
}

impl Board {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Pi3B, Self::Pi3BPlus, Self::Pi4, Self::Pi5];

    /// Whether it starts from a ROM and `bootcode.bin`; the others have an EEPROM.
    #[must_use]
    pub fn has_rom(self) -> bool {
        matches!(self, Self::Pi3B | Self::Pi3BPlus)
    }

    /// The device trees that it asks for: the name in Raspberry Pi's kernel, then that in the kernel
    /// of kernel.org.
    #[must_use]
    pub fn device_trees(self) -> &'static [&'static str] {
        match self {
            Self::Pi3B => &["bcm2710-rpi-3-b.dtb", "bcm2837-rpi-3-b.dtb"],
            Self::Pi3BPlus => &["bcm2710-rpi-3-b-plus.dtb", "bcm2837-rpi-3-b-plus.dtb"],
            Self::Pi4 => &["bcm2711-rpi-4-b.dtb"],
            Self::Pi5 => &["bcm2712-rpi-5-b.dtb"],
        }
    }

    /// The kernels that it asks for where `config.txt` names none.
    #[must_use]
    pub fn kernels(self, arm_64bit: bool) -> &'static [&'static str] {
        match (self, arm_64bit) {
            (Self::Pi5, _) => &["kernel_2712.img", "kernel8.img"],
            (_, true) => &["kernel8.img"],
            (Self::Pi4, false) => &["kernel7l.img", "kernel7.img", "kernel.img"],
            (_, false) => &["kernel7.img", "kernel.img"],
        }
    }

    /// Its second stage, and what belongs to it.
    #[must_use]
    pub fn firmware(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Pi3B | Self::Pi3BPlus => Some(("start.elf", "fixup.dat")),
            Self::Pi4 => Some(("start4.elf", "fixup4.dat")),
            Self::Pi5 => None,
        }
    }

    /// The block size that it asks for over TFTP, in bytes.
    #[must_use]
    pub fn blksize(self) -> u16 {
        match self {
            // Before and after the releases of 2022-10.
            Self::Pi3B | Self::Pi3BPlus => 1024,
            Self::Pi4 | Self::Pi5 => 1468,
        }
    }

    /// Whether a file may have more blocks than block numbers.
    #[must_use]
    pub fn block_numbers_wrap(self) -> bool {
        self == Self::Pi5
    }

    /// The filters of `config.txt` that hold for it.
    #[must_use]
    pub fn filters(self) -> &'static [&'static str] {
        match self {
            Self::Pi3B => &["all", "pi3"],
            Self::Pi3BPlus => &["all", "pi3", "pi3+"],
            Self::Pi4 => &["all", "pi4"],
            Self::Pi5 => &["all", "pi5"],
        }
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pi3B => "Raspberry Pi 3B",
            Self::Pi3BPlus => "Raspberry Pi 3B+",
            Self::Pi4 => "Raspberry Pi 4B",
            Self::Pi5 => "Raspberry Pi 5",
        })
    }
}

/// One board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pi {
    /// What it is.
    pub board: Board,
    /// Its network card's address.
    pub mac: MacAddr,
    /// The low 32 bits of its serial number.
    pub serial: u32,
    /// Its revision code.
    pub revision: u32,
}

impl Pi {
    /// The board of this kind with that number, which makes its addresses.
    #[must_use]
    pub fn new(board: Board, number: u8) -> Self {
        let (mac, serial, revision) = match board {
            // Its MAC address is made from the serial number.
            Board::Pi3B => (
                [0xb8, 0x27, 0xeb, 0x28, 0xf6, number],
                0x4a28_f600,
                0xa0_2082,
            ),
            Board::Pi3BPlus => (
                [0xb8, 0x27, 0xeb, 0x86, 0x96, number],
                0x8d86_9600,
                0xa0_20d3,
            ),
            Board::Pi4 => (
                [0xdc, 0xa6, 0x32, 0x09, 0x02, number],
                0x91cd_f000,
                0xd0_3114,
            ),
            Board::Pi5 => (
                [0x2c, 0xcf, 0x67, 0xe8, 0x27, number],
                0x4047_fe00,
                0xd0_4170,
            ),
        };
        Self {
            board,
            mac: MacAddr(mac),
            serial: serial + u32::from(number),
            revision,
        }
    }

    /// The folder that it looks into first, with the slash.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{:08x}/", self.serial)
    }
}
