//! The programs under test, and the boot environment that machines get from them.
//!
//! Both are kept together in a folder of the cache whose name is made from their content, so that a
//! program that is built again while a scenario runs disturbs nothing, and the boot environment,
//! which takes most of a minute to build, is built once for each of them. Where the agent for 64-bit
//! Arm was built, there is one for that as well.

use crate::paths;
use crate::process::output_of;
use anyhow::{Context, Result, anyhow, bail, ensure};
use bugler_model::Arch;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::SystemTime;

/// How many products are kept: some other scenario may still run the one before.
const KEPT: usize = 3;
/// Names the folder of the product that [`ensure`](fn@ensure) made last.
const CURRENT: &str = "product";
/// The agent for 64-bit Arm, as `make build-arm64` names it.
const ARM_AGENT: &str = "bugler-agent.aarch64";

/// The programs, and where their boot environment is.
#[derive(Clone, Debug)]
pub struct Product {
    /// `bugler`; its agent is beside it.
    pub bugler: PathBuf,
    /// A state folder of which nothing but the boot environments is used.
    state: PathBuf,
}

impl Product {
    /// Gives the state folder `state`, which it makes, the boot environment that was built.
    ///
    /// # Errors
    ///
    /// When the folder exists or cannot be made.
    pub fn furnish(&self, state: &Path) -> Result<()> {
        fs::create_dir(state).with_context(|| format!("cannot make {}", state.display()))?;
        symlink(self.state.join("bootenv"), state.join("bootenv"))
            .with_context(|| format!("cannot make a link in {}", state.display()))
    }

    /// The folder of the boot environment for PCs: `vmlinuz`, `initrd`.
    ///
    /// # Errors
    ///
    /// When it cannot be found.
    pub fn bootenv(&self) -> Result<PathBuf> {
        self.bootenv_of(Arch::X86_64)
    }

    /// The folder of the boot environment for `arch`: `vmlinuz`, `initrd`, for 64-bit Arm `dtbs`.
    ///
    /// # Errors
    ///
    /// When it cannot be found: for 64-bit Arm, most often because the agent for it was not built.
    pub fn bootenv_of(&self, arch: Arch) -> Result<PathBuf> {
        let name = bugler_bootenv::arch_name(arch);
        let all = self.state.join("bootenv").join(name);
        let listed = fs::read_dir(&all).with_context(|| {
            format!(
                "there is no boot environment for {name}, cannot list {}; for 64-bit Arm run \
                 `make setup-arm64 build-arm64`",
                all.display()
            )
        })?;
        for entry in listed {
            let dir = entry.context("cannot list the boot environments")?.path();
            if dir.join("vmlinuz").exists() {
                return Ok(dir);
            }
        }
        bail!("there is no boot environment in {}", all.display())
    }

    fn load(dir: &Path) -> Self {
        Self {
            bugler: dir.join("bugler"),
            state: dir.join("state"),
        }
    }
}

/// The product that `make build` made last, with a boot environment, which is built now when there
/// is none for it. That may need the network; call it outside of the enclosure. `say` is told what is
/// being done.
///
/// # Errors
///
/// When the programs were not built, or the boot environment cannot be.
pub fn ensure(say: &dyn Fn(&str)) -> Result<Product> {
    let cache = paths::lab("cache")?;
    let lock = File::create(cache.join("product.lock")).context("cannot open product.lock")?;
    lock.lock().context("cannot lock the product cache")?;
    let built = paths::target().join("release");
    let kernel = kernel()?;
    let arm = Arm::find(&built, say)?;
    let mut hasher = blake3::Hasher::new();
    for program in ["bugler", "bugler-agent"] {
        let path = built.join(program);
        let bytes = fs::read(&path)
            .with_context(|| format!("cannot read {}; `make build` builds it", path.display()))?;
        hasher.update(&bytes);
    }
    hasher.update(
        kernel
            .as_ref()
            .map_or("auto".into(), |path| path.to_string_lossy())
            .as_bytes(),
    );
    if let Some(arm) = &arm {
        let bytes =
            fs::read(&arm.agent).with_context(|| format!("cannot read {}", arm.agent.display()))?;
        hasher.update(&bytes);
        hasher.update(arm.kernel.to_string_lossy().as_bytes());
    }
    let name = format!("product-{:.16}", hasher.finalize().to_hex());
    let dir = cache.join(&name);
    if !dir.exists() {
        say("building the boot environment; once for each build of Bugler, about a minute");
        forget_oldest(&cache)?;
        build(&built, kernel.as_deref(), arm.as_ref(), &cache, &dir)?;
    }
    fs::write(cache.join(CURRENT), &name).context("cannot note which product is current")?;
    Ok(Product::load(&dir))
}

/// The product that [`ensure`](fn@ensure) made last.
///
/// # Errors
///
/// When there is none.
pub fn cached() -> Result<Product> {
    let cache = paths::lab("cache")?;
    let name = fs::read_to_string(cache.join(CURRENT))
        .context("no product is prepared; the lab does that before it enters its network")?;
    let dir = cache.join(name);
    ensure!(
        dir.exists(),
        "the product {} has been removed; start again",
        dir.display()
    );
    Ok(Product::load(&dir))
}

/// Debian's packages of a kernel and of busybox for 64-bit Arm, of which the boot environment for that was
/// built.
///
/// # Errors
///
/// When they were not fetched: most often because the agent for 64-bit Arm was not built.
pub fn arm_packages() -> Result<(PathBuf, PathBuf)> {
    let debs = paths::lab("debs")?;
    let kernel = kernel_in(&debs.join("linux-image-arm64-of-arm64"))?;
    let busybox = fs::read_dir(debs.join("busybox-static-of-arm64"))
        .ok()
        .and_then(|mut files| files.next()?.ok());
    kernel
        .zip(busybox.map(|file| file.path()))
        .with_context(|| {
            format!(
                "there are no packages for 64-bit Arm in {}: run `make setup-arm64 build-arm64`",
                debs.display()
            )
        })
}

/// A kernel package that a test of the boot environment has fetched; without one, the server's own
/// choice is taken.
fn kernel() -> Result<Option<PathBuf>> {
    kernel_in(&paths::target().join("lab/debs/linux-image-amd64"))
}

/// The kernel package in a folder, if there is one.
fn kernel_in(debs: &Path) -> Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir(debs) else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.context("cannot list the kernel packages")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // linux-image-6.1.0-…: not the empty package that depends on the newest one.
        let versioned = name
            .strip_prefix("linux-image-")
            .is_some_and(|rest| rest.starts_with(char::is_numeric));
        if versioned && name.ends_with(".deb") {
            found.push(path);
        }
    }
    Ok(found.into_iter().max())
}

/// What the boot environment for 64-bit Arm is made from.
#[derive(Debug)]
struct Arm {
    agent: PathBuf,
    /// The package of Debian's kernel.
    kernel: PathBuf,
    /// The package with busybox.
    busybox: PathBuf,
}

impl Arm {
    /// Finds it; fetches Debian's packages when they are not there. `None` where the agent was not
    /// built, or apt knows no packages of that architecture.
    fn find(built: &Path, say: &dyn Fn(&str)) -> Result<Option<Self>> {
        let agent = built.join(ARM_AGENT);
        if !agent.exists() {
            return Ok(None);
        }
        let fetched = ["linux-image-arm64", "busybox-static"].map(|package| {
            let kept = paths::lab("debs")?.join(format!("{package}-of-arm64"));
            if !kept.exists() {
                say(&format!("fetching {package} for 64-bit Arm"));
                let new = tempfile::tempdir_in(paths::lab("debs")?)
                    .context("cannot make a folder for packages")?;
                bugler_bootenv::download(&format!("{package}:arm64"), new.path(), &mut |_| {})?;
                let new = new.keep();
                fs::rename(&new, &kept)
                    .with_context(|| format!("cannot name {}", kept.display()))?;
            }
            anyhow::Ok(kept)
        });
        let (kernels, busybox) = match fetched {
            [Ok(kernels), Ok(busybox)] => (kernels, busybox),
            [Err(error), _] | [_, Err(error)] => {
                say(&format!("64-bit Arm is left out: {error:#}"));
                return Ok(None);
            }
        };
        let kernel = kernel_in(&kernels)?
            .with_context(|| format!("there is no kernel in {}", kernels.display()))?;
        let busybox = fs::read_dir(&busybox)
            .with_context(|| format!("cannot list {}", busybox.display()))?
            .flatten()
            .next()
            .with_context(|| format!("there is nothing in {}", busybox.display()))?
            .path();
        Ok(Some(Self {
            agent,
            kernel,
            busybox,
        }))
    }

    /// `bugler bootenv build` for it.
    fn build(&self, bugler: &Path, state: &Path) -> Result<()> {
        let mut command = Command::new(bugler);
        command
            .args(["bootenv", "build", "--arch", "aarch64", "--state-dir"])
            .arg(state)
            .arg("--kernel")
            .arg(&self.kernel)
            .arg("--busybox")
            .arg(&self.busybox);
        output_of(&mut command).context("cannot build the boot environment for 64-bit Arm")?;
        Ok(())
    }
}

fn build(
    built: &Path,
    kernel: Option<&Path>,
    arm: Option<&Arm>,
    cache: &Path,
    dir: &Path,
) -> Result<()> {
    let work = tempfile::tempdir_in(cache).context("cannot make a folder in the cache")?;
    for program in ["bugler", "bugler-agent"] {
        fs::copy(built.join(program), work.path().join(program))
            .with_context(|| format!("cannot copy {program} into the cache"))?;
    }
    let bugler = work.path().join("bugler");
    let (state, arm_state) = (work.path().join("state"), work.path().join("arm64"));
    let mut command = Command::new(&bugler);
    command
        .args(["bootenv", "build", "--state-dir"])
        .arg(&state);
    if let Some(kernel) = kernel {
        command.arg("--kernel").arg(kernel);
    }
    thread::scope(|scope| {
        // In a folder of its own: builds in one folder wait for each other.
        let arm = arm.map(|arm| {
            fs::copy(&arm.agent, work.path().join(ARM_AGENT))
                .with_context(|| format!("cannot copy {ARM_AGENT} into the cache"))?;
            anyhow::Ok(scope.spawn(|| arm.build(&bugler, &arm_state)))
        });
        output_of(&mut command).context("cannot build the boot environment")?;
        if let Some(arm) = arm {
            arm?.join().map_err(|_| anyhow!("a thread panicked"))??;
            fs::rename(
                arm_state.join("bootenv/aarch64"),
                state.join("bootenv/aarch64"),
            )
            .context("cannot put the boot environments together")?;
        }
        anyhow::Ok(())
    })?;
    let made = work.keep();
    fs::rename(&made, dir).with_context(|| format!("cannot name {}", dir.display()))
}

/// Removes all but the latest products.
fn forget_oldest(cache: &Path) -> Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cache).context("cannot list the cache")? {
        let path = entry.context("cannot list the cache")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("product-") {
            let changed = path.metadata().and_then(|meta| meta.modified());
            found.push((changed.unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
    }
    found.sort();
    let surplus = (found.len() + 1).saturating_sub(KEPT);
    for (_, path) in found.into_iter().take(surplus) {
        if let Err(error) = fs::remove_dir_all(&path) {
            bail!(
                "cannot remove {}, which is no longer needed: {error}",
                path.display()
            );
        }
    }
    Ok(())
}
