//! Virtual machines, networks and peers: the end-to-end tests, the demo and the benchmarks.
//!
//! Real firmware is the judge here. A *scenario* makes a private network out of Linux namespaces,
//! starts servers in it, switches QEMU machines on and reads their serial consoles. It touches no
//! real network, leaves nothing behind (not even after `kill -9`), and runs with or without root.
//!
//! ```text
//!   bugler-lab e2e NAME          (on the host's network; waits for a free slot, builds images)
//!     └─ unshare                 (network, mount and process namespaces; a user namespace
//!         │                       as well when it is not run as root)
//!         └─ bugler-lab e2e NAME (process 1 inside: when it ends, everything in here ends)
//!             ├─ bridge br0 ── tap0 ── QEMU machine "n1"  ── console, QMP
//!             │        └────── tap1 ── QEMU machine "n2"
//!             ├─ host "srv"  (namespace; veth on br0)  bugler serve
//!             ├─ host "dhcp" (namespace; veth on br0)  dnsmasq
//!             └─ capture of br0
//! ```
//!
//! # How to write a scenario
//!
//! A scenario is a function `fn(&Run) -> anyhow::Result<()>` in `src/scenarios/`, listed in
//! [`scenarios::all`], and called by a `#[test]` of one line in `tests/e2e.rs`. This one boots a
//! machine from its disk:
//!
//! ```no_run
//! use bugler_lab::{image, machine::{Firmware, Machine, Spec}, net::Net, run::Run, disk};
//! use std::time::Duration;
//!
//! fn boots_its_disk(run: &Run) -> anyhow::Result<()> {
//!     let net = Net::new()?;                          // bridge br0 in this namespace
//!     let _capture = run.capture(&net)?;              // bridge.pcap in the run's folder
//!     let image = image::cached(image::Variant::Small)?;
//!     let disk = run.file("n1.raw");
//!     disk::copy(&image.disk, &disk)?;
//!     let mut n1 = Machine::new(run, &net, Spec::new("n1", 1, Firmware::Bios).disk(&disk))?;
//!     n1.power_on()?;
//!     let seen = n1.wait_for("BUGLER-LAB: up from", Duration::from_secs(120))?;
//!     run.say(&format!("{:.1} s: {}", seen.at.as_secs_f64(), seen.line));
//!     anyhow::ensure!(seen.line.contains(&image.stamp), "another image came up: {}", seen.line);
//!     Ok(())
//! }
//! ```
//!
//! Rules that keep scenarios honest and quick:
//!
//! * Wait for events ([`machine::Machine::wait_for`], [`machine::Machine::wait_reboot`], the
//!   operator API), never for time to pass; every wait has a limit, and its error shows the
//!   console's last lines.
//! * Whatever the scenario starts belongs to a value that ends it when dropped: there is nothing to
//!   clean up by hand, on any path.
//! * Files go to [`run::Run::file`]. When the scenario fails, consoles, packet capture and server
//!   logs stay under `target/lab/runs/<scenario>-<time>/` and the path is printed; disks are removed.
//! * Compare a deployed disk with [`disk::compare`] before the machine boots from it: give the
//!   machine [`machine::Spec::pause_on_reboot`], wait with [`machine::Machine::wait_reboot`], compare,
//!   then [`machine::Machine::resume`].
//! * Fill a disk with poison first ([`disk::poisoned`]): a place that should read as zero and was
//!   skipped shows.
//!
//! To run one by hand: `cargo run -p bugler-lab -- e2e NAME [--keep]`; `bugler-lab e2e` lists them.

pub mod accel;
pub mod api;
pub mod bench;
pub mod bmc;
mod board;
pub mod capture;
pub mod client;
pub mod console;
pub mod demo;
pub mod disk;
pub mod enclosure;
pub mod gpt;
pub mod image;
pub mod machine;
pub mod net;
pub mod nvram;
mod packet_address;
pub mod paths;
pub mod peers;
pub mod pi;
pub mod process;
pub mod product;
pub mod qmp;
pub mod run;
pub mod scenarios;
pub mod server;
pub mod site;
pub mod slot;
pub mod sparse;
pub mod uboot;
pub mod workbench;
