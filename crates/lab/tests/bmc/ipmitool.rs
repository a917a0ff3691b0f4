//! ipmitool against the lab's BMC: what both of our ends believe, a third one believes too.

use bugler_bmc::ipmi::crypto::Suite;
use bugler_lab::bmc::{Faults, Model, Network, Server};
use std::process::Command;

fn ipmitool(server: &Server, session: &[&str], command: &[&str]) -> (bool, String) {
    let output = Command::new("ipmitool")
        .args(session)
        .args(["-H", "127.0.0.1", "-U", "admin", "-p"])
        .arg(server.address().port().to_string())
        .args(command)
        .output()
        .expect("ipmitool of Debian can be started (scripts/setup installs it)");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    println!("{session:?} {command:?}: {text}");
    (output.status.success(), text)
}

fn start(model: Model) -> Server {
    Server::start(model, Network::new(Faults::default(), 1)).unwrap()
}

#[test]
fn ipmitool_switches_it_with_every_suite_and_type() {
    for session in [
        &["-I", "lanplus", "-C", "17"][..],
        &["-I", "lanplus", "-C", "3"],
        &["-I", "lanplus"],
        &["-I", "lan", "-A", "MD5"],
        &["-I", "lan", "-A", "PASSWORD"],
    ] {
        let server = start(Model::default());
        // Seconds until it asks again.
        let session = [session, &["-N", "20", "-P", "secret"]].concat();
        for (command, said) in [
            ("on", "Up/On"),
            ("status", "is on"),
            ("reset", "Reset"),
            ("off", "Down/Off"),
        ] {
            let (well, text) = ipmitool(&server, &session, &["power", command]);
            assert!(well && text.contains(said), "{session:?} {command}: {text}");
            assert!(!text.contains("Unable"), "{session:?} {command}: {text}");
        }
        let command = ["chassis", "bootdev", "pxe", "options=efiboot"];
        let (well, text) = ipmitool(&server, &session, &command);
        assert!(well, "{text}");
        let bmc = server.responder();
        assert_eq!(bmc.chassis.controls, [1, 3, 0]);
        assert_eq!(bmc.sessions(), 0);
        let flags: Vec<_> = bmc.chassis.written.iter().filter(|w| w[0] == 5).collect();
        assert_eq!(flags, [&vec![5, 0xa0, 0x04, 0, 0, 0]]);
    }
}

#[test]
fn ipmitool_is_turned_away_with_a_wrong_password_and_with_a_suite_that_is_not_there() {
    let server = start(Model {
        suites: vec![Suite::Three],
        ..Model::default()
    });
    let session = ["-I", "lanplus", "-C", "3", "-N", "1", "-R", "1", "-P", "no"];
    assert!(!ipmitool(&server, &session, &["power", "on"]).0);
    let session = [
        "-I", "lanplus", "-C", "17", "-N", "1", "-R", "1", "-P", "secret",
    ];
    assert!(!ipmitool(&server, &session, &["power", "on"]).0);
    assert!(server.responder().chassis.controls.is_empty());
}
