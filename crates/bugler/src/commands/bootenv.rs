//! `bugler bootenv`.

use super::Session;
use crate::cli;
use crate::output;
use anyhow::Result;
use bugler_model::text;
use bugler_server::bootenv;

pub(super) fn run(session: &Session, command: cli::Bootenv) -> Result<()> {
    let built = match command {
        cli::Bootenv::Build {
            state_dir,
            arch,
            wanted,
        } => {
            vec![bootenv::build(
                &state_dir,
                arch.into(),
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
                bugler_server::bootenv::arch_name(env.arch).to_owned(),
                env.module_count.to_string(),
                text::bytes(env.sizes.vmlinuz),
                text::bytes(env.sizes.initrd),
                text::bytes(env.sizes.base),
            ]
        }),
    )
}

impl From<cli::Arch> for bugler_model::Arch {
    fn from(arch: cli::Arch) -> Self {
        match arch {
            cli::Arch::X86_64 => Self::X86_64,
            cli::Arch::Aarch64 => Self::Aarch64,
        }
    }
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
