//! What each command does: one file a noun.

mod bootenv;
mod device;
mod events;
mod image;
mod serve;
mod task;

use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::output;
use anyhow::{Context, Result};
use bugler_protocol::operator::ServerStatus;
use clap::CommandFactory;

/// How the command was asked to talk.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) json: bool,
}

/// Runs a command.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let session = Session {
        client: Client::new(&cli.server),
        json: cli.json,
    };
    match cli.command {
        Command::Serve(args) => serve::run(*args),
        Command::Device(command) => device::run(&session, command),
        Command::Image(command) => image::run(&session, command),
        Command::Deploy(args) => task::deploy(&session, args),
        Command::Reboot(targets) => task::reboot(&session, targets),
        Command::PowerOff(targets) => task::power_off(&session, targets),
        Command::Task(command) => task::run(&session, command),
        Command::Events(args) => events::run(&session, &args),
        Command::Bootenv(command) => bootenv::run(&session, command),
        Command::Status => status(&session),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bugler", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { dir } => clap_mangen::generate_to(Cli::command(), &dir)
            .with_context(|| format!("could not write manual pages into {}", dir.display())),
    }
}

fn status(session: &Session) -> Result<()> {
    let status: ServerStatus = session.client.get("server")?;
    if session.json {
        return output::json(&status);
    }
    println!("bugler {}, up for {} s", status.version, status.uptime_s);
    println!(
        "boot environment: {}",
        status.bootenv.as_deref().unwrap_or("none yet")
    );
    for line in status.services {
        println!("{}", output::safe(line));
    }
    Ok(())
}
