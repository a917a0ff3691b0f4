//! The command line. Scripts rely on these names: they change only with a major version.

mod eeprom;
mod image;
mod overlay;
mod policy;
mod power;
mod work;

pub(crate) use eeprom::Eeprom;
pub(crate) use image::{AddImage, ExportFormat, ExportImage, Image, Key};
pub(crate) use overlay::Overlay;
pub(crate) use policy::{Profile, Rule, SetProfile};
pub(crate) use power::{DevicePower, Power};
pub(crate) use work::{Capture, Deploy, Identity, Wipe};

use bugler_model::Netboot;
use bugler_simulate::Kind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{Ipv4Addr, SocketAddr};
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
    /// Say what devices boot: profiles.
    #[command(subcommand)]
    Profile(Profile),
    /// Say which devices boot which profile.
    #[command(subcommand)]
    Rule(Rule),
    /// List and change what diskless machines wrote.
    #[command(subcommand)]
    Overlay(Overlay),
    /// Add, list and remove images.
    #[command(subcommand)]
    Image(Image),
    /// Show and change the key by which images are signed.
    #[command(subcommand)]
    Key(Key),
    /// Write an image onto the disk of one or more devices.
    Deploy(Box<Deploy>),
    /// Take an image from a device's disk, as the next version of a name. The disk is only read.
    Capture(Capture),
    /// Make a device's disk forget everything, and prove it.
    Wipe(Wipe),
    /// Reboot devices whose agent is running.
    Reboot(Targets),
    /// Power devices off whose agent is running.
    #[command(name = "poweroff")]
    PowerOff(Targets),
    /// Switch devices, ask whether they are on, say what they boot.
    #[command(subcommand)]
    Power(Power),
    /// List, watch and cancel tasks.
    #[command(subcommand)]
    Task(Task),
    /// Print what happened.
    Events(Events),
    /// Build and list boot environments.
    #[command(subcommand)]
    Bootenv(Bootenv),
    /// Show and change the boot loader configuration of a Raspberry Pi 4 or 5, in an image of it, and have a
    /// board take the image.
    #[command(subcommand)]
    Eeprom(Eeprom),
    /// Say what stands in the way of booting machines from this host, and what to do about it.
    ///
    /// Takes what `serve` takes, and looks at the host that it runs on, whether or not the server
    /// runs. Exit code 1: there is a problem.
    Doctor(Box<Doctor>),
    /// Say why a device did not boot: what it is, what happened, the likely cause, what to try.
    Explain(Explain),
    /// Record one device's boot traffic, as the server sees it, in a file that Wireshark reads.
    CapturePackets(CapturePackets),
    /// Play boot clients that are not there against a server: how many can it boot at once?
    ///
    /// Plays a relay agent as well: sends to this one server alone, and broadcasts nothing. Exit
    /// code 1: a client failed.
    Simulate(Simulate),
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

#[derive(Args)]
pub(crate) struct Doctor {
    /// Do not ask for other DHCP servers, which sends DISCOVERs that take no address.
    #[arg(long)]
    pub(crate) no_probe: bool,
    /// What would be served.
    #[command(flatten)]
    pub(crate) serve: Serve,
}

#[derive(Args)]
pub(crate) struct Simulate {
    /// The server's address, such as 10.0.0.1. It needs a subnet for the relay's network.
    #[arg(value_name = "ADDRESS")]
    pub(crate) dhcp_server: Ipv4Addr,
    /// The address of this host that the server answers to, as to a relay. Its port 67 must be free.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) relay: Ipv4Addr,
    /// How many clients.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) clients: u32,
    /// What they are, in turns, such as bios,uefi,pi4.
    #[arg(long, value_name = "KIND", value_delimiter = ',', default_values_t = Kind::ALL)]
    pub(crate) kinds: Vec<Kind>,
    /// Number of the first: with another one, other clients are played.
    #[arg(long, default_value_t = 0)]
    pub(crate) first: u32,
    /// They are switched on within this time, evenly.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) within: f64,
    /// When one that is not done counts as failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) patience: u64,
    /// Fetch files from the addresses that were leased, which have to be routed to this host, not from
    /// the relay's.
    #[arg(long)]
    pub(crate) leased: bool,
}

/// Seconds that a duration can have.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give 0 to 86400 seconds".into()),
    }
}

#[derive(Args)]
pub(crate) struct Explain {
    /// Which device; with --pcap only the client with this MAC address.
    #[arg(required_unless_present = "pcap")]
    pub(crate) device: Option<String>,
    /// A recording to explain in the place of what the server saw: pcap or pcapng; `-` reads a
    /// pipe. No server is needed.
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct CapturePackets {
    /// Which device.
    pub(crate) device: String,
    /// The file, which must not exist; `-` writes to standard output. Default: the device's id
    /// with `.pcapng` behind it.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// How many seconds to record. Default: until it is interrupted (Ctrl-C).
    #[arg(long, value_name = "N")]
    pub(crate) duration: Option<u64>,
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
    /// Change a device's name and tags, and what it boots.
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
        /// What it boots when it boots from the network; empty: what the rules say.
        #[arg(long, value_name = "P")]
        profile: Option<String>,
        /// What it boots the next time, once, even where its network boot is off; empty to take that
        /// back.
        #[arg(long, value_name = "P")]
        next: Option<String>,
        /// Whether its firmware starts signed programs alone (UEFI Secure Boot).
        #[arg(long, value_enum)]
        secure_boot: Option<Switch>,
    },
    /// Say whether a device boots from the network.
    Netboot {
        /// Which device.
        device: String,
        /// On: every time. Off: it boots its disk. Once: until its agent was there one time.
        mode: NetbootMode,
    },
    /// Say what switches a device: its BMC, Wake-on-LAN, a program, a web service, a person.
    Power(Box<DevicePower>),
    /// Forget a device.
    Remove {
        /// Which device.
        device: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
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
        /// For which machines.
        #[arg(long, value_enum, default_value_t = Arch::X86_64)]
        arch: Arch,
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

/// The architectures of boot environments.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Arch {
    /// 64-bit PCs.
    #[value(name = "x86_64", alias = "amd64", alias = "x86-64")]
    X86_64,
    /// 64-bit Arm machines.
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

/// What a boot environment is made of.
#[derive(Args)]
pub(crate) struct Ingredients {
    /// A kernel package (.deb), or a folder with vmlinuz and lib/modules. Default: the running
    /// kernel, else Debian's, fetched with apt; for other processors than this machine's Debian's.
    #[arg(long, value_name = "PATH")]
    pub(crate) kernel: Option<PathBuf>,
    /// The agent. Default: `bugler-agent` beside this program; for other processors
    /// `bugler-agent.aarch64`.
    #[arg(long, value_name = "FILE")]
    pub(crate) agent: Option<PathBuf>,
    /// A static busybox for the rescue shell, or the package (.deb) with it. Default: that of
    /// Debian's busybox-static.
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
            "bugler device set d1 --profile thin --next debian --secure-boot on",
            "bugler device netboot d1 once",
            "bugler eeprom show f --json",
            "bugler eeprom set f BOOT_ORDER=0xf12 --network-first --into d",
            "bugler eeprom offer d1 f BOOT_ORDER=0xf12 --network-first",
            "bugler eeprom offered d1 --json",
            "bugler eeprom withdraw d1",
            "bugler profile list --json",
            "bugler profile show p",
            "bugler profile set p --linux k --initrd a --initrd b --cmdline quiet --loader grub",
            "bugler profile set p --script-ipxe f --script-pxelinux f --script-grub f --note n",
            "bugler profile set p --menu M --entry A=b --entry C=d --default b --timeout 0",
            "bugler profile set p --local",
            "bugler profile set p --agent",
            "bugler profile set p --file -",
            "bugler profile remove p",
            "bugler rule list",
            "bugler rule set --file rules.toml",
            "bugler rule add --tag t --arch amd64 --firmware uefi-pxe --vendor v --model m \
             --serial s --subnet 10.0.0.0/8 --at 1 p",
            "bugler rule remove 1",
            "bugler image add n f --bmap b",
            "bugler image add n f --no-bmap --backing b --backing c",
            "bugler image add n f --note text",
            "bugler image list --all",
            "bugler image show n@2",
            "bugler image note n@2 text",
            "bugler image export n f",
            "bugler image export n f --format qcow2-zstd --bmap",
            "bugler image remove n@2",
            "bugler image remove n --all-versions --yes",
            "bugler image verify n",
            "bugler image verify --all",
            "bugler image ls n",
            "bugler image ls n@1 /etc --partition 2",
            "bugler image cat n /etc/hostname -p 2",
            "bugler image diff n@1 n@2 --json",
            "bugler key show --json",
            "bugler key rotate --yes",
            "bugler image gc",
            "bugler deploy n d1 d2 --tag t --disk /dev/sda --wait",
            "bugler deploy n@3 d1 --compare always --grow --limit-rate 10M --upgrade-only --dry-run",
            "bugler deploy n d1 --hostname {{device.name}} --machine-id --ssh-host-keys --gpt-guids",
            "bugler deploy n d1 --identity --user-data f --meta-data f --network-config f",
            "bugler capture d1 n --note t --disk sda --partition 2 --whole --unclean refuse \
             --limit-rate 10M --wait",
            "bugler wipe d1 --method nvme-format --disk sda --yes --wait",
            "bugler device power d1 --json",
            "bugler device power d1 --ipmi 10.0.9.1 --user u --password-file f --allow-ipmi-15",
            "bugler device power d1 --wake --wake-mac 52:54:00:12:34:56 --broadcast 10.0.0.255",
            "bugler device power d1 --hard --command pdu --arg 7 --arg {action} --knows-status",
            "bugler device power d1 --webhook http://pdu/{action} --token-file f",
            "bugler device power d1 --manual",
            "bugler device power d1 --remove --hard",
            "bugler power on d1 d2 --tag t --every 2s --at-once 8 --timeout 60",
            "bugler power off d1 --hard",
            "bugler power soft d1",
            "bugler power cycle d1",
            "bugler power reset d1 --boot pxe",
            "bugler power diag d1",
            "bugler power status --tag t --json",
            "bugler power bootdev disk d1 --persistent",
            "bugler deploy n d1 --no-power",
            "bugler capture d1 n --no-power",
            "bugler task list",
            "bugler task show t1",
            "bugler task cancel t1",
            "bugler task wait t1",
            "bugler events --device d1 --follow",
            "bugler doctor --config f --interface eth0 --no-probe --json",
            "bugler explain d1",
            "bugler explain --pcap f --json",
            "bugler capture-packets d1 --output - --duration 60",
            "bugler bootenv build",
            "bugler bootenv build --arch arm64 --kernel linux.deb",
            "bugler bootenv list --json",
        ] {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
