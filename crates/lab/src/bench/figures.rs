//! What every table of figures needs.

use anyhow::{Context, Result};
use std::fs;

/// The middle one; the mean of the two in the middle where their number is even; NaN where there is
/// none.
pub(super) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The most memory that a process ever had resident, in MB (VmHWM, proc(5)).
///
/// # Errors
/// When there is no such process.
pub(super) fn peak_memory(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    highest(&text).with_context(|| format!("{path} has no VmHWM"))
}

/// The memory that a process has resident now, in MB (VmRSS, proc(5)).
///
/// # Errors
/// When there is no such process.
pub(super) fn resident(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    field(&text, "VmRSS:").with_context(|| format!("{path} has no VmRSS"))
}

/// Lets [`peak_memory`] count from now on.
///
/// # Errors
/// When there is no such process.
pub(super) fn reset_peak(process: u32) -> Result<()> {
    let path = format!("/proc/{process}/clear_refs");
    // proc(5): 5 sets the highest resident size back to the present one.
    fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
}

fn highest(status: &str) -> Option<f64> {
    field(status, "VmHWM:")
}

/// A line such as `VmHWM:   1234 kB`, in units of 1024 bytes.
fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// How a target was kept.
pub(super) fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_memory_is_read() {
        let text = "Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t    2000 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(highest(text), Some(2.048));
        assert_eq!(highest("VmRSS: 1 kB\n"), None);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
