//! `bugler deploy`, `capture` and `wipe`.

use super::Targets;
use bugler_model::text::parse_bytes;
use bugler_model::{Compare, ImageName, Unclean, WipeMethod};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct Deploy {
    /// The image: a name (its latest version), a name and version (debian-12@3), or an id.
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) targets: Targets,
    /// The disk, by path, serial number or model. Default: the smallest fixed disk that fits.
    #[arg(long, value_name = "D")]
    pub(crate) disk: Option<String>,
    /// Do not read back what was written.
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Whether the disk is read first, and only what differs is fetched and written.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) compare: CompareMode,
    /// Let the last partition and its ext4 or FAT filesystem grow to the end of the disk.
    #[arg(long)]
    pub(crate) grow: bool,
    /// Most bytes a second that each device takes from the network, such as 10M.
    #[arg(long, value_name = "RATE", value_parser = bytes)]
    pub(crate) limit_rate: Option<u64>,
    /// Only devices that had an earlier version of the image, or none at all; the others are left as
    /// they are.
    #[arg(long)]
    pub(crate) upgrade_only: bool,
    /// Say what would happen on each device, and do nothing.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Leave the device's power alone: it is not switched into its agent.
    #[arg(long)]
    pub(crate) no_power: bool,
    #[command(flatten)]
    pub(crate) identity: Identity,
}

/// What each machine gets of its own. Texts are templates: {{ device.name }}, {{ device.id }},
/// {{ device.uuid }}, {{ device.serial }}, {{ device.tags }}, {{ mac }}, {{ macs }}, {{ address }},
/// {{ image }}; in files also {{ hostname }}, {{ instance_id }} and {{ phone_home_url }}.
#[derive(Args)]
#[command(next_help_heading = "Identity")]
pub(crate) struct Identity {
    /// Its host name, such as "{{ device.name }}".
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) hostname: Option<String>,
    /// A machine-id of its own.
    #[arg(long)]
    pub(crate) machine_id: bool,
    /// An SSH host key of its own (Ed25519); those of the image, of RSA and ECDSA too, are removed.
    #[arg(long)]
    pub(crate) ssh_host_keys: bool,
    /// New GUIDs for the disk and its partitions.
    #[arg(long)]
    pub(crate) gpt_guids: bool,
    /// All of it: machine-id, SSH host keys, GPT GUIDs, and the device's name as host name.
    #[arg(long)]
    pub(crate) identity: bool,
    /// Template of cloud-init's user-data; `-` reads a pipe.
    #[arg(long, value_name = "FILE")]
    pub(crate) user_data: Option<PathBuf>,
    /// Template of cloud-init's meta-data. Default, where there is another of these files: an
    /// instance-id of this deploy and the host name.
    #[arg(long, value_name = "FILE")]
    pub(crate) meta_data: Option<PathBuf>,
    /// Template of cloud-init's network-config.
    #[arg(long, value_name = "FILE")]
    pub(crate) network_config: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum CompareMode {
    /// Where that is likely to be quicker.
    #[default]
    Auto,
    Always,
    Never,
}

impl From<CompareMode> for Compare {
    fn from(mode: CompareMode) -> Self {
        match mode {
            CompareMode::Auto => Self::Auto,
            CompareMode::Always => Self::Always,
            CompareMode::Never => Self::Never,
        }
    }
}

#[derive(Args)]
pub(crate) struct Capture {
    /// Which device.
    pub(crate) device: String,
    /// The name that the new version of an image is filed under.
    pub(crate) name: ImageName,
    /// What is said of the new version.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) note: String,
    /// The disk, by path, serial number or model. Default: the only fixed disk.
    #[arg(long, value_name = "D")]
    pub(crate) disk: Option<String>,
    /// One partition alone, by its number.
    #[arg(long, value_name = "N")]
    pub(crate) partition: Option<u32>,
    /// Take every byte, whatever the filesystems say is free.
    #[arg(long)]
    pub(crate) whole: bool,
    /// What to do about filesystems that were not closed cleanly.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) unclean: UncleanMode,
    /// Most bytes a second that the device sends, such as 10M.
    #[arg(long, value_name = "RATE", value_parser = bytes)]
    pub(crate) limit_rate: Option<u64>,
    /// Leave the device's power alone: it is not switched into its agent.
    #[arg(long)]
    pub(crate) no_power: bool,
    /// Wait until it is done, showing progress; then say how each partition was read.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum UncleanMode {
    /// Take their partitions whole.
    #[default]
    Whole,
    /// Refuse.
    Refuse,
}

impl From<UncleanMode> for Unclean {
    fn from(mode: UncleanMode) -> Self {
        match mode {
            UncleanMode::Whole => Self::Whole,
            UncleanMode::Refuse => Self::Refuse,
        }
    }
}

#[derive(Args)]
pub(crate) struct Wipe {
    /// Which device.
    pub(crate) device: String,
    /// The disk, by path, serial number or model. Default: the only fixed disk.
    #[arg(long, value_name = "D")]
    pub(crate) disk: Option<String>,
    /// How.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) method: Method,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Leave the device's power alone: it is not switched into its agent.
    #[arg(long)]
    pub(crate) no_power: bool,
    /// Wait until it is done, showing progress.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum Method {
    /// The disk's own erase where it has one, else zeroes.
    #[default]
    Auto,
    /// Discard everything, where the disk promises that it then reads as zero.
    Discard,
    /// Write zeroes.
    Zero,
    /// NVMe Format with user data erase.
    NvmeFormat,
    /// ATA Security Erase Unit.
    AtaSecureErase,
}

impl From<Method> for WipeMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::Auto => Self::Auto,
            Method::Discard => Self::Discard,
            Method::Zero => Self::Zero,
            Method::NvmeFormat => Self::NvmeFormat,
            Method::AtaSecureErase => Self::AtaSecureErase,
        }
    }
}

/// A number of bytes: `512M`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}
