//! The promises of `Store`, kept by `SqliteStore`, as seen from outside.

mod boots;
mod common;
mod crash;
mod devices;
mod events;
mod exports;
mod images;
mod leases;
mod memory_and_disk;
mod open;
mod policy;
mod power;
mod registration;
mod task_model;
mod tasks;
mod turns;
mod twins;
