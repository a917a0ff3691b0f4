//! Which kernel modules a machine needs, and in which order to load them.
//!
//! The kernel describes every piece of hardware that it finds by a *modalias*, a line such as
//! `virtio:d00000001v00001AF4`. The text files that `depmod` leaves in `/lib/modules/<version>/`
//! say which modules claim which modaliases and which modules need which others. This crate reads
//! those files and answers two questions: which modules does this modalias want
//! ([`Modules::resolve_alias`]), and which files must be loaded, in which order, to get them
//! ([`Modules::order`]). It loads nothing itself.
//!
//! | File | What is read of it | modules.*(5) |
//! |---|---|---|
//! | `modules.dep` | a module's file and the modules that it needs | required |
//! | `modules.alias` | patterns of modaliases, and the module that claims each | optional |
//! | `modules.softdep` | modules to load first when they exist (`pre:`) | optional |
//! | `modules.builtin` | modules that are part of the kernel image | optional |
//!
//! A line that makes no sense is skipped, as `modprobe` does: a broken line must not keep a
//! machine from finding its disk. Files are read up to [`MAX_FILE`] bytes.
//!
//! A module name is compared with `-` and `_` taken as the same character, as the kernel does,
//! and is given out with `_`.

mod glob;
mod modules;
mod name;

pub use glob::matches;
pub use modules::{LoadError, MAX_FILE, Modules, Texts};
pub use name::{module_name, normalize};
