//! `bugler explain`.

use super::{Session, plan};
use crate::cli;
use crate::client::encode;
use crate::output;
use anyhow::{Context, Result, bail};
use bugler_diagnose::explain::{Explanation, Finding, Verdict, explain};
use bugler_diagnose::history;
use bugler_diagnose::recording::{self, Recording};
use bugler_model::{BootSession, Device, Event, MacAddr, text};
use bugler_protocol::operator::PlanView;
use serde::Serialize;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

/// Boots and events that are looked at: enough for a loop to show.
const SESSIONS: usize = 10;
const EVENTS: usize = 1000;

/// What `--json` prints of a device.
#[derive(Serialize)]
struct Explained<'a> {
    /// What it would boot now.
    plan: Option<&'a PlanView>,
    #[serde(flatten)]
    explanation: &'a Explanation,
}

pub(super) fn run(session: &Session, args: &cli::Explain) -> Result<()> {
    match (&args.pcap, &args.device) {
        (Some(file), only) => offline(session, file, only.as_deref()),
        (None, Some(device)) => device_of(session, device),
        (None, None) => bail!("name a device, or a recording with --pcap"),
    }
}

fn device_of(session: &Session, name: &str) -> Result<()> {
    let client = &session.client;
    let device: Device = client.get(&format!("devices/{}", encode(name)))?;
    let id = device.id;
    let sessions: Vec<BootSession> =
        client.get(&format!("devices/{id}/sessions?limit={SESSIONS}"))?;
    let events: Vec<Event> = client.get(&format!("events?device={id}&limit={EVENTS}"))?;
    let timeline = history::timeline(&device, &sessions, &events, output::now());
    let explanation = explain(&timeline);
    // What happened can be told without it.
    let plan: Option<PlanView> = client.get(&format!("devices/{id}/plan")).ok();
    if session.json {
        return output::json(&Explained {
            plan: plan.as_ref(),
            explanation: &explanation,
        });
    }
    show(
        &explanation,
        &plan.as_ref().map(plan::lines).unwrap_or_default(),
    )
}

fn offline(session: &Session, file: &Path, only: Option<&str>) -> Result<()> {
    let only: Option<MacAddr> = only.map(str::parse).transpose().context(
        "with --pcap a client is named by its MAC address: a recording knows no device names",
    )?;
    let shown = file.display();
    let from: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(file).with_context(|| format!("could not open {shown}"))?)
    };
    let mut recording =
        recording::read(BufReader::new(from)).with_context(|| format!("could not read {shown}"))?;
    if let Some(mac) = only {
        recording
            .timelines
            .retain(|timeline| timeline.client.macs.contains(&mac));
    }
    let explanations: Vec<Explanation> = recording.timelines.iter().map(explain).collect();
    if session.json {
        return output::json(&explanations);
    }
    say(&header(&recording))?;
    if explanations.is_empty() {
        return say(
            "No DHCP, TFTP or boot HTTP traffic of a client is in it. Record on the machine's own \
             segment, from before it is switched on.",
        );
    }
    for explanation in &explanations {
        say("")?;
        show(explanation, &[])?;
    }
    Ok(())
}

fn header(recording: &Recording) -> String {
    let seconds = recording.last.millis_since(recording.first) as f64 / 1000.0;
    let mut text = format!(
        "{} packets in {seconds:.1} s from {}",
        recording.frames, recording.first
    );
    if recording.unread > 0 {
        text += &format!("; {} have a link layer that is not read", recording.unread);
    }
    if recording.clipped {
        text += "; it is damaged or too much, so something is left out";
    }
    text
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{}", text::clean(line))?;
    Ok(())
}

/// Says what a client is, what it would boot now, and what happened.
fn show(explanation: &Explanation, plan: &[String]) -> Result<()> {
    say(&explanation.client)?;
    for line in plan {
        say(&format!("  {line}"))?;
    }
    let verdict = match explanation.verdict {
        Verdict::Fine => "Fine",
        Verdict::Underway => "Under way",
        Verdict::Stopped => "Stopped",
        Verdict::NotAsked => "Did not ask to boot",
    };
    if let Some(first) = explanation.story.first() {
        let which = match explanation.boots {
            0 | 1 => "Its boot".to_owned(),
            boots => format!("The latest of {boots} boots"),
        };
        say(&format!("  {which}, from {}:", first.at))?;
    }
    for line in &explanation.story {
        let seconds = line.offset_ms as f64 / 1000.0;
        say(&format!("  {seconds:>9.1} s  {}", line.text))?;
    }
    say(&format!("  {verdict}: {}.", explanation.stopped))?;
    if let Some(cause) = &explanation.cause {
        finding("Likely cause", cause)?;
    }
    for also in &explanation.also {
        finding("Also", also)?;
    }
    Ok(())
}

fn finding(word: &str, finding: &Finding) -> Result<()> {
    say(&format!("  {word}: {}. [{}]", finding.cause, finding.rule))?;
    say(&format!("  Try next: {}.", finding.next))
}
