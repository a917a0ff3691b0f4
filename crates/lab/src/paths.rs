//! Where the lab keeps its files: under `target/lab/`, never in the source tree.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The workspace's root folder.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Cargo's target folder: `CARGO_TARGET_DIR` when it is set, else `target/` of the workspace.
#[must_use]
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// The folder `name` of the lab, made when it is not there: `cache`, `runs`, `slots`.
///
/// # Errors
///
/// When it cannot be made.
pub fn lab(name: &str) -> Result<PathBuf> {
    let dir = target().join("lab").join(name);
    fs::create_dir_all(&dir)
        .with_context(|| format!("cannot make the lab's folder {}", dir.display()))?;
    Ok(dir)
}
