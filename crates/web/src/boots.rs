//! Boot sessions as pictures: a bar for each stage, from when it was reached to the next.

use crate::text::{Moment, duration};
use bugler_model::{BootSession, Outcome, Stage, Timestamp};

/// Width of the picture, in its own units.
const WIDTH: i64 = 1000;

/// The least width of a bar: what took no time is still seen.
const LEAST: i64 = 6;

/// A boot.
pub(crate) struct BootView {
    pub(crate) id: String,
    pub(crate) started: Moment,
    pub(crate) firmware: String,
    pub(crate) outcome: &'static str,
    /// From the first packet to the last stage, in words; of a boot under way, to now.
    pub(crate) total: String,
    /// When it was last heard, of a boot under way.
    pub(crate) heard: Option<Moment>,
    pub(crate) stages: Vec<StageView>,
}

/// One stage of a boot: from when it was reached to when the next one was.
pub(crate) struct StageView {
    pub(crate) name: &'static str,
    pub(crate) class: &'static str,
    /// How long after the first packet it was reached.
    pub(crate) at: String,
    pub(crate) took: String,
    /// Where in the picture its bar begins, and how wide it is; together at most 1000.
    pub(crate) x: i64,
    pub(crate) width: i64,
    /// Whether it goes on.
    pub(crate) open: bool,
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
        // The last stage of a boot under way goes on until now.
        let open = session.outcome == Outcome::Open;
        let until = if open { now.max(last) } else { last };
        let whole = until.millis_since(first).max(1);
        let place = |at: Timestamp| {
            let offset = i128::from(at.millis_since(first)) * i128::from(WIDTH) / i128::from(whole);
            i64::try_from(offset).unwrap_or(WIDTH).clamp(0, WIDTH)
        };
        let ends = reached.iter().skip(1).map(|(_, at)| *at).chain([until]);
        let count = reached.len();
        let stages = reached
            .iter()
            .zip(ends)
            .enumerate()
            .map(|(index, (&(stage, at), end))| {
                let (name, class) = words(stage);
                let width = (place(end) - place(at)).max(LEAST);
                StageView {
                    name,
                    class,
                    at: duration(at.millis_since(first) as f64 / 1000.0),
                    took: duration(end.millis_since(at) as f64 / 1000.0),
                    x: place(at).min(WIDTH - width),
                    width,
                    open: open && index + 1 == count,
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
                Outcome::Started => "given what its profile boots",
                Outcome::Up => "its operating system is up",
                Outcome::Superseded => "began again",
            },
            total: duration(until.millis_since(first) as f64 / 1000.0),
            heard: open.then(|| Moment::new(last, now)),
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
        boot_with(Outcome::Registered, stages)
    }

    fn boot_with(outcome: Outcome, stages: Vec<(Stage, Timestamp)>) -> BootView {
        let session = BootSession {
            id: SessionId(1),
            device: DeviceId(1),
            firmware: None,
            started: Timestamp(1000),
            stages,
            outcome,
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
                ("registered", 994, 6, "0.0 s"),
            ]
        );
        assert_eq!(view.stages[1].at, "1.0 s");
        assert!(view.heard.is_none() && view.stages.iter().all(|stage| !stage.open));
        assert!(boot(vec![]).stages.is_empty());
    }

    #[test]
    fn the_last_stage_of_a_boot_under_way_goes_on_until_now() {
        let stages = vec![
            (Stage::Dhcp, Timestamp(1000)),
            (Stage::Loader, Timestamp(30_500)),
        ];
        let view = boot_with(Outcome::Open, stages);
        assert_eq!(
            (view.total.as_str(), view.stages[1].took.as_str()),
            ("59 s", "30 s")
        );
        assert_eq!((view.stages[1].x, view.stages[1].width), (500, 500));
        assert!(view.stages[1].open && !view.stages[0].open);
        assert_eq!(view.heard.unwrap().millis, 30_500);
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
