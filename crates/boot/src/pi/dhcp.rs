//! What a Raspberry Pi's boot loader is answered over DHCP.

use std::net::Ipv4Addr;
use std::time::Duration;

/// The text that the boot loader looks for in a PXE boot menu. The ROM of the 3B takes the length
/// wrongly and wants the three spaces; the others look for the part without them.
const TEXT: &[u8; 20] = b"Raspberry Pi Boot   ";

/// How long a reply to a 3B is held back: its ROM can miss one that comes at once (raspberrypi/firmware
/// issue 862), and asks only five times, five seconds apart.
pub const REPLY_DELAY: Duration = Duration::from_secs(1);

/// The value of option 43: PXE sub-options 6 (discovery control 3: no broadcast, no multicast), 10
/// (prompt, timeout 0), 9 (one menu entry of type 0, which means "boot now"). In the order in which
/// dnsmasq has sent them to these boards for years.
pub const MENU: [u8; 35] = menu();

/// Makes [`MENU`].
#[must_use]
pub const fn menu() -> [u8; 35] {
    let mut bytes = [
        6, 1, 3, 10, 4, 0, b'P', b'X', b'E', 9, 23, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 255,
    ];
    let mut at = 0;
    while at < TEXT.len() {
        bytes[14 + at] = TEXT[at];
        at += 1;
    }
    bytes
}

/// The options of a reply beside the address, as number and value. `server` is who has the files: it
/// has to be in option 54 and in `siaddr` as well, for each boot loader reads another of the three.
///
/// | Option | Value | Why |
/// |---|---|---|
/// | 43 | [`MENU`] | without it the boot loader takes no server but that of option 66 |
/// | 60 | `PXEClient` | RFC 4578 |
/// | 66 | the server, as text | what the EEPROM boot loaders look at first |
/// | 97 | what the client sent | RFC 4578 section 2.3 |
///
/// Option 67 is left out: no boot loader of a Raspberry Pi reads it.
#[must_use]
pub fn reply_options(server: Ipv4Addr, client_uuid: Option<&[u8]>) -> Vec<(u8, Vec<u8>)> {
    let mut options = vec![
        (43, MENU.to_vec()),
        (60, b"PXEClient".to_vec()),
        (66, server.to_string().into_bytes()),
    ];
    options.extend(client_uuid.map(|id| (97, id.to_vec())));
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What dnsmasq sends for `pxe-service=0,"Raspberry Pi Boot"`, in the documentation's own trace.
    const DNSMASQ: [u8; 32] = [
        6, 1, 3, 10, 4, 0, 80, 88, 69, 9, 20, 0, 0, 17, 82, 97, 115, 112, 98, 101, 114, 114, 121,
        32, 80, 105, 32, 66, 111, 111, 116, 255,
    ];

    #[test]
    fn the_menu_is_dnsmasqs_with_three_spaces() {
        let mut spaced = DNSMASQ.to_vec();
        spaced[10] += 3;
        spaced[13] += 3;
        spaced.splice(31..31, *b"   ");
        assert_eq!(MENU.to_vec(), spaced);
        assert_eq!(MENU[9..14], [0x09, 0x17, 0, 0, 0x14]);
    }

    #[test]
    fn the_server_is_text_and_the_identifier_comes_back() {
        let id = [0, 1, 2];
        let options = reply_options(Ipv4Addr::new(10, 20, 50, 1), Some(&id));
        let codes: Vec<u8> = options.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, [43, 60, 66, 97]);
        assert_eq!(options[2].1, b"10.20.50.1");
        assert_eq!(options[3].1, id);
    }
}
