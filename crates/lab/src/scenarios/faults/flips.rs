//! Bits that flip: in the store, in transit, on the disk that was written.

use super::proxy::{Proxy, Way};
use super::{Bench, IMAGE, SIZE, SLOW, files_below, noise};
use crate::client::DEVICE_PORT;
use crate::disk;
use crate::gpt::SECTOR;
use crate::net::address;
use crate::site::MIB;
use anyhow::{Context, Result, bail, ensure};
use bugler_model::{Image, ImageState, Task};
use bugler_protocol::operator::DeployOrder;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The chunk of the image whose bit flips in the store.
const CHUNK: u64 = 40;
/// Where the proxy listens on the server's host.
const PROXY_PORT: u16 = 8490;

/// A bit flips in a chunk of the store: the deploy that meets it fails before it is written, the image
/// is marked, and when the same disk is captured again the chunk is sent and the image is right again.
pub(super) fn in_the_store(bench: &Bench<'_>) -> Result<()> {
    let work = &bench.work;
    let mut content = vec![0; MIB as usize];
    File::open(&bench.source)?.read_exact_at(&mut content, CHUNK * MIB)?;
    let name = blake3::hash(&content).to_hex().to_string();
    let stored = files_below(&bench.file("state/images/chunks"))?
        .into_iter()
        .find(|path| path.to_string_lossy().replace('/', "").ends_with(&name))
        .with_context(|| format!("the store has no file for chunk {name}"))?;
    let file = File::options().read(true).write(true).open(&stored)?;
    flip(&file, file.metadata()?.len() / 2)?;

    let target = bench.poisoned("store-target")?;
    let task = work.order_deploy(&bench.one.device, DeployOrder::of(IMAGE))?;
    let mut agent = work.start(&bench.one.client, &target, "store-deploy.log")?;
    let task = work.ended(&task, &mut agent)?;
    let why = bench.failed(&task, &[&name])?;
    is_poison(&target, CHUNK * MIB)?;
    let image: Image = work.server.api().get(&format!("images/{IMAGE}"))?;
    ensure!(
        image.state == ImageState::Damaged,
        "the image counts as {:?}",
        image.state
    );
    bench.say(&format!("a bit flipped in the store: {why}"));

    let (task, again) = work.capture(&bench.two, &bench.source, "again")?;
    ensure!(
        task.progress.fetched < 2 * MIB,
        "more was sent than the damaged chunk: {task:?}"
    );
    bench.is_right(&again, &bench.source)?;
    let verified = bench.verified(IMAGE)?;
    let image: Image = work.server.api().get(&format!("images/{IMAGE}"))?;
    ensure!(
        verified.damaged.is_empty() && image.state == ImageState::Good,
        "the image that was damaged is {:?}: {verified:?}",
        image.state
    );
    bench.say(&format!(
        "it was not written; captured again, {} KiB were sent, and both images are right",
        task.progress.fetched >> 10
    ));
    fs::remove_file(target).context("cannot remove a disk")
}

/// Bits flip on the wire: one costs a chunk, which comes again; where they flip always, the task fails,
/// and what came is not written.
pub(super) fn in_transit(bench: &Bench<'_>) -> Result<()> {
    let listen = (address(1), PROXY_PORT).into();
    let server = (address(1), DEVICE_PORT).into();
    let proxy = Proxy::start(bench.work.server.host(), listen, server)?;

    let target = bench.poisoned("transit-target")?;
    proxy.flip(Way::Down, 3);
    let task = through(bench, Order::Deploy, &target, "transit-deploy.log")?;
    ensure!(proxy.flipped() == 3, "the wire has flipped nothing");
    if let Some(message) = &task.message {
        bail!("three flipped bits failed the deploy: {message}");
    }
    disk::compare(&bench.source, &target)?;
    let more = task.progress.fetched / MIB - SIZE;
    bench.say(&format!(
        "3 bits flipped on the way down: the disk is right; {more} chunks came twice"
    ));

    fs::remove_file(&target).context("cannot remove a disk")?;
    disk::poisoned(&target, SIZE * MIB)?;
    proxy.flip(Way::Down, u64::MAX);
    let task = through(bench, Order::Deploy, &target, "transit-always.log")?;
    let flipped = proxy.flipped();
    let why = bench.failed(&task, &["chunk"])?;
    for chunk in 0..SIZE {
        is_poison(&target, chunk * MIB)?;
    }
    let image: Image = bench.work.server.api().get(&format!("images/{IMAGE}"))?;
    ensure!(
        image.state == ImageState::Good,
        "for what the wire did, the image counts as {:?}",
        image.state
    );
    bench.say(&format!(
        "{flipped} bits flipped, one in each piece: nothing was written: {why}"
    ));
    fs::remove_file(&target).context("cannot remove a disk")?;
    proxy.flip(Way::Down, 0);

    let source = bench.file("transit-source.raw");
    noise(&source, 31, SIZE * MIB)?;
    proxy.flip(Way::Up, 3);
    let task = through(bench, Order::Capture, &source, "transit-capture.log")?;
    ensure!(proxy.flipped() == 3, "the wire has flipped nothing");
    if let Some(message) = &task.message {
        bail!("three flipped bits failed the capture: {message}");
    }
    bench.is_right(&bench.work.captured(&task)?, &source)?;
    bench.say(&format!(
        "3 bits flipped on the way up: the image is right; {} KiB were sent for {SIZE} MiB",
        task.progress.fetched >> 10
    ));

    proxy.flip(Way::Up, u64::MAX);
    let other = bench.file("transit-other.raw");
    noise(&other, 32, SIZE * MIB)?;
    let task = through(bench, Order::Capture, &other, "transit-capture-always.log")?;
    let why = bench.failed(&task, &[])?;
    ensure!(
        bench.work.captured(&task).is_err(),
        "it failed, and there is an image of it"
    );
    bench.say(&format!(
        "{} bits flipped on the way up: no image: {why}",
        proxy.flipped()
    ));
    for path in [source, other] {
        fs::remove_file(path).context("cannot remove a disk")?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Order {
    Deploy,
    Capture,
}

/// One task, with an agent that reaches its server through the proxy.
fn through(bench: &Bench<'_>, order: Order, disk: &Path, log: &str) -> Result<Task> {
    let work = &bench.work;
    let task = match order {
        Order::Deploy => work.order_deploy(&bench.one.device, DeployOrder::of(IMAGE))?,
        Order::Capture => work.order_capture(&bench.one.device, "transit", None)?,
    };
    let base = format!("http://{}:{PROXY_PORT}", address(1));
    let agent = bench.one.client.agent_of(&base, disk)?;
    let mut agent = work.start_command(agent, log)?;
    work.ended(&task, &mut agent)
}

/// A bit of what was written flips on the disk before it is read back: the deploy is not called right.
/// The next one fetches that chunk alone.
pub(super) fn on_the_target(bench: &Bench<'_>) -> Result<()> {
    let work = &bench.work;
    let target = bench.poisoned("back-target")?;
    let order = DeployOrder {
        limit_rate: Some(SLOW),
        ..DeployOrder::of(IMAGE)
    };
    let task = work.order_deploy(&bench.one.device, order)?;
    let mut agent = work.start(&bench.one.client, &target, "back-deploy.log")?;
    work.reached(&task, 0.3)?;
    let (source, disk) = (
        File::open(&bench.source)?,
        File::options().read(true).write(true).open(&target)?,
    );
    let (mut right, mut found) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    let mut written = None;
    for chunk in 0..SIZE {
        source.read_exact_at(&mut right, chunk * MIB)?;
        disk.read_exact_at(&mut found, chunk * MIB)?;
        if right == found {
            written = Some(chunk);
            break;
        }
    }
    let chunk = written.context("a third is durable, and no chunk is on the disk")?;
    flip(&disk, chunk * MIB + 4711)?;
    let task = work.ended(&task, &mut agent)?;
    let why = bench.failed(&task, &[&(chunk * MIB).to_string()])?;
    bench.say(&format!(
        "a bit flipped on the disk that was written: {why}"
    ));

    let task = work.deploy(&bench.one, &target, DeployOrder::of(IMAGE))?;
    disk::compare(&bench.source, &target)?;
    ensure!(
        task.progress.fetched < 8 * MIB,
        "{} bytes were fetched for one chunk",
        task.progress.fetched
    );
    bench.say(&format!(
        "the next deploy kept {} MiB, fetched {} KiB, and the disk is right",
        task.progress.skipped / MIB,
        task.progress.fetched >> 10
    ));
    fs::remove_file(target).context("cannot remove a disk")
}

fn flip(file: &File, at: u64) -> Result<()> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)
        .with_context(|| format!("cannot read byte {at}"))?;
    file.write_all_at(&[byte[0] ^ 1], at)
        .with_context(|| format!("cannot write byte {at}"))
}

/// The sector at `offset` is as [`disk::poisoned`] wrote it: it begins with its own number.
fn is_poison(disk: &Path, offset: u64) -> Result<()> {
    let mut sector = [0; SECTOR as usize];
    File::open(disk)?.read_exact_at(&mut sector, offset)?;
    ensure!(
        sector.starts_with(&(offset / SECTOR).to_le_bytes()) && sector.ends_with(&[0xa5; 8]),
        "what came damaged was written at byte {offset}"
    );
    Ok(())
}
