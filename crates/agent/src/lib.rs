//! The program that is /init in the boot environment.
//!
//! The library holds everything; `main.rs` only chooses between the roles.
//!
//! | Module | What |
//! |---|---|
//! | [`boot`] | PID 1, drivers, network: from the kernel's start to a reachable server |
//! | [`work`] | registers, asks for tasks, does them |
//! | [`deploy`] | writes an image onto a disk |
//! | [`api`] | the client of the device plane |
//! | [`sysfs`] | what the machine is made of |

pub mod api;
pub mod args;
pub mod backoff;
pub mod blkdev;
pub mod boot;
pub mod cmdline;
pub mod deploy;
pub mod log;
pub mod power;
pub mod stop;
pub mod sysfs;
pub mod work;
