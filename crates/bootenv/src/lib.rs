//! Builds the boot environment: a kernel and an initramfs with the agent inside.
//!
//! | Module | What it does |
//! |---|---|
//! | `build` | the whole way, from [`BuildOptions`] to a [`BootEnv`] |
//! | `kernel` | gets a kernel and its modules from a [`KernelSource`]; `apt`, `deb` and `decompress` help |
//! | `select` | which modules go in |
//! | `initramfs` | what else goes in; `cpio` writes it, `elf` looks into programs and modules |
//! | `manifest` | boot environments on disk: publish, [`list`], [`latest`] |
//!
//! Everything here blocks: a server calls it on a thread for blocking work.

mod apt;
mod build;
mod command;
mod cpio;
mod deb;
mod decompress;
mod elf;
mod error;
mod initramfs;
mod kernel;
mod manifest;
mod select;

pub use apt::download;
pub use build::{BuildOptions, build, find_busybox};
pub use deb::unpack as unpack_package;
pub use error::{Error, Result};
pub use kernel::KernelSource;
pub use manifest::{BootEnv, Sizes, Sources, latest, list};
