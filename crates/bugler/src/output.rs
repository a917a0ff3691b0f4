//! Tables, sizes and times for people.

use anyhow::Result;
use bugler_model::{Phase, Task, TaskAction, TaskState, Timestamp};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::Write;

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
        table.add_row(row.into_iter().map(safe));
    }
    writeln!(std::io::stdout().lock(), "{}", table.trim_fmt())?;
    Ok(())
}

/// Machines name themselves: what they say must not drive the terminal.
pub(crate) fn safe(text: impl AsRef<str>) -> String {
    text.as_ref()
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A size, in decimal units: `700.0 MB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// How long ago, roughly: `12 s ago`, `3 d ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.millis_since(then) / 1000;
    match seconds {
        ..=0 => "now".into(),
        1..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// The present.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
}

/// What a task does, in a few words.
pub(crate) fn action(action: &TaskAction) -> String {
    match action {
        TaskAction::Deploy(deploy) => format!("deploy {}", deploy.image_name),
        other => other.word().to_owned(),
    }
}

/// How far a task is, in a few words: durable bytes, rate, time left.
pub(crate) fn progress(task: &Task) -> String {
    let p = &task.progress;
    match task.state {
        TaskState::Queued => "waiting for the device's agent".into(),
        TaskState::Done if p.total > 0 => format!(
            "{} in {:.1} s",
            bytes(p.total),
            p.elapsed_ms as f64 / 1000.0
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_at_a_glance() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (1 << 31, "2.1 GB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn a_machine_cannot_drive_the_terminal() {
        assert_eq!(safe("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
