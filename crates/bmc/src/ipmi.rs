//! IPMI over LAN (IPMI 2.0, revision 1.1 with errata 7).
//!
//! * [`packet`]: bytes to types and back. [`commands`]: what is asked, and what the answers mean.
//! * [`crypto`]: cipher suites 3 and 17, the codes of IPMI 1.5.
//! * [`machine`]: one session without sockets and without a clock.
//! * [`net`]: one UDP socket for every BMC, a task a session.

pub mod commands;
pub mod crypto;
pub mod machine;
pub mod net;
pub mod packet;
