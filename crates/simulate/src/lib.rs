//! Boot clients that are not there: models of firmware, a runner, and a DHCP load generator.
//!
//! ```text
//! kind        what clients say by DHCP: BIOS, UEFI, iPXE, ...
//! machine     one client from power-on to its kernel, sans-IO
//! script      what iPXE would do with a script
//! net         plays thousands of them against a server, from one thread
//! load        DHCP exchanges alone, as many a second as a server gives
//! ```
//!
//! Clients are behind a relay agent, which this program plays: every DHCP message goes by unicast to
//! the one server that was named, with an address of this host as `giaddr`, and is answered there.
//! Nothing is broadcast, and no other server hears of it. So proxies, which answer broadcasts, are
//! not played; neither are PXELINUX, GRUB, and what a Raspberry Pi does after DHCP.

mod error;
mod kind;
mod load;
mod machine;
mod net;
mod report;
mod script;

pub use error::Error;
pub use kind::{Kind, UnknownKind, mac_of};
pub use load::{Generator, LoadReport, Pace, Target, Until};
pub use machine::Step;
pub use net::{FetchFrom, Options, run};
pub use report::{Ends, Report, Times};

/// Reads any bytes as answers of a server: for fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    load::fuzz(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = script::read(&text, "http://192.0.2.1/boot/script");
    net::fuzz(bytes);
}
