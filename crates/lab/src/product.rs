//! The programs under test, and the boot environment that machines get from them.
//!
//! Both are kept together in a folder of the cache whose name is made from their content, so that a
//! program that is built again while a scenario runs disturbs nothing, and the boot environment,
//! which takes most of a minute to build, is built once for each of them.

use crate::paths;
use crate::process::output_of;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// How many products are kept: some other scenario may still run the one before.
const KEPT: usize = 3;
/// Names the folder of the product that [`ensure`](fn@ensure) made last.
const CURRENT: &str = "product";

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

    /// The folder of the boot environment: `vmlinuz`, `initrd`.
    ///
    /// # Errors
    ///
    /// When it cannot be found.
    pub fn bootenv(&self) -> Result<PathBuf> {
        let all = self.state.join("bootenv/x86_64");
        for entry in fs::read_dir(&all).with_context(|| format!("cannot list {}", all.display()))? {
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
    let name = format!("product-{:.16}", hasher.finalize().to_hex());
    let dir = cache.join(&name);
    if !dir.exists() {
        say("building the boot environment; once for each build of Bugler, about a minute");
        forget_oldest(&cache)?;
        build(&built, kernel.as_deref(), &cache, &dir)?;
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

/// A kernel package that a test of the boot environment has fetched; without one, the server's own
/// choice is taken.
fn kernel() -> Result<Option<PathBuf>> {
    let debs = paths::target().join("lab/debs/linux-image-amd64");
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

fn build(built: &Path, kernel: Option<&Path>, cache: &Path, dir: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(cache).context("cannot make a folder in the cache")?;
    for program in ["bugler", "bugler-agent"] {
        fs::copy(built.join(program), work.path().join(program))
            .with_context(|| format!("cannot copy {program} into the cache"))?;
    }
    let mut command = Command::new(work.path().join("bugler"));
    command
        .args(["bootenv", "build", "--state-dir"])
        .arg(work.path().join("state"));
    if let Some(kernel) = kernel {
        command.arg("--kernel").arg(kernel);
    }
    output_of(&mut command).context("cannot build the boot environment")?;
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
