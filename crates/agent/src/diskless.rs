//! A machine without a disk: its root filesystem comes over the network.
//!
//! ```text
//!  PID 1 ── child `boot`: drivers, address, attaches the root at /sysroot ── ends with READY
//!    │          └─ keeper: stays; renews the lease, mends the connection
//!    └─ then: moves /dev /proc /sys /run, frees the initramfs, becomes the system's init
//! ```
//!
//! | Module | What |
//! |---|---|
//! | [`arguments`] | what the kernel command line says |
//! | [`attach`] | from there to a mounted root; [`nbd`], [`aoe`], [`nfs`] |
//! | [`keeper`] | the process that stays |
//! | [`network`] | what the system is told of its network, so that it leaves it alone |
//! | [`fstab`] | mounts of the image that a machine without a disk has not got, or has elsewhere |
//! | [`own`] | the names of the partitions that came over the network |
//! | [`report`] | tells the server |
//! | [`switch`] | hands the machine over |

mod aoe;
mod arguments;
pub(crate) mod attach;
mod device;
mod fstab;
pub mod keeper;
pub(crate) mod nbd;
mod network;
mod nfs;
mod own;
mod report;
pub(crate) mod switch;
mod system;

pub use arguments::{ArgumentError, Arguments, Plan, Root};

use crate::backoff::{self, Backoff};
use crate::boot::hotplug::Arrivals;
use crate::boot::network::Connected;
use crate::cmdline::Cmdline;
use crate::log::{Log, chain};
use crate::sysfs::Sysfs;
use attach::{Attach, Lease};
use bugler_protocol::agent::DisklessStage;
use report::Reporter;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How a child of PID 1 ends when the root is attached.
pub(crate) const READY: u8 = 77;

/// Where the root is mounted until it becomes `/`.
pub(crate) const SYSROOT: &str = "/sysroot";

/// First and longest wait before everything is tried again.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// How long to wait for drivers that are still being loaded.
const DRIVERS_WAIT: Duration = Duration::from_secs(10);

/// What the thread of the console gets to show the last lines before this process ends.
const LAST_LINES: Duration = Duration::from_millis(200);

/// Reads any bytes as what an NBD server says. For fuzzing: it must not panic on anything.
pub fn fuzz_nbd(bytes: &[u8]) {
    nbd::packet::fuzz(bytes);
}

/// Attaches the root, however long it takes, and returns [`READY`], with which this process has to end.
pub(crate) fn work(
    plan: &Plan,
    cmdline: &Cmdline,
    connected: Connected,
    sysfs: &Sysfs,
    arrivals: &Arrivals,
    log: &Log,
) -> ExitCode {
    let interface = connected.nic.name.clone();
    let boot_mac = cmdline.boot_mac.unwrap_or(connected.nic.mac);
    let first_lease = connected.lease().clone();
    let identity = connected.identity().clone();
    let held = connected.held();
    if let Some(mtu) = plan.mtu {
        set_mtu(&interface, mtu, log);
    }
    let keeper_log = log.clone();
    std::thread::spawn(move || connected.keep(&keeper_log));

    let reporter = Reporter::new(cmdline, boot_mac, sysfs);
    if plan.tls {
        log.line(
            "the server offers TLS for the root, which the kernel's NBD client cannot: it is read \
             and written in the clear",
        );
    }
    log.line(format!("attaching {} over {interface}", plan.root));
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY, backoff::seed());
    loop {
        let terms = held.terms();
        let lease = terms.map(|terms| Lease {
            identity: identity.clone(),
            terms,
        });
        let attach = Attach {
            plan,
            interface: &interface,
            lease,
            log,
        };
        let attached =
            attach
                .root()
                .and_then(|attached| match system::check(SYSROOT, &plan.init) {
                    Ok(()) => Ok(attached),
                    Err(error) => {
                        attached.detach(log);
                        Err(error)
                    }
                });
        match attached {
            Ok(attached) => {
                // What is not loaded by now may be for ever, where the image has another kernel; and with
                // their drivers, disks and cards show.
                let settled = || arrivals.is_settled().then_some(());
                arrivals.wait_for(Instant::now() + DRIVERS_WAIT, settled);
                system::tell(plan, SYSROOT, &attached.source, log);
                let lease = held.terms().map_or(first_lease, |terms| terms.lease);
                network::hand_over(SYSROOT, &interface, boot_mac, &lease, log);
                let detail = format!("{}, as {}", plan.root, attached.source);
                log.line(format!("the root is {detail}"));
                reporter.tell(DisklessStage::RootAttached, &detail, log);
                std::thread::sleep(LAST_LINES);
                return ExitCode::from(READY);
            }
            Err(error) => {
                let wait = backoff.wait();
                let why = chain(&error);
                log.line(format!(
                    "{why}; trying again in {} s",
                    wait.as_secs().max(1)
                ));
                reporter.tell(DisklessStage::RootFailed, &why, log);
                std::thread::sleep(wait);
            }
        }
    }
}

/// In the initramfs of a distribution, which has brought the network up: attaches the block device of
/// the kernel command line and returns the path of the device file that holds the root.
///
/// # Errors
/// What was tried, and what came back.
pub fn attach_device() -> anyhow::Result<String> {
    let log = Log::stderr();
    let text = std::fs::read_to_string("/proc/cmdline")?;
    let cmdline = Cmdline::parse(&text);
    let Some(plan) = cmdline.diskless.plan()? else {
        anyhow::bail!("the kernel command line has no bugler.root=");
    };
    let sysfs = Sysfs::at("/");
    let nics = sysfs.boot_order(cmdline.boot_mac);
    let Some(nic) = nics.first() else {
        anyhow::bail!("there is no network interface; is its driver in the initramfs?");
    };
    if let Some(mtu) = plan.mtu {
        set_mtu(&nic.name, mtu, &log);
    }
    let attach = Attach {
        plan: &plan,
        interface: &nic.name,
        lease: None,
        log: &log,
    };
    let device = attach.device()?;
    let got = std::fs::read_to_string(format!("/run/net-{}.conf", nic.name));
    if let Some(lease) = got.ok().and_then(|text| network::of_ipconfig(&text)) {
        network::write(&nic.name, nic.mac, &lease, &log);
    }
    Ok(device)
}

fn set_mtu(interface: &str, mtu: u32, log: &Log) {
    let path = format!("/sys/class/net/{interface}/mtu");
    if let Err(error) = std::fs::write(&path, mtu.to_string()) {
        log.line(format!(
            "cannot set the MTU of {interface} to {mtu}: {error}; it stays as it is"
        ));
    }
}
