//! `bugler-agent`: /init of the boot environment, and the same work as a normal process.

use anyhow::Context as _;
use bugler_agent::api::Api;
use bugler_agent::args::{Command, Run, USAGE, file_disk};
use bugler_agent::boot;
use bugler_agent::deploy::Settings;
use bugler_agent::diskless;
use bugler_agent::log::Log;
use bugler_agent::sysfs::Sysfs;
use bugler_agent::work::{self, Machine, TOKEN_PATIENCE};
use bugler_model::{Disk, Inventory, Nic, TaskState};
use bugler_protocol::agent::{Register, VERSION};
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        boot::init::main();
    }
    let command = match Command::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("bugler-agent: {error}");
            return ExitCode::from(2);
        }
    };
    let result = match command {
        Command::Boot => Ok(boot::work()),
        Command::Shell => Err(boot::shell()).context("cannot start /bin/sh on the console"),
        Command::Run(arguments) => run(&arguments),
        Command::Keep => diskless::keeper::main().map(|()| ExitCode::SUCCESS),
        Command::Attach => diskless::attach_device().map(|device| {
            println!("{device}");
            ExitCode::SUCCESS
        }),
        Command::Help => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            println!("bugler-agent {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("bugler-agent: {error:#}");
        ExitCode::FAILURE
    })
}

/// Registers and works as a normal process.
fn run(arguments: &Run) -> anyhow::Result<ExitCode> {
    let log = Log::stderr();
    let disks = || -> anyhow::Result<Vec<Disk>> {
        let look = |disk: &String| {
            let found = file_disk(disk, arguments.sector_size);
            found.with_context(|| format!("cannot use {disk} as a disk"))
        };
        arguments.disks.iter().map(look).collect()
    };
    disks()?;
    let host = Sysfs::at("/");
    // Nothing of the host's own identity: many of these may run on one host.
    let inventory = {
        let Inventory { cpu, memory, .. } = host.inventory();
        let arguments = arguments.clone();
        move || Inventory {
            uuid: arguments.uuid,
            model: Some("bugler-agent run".into()),
            cpu: cpu.clone(),
            memory,
            // A file that has gone since is no disk any more.
            disks: arguments
                .disks
                .iter()
                .filter_map(|disk| file_disk(disk, arguments.sector_size).ok())
                .collect(),
            nics: vec![Nic {
                name: "eth0".into(),
                mac: arguments.boot_mac,
                link: true,
                speed: None,
                driver: None,
            }],
            ..Inventory::default()
        }
    };
    let introduction = {
        let (inventory, arguments) = (inventory.clone(), arguments.clone());
        Box::new(move || Register {
            protocol: VERSION,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            boot_token: arguments.boot_token.clone(),
            boot_mac: arguments.boot_mac,
            inventory: inventory(),
            uptime_ms: host.uptime_ms(),
        })
    };
    let api = Api::new(&arguments.server, introduction)?;
    let machine = Machine {
        inventory: &inventory,
        // The command line names them all.
        settled: &|| true,
        token_patience: TOKEN_PATIENCE,
        settings: Settings {
            connections: arguments.connections,
            key: arguments.key,
            ..Settings::default()
        },
        once: arguments.once,
    };
    loop {
        let ended = work::run(&api, &machine, &log)?;
        if let Some(power) = ended.power {
            println!("would {} now", power.word());
        }
        if arguments.once {
            return Ok(match ended.state {
                TaskState::Done => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            });
        }
    }
}
