//! The kernel's neighbour table: which Ethernet address stands behind an address on a segment.

use bugler_model::MacAddr;
use std::net::Ipv4Addr;

/// The Ethernet address that the kernel knows for an address on a directly connected segment.
///
/// `None` where it knows none: the peer is behind a router, or on loopback.
pub(crate) fn lookup(address: Ipv4Addr) -> Option<MacAddr> {
    find(&std::fs::read_to_string("/proc/net/arp").ok()?, address)
}

/// Finds an address in the text of `/proc/net/arp` (proc_net(5)).
fn find(table: &str, address: Ipv4Addr) -> Option<MacAddr> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let ip: Ipv4Addr = fields.next()?.parse().ok()?;
        let (_type, flags, mac) = (fields.next()?, fields.next()?, fields.next()?);
        // Bit 1, ATF_COM: the entry is complete.
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()?;
        if ip != address || flags & 2 == 0 {
            return None;
        }
        mac.parse().ok().filter(MacAddr::is_unicast)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_entry_is_found_and_an_incomplete_one_is_not() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.0.0.7         0x1         0x2         52:54:00:00:00:01     *        br0\n\
                     10.0.0.8         0x1         0x0         00:00:00:00:00:00     *        br0\n\
                     garbage\n";
        assert_eq!(
            find(table, [10, 0, 0, 7].into()),
            Some("52:54:00:00:00:01".parse().unwrap())
        );
        assert_eq!(find(table, [10, 0, 0, 8].into()), None);
        assert_eq!(find(table, [10, 0, 0, 9].into()), None);
        assert_eq!(find("", [10, 0, 0, 9].into()), None);
    }
}
