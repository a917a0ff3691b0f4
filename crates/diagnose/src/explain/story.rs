//! A boot told line by line.

use super::Line;
use crate::timeline::{Answer, Asking, Boot, Client, End, Fetch, Protocol, Step, What, Who};
use bugler_dhcp::PXE_PORT;
use bugler_model::text::{bytes, clean};
use bugler_model::{Arch, Firmware};

/// Most lines of a story; beyond that the middle is left out.
const MOST_LINES: usize = 120;

/// A length of time: `0.3 s`, `4 min`.
pub(super) fn span(millis: i64) -> String {
    let seconds = millis.max(0) as f64 / 1000.0;
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

/// `UEFI PXE on x86-64 (architecture 7)`.
pub(super) fn who(who: &Who) -> String {
    let Some(firmware) = who.firmware else {
        return match &who.vendor_class {
            Some(class) => format!("an operating system ({class})"),
            None => "an operating system".into(),
        };
    };
    let arch = match who.arch {
        Some(Arch::X86) if firmware.is_uefi() => " on 32-bit x86",
        Some(Arch::X86_64) => " on x86-64",
        Some(Arch::Arm) => " on 32-bit Arm",
        Some(Arch::Aarch64) => " on 64-bit Arm",
        _ => "",
    };
    let numbers: Vec<String> = who.archs.iter().map(u16::to_string).collect();
    match (numbers.is_empty(), who.arch) {
        (true, _) => format!("{firmware}{arch}"),
        (false, Some(_)) => format!("{firmware}{arch} (architecture {})", numbers.join("+")),
        (false, None) => format!(
            "{firmware} of the unknown architecture {}",
            numbers.join("+")
        ),
    }
}

pub(super) fn client(client: &Client) -> String {
    let mut parts = vec![];
    parts.extend(client.name.iter().cloned());
    parts.extend(client.macs.first().map(ToString::to_string));
    let mut kinds: Vec<String> = client
        .facts
        .iter()
        .filter(|facts| facts.boots())
        .map(who)
        .collect();
    kinds.dedup();
    if kinds.is_empty() {
        kinds.extend(client.facts.first().map(who));
    }
    let mut text = parts.join(", ");
    if !kinds.is_empty() {
        text += &format!(": {}", kinds.join(", then "));
    }
    if let Some(uuid) = client.facts.iter().find_map(|facts| facts.uuid) {
        text += &format!(", UUID {uuid}");
    }
    clean(&text)
}

/// `loader snponly.efi of 10.0.0.1`.
fn boot_words(boot: &Boot) -> String {
    let mut text = match boot.file.as_str() {
        "" => "to ask on port 4011 what to boot".to_owned(),
        file => format!("to boot {file}"),
    };
    if let Some(server) = &boot.server
        && !boot.file.contains("://")
    {
        text += &format!(" of {server}");
    }
    text
}

/// How a transfer went.
pub(super) fn fetch(fetch: &Fetch) -> String {
    let mut text = format!("{} {}", fetch.by, fetch.path);
    if let Some(server) = fetch.server {
        text += &format!(" from {server}");
    }
    let took = span(i64::try_from(fetch.took_ms).unwrap_or(i64::MAX));
    text += &match &fetch.end {
        End::Whole => format!(": {} in {took}", bytes(fetch.bytes)),
        End::Open => format!(": {} in {took}, then nothing more", bytes(fetch.bytes)),
        End::Unanswered => ": no answer".to_owned(),
        End::Missing(said) => format!(": there is no such file ({said})"),
        End::Refused(said) => format!(": failed after {} ({said})", bytes(fetch.bytes)),
        End::Aborted(said) if fetch.by == Protocol::Http => {
            format!(": ended after {} ({said})", bytes(fetch.bytes))
        }
        End::Aborted(said) => format!(
            ": the client ended it after {} ({})",
            bytes(fetch.bytes),
            if said.is_empty() {
                "without a word"
            } else {
                said
            }
        ),
    };
    if fetch.resent > 0 {
        text += &format!(", {} sent again", fetch.resent);
    }
    if fetch.fragmented {
        text += ", fragmented";
    }
    text
}

fn line(what: &What) -> Option<String> {
    Some(match what {
        What::Began { .. } => return None,
        What::Asked {
            message,
            who: facts,
            port,
            server,
            address,
            ..
        } => {
            let from = who(facts);
            let name = match (message, *port) {
                (_, PXE_PORT) => "boot server request (port 4011)",
                (Asking::Discover, _) => "DISCOVER",
                (Asking::Request, _) => "REQUEST",
                (Asking::Inform, _) => "INFORM",
                (Asking::Decline, _) => "DECLINE",
                (Asking::Release, _) => "RELEASE",
            };
            let mut text = format!("{name} by {from}");
            if let (Asking::Request | Asking::Decline, Some(address)) = (message, address) {
                text += &format!(" for {address}");
            }
            if let Some(server) = server {
                text += &format!(" of the server {server}");
            }
            text
        }
        What::Answered {
            message,
            server,
            address,
            boot,
            text: said,
            ..
        } => {
            let name = match message {
                Answer::Offer if address.is_none() => "proxy OFFER",
                Answer::Offer => "OFFER",
                Answer::Ack => "ACK",
                Answer::Nak => "NAK",
            };
            let mut text = format!("{name} by {server}");
            if let Some(address) = address {
                text += &format!(": {address}");
            }
            text += &match boot {
                Some(boot) => format!(", {}", boot_words(boot)),
                None if *message == Answer::Nak => String::new(),
                None => ", nothing to boot".to_owned(),
            };
            if let Some(said) = said {
                text += &format!(" ({said})");
            }
            text
        }
        What::Decided { boot, why } => match boot {
            Some(boot) => format!("this server answers: {boot}, because {why}"),
            None => format!("this server answers with nothing to boot, because {why}"),
        },
        What::Fetched(transfer) => fetch(transfer),
        What::Agent => "the agent speaks".into(),
        What::Registered => "the agent has registered".into(),
        What::Local => "it is told to boot its disk".into(),
        What::Started => "it has everything that its profile boots".into(),
        What::Blocked { said: text, .. } | What::Note { text } => text.clone(),
    })
}

/// The lines of a boot; the same thing several times in a row is one line.
pub(super) fn tell(steps: &[Step]) -> Vec<Line> {
    let Some(first) = steps.first() else {
        return vec![];
    };
    let mut lines: Vec<(Line, usize)> = vec![];
    for step in steps {
        let Some(text) = line(&step.what) else {
            continue;
        };
        let text = clean(&text);
        if let Some((last, times)) = lines.last_mut()
            && last.text == text
        {
            *times += 1;
            continue;
        }
        let line = Line {
            at: step.at,
            offset_ms: step.at.millis_since(first.at),
            text,
        };
        lines.push((line, 1));
    }
    let left_out = lines.len().saturating_sub(MOST_LINES);
    let mut told: Vec<Line> = vec![];
    for (index, (mut line, times)) in lines.into_iter().enumerate() {
        if times > 1 {
            line.text += &format!(" ({times} times)");
        }
        // The beginning and the end say most.
        let half = MOST_LINES / 2;
        if index >= half && index < half + left_out {
            if index == half {
                line.text = format!("... {left_out} lines are left out ...");
                told.push(line);
            }
            continue;
        }
        told.push(line);
    }
    told
}

/// The firmware in words, for sentences.
pub(super) fn firmware(firmware: Option<Firmware>) -> String {
    firmware.map_or_else(|| "the machine".to_owned(), |firmware| firmware.to_string())
}
