//! A server is killed while fio writes to a layer, again and again: fio, which this project did not write,
//! finds what it had flushed, and no block that is a mix.

use super::Scenario;
use crate::net::Net;
use crate::process::Process;
use crate::run::Run;
use anyhow::{Context, Result, bail, ensure};
use bugler_images::{AddOptions, ChunkStore};
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often the server is killed.
const ROUNDS: u64 = 12;
/// Where it listens: nobody else is in the network of this run.
const PORT: u16 = 10_809;
/// The part that is written and flushed before the kill, and the one that is written during it: where
/// they begin and how long they are, as fio reads it.
const FLUSHED: [&str; 2] = ["--offset=0", "--size=8m"];
const TORN: [&str; 2] = ["--offset=8m", "--size=24m"];
/// Size of the image below, in bytes.
const SIZE: usize = 48 << 20;
/// How long one step may take.
const STEP: Duration = Duration::from_secs(240);

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "overlay-crash",
    proves: "what fio has flushed to a layer over NBD outlives a server that is killed while it writes, \
             and every block is an old one or a new one",
    limit: Duration::from_secs(900),
    machines: 0,
    image: false,
    product: false,
    play: crash,
}];

fn crash(run: &Run) -> Result<()> {
    // Its loopback is all that is used.
    let _net = Net::new()?;
    let store = ChunkStore::open(run.file("images")).context("cannot make a chunk store")?;
    let mut base = vec![0; SIZE];
    blake3::Hasher::new().finalize_xof().fill(&mut base);
    store
        .add(&base[..], AddOptions::default())
        .context("cannot add the image below")?;
    drop(store);
    let mut written = 0;
    for round in 1..=ROUNDS {
        let mut server = Server::start(run, round)?;
        if round > 1 {
            fio(run, &["--rw=randread"], FLUSHED)?.check("what was flushed before the kill")?;
            fio(run, &["--rw=read"], TORN)?.check("what was written during the kill")?;
        }
        // The second part is whole once; from then on there are old blocks below new ones.
        let parts = [FLUSHED, TORN];
        for part in parts.iter().take(if round == 1 { 2 } else { 1 }) {
            let seed = format!("--randseed={round}");
            fio(
                run,
                &["--rw=randwrite", "--end_fsync=1", "--do_verify=0", &seed],
                *part,
            )?
            .check("writing and flushing")?;
        }
        let seed = format!("--randseed={}", round + 1000);
        let load = [
            "--rw=randwrite",
            "--do_verify=0",
            "--fsync=64",
            "--time_based",
            "--runtime=600",
            &seed,
        ];
        let before = server.written()?;
        let mut writer = fio(run, &load, TORN)?;
        // At another moment each time, and always in the middle of writes.
        let enough = before + round * 777_777;
        let end = Instant::now() + STEP;
        while server.written()? < enough {
            ensure!(
                !writer.has_ended()? && Instant::now() < end,
                "fio does not write"
            );
            thread::sleep(Duration::from_millis(2));
        }
        written += server.written()? - before;
        server.process.kill()?;
        ensure!(
            !writer.succeeded()?,
            "fio has not noticed that its server was killed"
        );
    }
    let _server = Server::start(run, ROUNDS + 1)?;
    fio(run, &["--rw=randread"], FLUSHED)?.check("what was flushed before the last kill")?;
    fio(run, &["--rw=read"], TORN)?.check("what was written during the last kill")?;
    run.say(&format!(
        "{ROUNDS} kills, {} MiB written meanwhile: all that was flushed is there, and no block is a mix",
        written >> 20
    ));
    damaged(run)
}

/// That fio would find a mix: one is made.
fn damaged(run: &Run) -> Result<()> {
    let mut server = Server::start(run, ROUNDS + 2)?;
    let spoil = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write -P 0x5a 9438208 512"])
        .arg(format!("nbd://127.0.0.1:{PORT}/disk"))
        .stdout(Stdio::null())
        .status()
        .context("cannot run qemu-io")?;
    ensure!(spoil.success(), "qemu-io could not write");
    ensure!(
        !fio(run, &["--rw=read"], TORN)?.succeeded()?,
        "fio takes half a block for a whole one"
    );
    server.process.kill()?;
    run.say("half a block that somebody else wrote is found");
    Ok(())
}

/// The server of one layer, as a process.
struct Server {
    process: Process,
}

impl Server {
    fn start(run: &Run, number: u64) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["nbd-server", "--port", &PORT.to_string(), "--store"]);
        command.arg(run.file("images")).arg("--overlay");
        command.arg(run.file("overlay"));
        let log = run.file(&format!("nbd-server-{number}.log"));
        let mut process = Process::start("the NBD server", command, &log)?;
        let end = Instant::now() + STEP;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).is_err() {
            if !process.is_running()? || Instant::now() >= end {
                bail!(
                    "the NBD server does not listen; it said:\n{}",
                    process.transcript().tail()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { process })
    }

    /// Bytes that it has written, to its layer and to its client (proc(5), `wchar`).
    fn written(&self) -> Result<u64> {
        let path = format!("/proc/{}/io", self.process.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
        let line = line.with_context(|| format!("{path} has no wchar"))?;
        line.parse().context("wchar is no number")
    }
}

/// fio, which runs.
struct Fio(Child);

/// fio with blocks of the size that a layer keeps whole, each of which says by a checksum whether it is
/// one.
fn fio(run: &Run, load: &[&str], part: [&str; 2]) -> Result<Fio> {
    let log = run.file("fio.log");
    let log = File::options().create(true).append(true).open(&log);
    let log = log.context("cannot open fio's log")?;
    let child = Command::new("fio")
        .args(["--name=crash", "--ioengine=nbd", "--bs=4k", "--iodepth=16"])
        .args([
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
        ])
        .arg(format!("--uri=nbd://127.0.0.1:{PORT}/disk"))
        .args(load)
        .args(part)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot run fio")?;
    Ok(Fio(child))
}

impl Fio {
    fn has_ended(&mut self) -> Result<bool> {
        let status = self.0.try_wait().context("cannot look at fio")?;
        Ok(status.is_some())
    }

    fn succeeded(&mut self) -> Result<bool> {
        let status = self.0.wait().context("cannot wait for fio")?;
        Ok(status.success())
    }

    fn check(mut self, what: &str) -> Result<()> {
        ensure!(self.succeeded()?, "fio failed: {what}; fio.log says why");
        Ok(())
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
