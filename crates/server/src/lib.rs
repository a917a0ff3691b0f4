//! Configuration, wiring and supervision of the server.
//!
//! [`run::serve`] is `bugler serve`: it opens the state directory, starts every service, and stops
//! them in order.

mod adapters;
mod boot;
pub mod bootenv;
mod clients;
mod clock;
pub mod config;
mod neighbours;
mod network;
pub mod run;
mod timeline;
