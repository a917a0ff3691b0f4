//! GRUB's own first configurations, inside its image.
//!
//! GRUB for the network looks for its configuration where it came from, and is often wrong about that.
//! GRUB 2.06 takes the server from the answer that gave the machine its address, and so asks the DHCP
//! server that a proxy stands beside; loaded over HTTP it does not take a port. An image that need not
//! be signed can be told, by two plain texts within it.
//!
//! The first is run before GRUB's shell starts and starts it. The shell first reads its lists of modules
//! from `$prefix`: from a server that has no TFTP, it waits a minute for each of the four. So `$prefix`
//! becomes the file system inside the image, where it finds at once that there are none. Its
//! configuration is there as well: the second text.

use bugler_model::MacAddr;
use std::net::Ipv4Addr;

/// How the first configuration of Debian's images for the network begins. It ends with a zero.
const BEGIN: &[u8] = b"if [ -e $prefix/";

/// What those images run before: the shell, with that configuration.
const EARLY: &[u8] = b"normal (memdisk)/grub.cfg\n";

/// What they run instead, as long as [`EARLY`]. The shell starts by itself, and takes `grub.cfg` of
/// `$prefix`.
const EARLY_TOLD: &[u8] = b"set prefix=(memdisk)\n\n\n\n\n\n";

const _: () = assert!(EARLY.len() == EARLY_TOLD.len());

/// The image, told to ask `server` over TFTP for the configuration of the interface `mac`, and nobody
/// for lists of modules; it stays as long as it was. `None` where there is not one such configuration in
/// it, or too little room. An image that starts its shell in another way is told the configuration alone.
///
/// A signature over the image no longer holds after this.
#[must_use]
pub fn told_where_to_ask(image: &[u8], server: Ipv4Addr, mac: MacAddr) -> Option<Vec<u8>> {
    let begin = only_place(image, BEGIN)?;
    let room = image.get(begin..)?.iter().position(|&byte| byte == 0)?;
    // A configuration that does not come is no dead end.
    let config = format!(
        "configfile (tftp,{server})/grub.cfg-{}\nreboot\n",
        mac.bootif()
    );
    let text = config.bytes().chain(std::iter::repeat(b'\n'));
    let mut told = image.to_vec();
    let place = told.get_mut(begin..begin + room)?;
    if config.len() > room {
        return None;
    }
    for (byte, new) in place.iter_mut().zip(text) {
        *byte = new;
    }
    if let Some(early) = only_place(image, EARLY)
        && let Some(place) = told.get_mut(early..early + EARLY.len())
    {
        place.copy_from_slice(EARLY_TOLD);
    }
    Some(told)
}

/// Where `text` stands, if it stands there once.
fn only_place(image: &[u8], text: &[u8]) -> Option<usize> {
    let windows = image.windows(text.len()).enumerate();
    let mut places = windows.filter(|(_, bytes)| *bytes == text);
    let (place, _) = places.next()?;
    places.next().is_none().then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 255);
    /// As it stands in grubnetia32.efi of Debian 12, the shortest of them.
    const DEBIAN: &[u8] = b"\0\0if [ -e $prefix/i386-efi/grub.cfg ]; then\n\tsource \
        $prefix/i386-efi/grub.cfg\nelse\n\tsource $prefix/grub.cfg\nfi\n\0\0\x01\x02";

    #[test]
    fn the_longest_answer_fits_into_the_shortest_image() {
        let told = told_where_to_ask(DEBIAN, SERVER, MAC).unwrap();
        assert_eq!(told.len(), DEBIAN.len());
        let text = String::from_utf8_lossy(&told).into_owned();
        assert!(
            text.starts_with(
                "\0\0configfile (tftp,255.255.255.255)/grub.cfg-01-52-54-00-aa-bb-cc\nreboot\n\n"
            ),
            "{text:?}"
        );
        assert!(text.ends_with("\n\0\0\u{1}\u{2}") && !text.contains("prefix"));
    }

    #[test]
    fn the_shell_looks_for_its_lists_inside_the_image() {
        let module =
            b"\x02\0\0\0\x24\0\0\0normal (memdisk)/grub.cfg\n\0\0\x03\0\0\0\x10\0\0\0/grub\0\0\0";
        let told = told_where_to_ask(&[DEBIAN, module].concat(), SERVER, MAC).unwrap();
        let text = String::from_utf8_lossy(&told[DEBIAN.len()..]).into_owned();
        assert_eq!(
            text,
            "\u{2}\0\0\0\x24\0\0\0set prefix=(memdisk)\n\n\n\n\n\n\0\0\u{3}\0\0\0\u{10}\0\0\0/grub\0\0\0"
        );
        // Where it is not as it is known, it is left alone.
        let twice = [DEBIAN, module, module].concat();
        let told = told_where_to_ask(&twice, SERVER, MAC).unwrap();
        assert_eq!(&told[DEBIAN.len()..], &twice[DEBIAN.len()..]);
    }

    #[test]
    fn an_image_that_is_not_understood_is_left_alone() {
        let twice = [DEBIAN, DEBIAN].concat();
        let short = b"if [ -e $prefix/grub.cfg ]\0";
        let endless = b"if [ -e $prefix/grub.cfg ]";
        for image in [&b""[..], b"MZ", &twice, short, endless] {
            assert_eq!(told_where_to_ask(image, SERVER, MAC), None);
        }
    }

    proptest! {
        #[test]
        fn any_image_keeps_its_length(before: Vec<u8>, text in "[ -~]{0,200}", after: Vec<u8>) {
            let image = [&before, BEGIN, text.as_bytes(), &[0], EARLY, &after].concat();
            if let Some(told) = told_where_to_ask(&image, SERVER, MAC) {
                prop_assert_eq!(told.len(), image.len());
                let early = [EARLY_TOLD, &after].concat();
                prop_assert!(told.ends_with(&early));
                prop_assert_eq!(&told[..before.len()], &before[..]);
                prop_assert!(told.ends_with(&after));
            }
        }
    }
}
