//! `bugler simulate`.

use super::Session;
use crate::cli;
use crate::output;
use anyhow::{Result, bail};
use bugler_simulate::{FetchFrom, Options};
use std::time::Duration;

pub(super) fn run(session: &Session, args: &cli::Simulate) -> Result<()> {
    let report = bugler_simulate::run(&Options {
        server: args.dhcp_server,
        relay: args.relay,
        kinds: args.kinds.clone(),
        clients: args.clients,
        first: args.first,
        within: Duration::from_secs_f64(args.within),
        patience: Duration::from_secs(args.patience),
        fetch_from: if args.leased {
            FetchFrom::Leased
        } else {
            FetchFrom::Relay
        },
    })?;
    if session.json {
        output::json(&report)?;
    } else {
        print!("{report}");
    }
    match report.failed() {
        0 => Ok(()),
        failed => bail!("{failed} of {} clients failed", args.clients),
    }
}
