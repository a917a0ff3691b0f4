//! A root over NBD: the handshake in this program, everything after it in the kernel.
//!
//! ```text
//!  agent ── connects, negotiates ──> server
//!    │ gives the socket to the kernel by netlink: /dev/nbdN
//!    └─ starts the keeper, which gives it another socket whenever that one has died
//! ```

pub(crate) mod genl;
pub(crate) mod kernel;
pub(crate) mod net;
pub(crate) mod packet;
