//! The lab's command line: end-to-end scenarios, the demo, the benchmarks.

use anyhow::{Result, bail};
use bugler_lab::bench::{self, Bench, aoe, nbd, tftp};
use bugler_lab::demo;
use bugler_lab::enclosure::{self, Side};
use bugler_lab::image::{self, Variant};
use bugler_lab::machine::Firmware;
use bugler_lab::product;
use bugler_lab::run::Run;
use bugler_lab::scenarios::{self, Scenario};
use bugler_lab::slot::Slots;
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// When benchmarks are ended, whatever they are doing.
const BENCH_LIMIT: Duration = Duration::from_secs(3 * 3600);

/// Virtual machines, networks and peers for Bugler. Everything happens in network namespaces of its
/// own; no real network is touched.
#[derive(Parser)]
#[command(name = "bugler-lab", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play the whole story: a machine boots from the network, gets a Debian image, and starts from
    /// its own disk. Exit code 0 only when it did.
    Demo {
        /// Leave everything running at the end, with the dashboard, until Ctrl-C.
        #[arg(long)]
        keep: bool,
        /// The machine's firmware.
        #[arg(long, value_enum, default_value_t = FirmwareName::Bios)]
        firmware: FirmwareName,
    },
    /// Play an end-to-end scenario; without a name, list them.
    E2e {
        /// Which one.
        name: Option<String>,
        /// Keep its folder, disks included, after a success too.
        #[arg(long)]
        keep: bool,
    },
    /// Build the Debian image that scenarios deploy, and print its path.
    Image {
        /// Which one.
        #[arg(value_enum, default_value_t = ImageName::Small)]
        variant: ImageName,
    },
    /// Measure Bugler beside its peers, in one run.
    Bench {
        /// What to measure; without a name, everything.
        #[command(subcommand)]
        what: Option<Bench>,
    },
    /// Serve files as AoE targets, until the standard input ends: what scenarios and the AoE benchmark
    /// have as their server.
    #[command(hide = true)]
    AoeServer(aoe::ServerOptions),
    /// Serve a disk by NBD on 127.0.0.1: what the NBD benchmark measures.
    #[command(hide = true)]
    NbdServer(nbd::ServerOptions),
    /// Serve a folder by TFTP on 127.0.0.1: what the TFTP benchmark measures.
    #[command(hide = true)]
    TftpServer {
        /// The folder.
        #[arg(long)]
        dir: PathBuf,
        /// The port.
        #[arg(long)]
        port: u16,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum FirmwareName {
    Bios,
    Uefi,
}

#[derive(Clone, Copy, ValueEnum)]
enum ImageName {
    Small,
    Large,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bugler-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::E2e { name: None, .. } => {
            for scenario in scenarios::all() {
                println!("{:24} {}", scenario.name, scenario.proves);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::E2e {
            name: Some(name),
            keep,
        } => match scenarios::find(&name) {
            Some(scenario) => play(scenario, keep),
            None => bail!("there is no scenario {name}; `bugler-lab e2e` lists them"),
        },
        Command::Image { variant } => {
            let variant = match variant {
                ImageName::Small => Variant::Small,
                ImageName::Large => Variant::Large,
            };
            let image = image::ensure(variant, &|text| eprintln!("{text}"))?;
            println!("{}", image.disk.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo { keep, firmware } => {
            let firmware = match firmware {
                FirmwareName::Bios => Firmware::Bios,
                FirmwareName::Uefi => Firmware::Uefi,
            };
            demo::play(demo::Options { firmware, keep })
        }
        Command::Bench { what } => measure(what.as_ref()),
        Command::AoeServer(options) => {
            aoe::serve(&options)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::NbdServer(options) => {
            nbd::serve(&options)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::TftpServer { dir, port } => {
            tftp::serve(&dir, port)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn measure(what: Option<&Bench>) -> Result<ExitCode> {
    if !enclosure::is_inside() {
        bench::prepare(what)?;
    }
    if let Side::Outside(code) = enclosure::enter(BENCH_LIMIT)? {
        return Ok(code);
    }
    bench::run(what)?;
    Ok(ExitCode::SUCCESS)
}

fn play(scenario: &Scenario, keep: bool) -> Result<ExitCode> {
    let slot = prepare(scenario)?;
    if let Side::Outside(code) = enclosure::enter(scenario.limit)? {
        drop(slot);
        return Ok(code);
    }
    let run = Run::start(scenario.name)?;
    run.say(&format!("shows that {}", scenario.proves));
    let outcome = (scenario.play)(&run);
    Ok(match run.finish(outcome, keep) {
        Ok(()) => ExitCode::SUCCESS,
        // `finish` has printed it.
        Err(_) => ExitCode::FAILURE,
    })
}

/// What has to be done before the private network is entered.
fn prepare(scenario: &Scenario) -> Result<Option<Slots>> {
    if enclosure::is_inside() {
        return Ok(None);
    }
    if scenario.image {
        image::ensure(Variant::Small, &|text| {
            println!("[{}] {text}", scenario.name)
        })?;
    }
    if scenario.product {
        product::ensure(&|text| println!("[{}] {text}", scenario.name))?;
    }
    (scenario.machines > 0)
        .then(|| Slots::take(scenario.machines))
        .transpose()
}
