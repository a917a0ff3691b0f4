//! What Bugler costs when it has nothing to do: the memory of the server, and the size of the
//! initramfs, which every machine fetches and unpacks.

use crate::bench::figures;
use crate::net::{Net, address};
use crate::process::output_of;
use crate::product;
use crate::run::Run;
use crate::server::Server;
use crate::site::POOL;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// How long the server is left alone before it is looked at.
const REST: Duration = Duration::from_secs(10);
/// The most that it may keep in memory, in MB.
const MEMORY: f64 = 40.0;
/// The most that the initramfs may be long without kernel modules, in MB.
const INITRAMFS: f64 = 3.0;

/// Measures, and prints what was found.
///
/// # Errors
/// When the server does not start, or the kernel does not say how much memory it has.
pub fn run() -> Result<()> {
    let run = Run::start("bench-idle")?;
    let outcome = measure(&run);
    run.finish(outcome, false)
}

fn measure(run: &Run) -> Result<()> {
    let net = Net::new()?;
    let host = net.add_host("srv", address(1))?;
    let product = product::cached()?;
    let state = run.file("state");
    product.furnish(&state)?;
    let mut server = Server::new(
        run,
        host,
        &product.bugler,
        &["--dhcp=full", &format!("--pool={POOL}")],
    );
    server.start()?;
    thread::sleep(REST);
    let memory = Memory::of(server.process()?.id())?;
    let listed = output_of(
        Command::new(&product.bugler)
            .args(["bootenv", "list", "--json", "--state-dir"])
            .arg(&state),
    )?;
    let sizes = Sizes::of_first(&listed)
        .with_context(|| format!("`bugler bootenv list --json` printed {listed:.500}"))?;
    println!(
        "\nIdle server: DHCP, TFTP, HTTP, dashboard and database; {} s after its start",
        REST.as_secs()
    );
    println!(
        "  resident (RSS)                            {:6.1} MB  {}",
        memory.resident,
        verdict(memory.resident, MEMORY)
    );
    println!(
        "  of which it shares nothing or its part (PSS) {:3.1} MB",
        memory.proportional
    );
    println!("Boot environment, as sent");
    println!(
        "  initramfs without kernel modules          {:6.2} MB  {}",
        sizes.base,
        verdict(sizes.base, INITRAMFS)
    );
    println!(
        "    without the rescue shell too            {:6.2} MB",
        sizes.bare
    );
    println!(
        "  initramfs with them                       {:6.2} MB",
        sizes.whole
    );
    println!(
        "  kernel                                    {:6.2} MB",
        sizes.kernel
    );
    Ok(())
}

fn verdict(found: f64, most: f64) -> String {
    let word = figures::verdict(found < most);
    format!("(target: under {most:.0} MB: {word})")
}

/// The memory of a process, in MB.
#[derive(Debug, PartialEq)]
struct Memory {
    resident: f64,
    proportional: f64,
}

impl Memory {
    fn of(process: u32) -> Result<Self> {
        let path = format!("/proc/{process}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&text).with_context(|| format!("{path} has no Rss and Pss"))
    }

    /// Lines such as `Rss:   1234 kB`, in units of 1024 bytes.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib * 1024.0 / 1e6)
        };
        Some(Self {
            resident: field("Rss:")?,
            proportional: field("Pss:")?,
        })
    }
}

/// Sizes of a boot environment, in MB.
#[derive(Debug, PartialEq)]
struct Sizes {
    base: f64,
    bare: f64,
    whole: f64,
    kernel: f64,
}

impl Sizes {
    fn of_first(json: &str) -> Option<Self> {
        let list: Value = serde_json::from_str(json).ok()?;
        let field = |name: &str| Some(list.get(0)?.get("sizes")?.get(name)?.as_f64()? / 1e6);
        Some(Self {
            base: field("base")?,
            bare: field("base_without_busybox")?,
            whole: field("initrd")?,
            kernel: field("vmlinuz")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read() {
        let text = "5-7 ---p 00000000 00:00 0 [rollup]\nRss:      1000 kB\nPss:   500 kB\nPss_Dirty: 9 kB\n";
        let expected = Memory {
            resident: 1.024,
            proportional: 0.512,
        };
        assert_eq!(Memory::parse(text), Some(expected));
        assert_eq!(Memory::parse("Rss: 1 kB\n"), None);
    }

    #[test]
    fn the_sizes_of_the_latest_boot_environment_are_read() {
        let json = r#"[{"sizes": {"base": 2000000, "base_without_busybox": 1000000,
            "initrd": 9000000, "vmlinuz": 8000000}}, {}]"#;
        let expected = Sizes {
            base: 2.0,
            bare: 1.0,
            whole: 9.0,
            kernel: 8.0,
        };
        assert_eq!(Sizes::of_first(json), Some(expected));
        assert_eq!(Sizes::of_first("[]"), None);
    }

    #[test]
    fn what_is_as_large_as_the_limit_has_missed_it() {
        assert!(verdict(39.9, 40.0).ends_with("met)"));
        assert!(verdict(40.0, 40.0).ends_with("MISSED)"));
    }
}
