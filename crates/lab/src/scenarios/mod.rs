//! What is proved with real firmware, one function each.

mod damage;
mod deploy;
mod harness;
mod interrupted;
mod proxy;
mod shell;
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

/// Every scenario.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        harness::ALL,
        startup::ALL,
        deploy::ALL,
        two::ALL,
        interrupted::ALL,
        proxy::ALL,
        shell::ALL,
    ]
    .into_iter()
    .flatten()
}

/// The scenario with that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    all().find(|scenario| scenario.name == name)
}
