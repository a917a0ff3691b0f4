//! What the server kept of a device, as a timeline: its boot sessions, and the events in words.
//!
//! Events are sentences for people. Those of which the shape is known become steps; every other is
//! a line of the story. They have no fields beside the sentence: those that a registry has kept from
//! an earlier version would have none, so the sentences would have to be read all the same.

use crate::timeline::{
    Asking, Client, End, Fetch, Protocol, Role, Source, Step, Timeline, What, Who,
};
use bugler_dhcp::{PXE_PORT, SERVER_PORT};
use bugler_model::{BootSession, Device, Event, EventKind, Firmware, Outcome, Stage, Timestamp};

/// A device's timeline. `sessions` and `events` may be in any order; events of other devices are
/// passed over. `now` is until when the server watched.
#[must_use]
pub fn timeline(
    device: &Device,
    sessions: &[BootSession],
    events: &[Event],
    now: Timestamp,
) -> Timeline {
    let about = Who {
        firmware: device.firmware,
        arch: device.arch,
        uuid: device.uuid,
        ..Who::default()
    };
    let earliest = sessions.iter().map(|session| session.started).min();
    let mut steps: Vec<Step> = events
        .iter()
        .filter(|event| event.device == Some(device.id))
        .filter(|event| {
            matches!(
                event.kind,
                EventKind::Boot | EventKind::Lease | EventKind::Device
            )
        })
        // Without its session an event says little: the boot began before what is known.
        .filter(|event| earliest.is_none_or(|earliest| event.at >= earliest))
        .flat_map(|event| step(event, &about))
        .collect();
    for session in sessions {
        let ends = sessions
            .iter()
            .map(|other| other.started)
            .filter(|started| *started > session.started)
            .min()
            .unwrap_or(Timestamp(i64::MAX));
        add_session(&mut steps, session, ends);
    }
    // What began a boot stands before what happened at the same moment.
    steps.sort_by_key(|step| (step.at, !matches!(step.what, What::Began { .. })));
    let mut facts = vec![];
    for step in &steps {
        if let What::Asked { who, .. } = &step.what
            && !facts.contains(who)
            && facts.len() < 8
        {
            facts.push(who.clone());
        }
    }
    if facts.is_empty() {
        facts.push(about);
    }
    Timeline {
        source: Source::Server,
        client: Client {
            name: device.name.clone(),
            macs: device.macs.clone(),
            address: device.address,
            facts,
        },
        steps,
        until: now,
    }
}

/// Adds a session's stages, but for those that an event tells more of.
fn add_session(steps: &mut Vec<Step>, session: &BootSession, ends: Timestamp) {
    let began = What::Began {
        session: Some(session.id.to_string()),
    };
    let told = |role: Role, steps: &[Step]| {
        steps.iter().any(|step| {
            step.at >= session.started
                && step.at < ends
                && matches!(&step.what, What::Fetched(fetch) if fetch.role == role)
        })
    };
    let mut local = session.outcome == Outcome::Local;
    let mut registered = session.outcome == Outcome::Registered;
    let mut found = vec![];
    for (stage, at) in &session.stages {
        let role = match stage {
            Stage::Loader => Some((Role::Loader, Protocol::Tftp)),
            Stage::Kernel => Some((Role::Kernel, Protocol::Http)),
            Stage::Initramfs => Some((Role::Initramfs, Protocol::Http)),
            _ => None,
        };
        let what = match (stage, role) {
            (_, Some((role, _))) if told(role, steps) => {
                began_at(steps, role, *at, ends);
                continue;
            }
            (_, Some((role, by))) => What::Fetched(Fetch {
                by,
                path: role.words().trim_start_matches("the ").to_owned(),
                role,
                server: None,
                bytes: 0,
                took_ms: 0,
                resent: 0,
                block: None,
                fragmented: false,
                end: End::Open,
            }),
            (Stage::Agent, _) => What::Agent,
            (Stage::Registered, _) => {
                registered = false;
                What::Registered
            }
            (Stage::Local, _) => {
                local = false;
                What::Local
            }
            _ => continue,
        };
        found.push(Step { at: *at, what });
    }
    let last = found.last().map_or(session.started, |step| step.at);
    if local {
        found.push(Step {
            at: last,
            what: What::Local,
        });
    }
    if registered {
        found.push(Step {
            at: last,
            what: What::Registered,
        });
    }
    if session.outcome == Outcome::Started {
        found.push(Step {
            at: last,
            what: What::Started,
        });
    }
    steps.push(Step {
        at: session.started,
        what: began,
    });
    steps.append(&mut found);
}

/// Puts the first transfer of a file of this kind to where it began. What the server says of HTTP
/// has only its end.
fn began_at(steps: &mut [Step], role: Role, at: Timestamp, ends: Timestamp) {
    for step in steps {
        if let What::Fetched(fetch) = &mut step.what
            && fetch.role == role
            && fetch.took_ms == 0
            && step.at >= at
            && step.at < ends
        {
            fetch.took_ms = u64::try_from(step.at.millis_since(at)).unwrap_or_default();
            step.at = at;
            return;
        }
    }
}

/// Whether a sentence says what the steps of a session say as well.
fn is_stage(text: &str) -> bool {
    text.ends_with("into its boot)") || text.contains(" began to boot")
}

fn step(event: &Event, about: &Who) -> Vec<Step> {
    let at = event.at;
    let text = event.text.as_str();
    if is_stage(text) {
        return vec![];
    }
    let whats = if let Some(fetch) = sent(text).or_else(|| not_sent(text)) {
        let began = at.plus_millis(-i64::try_from(fetch.took_ms).unwrap_or(i64::MAX));
        return vec![Step {
            at: began,
            what: What::Fetched(fetch),
        }];
    } else if let Some(asked) = asked(text, about) {
        asked
    } else {
        vec![What::Note { text: text.into() }]
    };
    whats.into_iter().map(|what| Step { at, what }).collect()
}

/// `DISCOVER from 52:54:00:00:00:01 (UEFI PXE, arch 7): snponly.efi over TFTP, because ...`
fn asked(text: &str, about: &Who) -> Option<Vec<What>> {
    let (message, rest) = text.split_once(" from ")?;
    let (message, port) = match message {
        "DISCOVER" => (Asking::Discover, SERVER_PORT),
        "REQUEST" => (Asking::Request, SERVER_PORT),
        "INFORM" => (Asking::Inform, SERVER_PORT),
        "boot server request" => (Asking::Request, PXE_PORT),
        _ => return None,
    };
    let (rest, why) = rest.split_once(", because ")?;
    let (client, answer) = rest.rsplit_once("): ")?;
    let mut who = about.clone();
    if let Some((_, kind)) = client.split_once(" (") {
        const KINDS: [Firmware; 7] = [
            Firmware::RaspberryPi,
            Firmware::UBoot,
            Firmware::BiosPxe,
            Firmware::UefiPxe,
            Firmware::UefiHttp,
            Firmware::IpxeBios,
            Firmware::IpxeUefi,
        ];
        let known = KINDS
            .into_iter()
            .find(|firmware| kind.starts_with(&firmware.to_string()));
        who.firmware = known.or(who.firmware);
        if let Some((_, numbers)) = kind.split_once("arch ") {
            who.archs = numbers.split('+').filter_map(|n| n.parse().ok()).collect();
        }
    }
    let boot = (!answer.starts_with("no boot options")).then(|| answer.to_owned());
    Some(vec![
        What::Asked {
            message,
            who,
            secs: 0,
            port,
            server: None,
            address: None,
        },
        What::Decided {
            boot,
            why: why.to_owned(),
        },
    ])
}

fn fetch(by: Protocol, path: &str, bytes: u64, end: End) -> Fetch {
    Fetch {
        by,
        path: path.to_owned(),
        role: Role::of(path),
        server: None,
        bytes,
        took_ms: 0,
        resent: 0,
        block: None,
        fragmented: false,
        end,
    }
}

/// `712 bytes ...` -> 712 and the rest.
fn bytes(text: &str) -> Option<(u64, &str)> {
    let (number, rest) = text.split_once(" bytes")?;
    Some((number.parse().ok()?, rest))
}

/// `TFTP sent undionly.kpxe: 70000 bytes in 0.31 s, 2 blocks sent again`; over HTTP without a time.
fn sent(text: &str) -> Option<Fetch> {
    let (by, rest) = match text.split_once(" sent ")? {
        ("TFTP", rest) => (Protocol::Tftp, rest),
        ("HTTP", rest) => (Protocol::Http, rest),
        _ => return None,
    };
    let (path, rest) = rest.rsplit_once(": ")?;
    let (length, rest) = bytes(rest)?;
    let mut fetch = fetch(by, path, length, End::Whole);
    if let Some(rest) = rest.strip_prefix(" in ") {
        let (seconds, rest) = rest.split_once(" s")?;
        let seconds: f64 = seconds.parse().ok().filter(|s| (0.0..1e9).contains(s))?;
        fetch.took_ms = (seconds * 1000.0) as u64;
        if let Some(again) = rest.strip_prefix(", ") {
            fetch.resent = again.split(' ').next()?.parse().unwrap_or_default();
        }
    }
    Some(fetch)
}

/// The other ends of a transfer.
fn not_sent(text: &str) -> Option<Fetch> {
    let (by, rest) = match text.split_once(": ")? {
        ("TFTP", rest) => (Protocol::Tftp, rest),
        ("HTTP", rest) => (Protocol::Http, rest),
        _ => return None,
    };
    if let Some(path) = rest.strip_prefix("there is no ") {
        let said = "file not found".to_owned();
        return Some(fetch(by, path, 0, End::Missing(said)));
    }
    if let Some(rest) = rest.strip_prefix("refused ") {
        let (path, why) = rest.split_once(": ")?;
        return Some(fetch(by, path, 0, End::Refused(why.to_owned())));
    }
    if let Some(rest) = rest.strip_prefix("the client ended ") {
        let (path, rest) = rest.split_once(" after ")?;
        let (length, said) = bytes(rest)?;
        let said = said.trim_start_matches(": ").to_owned();
        return Some(fetch(by, path, length, End::Aborted(said)));
    }
    if let Some((path, rest)) = rest.split_once(" failed after ") {
        let (length, _) = bytes(rest)?;
        // The server gave up on a client that was silent: nobody else said anything.
        return Some(fetch(by, path, length, End::Open));
    }
    let (path, rest) = rest.split_once(" was cut off after ")?;
    let (length, _) = bytes(rest)?;
    Some(fetch(
        by,
        path,
        length,
        End::Aborted("the connection was cut off".into()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::{Verdict, explain};
    use bugler_model::{DeviceId, EventId, SessionId};
    use proptest::prelude::*;

    #[test]
    fn sentences_of_the_server_become_steps() {
        let whole =
            sent("TFTP sent undionly.kpxe: 70000 bytes in 0.31 s, 2 blocks sent again").unwrap();
        assert_eq!((whole.bytes, whole.took_ms, whole.resent), (70_000, 310, 2));
        assert_eq!((whole.role, &whole.end), (Role::Loader, &End::Whole));
        let whole = sent("HTTP sent bootenv/x86_64/v1/initrd: 9000000 bytes").unwrap();
        assert_eq!((whole.by, whole.role), (Protocol::Http, Role::Initramfs));
        for (text, path, end) in [
            (
                "TFTP: there is no a b.efi",
                "a b.efi",
                End::Missing("file not found".into()),
            ),
            (
                "TFTP: refused x: writing is not allowed",
                "x",
                End::Refused("writing is not allowed".into()),
            ),
            (
                "TFTP: the client ended vmlinuz after 512 bytes: TFTP Aborted",
                "vmlinuz",
                End::Aborted("TFTP Aborted".into()),
            ),
            (
                "TFTP: vmlinuz failed after 1024 bytes: no answer",
                "vmlinuz",
                End::Open,
            ),
            (
                "HTTP: bootenv/x86_64/v1/vmlinuz was cut off after 77 bytes",
                "bootenv/x86_64/v1/vmlinuz",
                End::Aborted("the connection was cut off".into()),
            ),
        ] {
            let found = not_sent(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((found.path.as_str(), &found.end), (path, &end), "{text}");
        }
        let text = "DISCOVER from 52:54:00:00:00:01 (iPXE (UEFI), arch 7): ipxe/52:54:00:00:00:01 over HTTP, \
                    because its profile is the agent";
        let steps = asked(text, &Who::default()).unwrap();
        let What::Asked { who, .. } = &steps[0] else {
            panic!()
        };
        assert_eq!(
            (who.firmware, &who.archs[..]),
            (Some(Firmware::IpxeUefi), &[7][..])
        );
        assert_eq!(
            steps[1],
            What::Decided {
                boot: Some("ipxe/52:54:00:00:00:01 over HTTP".into()),
                why: "its profile is the agent".into()
            }
        );
        let text = "REQUEST from 52:54:00:00:00:01 (BIOS PXE): no boot options, because its network boot is off";
        assert!(matches!(
            asked(text, &Who::default()).unwrap()[1],
            What::Decided { boot: None, .. }
        ));
    }

    fn device() -> Device {
        let json = serde_json::json!({
            "id": "d1", "name": "n1", "tags": [], "uuid": null, "macs": ["52:54:00:00:00:01"],
            "arch": "x86-64", "firmware": "uefi-pxe", "netboot": "on", "profile": null, "next": null,
            "secure_boot": false, "quirks": {}, "tries": 0, "presence": "booting", "address": null,
            "inventory": null, "created": 0, "seen": 0, "open_tasks": 0,
        });
        serde_json::from_value(json).unwrap()
    }

    fn session(number: u64, at: i64, stages: &[(Stage, i64)], outcome: Outcome) -> BootSession {
        BootSession {
            id: SessionId(number),
            device: DeviceId(1),
            firmware: Some(Firmware::UefiPxe),
            started: Timestamp(at),
            stages: stages
                .iter()
                .map(|(stage, at)| (*stage, Timestamp(*at)))
                .collect(),
            outcome,
        }
    }

    fn event(at: i64, text: &str) -> Event {
        Event {
            id: EventId(1),
            at: Timestamp(at),
            kind: EventKind::Boot,
            device: Some(DeviceId(1)),
            session: None,
            task: None,
            image: None,
            text: text.into(),
        }
    }

    const ASKED: &str = "DISCOVER from 52:54:00:00:00:01 (UEFI PXE, arch 7): snponly.efi over TFTP, \
                         because its profile is the agent";

    #[test]
    fn what_the_server_saw_is_explained_by_the_same_rules() {
        use Stage::{Dhcp, Initramfs, Kernel, Loader, Registered};
        let said = |sessions: &[BootSession], events: &[Event], now: i64| {
            let explanation = explain(&timeline(&device(), sessions, events, Timestamp(now)));
            (
                explanation.verdict,
                explanation.cause.map_or("", |cause| cause.rule),
                explanation.boots,
            )
        };
        let begun = session(1, 1000, &[(Dhcp, 1000)], Outcome::Open);
        let asked = event(1000, ASKED);
        let one = std::slice::from_ref(&begun);
        assert_eq!(
            said(one, std::slice::from_ref(&asked), 3000),
            (Verdict::Underway, "", 1)
        );
        assert_eq!(
            said(one, std::slice::from_ref(&asked), 99_000),
            (Verdict::Stopped, "answer-ignored", 1)
        );
        let loaded = [session(
            1,
            1000,
            &[(Dhcp, 1000), (Loader, 2000)],
            Outcome::Open,
        )];
        let sent = event(2500, "TFTP sent snponly.efi: 260000 bytes in 0.50 s");
        assert_eq!(
            said(&loaded, &[asked.clone(), sent.clone()], 99_000),
            (Verdict::Stopped, "loader-silent", 1)
        );
        // How the transfer ended is not known: the server still tries.
        assert_eq!(
            said(&loaded, std::slice::from_ref(&asked), 60_000).0,
            Verdict::Underway
        );
        let stages = [(Dhcp, 1000), (Kernel, 3000), (Initramfs, 4000)];
        let kernel = [session(1, 1000, &stages, Outcome::Open)];
        let files = [
            asked.clone(),
            event(3500, "HTTP sent bootenv/x86_64/v1/vmlinuz: 9000000 bytes"),
            event(5000, "HTTP sent bootenv/x86_64/v1/initrd: 19000000 bytes"),
        ];
        assert_eq!(
            said(&kernel, &files, 200_000),
            (Verdict::Stopped, "agent-silent", 1)
        );
        // The server of a stream that ended does not know who ended it.
        let cut = event(
            3500,
            "HTTP: bootenv/x86_64/v1/vmlinuz was cut off after 4000000 bytes",
        );
        let half = [session(1, 1000, &stages[..2], Outcome::Open)];
        assert_eq!(
            said(&half, &[asked.clone(), cut], 200_000),
            (Verdict::Stopped, "connection-ended", 1)
        );
        let stages = [stages.to_vec(), vec![(Registered, 9000)]].concat();
        let fine = [session(1, 1000, &stages, Outcome::Registered)];
        assert_eq!(said(&fine, &files, 200_000), (Verdict::Fine, "", 1));
        // A transfer over HTTP begins with its stage.
        let told = explain(&timeline(&device(), &fine, &files, Timestamp(200_000)));
        let lines: Vec<_> = told
            .story
            .iter()
            .map(|line| (line.offset_ms, &line.text))
            .collect();
        let kernel = lines
            .iter()
            .find(|(_, text)| text.contains("vmlinuz"))
            .unwrap();
        assert!(
            kernel.0 == 2000 && kernel.1.ends_with("9.0 MB in 0.5 s"),
            "{lines:?}"
        );
        let off = [
            session(2, 500_000, &[(Dhcp, 500_000)], Outcome::Local),
            fine[0].clone(),
        ];
        assert_eq!(said(&off, &files, 600_000), (Verdict::Fine, "", 2));
        let silent = "DISCOVER from 52:54:00:00:00:01 (UEFI PXE, arch 6): no boot options, because \
                      UEFI PXE with architecture 6 has no loader here";
        assert_eq!(
            said(one, &[event(1000, silent)], 99_000),
            (Verdict::Stopped, "told-nothing", 1)
        );
        assert_eq!(said(&[], &[], 1000), (Verdict::NotAsked, "never-asked", 0));
        // Six boots, none of which got anywhere.
        let boots: Vec<BootSession> = (0..6)
            .map(|n| {
                session(
                    n,
                    60_000 * n as i64,
                    &[(Dhcp, 60_000 * n as i64)],
                    Outcome::Superseded,
                )
            })
            .collect();
        let explanation = explain(&timeline(&device(), &boots, &[], Timestamp(400_000)));
        assert_eq!(
            explanation.also.first().map(|finding| finding.rule),
            Some("boot-loop")
        );
    }

    proptest! {
        #[test]
        fn any_sentence_is_a_step(text in "(TFTP|HTTP|DISCOVER)( sent |: | from )[a-z ():,0-9.]{0,60}") {
            let _ = (sent(&text), not_sent(&text), asked(&text, &Who::default()));
        }
    }
}
