//! Who a client is.
//!
//! RFC 2131 section 4.2 makes the client identifier the key. One machine that boots sends a
//! different one in every stage: none, its UUID, its MAC address, and then whatever the operating
//! system makes up; and all machines cloned from one image may send the same one, because it comes
//! from a file in that image (`/etc/machine-id`). Both break the rule's purpose: one machine, one
//! address. So the hardware address always counts here, and a client identifier only tells apart
//! several clients behind one hardware address.

use crate::options::{Options, code};
use bugler_model::MacAddr;
use uuid::Uuid;

/// Longest client identifier that tells clients apart; longer ones count as none. DUIDs have at
/// most 130 bytes (RFC 8415 section 11.1).
const LONGEST_ID: usize = 160;

/// A client, as leases and offers know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    pub(crate) mac: MacAddr,
    /// Option 61, where it says more than the hardware does.
    pub(crate) id: Option<Box<[u8]>>,
}

impl Client {
    pub(crate) fn of(mac: MacAddr, options: &Options) -> Self {
        Self {
            mac,
            id: telling(mac, options.get(code::CLIENT_ID)).map(Into::into),
        }
    }

    /// Whether a lease of this MAC address with that option 61 is surely another client's: both
    /// say an identifier of their own, and not the same.
    pub(crate) fn differs_from(&self, held_id: Option<&[u8]>) -> bool {
        match (&self.id, telling(self.mac, held_id)) {
            (Some(mine), Some(held)) => **mine != *held,
            _ => false,
        }
    }
}

/// An identifier that says more than the hardware: neither the MAC address (RFC 2132 section 9.14)
/// nor the machine's UUID, as PXE firmware sends it.
fn telling(mac: MacAddr, id: Option<&[u8]>) -> Option<&[u8]> {
    let id = id.filter(|id| id.len() >= 2 && id.len() <= LONGEST_ID)?;
    let is_hardware = match id {
        [0, uuid @ ..] if uuid.len() == 16 => true,
        [_, address @ ..] => *address == mac.0,
        [] => true,
    };
    (!is_hardware).then_some(id)
}

/// The machine's UUID: option 97 (RFC 4578 section 2.3), else option 61 of type 0, or a DUID-UUID
/// in option 61 of type 255 (RFC 4361 section 6.1, RFC 6355).
///
/// Firmware sends the bytes of SMBIOS as they are, with the first three fields little-endian; a
/// DUID is in the order of the text.
pub(crate) fn uuid(options: &Options) -> Option<Uuid> {
    let smbios = |bytes: &[u8]| Some(Uuid::from_bytes_le(bytes.try_into().ok()?));
    let uuid = match (options.get(code::CLIENT_UUID), options.get(code::CLIENT_ID)) {
        (Some([0, bytes @ ..]), _) if bytes.len() == 16 => smbios(bytes)?,
        (_, Some([0, bytes @ ..])) if bytes.len() == 16 => smbios(bytes)?,
        (_, Some([255, _, _, _, _, 0, 4, bytes @ ..])) => Uuid::from_bytes(bytes.try_into().ok()?),
        _ => return None,
    };
    (!uuid.is_nil() && !uuid.is_max()).then_some(uuid)
}

/// A place to start the search for a free address: the same for the same hardware, so that a
/// client whose lease was forgotten is likely to get its old address again (FNV-1a).
pub(crate) fn preference(mac: MacAddr) -> u32 {
    mac.0.iter().fold(0x811c_9dc5, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    fn client(id: Option<&[u8]>) -> Client {
        let mut options = Options::default();
        if let Some(id) = id {
            options.push(code::CLIENT_ID, id);
        }
        Client::of(MAC, &options)
    }

    fn hardware() -> Vec<u8> {
        [&[1][..], &MAC.0].concat()
    }

    #[test]
    fn the_stages_of_one_boot_are_one_client() {
        let uuid = [&[0][..], &[7; 16]].concat();
        let duid = [255, 1, 2, 3, 4, 0, 2, 9, 9];
        for id in [
            None,
            Some(&uuid[..]),
            Some(&hardware()),
            Some(&[1]),
            Some(&[9; 200]),
        ] {
            assert_eq!(client(id).id, None, "{id:?}");
            assert!(!client(id).differs_from(Some(&duid)));
            assert!(!client(Some(&duid)).differs_from(id));
        }
    }

    #[test]
    fn two_systems_behind_one_address_are_two_clients() {
        assert!(client(Some(b"\x00first")).differs_from(Some(b"\x00other")));
        assert!(!client(Some(b"\x00first")).differs_from(Some(b"\x00first")));
    }

    #[test]
    fn the_uuid_is_found_wherever_it_stands() {
        let find = |code, value: &[u8]| {
            let mut options = Options::default();
            options.push(code, value);
            uuid(&options)
        };
        let text = "01020304-0506-0708-090a-0b0c0d0e0f10";
        let expected = Some(text.parse().unwrap());
        let smbios = [4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16];
        let duid = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        assert_eq!(find(97, &[&[0][..], &smbios].concat()), expected);
        assert_eq!(find(61, &[&[0][..], &smbios].concat()), expected);
        assert_eq!(
            find(61, &[&[255, 1, 2, 3, 4, 0, 4][..], &duid].concat()),
            expected
        );
        assert_eq!(find(97, &[0; 17]), None);
        assert_eq!(find(97, &[0, 1]), None);
        assert_eq!(find(61, &hardware()), None);
    }
}
