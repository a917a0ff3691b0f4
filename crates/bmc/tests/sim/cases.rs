//! Exchanges with `ipmi_sim` that were kept, and come out the same: folders under `tests/cases/`.
//!
//! With `BUGLER_REGENERATE=1` they are made again, with a simulator that is started for it. Lines of
//! `exchange.txt` that begin with `>` are ours, those with `<` the BMC's; `events.txt` is what the
//! session made of them.

use crate::bench::Sim;
use bugler_bmc::ipmi::commands::{boot_flags, chassis_status, device_id};
use bugler_bmc::ipmi::machine::{Config, Event, Known, Pacing, Session};
use bugler_bmc::ipmi::packet::AuthType;
use bugler_bmc::{Credentials, Secret};
use std::fmt::Write;
use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

fn session(name: &str) -> Session {
    let now = Duration::ZERO;
    let known = match name {
        "ipmi-1.5-md5" => Some(Known::V15(AuthType::Md5)),
        _ => None,
    };
    let config = Config {
        allow_v15: true,
        known,
        ..Config::new(Credentials::new("admin", Secret::new("secret")).unwrap())
    };
    let mut session = Session::new(config, [9; 32], now);
    session.request(device_id(), now);
    session.request(chassis_status(), now);
    session.request(boot_flags(), now);
    session.open_console(true, Pacing::default(), now);
    session
}

/// Takes the session to its end with these answers; tells what was sent and what happened.
fn play(name: &str, mut answer: impl FnMut(&[u8]) -> Vec<u8>) -> (String, String) {
    let now = Duration::ZERO;
    let (mut exchange, mut events) = (String::new(), String::new());
    let mut session = session(name);
    while !session.is_over() {
        while let Some(event) = session.poll_event() {
            writeln!(events, "{event:?}").unwrap();
            if matches!(event, Event::ConsoleUp | Event::ConsoleRefused(_)) {
                session.close(now);
            }
        }
        let Some(datagram) = session.poll_transmit() else {
            assert!(session.is_over(), "{name} hangs: {events}");
            break;
        };
        writeln!(exchange, "> {}", hex(&datagram)).unwrap();
        let bytes = answer(&datagram);
        writeln!(exchange, "< {}", hex(&bytes)).unwrap();
        session.receive(&bytes, now);
    }
    while let Some(event) = session.poll_event() {
        writeln!(events, "{event:?}").unwrap();
    }
    (exchange, events)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
        .collect()
}

#[test]
fn kept_exchanges_come_out_the_same() {
    for name in ["suite-3", "ipmi-1.5-md5"] {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/cases/ipmi_sim")
            .join(name);
        if std::env::var_os("BUGLER_REGENERATE").is_some() {
            let sim = Sim::start(0);
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(sim.address).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(120)))
                .unwrap();
            let (exchange, events) = play(name, |datagram| {
                let mut buffer = vec![0; 2048];
                socket.send(datagram).unwrap();
                let length = socket.recv(&mut buffer).unwrap();
                buffer.truncate(length);
                buffer
            });
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("exchange.txt"), exchange).unwrap();
            fs::write(dir.join("events.txt"), events).unwrap();
        }
        let exchange = fs::read_to_string(dir.join("exchange.txt")).unwrap();
        let events = fs::read_to_string(dir.join("events.txt")).unwrap();
        let mut answers = exchange.lines().filter_map(|line| line.strip_prefix("< "));
        let played = play(name, |_| {
            unhex(answers.next().expect("it asks more than was kept"))
        });
        assert_eq!(played, (exchange, events), "{name}");
    }
}
