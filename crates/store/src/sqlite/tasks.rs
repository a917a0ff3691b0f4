//! Tasks: a durable state machine for each.

use super::events::one_line;
use super::fault::Fault;
use super::images;
use super::memory::Effect;
use super::rows::{Json, Word, execute, first, id, key, limit, list, time};
use super::writer::Tx;
use crate::{TaskFilter, TaskReport};
use bugler_model::{
    Deploy, Deployed, DeviceId, DiskRule, EventKind, Image, ImageId, ImageName, ImageState,
    Netboot, NewEvent, NewImage, NewTask, Phase, Progress, Task, TaskAction, TaskId, TaskState,
    Timestamp,
};
use rusqlite::{Connection, Row, named_params};

/// Most characters of a disk's serial number or path.
const DISK: usize = 256;

fn read(row: &Row<'_>) -> rusqlite::Result<Task> {
    Ok(Task {
        id: TaskId(id(row, "id")?),
        device: DeviceId(id(row, "device")?),
        action: row.get::<_, Json<_>>("action")?.0,
        state: row.get::<_, Word<_>>("state")?.0,
        progress: row.get::<_, Json<_>>("progress")?.0,
        message: row.get("message")?,
        attempts: row.get("attempts")?,
        created: time(row, "created")?,
        updated: time(row, "updated")?,
    })
}

/// A task in a few words: `t3 (deploy of debian-12 to pc-7)`.
pub(super) fn describe(task: &Task, label: &str) -> String {
    match &task.action {
        TaskAction::Deploy(deploy) => {
            format!("{} (deploy of {} to {label})", task.id, deploy.image_name)
        }
        TaskAction::Capture(capture) => {
            format!("{} (capture of {label} as {})", task.id, capture.image_name)
        }
        TaskAction::Wipe(_) => format!("{} (wipe of {label})", task.id),
        TaskAction::Reboot => format!("{} (reboot of {label})", task.id),
        TaskAction::PowerOff => format!("{} (power-off of {label})", task.id),
    }
}

/// Every open task.
pub(super) fn all_open(sql: &Connection) -> Result<Vec<Task>, Fault> {
    list(sql, "SELECT * FROM tasks WHERE open = 1", [], read)
}

/// See [`crate::Store::task`].
pub(super) fn one(sql: &Connection, id: TaskId) -> Result<Task, Fault> {
    first(sql, "SELECT * FROM tasks WHERE id = ?1", [key(id.0)], read)?
        .ok_or_else(|| Fault::NotFound(format!("task {id}")))
}

/// See [`crate::Store::tasks`].
pub(super) fn filtered(sql: &Connection, filter: &TaskFilter) -> Result<Vec<Task>, Fault> {
    let device = if filter.device.is_some() {
        "device = :device"
    } else {
        ":device IS NULL"
    };
    let open = if filter.open_only { "open = 1" } else { "TRUE" };
    list(
        sql,
        &format!("SELECT * FROM tasks WHERE {device} AND {open} ORDER BY id DESC LIMIT :limit"),
        named_params! {
            ":device": filter.device.map(|id| key(id.0)),
            ":limit": limit(filter.limit),
        },
        read,
    )
}

/// A device's open tasks, oldest first.
pub(super) fn open_of(tx: &Tx<'_>, device: DeviceId) -> Result<Vec<Task>, Fault> {
    let text = "SELECT * FROM tasks WHERE device = ?1 AND open = 1 ORDER BY id";
    list(tx.sql, text, [key(device.0)], read)
}

/// See [`crate::Store::open_task`].
pub(super) fn open_one(sql: &Connection, device: DeviceId) -> Result<Option<Task>, Fault> {
    let text = "SELECT * FROM tasks WHERE device = ?1 AND open = 1 ORDER BY id LIMIT 1";
    first(sql, text, [key(device.0)], read)
}

/// Writes how far an open task is.
pub(super) fn write_progress(sql: &Connection, task: &Task) -> rusqlite::Result<()> {
    sql.prepare_cached("UPDATE tasks SET progress = ?2, updated = ?3 WHERE id = ?1 AND open = 1")?
        .execute((key(task.id.0), Json(task.progress), task.updated.0))?;
    Ok(())
}

impl Tx<'_> {
    /// A task as this transaction sees it.
    fn task(&self, id: TaskId) -> Result<Task, Fault> {
        let mut task = one(self.sql, id)?;
        self.memory.overlay_task(&mut task);
        Ok(task)
    }

    /// Writes a task and makes memory see it; where its state changed, says so.
    fn save_task(
        &mut self,
        task: &Task,
        before: TaskState,
        what: &str,
        now: Timestamp,
    ) -> Result<(), Fault> {
        execute(
            self.sql,
            "UPDATE tasks SET state = :state, progress = :progress, message = :message,
                 attempts = :attempts, updated = :updated
             WHERE id = :id",
            named_params! {
                ":id": key(task.id.0),
                ":state": Word(task.state),
                ":progress": Json(task.progress),
                ":message": task.message,
                ":attempts": task.attempts,
                ":updated": task.updated.0,
            },
        )?;
        self.effect(Effect::Task(Box::new(task.clone())));
        if !task.state.is_open() && before.is_open() {
            self.prune_tasks()?;
        }
        self.task_event(task, what, now)?;
        self.refresh(task.device)?;
        Ok(())
    }

    fn task_event(&mut self, task: &Task, what: &str, now: Timestamp) -> Result<(), Fault> {
        let text = format!("{} {what}", describe(task, &self.label(task.device)?));
        let mut event = NewEvent::new(EventKind::Task, text)
            .device(task.device)
            .task(task.id);
        event.image = image_of(task);
        self.keep(event, now)?;
        Ok(())
    }

    /// Drops the oldest ended tasks beyond what is kept.
    fn prune_tasks(&self) -> Result<(), Fault> {
        execute(
            self.sql,
            "DELETE FROM tasks WHERE open = 0 AND id <=
                 (SELECT id FROM tasks WHERE open = 0 ORDER BY id DESC LIMIT 1 OFFSET ?1)",
            [limit(self.limits.ended_tasks)],
        )?;
        Ok(())
    }
}

fn image_of(task: &Task) -> Option<ImageId> {
    match &task.action {
        TaskAction::Deploy(deploy) => Some(deploy.image),
        TaskAction::Capture(_)
        | TaskAction::Wipe(_)
        | TaskAction::Reboot
        | TaskAction::PowerOff => None,
    }
}

/// See [`crate::Store::create_tasks`].
pub(super) fn create(
    tx: &mut Tx<'_>,
    tasks: Vec<NewTask>,
    now: Timestamp,
) -> Result<Vec<Task>, Fault> {
    tasks
        .into_iter()
        .map(|new| create_one(tx, new, now))
        .collect()
}

fn create_one(tx: &mut Tx<'_>, new: NewTask, now: Timestamp) -> Result<Task, Fault> {
    let label = tx.label(new.device)?;
    // The tasks made before this one in the same call count too.
    if let Some(open) = open_of(tx, new.device)?.first() {
        return Err(Fault::Conflict(format!(
            "{label} has an open task already, {}, which is {}: wait for it, or cancel it first",
            describe(open, &label),
            open.state,
        )));
    }
    if let TaskAction::Deploy(deploy) = &new.action {
        check_image(tx, deploy.image, &deploy.image_name, &deploy.manifest)?;
    }
    let mut task = Task {
        id: TaskId(0),
        device: new.device,
        action: new.action,
        state: TaskState::Queued,
        progress: Progress::default(),
        message: None,
        attempts: 0,
        created: now,
        updated: now,
    };
    execute(
        tx.sql,
        "INSERT INTO tasks (device, action, kind, image, state, progress, created, updated)
         VALUES (:device, :action, :kind, :image, :state, :progress, :now, :now)",
        named_params! {
            ":device": key(task.device.0),
            ":action": Json(&task.action),
            ":kind": task.action.word(),
            ":image": image_of(&task).map(|id| key(id.0)),
            ":state": Word(task.state),
            ":progress": Json(task.progress),
            ":now": now.0,
        },
    )?;
    task.id = TaskId(tx.sql.last_insert_rowid().unsigned_abs());
    // An operator wants something of it: it is no stranger any more.
    execute(
        tx.sql,
        "UPDATE devices SET kept = 1 WHERE id = ?1",
        [key(task.device.0)],
    )?;
    tx.effect(Effect::Task(Box::new(task.clone())));
    tx.task_event(&task, "was asked for", now)?;
    tx.refresh(task.device)?;
    Ok(task)
}

/// A deploy needs an image that is there, is the one that was meant, and is whole.
fn check_image(tx: &Tx<'_>, id: ImageId, name: &ImageName, manifest: &str) -> Result<(), Fault> {
    let text = "SELECT manifest, state FROM images WHERE id = ?1";
    let found: Option<(String, ImageState)> = first(tx.sql, text, [key(id.0)], |row| {
        Ok((row.get("manifest")?, row.get::<_, Word<_>>("state")?.0))
    })?;
    match found {
        None => Err(Fault::NotFound(format!("image {name} ({id})"))),
        Some((own, _)) if own != manifest => Err(Fault::Conflict(format!(
            "image {name} ({id}) has manifest {own}, not {manifest}: ask again"
        ))),
        Some((_, ImageState::Damaged)) => Err(Fault::Conflict(format!(
            "image {name} ({id}) is damaged in the store: remove it and add it again"
        ))),
        Some((_, ImageState::Good)) => Ok(()),
    }
}

/// See [`crate::Store::claim_task`].
pub(super) fn claim(
    tx: &mut Tx<'_>,
    device: DeviceId,
    now: Timestamp,
) -> Result<Option<Task>, Fault> {
    let Some(mut task) = open_of(tx, device)?.into_iter().next() else {
        // Distinguishes a device that has nothing to do from one that is not there.
        return tx.label(device).map(|_| None);
    };
    tx.memory.overlay_task(&mut task);
    let before = task.state;
    task.state = before
        .step(TaskState::Claimed)
        .map_err(|e| Fault::Conflict(e.to_string()))?;
    if before == TaskState::Queued {
        // Why it had to wait is over.
        task.message = None;
    }
    task.attempts = task.attempts.saturating_add(1);
    task.updated = task.updated.max(now);
    let what = match before {
        TaskState::Queued => "was taken up by its agent".to_owned(),
        _ => format!("is resumed by its agent: attempt {}", task.attempts),
    };
    tx.save_task(&task, before, &what, now)?;
    Ok(Some(task))
}

/// See [`crate::Store::add_captured`].
pub(super) fn add_captured(
    tx: &mut Tx<'_>,
    id: TaskId,
    new: NewImage,
    now: Timestamp,
) -> Result<Image, Fault> {
    if let Some(image) = captured(tx.sql, id)? {
        return Ok(image);
    }
    let task = one(tx.sql, id)?;
    if !task.state.is_open() || !matches!(task.action, TaskAction::Capture(_)) {
        return Err(Fault::Conflict(format!(
            "{id} is no open capture: order another one"
        )));
    }
    let image = images::add(tx, new, now)?;
    execute(
        tx.sql,
        "UPDATE tasks SET image = ?2 WHERE id = ?1",
        (key(id.0), key(image.id.0)),
    )?;
    Ok(image)
}

/// See [`crate::Store::captured`].
pub(super) fn captured(sql: &Connection, task: TaskId) -> Result<Option<Image>, Fault> {
    let text = "SELECT image FROM tasks WHERE id = ?1 AND kind = 'capture' AND image IS NOT NULL";
    let image = first(sql, text, [key(task.0)], |row| id(row, "image"))?;
    match image {
        Some(image) => images::by_id(sql, ImageId(image)),
        None => Ok(None),
    }
}

/// See [`crate::Store::report_task`]. Here come the reports that are more than progress.
pub(super) fn report(tx: &mut Tx<'_>, report: &TaskReport, now: Timestamp) -> Result<Task, Fault> {
    let mut task = tx.task(report.task)?;
    if task.device != report.device {
        return Err(not_its_task(report));
    }
    if !task.state.is_open() {
        return Ok(task);
    }
    let before = task.state;
    task.state = before
        .step(report.state)
        .map_err(|error| Fault::Conflict(format!("{}: {error}; claim it again", task.id)))?;
    task.progress = report.progress;
    task.updated = task.updated.max(now);
    if let Some(message) = &report.message {
        task.message = Some(one_line(message));
    }
    if let Some(disk) = &report.disk {
        pin(tx, &mut task, disk, now)?;
    }
    if before == task.state {
        return still(tx, task, now);
    }
    let what = match task.state {
        TaskState::Queued => "waits for its agent",
        TaskState::Claimed => "was taken up by its agent",
        TaskState::Running => "is running",
        TaskState::Verifying => "is written, and is being verified",
        TaskState::Done => "is done",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "was cancelled",
    };
    let what = match &report.message {
        Some(message) => format!("{what}: {message}"),
        None => what.to_owned(),
    };
    tx.save_task(&task, before, &what, now)?;
    netboot_follows(tx, &task, now)?;
    Ok(task)
}

/// Makes the disk that a deploy has chosen its rule, where none has been chosen before: what an
/// operator asked for may fit another disk by the next attempt, half of this one being written.
fn pin(tx: &mut Tx<'_>, task: &mut Task, disk: &str, now: Timestamp) -> Result<(), Fault> {
    let TaskAction::Deploy(deploy) = &task.action else {
        return Ok(());
    };
    if disk.trim().is_empty() || disk.chars().count() > DISK {
        return Err(Fault::Conflict(format!(
            "{}: a disk is named by 1 to {DISK} characters",
            task.id
        )));
    }
    let disk = one_line(disk);
    let pinned = TaskAction::Deploy(Deploy {
        disk: DiskRule::Named(disk.clone()),
        ..deploy.clone()
    });
    let text = "UPDATE tasks SET action = ?2, disk_pinned = 1 WHERE id = ?1 AND disk_pinned = 0";
    if execute(tx.sql, text, (key(task.id.0), Json(&pinned)))? > 0 {
        task.action = pinned;
        tx.task_event(task, &format!("writes to {disk}"), now)?;
    }
    Ok(())
}

/// A report that leaves the task in its state, but changes more than its progress.
pub(super) fn still(tx: &mut Tx<'_>, task: Task, now: Timestamp) -> Result<Task, Fault> {
    execute(
        tx.sql,
        "UPDATE tasks SET progress = ?2, message = ?3, updated = ?4 WHERE id = ?1",
        (
            key(task.id.0),
            Json(task.progress),
            &task.message,
            task.updated.0,
        ),
    )?;
    tx.effect(Effect::Task(Box::new(task.clone())));
    tx.tell(progress_event(&task), now);
    Ok(task)
}

fn not_its_task(report: &TaskReport) -> Fault {
    Fault::NotFound(format!("task {} of device {}", report.task, report.device))
}

/// A device whose disk is half written boots from the network; one whose disk is proved boots that.
fn netboot_follows(tx: &mut Tx<'_>, task: &Task, now: Timestamp) -> Result<(), Fault> {
    let deploy = match &task.action {
        TaskAction::Deploy(deploy) => deploy,
        // A disk that is being wiped is nothing to boot from.
        TaskAction::Wipe(_) if task.state == TaskState::Running => {
            tx.set_netboot(task.device, Netboot::On, ": its disk is being wiped", now)?;
            let mut record = tx.record(task.device)?;
            record.device.deployed = None;
            tx.save(&record)?;
            return tx.refresh(task.device).map(drop);
        }
        _ => return Ok(()),
    };
    match task.state {
        TaskState::Running | TaskState::Verifying => {
            let why = format!(": {} is being written to its disk", deploy.image_name);
            tx.set_netboot(task.device, Netboot::On, &why, now)?;
        }
        TaskState::Done => {
            let why = format!(": {} is on it", deploy.image_name);
            tx.set_netboot(task.device, Netboot::Off, &why, now)?;
            let mut record = tx.record(task.device)?;
            record.device.deployed = Some(Deployed {
                image: deploy.image_name.clone(),
                version: deploy.version,
                manifest: deploy.manifest.clone(),
                disk: match &deploy.disk {
                    DiskRule::Named(disk) => disk.clone(),
                    DiskRule::Auto => String::new(),
                },
                at: now,
            });
            tx.save(&record)?;
        }
        _ => return Ok(()),
    }
    tx.refresh(task.device)?;
    Ok(())
}

/// Tells how far a task is.
pub(super) fn progress_event(task: &Task) -> NewEvent {
    let Progress {
        phase, done, total, ..
    } = task.progress;
    let phase = match phase {
        Phase::Checking => "checking",
        Phase::Comparing => "comparing",
        Phase::Writing => "writing",
        Phase::Finalizing => "finalizing",
        Phase::Verifying => "verifying",
        Phase::Capturing => "capturing",
        Phase::Wiping => "wiping",
        Phase::Personalizing => "personalizing",
    };
    let megabytes = |bytes: u64| bytes.saturating_add(500_000) / 1_000_000;
    let text = match (u128::from(done) * 100).checked_div(u128::from(total)) {
        None => phase.to_owned(),
        Some(percent) => {
            format!(
                "{phase}: {percent} % ({} of {} MB)",
                megabytes(done),
                megabytes(total)
            )
        }
    };
    let mut event = NewEvent::new(EventKind::Progress, text)
        .device(task.device)
        .task(task.id);
    event.image = image_of(task);
    event
}

/// See [`crate::Store::cancel_task`].
pub(super) fn cancel(tx: &mut Tx<'_>, id: TaskId, by: &str, now: Timestamp) -> Result<Task, Fault> {
    let mut task = tx.task(id)?;
    let before = task.state;
    let Ok(state) = before.step(TaskState::Cancelled) else {
        return Err(Fault::Conflict(format!(
            "{} is {before} already: there is nothing to cancel",
            describe(&task, &tx.label(task.device)?)
        )));
    };
    let by = one_line(by);
    task.state = state;
    task.updated = task.updated.max(now);
    task.message = Some(by.clone());
    tx.save_task(&task, before, &format!("was cancelled: {by}"), now)?;
    Ok(task)
}
