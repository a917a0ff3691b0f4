//! TFTP: Bugler beside dnsmasq and atftpd, in one run, on one private loopback.
//!
//! Each server runs as a process of its own; what it costs is its user and system time from
//! `/proc/PID/stat`. The clients are those of [`bugler_tftp::client::swarm`], in this process: they
//! wait a second before they send anything again, as boot ROMs do. The servers take turns within each
//! round, so that whatever else the machine does meets all of them alike; medians are compared.

mod peers;
mod table;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bugler_tftp::client::swarm::{self, Load};
use bugler_tftp::client::{Settings, fetch};
use bugler_tftp::packet::Options as TftpOptions;
use bugler_tftp::{Config, DirSource, Server};

use crate::enclosure;
use crate::process::output_of;

use peers::{Peer, Running};
use table::{Cell, Row};

/// The block size that fits an Ethernet frame.
const BLKSIZE: u16 = 1468;
/// What the clients of one round fetch together.
const ROUND: usize = 256 << 20;
/// What one client alone fetches: dnsmasq and atftpd are not asked to go around with the block
/// number.
const ALONE: usize = 64 << 20;
/// What each client fetches where datagrams are lost.
const LOSSY: usize = 1 << 20;
/// How many clients at once.
const CLIENTS: [usize; 4] = [1, 16, 64, 256];
/// How many clients meet losses.
const LOSSY_CLIENTS: usize = 64;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many rounds; medians of them are shown.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Leave out the part with losses, in which the peers take most of a minute each.
    #[arg(long)]
    pub no_loss: bool,
    /// Leave out the part without losses.
    #[arg(long)]
    pub only_loss: bool,
}

/// Measures, and prints the tables as it goes. To be called inside of [`enclosure::enter`], by a
/// program whose subcommand `tftp-server --dir D --port P` calls [`serve`].
///
/// # Errors
/// When a server does not start or does not serve, or this is no private network.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        enclosure::is_inside(),
        "the TFTP benchmark drops datagrams and takes port 69: it runs in a private network only"
    );
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    output_of(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let dir = tempfile::tempdir().context("cannot make a folder for the files to serve")?;
    prepare(dir.path())?;
    let running = Peer::ALL
        .iter()
        .map(|peer| peer.start(dir.path()))
        .collect::<Result<Vec<_>>>()?;
    if !options.only_loss {
        println!(
            "TFTP on loopback, blksize {BLKSIZE}, medians of {} rounds",
            options.rounds
        );
        println!("CPU: user + system time of the server, in seconds a GiB\n");
        table::print_head();
        for windowsize in [1, 16] {
            for clients in CLIENTS {
                let row = measure(&running, clients, windowsize, options.rounds)?;
                table::print_row(clients, windowsize, &row);
            }
        }
        println!();
    }
    if !options.no_loss {
        lossy(&running, options.rounds)?;
    }
    Ok(())
}

/// Serves `dir` on 127.0.0.1 until its standard input ends: the server under test.
///
/// # Errors
/// When the port or the folder cannot be had.
pub fn serve(dir: &Path, port: u16) -> Result<()> {
    let source = DirSource::new(dir)?;
    let listen = vec![SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into()];
    let config = Config {
        listen,
        ..Config::default()
    };
    let server = Server::start(config, Arc::new(source), Arc::new(()))?;
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .context("cannot read standard input")?;
    Ok(server.stop()?)
}

fn file_name(size: usize) -> String {
    format!("file-{size}")
}

fn size_for(clients: usize) -> usize {
    (ROUND / clients).min(ALONE)
}

fn prepare(dir: &Path) -> Result<()> {
    let sizes = CLIENTS.into_iter().map(size_for).chain([LOSSY]);
    for size in sizes {
        let content: Vec<u8> = (0..size).map(|i| (i ^ (i >> 9)) as u8).collect();
        let path = dir.join(file_name(size));
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    peers::open_to_all(dir)
}

fn settings(windowsize: u16) -> Settings {
    let options = TftpOptions {
        blksize: Some(BLKSIZE),
        windowsize: (windowsize > 1).then_some(windowsize),
        ..TftpOptions::default()
    };
    Settings {
        options,
        timeout: Duration::from_secs(1),
        retries: 60,
        ..Settings::default()
    }
}

/// One load on one server.
fn load(server: &Running, clients: usize, size: usize, windowsize: u16) -> Result<Cell> {
    let load = Load {
        server: server.address(),
        path: file_name(size),
        clients,
        settings: settings(windowsize),
    };
    let before = server.cpu()?;
    let report = swarm::run(&load).context("cannot run the clients")?;
    let cpu = server.cpu()?.saturating_sub(before);
    Ok(Cell::new(&report, cpu, clients * size))
}

fn measure(
    servers: &[Running],
    clients: usize,
    windowsize: u16,
    rounds: usize,
) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = servers
        .iter()
        .map(|server| Row::new(server.name()))
        .collect();
    for _ in 0..rounds {
        for (server, row) in servers.iter().zip(&mut rows) {
            let cell = load(server, clients, size_for(clients), windowsize)?;
            ensure!(
                cell.failed == 0,
                "{} failed {} of {clients} clients without any loss",
                server.name(),
                cell.failed
            );
            row.push(cell);
        }
    }
    Ok(rows)
}

fn lossy(servers: &[Running], rounds: usize) -> Result<()> {
    println!(
        "1 % of all datagrams lost, {LOSSY_CLIENTS} clients, 1 MiB each, windowsize 1, client \
         timeout 1 s, medians of {rounds} rounds\n"
    );
    // On arrival, not on departure: there the sender would be told.
    output_of(Command::new("nft").arg(
        "table ip lossy { chain arrival { type filter hook input priority 0; \
         meta l4proto udp numgen random mod 100 < 1 drop; }; }",
    ))
    .context("cannot drop datagrams; nftables is in the package nftables")?;
    let mut rows: Vec<Row> = servers
        .iter()
        .map(|server| Row::new(server.name()))
        .collect();
    for _ in 0..rounds {
        for (server, row) in servers.iter().zip(&mut rows) {
            row.push(load(server, LOSSY_CLIENTS, LOSSY, 1)?);
        }
    }
    output_of(Command::new("nft").args(["delete", "table", "ip", "lossy"]))?;
    table::print_lossy(&rows);
    Ok(())
}

/// Waits until a server answers.
fn wait_until_it_serves(address: SocketAddrV4) -> Result<()> {
    // Nothing listens yet: then the kernel says so, and the client only hears silence.
    let patient = Settings {
        timeout: Duration::from_millis(50),
        retries: 200,
        ..settings(1)
    };
    fetch(address, &file_name(LOSSY), &patient, LOSSY)?;
    Ok(())
}
