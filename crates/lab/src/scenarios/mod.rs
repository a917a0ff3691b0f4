//! What is proved with real firmware, one function each.

mod adaptive;
mod aoe;
mod arm;
mod capture;
mod damage;
mod deploy;
mod diagnose;
mod diskless;
mod faults;
mod firmware;
mod foreign_root;
mod growth;
mod harness;
mod identity;
mod interrupted;
mod menus;
mod networks;
mod orders;
mod overlay_crash;
mod pi;
mod pi_diskless;
mod power;
mod proxy;
mod round_trip;
mod shell;
mod simulated;
mod six;
mod stages;
mod startup;
mod two;

use crate::run::Run;
use anyhow::Result;
use std::time::Duration;

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line and in folders.
    pub name: &'static str,
    /// What it proves, in one sentence.
    pub proves: &'static str,
    /// When it is ended, whatever it is doing.
    pub limit: Duration,
    /// How many machines are on in it at once; it waits until so many more may run.
    pub machines: usize,
    /// Whether it needs the small Debian image.
    pub image: bool,
    /// Whether it needs the programs under test, and their boot environment.
    pub product: bool,
    /// What it does.
    pub play: fn(&Run) -> Result<()>,
}

impl Scenario {
    /// One in which a single machine uses the image and the programs under test.
    const fn of_one_machine(
        limit: Duration,
        name: &'static str,
        proves: &'static str,
        play: fn(&Run) -> Result<()>,
    ) -> Self {
        Self {
            name,
            proves,
            limit,
            machines: 1,
            image: true,
            product: true,
            play,
        }
    }
}

/// Every scenario.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        harness::ALL,
        startup::ALL,
        deploy::ALL,
        two::ALL,
        interrupted::ALL,
        proxy::ALL,
        pi::ALL,
        pi_diskless::ALL,
        arm::ALL,
        firmware::ALL,
        adaptive::ALL,
        menus::ALL,
        networks::ALL,
        diagnose::ALL,
        shell::ALL,
        simulated::ALL,
        capture::ALL,
        identity::ALL,
        diskless::ALL,
        six::ALL,
        overlay_crash::ALL,
        growth::ALL,
        orders::ALL,
        power::ALL,
        round_trip::ALL,
        faults::ALL,
        foreign_root::ALL,
        aoe::ALL,
    ]
    .into_iter()
    .flatten()
}

/// The scenario with that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    all().find(|scenario| scenario.name == name)
}
