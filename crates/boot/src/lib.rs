//! The boot decision.
//!
//! ```text
//! packet --> ClientFacts --> (registry: Device, BootPolicy) --> plan() --> BootPlan --> reply
//!                                                                 |
//!         boot tree: (client, path) --> Node --> render() or a file, over TFTP and HTTP alike
//! ```
//!
//! [`plan`] is the only place that decides what a device boots (invariant 1). DHCP, proxyDHCP,
//! port 4011, TFTP and HTTP all ask it. Everything in this crate is a pure function: it opens no
//! file and no socket and reads no clock.

mod facts;
mod grub_image;
pub mod pi;
mod plan;
mod script;
mod select;
mod template;
mod tree;

pub use facts::ClientFacts;
pub use grub_image::told_where_to_ask;
pub use plan::{BootAction, BootPlan, Goal, OptionText, Question, plan};
pub use script::{Entry, Linux, Root, Run, Target, agent_cmdline, render, root_cmdline};
pub use select::{MOST_TRIES, Verdict, goes_round, weigh};
pub use template::{TemplateError, Values, check, fill, fill_line};
pub use tree::{
    Asker, Dialect, Node, UBOOT_SCRIPT, is_expected_to_miss, loaders, package_of, parse_path,
};
