//! Virtual machines, networks and peers: the end-to-end tests, the demo and the benchmarks
