use proptest::prelude::*;

use super::*;
use crate::packet::Options;
use crate::rtt::MAX_RTO;

const MS: Duration = Duration::from_millis(1);

fn terms(windowsize: u16, oack: bool) -> Terms {
    let oack = Options {
        windowsize: oack.then_some(windowsize),
        ..Options::default()
    };
    Terms {
        blksize: 512,
        windowsize,
        oack,
    }
}

fn ack(machine: &mut Machine, block: u16, now: Duration) -> Output {
    machine.packet(&Packet::Ack { block }, now)
}

fn blocks(first: u64, count: u16) -> Output {
    Output::Blocks { first, count }
}

#[test]
fn lockstep_sends_one_block_for_each_ack() {
    let (mut machine, first) = Machine::new(&terms(1, false), 3, MS);
    assert_eq!(first, blocks(1, 1));
    assert_eq!(ack(&mut machine, 1, 2 * MS), blocks(2, 1));
    assert_eq!(ack(&mut machine, 2, 3 * MS), blocks(3, 1));
    assert_eq!(
        ack(&mut machine, 3, 4 * MS),
        Output::End(End::Finished { confirmed: true })
    );
    assert_eq!(machine.retransmitted(), 0);
}

#[test]
fn options_are_acknowledged_before_the_first_block() {
    let (mut machine, first) = Machine::new(&terms(4, true), 6, MS);
    assert_eq!(first, Output::OptionAck);
    assert!(!machine.progressed());
    assert_eq!(ack(&mut machine, 1, MS), Output::Wait);
    assert_eq!(ack(&mut machine, 0, 2 * MS), blocks(1, 4));
    assert!(machine.progressed());
    assert_eq!(ack(&mut machine, 4, 3 * MS), blocks(5, 2));
    assert_eq!(
        ack(&mut machine, 6, 4 * MS),
        Output::End(End::Finished { confirmed: true })
    );
}

#[test]
fn a_repeated_ack_brings_no_data_in_lockstep() {
    let (mut machine, _) = Machine::new(&terms(1, false), 9, MS);
    assert_eq!(ack(&mut machine, 1, 2 * MS), blocks(2, 1));
    for n in 3..10 {
        assert_eq!(ack(&mut machine, 1, n * MS), Output::Wait);
        assert_eq!(ack(&mut machine, 0, n * MS), Output::Wait);
    }
    assert_eq!(ack(&mut machine, 2, 12 * MS), blocks(3, 1));
}

#[test]
fn a_short_ack_goes_back_to_the_block_after_it() {
    let (mut machine, _) = Machine::new(&terms(4, true), 20, MS);
    assert_eq!(ack(&mut machine, 0, 2 * MS), blocks(1, 4));
    assert_eq!(ack(&mut machine, 2, 4 * MS), blocks(3, 4));
    assert_eq!(machine.retransmitted(), 2);
    assert_eq!(ack(&mut machine, 6, 6 * MS), blocks(7, 4));
}

#[test]
fn a_repeated_ack_goes_back_once_when_the_first_block_of_a_window_is_lost() {
    let (mut machine, _) = Machine::new(&terms(4, true), 20, MS);
    assert_eq!(ack(&mut machine, 0, 2 * MS), blocks(1, 4));
    assert_eq!(ack(&mut machine, 4, 3 * MS), blocks(5, 4));
    // Too early for an answer: the network has repeated the ACK.
    assert_eq!(ack(&mut machine, 4, 3 * MS + MS / 10), Output::Wait);
    assert_eq!(ack(&mut machine, 4, 4 * MS), blocks(5, 4));
    for n in 5..9 {
        assert_eq!(ack(&mut machine, 4, n * MS), Output::Wait);
    }
    assert_eq!(ack(&mut machine, 8, 9 * MS), blocks(9, 4));
}

#[test]
fn a_client_that_acknowledges_each_block_of_a_window_makes_no_storm() {
    let (mut machine, _) = Machine::new(&terms(8, true), 1000, MS);
    assert_eq!(ack(&mut machine, 0, 11 * MS), blocks(1, 8));
    let mut sent = 0u64;
    for n in 1..=8u16 {
        if let Output::Blocks { count, .. } = ack(&mut machine, n, 21 * MS) {
            sent += u64::from(count);
        }
    }
    assert!(sent <= 16, "{sent} blocks for 8 acknowledged ones");
}

#[test]
fn the_block_number_goes_from_65535_to_0() {
    let (mut machine, _) = Machine::new(&terms(1, false), 70_000, MS);
    for block in 1..=65_535u64 {
        assert_eq!(ack(&mut machine, block as u16, MS), blocks(block + 1, 1));
    }
    assert_eq!(ack(&mut machine, 65_535, MS), Output::Wait);
    assert_eq!(ack(&mut machine, 0, MS), blocks(65_537, 1));
    assert_eq!(ack(&mut machine, 1, MS), blocks(65_538, 1));
}

#[test]
fn the_first_timeout_is_far_below_a_second_and_later_ones_double() {
    let (mut machine, _) = Machine::new(&terms(1, false), 9, Duration::ZERO);
    assert!(machine.deadline() <= 250 * MS);
    assert_eq!(ack(&mut machine, 1, MS), blocks(2, 1));
    let mut now = MS;
    let mut waits = Vec::new();
    for _ in 0..9 {
        let due = machine.deadline();
        waits.push((due - now).as_millis());
        assert_eq!(machine.timeout(due - MS), Output::Wait);
        assert_eq!(machine.timeout(due), blocks(2, 1));
        now = due;
    }
    assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
    assert_eq!(machine.retransmitted(), 9);
}

#[test]
fn the_timeout_option_bounds_the_wait() {
    let oack = Options {
        timeout: Some(1),
        ..Options::default()
    };
    let terms = Terms {
        oack,
        ..terms(1, false)
    };
    let (mut machine, _) = Machine::new(&terms, 9, Duration::ZERO);
    let mut now = Duration::ZERO;
    for _ in 0..12 {
        assert!(machine.deadline() - now <= Duration::from_secs(1));
        now = machine.deadline();
        machine.timeout(now);
    }
}

#[test]
fn a_silent_client_is_given_up_after_half_a_minute() {
    let (mut machine, _) = Machine::new(&terms(1, true), 9, Duration::ZERO);
    let mut sends = 0;
    let end = loop {
        let now = machine.deadline();
        match machine.timeout(now) {
            Output::OptionAck => sends += 1,
            Output::End(end) => break (end, now),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(end.0, End::Silent);
    assert!(end.1 >= GIVE_UP && end.1 < GIVE_UP + MAX_RTO, "{:?}", end.1);
    assert!((10..40).contains(&sends), "{sends}");
}

#[test]
fn no_round_trip_is_measured_on_what_was_sent_twice() {
    let (mut machine, _) = Machine::new(&terms(1, false), 9, Duration::ZERO);
    let due = machine.deadline();
    assert_eq!(machine.timeout(due), blocks(1, 1));
    // Microseconds after the second sending: the ACK is of the first.
    assert_eq!(ack(&mut machine, 1, due + MS / 50), blocks(2, 1));
    assert!(
        machine.deadline() - due > 300 * MS,
        "the timeout stays doubled"
    );
}

#[test]
fn an_error_from_the_client_ends_the_transfer() {
    let (mut machine, _) = Machine::new(&terms(1, true), 9, MS);
    let error = Packet::Error {
        code: ErrorCode::OPTION_REFUSED,
        message: b"only the size",
    };
    assert_eq!(
        machine.packet(&error, 2 * MS),
        Output::End(End::Aborted {
            code: Some(ErrorCode::OPTION_REFUSED),
            message: "only the size".into()
        })
    );
}

#[test]
fn a_closed_port_is_an_abort_unless_only_the_last_ack_is_missing() {
    let (mut machine, _) = Machine::new(&terms(1, false), 2, MS);
    let aborted = Output::End(End::Aborted {
        code: None,
        message: String::new(),
    });
    assert_eq!(machine.clone().unreachable(), aborted);
    ack(&mut machine, 1, 2 * MS);
    assert_eq!(machine.clone().unreachable(), aborted);
    machine.timeout(machine.deadline());
    assert_eq!(
        machine.unreachable(),
        Output::End(End::Finished { confirmed: false })
    );
}

/// Something that happens to a machine.
#[derive(Debug, Clone)]
enum Event {
    Ack(u16),
    NearAck(i8),
    Bytes(Vec<u8>),
    Timeout,
    Pass(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => any::<u16>().prop_map(Event::Ack),
        6 => (-3i8..40).prop_map(Event::NearAck),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Event::Bytes),
        2 => Just(Event::Timeout),
        2 => any::<u16>().prop_map(Event::Pass),
    ]
}

proptest! {
    /// Whatever a client does: every flight lies within the file and the window, begins right after
    /// what was acknowledged, never before it, and no event brings more than one flight.
    #[test]
    fn flights_stay_within_the_window(
        windowsize in 1..=64u16,
        oack in any::<bool>(),
        file in prop_oneof![1..200u64, 65_400..65_700u64],
        events in prop::collection::vec(event(), 0..400),
    ) {
        let mut now = Duration::ZERO;
        let (mut machine, mut output) = Machine::new(&terms(windowsize, oack), file, now);
        let mut base = 0;
        for event in events {
            match output {
                Output::Blocks { first, count } => {
                    prop_assert_eq!(first, machine.base());
                    prop_assert!(count >= 1 && count <= windowsize);
                    prop_assert!(first + u64::from(count) - 1 <= file);
                }
                Output::OptionAck => prop_assert!(oack && machine.acknowledged() == 0),
                Output::Wait => {}
                Output::End(_) => break,
            }
            prop_assert!(machine.base() >= base);
            prop_assert!(machine.deadline() <= now + MAX_RTO);
            base = machine.base();
            output = match event {
                Event::Ack(block) => ack(&mut machine, block, now),
                Event::NearAck(step) => {
                    let block = base.wrapping_add_signed(i64::from(step)) as u16;
                    ack(&mut machine, block, now)
                }
                Event::Bytes(bytes) => match Packet::decode(&bytes) {
                    Ok(packet) => machine.packet(&packet, now),
                    Err(_) => Output::Wait,
                },
                Event::Timeout => {
                    now = now.max(machine.deadline());
                    machine.timeout(now)
                }
                Event::Pass(micros) => {
                    now += Duration::from_micros(u64::from(micros));
                    Output::Wait
                }
            };
        }
    }
}
