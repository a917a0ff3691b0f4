//! Benchmarks, each beside its peers in the same run.

pub mod aoe;
pub mod decode;
pub mod deploy;
pub mod dhcp;
pub mod diskless;
mod figures;
pub mod idle;
pub mod images;
pub mod many;
pub mod nbd;
pub mod power;
mod rack;
pub mod storm;
pub mod tftp;

use crate::image::{self, Variant};
use crate::product;
use anyhow::Result;

/// What to measure.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Bench {
    /// TFTP, beside dnsmasq and atftpd.
    Tftp(tftp::Options),
    /// AoE, beside vblade on the same file.
    Aoe(aoe::Options),
    /// NBD, beside nbd-server and qemu-nbd on the same file.
    Nbd(nbd::Options),
    /// DHCP, beside Kea and dnsmasq.
    Dhcp(dhcp::Options),
    /// A power cut's end: thousands of machines boot within a second.
    Storm(storm::Options),
    /// The deploy of an image, beside curl, zstd and dd.
    Deploy(deploy::Options),
    /// Many deploys at once, beside nginx.
    Many(many::Options),
    /// Many machines without a disk that boot at once from one image.
    Diskless(diskless::Options),
    /// Images: what it takes to add, capture, deploy and keep them, beside zstd, partclone and bmaptool.
    Images(images::Options),
    /// The power state of many machines by IPMI, beside ipmipower.
    Power(power::Options),
    /// What one packet costs to read, of every decoder.
    Decode(decode::Options),
    /// The memory of a server that has nothing to do, and the size of what machines fetch.
    Idle,
}

/// What has to be done before the private network is entered; without a name, for all benchmarks.
///
/// # Errors
/// When a file that is measured with cannot be built or fetched.
pub fn prepare(what: Option<&Bench>) -> Result<()> {
    let say = |text: &str| eprintln!("{text}");
    if !matches!(
        what,
        Some(
            Bench::Aoe(_)
                | Bench::Nbd(_)
                | Bench::Tftp(_)
                | Bench::Dhcp(_)
                | Bench::Storm(_)
                | Bench::Power(_)
                | Bench::Decode(_)
        )
    ) {
        product::ensure(&say)?;
    }
    if matches!(what, None | Some(Bench::Deploy(_))) {
        image::ensure(Variant::Large, &say)?;
        rack::prepare(&say)?;
    }
    match what {
        None => images::prepare(None, &say)?,
        Some(Bench::Images(options)) => images::prepare(Some(options), &say)?,
        Some(_) => {}
    }
    if matches!(what, Some(Bench::Diskless(_))) {
        image::ensure(Variant::Small, &say)?;
    }
    if matches!(what, None | Some(Bench::Many(_))) {
        image::ensure(Variant::Small, &say)?;
        rack::prepare(&say)?;
    }
    Ok(())
}

/// Measures one thing, or everything, and prints what was found. To be called inside of
/// [`enter`](crate::enclosure::enter), after [`prepare`].
///
/// # Errors
/// When something does not start or does not work. That a target is missed is printed, and no
/// error.
pub fn run(what: Option<&Bench>) -> Result<()> {
    match what {
        Some(Bench::Tftp(options)) => tftp::run(options),
        Some(Bench::Dhcp(options)) => dhcp::run(options),
        Some(Bench::Aoe(options)) => aoe::run(options),
        Some(Bench::Nbd(options)) => nbd::run(options),
        Some(Bench::Storm(options)) => storm::run(options),
        Some(Bench::Deploy(options)) => deploy::run(options),
        Some(Bench::Many(options)) => many::run(options),
        Some(Bench::Diskless(options)) => diskless::run(options),
        Some(Bench::Images(options)) => images::run(options),
        Some(Bench::Power(options)) => power::run(options),
        Some(Bench::Decode(options)) => decode::run(options),
        Some(Bench::Idle) => idle::run(),
        None => {
            decode::run(&decode::Options {
                samples: 31,
                all: false,
            })?;
            tftp::run(&tftp::Options {
                rounds: 5,
                no_loss: false,
                only_loss: false,
            })?;
            dhcp::run(&dhcp::Options {
                rounds: 5,
                quick: false,
            })?;
            aoe::run(&aoe::Options {
                rounds: 5,
                quick: false,
            })?;
            nbd::run(&nbd::Options {
                rounds: 5,
                seconds: 3,
            })?;
            storm::run(&storm::Options { machines: 2_000 })?;
            power::run(&power::Options {
                machines: 200,
                dead: 10,
                rounds: 5,
            })?;
            deploy::run(&deploy::Options { rounds: 5 })?;
            images::run(&images::Options {
                what: None,
                rounds: 5,
            })?;
            many::run(&many::Options {
                machines: 32,
                rounds: 5,
            })?;
            diskless::run(&diskless::Options {
                machines: 64,
                read: 150,
                write: 20,
            })?;
            idle::run()
        }
    }
}
