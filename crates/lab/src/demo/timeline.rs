//! Where the time went: one bar for each stage, from power-on to the first boot from disk.

use bugler_model::{BootSession, Outcome, Stage, Timestamp};
use std::fmt::Write;

/// The width of the drawing, in columns.
const WIDTH: i64 = 44;

/// What is known of one story.
#[derive(Clone, Debug)]
pub(super) struct Times {
    /// When the machine was switched on.
    pub(super) power_on: Timestamp,
    /// Its boots, in any order.
    pub(super) boots: Vec<BootSession>,
    /// When the deploy was ordered, began to write, began to read back, and was done.
    pub(super) deploy: Deploy,
    /// When the machine said that it was up from its own disk.
    pub(super) up: Timestamp,
}

/// The times of a deploy. What was not seen is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Deploy {
    pub(super) ordered: Option<Timestamp>,
    pub(super) writing: Option<Timestamp>,
    pub(super) verifying: Option<Timestamp>,
    pub(super) done: Option<Timestamp>,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bar {
    label: &'static str,
    from: Timestamp,
    to: Timestamp,
}

/// What happens from the beginning of a stage until the next one begins.
fn meaning(stage: Stage) -> &'static str {
    match stage {
        Stage::Dhcp => "DHCP of the firmware",
        Stage::Loader => "boot loader, by TFTP",
        Stage::Script => "boot script, by HTTP",
        Stage::Kernel => "kernel, by HTTP",
        Stage::Initramfs => "initramfs, by HTTP",
        Stage::Start => "kernel starts",
        Stage::Agent => "agent registers",
        Stage::Registered => "registered",
        Stage::Local => "starts from its disk",
    }
}

/// The stages one after the other: each begins where the one before ends.
fn bars(times: &Times) -> Vec<Bar> {
    let mut marks = vec![("firmware", times.power_on)];
    if let Some(boot) = times
        .boots
        .iter()
        .filter(|b| b.outcome == Outcome::Registered)
        .min_by_key(|b| b.started)
    {
        marks.extend(boot.stages.iter().map(|&(stage, at)| (meaning(stage), at)));
    }
    // From here to the order the machine waits for a person: that is not a stage.
    let deploy = &times.deploy;
    let pause = deploy.ordered.map(|at| (PAUSE_ENDS, at));
    let writing = deploy.writing.map(|at| ("deploy: fetch and write", at));
    let verifying = deploy.verifying.map(|at| ("deploy: read back", at));
    let done = deploy.done.map(|at| ("reboot, firmware", at));
    marks.extend([pause, writing, verifying, done].into_iter().flatten());
    let local = times
        .boots
        .iter()
        .filter(|b| b.outcome == Outcome::Local)
        .max_by_key(|b| b.started);
    let told = local.and_then(|b| b.stages.iter().find(|(stage, _)| *stage == Stage::Local));
    marks.extend(told.map(|&(stage, at)| (meaning(stage), at)));
    marks.push(("", times.up));
    let next = marks.iter().skip(1);
    let all = marks
        .iter()
        .zip(next)
        .map(|(&(label, from), &(_, to))| Bar { label, from, to });
    all.filter(|bar| bar.label != meaning(Stage::Registered) && bar.to >= bar.from)
        .collect()
}

/// What the time between the order and the agent's first write is called.
const PAUSE_ENDS: &str = "deploy: ordered";

/// Draws the story. `ink` is what bars are made of.
pub(super) fn draw(times: &Times, ink: char) -> String {
    let total = times.up.millis_since(times.power_on).max(1);
    let column = |at: Timestamp| (at.millis_since(times.power_on) * WIDTH / total).clamp(0, WIDTH);
    let mut text = String::new();
    for bar in bars(times) {
        let (from, to) = (column(bar.from).min(WIDTH - 1), column(bar.to));
        // However short, it shows.
        let length = (to - from).max(1);
        let blank = " ".repeat(usize::try_from(from).unwrap_or(0));
        let drawn = ink.to_string().repeat(usize::try_from(length).unwrap_or(1));
        let _ = writeln!(
            text,
            "      {:24}{:7.1} s  |{:width$}|",
            bar.label,
            seconds(bar.to.millis_since(bar.from)),
            format!("{blank}{drawn}"),
            width = usize::try_from(WIDTH).unwrap_or(0),
        );
    }
    let _ = writeln!(text, "      {:24}{:7.1} s", "in all", seconds(total));
    text
}

fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::{DeviceId, SessionId};

    fn boot(number: u64, outcome: Outcome, stages: &[(Stage, i64)]) -> BootSession {
        let stages: Vec<_> = stages
            .iter()
            .map(|&(stage, at)| (stage, Timestamp(at)))
            .collect();
        BootSession {
            id: SessionId(number),
            device: DeviceId(1),
            firmware: None,
            started: stages[0].1,
            stages,
            outcome,
        }
    }

    fn times() -> Times {
        let first = [
            (Stage::Dhcp, 5_000),
            (Stage::Script, 6_000),
            (Stage::Kernel, 6_500),
            (Stage::Start, 9_000),
            (Stage::Registered, 14_000),
        ];
        let second = [(Stage::Dhcp, 44_000), (Stage::Local, 44_000)];
        Times {
            power_on: Timestamp(1_000),
            // Latest first, as the server lists them.
            boots: vec![
                boot(2, Outcome::Local, &second),
                boot(1, Outcome::Registered, &first),
            ],
            deploy: Deploy {
                ordered: Some(Timestamp(20_000)),
                writing: Some(Timestamp(21_000)),
                verifying: Some(Timestamp(35_000)),
                done: Some(Timestamp(38_000)),
            },
            up: Timestamp(55_000),
        }
    }

    #[test]
    fn every_stage_has_its_bar_and_waiting_for_a_person_has_none() {
        let drawn = draw(&times(), '#');
        let expected = "      firmware                    4.0 s  |###                                         |
      DHCP of the firmware        1.0 s  |   #                                        |
      boot script, by HTTP        0.5 s  |    #                                       |
      kernel, by HTTP             2.5 s  |    ##                                      |
      kernel starts               5.0 s  |      ####                                  |
      deploy: ordered             1.0 s  |               #                            |
      deploy: fetch and write    14.0 s  |                ###########                 |
      deploy: read back           3.0 s  |                           ###              |
      reboot, firmware            6.0 s  |                              #####         |
      starts from its disk       11.0 s  |                                   #########|
      in all                     54.0 s
";
        assert_eq!(drawn, expected, "\n{drawn}");
    }

    #[test]
    fn what_was_not_seen_is_left_out() {
        let mut times = times();
        times.boots.clear();
        times.deploy = Deploy {
            done: times.deploy.done,
            ..Deploy::default()
        };
        let labels: Vec<_> = bars(&times).into_iter().map(|bar| bar.label).collect();
        assert_eq!(labels, ["firmware", "reboot, firmware"]);
        times.up = times.power_on;
        assert!(draw(&times, '#').contains("in all"));
    }
}
