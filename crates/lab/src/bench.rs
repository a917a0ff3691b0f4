//! Benchmarks, each beside its peers in the same run.

pub mod deploy;
pub mod idle;
pub mod tftp;

use crate::image::{self, Variant};
use crate::product;
use anyhow::Result;

/// What to measure.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Bench {
    /// TFTP, beside dnsmasq and atftpd.
    Tftp(tftp::Options),
    /// The deploy of an image, beside curl, zstd and dd.
    Deploy(deploy::Options),
    /// The memory of a server that has nothing to do, and the size of what machines fetch.
    Idle,
}

/// What has to be done before the private network is entered; without a name, for all benchmarks.
///
/// # Errors
/// When a file that is measured with cannot be built or fetched.
pub fn prepare(what: Option<&Bench>) -> Result<()> {
    let say = |text: &str| eprintln!("{text}");
    if !matches!(what, Some(Bench::Tftp(_))) {
        product::ensure(&say)?;
    }
    if matches!(what, None | Some(Bench::Deploy(_))) {
        image::ensure(Variant::Large, &say)?;
        deploy::prepare(&say)?;
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
        Some(Bench::Deploy(options)) => deploy::run(options),
        Some(Bench::Idle) => idle::run(),
        None => {
            tftp::run(&tftp::Options {
                rounds: 5,
                no_loss: false,
                only_loss: false,
            })?;
            deploy::run(&deploy::Options { rounds: 5 })?;
            idle::run()
        }
    }
}
