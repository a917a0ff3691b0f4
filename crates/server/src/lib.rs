//! Configuration, wiring and supervision of the server.
//!
//! [`run::serve`] is `bugler serve`: it opens the state directory, starts every service, and stops
//! them in order.

mod adapters;
#[cfg(test)]
mod adaptive;
#[cfg(test)]
mod bad_input;
mod boot;
pub mod bootenv;
mod clients;
mod clock;
pub mod config;
mod diskless;
mod eeprom;
mod explain;
mod limits;
pub mod loaders;
mod nat;
mod neighbours;
mod network;
mod pi_files;
pub mod run;
mod scripts;
mod subnets;
#[cfg(test)]
mod testing;
mod timeline;
