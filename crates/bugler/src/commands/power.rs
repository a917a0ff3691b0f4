//! `bugler power` and `bugler device power`.

use super::{Session, input};
use crate::cli;
use crate::client::{ClientError, encode};
use crate::output;
use anyhow::{Context, Result, bail};
use bugler_model::text::{ago, clean};
use bugler_model::{DeviceId, PowerDriver, PowerRole};
use bugler_protocol::operator::{
    NewPowerOrder, PowerResult, PowerVerdict, PowerView, SecretText, SetBoot, SetPower,
};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

/// What holds the password where no file is named.
const PASSWORD: &str = "BUGLER_BMC_PASSWORD";

pub(super) fn run(session: &Session, command: cli::Power) -> Result<()> {
    let action = command.action();
    let (boot, targets) = match command {
        cli::Power::Bootdev {
            from,
            persistent,
            targets,
        } => {
            let device = from.into();
            (Some(SetBoot { device, persistent }), targets)
        }
        cli::Power::On(targets)
        | cli::Power::Off(targets)
        | cli::Power::Soft(targets)
        | cli::Power::Cycle(targets)
        | cli::Power::Reset(targets)
        | cli::Power::Diag(targets)
        | cli::Power::Status(targets) => {
            let boot = targets.boot.map(|from| SetBoot {
                device: from.into(),
                persistent: false,
            });
            (boot, targets)
        }
    };
    if targets.devices.is_empty() && targets.tag.is_none() {
        bail!("name at least one device, or a --tag");
    }
    order(
        session,
        &NewPowerOrder {
            boot,
            action,
            devices: targets.devices,
            tag: targets.tag,
            hard: targets.hard,
            every_ms: targets.every.unwrap_or_default(),
            at_once: targets.at_once,
            timeout_s: targets.timeout,
        },
    )
}

/// Prints results as they come in, then who has to be looked after.
fn order(session: &Session, order: &NewPowerOrder) -> Result<()> {
    let answer = session.client.post_stream("power", order)?;
    let mut by_verdict: HashMap<PowerVerdict, Vec<PowerResult>> = HashMap::new();
    let mut out = std::io::stdout().lock();
    if !session.json {
        writeln!(out, "{:<20} {:<12} {:<8} WHAT", "DEVICE", "RESULT", "POWER")?;
    }
    for line in BufReader::new(answer.into_body().into_reader()).lines() {
        let line = line.context("the server's answer ended early")?;
        let result: PowerResult = serde_json::from_str(&line)
            .context("the server gave an answer that this version does not understand")?;
        if session.json {
            writeln!(out, "{line}")?;
        } else {
            let text = format!(
                "{:<20} {:<12} {:<8} {}",
                result.label, result.verdict, result.state, result.text
            );
            writeln!(out, "{}", clean(&text))?;
        }
        out.flush()?;
        by_verdict.entry(result.verdict).or_default().push(result);
    }
    let counts: Vec<String> = PowerVerdict::ALL
        .iter()
        .filter_map(|verdict| Some(format!("{} {verdict}", by_verdict.get(verdict)?.len())))
        .collect();
    let failures: Vec<String> = PowerVerdict::ALL
        .iter()
        .filter(|verdict| verdict.is_failure())
        .filter_map(|verdict| {
            let labels = by_verdict.get(verdict)?.iter();
            let labels: Vec<&str> = labels.map(|result| result.label.as_str()).collect();
            Some(format!("{verdict}: {}", labels.join(" ")))
        })
        .collect();
    if by_verdict.values().flatten().count() > 1 && !session.json {
        eprintln!("{}", counts.join(", "));
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(ClientError::TaskFailed(clean(&failures.join("; "))).into())
}

pub(super) fn device(session: &Session, args: cli::DevicePower) -> Result<()> {
    let path = format!("devices/{}/power", encode(&args.device));
    let role = if args.hard {
        PowerRole::Hard
    } else {
        PowerRole::Power
    };
    if args.remove {
        return session.client.delete(&format!("{path}?role={role}"));
    }
    if args.token_file.is_some() && args.webhook.is_none() && args.webhook_file.is_none() {
        bail!("--token-file goes with --webhook");
    }
    let view: PowerView = match driver(&args)? {
        Some(driver) => {
            let is_ipmi = matches!(driver, PowerDriver::Ipmi { .. });
            let wanted = SetPower {
                role,
                driver,
                password: is_ipmi
                    .then(|| password(args.password_file.as_deref()))
                    .transpose()?,
                group_key: args.group_key_file.as_deref().map(secret).transpose()?,
                token: args.token_file.as_deref().map(secret).transpose()?,
            };
            session.client.put(&path, &wanted)?
        }
        None => session.client.get(&path)?,
    };
    if session.json {
        return output::json(&view);
    }
    if view.drivers.is_empty() {
        println!("nothing switches {}", clean(&view.label));
    }
    for line in describe(&view) {
        println!("{}", clean(&line));
    }
    Ok(())
}

/// What was asked for; `None`: nothing.
fn driver(args: &cli::DevicePower) -> Result<Option<PowerDriver>> {
    Ok(Some(if let Some(address) = &args.ipmi {
        PowerDriver::Ipmi {
            address: address.clone(),
            user: args.user.clone().unwrap_or_default(),
            allow_v15: args.allow_ipmi_15,
        }
    } else if args.wake {
        PowerDriver::Wake {
            mac: args.wake_mac,
            broadcast: args.broadcast,
        }
    } else if let Some(program) = &args.command {
        PowerDriver::Command {
            program: program.clone(),
            arguments: args.arguments.clone(),
            status: args.knows_status,
            boot: args.knows_boot,
            timeout_s: args.command_timeout,
        }
    } else if let Some(url) = &args.webhook {
        PowerDriver::Webhook { url: url.clone() }
    } else if let Some(file) = &args.webhook_file {
        PowerDriver::Webhook {
            url: secret(file)?.0,
        }
    } else if args.manual {
        PowerDriver::Manual {}
    } else {
        return Ok(None);
    }))
}

/// The first line of a file.
fn secret(file: &Path) -> Result<SecretText> {
    let text = input::text(file)?;
    let line = text.lines().next().unwrap_or_default();
    Ok(SecretText(line.to_owned()))
}

/// A password never stands on the command line, which every process of the host can read.
fn password(file: Option<&Path>) -> Result<SecretText> {
    match file {
        Some(file) => secret(file),
        None => match std::env::var(PASSWORD) {
            Ok(password) => Ok(SecretText(password)),
            Err(_) => bail!(
                "the password is missing: name a file with --password-file (`-` reads a pipe), or set \
                 the environment variable {PASSWORD}"
            ),
        },
    }
}

/// One line for each driver, then what is known.
pub(super) fn describe(view: &PowerView) -> Vec<String> {
    let mut lines: Vec<String> = view
        .drivers
        .iter()
        .map(|driver| {
            let known = match &driver.known {
                Some(known) => format!(", {known}"),
                None => String::new(),
            };
            format!("{}: {}{known}", driver.role, driver.driver.summary())
        })
        .collect();
    if let Some(at) = view.at {
        lines.push(format!("{}, asked {}", view.state, ago(at, output::now())));
    }
    lines.extend(view.problem.clone());
    lines
}

/// The power state of each device that something switches, in a word.
pub(super) fn states(session: &Session) -> Result<HashMap<DeviceId, String>> {
    let views: Vec<PowerView> = session.client.get("power")?;
    Ok(views
        .into_iter()
        .map(|view| {
            let word = match view.problem {
                Some(_) => "problem".to_owned(),
                None => view.state.to_string(),
            };
            (view.device, word)
        })
        .collect())
}
