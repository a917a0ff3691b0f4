//! The shapes of an offer: what is in each, in either mode. Which of them a client gets is decided by
//! `bugler_boot::plan`.

mod support;

use bugler_dhcp::{MessageType, Packet, code};
use bugler_model::OfferShape;
use std::net::Ipv4Addr;
use support::*;

/// Boot file in header and option 67; options 60 and 43.
type Boot = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

fn boot(packet: &Packet) -> Boot {
    let option = |code| packet.options.get(code).map(<[u8]>::to_vec);
    (
        packet.file_name().to_vec(),
        option(code::BOOT_FILE),
        option(code::VENDOR_CLASS),
        option(code::VENDOR),
    )
}

fn with_file(file: &[u8], class: Option<&[u8]>, vendor: Option<&[u8]>) -> Boot {
    (
        file.to_vec(),
        Some(file.to_vec()),
        class.map(<[u8]>::to_vec),
        vendor.map(<[u8]>::to_vec),
    )
}

const PXE: Option<&[u8]> = Some(b"PXEClient");
/// Discovery control: use the boot file as it is.
const AS_IT_IS: Option<&[u8]> = Some(&[6, 1, 8, 255]);
const AS_IT_IS_4011: Option<&[u8]> = Some(b"\x06\x01\x08\x0a\x04\0PXE\xff");

fn asks_on_4011() -> Boot {
    (vec![], None, Some(b"PXEClient".to_vec()), None)
}

#[test]
fn together_with_an_address_there_are_three() {
    for (client, file) in [
        (Client::discover(1).bios(), &b"undionly.kpxe"[..]),
        (Client::discover(1).uefi(), b"snponly.efi"),
    ] {
        for (shape, expected) in [
            (OfferShape::Standard, with_file(file, PXE, AS_IT_IS)),
            // One full offer.
            (OfferShape::Direct, with_file(file, None, None)),
            (OfferShape::BootServer, asks_on_4011()),
        ] {
            let mut lab = Lab::full(200);
            lab.plans.shape = shape;
            let offer = lab.offer(&client).packet;
            assert_ne!(offer.yiaddr, Ipv4Addr::UNSPECIFIED);
            assert_eq!(offer.siaddr, SERVER);
            assert_eq!(boot(&offer), expected, "{shape}");
            // The acknowledgement says the same.
            let mut request = Client::select(1, offer.yiaddr);
            for code in [60, 93, 97] {
                if let Some(value) = client.packet.options.get(code) {
                    request = request.option(code, value);
                }
            }
            let (_, ack) = commit(&lab.send(&request));
            assert_eq!(boot(&ack.unwrap().packet), expected, "{shape}");
        }
    }
}

#[test]
fn as_a_proxy_there_are_two() {
    for (shape, expected) in [
        (OfferShape::Standard, asks_on_4011()),
        (OfferShape::Direct, with_file(b"snponly.efi", PXE, AS_IT_IS)),
        (OfferShape::BootServer, asks_on_4011()),
    ] {
        let mut lab = Lab::proxy();
        lab.plans.shape = shape;
        let offer = lab.offer(&Client::discover(1).uefi()).packet;
        assert_eq!(offer.yiaddr, Ipv4Addr::UNSPECIFIED);
        assert_eq!(boot(&offer), expected, "{shape}");
    }
    for (shape, expected) in [
        (
            OfferShape::Standard,
            with_file(b"undionly.kpxe", PXE, AS_IT_IS),
        ),
        (OfferShape::BootServer, asks_on_4011()),
    ] {
        let mut lab = Lab::proxy();
        lab.plans.shape = shape;
        let offer = lab.offer(&Client::discover(1).bios()).packet;
        assert_eq!(boot(&offer), expected, "{shape}");
    }
}

#[test]
fn port_4011_is_answered_with_the_file_whatever_the_shape() {
    for shape in [
        OfferShape::Standard,
        OfferShape::Direct,
        OfferShape::BootServer,
    ] {
        let mut lab = Lab::full(200);
        lab.plans.shape = shape;
        let request = Client::new(1, MessageType::Request)
            .uefi()
            .using(ip(100))
            .on_4011();
        let [answer] = &replies(&lab.send(&request))[..] else {
            panic!("no answer on port 4011");
        };
        let expected = with_file(b"snponly.efi", PXE, AS_IT_IS_4011);
        assert_eq!(boot(&answer.packet), expected, "{shape}");
    }
}
