//! Whose turn it is, where a set number may be at work at once.

use super::fault::Fault;
use super::rows::{first, id, key};
use super::tasks::{claim, open_of, still};
use super::writer::Tx;
use crate::Claim;
use bugler_model::{DeviceId, Task, TaskAction, TaskState, Timestamp};

/// What a task says for as long as it is held back.
const NOT_YET: &str = "waits for its turn: as many others are at work as may be at once";

/// See [`crate::Store::claim_in_turn`].
pub(super) fn claim_in_turn(
    tx: &mut Tx<'_>,
    device: DeviceId,
    at_once: u32,
    now: Timestamp,
) -> Result<Claim, Fault> {
    if let Some(task) = open_of(tx, device)?.into_iter().next()
        && task.state == TaskState::Queued
        && matches!(task.action, TaskAction::Deploy(_) | TaskAction::Capture(_))
        && ahead_of(tx, &task)? >= u64::from(at_once)
    {
        let id = task.id;
        if task.message.as_deref() != Some(NOT_YET) {
            let mut task = task;
            task.message = Some(NOT_YET.to_owned());
            still(tx, task, now)?;
        }
        return Ok(Claim::NotYet(id));
    }
    let task = claim(tx, device, now)?;
    Ok(task.map_or(Claim::Nothing, |task| Claim::Task(Box::new(task))))
}

/// How many deploys and captures go before a queued one: those at work, and older ones whose agent
/// is there and asks as well.
fn ahead_of(tx: &Tx<'_>, task: &Task) -> Result<u64, Fault> {
    let text = "SELECT count(*) AS ahead FROM tasks JOIN devices ON devices.id = tasks.device
                WHERE open = 1 AND kind IN ('deploy', 'capture') AND tasks.id <> ?1
                  AND (state <> 'queued' AND presence <> 'lost'
                       OR state = 'queued' AND presence = 'agent' AND tasks.id < ?1)";
    let ahead = first(tx.sql, text, [key(task.id.0)], |row| id(row, "ahead"))?;
    Ok(ahead.unwrap_or_default())
}
