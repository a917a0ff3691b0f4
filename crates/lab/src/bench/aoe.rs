//! AoE: Bugler beside vblade, each on the same file, over a virtual wire between two hosts.
//!
//! The client is [`client`], in this process: it keeps 1 or 32 commands outstanding and checks every
//! answer. Each server is a process of its own; what it costs is its user and system time from
//! `/proc/PID/stat`, in microseconds a command. On a virtual wire the sender of a frame also pays for
//! its arrival, alike for both. The servers take turns within each round; medians are compared.
//!
//! vblade answers a write when it is in the page cache, so what it is compared with does the same. The
//! durable mode, and vblade with `-s` (`O_SYNC`), stand below.

mod client;

use super::figures::{median, verdict};
use crate::net::{Host, INTERFACE};
use crate::paths;
use crate::process::{Process, output_of};
use anyhow::{Context, Result, bail, ensure};
use bugler_aoe::{
    Address, Config, Forget, Identity, Options as TargetOptions, Server, Table, Target,
};
use bugler_disk::{Durability, RawDevice};
use bugler_model::MacAddr;
use client::{Client, Kind, Load, Order};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Size of the disk: it fits into the page cache.
const SIZE: u64 = 256 << 20;
/// Addresses of the client and of the server.
const CLIENT: MacAddr = MacAddr([0x52, 0x54, 0, 0x0a, 0x0e, 1]);
/// Commands outstanding.
const DEPTHS: [usize; 2] = [1, 32];
/// MTU, and sectors in a frame.
const LINKS: [(u32, u8); 2] = [(1500, 2), (9000, 17)];
/// What Bugler has to reach, of vblade's: reads a second, CPU for a read, writes a second at depth 32.
const READS: f64 = 1.0;
const CPU: f64 = 0.8;
const WRITES: f64 = 1.2;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many rounds; medians of them are shown.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// A fifth of the time for each figure, and rough figures.
    #[arg(long)]
    pub quick: bool,
}

/// What the server serves.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerOptions {
    /// The interface.
    #[arg(long)]
    interface: String,
    /// A machine and the file that is its disk at e0.0, as MAC=FILE.
    #[arg(long = "disk", required = true)]
    disks: Vec<String>,
    /// Acknowledge writes once they are durable.
    #[arg(long)]
    durable: bool,
}

/// Serves until its standard input ends, then prints what it has done.
///
/// # Errors
/// When a disk or the interface cannot be had.
pub fn serve(options: &ServerOptions) -> Result<()> {
    let table = Arc::new(Table::default());
    let mut targets = vec![];
    for disk in &options.disks {
        let (mac, path) = disk
            .split_once('=')
            .context("a disk is given as MAC=FILE")?;
        let device = RawDevice::open(Path::new(path), false)?;
        let options = TargetOptions {
            name: mac.to_owned(),
            address: Address::default(),
            identity: Identity {
                model: "Bugler lab disk".into(),
                serial: mac.replace(':', ""),
            },
            durability: match options.durable {
                true => Durability::Durable,
                false => Durability::Cached,
            },
        };
        let target = Arc::new(Target::open(options, Arc::new(device), Arc::new(Forget))?);
        table.set(mac.parse()?, vec![target.clone()]);
        targets.push(target);
    }
    let server = Server::start(&Config::new(vec![options.interface.clone()]), table)?;
    println!("serving AoE");
    std::io::stdin()
        .read_to_end(&mut vec![])
        .context("cannot read standard input")?;
    println!("{:?}", server.counts());
    for target in targets {
        println!("{}: {:?}", target.name(), target.counts());
    }
    Ok(())
}

/// Starts [`serve`] on a host.
///
/// # Errors
/// When it does not start.
pub(crate) fn start_server(
    host: &Host,
    disks: &[(MacAddr, &Path)],
    durable: bool,
    log: &Path,
) -> Result<Process> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["aoe-server", "--interface", INTERFACE]);
    for (mac, path) in disks {
        command.arg(format!("--disk={mac}={}", path.display()));
    }
    if durable {
        command.arg("--durable");
    }
    // A child is where the thread is that started it.
    let process = host.run(|| Process::start("the AoE server", command, log))??;
    process.wait_for("serving AoE", Duration::from_secs(60))?;
    Ok(process)
}

/// A server to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Vblade,
    Bugler,
    VbladeSync,
    BuglerDurable,
}

impl Which {
    const ALL: [Self; 4] = [
        Self::Vblade,
        Self::Bugler,
        Self::VbladeSync,
        Self::BuglerDurable,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Vblade => "vblade",
            Self::Bugler => "bugler",
            Self::VbladeSync => "vblade -s",
            Self::BuglerDurable => "bugler, durable",
        }
    }

    fn is_durable(self) -> bool {
        matches!(self, Self::VbladeSync | Self::BuglerDurable)
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
struct Cell {
    commands: f64,
    bytes: f64,
    cpu: f64,
}

/// Measures, and prints the tables as it goes. To be called inside of
/// [`enter`](crate::enclosure::enter).
///
/// # Errors
/// When a server does not start or does not serve.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    let dir = tempfile::tempdir_in(paths::lab("cache")?).context("cannot make a folder")?;
    let disk = dir.path().join("disk");
    fill(&disk)?;
    let time = Duration::from_millis(if options.quick { 400 } else { 2000 });
    println!(
        "AoE over a virtual wire, a file of {} MB in the page cache, medians of {} rounds of {} s",
        SIZE / 1_000_000,
        options.rounds,
        time.as_secs_f64()
    );
    println!("CPU: user + system time of the server, in microseconds a command\n");
    let mut met = true;
    for (mtu, in_frame) in LINKS {
        for kind in [Kind::Read, Kind::Write] {
            for order in [Order::Random, Order::Sequential] {
                for depth in DEPTHS {
                    let load = Load {
                        kind,
                        order,
                        sectors: SIZE / 512,
                        in_frame,
                        depth,
                        time,
                    };
                    let rows = measure(&disk, dir.path(), mtu, &load, options.rounds)?;
                    met &= print(mtu, &load, &rows);
                }
            }
        }
    }
    println!("all targets: {}", verdict(met));
    Ok(())
}

/// A disk whose every sector begins with its number.
fn fill(path: &Path) -> Result<()> {
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        let mut sector = [0x5a; 512];
        for number in 0..SIZE / 512 {
            sector[..8].copy_from_slice(&number.to_le_bytes());
            file.write_all(&sector)?;
        }
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn measure(
    disk: &Path,
    dir: &Path,
    mtu: u32,
    load: &Load,
    rounds: usize,
) -> Result<Vec<(Which, Cell)>> {
    let servers = Which::ALL
        .into_iter()
        .filter(|which| load.kind == Kind::Write || !which.is_durable());
    let mut cells: Vec<(Which, Vec<Cell>)> = servers.map(|which| (which, vec![])).collect();
    for round in 0..rounds {
        for (which, of) in &mut cells {
            let log = dir.join(format!("{mtu}-{round}.log"));
            let cell = one(*which, disk, &log, mtu, load);
            of.push(cell.with_context(|| format!("{} in round {round}", which.name()))?);
        }
    }
    let middle =
        |of: &[Cell], pick: fn(&Cell) -> f64| median(&of.iter().map(pick).collect::<Vec<_>>());
    Ok(cells
        .into_iter()
        .map(|(which, of)| {
            let cell = Cell {
                commands: middle(&of, |cell| cell.commands),
                bytes: middle(&of, |cell| cell.bytes),
                cpu: middle(&of, |cell| cell.cpu),
            };
            (which, cell)
        })
        .collect())
}

/// One load on one server, on hosts of their own.
fn one(which: Which, disk: &Path, log: &Path, mtu: u32, load: &Load) -> Result<Cell> {
    let server = Host::alone("aoe-srv")?;
    let client = Host::alone("aoe-cli")?;
    let ip = |line: &str| output_of(Command::new("ip").args(line.split_whitespace()));
    let (srv, cli) = (server.name(), client.name());
    ip(&format!(
        "-n {srv} link add {INTERFACE} mtu {mtu} type veth peer name {INTERFACE} address {CLIENT} \
         mtu {mtu} netns {cli}"
    ))?;
    for host in [srv, cli] {
        ip(&format!("-n {host} link set {INTERFACE} up"))?;
    }
    let process = match which {
        Which::Bugler | Which::BuglerDurable => {
            start_server(&server, &[(CLIENT, disk)], which.is_durable(), log)?
        }
        Which::Vblade | Which::VbladeSync => {
            let mut command = server.command("vblade");
            if which.is_durable() {
                command.arg("-s");
            }
            command.args(["0", "0", INTERFACE]).arg(disk);
            Process::start(which.name(), command, log)?
        }
    };
    let report = client.run(|| {
        let mut client = Client::find(INTERFACE, Address::default().into())?;
        // Both begin with a warm cache.
        let warm = Load {
            time: load.time / 10,
            ..*load
        };
        client.run(&warm)?;
        let before = process.cpu()?;
        let begun = Instant::now();
        let report = client.run(load)?;
        let cpu = process.cpu()?.saturating_sub(before);
        ensure!(begun.elapsed() >= load.time, "it ended early");
        anyhow::Ok((report, cpu))
    })?;
    let (report, cpu) = report?;
    if report.commands == 0 {
        bail!("nothing was answered");
    }
    let seconds = report.elapsed.as_secs_f64();
    Ok(Cell {
        commands: report.commands as f64 / seconds,
        bytes: report.bytes as f64 / seconds,
        cpu: cpu.as_secs_f64() * 1e6 / report.commands as f64,
    })
}

/// Prints the rows of one load; whether its targets were met.
fn print(mtu: u32, load: &Load, rows: &[(Which, Cell)]) -> bool {
    let kind = match load.kind {
        Kind::Read => "read",
        Kind::Write => "write",
    };
    let order = match load.order {
        Order::Random => "4 KiB random",
        Order::Sequential => "sequential",
    };
    println!("MTU {mtu}, {order} {kind}, {} outstanding", load.depth);
    for (which, cell) in rows {
        println!(
            "    {:16} {:9.0} commands/s {:7.1} MB/s {:7.2} us CPU",
            which.name(),
            cell.commands,
            cell.bytes / 1e6,
            cell.cpu
        );
    }
    let find = |wanted| {
        rows.iter()
            .find(|(which, _)| *which == wanted)
            .map(|(_, cell)| *cell)
    };
    let (Some(peer), Some(own)) = (find(Which::Vblade), find(Which::Bugler)) else {
        return true;
    };
    let (speed, cpu) = (own.commands / peer.commands, own.cpu / peer.cpu);
    let target = match load.kind {
        Kind::Read => Some(("1.0x at 0.8x the CPU", speed >= READS && cpu <= CPU)),
        Kind::Write if load.depth > 1 => Some(("above 1.2x", speed > WRITES)),
        Kind::Write => None,
    };
    match target {
        Some((wanted, met)) => {
            println!(
                "    {speed:.2}x, {cpu:.2}x the CPU; wanted {wanted}: {}\n",
                verdict(met)
            );
            met
        }
        None => {
            println!("    {speed:.2}x, {cpu:.2}x the CPU\n");
            true
        }
    }
}
