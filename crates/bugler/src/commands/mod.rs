//! What each command does: one file a noun.

mod bootenv;
mod capture;
mod device;
mod doctor;
mod eeprom;
mod events;
mod explain;
mod image;
mod input;
mod key;
mod overlay;
mod plan;
mod power;
mod profile;
mod rule;
mod serve;
mod simulate;
mod task;
mod work;

use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::output;
use anyhow::{Context, Result};
use bugler_model::text;
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
        Command::Profile(command) => profile::run(&session, command),
        Command::Rule(command) => rule::run(&session, command),
        Command::Overlay(command) => overlay::run(&session, command),
        Command::Image(command) => image::run(&session, command),
        Command::Key(command) => key::run(&session, &command),
        Command::Deploy(args) => work::deploy(&session, *args),
        Command::Capture(args) => work::capture(&session, args),
        Command::Wipe(args) => work::wipe(&session, args),
        Command::Reboot(targets) => task::reboot(&session, targets),
        Command::PowerOff(targets) => task::power_off(&session, targets),
        Command::Power(command) => power::run(&session, command),
        Command::Task(command) => task::run(&session, command),
        Command::Events(args) => events::run(&session, &args),
        Command::Bootenv(command) => bootenv::run(&session, command),
        Command::Eeprom(command) => eeprom::run(&session, command),
        Command::Doctor(args) => doctor::run(&session, *args),
        Command::Explain(args) => explain::run(&session, &args),
        Command::CapturePackets(args) => capture::run(&session, &args),
        Command::Simulate(args) => simulate::run(&session, &args),
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
        println!("{}", text::clean(&line));
    }
    Ok(())
}
