//! Figures, medians, and how they are shown.

use super::servers::Which;
use crate::bench::figures::{median, verdict};
use bugler_simulate::LoadReport;
use std::time::Duration;

/// What is asked of Bugler: its rate against the best of Kea.
const RATE_OF_KEA: f64 = 2.0;
/// Its CPU for an exchange against that of the same Kea.
const CPU_OF_KEA: f64 = 0.5;
/// The share of its maximum that it serves when twice as much is asked.
const SERVED: f64 = 0.9;
/// What one client alone waits for its lease at most, beside the disk's flush, in microseconds.
const ALONE_US: f64 = 200.0;
/// Its rate with very many leases against that with few.
const RATE_OF_FEW: f64 = 0.9;

/// One load on one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    offered: f64,
    rate: f64,
    /// Microseconds an exchange.
    cpu: f64,
    median_us: f64,
    p99_us: f64,
    timeouts: u64,
}

impl Cell {
    /// `cpu` is what the server used meanwhile.
    pub(super) fn new(report: &LoadReport, cpu: Duration) -> Self {
        Self {
            offered: report.begun as f64 / report.seconds,
            rate: report.rate(),
            cpu: cpu.as_secs_f64() * 1e6 / report.acknowledged.max(1) as f64,
            median_us: report.median_us,
            p99_us: report.p99_us,
            timeouts: report.timeouts + report.refused,
        }
    }
}

/// The loads of one kind on one server.
#[derive(Debug)]
pub(super) struct Row {
    which: Which,
    cells: Vec<Cell>,
}

impl Row {
    pub(super) fn new(which: Which) -> Self {
        Self {
            which,
            cells: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    fn of(&self, figure: impl Fn(&Cell) -> f64) -> f64 {
        let figures: Vec<f64> = self.cells.iter().map(figure).collect();
        median(&figures)
    }

    fn rate(&self) -> f64 {
        self.of(|cell| cell.rate)
    }

    fn cpu(&self) -> f64 {
        self.of(|cell| cell.cpu)
    }
}

pub(super) fn print_head() {
    println!(
        "outstanding  leases  server          exchanges/s  CPU us/exchange  median us    99 % us  failed"
    );
}

pub(super) fn print_overload_head() {
    println!("server          offered/s   served/s   of the maximum   CPU us/exchange");
}

pub(super) fn print_rows(outstanding: usize, leases: u32, rows: &[Row]) {
    for row in rows {
        println!(
            "{outstanding:>11}  {leases:>6}  {:<14}  {:>11.0}  {:>15.1}  {:>9.0}  {:>9.0}  {:>6}",
            row.which.name(),
            row.rate(),
            row.cpu(),
            row.of(|cell| cell.median_us),
            row.of(|cell| cell.p99_us),
            row.cells.iter().map(|cell| cell.timeouts).sum::<u64>()
        );
    }
    let Some(ours) = rows.first() else { return };
    let ratios: Vec<String> = rows
        .iter()
        .skip(1)
        .map(|row| {
            format!(
                "{:.2}x the rate and {:.2}x the CPU of {}",
                ours.rate() / row.rate(),
                ours.cpu() / row.cpu(),
                row.which.name()
            )
        })
        .collect();
    println!("          {}", ratios.join("; "));
}

/// What was measured, for the verdicts at the end.
#[derive(Debug, Default)]
pub(super) struct Seen {
    rows: Vec<(usize, u32, Vec<Row>)>,
    overload: Vec<(f64, Row)>,
    many: Vec<(Row, Row)>,
}

impl Seen {
    pub(super) fn add(&mut self, outstanding: usize, leases: u32, rows: Vec<Row>) {
        self.rows.push((outstanding, leases, rows));
    }

    fn best(&self, wanted: impl Fn(Which) -> bool) -> Option<&Row> {
        let rows = self.rows.iter().flat_map(|(_, _, rows)| rows);
        rows.filter(|row| wanted(row.which))
            .max_by(|a, b| a.rate().total_cmp(&b.rate()))
    }

    /// The best rate of a server so far, whatever was outstanding.
    pub(super) fn best_rate(&self, which: Which) -> f64 {
        self.best(|other| other == which).map_or(0.0, Row::rate)
    }

    /// A server that was asked for twice `most` exchanges a second.
    pub(super) fn add_overload(&mut self, most: f64, row: Row) {
        println!(
            "{:<14}  {:>9.0}  {:>9.0}  {:>15.2}  {:>16.1}",
            row.which.name(),
            row.of(|cell| cell.offered),
            row.rate(),
            row.rate() / most,
            row.cpu()
        );
        self.overload.push((most, row));
    }

    /// A server with few leases, and the same kind with many.
    pub(super) fn add_many(&mut self, few: Row, many: Row) {
        println!(
            "{:<14}  {:>9.0}/s with few, {:>9.0}/s with many: {:.2}x; CPU {:.1} and {:.1} us/exchange",
            few.which.name(),
            few.rate(),
            many.rate(),
            many.rate() / few.rate(),
            few.cpu(),
            many.cpu()
        );
        self.many.push((few, many));
    }

    /// `flush_us` is what one flush of the disk takes, in microseconds.
    pub(super) fn print_verdicts(&self, flush_us: f64) {
        let is_kea = |which| matches!(which, Which::Kea(_));
        let ours = |which| which == Which::Bugler;
        if let (Some(bugler), Some(kea)) = (self.best(ours), self.best(is_kea)) {
            let (rate, cpu) = (bugler.rate() / kea.rate(), bugler.cpu() / kea.cpu());
            println!(
                "best rates: bugler {:.0}/s at {:.1} us of CPU, {} {:.0}/s at {:.1} us",
                bugler.rate(),
                bugler.cpu(),
                kea.which.name(),
                kea.rate(),
                kea.cpu()
            );
            println!(
                "  {rate:.2}x the rate, at least {RATE_OF_KEA:.1}x asked: {}",
                verdict(rate >= RATE_OF_KEA)
            );
            println!(
                "  {cpu:.2}x the CPU, at most {CPU_OF_KEA:.1}x asked: {}",
                verdict(cpu <= CPU_OF_KEA)
            );
        }
        let alone = |wanted: &dyn Fn(Which) -> bool| {
            let rows = self
                .rows
                .iter()
                .filter(|(outstanding, ..)| *outstanding == 1);
            let rows = rows.flat_map(|(_, _, rows)| rows);
            rows.filter(|row| wanted(row.which))
                .map(|row| row.of(|cell| cell.median_us))
                .fold(f64::INFINITY, f64::min)
        };
        let (bugler, kea) = (alone(&ours), alone(&is_kea));
        println!(
            "  one client alone: {bugler:.0} us, at most {ALONE_US:.0} us and one flush ({flush_us:.0} us) asked: {}; \
             kea, which does not flush: {kea:.0} us",
            verdict(bugler <= ALONE_US + flush_us)
        );
        for (most, row) in self.overload.iter().filter(|(_, row)| ours(row.which)) {
            let share = row.rate() / most;
            println!(
                "  offered twice the maximum, {share:.2}x of it served, at least {SERVED:.1}x asked: {}",
                verdict(share >= SERVED)
            );
        }
        for (few, many) in self.many.iter().filter(|(few, _)| ours(few.which)) {
            let share = many.rate() / few.rate();
            println!(
                "  very many leases: {share:.2}x the rate, at least {RATE_OF_FEW:.1}x asked: {}",
                verdict(share >= RATE_OF_FEW)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(which: Which, rates: &[f64]) -> Row {
        let mut row = Row::new(which);
        for &rate in rates {
            let report = LoadReport {
                acknowledged: rate as u64,
                seconds: 1.0,
                ..LoadReport::default()
            };
            row.push(Cell::new(&report, Duration::from_millis(100)));
        }
        row
    }

    #[test]
    fn the_best_rate_is_the_best_median() {
        let mut seen = Seen::default();
        seen.add(
            1,
            10,
            vec![
                row(Which::Bugler, &[5.0, 1.0, 3.0]),
                row(Which::Kea(1), &[9.0]),
            ],
        );
        seen.add(
            32,
            10,
            vec![row(Which::Bugler, &[4.0]), row(Which::Kea(2), &[7.0])],
        );
        assert_eq!(seen.best_rate(Which::Bugler), 4.0);
        assert_eq!(seen.best_rate(Which::Kea(1)), 9.0);
        assert_eq!(seen.best_rate(Which::Dnsmasq), 0.0);
    }

    #[test]
    fn cpu_is_counted_for_each_exchange() {
        assert_eq!(row(Which::Dnsmasq, &[1000.0]).cpu(), 100.0);
    }
}
