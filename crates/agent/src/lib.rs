//! The program that is /init in the boot environment.
//!
//! The library holds everything that can be tested without being PID 1: the deploy engine
//! ([`deploy`]), the client of the device plane ([`api`]), the inventory.

pub mod api;
pub mod backoff;
pub mod blkdev;
pub mod cmdline;
pub mod deploy;
pub mod log;
pub mod stop;
pub mod sysfs;
