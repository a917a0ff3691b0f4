//! The power state of many machines, beside FreeIPMI's ipmipower.

use crate::bench::figures::{median, verdict};
use crate::bmc::fleet::{Fleet, PASSWORD, USER};
use anyhow::{Context, Result, bail, ensure};
use bugler_bmc::power::State;
use bugler_bmc::{Bmc, Credentials, Hub, Options as BmcOptions, Secret};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

/// What the measured time may be, in times of ipmipower's.
const TIMES: f64 = 2.0;
/// How long the living ones may take when others are dead.
const BESIDE_DEAD: f64 = 6.0;

/// How much is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many BMCs, at most 200.
    #[arg(long, default_value_t = 200)]
    pub machines: usize,
    /// How many dead ones beside them.
    #[arg(long, default_value_t = 10)]
    pub dead: usize,
    /// How often each is measured.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
}

/// Measures, and prints what was found. To be called inside of a network namespace.
///
/// # Errors
/// When a simulator or a peer does not start, or a power state is wrong.
pub fn run(options: &Options) -> Result<()> {
    let dir = tempfile::tempdir().context("cannot make a folder for simulators")?;
    let fleet = Fleet::start(dir.path(), options.machines, options.dead)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start a runtime")?;
    let mut figures = Figures::default();
    for _ in 0..options.rounds.max(1) {
        let peer = ipmipower(&fleet.alive, "LAN_2_0")?;
        figures.peer_20.push(peer.took);
        figures.missed += peer.missed;
        runtime.block_on(ours(&fleet, &mut figures))?;
        figures.peer_15.push(ipmipower(&fleet.alive, "LAN")?.took);
    }
    println!(
        "\nPower state of {} BMCs (ipmi_sim), medians of {} rounds",
        options.machines,
        options.rounds.max(1)
    );
    // The faster of its two ways is what is compared with.
    let peer = median(&figures.peer_20).min(median(&figures.peer_15));
    let line = |name: &str, figures: &[f64]| println!("  {name:58} {:6.3} s", median(figures));
    line("ipmipower, IPMI 2.0, cipher suite 3", &figures.peer_20);
    if figures.missed > 0 {
        println!(
            "    it missed {} power states in these rounds",
            figures.missed
        );
    }
    line("ipmipower, IPMI 1.5", &figures.peer_15);
    let judge = |name: &str, figures: &[f64]| {
        let ours = median(figures);
        println!(
            "  {name:58} {ours:6.3} s  {:.2} times, {}",
            ours / peer,
            verdict(ours <= TIMES * peer)
        );
    };
    judge("Bugler, first time: suites are asked for", &figures.first);
    judge("Bugler, suite known", &figures.again);
    line(
        "  the same, until the last session is closed",
        &figures.closed,
    );
    let beside = median(&figures.beside);
    println!(
        "  Bugler, {} of {} dead: until the living have answered      {beside:6.3} s  {}",
        options.dead,
        options.machines + options.dead,
        verdict(beside <= BESIDE_DEAD)
    );
    line("  the same, until the dead are told", &figures.dead);
    Ok(())
}

#[derive(Default)]
struct Figures {
    peer_20: Vec<f64>,
    missed: usize,
    peer_15: Vec<f64>,
    first: Vec<f64>,
    again: Vec<f64>,
    closed: Vec<f64>,
    beside: Vec<f64>,
    dead: Vec<f64>,
}

async fn ours(fleet: &Fleet, figures: &mut Figures) -> Result<()> {
    let hub = Hub::new()?;
    let credentials = Credentials::new(USER, Secret::new(PASSWORD))?;
    let bmc =
        |address: &SocketAddr| Bmc::new(&hub, *address, credentials.clone(), BmcOptions::default());
    let alive: Vec<Bmc> = fleet.alive.iter().map(bmc).collect();
    let start = Instant::now();
    states(&alive).await?;
    figures.first.push(start.elapsed().as_secs_f64());
    settle(&alive).await;
    let start = Instant::now();
    states(&alive).await?;
    figures.again.push(start.elapsed().as_secs_f64());
    settle(&alive).await;
    figures.closed.push(start.elapsed().as_secs_f64());

    let dead: Vec<Bmc> = fleet.dead.iter().map(bmc).collect();
    let alive: Vec<Bmc> = fleet.alive.iter().map(bmc).collect();
    let start = Instant::now();
    let silent: Vec<_> = dead
        .into_iter()
        .map(|bmc| tokio::spawn(async move { bmc.status().await }))
        .collect();
    states(&alive).await?;
    figures.beside.push(start.elapsed().as_secs_f64());
    for one in silent {
        ensure!(one.await?.is_err(), "a dead BMC has answered");
    }
    figures.dead.push(start.elapsed().as_secs_f64());
    settle(&alive).await;
    Ok(())
}

/// Asks all of them at once.
async fn states(bmcs: &[Bmc]) -> Result<()> {
    let asked: Vec<_> = bmcs
        .iter()
        .map(|bmc| {
            let bmc = bmc.clone();
            tokio::spawn(async move { bmc.status().await })
        })
        .collect();
    for one in asked {
        let state = one.await??;
        ensure!(state == State::On, "a machine is {state}");
    }
    Ok(())
}

async fn settle(bmcs: &[Bmc]) {
    for bmc in bmcs {
        bmc.settled().await;
    }
}

/// A run of ipmipower.
struct Peer {
    /// In seconds.
    took: f64,
    /// How many power states it did not find out, in spite of its own retries.
    missed: usize,
}

fn ipmipower(bmcs: &[SocketAddr], driver: &str) -> Result<Peer> {
    let hosts: Vec<_> = bmcs.iter().map(|bmc| bmc.ip().to_string()).collect();
    let start = Instant::now();
    let output = Command::new("ipmipower")
        .args(["-D", driver, "-u", USER, "-p", PASSWORD, "-l", "admin"])
        // The simulator wants the privilege named when a session is opened.
        .args(["-W", "opensesspriv"])
        .args(["--stat", "-h", &hosts.join(",")])
        .output()
        .context("cannot start ipmipower of Debian's freeipmi-tools: run scripts/setup")?;
    let took = start.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    let on = text.lines().filter(|line| line.ends_with(": on")).count();
    if on == 0 {
        bail!(
            "ipmipower ({driver}) found no machine on: {text:.500}{:.500}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(Peer {
        took,
        missed: bmcs.len() - on,
    })
}
