//! The command line. Scripts rely on these names: they change only with a major version.

use bugler_model::Netboot;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Boots bare machines over the network and writes images to their disks.
///
/// Exit codes: 0 done; 1 it failed; 2 the command line is wrong; 3 there is no such thing;
/// 4 it contradicts what is there; 5 the server cannot be reached; 6 a task that was waited for
/// failed or was cancelled.
///
/// A DEVICE is an id (d3), a name, a MAC address or a UUID, or an unambiguous start of one.
#[derive(Parser)]
#[command(name = "bugler", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// The operator address of the server that client commands talk to.
    #[arg(
        long,
        global = true,
        env = "BUGLER_SERVER",
        default_value = "http://127.0.0.1:8481",
        value_name = "URL"
    )]
    pub(crate) server: String,
    /// Print JSON instead of a table; one document, or one a line for streams.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the server.
    Serve(Box<Serve>),
    /// List and change devices.
    #[command(subcommand)]
    Device(Device),
    /// Add, list and remove images.
    #[command(subcommand)]
    Image(Image),
    /// Write an image onto the disk of one or more devices.
    Deploy(Deploy),
    /// Reboot devices whose agent is running.
    Reboot(Targets),
    /// Power devices off whose agent is running.
    #[command(name = "poweroff")]
    PowerOff(Targets),
    /// List, watch and cancel tasks.
    #[command(subcommand)]
    Task(Task),
    /// Print what happened.
    Events(Events),
    /// Build and list boot environments.
    #[command(subcommand)]
    Bootenv(Bootenv),
    /// Say what the server is listening on.
    Status,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder.
    Man {
        /// The folder; it must exist.
        dir: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct Serve {
    /// Configuration file; the command line wins over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where devices, images and boot environments are kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// An interface to serve; several are allowed.
    #[arg(long = "interface", value_name = "IF")]
    pub(crate) interfaces: Vec<String>,
    /// What to do about DHCP on those interfaces.
    #[arg(long, value_enum)]
    pub(crate) dhcp: Option<Dhcp>,
    /// Addresses to give out, first and last: 10.0.0.100-10.0.0.200.
    #[arg(long = "pool", value_name = "A-B")]
    pub(crate) pools: Vec<String>,
    /// Where machines reach boot files and the agent API over HTTP.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) device_listen: Option<SocketAddr>,
    /// Where operators reach the dashboard and the API.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) operator_listen: Option<SocketAddr>,
    /// Let --operator-listen be other than loopback, although nobody has to log in: whoever
    /// reaches it can overwrite every disk.
    #[arg(long)]
    pub(crate) operator_without_login: bool,
    /// What a boot environment is made of that is built on first start.
    #[command(flatten)]
    pub(crate) bootenv: Ingredients,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Dhcp {
    /// Look for another DHCP server, then pick proxy or full; full only with a pool.
    Auto,
    /// Be the DHCP server.
    Full,
    /// Leave addresses to another server, and add what network boot needs.
    Proxy,
    /// Say nothing.
    Off,
}

#[derive(Subcommand)]
pub(crate) enum Device {
    /// List devices.
    List {
        /// Only those with this tag.
        #[arg(long)]
        tag: Option<String>,
    },
    /// Show one device, what it is made of and how it last booted.
    Show {
        /// Which device.
        device: String,
    },
    /// Change a device's name and tags.
    Set {
        /// Which device.
        device: String,
        /// Its new name; empty to take the name away.
        #[arg(long)]
        name: Option<String>,
        /// A tag to add.
        #[arg(long = "tag", value_name = "T")]
        add_tags: Vec<String>,
        /// A tag to take away.
        #[arg(long = "untag", value_name = "T")]
        remove_tags: Vec<String>,
    },
    /// Say whether a device boots from the network.
    Netboot {
        /// Which device.
        device: String,
        /// On: every time. Off: it boots its disk. Once: until its agent was there one time.
        mode: NetbootMode,
    },
    /// Forget a device.
    Remove {
        /// Which device.
        device: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum NetbootMode {
    On,
    Off,
    Once,
}

impl From<NetbootMode> for Netboot {
    fn from(mode: NetbootMode) -> Self {
        match mode {
            NetbootMode::On => Self::On,
            NetbootMode::Off => Self::Off,
            NetbootMode::Once => Self::Once,
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Image {
    /// Add a disk image: raw, .gz, .xz, .zst or .bz2, told apart by content.
    Add {
        /// The image's name.
        name: String,
        /// The file; `-` reads a pipe.
        file: PathBuf,
    },
    /// List images.
    List,
    /// Show one image.
    Show {
        /// Name or id.
        image: String,
    },
    /// Write an image's raw disk to a file.
    Export {
        /// Name or id.
        image: String,
        /// The file; `-` writes to standard output. It must not exist.
        file: PathBuf,
        /// How to write it.
        #[arg(long, value_enum, default_value = "raw")]
        format: ExportFormat,
    },
    /// Remove an image. Its chunks stay until `image gc`.
    Remove {
        /// Name or id.
        image: String,
    },
    /// Read and hash every chunk of an image.
    Verify {
        /// Name or id.
        image: String,
    },
    /// Remove chunks that no image needs.
    Gc {
        /// Only count them.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ExportFormat {
    Raw,
    #[value(name = "raw.zst")]
    RawZst,
}

impl ExportFormat {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::RawZst => "raw.zst",
        }
    }
}

#[derive(Args)]
pub(crate) struct Targets {
    /// The devices.
    #[arg(value_name = "DEVICE")]
    pub(crate) devices: Vec<String>,
    /// Every device with this tag as well.
    #[arg(long, value_name = "T")]
    pub(crate) tag: Option<String>,
    /// Wait until it is done, showing progress.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Args)]
pub(crate) struct Deploy {
    /// Name or id of the image.
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) targets: Targets,
    /// The disk, by path, serial number or model. Default: the smallest fixed disk that fits.
    #[arg(long, value_name = "D")]
    pub(crate) disk: Option<String>,
    /// Do not read back what was written.
    #[arg(long)]
    pub(crate) no_verify: bool,
}

#[derive(Subcommand)]
pub(crate) enum Task {
    /// List tasks, latest first.
    List {
        /// Only this device's.
        #[arg(long)]
        device: Option<String>,
        /// Only those that have not ended.
        #[arg(long)]
        open: bool,
    },
    /// Show one task.
    Show {
        /// Its id.
        task: String,
    },
    /// End a task. A disk that was being written is left as it is.
    Cancel {
        /// Its id.
        task: String,
    },
    /// Wait until tasks have ended, showing progress.
    Wait {
        /// Their ids.
        #[arg(required = true)]
        tasks: Vec<String>,
    },
}

#[derive(Args)]
pub(crate) struct Events {
    /// Only this device's.
    #[arg(long, value_name = "D")]
    pub(crate) device: Option<String>,
    /// Go on printing what happens from now on.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many to begin with.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
}

#[derive(Subcommand)]
pub(crate) enum Bootenv {
    /// Build a boot environment: kernel and initramfs with the agent.
    Build {
        /// Where the server keeps its state.
        #[arg(long, value_name = "DIR", default_value = "/var/lib/bugler")]
        state_dir: PathBuf,
        #[command(flatten)]
        wanted: Box<Ingredients>,
    },
    /// List the boot environments that were built.
    List {
        /// Where the server keeps its state.
        #[arg(long, value_name = "DIR", default_value = "/var/lib/bugler")]
        state_dir: PathBuf,
    },
}

/// What a boot environment is made of.
#[derive(Args)]
pub(crate) struct Ingredients {
    /// A kernel package (.deb), or a folder with vmlinuz and lib/modules. Default: the running
    /// kernel, else Debian's, fetched with apt.
    #[arg(long, value_name = "PATH")]
    pub(crate) kernel: Option<PathBuf>,
    /// The agent. Default: `bugler-agent` beside this program.
    #[arg(long, value_name = "FILE")]
    pub(crate) agent: Option<PathBuf>,
    /// A static busybox for the rescue shell. Default: that of Debian's busybox-static.
    #[arg(long, value_name = "FILE")]
    pub(crate) busybox: Option<PathBuf>,
    /// A folder such as /lib/firmware, for drivers that need files from it.
    #[arg(long, value_name = "DIR")]
    pub(crate) firmware: Option<PathBuf>,
    /// A kernel module to put in beyond those for network and disks.
    #[arg(long = "module", value_name = "NAME")]
    pub(crate) modules: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_names_that_scripts_rely_on_are_there() {
        for line in [
            "bugler serve --config f --state-dir d --interface a --interface b --dhcp proxy \
             --pool 10.0.0.1-10.0.0.9 --device-listen 0.0.0.0:1 --operator-listen 127.0.0.1:2",
            "bugler device list",
            "bugler device show d1",
            "bugler device set d1 --name x",
            "bugler device netboot d1 once",
            "bugler image add n f",
            "bugler image list",
            "bugler image show n",
            "bugler image export n f",
            "bugler image remove n",
            "bugler image verify n",
            "bugler image gc",
            "bugler deploy n d1 d2 --tag t --disk /dev/sda --wait",
            "bugler task list",
            "bugler task show t1",
            "bugler task cancel t1",
            "bugler task wait t1",
            "bugler events --device d1 --follow",
            "bugler bootenv build",
            "bugler bootenv list --json",
        ] {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
