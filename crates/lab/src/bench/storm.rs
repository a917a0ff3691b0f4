//! A boot storm: the power comes back, and thousands of machines boot within a second.
//!
//! ```text
//!  namespace "gen"                          namespace "srv"
//!  relay agent 10.16.0.2 ── veth ────────── 10.16.0.1  bugler serve
//!  clients 10.17.0.0/16                     route to 10.17.0.0/16 over 10.16.0.2
//! ```
//!
//! The machines are those of [`bugler_simulate`], behind a relay agent and a router: each takes DHCP,
//! its loader, DHCP again, its script, a kernel and an initramfs, from the address that it was given.
//! The boot environment is made up; its files have the lengths of real ones. The server is the real
//! program, its memory what the kernel saw at the highest (VmHWM).

use crate::bench::dhcp;
use crate::bench::figures::{peak_memory, verdict};
use crate::enclosure;
use crate::net::{Host, INTERFACE};
use crate::process::{Process, output_of};
use crate::run::Run;
use anyhow::{Context, Result, ensure};
use bugler_simulate::{FetchFrom, Kind, Report};
use serde_json::json;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Length of the kernel, in bytes.
const KERNEL: usize = 10_000_000;
/// Length of the initramfs.
const INITRAMFS: usize = 20_000_000;
/// The most memory that the server may have had, in MB.
const MEMORY: f64 = 200.0;
/// When a machine that has not come up counts as failed.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the machines are.
const KINDS: [Kind; 4] = [Kind::BiosPxe, Kind::UefiPxe, Kind::UefiHttp, Kind::Ipxe];

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many machines.
    #[arg(long, default_value_t = 2_000)]
    pub machines: u32,
}

/// Measures, and prints what was found. To be called inside of
/// [`enter`](crate::enclosure::enter).
///
/// # Errors
/// When the server does not start, or the machines cannot be simulated.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        enclosure::is_inside(),
        "the boot storm starts a DHCP server: it runs in a private network only"
    );
    let run = Run::start("bench-storm")?;
    let outcome = measure(&run, options);
    run.finish(outcome, false)
}

fn ip(arguments: &str) -> Result<()> {
    output_of(Command::new("ip").args(arguments.split_whitespace()))?;
    Ok(())
}

fn measure(run: &Run, options: &Options) -> Result<()> {
    let (clients, server) = (Host::alone("gen")?, Host::alone("srv")?);
    ip(&format!(
        "-n gen link add {INTERFACE} type veth peer name {INTERFACE} netns srv"
    ))?;
    for (host, last) in [("gen", 2), ("srv", 1)] {
        ip(&format!(
            "-n {host} addr add 10.16.0.{last}/14 dev {INTERFACE}"
        ))?;
        ip(&format!("-n {host} link set lo up"))?;
        ip(&format!("-n {host} link set {INTERFACE} up"))?;
    }
    ip("-n srv route add 10.17.0.0/16 via 10.16.0.2")?;
    ip("-n gen route add local 10.17.0.0/16 dev lo")?;

    // A copy without an agent beside it: with one it would build a boot environment meanwhile.
    let program = run.file("bugler");
    dhcp::copy_program(&program)?;
    let state = run.file("state");
    fake_bootenv(&state, KERNEL, INITRAMFS)?;
    let mut command = server.command(&program.display().to_string());
    command
        .arg("serve")
        .arg(format!("--state-dir={}", state.display()))
        .arg(format!("--interface={INTERFACE}"))
        .args(["--dhcp=full", "--pool=10.17.0.1-10.17.255.254"])
        .arg("--operator-listen=127.0.0.1:8481");
    let process = Process::start("the server", command, &run.file("server.log"))?;
    process.wait_for("ready: dashboard", Duration::from_secs(60))?;
    let before = peak_memory(process.id())?;

    let wanted = bugler_simulate::Options {
        server: Ipv4Addr::new(10, 16, 0, 1),
        relay: Ipv4Addr::new(10, 16, 0, 2),
        kinds: KINDS.to_vec(),
        clients: options.machines,
        first: 1,
        within: Duration::from_secs(1),
        patience: PATIENCE,
        fetch_from: FetchFrom::Leased,
    };
    let cpu = process.cpu()?;
    let report = clients.run(|| bugler_simulate::run(&wanted))??;
    let cpu = process.cpu()?.saturating_sub(cpu);
    let memory = peak_memory(process.id())?;
    print(options, &report, cpu, before, memory);
    Ok(())
}

fn print(options: &Options, report: &Report, cpu: Duration, before: f64, memory: f64) {
    println!(
        "Boot storm: {} machines switched on within a second; loader, script, {} MB kernel, {} MB initramfs\n",
        options.machines,
        KERNEL / 1_000_000,
        INITRAMFS / 1_000_000
    );
    println!("{report}");
    let booted: u64 = report.kinds.values().map(|ends| ends.booted).sum();
    println!(
        "{booted} of {} booted, none may fail: {}",
        options.machines,
        verdict(booted == u64::from(options.machines))
    );
    println!(
        "server: {:.1} s of CPU; memory {:.0} MB before, {:.0} MB at the highest, under {MEMORY:.0} MB asked: {}",
        cpu.as_secs_f64(),
        before,
        memory,
        verdict(memory < MEMORY)
    );
}

/// Puts a boot environment into a state folder that no machine could boot: a kernel and an initramfs
/// of these lengths in bytes.
pub(in crate::bench) fn fake_bootenv(state: &Path, kernel: usize, initrd: usize) -> Result<()> {
    let version = "0.0.0-storm+00000000";
    let all = state.join("bootenv/x86_64");
    let dir = all.join(version);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let content =
        |length: usize| -> Vec<u8> { (0..length).map(|i| (i ^ (i >> 9)) as u8).collect() };
    let manifest = json!({
        "version": version, "arch": "x86-64", "kernel_version": "0.0.0-storm",
        "sources": {"kernel": "made up", "kernel_hash": "", "agent_hash": "", "busybox_hash": null},
        "module_count": 0, "firmware_count": 0,
        "sizes": {
            "vmlinuz": kernel, "initrd": initrd, "initrd_unpacked": initrd,
            "modules_unpacked": 0, "base": initrd, "base_without_busybox": initrd,
        },
    });
    fs::write(dir.join("vmlinuz"), content(kernel))
        .and_then(|()| fs::write(dir.join("initrd"), content(initrd)))
        .and_then(|()| fs::write(dir.join("bootenv.json"), manifest.to_string()))
        .and_then(|()| std::os::unix::fs::symlink(version, all.join("current")))
        .with_context(|| format!("cannot write {}", dir.display()))
}
