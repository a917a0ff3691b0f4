//! The boot environment: what the agent does from the kernel's start to its first task.

mod console;
pub mod dhcp_client;
pub(crate) mod hotplug;
pub mod init;
mod netlink;
pub(crate) mod network;
mod settling;

pub(crate) use hotplug::insert as insert_module;

use crate::api::{Api, Introduction};
use crate::cmdline::Cmdline;
use crate::deploy::Settings;
use crate::diskless;
use crate::log::{Log, chain};
use crate::power::Power;
use crate::sysfs::Sysfs;
use crate::work::{self, Machine, TOKEN_PATIENCE};
use bugler_model::MacAddr;
use bugler_protocol::agent::{CMDLINE_KEY, CMDLINE_SERVER, CMDLINE_TOKEN, Register, VERSION};
use hotplug::Arrivals;
use network::{Connected, Network};
use settling::Settling;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often an error that only a new boot can mend is shown again.
const REMINDER: Duration = Duration::from_secs(60);

/// How long the first registration waits for all drivers to be loaded, and then for a disk. Drivers
/// look for disks in the background, within a second or two; a machine without a disk waits for
/// nothing more.
const DRIVERS_WAIT: Duration = Duration::from_secs(10);
const DISK_WAIT: Duration = Duration::from_secs(2);

/// The work of the boot environment, in the child of PID 1. Returns only where it has attached a root,
/// which PID 1 is to start; else it ends by rebooting.
pub fn work() -> ExitCode {
    let log = console::start();
    if let Ok(last) = std::env::var(init::LAST_EXIT)
        && !last.is_empty()
    {
        log.line(format!(
            "started again after the agent's work ended by {last}"
        ));
    }
    let sysfs = Sysfs::at("/");
    let arrivals = Arc::new(Arrivals::default());
    let (hotplug_arrivals, hotplug_log) = (arrivals.clone(), log.clone());
    std::thread::spawn(move || hotplug::run(&hotplug_arrivals, &hotplug_log));

    let cmdline = Cmdline::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    match cmdline.diskless.plan() {
        Ok(None) => {}
        Ok(Some(plan)) => {
            let connected = connect(&sysfs, &arrivals, &cmdline, &log);
            return diskless::work(&plan, &cmdline, connected, &sysfs, &arrivals, &log);
        }
        Err(error) => stay(
            &log,
            &format!(
                "the kernel command line cannot be used: {error}; boot this machine by the scripts \
                 of a Bugler server"
            ),
        ),
    }
    let (Some(server), Some(token)) = (&cmdline.server, &cmdline.token) else {
        stay(
            &log,
            &format!(
                "the kernel command line has no {CMDLINE_SERVER}= and {CMDLINE_TOKEN}=; boot this \
                 machine by the scripts of a Bugler server"
            ),
        );
    };
    let key = match cmdline.key.as_deref().map(str::parse).transpose() {
        Ok(key) => key,
        Err(error) => stay(
            &log,
            &format!(
                "the {CMDLINE_KEY}= of the kernel command line cannot be used: {error}; boot this \
                 machine by the scripts of a Bugler server"
            ),
        ),
    };
    let connected = connect(&sysfs, &arrivals, &cmdline, &log);
    let boot_mac = cmdline.boot_mac.unwrap_or(connected.nic.mac);
    let keeper_log = log.clone();
    std::thread::spawn(move || connected.keep(&keeper_log));

    let introduction = introduction(sysfs.clone(), token.clone(), boot_mac);
    let api = match Api::new(server, introduction) {
        Ok(api) => api,
        Err(error) => stay(&log, &chain(&error)),
    };
    wait_for_disks(&sysfs, &arrivals);
    if let Some(boot_loader) = sysfs.boot_loader() {
        boot_loader.lines().iter().for_each(|line| log.line(line));
    }
    let settling = Settling::default();
    let machine = Machine {
        inventory: &|| {
            let inventory = sysfs.inventory();
            settling.look(&inventory.disks, arrivals.is_settled(), Instant::now());
            inventory
        },
        settled: &|| settling.is_over(Instant::now()),
        token_patience: TOKEN_PATIENCE,
        settings: Settings {
            key,
            ..Settings::default()
        },
        once: false,
    };
    loop {
        let power = match work::run(&api, &machine, &log) {
            Ok(ended) => ended.power,
            Err(error) => {
                log.line(chain(&error));
                Some(Power::Reboot)
            }
        };
        if let Some(power) = power {
            log.line(format!("{} now", power.word()));
            let error = power.execute();
            log.line(format!(
                "cannot {}: {error}; use the power button",
                power.word()
            ));
        }
    }
}

/// Gets an address, however long it takes.
fn connect(sysfs: &Sysfs, arrivals: &Arrivals, cmdline: &Cmdline, log: &Log) -> Connected {
    let network = Network {
        sysfs,
        arrivals,
        log,
        boot_mac: cmdline.boot_mac,
        uuid: sysfs.inventory().uuid,
    };
    network.connect()
}

/// Gives the drivers the time to find a disk, so that the first registration tells it. What comes
/// later is told by another registration.
fn wait_for_disks(sysfs: &Sysfs, arrivals: &Arrivals) {
    let settled = || arrivals.is_settled().then_some(());
    arrivals.wait_for(Instant::now() + DRIVERS_WAIT, settled);
    let disk = || (!sysfs.disks().is_empty()).then_some(());
    arrivals.wait_for(Instant::now() + DISK_WAIT, disk);
}

fn introduction(sysfs: Sysfs, boot_token: String, boot_mac: MacAddr) -> Introduction {
    Box::new(move || Register {
        protocol: VERSION,
        agent_version: env!("CARGO_PKG_VERSION").into(),
        boot_token: boot_token.clone(),
        boot_mac,
        inventory: sysfs.inventory(),
        uptime_ms: sysfs.uptime_ms(),
    })
}

/// Shows an error that only a new boot can mend, for as long as the machine runs: somebody may
/// look at its console tomorrow.
fn stay(log: &Log, why: &str) -> ! {
    loop {
        log.line(why);
        std::thread::sleep(REMINDER);
    }
}

/// Becomes a shell that has the console for itself, as the child of PID 1. Returns only when that
/// fails.
///
/// # Errors
/// What the kernel answers.
pub fn shell() -> std::io::Error {
    let prepared = || -> std::io::Result<()> {
        rustix::process::setsid()?;
        let console = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/console")?;
        // Without a controlling terminal Ctrl-C would not reach what runs in the shell. The shell
        // works without it, so a refusal does not matter.
        let _ = rustix::process::ioctl_tiocsctty(&console);
        rustix::stdio::dup2_stdin(&console)?;
        rustix::stdio::dup2_stdout(&console)?;
        rustix::stdio::dup2_stderr(&console)?;
        Ok(())
    };
    if let Err(error) = prepared() {
        return error;
    }
    Command::new("/bin/sh")
        .arg("-i")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/")
        .env("TERM", "linux")
        .current_dir("/")
        .exec()
}
