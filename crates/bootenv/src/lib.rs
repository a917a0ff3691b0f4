//! Builds the boot environment: a kernel and an initramfs with the agent inside.
//!
//! | Module | What it does |
//! |---|---|
//! | `build` | the whole way, from [`BuildOptions`] to a [`BootEnv`] |
//! | `kernel` | gets a kernel and its modules from a [`KernelSource`]; `apt`, `deb` and `decompress` help |
//! | `select` | which modules go in |
//! | `device_tree` | which device trees stand beside the kernel |
//! | `shell` | finds or fetches busybox for the rescue shell |
//! | `initramfs` | what else goes in; `cpio` writes it, `elf` looks into programs and modules |
//! | `hooks` | the same for the initramfs of a distribution: [`hook_archive`] |
//! | `manifest` | boot environments on disk: publish, [`list`], [`latest`] |
//!
//! Everything here blocks: a server calls it on a thread for blocking work.

mod apt;
mod build;
mod command;
mod cpio;
mod deb;
mod decompress;
mod device_tree;
mod elf;
mod error;
mod hooks;
mod initramfs;
mod kernel;
mod manifest;
mod select;
mod shell;

pub use apt::download;
pub use build::{BuildOptions, build};
pub use deb::unpack as unpack_package;
pub use error::{Error, Result};
pub use hooks::{append, hook_archive};
pub use kernel::{KernelSource, arch_of as arch_of_kernel};
pub use manifest::{BootEnv, Sizes, Sources, arch_name, latest, list};
pub use shell::{fetch_busybox, find_busybox};
