//! The IPMI client and the lab's BMC against each other, and the BMC against ipmitool.

mod client;
mod ipmitool;
mod pair;
mod properties;
mod record;
