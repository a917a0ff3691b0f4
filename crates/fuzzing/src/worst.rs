//! The packets that cost their reader the most, as far as one can think of them: as long as the socket
//! takes, in as many parts as fit, each part sending the reader round once more.

use crate::inputs::{Input, largest_packet};

/// The constructions for a target; none for a target that reads files.
#[must_use]
pub(crate) fn inputs(target: &str) -> Vec<Input> {
    let Some(largest) = largest_packet(target) else {
        return vec![];
    };
    let made = match target {
        "dhcp_packet" => dhcp(1, largest),
        "agent_dhcp" | "simulate_answer" => dhcp(2, largest),
        "dhcp_frame" => frames(largest),
        "tftp_packet" => tftp(largest),
        "aoe_frame" => aoe(largest),
        "ipmi_packet" => ipmi(largest),
        "ndp_message" => ndp(largest),
        "boot_path" | "pi_boot" => paths(largest),
        _ => vec![],
    };
    let named = |(name, bytes): (&str, Vec<u8>)| Input {
        name: format!("made: {name}"),
        bytes,
    };
    made.into_iter().map(named).collect()
}

type Made = Vec<(&'static str, Vec<u8>)>;

/// Repeats `part` up to this length.
fn filled(mut bytes: Vec<u8>, part: &[u8], length: usize) -> Vec<u8> {
    let missing = length.saturating_sub(bytes.len());
    bytes.extend(part.iter().cycle().take(missing));
    bytes
}

/// A write of as many sectors as fit, a list of addresses and a reservation that fill the frame (AoE
/// revision 11, sections 3 and 4).
fn aoe(largest: usize) -> Made {
    let command = |command: u8, argument: &[u8]| {
        let mut frame = vec![0xff; 6];
        frame.extend([
            0x52, 0x54, 0, 1, 2, 3, 0x88, 0xa2, 0x10, 0, 0, 0, 0, command, 0, 0, 0, 1,
        ]);
        frame.extend(argument);
        frame
    };
    let write = command(0, &[0x41, 0, 17, 0x34, 0, 0, 0, 0, 0, 0, 0, 0]);
    let masks = command(2, &[0, 1, 0, 255]);
    let reserve = command(3, &[1, 255]);
    vec![
        ("the longest write", filled(write, &[0xa5], largest)),
        (
            "a list of addresses",
            filled(masks, &[0, 1, 2, 0, 0, 0, 0, 7], largest),
        ),
        (
            "a reservation",
            filled(reserve, &[2, 0, 0, 0, 0, 7], largest),
        ),
    ]
}

/// Header and cookie of a message; `op` is 1 from a client and 2 from a server (RFC 2131 section 2).
fn header(op: u8) -> Vec<u8> {
    let mut bytes = vec![op, 1, 6, 0, 1, 2, 3, 4];
    bytes.resize(28, 0);
    bytes.extend([0x52, 0x54, 0, 1, 2, 3]);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99]);
    bytes
}

fn dhcp(op: u8, largest: usize) -> Made {
    let kind = [53, 1, op];
    let with = |options: &[u8]| [&header(op), &kind[..], options].concat();
    // What firmware is known by, so that facts and plan have their work too.
    let boots = [
        b"\x3c\x20PXEClient:Arch:00007:UNDI:003016".as_slice(),
        b"\x5d\x02\0\x07",
    ]
    .concat();
    let every_code = |value: &[u8]| -> Vec<u8> {
        let one = |code: u8| [&[code, value.len() as u8], value].concat();
        (1..=254).filter(|code| *code != 52).flat_map(one).collect()
    };
    let long = |code: u8, byte: u8| filled(vec![code, 255], &[byte], 257);
    // Options of the first area are full of themselves; `sname` and `file` say option 52 again.
    let overloaded = |part: &[u8]| {
        let mut bytes = filled(with(&[52, 1, 3]), part, largest);
        for (start, end) in [(44, 108), (108, 236)] {
            let area = filled(vec![52, 1, 3], part, end - start);
            bytes.splice(start..end, area);
        }
        bytes
    };
    // A sub-option of 82 that holds a sub-option, and so on, as deep as 255 bytes go.
    let nested: Vec<u8> = (1..=126)
        .flat_map(|depth: u8| [1, 254 - 2 * depth])
        .collect();
    let relay = [&[82, 252], &nested[..]].concat();
    vec![
        (
            "one option, split into single bytes",
            filled(with(&boots), &[60, 1, b'A'], largest),
        ),
        (
            "one option, split into nothing",
            filled(with(&boots), &[60, 0], largest),
        ),
        ("every code once, then the last one again and again", {
            filled(with(&every_code(&[])), &[254, 0], largest)
        }),
        (
            "every code in turn, without a value",
            filled(with(&[]), &every_code(&[]), largest),
        ),
        (
            "every code in turn, single bytes",
            filled(with(&[]), &every_code(&[1]), largest),
        ),
        ("a vendor class as long as the packet, no UTF-8", {
            filled(with(&[]), &long(60, 0xff), largest)
        }),
        (
            "a vendor class as long as the packet, NUL",
            filled(with(&[]), &long(60, 0), largest),
        ),
        (
            "a host name as long as the packet",
            filled(with(&boots), &long(12, b'x'), largest),
        ),
        ("option 93 as long as the packet, unknown values", {
            filled(with(&boots), &long(93, 0x63), largest)
        }),
        (
            "option 97 as long as the packet",
            filled(with(&boots), &long(97, 0x44), largest),
        ),
        ("option 77 and 175 in turn", {
            let both = [long(77, 4), long(175, 1)].concat();
            filled(with(&boots), &both, largest)
        }),
        (
            "option 82 in option 82",
            filled(with(&boots), &relay, largest),
        ),
        ("overload that says overload", overloaded(&[52, 1, 3])),
        (
            "overload, and single bytes in all three areas",
            overloaded(&[60, 1, b'P']),
        ),
        ("nothing but pads", filled(with(&boots), &[0], largest)),
        ("a length that points behind the end", {
            let mut bytes = filled(with(&boots), &[43, 0], largest - 2);
            bytes.extend([43, 255]);
            bytes
        }),
        ("a packet of 1,500 bytes of options of one byte", {
            filled(with(&boots), &every_code(&[1]), 1500.min(largest))
        }),
    ]
}

fn frames(largest: usize) -> Made {
    let udp = |payload: &[u8]| {
        let mut bytes = vec![0xff; 12];
        let total = (20 + 8 + payload.len()) as u16;
        let [a, b] = total.to_be_bytes();
        let [c, d] = (total - 20).to_be_bytes();
        bytes.extend([8, 0, 0x45, 0, a, b, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1]);
        bytes.extend([255, 255, 255, 255, 0, 67, 0, 68, c, d, 0, 0]);
        bytes.extend(payload);
        bytes
    };
    let room = largest - 42;
    dhcp(2, room)
        .into_iter()
        .map(|(name, payload)| (name, udp(&payload)))
        .collect()
}

fn tftp(largest: usize) -> Made {
    let request = b"\0\x01f\0octet\0".to_vec();
    let with = |part: &[u8]| filled(request.clone(), part, largest);
    vec![
        ("options without name and value", with(&[0])),
        ("thousands of known options", with(b"blksize\x008\0")),
        ("thousands of unknown options", with(b"a\x001\0")),
        ("a number as long as the packet", {
            filled([&request[..], b"windowsize\0"].concat(), b"9", largest)
        }),
        ("a name of spaces", with(b" ")),
        (
            "a file name as long as the packet",
            filled(b"\0\x01".to_vec(), b"a/", largest),
        ),
        (
            "a file name of bytes that are no UTF-8",
            filled(b"\0\x01".to_vec(), &[0xff], largest),
        ),
        (
            "a mode as long as the packet",
            filled(b"\0\x01f\0".to_vec(), b"O", largest),
        ),
        (
            "an OACK of known options",
            filled(b"\0\x06".to_vec(), b"TSIZE\x000\0", largest),
        ),
        (
            "an error message without an end",
            filled(b"\0\x05\0\0".to_vec(), b"x", largest),
        ),
        ("a block", filled(b"\0\x03\0\x01".to_vec(), &[0], largest)),
    ]
}

fn ndp(largest: usize) -> Made {
    let mut start = vec![0xfe, 0x80];
    start.resize(16, 0);
    start.extend([133, 0, 0, 0, 0, 0, 0, 0]);
    let unknown = [9, 1, 0, 0, 0, 0, 0, 0];
    let address = [1, 1, 0x52, 0x54, 0, 1, 2, 3];
    vec![
        (
            "options of other kinds",
            filled(start.clone(), &unknown, largest),
        ),
        (
            "an address in every option",
            filled(start.clone(), &address, largest),
        ),
        ("an option of length 0", filled(start, &[1, 0], largest)),
    ]
}

fn ipmi(largest: usize) -> Made {
    use bugler_bmc::ipmi::packet::{Completion, Datagram, NetFn, PayloadType, Reply, V20};
    // RMCP and RMCP+ headers, a reply's own bytes, its checksums: what is left is for its data.
    let room = largest.saturating_sub(4 + 12 + 8);
    let reply = |data: &[u8]| {
        let reply = Reply {
            netfn: NetFn::APP,
            command: 0x54,
            sequence: 1,
            completion: Completion::OK,
            data,
        };
        Datagram::V20(V20 {
            kind: PayloadType::Message,
            encrypted: false,
            authenticated: false,
            session: 0,
            sequence: 0,
            payload: &reply.to_bytes(),
            trailer: &[],
        })
        .to_bytes()
    };
    let suite = [0xc0, 3, 1, 0x41, 0x81];
    vec![
        (
            "cipher suites without end",
            reply(&filled(vec![], &suite, room)),
        ),
        (
            "numbers of suites alone",
            reply(&filled(vec![], &[0xc0], room)),
        ),
        (
            "a long packet of IPMI 1.5",
            filled(vec![6, 0, 0xff, 7], &[0], largest),
        ),
    ]
}

fn paths(largest: usize) -> Made {
    let folder = "grub/".repeat(largest / 5);
    vec![
        ("folders in folders", filled(vec![], b"a/", largest)),
        ("backslashes", filled(vec![], b"\\", largest)),
        ("no UTF-8", filled(vec![], &[0xff], largest)),
        ("one long name", filled(vec![], b"x", largest)),
        (
            "a known folder, repeated",
            filled(folder.into_bytes(), b"grub/", largest),
        ),
        (
            "as long as a path may be",
            filled(vec![], b"overlays/", 198),
        ),
        ("text of many lines", filled(vec![], b"\n", largest)),
    ]
}
