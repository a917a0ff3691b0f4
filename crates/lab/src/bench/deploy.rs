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
use crate::image::{self, Variant};
use crate::net::{Host, INTERFACE, Net, address};
use crate::process::{Process, output_of};
use crate::product;
use crate::run::Run;
use crate::server::Server;
use crate::{disk, paths};
use anyhow::{Context, Result, bail, ensure};
use bugler_model::{DiskRule, MacAddr, VerifyMode};
use bugler_protocol::operator::{CreatedTasks, NewTasks, Order};
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The name of the image on the server.
const IMAGE: &str = "bench";
/// Where machines reach the server.
const DEVICE_PORT: u16 = 8480;
/// Where nginx listens.
const NGINX_PORT: u16 = 8080;
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

/// Fetches nginx, once: outside of the enclosure.
///
/// # Errors
/// When Debian's package cannot be fetched.
pub fn prepare(say: &dyn Fn(&str)) -> Result<()> {
    let dir = nginx_dir()?;
    if dir.exists() {
        return Ok(());
    }
    // Installed, it would start a web server on this computer.
    say("fetching nginx, without installing it");
    let cache = paths::lab("cache")?;
    let work = tempfile::tempdir_in(&cache).context("cannot make a folder in the cache")?;
    output_of(
        Command::new("apt-get")
            .args(["download", "nginx"])
            .current_dir(work.path()),
    )
    .context("cannot fetch Debian's package nginx")?;
    let package = only_file(work.path())?;
    let unpacked = work.path().join("unpacked");
    output_of(Command::new("dpkg").arg("-x").arg(package).arg(&unpacked))
        .context("cannot unpack Debian's package nginx")?;
    fs::rename(&unpacked, &dir).with_context(|| format!("cannot name {}", dir.display()))
}

fn nginx_dir() -> Result<PathBuf> {
    Ok(paths::lab("cache")?.join("nginx"))
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let first = fs::read_dir(dir).context("cannot list a folder")?.next();
    Ok(first
        .context("apt-get has fetched nothing")?
        .context("cannot list a folder")?
        .path())
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
    agent: PathBuf,
    client: Host,
    /// The client's interface: the server tells a device's script to nobody else.
    mac: MacAddr,
    server: Server,
    device: String,
    _nginx: Process,
    _net: Net,
}

impl<'r> Bench<'r> {
    fn set_up(run: &'r Run) -> Result<Self> {
        let net = Net::new()?;
        let (srv, client) = (
            net.add_host("srv", address(1))?,
            net.add_host("n1", address(2))?,
        );
        let mac = output_of(
            client
                .command("cat")
                .arg(format!("/sys/class/net/{INTERFACE}/address")),
        )?;
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
            agent: product.bugler.with_file_name("bugler-agent"),
            mac: mac
                .trim()
                .parse()
                .context("the client's interface has no MAC address")?,
            image,
            client,
            server,
            device: String::new(),
            _nginx: nginx,
            _net: net,
        };
        bench.device = bench.introduce()?;
        Ok(bench)
    }

    /// Makes the server know the device: an agent registers, and is ended.
    fn introduce(&self) -> Result<String> {
        let target = self.run.file("known.raw");
        disk::empty(&target, self.image.size)?;
        let agent = self.agent(&target)?;
        let agent = Process::start("the agent", agent, &self.run.file("introduction.log"))?;
        agent.wait_for("registered as", Duration::from_secs(30))?;
        drop(agent);
        let device = self
            .server
            .api()
            .device(self.mac)?
            .context("the server has forgotten the agent")?;
        Ok(device.id.to_string())
    }

    /// The agent with `target` as its disk, and with a token of its own as in every boot.
    fn agent(&self, target: &Path) -> Result<Command> {
        let base = format!("http://{}:{DEVICE_PORT}", address(1));
        let url = format!("{base}/boot/ipxe/{}", self.mac);
        let script = output_of(self.client.command("curl").args(["-sSf", &url]))?;
        let token = script
            .split_whitespace()
            .find_map(|word| word.strip_prefix("bugler.token="))
            .with_context(|| format!("the boot script has no token:\n{script}"))?;
        let mut command = self.client.command(&self.agent.display().to_string());
        command
            .args(["run", "--once", "--server", &base, "--boot-token", token])
            .args(["--boot-mac", &self.mac.to_string(), "--disk"])
            .arg(target);
        Ok(command)
    }

    fn order(&self, verify: VerifyMode) -> Result<()> {
        let order = NewTasks {
            action: Order::Deploy {
                image: IMAGE.into(),
                disk: DiskRule::Auto,
                verify,
            },
            devices: vec![self.device.clone()],
            tag: None,
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
                self.agent(&target)?
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
        let mut command = self.client.command("bash");
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

/// nginx on `host`, with the files of `folder`.
fn start_nginx(run: &Run, host: &Host, folder: &Path) -> Result<Process> {
    let dir = run.file("nginx");
    fs::create_dir(&dir).context("cannot make nginx's folder")?;
    let configuration = format!(
        "daemon off; user root; worker_processes auto; pid {dir}/pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {dir}/body;\n\
           proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
           uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
           server {{ listen {}:{NGINX_PORT}; root {}; }} }}\n",
        address(1),
        folder.display(),
        dir = dir.display(),
    );
    let path = dir.join("nginx.conf");
    fs::write(&path, configuration).context("cannot write nginx's configuration")?;
    let program = nginx_dir()?.join("usr/sbin/nginx");
    let mut command = host.command(&program.display().to_string());
    command
        .arg("-p")
        .arg(&dir)
        .args(["-e", "stderr", "-c"])
        .arg(&path);
    let mut nginx = Process::start("nginx", command, &run.file("nginx.log"))?;
    let end = Instant::now() + Duration::from_secs(10);
    while host.run(|| TcpStream::connect((address(1), NGINX_PORT)).is_err())? {
        if Instant::now() >= end || !nginx.is_running()? {
            bail!(
                "nginx does not serve; it said:\n{}",
                nginx.transcript().tail()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(nginx)
}

/// The middle one, or the mean of the two in the middle.
fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (
        sorted.len() % 2,
        sorted.get(middle.saturating_sub(1)),
        sorted.get(middle),
    ) {
        (0, Some(low), Some(high)) => f64::midpoint(*low, *high),
        (_, _, Some(middle)) => *middle,
        _ => f64::NAN,
    }
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
    let word = if ratio <= TARGET { "ok" } else { "MISSED" };
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
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

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
        assert!(met.contains("found 0.70x: ok"), "{met}");
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
