//! `bugler reboot`, `poweroff` and `task`.

use super::Session;
use super::work::{say_power, say_skipped};
use crate::cli;
use crate::client::{ClientError, encode};
use crate::output;
use anyhow::{Result, bail};
use bugler_model::{Device, Task, TaskId, TaskState, text};
use bugler_protocol::operator::{CreatedTasks, NewTasks, Order};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::io::IsTerminal;

pub(super) fn reboot(session: &Session, targets: cli::Targets) -> Result<()> {
    create(session, Order::Reboot {}, targets, false)
}

pub(super) fn power_off(session: &Session, targets: cli::Targets) -> Result<()> {
    create(session, Order::PowerOff {}, targets, false)
}

pub(super) fn create(
    session: &Session,
    action: Order,
    targets: cli::Targets,
    leave_power: bool,
) -> Result<()> {
    let cli::Targets { devices, tag, wait } = targets;
    if devices.is_empty() && tag.is_none() {
        bail!("name at least one device, or a --tag");
    }
    let created: CreatedTasks = session.client.post(
        "tasks",
        &NewTasks {
            action,
            devices,
            tag,
            leave_power,
        },
    )?;
    say_skipped(&created.skipped);
    say_power(&created.power);
    if wait {
        return wait_for(session, created.tasks.iter().map(|task| task.id).collect());
    }
    if created.tasks.is_empty() && !session.json {
        return Ok(());
    }
    listed(session, &created.tasks)
}

pub(super) fn run(session: &Session, command: cli::Task) -> Result<()> {
    match command {
        cli::Task::List { device, open } => {
            let mut query = format!("tasks?open={open}");
            if let Some(device) = device {
                query += &format!("&device={}", encode(&device));
            }
            listed(session, &session.client.get::<Vec<Task>>(&query)?)
        }
        cli::Task::Show { task } => {
            let task: Task = session.client.get(&format!("tasks/{}", encode(&task)))?;
            if session.json {
                output::json(&task)
            } else {
                listed(session, &[task])
            }
        }
        cli::Task::Cancel { task } => {
            let path = format!("tasks/{}/cancel", encode(&task));
            let task: Task = session.client.post(&path, &serde_json::json!({}))?;
            if session.json {
                output::json(&task)
            } else {
                listed(session, &[task])
            }
        }
        cli::Task::Wait { tasks } => {
            let ids: Result<Vec<TaskId>, _> = tasks.iter().map(|text| text.parse()).collect();
            wait_for(session, ids?)
        }
    }
}

fn labels(session: &Session) -> Result<HashMap<bugler_model::DeviceId, String>> {
    let devices: Vec<Device> = session.client.get("devices")?;
    Ok(devices
        .into_iter()
        .map(|device| (device.id, device.label()))
        .collect())
}

pub(super) fn listed(session: &Session, tasks: &[Task]) -> Result<()> {
    if session.json {
        return output::json(&tasks);
    }
    let labels = labels(session)?;
    let now = output::now();
    output::table(
        &["ID", "DEVICE", "WHAT", "STATE", "PROGRESS", "CHANGED"],
        tasks.iter().map(|task| {
            vec![
                task.id.to_string(),
                labels
                    .get(&task.device)
                    .cloned()
                    .unwrap_or_else(|| task.device.to_string()),
                output::action(&task.action),
                task.state.to_string(),
                output::progress(task),
                text::ago(task.updated, now),
            ]
        }),
    )
}

/// One task that is being watched.
struct Watched {
    task: Task,
    label: String,
    bar: ProgressBar,
}

impl Watched {
    /// Shows the task as it stands now: on its bar, or as a line where nobody looks at bars.
    fn show(&self, previous: Option<&Task>, lines: bool) {
        let task = &self.task;
        let text = format!("{} {}", task.state, output::progress(task));
        self.bar.set_length(task.progress.total.max(1));
        self.bar.set_position(task.progress.done);
        self.bar.set_message(text::clean(&text));
        if lines && previous.is_none_or(|p| p.state != task.state) {
            eprintln!(
                "{} {}: {}",
                task.id,
                text::clean(&self.label),
                text::clean(&text)
            );
        }
        if !task.state.is_open() {
            self.bar.abandon();
        }
    }
}

pub(super) fn wait_for(session: &Session, ids: Vec<TaskId>) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix:>16} {bar:32} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let labels = labels(session)?;
    let mut watched = Vec::new();
    for id in ids {
        let task: Task = session.client.get(&format!("tasks/{id}"))?;
        let label = labels
            .get(&task.device)
            .cloned()
            .unwrap_or_else(|| task.device.to_string());
        let bar = if terminal {
            bars.add(ProgressBar::new(1))
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(style.clone());
        bar.set_prefix(text::clean(&label));
        let entry = Watched { task, label, bar };
        entry.show(None, !terminal);
        watched.push(entry);
    }
    // One long poll at a time: with many tasks, those that are not asked now are asked next.
    while let Some(next) = (0..watched.len()).find(|&i| watched[i].task.state.is_open()) {
        let single = watched.iter().filter(|w| w.task.state.is_open()).count() == 1;
        for (i, entry) in watched
            .iter_mut()
            .enumerate()
            .filter(|(_, w)| w.task.state.is_open())
        {
            // Wait at the server for the first open one only, so that none waits for another.
            let wait = match (i == next, single) {
                (true, true) => 30,
                (true, false) => 1,
                (false, _) => 0,
            };
            let task: Task = session
                .client
                .get(&format!("tasks/{}?wait={wait}", entry.task.id))?;
            let previous = std::mem::replace(&mut entry.task, task);
            entry.show(Some(&previous), !terminal);
        }
    }
    let tasks: Vec<&Task> = watched.iter().map(|w| &w.task).collect();
    if session.json {
        output::json(&tasks)?;
    }
    let failed: Vec<String> = watched
        .iter()
        .filter(|w| w.task.state != TaskState::Done)
        .map(|w| {
            let why = w.task.message.as_deref().unwrap_or("no reason was given");
            format!("{} on {} is {}: {why}", w.task.id, w.label, w.task.state)
        })
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(ClientError::TaskFailed(failed.join("\n")).into())
    }
}
