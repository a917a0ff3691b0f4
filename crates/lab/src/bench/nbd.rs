//! Network block devices: Bugler beside nbd-server and qemu-nbd, on the same file, with fio's nbd engine as
//! the client; and an image of the chunk store beside the file that it was made of.
//!
//! Writes are acknowledged by all three when the page cache has them; a flush reaches the disk. That is
//! measured too: a flush behind every write. The servers take turns within each round.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bugler_disk::{BlockDevice, Overlay, OverlayOptions, RawDevice};
use bugler_images::{AddOptions, ChunkCache, ChunkStore};
use bugler_nbd::{Export, Exports, Peer, Refusal, Server};
use serde_json::Value;

use super::figures::{median, verdict};
use crate::process::{Process, output_of};

/// Of nbd-server's figure, what ours must reach.
const OF_NBD_SERVER: f64 = 1.0;
/// Of qemu-nbd's.
const OF_QEMU_NBD: f64 = 0.9;
/// Of the raw file's, what the chunk store must reach.
const OF_RAW: f64 = 0.85;
/// The file that is served.
const SIZE: u64 = 512 << 20;
/// Unpacked chunks that are kept: all of them.
const CACHE: u64 = 2 * SIZE;
/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(30);

/// How much is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many rounds; medians of them are shown.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// How long each figure is measured, in seconds.
    #[arg(long, default_value_t = 3)]
    pub seconds: u32,
}

/// The server under test, as a program of its own.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerOptions {
    /// The port on 127.0.0.1.
    #[arg(long)]
    pub port: u16,
    /// A file to serve as it is.
    #[arg(long, conflicts_with = "store")]
    pub file: Option<PathBuf>,
    /// A chunk store whose only image is served, with a new overlay on top.
    #[arg(long, requires = "overlay")]
    pub store: Option<PathBuf>,
    /// The overlay's file.
    #[arg(long)]
    pub overlay: Option<PathBuf>,
}

struct One(Arc<Export>);

impl Exports for One {
    fn open(&self, _name: &str, _peer: &Peer) -> Result<Arc<Export>, Refusal> {
        Ok(Arc::clone(&self.0))
    }
}

/// Serves one disk until the standard input ends.
///
/// # Errors
/// When the disk or the port cannot be had.
pub fn serve(options: &ServerOptions) -> Result<()> {
    let device: Arc<dyn BlockDevice> = match (&options.file, &options.store, &options.overlay) {
        (Some(file), ..) => Arc::new(RawDevice::open(file, false)?),
        (None, Some(store), Some(overlay)) => {
            let store = ChunkStore::open(store)?;
            let mut names = fs::read_dir(store.dir().join("manifests"))?;
            let name = names.next().context("the store has no image")??.file_name();
            let name = name
                .to_str()
                .context("a manifest without a name")?
                .parse()?;
            let image = ChunkCache::new(&store, CACHE)?.open(&name)?;
            let options = OverlayOptions::default();
            Arc::new(Overlay::open_or_create(overlay, Arc::new(image), &options)?)
        }
        _ => bail!("either --file, or --store and --overlay"),
    };
    let exports = Arc::new(One(Export::new(device, "benchmark")));
    let server = Server::new(exports, bugler_nbd::Options::default())?;
    server.listen(TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))?)?;
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .context("cannot read standard input")?;
    server.stop();
    Ok(())
}

/// A load, as fio calls it.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    arguments: &'static [&'static str],
}

const READS: [Load; 4] = [
    Load {
        name: "4 KiB random read, 1",
        arguments: &["--rw=randread", "--bs=4k", "--iodepth=1"],
    },
    Load {
        name: "4 KiB random read, 32",
        arguments: &["--rw=randread", "--bs=4k", "--iodepth=32"],
    },
    Load {
        name: "1 MiB sequential read, 1",
        arguments: &["--rw=read", "--bs=1m", "--iodepth=1"],
    },
    Load {
        name: "1 MiB sequential read, 32",
        arguments: &["--rw=read", "--bs=1m", "--iodepth=32"],
    },
];

const WRITES: [Load; 5] = [
    Load {
        name: "4 KiB random write, 1",
        arguments: &["--rw=randwrite", "--bs=4k", "--iodepth=1"],
    },
    Load {
        name: "4 KiB random write, 32",
        arguments: &["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    },
    Load {
        name: "1 MiB sequential write, 1",
        arguments: &["--rw=write", "--bs=1m", "--iodepth=1"],
    },
    Load {
        name: "1 MiB sequential write, 32",
        arguments: &["--rw=write", "--bs=1m", "--iodepth=32"],
    },
    Load {
        name: "4 KiB write and flush, 1",
        arguments: &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"],
    },
];

struct Running {
    port: u16,
    /// Ends with this; nbd-server, which leaves its parent, ends with the process namespace.
    _process: Option<Process>,
    id: u32,
}

/// What one load reached: requests a second, and server CPU time for each in µs.
#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    cpu: Vec<f64>,
}

impl Running {
    fn start(what: &str, port: u16, command: Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{what}-{port}.log"));
        let process = Process::start(what, command, &log)?;
        let id = process.id();
        Self::wait(what, port, &log)?;
        Ok(Self {
            port,
            _process: Some(process),
            id,
        })
    }

    fn wait(what: &str, port: u16, log: &Path) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(
                begun.elapsed() < START,
                "{what} does not listen; it said: {}",
                fs::read_to_string(log).unwrap_or_default().trim()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// User and system time so far, with that of processes for single clients that have ended.
    fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.id);
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let (_, behind) = stat.rsplit_once(')').context("a process without a name")?;
        // proc_pid_stat(5): utime, stime, cutime, cstime are the fields 14 to 17; the first behind
        // the name is field 3. USER_HZ is 100.
        let fields = behind.split_whitespace().skip(11).take(4);
        let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    fn measure(&self, load: Load, seconds: u32, figures: &mut Figures) -> Result<()> {
        let before = self.cpu()?;
        let output = output_of(
            Command::new("fio")
                .args([
                    "--name=bench",
                    "--ioengine=nbd",
                    "--output-format=json",
                    "--time_based",
                ])
                .args([
                    "--randrepeat=0",
                    "--norandommap",
                    &format!("--runtime={seconds}"),
                ])
                .arg(format!("--uri=nbd://127.0.0.1:{}/disk", self.port))
                .arg(format!("--size={SIZE}"))
                .args(load.arguments),
        )?;
        let cpu = self.cpu()?.saturating_sub(before);
        // Warnings come before the document.
        let start = output.find('{').context("fio printed no figures")?;
        let told: Value = serde_json::from_str(output.get(start..).unwrap_or_default())?;
        let job = &told["jobs"][0];
        ensure!(job["error"] == 0, "fio failed: {}", job["error"]);
        let of = |way: &str, what: &str| job[way][what].as_f64().unwrap_or_default();
        let total = of("read", "total_ios") + of("write", "total_ios");
        figures.rate.push(of("read", "iops") + of("write", "iops"));
        figures.cpu.push(cpu.as_secs_f64() * 1e6 / total.max(1.0));
        Ok(())
    }
}

fn ours(dir: &Path, port: u16, arguments: &[&str]) -> Result<Running> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("nbd-server")
        .args(["--port", &port.to_string()])
        .args(arguments);
    Running::start("bugler", port, command, dir)
}

fn nbd_server(dir: &Path, file: &Path, port: u16) -> Result<Running> {
    let config = dir.join("nbd-server.conf");
    let text = format!(
        "[generic]\nport = {port}\nlistenaddr = 127.0.0.1\n[disk]\nexportname = {}\nflush = true\nfua = true\n",
        file.display()
    );
    fs::write(&config, text).context("cannot write nbd-server's configuration")?;
    let note = dir.join("nbd-server.pid");
    // It goes to the background by itself; in the foreground it serves one client and ends.
    output_of(
        Command::new("nbd-server")
            .arg("-C")
            .arg(&config)
            .arg("-p")
            .arg(&note),
    )?;
    Running::wait("nbd-server", port, &note)?;
    let id = fs::read_to_string(&note).context("nbd-server left no process id")?;
    Ok(Running {
        port,
        _process: None,
        id: id
            .trim()
            .parse()
            .context("nbd-server's process id is no number")?,
    })
}

fn qemu_nbd(dir: &Path, file: &Path, port: u16) -> Result<Running> {
    let mut command = Command::new("qemu-nbd");
    command
        .args([
            "-f",
            "raw",
            "-t",
            "-e",
            "16",
            "--cache=writeback",
            "--aio=threads",
            "-x",
            "disk",
        ])
        .args(["-b", "127.0.0.1", "-p", &port.to_string()])
        .arg(file);
    Running::start("qemu-nbd", port, command, dir)
}

/// Measures, and prints the tables as it goes. To be called inside of
/// [`enter`](crate::enclosure::enter), by a program whose subcommand `nbd-server` calls [`serve`].
///
/// # Errors
/// When a server does not start or does not serve.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    output_of(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    // On a disk, not in memory: a flush must cost what it costs.
    let dir = tempfile::tempdir_in("target").context("cannot make a folder in target/")?;
    let dir = fs::canonicalize(dir.path()).map(|path| (path, dir))?;
    let (path, _keep) = dir;
    let file = path.join("disk");
    write_disk(&file)?;
    let name = file.to_str().context("the folder's name is no text")?;
    println!(
        "NBD on loopback, a file of {} MiB, fio's nbd engine, medians of {} rounds of {} s",
        SIZE >> 20,
        options.rounds,
        options.seconds
    );
    println!("CPU: user + system time of the server for each request, in µs\n");
    {
        let servers = [
            ("bugler", ours(&path, 10_810, &["--file", name])?),
            ("nbd-server", nbd_server(&path, &file, 10_811)?),
            ("qemu-nbd", qemu_nbd(&path, &file, 10_812)?),
        ];
        let targets = [("nbd-server", OF_NBD_SERVER), ("qemu-nbd", OF_QEMU_NBD)];
        table(
            &servers,
            &targets,
            &[&READS[..], &WRITES[..]].concat(),
            options,
        )?;
    }
    println!(
        "\nAn image of the chunk store, with all of it unpacked in memory, beside its raw file:\n"
    );
    write_disk(&file)?;
    let store = path.join("store");
    ChunkStore::open(&store)?.add_file(&file, AddOptions::default())?;
    let (store, overlay) = (store.to_string_lossy(), path.join("overlay"));
    let servers = [
        (
            "store",
            ours(
                &path,
                10_813,
                &["--store", &store, "--overlay", &overlay.to_string_lossy()],
            )?,
        ),
        ("raw file", ours(&path, 10_814, &["--file", name])?),
    ];
    // Everything is read once: into the cache here, into the page cache there.
    for (_, server) in &servers {
        let whole = Load {
            name: "",
            arguments: &["--rw=read", "--bs=1m", "--iodepth=4"],
        };
        server.measure(whole, 5, &mut Figures::default())?;
    }
    table(&servers, &[("raw file", OF_RAW)], &READS, options)?;
    table(&servers, &[], &WRITES[4..], options)
}

/// Half of it is text that compresses, half is not.
fn write_disk(path: &Path) -> Result<()> {
    let mut file =
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut state = 1_u64;
    let mut piece = Vec::with_capacity(1 << 20);
    for number in 0..SIZE >> 20 {
        piece.clear();
        while piece.len() < 1 << 20 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(number | 1);
            if piece.len() < 1 << 19 {
                piece.extend_from_slice(&state.to_le_bytes());
            } else {
                piece.extend_from_slice(format!("line {:>9}\n ", state >> 48).as_bytes());
            }
        }
        piece.truncate(1 << 20);
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}

fn table(
    servers: &[(&str, Running)],
    targets: &[(&str, f64)],
    loads: &[Load],
    options: &Options,
) -> Result<()> {
    for load in loads {
        let mut all: Vec<Figures> = servers.iter().map(|_| Figures::default()).collect();
        for _ in 0..options.rounds {
            for ((_, server), figures) in servers.iter().zip(&mut all) {
                server.measure(*load, options.seconds, figures)?;
            }
        }
        println!("{}", load.name);
        let ours = all
            .first()
            .map_or(f64::NAN, |figures| median(&figures.rate));
        for ((name, _), figures) in servers.iter().zip(&all) {
            let rate = median(&figures.rate);
            let target = targets.iter().find(|(of, _)| of == name);
            let judged = target.map(|(_, least)| {
                let times = ours / rate;
                format!(
                    "  ours is {times:.2} of it, {} wanted: {}",
                    least,
                    verdict(times >= *least)
                )
            });
            println!(
                "  {name:12} {rate:>10.0} /s  CPU {:>7.1} µs{}",
                median(&figures.cpu),
                judged.unwrap_or_default()
            );
        }
    }
    Ok(())
}
