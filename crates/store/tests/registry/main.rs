//! The promises of `Store`, kept by `SqliteStore`, as seen from outside.

mod boots;
mod common;
mod crash;
mod devices;
mod events;
mod images;
mod leases;
mod open;
mod registration;
mod task_model;
mod tasks;
