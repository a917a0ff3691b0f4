//! DHCP leases.

use crate::{MacAddr, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use utoipa::ToSchema;

/// What became of a lease (RFC 2131).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// Acknowledged, and valid until it expires.
    Bound,
    /// Given back by its client (DHCPRELEASE); kept so that the same client gets it again.
    Released,
    /// Found in use by somebody else (DHCPDECLINE, or an answer to our probe); not given out
    /// until it expires.
    Declined,
}

/// One address and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// The address: the key, at most one lease each.
    #[schema(value_type = String)]
    pub address: Ipv4Addr,
    /// Who has it, by hardware address. All zero for an address that a probe found in use.
    pub mac: MacAddr,
    /// Option 61 (RFC 2132 section 9.14) as sent, where the client sent one.
    pub client_id: Option<Vec<u8>>,
    /// Option 12, as text that is safe to show.
    pub hostname: Option<String>,
    /// What became of it.
    pub state: LeaseState,
    /// When it ends.
    pub expires: Timestamp,
}
