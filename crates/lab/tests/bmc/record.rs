//! Exchanges that are kept: the corpus of the fuzz targets, and the cases of the client.
//!
//! `BUGLER_REGENERATE=1 cargo test -p bugler-lab --test bmc` writes them again.

use crate::pair::{Pair, config};
use bugler_bmc::ipmi::commands::chassis_status;
use bugler_bmc::ipmi::crypto::Suite;
use bugler_bmc::ipmi::machine::{Config, Event, Pacing};
use bugler_lab::bmc::{Faults, Model, Network};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What the BMC sent in a session with a console, in the format of the fuzz target `ipmi_session`.
fn exchange(suites: Vec<Suite>) -> (Vec<u8>, Vec<Vec<u8>>) {
    let model = Model {
        suites,
        ..Model::default()
    };
    let config = Config {
        allow_v15: true,
        ..config("secret")
    };
    let mut pair = Pair::new(config, model, Network::new(Faults::default(), 1));
    pair.client.request(chassis_status(), Duration::ZERO);
    pair.client
        .open_console(true, Pacing::default(), Duration::ZERO);
    let up = pair.until(Duration::from_secs(60), |event| {
        matches!(event, Event::ConsoleUp | Event::ConsoleRefused(_))
    });
    assert!(up, "{:?}", pair.events);
    let now = pair.now;
    pair.client.write(b"typed", now);
    pair.until(Duration::from_secs(1), |_| false);
    let mut input = Vec::new();
    for datagram in &pair.heard {
        input.extend_from_slice(&[0, datagram.len() as u8]);
        input.extend_from_slice(datagram);
    }
    (input, pair.heard)
}

#[test]
fn the_kept_inputs_of_the_fuzz_targets_are_what_the_bmc_sends() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, suites) in [
        ("suite-17", vec![Suite::Seventeen, Suite::Three]),
        ("suite-3", vec![Suite::Three]),
        ("ipmi-1.5", vec![]),
    ] {
        let (input, datagrams) = exchange(suites);
        println!("{name}: {} datagrams", datagrams.len());
        let session = corpus.join("ipmi_session").join(name);
        let packet = |n: usize| corpus.join("ipmi_packet").join(format!("{name}-{n}"));
        if std::env::var_os("BUGLER_REGENERATE").is_some() {
            for dir in ["ipmi_session", "ipmi_packet"] {
                fs::create_dir_all(corpus.join(dir)).unwrap();
            }
            fs::write(&session, &input).unwrap();
            for (n, datagram) in datagrams.iter().enumerate() {
                fs::write(packet(n), datagram).unwrap();
            }
        }
        assert_eq!(fs::read(&session).unwrap(), input, "{name} has changed");
    }
}
