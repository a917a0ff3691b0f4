//! Many machines without a disk boot at once from one image: how long it takes, and what it costs the
//! server.
//!
//! ```text
//!  host "srv"                        bridge      hosts "n1" ... "n64"
//!  bugler serve ── script, NBD ───────────────> a client each: reads the same, writes its own
//! ```
//!
//! The server is the real program, the image a real Debian, and every client is a device with a profile,
//! a token of its own and a layer of its own. The clients are threads here that speak NBD: each reads
//! the same part of the image and, between that, writes and flushes, as a system does while it starts.
//! What they read is compared with the image, and what they wrote is read again when all have written: a
//! layer that another one's writes got into would be found. The clients share this computer's processors
//! with the server.

mod client;

use crate::bench::figures::{peak_memory, reset_peak, resident, verdict};
use crate::client::DEVICE_PORT;
use crate::image::{self, Variant};
use crate::net::{Host, Net, address};
use crate::process::output_of;
use crate::run::Run;
use crate::server::Server;
use crate::{product, sparse};
use anyhow::{Context, Result, anyhow, ensure};
use bugler_protocol::operator::OverlayView;
use client::Client;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// The most memory that the server may take, in MB.
const MEMORY: f64 = 600.0;
/// Where NBD is served.
const NBD_PORT: u16 = 10809;
const IMAGE: &str = "diskless";
const PROFILE: &str = "thin";
const MIB: u64 = 1 << 20;
/// Bytes that are written between two flushes.
const BURST: u64 = MIB;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many machines; 1 to 200.
    #[arg(long, default_value_t = 64)]
    pub machines: u8,
    /// What each reads, in MB: all the same.
    #[arg(long, default_value_t = 150)]
    pub read: u64,
    /// What each writes, in MB.
    #[arg(long, default_value_t = 20)]
    pub write: u64,
}

/// Measures, and prints what was found. To be called inside of
/// [`enter`](crate::enclosure::enter).
///
/// # Errors
/// When a machine gets no root, reads something else than the image has, or finds something else than it
/// wrote.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        (1..=200).contains(&options.machines),
        "--machines is 1 to 200"
    );
    let run = Run::start("bench-diskless")?;
    let outcome = measure(&run, options);
    run.finish(outcome, false)
}

fn measure(run: &Run, options: &Options) -> Result<()> {
    let net = Net::new()?;
    let srv = net.add_host("srv", address(1))?;
    let (image, product) = (image::cached(Variant::Small)?, product::cached()?);
    product.furnish(&run.file("state"))?;
    let listen = format!("--device-listen={}:{DEVICE_PORT}", address(1));
    let mut server = Server::new(run, srv, &product.bugler, &["--dhcp=off", &listen]);
    server.start()?;
    let _: bugler_model::Image = server
        .api()
        .put_file(&format!("images/{IMAGE}"), &image.disk)?;
    let order = |arguments: &[&str]| {
        let mut command = server.host().command(&product.bugler.display().to_string());
        command.arg(format!("--server=http://{}", server.operator()));
        output_of(command.args(arguments))
    };
    let over = [
        "--diskless",
        IMAGE,
        "--over",
        "nbd",
        "--overlay-size",
        "64M",
    ];
    order(&[&["profile", "set", PROFILE][..], &over].concat())?;
    order(&["rule", "add", PROFILE])?;

    let course = Course::of(&image.disk, image.size, options)?;
    run.say(&format!(
        "each reads {} MB in {} pieces and writes {} MB",
        course.content.len() / 1_000_000,
        course.reads.len(),
        course.writes.len() as u64 * BURST / 1_000_000
    ));
    let mut hosts = Vec::new();
    let mut names = Vec::new();
    for number in 1..=options.machines {
        let host = net.add_host(&format!("n{number}"), address(number + 1))?;
        names.push(client::script(&host, address(1))?);
        hosts.push(host);
    }

    let process = server.process()?;
    let idle = resident(process.id())?;
    // What adding the image and making the initramfs took does not count.
    reset_peak(process.id())?;
    let before = process.cpu()?;
    let times = boot(&course, &hosts, &names)?;
    let cpu = process.cpu()?.saturating_sub(before);
    let peak = peak_memory(process.id())?;

    let views: Vec<OverlayView> = server.api().get("overlays")?;
    let own = course.writes.len() as u64 * BURST;
    for view in &views {
        ensure!(
            view.used == own,
            "the layer of {} holds {} bytes, and {own} were written",
            view.device,
            view.used
        );
    }
    ensure!(
        views.len() == hosts.len(),
        "{} machines have {} layers",
        hosts.len(),
        views.len()
    );
    print!("\n{}", table(&course, &times, cpu, (idle, peak)));
    Ok(())
}

/// Lets all of them boot at once. Returns how long each took.
fn boot(course: &Course, hosts: &[Host], names: &[String]) -> Result<Vec<Duration>> {
    let (start, all_wrote) = (Barrier::new(hosts.len()), Barrier::new(hosts.len()));
    thread::scope(|scope| {
        let running: Vec<_> = hosts
            .iter()
            .zip(names)
            .enumerate()
            .map(|(number, (host, name))| {
                let (start, all_wrote) = (&start, &all_wrote);
                scope.spawn(move || -> Result<Duration> {
                    // A barrier waits for all: a machine that has failed comes to it as well.
                    let attached = Client::attach(host, (address(1), NBD_PORT), name);
                    start.wait();
                    let began = Instant::now();
                    let played = attached.and_then(|mut client| {
                        course.play(&mut client, number)?;
                        Ok((client, began.elapsed()))
                    });
                    all_wrote.wait();
                    let (mut client, time) = played?;
                    course.check(&mut client, number)?;
                    Ok(time)
                })
            })
            .collect();
        running
            .into_iter()
            .zip(hosts)
            .map(|(thread, host)| {
                let played = thread.join().map_err(|_| anyhow!("its thread panicked"));
                played
                    .and_then(|time| time)
                    .with_context(|| format!("the machine {} did not boot", host.name()))
            })
            .collect()
    })
}

/// What a machine does while it boots.
struct Course {
    /// What there is to be read, one piece behind the other.
    content: Vec<u8>,
    /// Where those pieces are on the disk.
    reads: Vec<Range<u64>>,
    /// Where it writes [`BURST`] bytes, where the image has nothing.
    writes: Vec<u64>,
}

impl Course {
    fn of(disk: &std::path::Path, size: u64, options: &Options) -> Result<Self> {
        let file = File::open(disk).context("cannot open the lab's image")?;
        let data = sparse::data_ranges(&file, size)?;
        let mut left = options.read * 1_000_000;
        let mut reads = Vec::new();
        for range in &data {
            let mut at = range.start;
            while at < range.end && left > 0 {
                let length = left.min(range.end - at).min(MIB);
                reads.push(at..at + length);
                at += length;
                left -= length;
            }
        }
        ensure!(left == 0, "the lab's image has less than is to be read");
        let mut content = Vec::new();
        for range in &reads {
            let begin = content.len();
            content.resize(begin + usize::try_from(range.end - range.start)?, 0);
            let into = content.get_mut(begin..).unwrap_or_default();
            file.read_exact_at(into, range.start)
                .context("cannot read the lab's image")?;
        }
        // Behind the last data of every gap there is room, as in the free space of a filesystem.
        let wanted = usize::try_from(options.write * 1_000_000 / BURST)?;
        let ends = data.windows(2).map(|pair| pair[0].end..pair[1].start);
        let gaps = ends.chain(data.last().map(|last| last.end..size));
        let places = gaps.flat_map(|gap| {
            (gap.start.next_multiple_of(BURST)..gap.end.saturating_sub(BURST))
                .step_by(usize::try_from(BURST).unwrap_or(1))
        });
        let writes: Vec<u64> = places.take(wanted).collect();
        ensure!(
            writes.len() == wanted,
            "the lab's image has no room for what is to be written"
        );
        Ok(Self {
            content,
            reads,
            writes,
        })
    }

    /// What the machine `number` writes at a place: no two write the same.
    fn own(number: usize, place: u64) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&number.to_le_bytes());
        hasher.update(&place.to_le_bytes());
        let mut data = vec![0; usize::try_from(BURST).unwrap_or_default()];
        hasher.finalize_xof().fill(&mut data);
        data
    }

    fn play(&self, client: &mut Client, number: usize) -> Result<()> {
        let every = self.reads.len().div_ceil(self.writes.len().max(1)).max(1);
        let mut writes = self.writes.iter();
        let mut content = &self.content[..];
        let mut buffer = Vec::new();
        for (turn, range) in self.reads.iter().enumerate() {
            buffer.resize(usize::try_from(range.end - range.start)?, 0);
            client.read(range.start, &mut buffer)?;
            let (expected, rest) = content.split_at(buffer.len());
            content = rest;
            ensure!(
                buffer == expected,
                "at {} the disk is not as the image",
                range.start
            );
            if (turn + 1) % every == 0
                && let Some(place) = writes.next()
            {
                client.write(*place, &Self::own(number, *place))?;
            }
        }
        for place in writes {
            client.write(*place, &Self::own(number, *place))?;
        }
        Ok(())
    }

    /// When all have written, each finds its own.
    fn check(&self, client: &mut Client, number: usize) -> Result<()> {
        let mut buffer = vec![0; usize::try_from(BURST)?];
        for place in &self.writes {
            ensure!(place + BURST <= client.size, "the disk ends before {place}");
            client.read(*place, &mut buffer)?;
            ensure!(
                buffer == Self::own(number, *place),
                "at {place} the disk has not what was written"
            );
        }
        Ok(())
    }
}

fn table(course: &Course, times: &[Duration], cpu: Duration, memory: (f64, f64)) -> String {
    let (idle, peak) = memory;
    let seconds = |time: Option<&Duration>| time.map_or(f64::NAN, Duration::as_secs_f64);
    let (first, last) = (seconds(times.iter().min()), seconds(times.iter().max()));
    let machines = times.len() as f64;
    let read = course.content.len() as f64 * machines / 1e6;
    let wrote = course.writes.len() as f64 * BURST as f64 * machines / 1e6;
    format!(
        "{machines} diskless boots at once over NBD, each reading the same {:.0} MB and writing {:.0} MB \
         to a layer of its own\n\
         {:28}{first:9.1} s the first, {last:.1} s the last\n\
         {:28}{:9.0} MB/s read, {:.0} MB/s written and flushed\n\
         {:28}{:9.1} s, {:.2} s for each machine\n\
         {:28}{peak:9.1} MB at most, {idle:.1} before; under {MEMORY} asked: {}\n",
        read / machines,
        wrote / machines,
        "time",
        "all together",
        read / last,
        wrote / last,
        "server CPU",
        cpu.as_secs_f64(),
        cpu.as_secs_f64() / machines,
        "server memory",
        verdict(peak < MEMORY),
    )
}
