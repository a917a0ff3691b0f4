//! What the templates show: nouns of the model turned into text.

use crate::text::{Moment, duration, memory};
use bugler_model::text::{bytes, clean};
use bugler_model::{
    Device, DeviceId, Disk, Event, EventKind, Image, ImageState, Netboot, Nic, Phase, PowerState,
    Presence, ProfileName, Task, TaskAction, TaskState, Timestamp,
};
use bugler_protocol::operator::PowerView;
use std::collections::HashMap;

/// How devices are called.
pub(crate) type Labels = HashMap<DeviceId, String>;

/// How a device is called, with its id where it has a name.
pub(crate) fn label(device: &Device) -> String {
    clean(&device.label())
}

/// One device, in a list or on its page.
pub(crate) struct DeviceView {
    pub(crate) id: String,
    pub(crate) label: String,
    /// Whether `label` is a name, not the id.
    pub(crate) named: bool,
    pub(crate) tags: Vec<String>,
    pub(crate) mac: String,
    pub(crate) model: String,
    pub(crate) address: String,
    pub(crate) presence: &'static str,
    /// A class for its colour.
    pub(crate) presence_class: &'static str,
    /// `on`, `off` or `once`.
    pub(crate) netboot: &'static str,
    /// What `netboot` means now.
    pub(crate) netboot_now: &'static str,
    /// The profile that an operator gave it; empty: the rules say.
    pub(crate) profile: String,
    /// The profile that it boots the next time; empty: none.
    pub(crate) next: String,
    pub(crate) secure_boot: bool,
    pub(crate) seen: Moment,
    pub(crate) busy: bool,
    pub(crate) task: Option<TaskView>,
    /// Where something switches it.
    pub(crate) power: Option<PowerBox>,
}

/// Whether a device is on.
pub(crate) struct PowerBox {
    /// `on`, `off`, `unknown`, `problem`.
    pub(crate) word: String,
    /// A class for its colour.
    pub(crate) class: &'static str,
    /// What switches it, and what went wrong.
    pub(crate) lines: Vec<String>,
}

impl PowerBox {
    /// `None`: nothing switches the device.
    pub(crate) fn new(view: &PowerView) -> Option<Self> {
        if view.drivers.is_empty() {
            return None;
        }
        let (word, class) = match (view.state, &view.problem) {
            (_, Some(_)) => ("problem".to_owned(), "bad"),
            (PowerState::On, None) => (PowerState::On.to_string(), "good"),
            (state, None) => (state.to_string(), "quiet"),
        };
        let drivers = view
            .drivers
            .iter()
            .map(|one| format!("{}: {}", one.role, one.driver.summary()));
        Some(Self {
            word,
            class,
            lines: drivers
                .chain(view.problem.clone())
                .map(|line| clean(&line))
                .collect(),
        })
    }
}

impl DeviceView {
    pub(crate) fn new(device: &Device, task: Option<TaskView>, now: Timestamp) -> Self {
        let (presence, presence_class) = match device.presence {
            Presence::Booting => ("booting", "busy"),
            Presence::Agent => ("agent ready", "good"),
            Presence::Local => ("local disk", "quiet"),
            Presence::Lost => ("lost", "bad"),
        };
        let netboot = match device.netboot {
            Netboot::On => "on",
            Netboot::Off => "off",
            Netboot::Once => "once",
        };
        Self {
            id: device.id.to_string(),
            label: label(device),
            named: device.name.is_some(),
            tags: device.tags.iter().map(|tag| clean(tag)).collect(),
            mac: device
                .macs
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
            model: model(device),
            address: device
                .address
                .map(|address| address.to_string())
                .unwrap_or_default(),
            presence,
            presence_class,
            netboot,
            netboot_now: if device.open_tasks > 0 {
                "on for its task"
            } else {
                netboot
            },
            profile: name(device.profile.as_ref()),
            next: name(device.next.as_ref()),
            secure_boot: device.secure_boot,
            seen: Moment::new(device.seen, now),
            busy: device.open_tasks > 0,
            task,
            power: None,
        }
    }

    /// With what is known of its power.
    pub(crate) fn with_power(mut self, power: Option<PowerBox>) -> Self {
        self.power = power;
        self
    }
}

fn name(profile: Option<&ProfileName>) -> String {
    profile.map(ToString::to_string).unwrap_or_default()
}

fn model(device: &Device) -> String {
    let Some(inventory) = &device.inventory else {
        return String::new();
    };
    let words: Vec<&str> = [&inventory.vendor, &inventory.model]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    clean(&words.join(" "))
}

/// A name and its value, for a list of facts.
pub(crate) struct Fact {
    pub(crate) name: &'static str,
    pub(crate) value: String,
}

/// What is known of a device, but for disks and interfaces.
pub(crate) fn facts(device: &Device) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |name, value: String| {
        if !value.is_empty() {
            facts.push(Fact {
                name,
                value: clean(&value),
            });
        }
    };
    add("Model", model(device));
    if let Some(inventory) = &device.inventory {
        add(
            "Serial number",
            inventory.serial.clone().unwrap_or_default(),
        );
        if inventory.cpu.threads > 0 {
            add(
                "Processor",
                format!("{} × {}", inventory.cpu.threads, inventory.cpu.model),
            );
        }
        if inventory.memory > 0 {
            add("Memory", memory(inventory.memory));
        }
    }
    add(
        "UUID",
        device.uuid.map(|uuid| uuid.to_string()).unwrap_or_default(),
    );
    let macs: Vec<String> = device.macs.iter().map(ToString::to_string).collect();
    add("MAC addresses", macs.join(", "));
    add(
        "Address",
        device
            .address
            .map(|address| address.to_string())
            .unwrap_or_default(),
    );
    add(
        "Firmware",
        device
            .firmware
            .map(|firmware| firmware.to_string())
            .unwrap_or_default(),
    );
    add("Tags", device.tags.join(", "));
    facts
}

/// A disk, in the inventory and to be chosen for a deploy.
pub(crate) struct DiskView {
    pub(crate) path: String,
    pub(crate) size: String,
    pub(crate) bytes: u64,
    pub(crate) sector_size: u32,
    pub(crate) model: String,
    pub(crate) serial: String,
    pub(crate) removable: bool,
    pub(crate) read_only: bool,
}

impl DiskView {
    pub(crate) fn new(disk: &Disk) -> Self {
        let text = |text: &Option<String>| clean(text.as_deref().unwrap_or_default());
        Self {
            path: clean(&disk.path),
            size: bytes(disk.size),
            bytes: disk.size,
            sector_size: disk.sector_size,
            model: text(&disk.model),
            serial: text(&disk.serial),
            removable: disk.removable,
            read_only: disk.read_only,
        }
    }
}

/// A network interface.
pub(crate) struct NicView {
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) link: String,
    pub(crate) driver: String,
}

impl NicView {
    pub(crate) fn new(nic: &Nic) -> Self {
        Self {
            name: clean(&nic.name),
            mac: nic.mac.to_string(),
            link: match (nic.link, nic.speed) {
                (false, _) => "no link".into(),
                (true, None) => "link".into(),
                (true, Some(speed)) => format!("{speed} Mbit/s"),
            },
            driver: clean(nic.driver.as_deref().unwrap_or_default()),
        }
    }
}

/// A task, in a list or under its device.
pub(crate) struct TaskView {
    pub(crate) id: String,
    pub(crate) device: String,
    pub(crate) device_label: String,
    pub(crate) what: String,
    pub(crate) state: String,
    pub(crate) state_class: &'static str,
    pub(crate) open: bool,
    /// Per mille, where there is something to measure.
    pub(crate) done: Option<u64>,
    /// How far it is, or how it ended, in words.
    pub(crate) detail: String,
    pub(crate) attempts: u32,
    pub(crate) updated: Moment,
}

impl TaskView {
    pub(crate) fn new(task: &Task, labels: &Labels, now: Timestamp) -> Self {
        let measured = matches!(task.state, TaskState::Running | TaskState::Verifying);
        let progress = &task.progress;
        let done = (u128::from(progress.done.min(progress.total)) * 1000)
            .checked_div(u128::from(progress.total))
            .filter(|_| measured)
            .and_then(|done| u64::try_from(done).ok());
        Self {
            id: task.id.to_string(),
            device: task.device.to_string(),
            device_label: labels
                .get(&task.device)
                .cloned()
                .unwrap_or_else(|| task.device.to_string()),
            what: match &task.action {
                TaskAction::Deploy(deploy) if deploy.version > 0 => {
                    format!("deploy {}@{}", deploy.image_name, deploy.version)
                }
                TaskAction::Deploy(deploy) => format!("deploy {}", deploy.image_name),
                TaskAction::Capture(capture) => format!("capture {}", capture.image_name),
                TaskAction::Wipe(_) => "wipe".into(),
                TaskAction::Reboot => "reboot".into(),
                TaskAction::PowerOff => "power off".into(),
            },
            state: task.state.to_string(),
            state_class: match task.state {
                TaskState::Queued => "quiet",
                TaskState::Claimed | TaskState::Running | TaskState::Verifying => "busy",
                TaskState::Done => "good",
                TaskState::Failed => "bad",
                TaskState::Cancelled => "warn",
            },
            open: task.state.is_open(),
            done,
            detail: clean(&detail(task)),
            attempts: task.attempts,
            updated: Moment::new(task.updated, now),
        }
    }
}

/// How far a task is, or how it ended: durable bytes, rate, time left.
fn detail(task: &Task) -> String {
    let p = &task.progress;
    let seconds = p.elapsed_ms as f64 / 1000.0;
    match task.state {
        TaskState::Queued => task
            .message
            .clone()
            .unwrap_or_else(|| "waits for the device".into()),
        TaskState::Claimed => "begins".into(),
        TaskState::Failed | TaskState::Cancelled => task.message.clone().unwrap_or_default(),
        TaskState::Done => {
            let moved =
                (p.total > 0).then(|| format!("{} in {}", bytes(p.total), duration(seconds)));
            let parts = moved.into_iter().chain(task.message.clone());
            parts.collect::<Vec<_>>().join("; ")
        }
        TaskState::Running | TaskState::Verifying => {
            let phase = match p.phase {
                Phase::Checking => return "checks the disk and the image".into(),
                Phase::Comparing => "compares",
                Phase::Writing => "writes",
                Phase::Finalizing => return "flushes, and finishes the partition table".into(),
                Phase::Verifying => "reads back",
                Phase::Capturing => "takes the image",
                Phase::Wiping => "wipes",
                Phase::Personalizing => "gives the machine its own identity",
            };
            let mut text = format!("{phase}: {} of {}", bytes(p.done), bytes(p.total));
            let fresh = p.done.saturating_sub(p.skipped) as f64;
            if p.phase == Phase::Writing && seconds > 1.0 && fresh > 0.0 {
                let rate = fresh / seconds;
                let left = p.total.saturating_sub(p.done) as f64 / rate;
                text += &format!(", {}/s, {} left", bytes(rate as u64), duration(left));
            }
            text
        }
    }
}

/// An image.
pub(crate) struct ImageView {
    pub(crate) id: String,
    /// The name with its version.
    pub(crate) label: String,
    pub(crate) note: String,
    /// Where it was taken from; empty for one that was added from a file.
    pub(crate) origin: String,
    /// How each partition was read, one line each.
    pub(crate) reading: String,
    pub(crate) bytes: u64,
    pub(crate) size: String,
    pub(crate) used: String,
    pub(crate) stored: String,
    pub(crate) sector_size: u32,
    pub(crate) damaged: bool,
    pub(crate) created: Moment,
}

impl ImageView {
    pub(crate) fn new(image: &Image, now: Timestamp) -> Self {
        Self {
            id: image.id.to_string(),
            label: image.label(),
            note: image.note.clone(),
            origin: image.origin.as_ref().map_or_else(String::new, |origin| {
                format!("from {}, {}", origin.label, origin.disk)
            }),
            reading: image
                .origin
                .as_ref()
                .map_or_else(String::new, |origin| origin.reading.join("\n")),
            bytes: image.size,
            size: bytes(image.size),
            used: bytes(image.used),
            stored: bytes(image.stored),
            sector_size: image.sector_size,
            damaged: image.state == ImageState::Damaged,
            created: Moment::new(image.created, now),
        }
    }
}

/// An event.
pub(crate) struct EventView {
    pub(crate) at: Moment,
    /// Time of day in UTC, to the millisecond.
    pub(crate) clock: String,
    pub(crate) kind: &'static str,
    pub(crate) device: Option<(String, String)>,
    pub(crate) text: String,
}

impl EventView {
    pub(crate) fn new(event: &Event, labels: &Labels, now: Timestamp) -> Self {
        let at = Moment::new(event.at, now);
        let clock = at
            .exact
            .split_once('T')
            .map_or("", |(_, time)| time)
            .trim_end_matches('Z');
        Self {
            clock: clock.to_owned(),
            at,
            kind: match event.kind {
                EventKind::Device => "device",
                EventKind::Boot => "boot",
                EventKind::Task => "task",
                EventKind::Progress => "progress",
                EventKind::Image => "image",
                EventKind::Lease => "lease",
                EventKind::Log => "log",
                EventKind::Power => "power",
                EventKind::Server => "server",
            },
            device: event.device.map(|id| {
                (
                    id.to_string(),
                    labels.get(&id).cloned().unwrap_or_else(|| id.to_string()),
                )
            }),
            text: clean(&event.text),
        }
    }
}
