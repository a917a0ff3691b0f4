//! Many deploys at once: how near do they come to what the server's wire and disk can give?
//!
//! ```text
//!  host "srv"                       bridge      hosts "n1" ... "n32"
//!  bugler serve ─── chunks ──────────────────>  bugler-agent run --once ──> n.raw, read back
//!  nginx ────────── the same bytes ──────────>  curl -o n.part
//! ```
//!
//! The peer does less: it fetches one file that is as long as all chunks of the image are as sent, and
//! unpacks, checks and reads back nothing. Both are measured twice: with all that the computer has, and
//! with the server behind a wire of 1 Gbit/s, as a real one is. On one computer the clients of a test
//! share its processors with the server; behind a wire that is slower than they are it shows less.

use crate::bench::figures::{median, peak_memory, reset_peak, resident, verdict};
use crate::bench::rack::{Client, DEVICE_PORT, NGINX_PORT, start_nginx};
use crate::image::{self, Variant};
use crate::net::{Net, address};
use crate::run::Run;
use crate::server::Server;
use crate::{disk, product};
use anyhow::{Context, Result, bail, ensure};
use bugler_model::{TaskState, VerifyMode};
use bugler_protocol::operator::{CreatedTasks, DeployOrder, NewTasks, Order};
use std::fs::{self, File};
use std::io::copy;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// At least this part of the peer's rate.
const TARGET: f64 = 0.8;
/// The most memory that the server may take for each deploy, in MB.
const MEMORY: f64 = 16.0;
/// What a wire carries, in Mbit/s.
const WIRE: u32 = 1000;
/// The image's name on the server.
const IMAGE: &str = "many";

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many machines; 1 to 200.
    #[arg(long, default_value_t = 32)]
    pub machines: u8,
    /// How many rounds; medians of them are shown.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
}

/// Measures, and prints the table. To be called inside of [`enter`](crate::enclosure::enter).
///
/// # Errors
/// When a deploy or a download fails, or a disk holds something else than the image.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    ensure!(
        (1..=200).contains(&options.machines),
        "--machines is 1 to 200"
    );
    let run = Run::start("bench-many")?;
    let outcome =
        Bench::set_up(&run, options.machines).and_then(|mut bench| bench.measure(options));
    run.finish(outcome, false)
}

struct Bench<'r> {
    run: &'r Run,
    image: image::Image,
    /// Bytes of all chunks, as sent.
    sent: u64,
    clients: Vec<Client>,
    devices: Vec<String>,
    server: Server,
    _nginx: crate::process::Process,
    _net: Net,
}

impl<'r> Bench<'r> {
    fn set_up(run: &'r Run, machines: u8) -> Result<Self> {
        let net = Net::new()?;
        let srv = net.add_host("srv", address(1))?;
        let (image, product) = (image::cached(Variant::Small)?, product::cached()?);
        product.furnish(&run.file("state"))?;
        let folder = run.file("www");
        fs::create_dir(&folder).context("cannot make nginx's folder")?;
        let nginx = start_nginx(run, &srv, &folder)?;
        let listen = format!("--device-listen={}:{DEVICE_PORT}", address(1));
        let mut server = Server::new(run, srv, &product.bugler, &["--dhcp=off", &listen]);
        server.start()?;
        let added: bugler_model::Image = server
            .api()
            .put_file(&format!("images/{IMAGE}"), &image.disk)?;
        gather(
            &run.file("state/images/chunks"),
            &folder.join("chunks"),
            added.stored,
        )?;
        let mut clients = Vec::new();
        let mut devices = Vec::new();
        for number in 1..=machines {
            let host = net.add_host(&format!("n{number}"), address(number + 1))?;
            let client = Client::new(host, &product)?;
            devices.push(client.introduce(run, &server, image.size)?);
            clients.push(client);
        }
        Ok(Self {
            run,
            image,
            sent: added.stored,
            clients,
            devices,
            server,
            _nginx: nginx,
            _net: net,
        })
    }

    fn measure(&mut self, options: &Options) -> Result<()> {
        let server = self.server.process()?.id();
        let before = resident(server)?;
        // What adding the image took does not count.
        reset_peak(server)?;
        let mut rows = Vec::new();
        for wire in [None, Some(WIRE)] {
            if let Some(mbit) = wire {
                self.server.host().limit_rate(mbit)?;
            }
            let (mut deploys, mut downloads) = (Vec::new(), Vec::new());
            for round in 0..options.rounds {
                // The one that begins changes with the round.
                for turn in 0..2 {
                    if (round + turn) % 2 == 0 {
                        deploys.push(self.deploy(round == 0 && wire.is_none())?);
                    } else {
                        downloads.push(self.download()?);
                    }
                }
                self.run.say(&format!(
                    "round {}: deploys {:.1} s, downloads {:.1} s",
                    round + 1,
                    deploys.last().map_or(f64::NAN, Duration::as_secs_f64),
                    downloads.last().map_or(f64::NAN, Duration::as_secs_f64),
                ));
            }
            rows.push((wire, self.rate(&deploys), self.rate(&downloads)));
        }
        let peak = peak_memory(server)?;
        print!(
            "\n{}",
            table(
                self,
                options,
                &rows,
                (peak - before) / f64::from(options.machines)
            )
        );
        Ok(())
    }

    /// MB a second of all clients together, as sent.
    fn rate(&self, times: &[Duration]) -> f64 {
        let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
        self.sent as f64 * self.clients.len() as f64 / 1e6 / median(&seconds)
    }

    fn target(&self, client: &Client) -> PathBuf {
        self.run.file(&format!("{}.raw", client.host().name()))
    }

    /// Deploys to all; every deploy must be proved by its agent. `compare`: look at the disks as well.
    fn deploy(&self, compare: bool) -> Result<Duration> {
        let mut agents = Vec::new();
        for client in &self.clients {
            disk::empty(&self.target(client), self.image.size)?;
        }
        let order = NewTasks {
            action: Order::Deploy(DeployOrder {
                verify: VerifyMode::ReadBack,
                ..DeployOrder::of(IMAGE)
            }),
            devices: self.devices.clone(),
            tag: None,
            leave_power: false,
        };
        let created: CreatedTasks = self.server.api().post("tasks", &order)?;
        for client in &self.clients {
            agents.push((client, client.agent(&self.target(client))?));
        }
        rustix::fs::sync();
        let began = Instant::now();
        let running = agents
            .into_iter()
            .map(|(client, command)| self.start(client, command))
            .collect::<Result<Vec<_>>>()?;
        wait_for_all(running)?;
        let time = began.elapsed();
        for task in created.tasks {
            let task = self
                .server
                .api()
                .wait_task_end(&task.id.to_string(), Duration::from_secs(10))?;
            ensure!(
                task.state == TaskState::Done,
                "task {} is {}: {:?}",
                task.id,
                task.state,
                task.message
            );
        }
        for client in &self.clients {
            if compare {
                disk::compare(&self.image.disk, &self.target(client))?;
            }
            fs::remove_file(self.target(client)).context("cannot remove a disk")?;
        }
        Ok(time)
    }

    fn download(&self) -> Result<Duration> {
        rustix::fs::sync();
        let url = format!("http://{}:{NGINX_PORT}/chunks", address(1));
        let began = Instant::now();
        let running = self
            .clients
            .iter()
            .map(|client| {
                let mut command = client.host().command("curl");
                command
                    .args(["-sSf", "-o"])
                    .arg(self.target(client))
                    .arg(&url);
                self.start(client, command)
            })
            .collect::<Result<Vec<_>>>()?;
        wait_for_all(running)?;
        let time = began.elapsed();
        for client in &self.clients {
            fs::remove_file(self.target(client)).context("cannot remove a download")?;
        }
        Ok(time)
    }

    fn start(&self, client: &Client, mut command: Command) -> Result<Child> {
        let log = self.run.file(&format!("{}.log", client.host().name()));
        let log = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start a program on {}", client.host().name()))
    }
}

/// Waits for every one of them; the first failure is told after all have ended.
fn wait_for_all(running: Vec<Child>) -> Result<()> {
    let mut failed = 0;
    for mut child in running {
        if !child.wait().context("cannot wait for a client")?.success() {
            failed += 1;
        }
    }
    if failed > 0 {
        bail!("{failed} clients failed; see their logs");
    }
    Ok(())
}

/// Puts all chunks of the store into one file, again and again until it has `length` bytes: one
/// content can stand at several places of an image.
fn gather(chunks: &std::path::Path, path: &std::path::Path, length: u64) -> Result<()> {
    let mut out = File::create(path).context("cannot make nginx's file")?;
    let mut written = 0;
    while written < length {
        let before = written;
        for shard in fs::read_dir(chunks).context("the store has no chunks")? {
            for chunk in fs::read_dir(shard?.path())? {
                let mut chunk = File::open(chunk?.path())?;
                written += copy(&mut chunk, &mut out).context("cannot copy a chunk")?;
            }
        }
        ensure!(written > before, "the store has no chunks");
    }
    out.set_len(length).context("cannot cut nginx's file")
}

fn table(
    bench: &Bench<'_>,
    options: &Options,
    rows: &[(Option<u32>, f64, f64)],
    memory: f64,
) -> String {
    let mut text = format!(
        "{} deploys at once, each {:.0} MB as sent, written and read back; medians of {} rounds; the \
         peer is nginx with curl -o\n\n{:22}{:>14}{:>14}{:>9}\n",
        options.machines,
        bench.sent as f64 / 1e6,
        options.rounds,
        "server's wire",
        "bugler MB/s",
        "nginx MB/s",
        "ratio"
    );
    for (wire, deploys, downloads) in rows {
        let wire = wire.map_or("none".to_owned(), |mbit| format!("{mbit} Mbit/s"));
        let ratio = deploys / downloads;
        text += &format!(
            "{wire:22}{deploys:14.0}{downloads:14.0}{ratio:8.2}x  at least {TARGET} asked: {}\n",
            verdict(ratio >= TARGET)
        );
    }
    text + &format!(
        "server memory for each deploy: {memory:.1} MB, under {MEMORY} asked: {}\n",
        verdict(memory < MEMORY)
    )
}
