//! Server machine and client machine over a network that loses, repeats and reorders, in simulated
//! time: every file arrives whole, nothing storms, and a loss costs milliseconds.

mod pair;

use std::fmt::Write as _;
use std::time::Duration;

use bugler_tftp::machine::End;
use pair::{Knobs, Pair};
use proptest::prelude::*;

const LAN: Knobs = Knobs {
    latency: Duration::from_micros(100),
    jitter: Duration::ZERO,
    loss: 0,
    repeat: 0,
};

#[test]
fn a_clean_network_carries_each_datagram_once() {
    for windowsize in [1, 4, 16] {
        let report = Pair::new(LAN, 1).run(300_000, 1468, windowsize);
        assert_eq!(report.server_end, Some(End::Finished { confirmed: true }));
        assert_eq!(report.retransmitted, 0);
        assert_eq!(report.data_sent, 300_000 / 1468 + 1);
        assert_eq!(report.client_timeouts, 0);
    }
}

#[test]
fn the_block_number_may_go_around() {
    for windowsize in [1, 16] {
        let size = 8 * 150_000 + 3;
        let report = Pair::new(Knobs { loss: 2, ..LAN }, 7).run(size, 8, windowsize);
        assert_eq!(report.server_end, Some(End::Finished { confirmed: true }));
    }
}

#[test]
fn repeated_datagrams_alone_bring_no_retransmission_in_lockstep() {
    let knobs = Knobs {
        repeat: 1000,
        ..LAN
    };
    let report = Pair::new(knobs, 3).run(200_000, 512, 1);
    assert_eq!(report.retransmitted, 0);
}

#[test]
fn a_lost_datagram_costs_far_less_than_the_clients_timeout() {
    // 1 % each way, 716 blocks of 1 MiB: some 14 losses.
    let report = Pair::new(Knobs { loss: 10, ..LAN }, 5).run(1 << 20, 1468, 1);
    assert!(
        report.data_sent > 716,
        "nothing was lost: the test shows nothing"
    );
    assert_eq!(report.client_timeouts, 0);
    assert!(
        report.duration < Duration::from_millis(1000),
        "{:?}",
        report.duration
    );
}

#[test]
fn throughput_against_loss() {
    let mut table = String::from(
        "1 MiB, blksize 1468, mean of 8 runs; loss in each direction; client timeout 1 s\n\n\
         round trip  window   loss  Mbit/s  datagrams per block  client timeouts per run\n",
    );
    for round_trip in [200, 2_000, 50_000u64] {
        for windowsize in [1, 4, 16] {
            for loss in [0, 1, 10, 50, 200] {
                let knobs = Knobs {
                    latency: Duration::from_micros(round_trip / 2),
                    loss,
                    ..LAN
                };
                let (mut time, mut sent, mut timeouts) = (Duration::ZERO, 0, 0);
                for seed in 0..8 {
                    let report = Pair::new(knobs, seed).run(1 << 20, 1468, windowsize);
                    time += report.duration;
                    sent += report.data_sent;
                    timeouts += report.client_timeouts;
                }
                let rate = 8.0 * 8.0 * f64::from(1 << 20) / time.as_secs_f64() / 1e6;
                let blocks = 8.0 * ((1 << 20) / 1468 + 1) as f64;
                writeln!(
                    table,
                    "{:>7.1} ms  {windowsize:>6}  {:>4.1}%  {rate:>6.2}  {:>19.3}  {:>23.1}",
                    round_trip as f64 / 1000.0,
                    f64::from(loss) / 10.0,
                    sent as f64 / blocks,
                    timeouts as f64 / 8.0,
                )
                .unwrap();
            }
        }
    }
    insta::assert_snapshot!(table);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_file_arrives_whole_and_nothing_storms(
        latency in 0..20_000u64,
        jitter in 0..20_000u64,
        loss in 0..300u32,
        repeat in 0..300u32,
        size in 0..120_000u64,
        blksize in 64..1500u16,
        windowsize in prop_oneof![Just(1u16), 2..40u16],
        seed in any::<u64>(),
    ) {
        let knobs = Knobs {
            latency: Duration::from_micros(latency),
            jitter: Duration::from_micros(jitter),
            loss,
            repeat,
        };
        // The pair compares the content itself.
        let report = Pair::new(knobs, seed).run(size, blksize, windowsize);
        let finished = matches!(report.server_end, Some(End::Finished { .. }));
        prop_assert!(finished || report.server_end == Some(End::Silent), "{:?}", report.server_end);
        prop_assert!(report.client_finished);
        // What is sent is bounded by what was acknowledged and by the timeouts that passed: a window
        // for each new ACK, one for each repeated one, one for each timeout.
        let flights = report.acks_received_new * 2 + report.server_timeouts + 1;
        prop_assert!(report.data_sent <= flights * u64::from(windowsize), "{report:?}");
        // In lockstep nothing but the timeout sends a block twice.
        if windowsize == 1 {
            prop_assert!(report.retransmitted <= report.server_timeouts, "{report:?}");
        }
    }
}
