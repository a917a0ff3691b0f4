//! `bugler serve`.

use crate::{cli, unsafe_memory};
use anyhow::{Context, Result};
use bugler_server::config::{Config, DhcpMode, Interface};
use bugler_server::run;
use std::io::IsTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(super) fn run(args: cli::Serve) -> Result<()> {
    unsafe_memory::bound_arenas();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("BUGLER_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let config = configuration(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let served = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let on_signal = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            on_signal.cancel();
        });
        run::serve(config, stop).await
    });
    // A boot environment may be under construction: it is made whole or not at all, so it is left.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    served
}

/// The file, and the command line over it.
pub(super) fn configuration(args: cli::Serve) -> Result<Config> {
    let mut config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    if let Some(dir) = args.state_dir {
        config.state_dir = dir;
    }
    if let Some(address) = args.device_listen {
        config.device_listen = address;
    }
    if let Some(address) = args.operator_listen {
        config.operator_listen = address;
    }
    config.operator_without_login |= args.operator_without_login;
    for name in args.interfaces {
        if !config
            .interfaces
            .iter()
            .any(|interface| interface.name == name)
        {
            config.interfaces.push(Interface {
                name,
                ..Interface::default()
            });
        }
    }
    let pools = args
        .pools
        .iter()
        .map(|text| text.parse())
        .collect::<Result<Vec<_>, _>>()?;
    if !pools.is_empty() && config.interfaces.len() != 1 {
        anyhow::bail!(
            "--pool needs exactly one interface ({} are served): give pools of several interfaces \
             in a configuration file",
            config.interfaces.len()
        );
    }
    for interface in &mut config.interfaces {
        if let Some(mode) = args.dhcp {
            interface.dhcp = match mode {
                cli::Dhcp::Auto => DhcpMode::Auto,
                cli::Dhcp::Full => DhcpMode::Full,
                cli::Dhcp::Proxy => DhcpMode::Proxy,
                cli::Dhcp::Off => DhcpMode::Off,
            };
        }
        if !pools.is_empty() {
            interface.pools.clone_from(&pools);
        }
    }
    let given: bugler_server::config::Bootenv = args.bootenv.into();
    let defaults = std::mem::take(&mut config.bootenv);
    config.bootenv = bugler_server::config::Bootenv {
        agent: given.agent.or(defaults.agent),
        kernel: given.kernel.or(defaults.kernel),
        busybox: given.busybox.or(defaults.busybox),
        firmware: given.firmware.or(defaults.firmware),
        modules: if given.modules.is_empty() {
            defaults.modules
        } else {
            given.modules
        },
    };
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn config(line: &str) -> Result<Config> {
        let cli = cli::Cli::try_parse_from(line.split_whitespace()).unwrap();
        let cli::Command::Serve(args) = cli.command else {
            panic!("not serve")
        };
        configuration(*args)
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bugler.toml");
        std::fs::write(
            &file,
            "state-dir = \"/a\"\n[[interface]]\nname = \"eth1\"\ndhcp = \"proxy\"\nlease = 600\n",
        )
        .unwrap();
        let line = format!(
            "bugler serve --config {} --state-dir /b --interface eth1 --dhcp auto",
            file.display()
        );
        let config = config(&line).unwrap();
        assert_eq!(config.state_dir.to_str(), Some("/b"));
        assert_eq!(config.interfaces.len(), 1);
        assert_eq!(config.interfaces[0].dhcp, DhcpMode::Auto);
        assert_eq!(config.interfaces[0].lease, Some(600));
    }

    #[test]
    fn a_pool_needs_to_know_its_interface() {
        let error = config("bugler serve --interface a --interface b --pool 10.0.0.1-10.0.0.9")
            .unwrap_err();
        assert!(
            error.to_string().contains("exactly one interface"),
            "{error}"
        );
        assert_eq!(
            config("bugler serve --interface a --pool 10.0.0.1-10.0.0.9")
                .unwrap()
                .interfaces[0]
                .pools
                .len(),
            1
        );
    }
}
