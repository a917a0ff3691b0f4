//! Recorded exchanges: what real clients sent, and what the server's cores answer.
//!
//! A folder a case. `client.txt` has one datagram a line: milliseconds since the first, and the bytes
//! in hexadecimal. `server.txt` has what was answered; set `BUGLER_REGENERATE=1` to write it anew.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use bugler_tftp::machine::{Limits, Machine, Output, Terms};
use bugler_tftp::packet::Packet;

/// The size of the file that the recorded clients fetched.
const SIZE: u64 = 3000;

fn replay(client: &str) -> String {
    let limits = Limits {
        blksize: Limits::blksize_for_mtu(1500),
        windowsize: 64,
        window_bytes: 65536,
    };
    let mut server: Option<(Machine, Terms)> = None;
    let mut told = String::new();
    for line in client.lines() {
        let (time, hex) = line.split_once(' ').unwrap();
        let now = Duration::from_millis(time.parse().unwrap());
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let packet = Packet::decode(&bytes).unwrap();
        writeln!(told, "> {packet:?}").unwrap();
        let output = match (&mut server, packet) {
            (None, Packet::ReadRequest(request)) => {
                let terms = Terms::agree(&request.options, SIZE, &limits);
                let (machine, output) = Machine::new(&terms, terms.blocks(SIZE), now);
                server = Some((machine, terms));
                output
            }
            (Some((machine, _)), packet) => machine.packet(&packet, now),
            (None, other) => panic!("the first packet is no read request: {other:?}"),
        };
        let terms = server.as_ref().unwrap().1;
        match output {
            Output::OptionAck => {
                let oack = Packet::OptionAck(terms.oack).to_bytes();
                writeln!(told, "< OACK {}", oack[2..].escape_ascii()).unwrap();
            }
            other => writeln!(told, "< {other:?}").unwrap(),
        }
    }
    told
}

#[test]
fn recorded_clients_are_answered_as_before() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut played = 0;
    for case in fs::read_dir(cases).unwrap() {
        let case = case.unwrap().path();
        let told = replay(&fs::read_to_string(case.join("client.txt")).unwrap());
        let expected = case.join("server.txt");
        if std::env::var_os("BUGLER_REGENERATE").is_some() {
            fs::write(&expected, &told).unwrap();
        }
        let expected = fs::read_to_string(expected).unwrap();
        assert_eq!(told, expected, "{}", case.display());
        assert!(
            told.ends_with("< End(Finished { confirmed: true })\n"),
            "{}",
            case.display()
        );
        played += 1;
    }
    assert!(played >= 5, "only {played} cases were found");
}
