//! `bugler device`.

use super::{Session, plan, power};
use crate::cli;
use crate::client::encode;
use crate::output;
use anyhow::Result;
use bugler_model::{BootSession, Device, DevicePatch, Netboot, Presence, text};
use bugler_protocol::operator::{PowerView, SetNetboot};

pub(super) fn run(session: &Session, command: cli::Device) -> Result<()> {
    match command {
        cli::Device::List { tag } => list(session, tag.as_deref()),
        cli::Device::Show { device } => show(session, &device),
        cli::Device::Set {
            device,
            name,
            add_tags,
            remove_tags,
            profile,
            next,
            secure_boot,
        } => {
            let patch = DevicePatch {
                name,
                add_tags,
                remove_tags,
                profile,
                next,
                secure_boot: secure_boot.map(|switch| switch == cli::Switch::On),
                ..DevicePatch::default()
            };
            changed(
                session,
                session
                    .client
                    .patch(&format!("devices/{}", encode(&device)), &patch)?,
            )
        }
        cli::Device::Netboot { device, mode } => {
            let path = format!("devices/{}/netboot", encode(&device));
            changed(
                session,
                session
                    .client
                    .post(&path, &SetNetboot { mode: mode.into() })?,
            )
        }
        cli::Device::Power(args) => power::device(session, *args),
        cli::Device::Remove { device } => session
            .client
            .delete(&format!("devices/{}", encode(&device))),
    }
}

fn changed(session: &Session, device: Device) -> Result<()> {
    if session.json {
        return output::json(&device);
    }
    let mut line = format!("{}: network boot {}", device.label(), netboot(&device));
    if let Some(profile) = &device.profile {
        line += &format!(", profile {profile}");
    }
    if let Some(next) = &device.next {
        line += &format!(", the next time {next}");
    }
    println!("{}", text::clean(&line));
    Ok(())
}

fn list(session: &Session, tag: Option<&str>) -> Result<()> {
    let mut devices: Vec<Device> = session.client.get("devices")?;
    if let Some(tag) = tag {
        devices.retain(|device| device.tags.iter().any(|t| t == tag));
    }
    if session.json {
        return output::json(&devices);
    }
    let now = output::now();
    let states = power::states(session)?;
    output::table(
        &[
            "ID", "NAME", "MAC", "MODEL", "ADDRESS", "STATE", "POWER", "NETBOOT", "SEEN",
        ],
        devices.iter().map(|device| {
            vec![
                device.id.to_string(),
                device.name.clone().unwrap_or_default(),
                device
                    .macs
                    .first()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                model(device),
                device.address.map(|a| a.to_string()).unwrap_or_default(),
                presence(device.presence).to_owned(),
                states.get(&device.id).cloned().unwrap_or_default(),
                netboot(device).to_owned(),
                text::ago(device.seen, now),
            ]
        }),
    )
}

fn model(device: &Device) -> String {
    let Some(inventory) = &device.inventory else {
        return String::new();
    };
    [&inventory.vendor, &inventory.model]
        .into_iter()
        .flatten()
        .cloned()
        .collect::<Vec<_>>()
        .join(" ")
}

fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Booting => "booting",
        Presence::Agent => "agent",
        Presence::Local => "local disk",
        Presence::Lost => "lost",
    }
}

fn netboot(device: &Device) -> &'static str {
    match device.netboot {
        _ if device.open_tasks > 0 => "for its task",
        Netboot::On => "on",
        Netboot::Off => "off",
        Netboot::Once => "once",
    }
}

fn show(session: &Session, text: &str) -> Result<()> {
    let device: Device = session.client.get(&format!("devices/{}", encode(text)))?;
    let boots: Vec<BootSession> = session
        .client
        .get(&format!("devices/{}/sessions?limit=3", device.id))?;
    let switched: PowerView = session
        .client
        .get(&format!("devices/{}/power", device.id))?;
    if session.json {
        return output::json(
            &serde_json::json!({ "device": device, "sessions": boots, "power": switched }),
        );
    }
    let mut rows: Vec<(&str, String)> = vec![
        ("id", device.id.to_string()),
        ("name", device.name.clone().unwrap_or_default()),
        ("tags", device.tags.join(", ")),
        ("state", presence(device.presence).to_owned()),
        ("network boot", netboot(&device).to_owned()),
        (
            "profile",
            device
                .profile
                .as_ref()
                .map_or("what the rules say".into(), ToString::to_string),
        ),
        (
            "next boot",
            device
                .next
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
        (
            "MAC",
            device
                .macs
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        ),
        (
            "UUID",
            device.uuid.map(|u| u.to_string()).unwrap_or_default(),
        ),
        (
            "address",
            device.address.map(|a| a.to_string()).unwrap_or_default(),
        ),
        (
            "firmware",
            device.firmware.map(|f| f.to_string()).unwrap_or_default(),
        ),
        (
            "secure boot",
            if device.secure_boot { "on" } else { "off" }.into(),
        ),
        ("learned", plan::quirks(device.quirks).unwrap_or_default()),
        (
            "tries",
            format!("{} boots since one had an outcome", device.tries),
        ),
        ("seen", text::ago(device.seen, output::now())),
    ];
    if let Some(inventory) = &device.inventory {
        rows.push(("model", model(&device)));
        rows.push(("serial", inventory.serial.clone().unwrap_or_default()));
        rows.push((
            "CPU",
            format!("{} x {}", inventory.cpu.threads, inventory.cpu.model),
        ));
        rows.push(("memory", text::bytes(inventory.memory)));
        for disk in &inventory.disks {
            rows.push((
                "disk",
                format!(
                    "{}  {}  {} B sectors  {}  {}{}",
                    disk.path,
                    text::bytes(disk.size),
                    disk.sector_size,
                    disk.model.as_deref().unwrap_or("-"),
                    disk.serial.as_deref().unwrap_or("-"),
                    if disk.removable { "  removable" } else { "" },
                ),
            ));
        }
        for nic in &inventory.nics {
            let link = match (nic.link, nic.speed) {
                (true, Some(speed)) => format!("link {speed} Mbit/s"),
                (true, None) => "link".into(),
                (false, _) => "no link".into(),
            };
            let driver = nic.driver.as_deref().unwrap_or("-");
            rows.push((
                "NIC",
                format!("{}  {}  {link}  {driver}", nic.name, nic.mac),
            ));
        }
    }
    rows.extend(
        power::describe(&switched)
            .into_iter()
            .map(|line| ("power", line)),
    );
    for boot in &boots {
        rows.push((
            "boot",
            format!("{} at {}: {}", boot.id, boot.started, stages(boot)),
        ));
    }
    for (key, value) in rows {
        println!("{key:>12}  {}", text::clean(&value));
    }
    Ok(())
}

/// `dhcp 0.0 s, loader 0.3 s, ... (registered)`.
fn stages(boot: &BootSession) -> String {
    let stages: Vec<String> = boot
        .stages
        .iter()
        .map(|(stage, at)| {
            let word = format!("{stage:?}").to_lowercase();
            format!(
                "{word} {:.1} s",
                at.millis_since(boot.started) as f64 / 1000.0
            )
        })
        .collect();
    format!(
        "{} ({})",
        stages.join(", "),
        format!("{:?}", boot.outcome).to_lowercase()
    )
}
