//! What server, agent and command line say to each other over HTTP, versioned, its bytes frozen
//! by tests.

pub mod agent;
pub mod manifest;
pub mod operator;
pub mod signature;
