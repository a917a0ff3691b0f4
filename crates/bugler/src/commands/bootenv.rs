//! `bugler bootenv`.

use super::Session;
use crate::cli;
use crate::output;
use anyhow::Result;
use bugler_server::bootenv;

pub(super) fn run(session: &Session, command: cli::Bootenv) -> Result<()> {
    match command {
        cli::Bootenv::Build { state_dir, kernel, agent, busybox } => {
            let wanted = bugler_server::config::Bootenv { agent, kernel, busybox };
            let built = bootenv::build(&state_dir, &wanted, &mut |line| eprintln!("{line}"))?;
            if session.json { output::json(&built) } else { table(&[built]) }
        }
        cli::Bootenv::List { state_dir } => {
            let all = bootenv::list(&state_dir)?;
            if session.json { output::json(&all) } else { table(&all) }
        }
    }
}
