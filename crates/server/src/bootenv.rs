//! The boot environments of a state directory.

use crate::config;
use anyhow::{Context, Result, bail};
use bugler_bootenv::{BootEnv, BuildOptions, KernelSource};
use bugler_model::Arch;
use std::path::{Path, PathBuf};

/// The architecture that boot environments are built for.
pub const ARCH: Arch = Arch::X86_64;

/// The folder of boot environments in a state directory.
#[must_use]
pub fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("bootenv")
}

/// Every boot environment, latest first.
///
/// # Errors
/// Where the folder cannot be read. A folder that does not exist has none.
pub fn list(state_dir: &Path) -> Result<Vec<BootEnv>> {
    Ok(bugler_bootenv::list(&dir(state_dir))?)
}

/// The one that machines get.
///
/// # Errors
/// Where the folder cannot be read.
pub fn latest(state_dir: &Path) -> Result<Option<BootEnv>> {
    Ok(bugler_bootenv::latest(&dir(state_dir), ARCH)?)
}

/// Whether a boot environment holds the agent that would go into a new one. Where none is found, it
/// counts as current: there is nothing to build a newer one from.
#[must_use]
pub fn has_current_agent(env: &BootEnv, wanted: &config::Bootenv) -> bool {
    let agent = wanted.agent.clone().or_else(|| find_agent().ok());
    let content = agent.and_then(|path| std::fs::read(path).ok());
    content.is_none_or(|bytes| blake3::hash(&bytes).to_hex().as_str() == env.sources.agent_hash)
}

/// Builds one; `progress` is told what is being done, a line at a time.
///
/// # Errors
/// Where the agent or a kernel cannot be found, or the result cannot be written.
pub fn build(
    state_dir: &Path,
    wanted: &config::Bootenv,
    progress: &mut dyn FnMut(&str),
) -> Result<BootEnv> {
    let agent = match &wanted.agent {
        Some(path) => path.clone(),
        None => find_agent()?,
    };
    let kernel = match &wanted.kernel {
        Some(path) if path.is_dir() => kernel_in(path)?,
        Some(path) => KernelSource::Debs(vec![path.clone()]),
        None => KernelSource::auto()?,
    };
    let out = dir(state_dir);
    let options = BuildOptions {
        kernel,
        agent,
        busybox: wanted.busybox.clone().or_else(bugler_bootenv::find_busybox),
        firmware: wanted.firmware.clone(),
        extra_modules: wanted.modules.clone(),
        out: out.clone(),
    };
    bugler_bootenv::build(&options, progress)
        .with_context(|| format!("could not build a boot environment in {}", out.display()))
}

/// The kernel of an unpacked tree: `boot/vmlinuz-*` or `vmlinuz*`, and `lib/modules/<version>`.
fn kernel_in(folder: &Path) -> Result<KernelSource> {
    let only = |dir: PathBuf, begins: &str| -> Result<Option<PathBuf>> {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            return Ok(None);
        };
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|n| n.starts_with(begins))
            })
            .collect();
        if found.len() > 1 {
            bail!("there are several kernels in {}: leave one", dir.display());
        }
        Ok(found.pop())
    };
    let vmlinuz = match only(folder.join("boot"), "vmlinuz")? {
        Some(path) => Some(path),
        None => only(folder.to_owned(), "vmlinuz")?,
    };
    let modules = only(folder.join("lib/modules"), "")?;
    match (vmlinuz, modules) {
        (Some(vmlinuz), Some(modules)) => Ok(KernelSource::Files { vmlinuz, modules }),
        _ => bail!(
            "{} has no kernel: it needs boot/vmlinuz-VERSION or vmlinuz, and lib/modules/VERSION",
            folder.display()
        ),
    }
}

/// The agent that was installed, or built, together with this program.
fn find_agent() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("could not find out where this program is")?;
    let beside = exe.with_file_name("bugler-agent");
    let installed = PathBuf::from("/usr/lib/bugler/bugler-agent");
    for path in [&beside, &installed] {
        if path.is_file() {
            return Ok(path.clone());
        }
    }
    bail!(
        "there is no agent at {} or {}: build it with `make build`, or say where it is with --agent",
        beside.display(),
        installed.display()
    )
}
