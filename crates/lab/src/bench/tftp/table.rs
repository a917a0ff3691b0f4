//! Figures, medians, and how they are shown.

use std::time::Duration;

use crate::bench::figures::{median, verdict};
use bugler_tftp::client::swarm::Report;

/// What is asked of Bugler: its share of dnsmasq's CPU at windowsize 1 with 64 clients.
const CPU_OF_DNSMASQ: f64 = 0.85;
/// Its share of atftpd's CPU at windowsize 16.
const CPU_OF_ATFTPD: f64 = 0.45;
/// Its share of the best peer's time where datagrams are lost.
const TIME_OF_BEST: f64 = 0.25;

/// One load on one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub(super) failed: usize,
    seconds: f64,
    rate: f64,
    cpu: f64,
    timeouts: u64,
    windowsize: u16,
}

impl Cell {
    /// `cpu` is what the server used while it sent `bytes`.
    pub(super) fn new(report: &Report, cpu: Duration, bytes: usize) -> Self {
        let seconds = report.duration.as_secs_f64();
        Self {
            failed: report.failed,
            seconds,
            rate: report.bytes as f64 / seconds / 1e6,
            cpu: cpu.as_secs_f64() / (bytes as f64 / f64::from(1 << 30)),
            timeouts: report.timeouts,
            windowsize: report.windowsize,
        }
    }
}

/// The loads of one kind on one server.
#[derive(Debug)]
pub(super) struct Row {
    name: &'static str,
    cells: Vec<Cell>,
}

impl Row {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            cells: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    fn median(&self, figure: impl Fn(&Cell) -> f64) -> f64 {
        let figures: Vec<f64> = self.cells.iter().map(figure).collect();
        median(&figures)
    }

    fn rate(&self) -> f64 {
        self.median(|cell| cell.rate)
    }

    fn cpu(&self) -> f64 {
        self.median(|cell| cell.cpu)
    }

    fn seconds(&self) -> f64 {
        self.median(|cell| cell.seconds)
    }

    fn failed(&self) -> usize {
        self.cells.iter().map(|cell| cell.failed).sum()
    }
}

pub(super) fn print_head() {
    println!("window  clients  server   MB/s  CPU s/GiB");
}

/// Shows one kind of load; the first row is Bugler's.
pub(super) fn print_row(clients: usize, windowsize: u16, rows: &[Row]) {
    for row in rows {
        let agreed = row.cells.first().map_or(1, |cell| cell.windowsize);
        let note = if agreed < windowsize {
            format!("  (knows no window: {agreed})")
        } else {
            String::new()
        };
        println!(
            "{windowsize:>6}  {clients:>7}  {:<7}  {:>5.0}  {:>8.2}{note}",
            row.name,
            row.rate(),
            row.cpu()
        );
    }
    let [ours, peers @ ..] = rows else {
        return;
    };
    let mut said = String::from("        ");
    for peer in peers {
        let share = ours.cpu() / peer.cpu();
        said.push_str(&format!(
            " {:.2}x the rate and {share:.2}x the CPU of {};",
            ours.rate() / peer.rate(),
            peer.name
        ));
        let wanted = match (peer.name, windowsize, clients) {
            ("dnsmasq", 1, 64) => Some(CPU_OF_DNSMASQ),
            ("atftpd", 16, _) => Some(CPU_OF_ATFTPD),
            _ => None,
        };
        if let Some(wanted) = wanted {
            said.push_str(&format!(
                " at most {wanted:.2}x asked: {};",
                verdict(share <= wanted)
            ));
        }
    }
    println!("{}", said.trim_end_matches(';'));
}

/// Shows the load with losses; the first row is Bugler's.
pub(super) fn print_lossy(rows: &[Row]) {
    println!("server   seconds  failed  client timeouts");
    for row in rows {
        println!(
            "{:<7}  {:>7.2}  {:>6}  {:>15.0}",
            row.name,
            row.seconds(),
            row.failed(),
            row.median(|cell| cell.timeouts as f64)
        );
    }
    let [ours, peers @ ..] = rows else {
        return;
    };
    let best = peers.iter().map(Row::seconds).fold(f64::INFINITY, f64::min);
    let share = ours.seconds() / best;
    println!(
        "{share:.3}x the time of the best peer, at most {TIME_OF_BEST:.2}x and no failure asked: {}",
        verdict(share <= TIME_OF_BEST && ours.failed() == 0)
    );
}
