//! What one packet costs to read.
//!
//! Every decoder of `bugler-fuzzing` over every input that there is for it: the kept corpus of the
//! fuzzer, the recorded packets of real clients, and packets made to cost as much as can be, as long
//! as the socket takes. Each is read as the server reads it: a DHCP packet with the facts about its
//! sender and the plan for it, a TFTP request with what its path means.
//!
//! The time of an input is the median of many samples; a sample reads it as often as fills
//! [`SAMPLE`]. Readers of files, streams and HTTP bodies are shown beside them for their length; no
//! target is set for these.

use crate::bench::figures;
use anyhow::{Context, Result, bail, ensure};
use bugler_fuzzing::inputs::{inputs, largest_packet};
use bugler_fuzzing::{TARGETS, Target};
use std::time::{Duration, Instant};

/// The most that one packet may cost, in microseconds.
const MOST_US: f64 = 50.0;
/// How long a sample takes at least.
const SAMPLE: Duration = Duration::from_micros(100);
/// The most times that a sample reads its input.
const MOST_TIMES: u32 = 10_000;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many samples of each input; their median counts.
    #[arg(long, default_value_t = 31)]
    pub samples: usize,
    /// Show every input of the decoders of packets, not only the slowest of each.
    #[arg(long)]
    pub all: bool,
}

/// One input and what reading it cost.
struct Seen {
    input: String,
    bytes: usize,
    us: f64,
}

/// Measures, and prints what was found.
///
/// # Errors
/// When this program was built without optimisation, or an input cannot be read.
pub fn run(options: &Options) -> Result<()> {
    if cfg!(debug_assertions) {
        bail!(
            "this program was built without optimisation, so what it measures of itself says nothing: run \
             `cargo run --release -p bugler-lab -- bench decode`"
        );
    }
    ensure!(options.samples > 0, "--samples must be at least 1");
    println!(
        "Reading one packet: the slowest input of each decoder, medians of {} samples",
        options.samples
    );
    println!("decoder          inputs  slowest us  bytes  input");
    let mut missed = vec![];
    let (packets, files): (Vec<Target>, Vec<Target>) = TARGETS
        .iter()
        .copied()
        .partition(|target| largest_packet(target.name).is_some());
    for target in packets {
        let seen = measure(target, options)?;
        let slowest = print_slowest(target, &seen)?;
        if slowest.us >= MOST_US {
            missed.push(target.name);
        }
        if options.all {
            for one in &seen {
                println!("{:>34.2}  {:>5}  {}", one.us, one.bytes, one.input);
            }
        }
    }
    println!("\nReading files, streams and HTTP bodies, for which no target is set");
    println!("decoder          inputs  slowest us  bytes  input");
    for target in files {
        print_slowest(target, &measure(target, options)?)?;
    }
    let verdict = figures::verdict(missed.is_empty());
    let those = if missed.is_empty() {
        String::new()
    } else {
        format!(": not by {}", missed.join(", "))
    };
    println!("\nno packet costs more than {MOST_US:.0} us to read: {verdict}{those}");
    Ok(())
}

/// Every input of a decoder, the slowest first.
fn measure(target: Target, options: &Options) -> Result<Vec<Seen>> {
    let mut seen = vec![];
    for input in inputs(target.name)? {
        seen.push(Seen {
            us: cost(target.run, &input.bytes, options.samples),
            bytes: input.bytes.len(),
            input: input.name,
        });
    }
    seen.sort_by(|a, b| b.us.total_cmp(&a.us));
    Ok(seen)
}

fn print_slowest(target: Target, seen: &[Seen]) -> Result<&Seen> {
    let slowest = seen
        .first()
        .with_context(|| format!("there is no input for {}", target.name))?;
    println!(
        "{:<15}  {:>6}  {:>10.2}  {:>5}  {}",
        target.name,
        seen.len(),
        slowest.us,
        slowest.bytes,
        slowest.input
    );
    Ok(slowest)
}

/// Microseconds that one reading of these bytes takes.
fn cost(read: fn(&[u8]), bytes: &[u8], samples: usize) -> f64 {
    let once = Instant::now();
    read(bytes);
    let once = once.elapsed().max(Duration::from_nanos(10));
    let times = (SAMPLE.as_nanos() / once.as_nanos()).clamp(1, u128::from(MOST_TIMES)) as u32;
    let costs: Vec<f64> = (0..samples)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..times {
                read(std::hint::black_box(bytes));
            }
            begun.elapsed().as_secs_f64() * 1e6 / f64::from(times)
        })
        .collect();
    figures::median(&costs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_input_is_found() {
        fn read(bytes: &[u8]) {
            if bytes.len() > 1000 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert!(cost(read, &[0; 2000], 3) >= 2000.0);
        assert!(cost(read, &[0; 10], 3) < 2000.0);
    }

    #[test]
    fn a_build_without_optimisation_is_not_measured() {
        let options = Options {
            samples: 1,
            all: false,
        };
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains("--release"), "{error}");
    }
}
