//! What the tests of this crate share.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod base;
pub mod client;
pub mod server;
