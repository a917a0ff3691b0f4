//! The boot environments of a state directory.

use crate::config;
use anyhow::{Context, Result, bail};
use bugler_bootenv::{BootEnv, BuildOptions, KernelSource};
use bugler_model::Arch;
use std::path::{Path, PathBuf};

pub use bugler_bootenv::arch_name;

/// The architectures that boot environments are built for.
pub const ARCHS: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

/// The architecture of this program, and of the agent that is called just `bugler-agent`.
pub const OWN: Arch = if cfg!(target_arch = "aarch64") {
    Arch::Aarch64
} else {
    Arch::X86_64
};

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

/// The one that machines of this architecture get.
///
/// # Errors
/// Where the folder cannot be read.
pub fn latest(state_dir: &Path, arch: Arch) -> Result<Option<BootEnv>> {
    Ok(bugler_bootenv::latest(&dir(state_dir), arch)?)
}

/// Whether a boot environment holds the agent that would go into a new one. Where none is found, it
/// counts as current: there is nothing to build a newer one from.
#[must_use]
pub fn has_current_agent(env: &BootEnv, wanted: &config::Bootenv) -> bool {
    let agent = wanted.agent.clone().or_else(|| find_agent(env.arch).ok());
    let content = agent.and_then(|path| std::fs::read(path).ok());
    content.is_none_or(|bytes| blake3::hash(&bytes).to_hex().as_str() == env.sources.agent_hash)
}

/// Builds one for `arch`; `progress` is told what is being done, a line at a time. Without a rescue
/// shell where there is no busybox for that architecture.
///
/// # Errors
/// Where the agent or a kernel cannot be found, or the result cannot be written.
pub fn build(
    state_dir: &Path,
    arch: Arch,
    wanted: &config::Bootenv,
    progress: &mut dyn FnMut(&str),
) -> Result<BootEnv> {
    let agent = match &wanted.agent {
        Some(path) => path.clone(),
        None => find_agent(arch)?,
    };
    let kernel = match &wanted.kernel {
        Some(path) if path.is_dir() => kernel_in(path)?,
        Some(path) => KernelSource::Debs(vec![path.clone()]),
        None => KernelSource::auto(arch)?,
    };
    let out = dir(state_dir);
    let fetched = tempfile::tempdir().context("could not make a folder for packages")?;
    let busybox = wanted
        .busybox
        .clone()
        .or_else(|| bugler_bootenv::find_busybox(arch))
        .or_else(|| fetch_busybox(arch, fetched.path(), progress));
    let options = BuildOptions {
        kernel,
        agent,
        busybox,
        firmware: wanted.firmware.clone(),
        extra_modules: wanted.modules.clone(),
        out: out.clone(),
    };
    let built = bugler_bootenv::build(&options, progress)
        .with_context(|| format!("could not build a boot environment in {}", out.display()))?;
    if built.arch != arch {
        bail!(
            "the kernel and the agent are for {}, not for {}: the boot environment {} was built \
             for machines of that kind. Name the architecture with --arch, or another kernel",
            bugler_bootenv::arch_name(built.arch),
            bugler_bootenv::arch_name(arch),
            built.version
        );
    }
    Ok(built)
}

/// Debian's busybox for another processor than this machine's. The rescue shell is worth no failure:
/// where it cannot be fetched, the boot environment has none.
fn fetch_busybox(arch: Arch, dir: &Path, progress: &mut dyn FnMut(&str)) -> Option<PathBuf> {
    if arch == OWN {
        return None;
    }
    match bugler_bootenv::fetch_busybox(arch, dir, progress) {
        Ok(package) => Some(package),
        Err(error) => {
            progress(&format!("there will be no rescue shell: {error}"));
            None
        }
    }
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

/// Whether an agent for this architecture came with this program.
#[must_use]
pub fn has_agent(arch: Arch) -> bool {
    find_agent(arch).is_ok()
}

/// The agent that was installed, or built, together with this program: `bugler-agent`, for another
/// processor `bugler-agent.aarch64`.
pub(crate) fn find_agent(arch: Arch) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("could not find out where this program is")?;
    let name = if arch == OWN {
        "bugler-agent".to_owned()
    } else {
        format!("bugler-agent.{}", bugler_bootenv::arch_name(arch))
    };
    let beside = exe.with_file_name(&name);
    let installed = Path::new("/usr/lib/bugler").join(&name);
    for path in [&beside, &installed] {
        if path.is_file() {
            return Ok(path.clone());
        }
    }
    bail!(
        "there is no agent for {} at {} or {}: build it with `make build`, or say where it is with \
         --agent",
        bugler_bootenv::arch_name(arch),
        beside.display(),
        installed.display()
    )
}
