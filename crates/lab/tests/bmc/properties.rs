//! What holds on any network.

use crate::pair::{Pair, config};
use bugler_bmc::ipmi::commands::{Control, chassis_control, chassis_status};
use bugler_bmc::ipmi::machine::{Event, Failure, Pacing, SolEvent};
use bugler_lab::bmc::{Death, Faults, Model, Network};
use proptest::prelude::*;
use std::time::Duration;

fn networks() -> impl Strategy<Value = Network> {
    (0..400u16, 0..400u16, 0..3000u64, any::<u64>()).prop_map(|(loss, repeat, jitter, seed)| {
        let jitter = Duration::from_millis(jitter);
        Network::new(
            Faults {
                loss,
                repeat,
                jitter,
            },
            seed,
        )
    })
}

proptest! {
    #[test]
    fn a_reset_happens_once_at_most_and_everything_ends(
        network in networks(),
        delay in 0..4000u64,
        death in prop_oneof![
            3 => Just(None), 1 => Just(Some(Death::Before)), 1 => Just(Some(Death::After))
        ],
        busy in 0..3u32,
    ) {
        let model = Model {
            delay: Duration::from_millis(delay),
            death,
            busy,
            ..Model::default()
        };
        let mut pair = Pair::new(config("secret"), model, network);
        pair.bmc.chassis.on = true;
        pair.client.request(chassis_status(), Duration::ZERO);
        pair.client.request(chassis_control(Control::Reset), Duration::ZERO);
        let ended = pair.until(Duration::from_secs(600), |event| {
            matches!(event, Event::Failed(_) | Event::Answered { id: 2, .. })
        });
        prop_assert!(ended, "{:?}", pair.events);
        let blamed = pair.events.contains(&Event::Failed(Failure::Password));
        prop_assert!(!blamed, "the password was right");
        let now = pair.now;
        pair.client.close(now);
        pair.until(Duration::from_secs(600), |_| false);
        prop_assert!(pair.client.is_over());
        prop_assert_eq!(pair.client.deadline(), None);
        let resets = pair.bmc.chassis.controls.len();
        prop_assert!(resets <= 1, "{resets} resets");
        let confirmed = pair.events.iter().any(|event| {
            matches!(event, Event::Answered { id: 2, answer: Some(answer) } if answer.completion.0 == 0)
        });
        prop_assert!(!confirmed || resets == 1, "a reset was confirmed that never was");
    }

    #[test]
    fn what_is_typed_arrives_in_order_and_once(
        (loss, repeat, jitter, seed) in (0..200u16, 0..300u16, 0..300u64, any::<u64>()),
        room in 1..64usize,
        text in prop::collection::vec(any::<u8>(), 1..400),
    ) {
        let jitter = Duration::from_millis(jitter);
        let network = Network::new(Faults { loss, repeat, jitter }, seed);
        let model = Model { room, ..Model::default() };
        let mut pair = Pair::new(config("secret"), model, network);
        pair.client.open_console(false, Pacing::default(), Duration::ZERO);
        let up = pair.until(Duration::from_secs(300), |event| {
            matches!(event, Event::ConsoleUp | Event::Failed(_) | Event::ConsoleRefused(_))
        });
        prop_assert!(up, "{:?}", pair.events);
        let now = pair.now;
        pair.client.write(&text, now);
        let failed = pair.until(Duration::from_secs(900), |event| matches!(event, Event::Failed(_)));
        let typed = pair.bmc.typed();
        prop_assert!(text.starts_with(typed), "{typed:?} of {text:?}");
        let mut echo = Vec::new();
        for event in &pair.events {
            if let Event::Console(SolEvent::Data(data)) = event {
                echo.extend_from_slice(data);
            }
        }
        prop_assert!(typed.starts_with(&echo), "{echo:?} of {typed:?}");
        let console = pair.events.contains(&Event::ConsoleUp);
        if !failed && console {
            prop_assert_eq!(typed.len(), text.len());
            prop_assert_eq!(echo.len(), text.len());
            prop_assert_eq!(pair.client.unsent(), 0);
        }
    }
}
