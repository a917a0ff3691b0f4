//! Tables and progress for people.

use anyhow::Result;
use bugler_model::text::{self, bytes};
use bugler_model::{Phase, Task, TaskAction, TaskState, Timestamp};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Prints one JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Prints rows under a header.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<()> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| text::clean(cell)));
    }
    writeln!(std::io::stdout().lock(), "{}", table.trim_fmt())?;
    Ok(())
}

/// Asks a question that is answered with yes or no; no where it is not yes.
///
/// # Errors
/// Where there is nobody to ask.
pub(crate) fn confirmed(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("{question} Say --yes where nobody can be asked");
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(answer == "y" || answer == "yes")
}

/// The present.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
}

/// What a task does, in a few words.
pub(crate) fn action(action: &TaskAction) -> String {
    match action {
        TaskAction::Deploy(deploy) if deploy.version > 0 => {
            format!("deploy {}@{}", deploy.image_name, deploy.version)
        }
        TaskAction::Deploy(deploy) => format!("deploy {}", deploy.image_name),
        TaskAction::Capture(capture) => format!("capture as {}", capture.image_name),
        other => other.word().to_owned(),
    }
}

/// How far a task is, in a few words: durable bytes, rate, time left.
pub(crate) fn progress(task: &Task) -> String {
    let p = &task.progress;
    match task.state {
        TaskState::Queued => task
            .message
            .clone()
            .unwrap_or_else(|| "waiting for the device's agent".into()),
        TaskState::Done => {
            let moved = (p.total > 0).then(|| {
                let seconds = p.elapsed_ms as f64 / 1000.0;
                format!("{} in {seconds:.1} s", bytes(p.total))
            });
            let parts = moved.into_iter().chain(task.message.clone());
            parts.collect::<Vec<_>>().join("; ")
        }
        TaskState::Failed | TaskState::Cancelled => task.message.clone().unwrap_or_default(),
        TaskState::Running | TaskState::Verifying if p.total > 0 => {
            let percent = p.done.saturating_mul(100) / p.total;
            let mut text = format!("{percent} % ({} of {})", bytes(p.done), bytes(p.total));
            let fresh = p.done.saturating_sub(p.skipped);
            if p.phase == Phase::Writing && p.elapsed_ms > 1000 && fresh > 0 {
                let rate = fresh as f64 * 1000.0 / p.elapsed_ms as f64;
                let left = p.total.saturating_sub(p.done) as f64 / rate;
                text += &format!(", {}/s, {left:.0} s left", bytes(rate as u64));
            }
            text
        }
        _ => String::new(),
    }
}
