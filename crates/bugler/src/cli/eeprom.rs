//! `bugler eeprom`.

use clap::Subcommand;
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum Eeprom {
    /// Show the boot loader configuration of a Raspberry Pi in words.
    Show {
        /// A boot loader image (pieeprom.bin of the package rpi-eeprom), or a configuration as a text.
        file: PathBuf,
    },
    /// Make a boot loader update with a changed configuration: pieeprom.upd and pieeprom.sig.
    ///
    /// A board takes it when it boots from the network the next time and finds the two files in the
    /// folder of its own, which is named by its serial number: with --into
    /// /var/lib/bugler/files/pi/91cdf03d the server gives them to the board 91cdf03d alone. Take them
    /// away when it has.
    Set {
        /// The boot loader image to change; it stays as it is.
        image: PathBuf,
        /// Properties, such as BOOT_ORDER=0xf12, which is read from the right: network (2), SD card
        /// (1), again (f). A property without a value, as in TFTP_IP=, has the boot loader's default.
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// Put the network before everything else in BOOT_ORDER.
        #[arg(long)]
        network_first: bool,
        /// The folder to write into; it is made where it does not exist.
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
    /// Have a Raspberry Pi write a boot loader image to its EEPROM when it next boots from the network.
    ///
    /// The server keeps the update for this device alone and gives it every time the device asks; a
    /// board takes it once, since it compares the time in it with that of its last update.
    Offer {
        /// Its id, MAC address, UUID or name, or the beginning of one of these.
        device: String,
        /// The boot loader image of its package rpi-eeprom; it stays as it is.
        image: PathBuf,
        /// Properties to change in it, such as BOOT_ORDER=0xf12.
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// Put the network before everything else in BOOT_ORDER.
        #[arg(long)]
        network_first: bool,
    },
    /// Show the update that waits for a Raspberry Pi.
    Offered {
        /// Its id, MAC address, UUID or name, or the beginning of one of these.
        device: String,
    },
    /// Take back the update that waits for a Raspberry Pi.
    Withdraw {
        /// Its id, MAC address, UUID or name, or the beginning of one of these.
        device: String,
    },
}
