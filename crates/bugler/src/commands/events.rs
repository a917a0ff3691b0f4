//! `bugler events`.

use super::Session;
use crate::cli;
use crate::client::encode;
use anyhow::{Context, Result};
use bugler_model::{Device, DeviceId, Event, EventId, text};
use std::io::{BufRead, BufReader, Write};

pub(super) fn run(session: &Session, args: &cli::Events) -> Result<()> {
    let device: Option<Device> = match &args.device {
        Some(text) => Some(session.client.get(&format!("devices/{}", encode(text)))?),
        None => None,
    };
    let device = device.map(|device| device.id);
    let filter = device.map(|id| format!("&device={id}")).unwrap_or_default();
    let events: Vec<Event> = session
        .client
        .get(&format!("events?limit={}{filter}", args.limit))?;
    let mut last = None;
    for event in &events {
        print(session, event)?;
        last = Some(event.id);
    }
    if args.follow {
        follow(session, device, last)
    } else {
        Ok(())
    }
}

/// Prints events as they come; where the server goes away, waits for it and goes on from the last
/// one seen.
fn follow(session: &Session, device: Option<DeviceId>, mut last: Option<EventId>) -> Result<()> {
    loop {
        let after = last.map(|id| format!("?after={id}")).unwrap_or_default();
        let mut response = session.client.stream(&format!("events/stream{after}"))?;
        for line in BufReader::new(response.body_mut().as_reader()).lines() {
            let Ok(line) = line else { break };
            let Some(data) = line.strip_prefix("data:") else {
                continue;
            };
            let event: Event = serde_json::from_str(data.trim())
                .context("the server sent an event that this version does not understand")?;
            if device.is_none() || event.device == device {
                print(session, &event)?;
            }
            if event.id != EventId(0) {
                last = Some(event.id);
            }
        }
        eprintln!("bugler: the server ended the stream; connecting again");
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

fn print(session: &Session, event: &Event) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if session.json {
        serde_json::to_writer(&mut out, event)?;
        writeln!(out)?;
    } else {
        let about = event.device.map(|id| id.to_string()).unwrap_or_default();
        writeln!(out, "{}  {about:<5} {}", event.at, text::clean(&event.text))?;
    }
    Ok(())
}
