//! The program that is /init in the boot environment.
//!
//! The library holds everything; `main.rs` only chooses between the roles.
//!
//! | Module | What |
//! |---|---|
//! | [`boot`] | PID 1, drivers, network: from the kernel's start to a reachable server |
//! | [`work`] | registers, asks for tasks, does them |
//! | [`deploy`] | writes an image onto a disk |
//! | [`capture`] | takes an image from a disk |
//! | [`personalize`] | grows the last filesystem, and gives a machine its own identity |
//! | [`wipe`] | makes a disk forget everything |
//! | [`diskless`] | a root filesystem over the network, and the way into its system |
//! | [`disk`] | disks past the page cache |
//! | [`api`] | the client of the device plane |
//! | [`signature`] | whether the server has signed a manifest |
//! | [`sysfs`] | what the machine is made of |
//! | [`eeprom`] | the boot EEPROM of a Raspberry Pi |

pub mod api;
pub mod args;
pub mod backoff;
pub mod blkdev;
pub mod boot;
pub mod capture;
pub mod cmdline;
pub mod deploy;
pub mod disk;
pub mod diskless;
pub mod eeprom;
pub mod log;
mod modules;
mod mounted;
pub mod pace;
mod partition;
pub mod personalize;
pub mod power;
mod progress;
pub mod signature;
pub mod stop;
mod supervise;
pub mod sysfs;
pub mod wipe;
pub mod work;
