//! Switching machines.

use bugler_model::{BootDevice, MacAddr, PowerAction};
use clap::{Args, Subcommand, ValueEnum};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Every DEVICE has to have something that switches it: see `bugler device power`.
#[derive(Subcommand)]
pub(crate) enum Power {
    /// Switch on.
    On(PowerTargets),
    /// Switch off, at once.
    Off(PowerTargets),
    /// Ask the operating system to switch off.
    Soft(PowerTargets),
    /// Switch off and on.
    Cycle(PowerTargets),
    /// Reset, with the power on.
    Reset(PowerTargets),
    /// Send a diagnostic interrupt (NMI).
    Diag(PowerTargets),
    /// Ask whether they are on.
    Status(PowerTargets),
    /// Say what they boot the next time.
    Bootdev {
        /// From where.
        #[arg(value_enum)]
        from: BootFrom,
        /// Each time, and not only the next.
        #[arg(long)]
        persistent: bool,
        #[command(flatten)]
        targets: PowerTargets,
    },
}

impl Power {
    /// How to switch; `None`: only what they boot.
    pub(crate) fn action(&self) -> Option<PowerAction> {
        Some(match self {
            Self::On(_) => PowerAction::On,
            Self::Off(_) => PowerAction::Off,
            Self::Soft(_) => PowerAction::Soft,
            Self::Cycle(_) => PowerAction::Cycle,
            Self::Reset(_) => PowerAction::Reset,
            Self::Diag(_) => PowerAction::Diag,
            Self::Status(_) => PowerAction::Status,
            Self::Bootdev { .. } => return None,
        })
    }
}

#[derive(Args)]
pub(crate) struct PowerTargets {
    /// The devices.
    #[arg(value_name = "DEVICE")]
    pub(crate) devices: Vec<String>,
    /// Every device with this tag as well.
    #[arg(long, value_name = "T")]
    pub(crate) tag: Option<String>,
    /// Wait so long from one device to the next: 2s, 500ms, 1m.
    #[arg(long, value_name = "TIME", value_parser = millis)]
    pub(crate) every: Option<u64>,
    /// How many are at work at once.
    #[arg(long, value_name = "N")]
    pub(crate) at_once: Option<u32>,
    /// How many seconds each may take.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// Use the driver for hard power alone.
    #[arg(long)]
    pub(crate) hard: bool,
    /// Say first what they boot, once.
    #[arg(long, value_enum, value_name = "FROM")]
    pub(crate) boot: Option<BootFrom>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BootFrom {
    /// What the firmware is set to.
    None,
    /// The network.
    Pxe,
    /// The disk.
    Disk,
    /// A CD or DVD.
    Cdrom,
    /// The firmware's setup.
    Setup,
}

impl From<BootFrom> for BootDevice {
    fn from(from: BootFrom) -> Self {
        match from {
            BootFrom::None => Self::None,
            BootFrom::Pxe => Self::Pxe,
            BootFrom::Disk => Self::Disk,
            BootFrom::Cdrom => Self::Cdrom,
            BootFrom::Setup => Self::Setup,
        }
    }
}

/// What switches a device. Without an option: say what does.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("how").multiple(false))]
pub(crate) struct DevicePower {
    /// Which device.
    pub(crate) device: String,
    /// A BMC, by IPMI over LAN: its address or name, with :PORT where that is not 623.
    #[arg(long, value_name = "ADDRESS", group = "how", requires = "user")]
    pub(crate) ipmi: Option<String>,
    /// The user on the BMC.
    #[arg(long, requires = "ipmi")]
    pub(crate) user: Option<String>,
    /// A file whose first line is the password; `-` reads a pipe. Default: the environment variable
    /// BUGLER_BMC_PASSWORD.
    #[arg(long, value_name = "FILE", requires = "ipmi")]
    pub(crate) password_file: Option<PathBuf>,
    /// A file whose first line is the group key (Kg) of the BMC.
    #[arg(long, value_name = "FILE", requires = "ipmi")]
    pub(crate) group_key_file: Option<PathBuf>,
    /// Let the BMC be spoken to by IPMI 1.5, which sends everything in clear.
    #[arg(long, requires = "ipmi")]
    pub(crate) allow_ipmi_15: bool,
    /// Wake-on-LAN, which can only switch on.
    #[arg(long, group = "how")]
    pub(crate) wake: bool,
    /// The interface to wake. Default: the one that the device last booted from.
    #[arg(long, value_name = "MAC", requires = "wake")]
    pub(crate) wake_mac: Option<MacAddr>,
    /// The broadcast address of the machine's network. Default: 255.255.255.255.
    #[arg(long, value_name = "ADDRESS", requires = "wake")]
    pub(crate) broadcast: Option<Ipv4Addr>,
    /// A program in the server's folder of such programs (/etc/bugler/power).
    #[arg(long, value_name = "PROGRAM", group = "how")]
    pub(crate) command: Option<String>,
    /// An argument of the program; {action} becomes on, off, cycle, ..., {device} the boot device.
    #[arg(
        long = "arg",
        value_name = "A",
        requires = "command",
        allow_hyphen_values = true
    )]
    pub(crate) arguments: Vec<String>,
    /// The program knows `status`, and then prints `on` or `off`.
    #[arg(long, requires = "command")]
    pub(crate) knows_status: bool,
    /// The program knows `boot`.
    #[arg(long, requires = "command")]
    pub(crate) knows_boot: bool,
    /// Seconds after which the program is killed.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        requires = "command"
    )]
    pub(crate) command_timeout: u32,
    /// A web service that is posted to, by http; {action} in its address becomes on, off, ....
    #[arg(long, value_name = "URL", group = "how")]
    pub(crate) webhook: Option<String>,
    /// The same, its address in the first line of a file.
    #[arg(long, value_name = "FILE", group = "how")]
    pub(crate) webhook_file: Option<PathBuf>,
    /// A file whose first line is the token that the web service is to see.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A person, who is told what to press.
    #[arg(long, group = "how")]
    pub(crate) manual: bool,
    /// Take the driver away.
    #[arg(long, group = "how")]
    pub(crate) remove: bool,
    /// It cuts the power: used with `bugler power ... --hard`, and for what the other driver cannot do.
    #[arg(long)]
    pub(crate) hard: bool,
}

/// A time: `2s`, `500ms`, `1m`, or a number of seconds.
fn millis(text: &str) -> Result<u64, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000)];
    let (number, unit) = units
        .into_iter()
        .find_map(|(ending, unit)| Some((text.strip_suffix(ending)?, unit)))
        .unwrap_or((text, 1000));
    number
        .trim()
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("{text:?} is not a time: give 2s, 500ms or 1m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, wanted) in [("2s", 2000), ("500ms", 500), ("1m", 60_000), ("3", 3000)] {
            assert_eq!(millis(text), Ok(wanted));
        }
        for text in ["", "s", "-1s", "2h", "99999999999999999999s", "1.5s"] {
            assert!(millis(text).is_err(), "{text}");
        }
    }
}
