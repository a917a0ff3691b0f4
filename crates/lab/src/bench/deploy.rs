//! The deploy of an image: Bugler beside what people use instead, curl with zstd and dd.
//!
//! ```text
//!  host "srv"                          bridge          host "n1"
//!  bugler serve ─── chunks ─────────────────────────>  bugler-agent run --once ──> disk.raw
//!  nginx ────────── disk.raw.zst ───────────────────>  curl | zstd -d | dd ──────> disk.raw
//!        ────────── disk.raw ───────────────────────>  curl | dd ────────────────> disk.raw
//! ```
//!
//! Each way begins with a new file of the image's size, all hole, on the same file system, and ends
//! when its program has ended with everything on the disk (fsync). For Bugler that is all of it:
//! the agent starts, registers, asks for its task, checks, writes, and tells the server the end. The
//! ways take turns within each round, beginning with another one each time, so that whatever else
//! the computer does meets all of them alike.
//!
//! The target is against the two pipelines as people type them, in which dd writes through the page
//! cache. Bugler's agent writes past it (O_DIRECT), which alone makes a large difference on many
//! disks; so both pipelines are measured with `oflag=direct` as well, and the table says what is
//! left of the advantage then: that Bugler does not write what the image does not use.

use crate::api::Api;
use crate::bench::figures::{median, verdict};
use crate::bench::rack::{Client, DEVICE_PORT, NGINX_PORT, start_nginx};
use crate::disk;
use crate::image::{self, Variant};
use crate::net::{Net, address};
use crate::process::{Process, output_of};
use crate::product;
use crate::run::Run;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use bugler_model::VerifyMode;
use bugler_protocol::operator::{CreatedTasks, DeployOrder, NewTasks, Order};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The name of the image on the server.
const IMAGE: &str = "bench";
/// At most this part of the time of the faster peer.
const TARGET: f64 = 0.7;

const RAW: &str = "curl -sSf \"$1/disk.raw\"";
const UNPACK: &str = "curl -sSf \"$1/disk.raw.zst\" | zstd -q -d";
const BUFFERED: &str = "dd of=\"$2\" bs=1M conv=fsync,notrunc status=none";
/// A pipe gives less than a block at a time, which O_DIRECT would not take.
const DIRECT: &str =
    "dd of=\"$2\" bs=1M iflag=fullblock oflag=direct conv=fsync,notrunc status=none";

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many rounds; medians of them are shown.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
}

/// One way to get the image onto a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    WriteOnly,
    ReadBack,
    CurlZstd,
    CurlRaw,
    CurlZstdDirect,
    CurlRawDirect,
}

impl Way {
    const ALL: [Self; 6] = [
        Self::WriteOnly,
        Self::CurlZstd,
        Self::CurlRaw,
        Self::CurlZstdDirect,
        Self::CurlRawDirect,
        Self::ReadBack,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::WriteOnly => "bugler, write only",
            Self::ReadBack => "bugler, with read-back verification",
            Self::CurlZstd => "curl raw.zst | zstd -d | dd",
            Self::CurlRaw => "curl raw | dd",
            Self::CurlZstdDirect => "the same with zstd, dd oflag=direct",
            Self::CurlRawDirect => "the same with raw, dd oflag=direct",
        }
    }
}

/// Measures, and prints the table. To be called inside of [`enter`](crate::enclosure::enter).
///
/// # Errors
/// When one of the ways does not work, or leaves something else than the image on the disk.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    let run = Run::start("bench-deploy")?;
    let outcome = measure(&run, options.rounds);
    run.finish(outcome, false)
}

fn measure(run: &Run, rounds: usize) -> Result<()> {
    let bench = Bench::set_up(run)?;
    let mut times = Way::ALL.map(|way| (way, Vec::new()));
    for round in 0..rounds {
        for turn in 0..Way::ALL.len() {
            let (way, found) = &mut times[(round + turn) % Way::ALL.len()];
            let time = bench.go(*way, round)?;
            run.say(&format!(
                "round {}: {:36} {:6.2} s",
                round + 1,
                way.name(),
                time.as_secs_f64()
            ));
            found.push(time.as_secs_f64());
        }
    }
    print!("\n{}", table(&bench.what, &times));
    Ok(())
}

struct Bench<'r> {
    run: &'r Run,
    image: image::Image,
    what: String,
    client: Client,
    server: Server,
    device: String,
    _nginx: Process,
    _net: Net,
}

impl<'r> Bench<'r> {
    fn set_up(run: &'r Run) -> Result<Self> {
        let net = Net::new()?;
        let srv = net.add_host("srv", address(1))?;
        let (image, product) = (image::cached(Variant::Large)?, product::cached()?);
        product.furnish(&run.file("state"))?;
        let packed = packed(&image.disk)?;
        let folder = image.disk.parent().context("the image is in no folder")?;
        let nginx = start_nginx(run, &srv, folder)?;
        let listen = format!("--device-listen={}:{DEVICE_PORT}", address(1));
        let mut server = Server::new(run, srv, &product.bugler, &["--dhcp=off", &listen]);
        server.start()?;
        let added: bugler_model::Image = server
            .api()
            .put_file(&format!("images/{IMAGE}"), &image.disk)?;
        let mut bench = Self {
            run,
            what: format!(
                "an image of {:.0} MiB with {:.0} MiB used; as sent: Bugler {:.0} MiB in chunks, \
                 raw.zst {:.0} MiB (zstd -3)",
                mib(added.size),
                mib(added.used),
                mib(added.stored),
                mib(fs::metadata(&packed).context("cannot size raw.zst")?.len()),
            ),
            client: Client::new(net.add_host("n1", address(2))?, &product)?,
            image,
            server,
            device: String::new(),
            _nginx: nginx,
            _net: net,
        };
        bench.device = bench
            .client
            .introduce(run, &bench.server, bench.image.size)?;
        Ok(bench)
    }

    fn order(&self, verify: VerifyMode) -> Result<()> {
        let order = NewTasks {
            action: Order::Deploy(DeployOrder {
                verify,
                ..DeployOrder::of(IMAGE)
            }),
            devices: vec![self.device.clone()],
            tag: None,
            leave_power: false,
        };
        let api: Api<'_> = self.server.api();
        let created: CreatedTasks = api.post("tasks", &order)?;
        ensure!(
            created.tasks.len() == 1,
            "{} tasks were made",
            created.tasks.len()
        );
        Ok(())
    }

    /// Goes one way, and returns how long it took. In the first round the disk is compared with the
    /// image.
    fn go(&self, way: Way, round: usize) -> Result<Duration> {
        let target = self.run.file("target.raw");
        disk::empty(&target, self.image.size)?;
        let mut command = match way {
            Way::WriteOnly | Way::ReadBack => {
                self.order(match way {
                    Way::WriteOnly => VerifyMode::WriteOnly,
                    _ => VerifyMode::ReadBack,
                })?;
                self.client.agent(&target)?
            }
            Way::CurlZstd => self.shell(UNPACK, BUFFERED, &target),
            Way::CurlRaw => self.shell(RAW, BUFFERED, &target),
            Way::CurlZstdDirect => self.shell(UNPACK, DIRECT, &target),
            Way::CurlRawDirect => self.shell(RAW, DIRECT, &target),
        };
        // What the way before has left to be written is not this one's.
        rustix::fs::sync();
        let log = self
            .run
            .file(&format!("{way:?}-{round}.log").to_lowercase());
        let log = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let began = Instant::now();
        let status = command
            .status()
            .with_context(|| format!("cannot run {}", way.name()))?;
        let time = began.elapsed();
        ensure!(
            status.success(),
            "{} failed ({status}); see its log",
            way.name()
        );
        if round == 0 {
            disk::compare(&self.image.disk, &target)
                .with_context(|| format!("{} has written something else", way.name()))?;
        }
        fs::remove_file(&target).context("cannot remove a disk")?;
        Ok(time)
    }

    /// A pipeline on the client; both parts are shell with `$1` the URL and `$2` the disk.
    fn shell(&self, fetch: &str, write: &str, target: &Path) -> Command {
        let mut command = self.client.host().command("bash");
        command
            .args(["-c", &format!("set -o pipefail; {fetch} | {write}"), "bash"])
            .arg(format!("http://{}:{NGINX_PORT}", address(1)))
            .arg(target);
        command
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The image as one zstd file beside it, made when it is not there.
fn packed(image: &Path) -> Result<PathBuf> {
    let packed = image.with_extension("raw.zst");
    if !packed.exists() {
        let unfinished = image.with_extension("raw.zst.new");
        output_of(
            Command::new("zstd")
                .args(["-q", "-3", "-T0", "-f", "-o"])
                .arg(&unfinished)
                .arg(image),
        )?;
        fs::rename(&unfinished, &packed).context("cannot name the packed image")?;
    }
    Ok(packed)
}

fn table(what: &str, times: &[(Way, Vec<f64>)]) -> String {
    let of = |way: Way| {
        times
            .iter()
            .find(|(of, _)| *of == way)
            .map_or(f64::NAN, |(_, times)| median(times))
    };
    let peer = of(Way::CurlZstd).min(of(Way::CurlRaw));
    let rounds = times.first().map_or(0, |(_, times)| times.len());
    let mut text = format!(
        "Deploy to a file: {what}\nmedians of {rounds} rounds, everything on the disk at the end; \
         the peers' server is nginx\n\n{:37}{:>9}{:>9}{:>9}{:>16}\n",
        "", "median", "fastest", "slowest", "to faster peer"
    );
    for (way, times) in times {
        let (least, most) = times
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(least, most), &time| {
                (least.min(time), most.max(time))
            });
        let median = median(times);
        text += &format!(
            "{:37}{median:7.2} s{least:7.2} s{most:7.2} s{:15.2}x\n",
            way.name(),
            median / peer
        );
    }
    let ratio = of(Way::WriteOnly) / peer;
    let word = verdict(ratio <= TARGET);
    let direct = of(Way::CurlZstdDirect).min(of(Way::CurlRawDirect));
    text += &format!(
        "\ntarget, the read-back aside: at most {TARGET}x the faster of the two; found {ratio:.2}x: \
         {word}\n"
    );
    text + &format!(
        "to the faster one with oflag=direct, for which there is no target: {:.2}x\n",
        of(Way::WriteOnly) / direct
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_to_the_faster_peer_and_leaves_the_read_back_aside() {
        let times = |bugler: f64| {
            [
                (Way::WriteOnly, vec![bugler]),
                (Way::ReadBack, vec![9.0]),
                (Way::CurlZstd, vec![5.0, 4.0, 4.0]),
                (Way::CurlRaw, vec![10.0]),
                // Faster than both, and not what the target is about.
                (Way::CurlZstdDirect, vec![3.5]),
                (Way::CurlRawDirect, vec![7.0]),
            ]
        };
        let met = table("an image", &times(2.8));
        assert!(met.contains("found 0.70x: met"), "{met}");
        assert!(met.contains("there is no target: 0.80x"), "{met}");
        assert!(
            met.contains(
                "bugler, with read-back verification     9.00 s   9.00 s   9.00 s           2.25x"
            ),
            "{met}"
        );
        let missed = table("an image", &times(2.9));
        assert!(missed.contains("found 0.72x: MISSED"), "{missed}");
    }
}
