//! Benchmarks, each beside its peers in the same run.

pub mod tftp;
