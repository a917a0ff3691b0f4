//! `bugler doctor`.

use super::{Session, serve};
use crate::cli;
use crate::output;
use anyhow::{Context, Result, bail};
use bugler_diagnose::doctor::{Check, Dhcp, Level, Loader, Subject, Wanted, examine, worst};
use bugler_model::text;
use bugler_protocol::operator::ServerStatus;
use bugler_server::config::{Config, DhcpMode};
use bugler_server::loaders::places;
use serde::Serialize;
use std::io::Write;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// The worst of all.
    worst: Level,
    /// Version of the server that answers, where one does.
    server: Option<&'a str>,
    checks: &'a [Check],
}

pub(super) fn run(session: &Session, args: cli::Doctor) -> Result<()> {
    let subject = subject(serve::configuration(args.serve)?, !args.no_probe);
    let server = session.client.get::<ServerStatus>("server").ok();
    let checks = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("could not start the runtime")?
        .block_on(examine(&subject));
    let worst = worst(&checks);
    if session.json {
        output::json(&Report {
            worst,
            server: server.as_ref().map(|status| status.version.as_str()),
            checks: &checks,
        })?;
    } else {
        show(&checks, server.as_ref())?;
    }
    let problems = checks
        .iter()
        .filter(|check| check.level == Level::Problem)
        .count();
    match problems {
        0 => Ok(()),
        1 => bail!("there is a problem; it stands above with a remedy"),
        n => bail!("there are {n} problems; each stands above with a remedy"),
    }
}

fn subject(config: Config, probe: bool) -> Subject {
    Subject {
        interfaces: config
            .interfaces
            .iter()
            .map(|interface| Wanted {
                name: interface.name.clone(),
                dhcp: match interface.dhcp {
                    DhcpMode::Auto => Dhcp::Auto,
                    DhcpMode::Full => Dhcp::Full,
                    DhcpMode::Proxy => Dhcp::Proxy,
                    DhcpMode::Off => Dhcp::Off,
                },
                has_pool: !interface.pools.is_empty(),
            })
            .collect(),
        device_listen: config.device_listen,
        operator_listen: config.operator_listen,
        tftp: config.tftp.enabled,
        state_dir: config.state_dir,
        loaders: places(&config.boot.loaders)
            .into_iter()
            .map(|place| Loader {
                name: place.name.to_owned(),
                paths: place.paths,
                needed: place.needed,
            })
            .collect(),
        probe,
    }
}

fn show(checks: &[Check], server: Option<&ServerStatus>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match server {
        Some(status) => writeln!(
            out,
            "ok       the server runs: version {}, boot environment {}",
            text::clean(&status.version),
            text::clean(status.bootenv.as_deref().unwrap_or("none yet"))
        )?,
        None => writeln!(
            out,
            "note     the server does not run, or not where --server says"
        )?,
    }
    // The worst last: that is where a reader looks.
    let mut sorted: Vec<&Check> = checks.iter().collect();
    sorted.sort_by_key(|check| check.level);
    for check in sorted {
        writeln!(out, "{:<8} {}", check.level, text::clean(&check.text))?;
        if let Some(remedy) = &check.remedy {
            writeln!(out, "         -> {}", text::clean(remedy))?;
        }
    }
    Ok(())
}
