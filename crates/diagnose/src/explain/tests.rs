//! Each rule against an exchange built packet by packet, written as a capture file and read back.

mod wire;

use super::*;
use crate::frame::build;
use bugler_dhcp::{MessageType, code};
use bugler_tftp::packet::{ErrorCode, Options, Packet as Tftp};
use wire::{CLIENT, OTHER, OURS, UEFI, Wire, at};

fn rule(explanation: &Explanation) -> &'static str {
    explanation.cause.as_ref().map_or("", |cause| cause.rule)
}

fn also(explanation: &Explanation) -> Vec<&'static str> {
    explanation
        .also
        .iter()
        .map(|finding| finding.rule)
        .collect()
}

/// Checks which rule fits, and that the texts are whole sentences.
fn assert_rule(wire: &mut Wire, expected: &str) -> Explanation {
    let explanation = wire.explain();
    assert_eq!(rule(&explanation), expected, "{explanation:#?}");
    assert_eq!(explanation.verdict, Verdict::Stopped);
    let cause = explanation.cause.clone().unwrap();
    assert!(cause.cause.len() > 20 && cause.next.len() > 20, "{cause:?}");
    explanation
}

#[test]
fn nobody_answers() {
    let explanation = assert_rule(
        Wire::new()
            .discover()
            .pause(4000)
            .discover()
            .pause(8000)
            .discover(),
        "no-offer",
    );
    assert!(
        explanation.stopped.contains("3 times"),
        "{}",
        explanation.stopped
    );
    assert!(
        explanation
            .client
            .contains("UEFI PXE on x86-64 (architecture 7)")
    );
    assert_eq!(explanation.story.len(), 1, "{:?}", explanation.story);
    // A moment after it asked there is nothing to say yet.
    let soon = Wire::new().discover().explain_after(1000);
    assert_eq!((soon.verdict, soon.cause), (Verdict::Underway, None));
}

#[test]
fn addresses_without_anything_to_boot() {
    let explanation = assert_rule(
        Wire::new()
            .discover()
            .answer(MessageType::Offer, OTHER, Some(CLIENT), None)
            .request(OTHER)
            .answer(MessageType::Ack, OTHER, Some(CLIENT), None),
        "offer-without-boot",
    );
    assert!(explanation.stopped.contains("10.0.0.2"));
}

#[test]
fn the_server_without_boot_files_wins() {
    let explanation = assert_rule(
        Wire::new()
            .discover()
            .answer(MessageType::Offer, OTHER, Some(CLIENT), None)
            .answer(MessageType::Offer, OURS, Some(CLIENT), Some("snponly.efi"))
            .request(OTHER)
            .answer(MessageType::Ack, OTHER, Some(CLIENT), None),
        "other-server-won",
    );
    assert_eq!(also(&explanation), ["two-servers"]);
    assert!(explanation.also[0].cause.contains("took that of 10.0.0.2"));
}

#[test]
fn a_proxys_offer_is_passed_over() {
    let mut wire = Wire::new();
    wire.discover()
        .answer(MessageType::Offer, OTHER, Some(CLIENT), None)
        .answer(MessageType::Offer, OURS, None, Some("snponly.efi"))
        .request(OTHER)
        .answer(MessageType::Ack, OTHER, Some(CLIENT), None);
    let explanation = assert_rule(&mut wire, "proxy-ignored");
    assert!(explanation.cause.unwrap().next.contains("full"));
    // Neither address nor file is taken.
    assert_rule(
        Wire::new()
            .discover()
            .answer(MessageType::Offer, OURS, Some(CLIENT), Some("snponly.efi")),
        "offer-ignored",
    );
    // Only the proxy is there.
    assert_rule(
        Wire::new()
            .discover()
            .answer(MessageType::Offer, OURS, None, Some("snponly.efi")),
        "no-address",
    );
}

#[test]
fn port_4011_is_silent() {
    assert_rule(
        Wire::new()
            .discover()
            .answer(MessageType::Offer, OTHER, Some(CLIENT), None)
            .answer(MessageType::Offer, OURS, None, Some("snponly.efi"))
            .request(OTHER)
            .answer(MessageType::Ack, OTHER, Some(CLIENT), None)
            .ask(MessageType::Request, 4011, |packet| {
                packet.options.push(code::VENDOR_CLASS, UEFI);
                packet.ciaddr = CLIENT;
            }),
        "boot-server-silent",
    );
}

#[test]
fn an_address_is_refused_declined_or_never_confirmed() {
    assert_rule(
        Wire::new()
            .discover()
            .request(OURS)
            .answer(MessageType::Nak, OURS, None, None),
        "nak",
    );
    assert_rule(
        Wire::new()
            .addressed("x.efi")
            .ask(MessageType::Decline, 67, |packet| {
                packet.options.push_address(code::REQUESTED_ADDRESS, CLIENT);
                packet.options.push(code::VENDOR_CLASS, UEFI);
            }),
        "address-in-use",
    );
    assert_rule(
        Wire::new()
            .discover()
            .answer(MessageType::Offer, OURS, Some(CLIENT), Some("snponly.efi"))
            .request(OURS),
        "no-ack",
    );
}

#[test]
fn the_wrong_vendor_class_is_named() {
    let mut wire = Wire::new();
    wire.ask(MessageType::Discover, 67, |packet| {
        packet
            .options
            .push(code::VENDOR_CLASS, b"HTTPClient:Arch:00016:UNDI:003001");
        packet.options.push(code::CLIENT_ARCH, &[0, 16]);
    })
    .answer(
        MessageType::Offer,
        OURS,
        Some(CLIENT),
        Some("http://10.0.0.1/x.efi"),
    );
    assert_rule(&mut wire, "wrong-class");
}

#[test]
fn a_file_is_missing() {
    let error = Tftp::Error {
        code: ErrorCode::FILE_NOT_FOUND,
        message: b"no such file",
    };
    let explanation = assert_rule(
        Wire::new()
            .addressed("typo.efi")
            .tftp_ask(2000, "typo.efi", None)
            .tftp_down(2000, &error),
        "file-missing",
    );
    assert!(explanation.stopped.contains("typo.efi"));
    let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    assert_rule(
        Wire::new()
            .addressed("snponly.efi")
            .tftp_whole(2000, "snponly.efi")
            .http(3000, "/boot/ipxe/52:54:00:00:00:01", head, 0),
        "file-missing",
    );
}

#[test]
fn what_ipxe_looks_for_in_passing_is_not_the_cause() {
    let error = Tftp::Error {
        code: ErrorCode::FILE_NOT_FOUND,
        message: b"not here",
    };
    assert_rule(
        Wire::new()
            .addressed("snponly.efi")
            .tftp_whole(2000, "snponly.efi")
            .tftp_ask(2001, "autoexec.ipxe", None)
            .tftp_down(2001, &error),
        "loader-silent",
    );
}

#[test]
fn tftp_is_not_answered_or_stalls() {
    assert_rule(
        Wire::new()
            .addressed("snponly.efi")
            .tftp_ask(2000, "snponly.efi", None)
            .pause(1000)
            .tftp_ask(2000, "snponly.efi", None),
        "tftp-unanswered",
    );
    let accepted = Tftp::OptionAck(Options {
        blksize: Some(1468),
        ..Options::default()
    });
    let block = Tftp::Data {
        block: 1,
        data: &[0; 1468],
    };
    assert_rule(
        Wire::new()
            .addressed("snponly.efi")
            .tftp_ask(2000, "snponly.efi", Some(1468))
            .tftp_down(2000, &accepted)
            .tftp_up(2000, &Tftp::Ack { block: 0 })
            .tftp_down(2000, &block)
            .pause(1000)
            .tftp_down(2000, &block),
        "tftp-stalled",
    );
    let large = Tftp::OptionAck(Options {
        blksize: Some(8192),
        ..Options::default()
    });
    assert_rule(
        Wire::new()
            .addressed("snponly.efi")
            .tftp_ask(2000, "snponly.efi", Some(8192))
            .tftp_down(2000, &large)
            .tftp_up(2000, &Tftp::Ack { block: 0 }),
        "tftp-fragments",
    );
    let explanation = assert_rule(
        Wire::new()
            .addressed("snponly.efi")
            .tftp_ask(2000, "snponly.efi", None)
            .tftp_down(
                2000,
                &Tftp::Data {
                    block: 1,
                    data: &[0; 512],
                },
            )
            .tftp_up(2000, &Tftp::Ack { block: 1 })
            .tftp_down(
                2000,
                &Tftp::Data {
                    block: 2,
                    data: &[0; 512],
                },
            )
            .tftp_up(
                2000,
                &Tftp::Error {
                    code: ErrorCode::DISK_FULL,
                    message: b"too large",
                },
            ),
        "client-no-room",
    );
    assert!(explanation.stopped.contains("too large"));
    let block = |block| Tftp::Data {
        block,
        data: &[0; 512],
    };
    assert_rule(
        Wire::new()
            .addressed("snponly.efi")
            .tftp_ask(2000, "snponly.efi", None)
            .tftp_down(2000, &block(1))
            .tftp_up(2000, &Tftp::Ack { block: 1 })
            .tftp_down(2000, &block(2))
            .tftp_up(
                2000,
                &Tftp::Error {
                    code: ErrorCode::NOT_DEFINED,
                    message: b"TFTP Aborted",
                },
            ),
        "client-aborted",
    );
}

#[test]
fn a_stream_that_ended_in_the_middle_is_told_apart_by_who_ended_it() {
    const KERNEL: &str = "/boot/bootenv/x86_64/v1/vmlinuz";
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n";
    let fetching = || {
        let mut wire = Wire::new();
        wire.addressed("snponly.efi")
            .tftp_whole(2000, "snponly.efi")
            .ipxe_discover()
            .answer(
                MessageType::Offer,
                OURS,
                Some(CLIENT),
                Some("http://10.0.0.1:8480/boot/ipxe/m"),
            )
            .http(3001, KERNEL, head, 4000);
        wire
    };
    // Its power is cut: nobody says anything more.
    assert_rule(&mut fetching(), "http-stalled");
    for (flags, how) in [(4, "reset"), (0x11, "closed")] {
        let hung_up = build::tcp(at(CLIENT, 3001), at(OURS, 8480), 90, flags, b"");
        let explanation = assert_rule(fetching().up(&hung_up), "client-hung-up");
        let said = format!("after 4.0 kB (the client {how} the connection)");
        assert!(
            explanation.stopped.contains(&said),
            "{}",
            explanation.stopped
        );
    }
}

#[test]
fn blocks_that_were_captured_before_they_were_cut_apart_are_counted() {
    let block = |number: u8, length: usize| [&[0, 3, 0, number][..], &vec![7; length]].concat();
    let joined = [block(1, 512), block(2, 512), block(3, 100)].concat();
    let explanation = Wire::new()
        .addressed("snponly.efi")
        .tftp_ask(2000, "snponly.efi", None)
        .down(&build::udp(at(OURS, 40_000), at(CLIENT, 2000), &joined))
        .tftp_up(2000, &Tftp::Ack { block: 3 })
        .explain();
    let told = explanation
        .story
        .iter()
        .any(|line| line.text.contains("1.1 kB in"));
    assert!(
        told && rule(&explanation) == "loader-silent",
        "{explanation:#?}"
    );
}

#[test]
fn a_loader_came_and_nothing_followed() {
    let explanation = assert_rule(
        Wire::new()
            .addressed("snponly.efi")
            .tftp_whole(2000, "snponly.efi"),
        "loader-silent",
    );
    assert!(explanation.cause.unwrap().next.contains("ipxe.efi"));
    // It asks for itself, and nobody answers any longer.
    assert_rule(
        Wire::new()
            .addressed("snponly.efi")
            .tftp_whole(2000, "snponly.efi")
            .pause(500)
            .ipxe_discover(),
        "loader-no-offer",
    );
}

#[test]
fn a_kernel_does_not_follow_its_script_or_does_not_speak() {
    const SCRIPT: &str = "/boot/ipxe/52:54:00:00:00:01";
    const KERNEL: &str = "/boot/bootenv/x86_64/v1/vmlinuz";
    const INITRD: &str = "/boot/bootenv/x86_64/v1/initrd";
    let start = || {
        let mut wire = Wire::new();
        wire.addressed("snponly.efi")
            .tftp_whole(2000, "snponly.efi")
            .ipxe_discover()
            .answer(
                MessageType::Offer,
                OURS,
                Some(CLIENT),
                Some("http://10.0.0.1:8480/boot/ipxe/m"),
            )
            .request(OURS)
            .answer(
                MessageType::Ack,
                OURS,
                Some(CLIENT),
                Some("http://10.0.0.1:8480/boot/ipxe/m"),
            )
            .http_whole(3000, SCRIPT);
        wire
    };
    assert_rule(&mut start(), "script-no-kernel");
    assert_rule(start().http_whole(3001, KERNEL), "kernel-not-started");
    let mut whole = start();
    whole.http_whole(3001, KERNEL).http_whole(3002, INITRD);
    let explanation = assert_rule(&mut whole, "agent-silent");
    assert_eq!(explanation.boots, 1, "{explanation:#?}");
    // A profile's own system has no agent, and no boot environment that could be built anew.
    let mut theirs = start();
    theirs
        .http_whole(3001, "/boot/files/thin/vmlinuz")
        .http_whole(3002, "/boot/files/thin/initrd");
    let explanation = assert_rule(&mut theirs, "system-silent");
    assert!(
        explanation
            .stopped
            .contains("its system has not been heard"),
        "{}",
        explanation.stopped
    );
    // It asks for an address: its network card works.
    let mut asking = start();
    asking
        .http_whole(3001, KERNEL)
        .http_whole(3002, INITRD)
        .pause(5000)
        .ask(MessageType::Discover, 67, |_| {});
    assert_rule(&mut asking, "agent-address");
    // Half of the kernel.
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n";
    let explanation = assert_rule(start().http(3001, KERNEL, head, 4000), "http-stalled");
    assert!(
        explanation.stopped.contains("4.0 kB"),
        "{}",
        explanation.stopped
    );
    // And one that gets there.
    let mut fine = start();
    fine.http_whole(3001, KERNEL)
        .http_whole(3002, INITRD)
        .pause(9000);
    let ask = b"POST /agent/v1/register HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    fine.up(&build::tcp(at(CLIENT, 3003), at(OURS, 8480), 1, 0x18, ask));
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    fine.down(&build::tcp(
        at(OURS, 8480),
        at(CLIENT, 3003),
        1,
        0x18,
        answer,
    ));
    let explanation = fine.explain();
    assert_eq!(
        (explanation.verdict, rule(&explanation)),
        (Verdict::Fine, ""),
        "{explanation:#?}"
    );
    // Switched on again: what ran before is another boot.
    fine.discover();
    let explanation = fine.explain();
    assert_eq!(
        (explanation.boots, rule(&explanation)),
        (2, "no-offer"),
        "{explanation:#?}"
    );
}

#[test]
fn a_port_that_cannot_be_reached_is_named() {
    let mut wire = Wire::new();
    wire.ipxe_discover()
        .answer(
            MessageType::Offer,
            OURS,
            Some(CLIENT),
            Some("http://10.0.0.1:8480/boot/ipxe/m"),
        )
        .request(OURS)
        .answer(
            MessageType::Ack,
            OURS,
            Some(CLIENT),
            Some("http://10.0.0.1:8480/boot/ipxe/m"),
        );
    for _ in 0..3 {
        wire.up(&build::tcp(at(CLIENT, 3000), at(OURS, 8480), 1, 2, b""))
            .pause(1000);
    }
    let explanation = assert_rule(&mut wire, "port-blocked");
    assert!(
        explanation.stopped.contains("8480"),
        "{}",
        explanation.stopped
    );
    // The server's host says that nobody listens.
    let request = build::udp(at(CLIENT, 2000), at(OURS, 69), b"\x00\x01x.efi\0octet\0");
    let message = [&[3, 3, 0, 0, 0, 0, 0, 0], &request[..]].concat();
    let mut wire = Wire::new();
    wire.addressed("x.efi")
        .tftp_ask(2000, "x.efi", None)
        .down(&build::ip(1, OURS, CLIENT, &message));
    let explanation = assert_rule(&mut wire, "tftp-unanswered");
    let told = explanation
        .story
        .iter()
        .any(|line| line.text.contains("nobody listens on its port 69"));
    assert!(told, "{:#?}", explanation.story);
}

#[test]
fn a_loop_a_slow_port_and_an_unknown_architecture_stand_beside_the_cause() {
    let mut wire = Wire::new();
    for _ in 0..5 {
        wire.addressed("snponly.efi")
            .tftp_whole(2000, "snponly.efi")
            .pause(40_000);
    }
    let explanation = assert_rule(&mut wire, "loader-silent");
    assert_eq!(
        (also(&explanation), explanation.boots),
        (vec!["boot-loop"], 5)
    );

    let mut wire = Wire::new();
    wire.ask(MessageType::Discover, 67, |packet| {
        packet.secs = 28;
        packet.options.push(code::VENDOR_CLASS, UEFI);
        packet.options.push(code::CLIENT_ARCH, &[0, 99]);
    });
    let explanation = assert_rule(&mut wire, "no-offer");
    assert_eq!(
        also(&explanation),
        ["spanning-tree", "unknown-architecture"]
    );
    // Bytes the other way round, as some firmware has them: 4 s.
    let explanation = Wire::new()
        .ask(MessageType::Discover, 67, |packet| {
            packet.secs = 0x0400;
            packet.options.push(code::VENDOR_CLASS, UEFI);
        })
        .explain();
    assert!(!also(&explanation).contains(&"spanning-tree"));
}

#[test]
fn an_operating_system_did_not_ask_to_boot() {
    let explanation = Wire::new()
        .ask(MessageType::Discover, 67, |packet| {
            packet.options.push(code::VENDOR_CLASS, b"MSFT 5.0");
        })
        .explain();
    assert_eq!(
        (explanation.verdict, rule(&explanation)),
        (Verdict::NotAsked, "not-a-boot-request")
    );
    assert!(explanation.client.contains("MSFT 5.0"));
}
