//! DHCP: Bugler beside Kea and dnsmasq, in one run.
//!
//! ```text
//!  namespace "gen"                         namespaces, one for each server
//!  10.16.0.2 ── veth ───────────────────── 10.16.0.1  bugler serve
//!  10.20.0.2 ── veth ───────────────────── 10.20.0.1  kea-dhcp4, one thread
//!  10.24.0.2 ── veth ───────────────────── 10.24.0.1  kea-dhcp4, two threads
//!  10.28.0.2 ── veth ───────────────────── 10.28.0.1  dnsmasq
//! ```
//!
//! The clients are those of [`bugler_simulate`]: a relay agent that speaks for any number of them,
//! so that no server probes an address before it offers it. An *exchange* is DISCOVER, OFFER,
//! REQUEST, ACK. Every server keeps its leases in a file on the same disk before it acknowledges
//! them; Bugler alone also flushes them (fdatasync), which the others leave to the kernel: after a
//! power cut they may have forgotten what they acknowledged.
//!
//! Clients take turns; each has had its lease since the servers were filled, as in a network that
//! has been running for a while. The servers take turns within each round, beginning with another
//! one each time; medians are compared. CPU is the server's user and system time from
//! `/proc/PID/stat`, all of its threads.

mod servers;
mod table;

use crate::bench::figures;
use crate::enclosure;
use crate::net::Host;
use crate::process::output_of;
use crate::run::Run;
use anyhow::{Context, Result, ensure};
use bugler_simulate::{Generator, Kind, LoadReport, Pace, Target, Until};
pub(in crate::bench) use servers::copy_program;
use servers::{Running, Which};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};
use table::{Cell, Row};

/// How many exchanges are outstanding.
const OUTSTANDING: [usize; 2] = [1, 32];
/// How many leases.
const LEASES: [u32; 2] = [1_000, 10_000];
/// How many leases a large network has.
const MANY: u32 = 100_000;
/// How long one measurement takes.
const SPAN: Duration = Duration::from_secs(1);
/// The same where more is asked than the server can do.
const OVERLOAD_SPAN: Duration = Duration::from_secs(2);
/// When a client gives up waiting.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many rounds; medians of them are shown.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Leave out dnsmasq, and what takes more than 10,000 leases.
    #[arg(long)]
    pub quick: bool,
}

/// Measures, and prints the tables as it goes. To be called inside of
/// [`enter`](crate::enclosure::enter).
///
/// # Errors
/// When a server does not start or does not serve.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        enclosure::is_inside(),
        "the DHCP benchmark starts DHCP servers: it runs in a private network only"
    );
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    let run = Run::start("bench-dhcp")?;
    let outcome = measure(&run, options);
    run.finish(outcome, false)
}

/// The servers, the host of the clients, and a generator for each server.
struct Bench {
    clients: Host,
    servers: Vec<Running>,
    generators: Vec<Generator>,
}

fn measure(run: &Run, options: &Options) -> Result<()> {
    output_of(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let mut bench = Bench {
        clients: Host::alone("gen")?,
        servers: Vec::new(),
        generators: Vec::new(),
    };
    let mut wanted = vec![Which::Bugler, Which::Kea(1), Which::Kea(2)];
    if !options.quick {
        wanted.push(Which::Dnsmasq);
    }
    for which in wanted {
        bench.add(run, which)?;
    }
    println!(
        "DHCP exchanges (DISCOVER to ACK), medians of {} rounds of {} s",
        options.rounds,
        SPAN.as_secs()
    );
    let flush = flush_cost(run)?;
    println!("one fdatasync of 1 KiB on this disk: {flush:.0} us (median of 200)\n");
    let mut seen = table::Seen::default();
    table::print_head();
    for leases in LEASES {
        for server in 0..bench.servers.len() {
            bench.fill(server, leases)?;
        }
        for outstanding in OUTSTANDING {
            let all: Vec<usize> = (0..bench.servers.len()).collect();
            let rows = bench.rounds(&all, leases, outstanding, options.rounds)?;
            table::print_rows(outstanding, leases, &rows);
            seen.add(outstanding, leases, rows);
        }
    }
    println!();
    bench.overload(options, &mut seen)?;
    if !options.quick {
        bench.many(run, options, &mut seen)?;
    }
    seen.print_verdicts(flush);
    Ok(())
}

impl Bench {
    fn add(&mut self, run: &Run, which: Which) -> Result<usize> {
        let index = self.servers.len();
        let server = Running::start(run, &self.clients, which, index)?;
        let target = Target {
            server: server.address(),
            relay: server.relay(),
            kind: Kind::Plain,
        };
        let generator = self.clients.run(|| Generator::new(&target))??;
        self.servers.push(server);
        self.generators.push(generator);
        self.fill(index, 1)
            .context("the server does not serve; its log is in the run's folder")?;
        Ok(index)
    }

    /// Has a server give this many leases.
    fn fill(&mut self, server: usize, leases: u32) -> Result<()> {
        let pace = Pace::Closed(OUTSTANDING[1].min(leases as usize));
        let until = Until::Acknowledged(leases.into(), Duration::from_secs(240));
        let report = self.load(server, leases, pace, until)?;
        ensure!(
            report.acknowledged >= leases.into(),
            "{} gave {} leases of {leases} in {:.0} s",
            self.servers[server].name(),
            report.acknowledged,
            report.seconds
        );
        if leases > 1 {
            println!(
                "          {} gave the first {leases} leases at {:.0}/s",
                self.servers[server].name(),
                report.rate()
            );
        }
        Ok(())
    }

    fn load(
        &mut self,
        server: usize,
        clients: u32,
        pace: Pace,
        until: Until,
    ) -> Result<LoadReport> {
        // Its socket was made on the clients' host, and so belongs to it on any thread.
        let generator = &mut self.generators[server];
        Ok(generator.run(clients, pace, until, TIMEOUT)?)
    }

    fn cell(&mut self, server: usize, clients: u32, pace: Pace, span: Duration) -> Result<Cell> {
        let before = self.servers[server].cpu()?;
        let report = self.load(server, clients, pace, Until::Elapsed(span))?;
        let cpu = self.servers[server].cpu()?.saturating_sub(before);
        Ok(Cell::new(&report, cpu))
    }

    /// These servers take turns, with so many exchanges outstanding.
    fn rounds(
        &mut self,
        servers: &[usize],
        clients: u32,
        outstanding: usize,
        rounds: usize,
    ) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = servers
            .iter()
            .map(|&server| Row::new(self.servers[server].which()))
            .collect();
        for round in 0..rounds {
            for turn in 0..servers.len() {
                let at = (round + turn) % servers.len();
                let cell = self.cell(servers[at], clients, Pace::Closed(outstanding), SPAN)?;
                rows[at].push(cell);
            }
        }
        Ok(rows)
    }

    /// Twice what a server can do is asked of it, whatever it answers.
    fn overload(&mut self, options: &Options, seen: &mut table::Seen) -> Result<()> {
        let leases = LEASES[1];
        println!("Offered twice the maximum, open loop, {leases} leases");
        table::print_overload_head();
        for server in 0..self.servers.len() {
            let which = self.servers[server].which();
            let most = seen.best_rate(which);
            let mut row = Row::new(which);
            for _ in 0..options.rounds {
                let cell = self.cell(server, leases, Pace::Open(2.0 * most), OVERLOAD_SPAN)?;
                row.push(cell);
            }
            seen.add_overload(most, row);
        }
        println!();
        Ok(())
    }

    /// A server with very many leases beside one with few.
    fn many(&mut self, run: &Run, options: &Options, seen: &mut table::Seen) -> Result<()> {
        println!(
            "{MANY} leases beside {}, {} outstanding",
            LEASES[0], OUTSTANDING[1]
        );
        for which in [Which::Bugler, Which::Kea(1)] {
            let large = (0..self.servers.len())
                .find(|&server| self.servers[server].which() == which)
                .context("the server is not there")?;
            let small = self.add(run, which)?;
            self.fill(small, LEASES[0])?;
            self.fill(large, MANY)?;
            let mut rows = [Row::new(which), Row::new(which)];
            for _ in 0..options.rounds {
                let pace = Pace::Closed(OUTSTANDING[1]);
                rows[0].push(self.cell(small, LEASES[0], pace, SPAN)?);
                rows[1].push(self.cell(large, MANY, pace, SPAN)?);
            }
            let [few, many] = rows;
            seen.add_many(few, many);
        }
        println!();
        Ok(())
    }
}

/// What it takes to make 1 KiB durable on the disk that the servers keep their leases on, in
/// microseconds.
fn flush_cost(run: &Run) -> Result<f64> {
    let path = run.file("flush");
    let file = File::create(&path).context("cannot make a file to flush")?;
    file.write_all_at(&vec![0; 1 << 20], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for n in 0..200u64 {
        let begun = Instant::now();
        file.write_all_at(&[n as u8; 1024], n * 1024)?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(figures::median(&times))
}
