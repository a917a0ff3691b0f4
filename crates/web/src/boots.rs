//! Boot sessions as bars: how long each stage took.

use crate::text::{Moment, duration};
use bugler_model::{BootSession, Outcome, Stage, Timestamp};

/// Width of a bar, in the units of its picture.
const WIDTH: i64 = 1000;

/// A boot.
pub(crate) struct BootView {
    pub(crate) id: String,
    pub(crate) started: Moment,
    pub(crate) firmware: String,
    pub(crate) outcome: &'static str,
    /// From the first packet to the last stage, in words.
    pub(crate) total: String,
    pub(crate) stages: Vec<StageView>,
}

/// One stage of a boot: from when it was reached to when the next one was.
pub(crate) struct StageView {
    pub(crate) name: &'static str,
    pub(crate) class: &'static str,
    pub(crate) took: String,
    /// Where on the bar it begins, and how wide it is; 0 to 1000.
    pub(crate) x: i64,
    pub(crate) width: i64,
}

fn words(stage: Stage) -> (&'static str, &'static str) {
    match stage {
        Stage::Dhcp => ("DHCP", "s1"),
        Stage::Loader => ("loader", "s2"),
        Stage::Script => ("script", "s3"),
        Stage::Kernel => ("kernel transfer", "s4"),
        Stage::Initramfs => ("initramfs transfer", "s5"),
        Stage::Start => ("kernel start", "s6"),
        Stage::Agent => ("agent", "s7"),
        Stage::Registered => ("registered", "s8"),
        Stage::Local => ("local disk", "s9"),
    }
}

impl BootView {
    pub(crate) fn new(session: &BootSession, now: Timestamp) -> Self {
        let mut reached = session.stages.clone();
        // They are kept in the order they were reached, which is that of time but for a clock
        // that was set back.
        reached.sort_by_key(|(_, at)| *at);
        let first = reached
            .first()
            .map_or(session.started, |(_, at)| (*at).min(session.started));
        let last = reached
            .last()
            .map_or(session.started, |(_, at)| (*at).max(session.started));
        let whole = last.millis_since(first).max(1);
        let place = |at: Timestamp| {
            let offset = i128::from(at.millis_since(first)) * i128::from(WIDTH) / i128::from(whole);
            i64::try_from(offset).unwrap_or(WIDTH).clamp(0, WIDTH)
        };
        let ends = reached.iter().skip(1).map(|(_, at)| *at).chain([last]);
        let stages = reached
            .iter()
            .zip(ends)
            .map(|(&(stage, at), end)| {
                let (name, class) = words(stage);
                StageView {
                    name,
                    class,
                    took: duration(end.millis_since(at) as f64 / 1000.0),
                    x: place(at),
                    width: place(end) - place(at),
                }
            })
            .collect();
        Self {
            id: session.id.to_string(),
            started: Moment::new(session.started, now),
            firmware: session
                .firmware
                .map(|firmware| firmware.to_string())
                .unwrap_or_default(),
            outcome: match session.outcome {
                Outcome::Open => "under way",
                Outcome::Registered => "the agent registered",
                Outcome::Local => "sent to its local disk",
                Outcome::Superseded => "began again",
            },
            total: duration(last.millis_since(first) as f64 / 1000.0),
            stages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::{DeviceId, SessionId};
    use proptest::prelude::*;

    fn boot(stages: Vec<(Stage, Timestamp)>) -> BootView {
        let session = BootSession {
            id: SessionId(1),
            device: DeviceId(1),
            firmware: None,
            started: Timestamp(1000),
            stages,
            outcome: Outcome::Registered,
        };
        BootView::new(&session, Timestamp(60_000))
    }

    #[test]
    fn a_bar_shows_each_stage_by_its_length() {
        let view = boot(vec![
            (Stage::Dhcp, Timestamp(1000)),
            (Stage::Kernel, Timestamp(2000)),
            (Stage::Registered, Timestamp(5000)),
        ]);
        assert_eq!(view.total, "4.0 s");
        let bars: Vec<_> = view
            .stages
            .iter()
            .map(|s| (s.name, s.x, s.width, s.took.as_str()))
            .collect();
        assert_eq!(
            bars,
            [
                ("DHCP", 0, 250, "1.0 s"),
                ("kernel transfer", 250, 750, "3.0 s"),
                ("registered", 1000, 0, "0.0 s"),
            ]
        );
        assert!(boot(vec![]).stages.is_empty());
    }

    proptest! {
        #[test]
        fn no_stage_leaves_the_bar(times in proptest::collection::vec(any::<i64>(), 0..9)) {
            let stages = times.into_iter().map(|at| (Stage::Kernel, Timestamp(at))).collect();
            for stage in boot(stages).stages {
                prop_assert!(stage.width >= 0 && stage.x >= 0 && stage.x + stage.width <= WIDTH);
            }
        }
    }
}
