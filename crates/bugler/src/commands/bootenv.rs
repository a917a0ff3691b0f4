//! `bugler bootenv`.

use super::Session;
use crate::cli;
use crate::output;
use anyhow::Result;
use bugler_server::bootenv;

pub(super) fn run(session: &Session, command: cli::Bootenv) -> Result<()> {
    let built = match command {
        cli::Bootenv::Build { state_dir, wanted } => {
            vec![bootenv::build(
                &state_dir,
                &(*wanted).into(),
                &mut |line| eprintln!("{line}"),
            )?]
        }
        cli::Bootenv::List { state_dir } => bootenv::list(&state_dir)?,
    };
    if session.json {
        return output::json(&built);
    }
    output::table(
        &[
            "VERSION",
            "ARCH",
            "MODULES",
            "KERNEL",
            "INITRAMFS",
            "OF IT AGENT AND SHELL",
        ],
        built.iter().map(|env| {
            vec![
                env.version.clone(),
                format!("{:?}", env.arch).to_lowercase(),
                env.module_count.to_string(),
                output::bytes(env.sizes.vmlinuz),
                output::bytes(env.sizes.initrd),
                output::bytes(env.sizes.base),
            ]
        }),
    )
}

impl From<cli::Ingredients> for bugler_server::config::Bootenv {
    fn from(wanted: cli::Ingredients) -> Self {
        let cli::Ingredients {
            kernel,
            agent,
            busybox,
            firmware,
            modules,
        } = wanted;
        Self {
            agent,
            kernel,
            busybox,
            firmware,
            modules,
        }
    }
}
