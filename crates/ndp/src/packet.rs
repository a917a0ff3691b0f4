//! Router solicitation and advertisement (RFC 4861 sections 4.1 and 4.2), as ICMPv6 messages
//! without the IPv6 header.

use bugler_model::MacAddr;
use std::net::Ipv6Addr;

/// ICMPv6 type of a router solicitation.
const SOLICITATION: u8 = 133;

/// Option 1, source link-layer address (RFC 4861 section 4.6.1).
const SOURCE_LINK_LAYER: u8 = 1;

/// A router advertisement of a host that is no router: type 134, code 0, no hop limit, neither M
/// nor O, router lifetime 0, and no options. The kernel fills in the checksum.
pub const NOT_A_ROUTER: [u8; 16] = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Somebody looks for a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Who: by the link-layer option, else by the interface identifier that is made from it.
    pub mac: MacAddr,
}

impl Solicitation {
    /// Reads a message that came from `source`; `None` for any other message, one that RFC 4861
    /// section 6.1.1 says to discard, and one that does not tell who asks.
    #[must_use]
    pub fn decode(message: &[u8], source: Ipv6Addr) -> Option<Self> {
        // Type, code, checksum (checked by the kernel), four reserved bytes, options.
        let [SOLICITATION, 0, _, _, _, _, _, _, options @ ..] = message else {
            return None;
        };
        if !source.is_unicast_link_local() {
            return None;
        }
        let mac = match link_layer_option(options)? {
            Some(mac) => mac,
            None => interface_identifier(source)?,
        };
        mac.is_unicast().then_some(Self { mac })
    }
}

/// The address in the source link-layer option. `None` for options that are malformed, `Some(None)`
/// where there is no such option.
fn link_layer_option(mut options: &[u8]) -> Option<Option<MacAddr>> {
    let mut found = None;
    while let [kind, length, ..] = *options {
        // In units of eight bytes; 0 is malformed and would go on for ever.
        let size = usize::from(length) * 8;
        let option = options.get(..size).filter(|_| size > 0)?;
        if kind == SOURCE_LINK_LAYER
            && let [_, _, mac @ ..] = option
            && let Ok(mac) = mac.try_into()
        {
            found = Some(MacAddr(mac));
        }
        options = options.get(size..)?;
    }
    options.is_empty().then_some(found)
}

/// The Ethernet address from which a modified EUI-64 identifier was made (RFC 4291 appendix A).
fn interface_identifier(address: Ipv6Addr) -> Option<MacAddr> {
    match address.octets() {
        [_, _, _, _, _, _, _, _, a, b, c, 0xff, 0xfe, d, e, f] => {
            Some(MacAddr([a ^ 2, b, c, d, e, f]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

    fn link_local() -> Ipv6Addr {
        "fe80::5054:ff:fe00:1".parse().unwrap()
    }

    #[test]
    fn ipxe_is_known_by_its_option_and_by_its_address() {
        // As sent by the iPXE ROM of QEMU's virtio network card.
        let sent = [133, 0, 0x7d, 0x9a, 0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0, 0, 1];
        assert_eq!(
            Solicitation::decode(&sent, link_local()),
            Some(Solicitation { mac: MAC })
        );
        assert_eq!(
            Solicitation::decode(&sent[..8], link_local()),
            Some(Solicitation { mac: MAC })
        );
    }

    #[test]
    fn what_is_no_solicitation_of_a_neighbour_is_left_alone() {
        let sent = [133, 0, 0, 0, 0, 0, 0, 0];
        for (message, source) in [
            (&sent[..7], "fe80::5054:ff:fe00:1"),
            (&sent[..], "2001:db8::5054:ff:fe00:1"),
            (&sent[..], "::"),
            (&sent[..], "fe80::1"),
            (&[134, 0, 0, 0, 0, 0, 0, 0], "fe80::5054:ff:fe00:1"),
            // An option of length 0, one that is cut short, and half a header.
            (&[133, 0, 0, 0, 0, 0, 0, 0, 1, 0], "fe80::5054:ff:fe00:1"),
            (
                &[133, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0],
                "fe80::5054:ff:fe00:1",
            ),
            (&[133, 0, 0, 0, 0, 0, 0, 0, 1], "fe80::5054:ff:fe00:1"),
        ] {
            assert_eq!(
                Solicitation::decode(message, source.parse().unwrap()),
                None,
                "{message:?}"
            );
        }
    }

    #[test]
    fn the_advertisement_offers_nothing() {
        let [kind, code, _, _, _hops, flags, life_high, life_low, ..] = NOT_A_ROUTER;
        assert_eq!((kind, code, flags, life_high, life_low), (134, 0, 0, 0, 0));
    }

    proptest! {
        #[test]
        fn any_message_is_read_or_left_alone(message: Vec<u8>, source: [u8; 16], rs: bool) {
            let mut message = message;
            if rs {
                message.splice(0..0, [133, 0, 0, 0, 0, 0, 0, 0]);
            }
            let mut source = source;
            source[0] = 0xfe;
            source[1] = 0x80;
            if let Some(Solicitation { mac }) = Solicitation::decode(&message, source.into()) {
                prop_assert!(mac.is_unicast());
            }
        }
    }
}
