//! No room: in the store, and on the disk that is written.

use super::{Bench, SIZE, files_below, tool};
use crate::disk;
use crate::run::Run;
use crate::site::MIB;
use anyhow::{Context, Result, ensure};
use bugler_model::Image;
use bugler_protocol::operator::{Collected, DeployOrder};
use std::fs;
use std::path::Path;

/// Room in the store that a disk of noise does not fit into, and room that everything fits into: MiB.
pub(super) const SMALL: u64 = 48;
const LARGE: u64 = 2048;
/// Where the disk that takes no more ends to take, in MiB.
const TAKES: u64 = 40;

/// Gives the server a store of `mib` MiB.
pub(super) fn mount_store(run: &Run, mib: u64) -> Result<()> {
    let dir = run.file("state/images");
    fs::create_dir_all(&dir).context("cannot make the store's folder")?;
    mount(&dir, mib)
}

/// Takes the store away, so that the run's folder can be removed.
pub(super) fn unmount_store(run: &Run) -> Result<()> {
    let dir = run.file("state/images").display().to_string();
    tool("umount", &[&dir]).map(drop)
}

fn mount(dir: &Path, mib: u64) -> Result<()> {
    let (size, dir) = (format!("size={mib}m"), dir.display().to_string());
    tool("mount", &["-t", "tmpfs", "-o", &size, "lab", &dir]).map(drop)
}

/// A capture that does not fit into the store fails and leaves nothing; so does an image that is added.
/// When there is room, the same capture is taken.
pub(super) fn full_store(bench: &mut Bench<'_>) -> Result<()> {
    let work = &bench.work;
    let task = work.order_capture(&bench.one.device, "full", None)?;
    let mut agent = work.start(&bench.one.client, &bench.source, "full.log")?;
    let task = work.ended(&task, &mut agent)?;
    let why = bench.failed(&task, &["no room", "is full"])?;
    bench.say(&format!("full store: the capture failed: {why}"));
    let added = work
        .server
        .api()
        .put_file::<Image>("images/full", &bench.source);
    let why = match added {
        Ok(image) => anyhow::bail!("an image that cannot fit was added: {image:?}"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(why.contains("507"), "the add failed otherwise: {why}");
    let images: Vec<Image> = work.server.api().get("images")?;
    ensure!(
        images.is_empty(),
        "something was called an image: {images:?}"
    );
    let left: Collected = work.post("images/gc", &serde_json::json!({}))?;
    let images = bench.file("state/images");
    let files = files_below(&images.join("captures"))?;
    let chunks = files_below(&images.join("chunks"))?;
    ensure!(
        files.is_empty() && chunks.is_empty(),
        "files were left: {files:?} {chunks:?}, after {left:?} were collected"
    );
    let size = format!("remount,size={LARGE}m");
    tool("mount", &["-o", &size, &images.display().to_string()])?;
    let (_, image) = bench
        .work
        .capture(&bench.one, &bench.source, super::IMAGE)?;
    bench.is_right(&image, &bench.source)?;
    bench.say(&format!(
        "full store: nothing was left of it; with room, {} was taken and is right",
        image.label()
    ));
    Ok(())
}

/// A disk that takes no more in the middle of a deploy fails it, with the place; nothing is called
/// right. With another disk in its place the same image is deployed.
///
/// The disk is a file on a filesystem in memory that is too small for it and, where loop devices can
/// be had, a block device over such a file, whose writes the kernel refuses. (The device mapper's error
/// and flakey targets are not in every kernel.)
pub(super) fn write_error(bench: &Bench<'_>) -> Result<()> {
    let dir = bench.file("small");
    fs::create_dir(&dir).context("cannot make a folder")?;
    mount(&dir, TAKES)?;
    let disk = dir.join("disk.raw");
    disk::empty(&disk, SIZE * MIB)?;
    refuses(bench, &disk, "write-error-file.log", "a file")?;
    fs::remove_file(&disk).context("cannot remove a disk")?;
    disk::empty(&disk, SIZE * MIB)?;
    let path = disk.display().to_string();
    match tool("losetup", &["--find", "--show", &path]) {
        Ok(device) => {
            let device = Path::new(device.trim());
            let outcome = refuses(bench, device, "write-error-loop.log", "a block device");
            tool("losetup", &["--detach", &device.display().to_string()])?;
            outcome?;
        }
        Err(error) => bench.say(&format!(
            "write error: not shown with a block device, because there are no loop devices: {error:#}"
        )),
    }
    tool("umount", &[&dir.display().to_string()])?;
    bench.work.proved(&bench.one, super::IMAGE, &bench.source)?;
    bench.say("write error: on another disk the same image is right");
    Ok(())
}

/// Deploys to a disk that takes less than the image.
fn refuses(bench: &Bench<'_>, disk: &Path, log: &str, what: &str) -> Result<()> {
    let order = DeployOrder::of(super::IMAGE);
    let task = bench.work.order_deploy(&bench.one.device, order)?;
    let mut agent = bench.work.start(&bench.one.client, disk, log)?;
    let task = bench.work.ended(&task, &mut agent)?;
    let why = bench.failed(&task, &["cannot ", &disk.display().to_string()])?;
    let progress = task.progress;
    ensure!(
        progress.done <= TAKES * MIB,
        "{} bytes count as done, and the disk takes {TAKES} MiB",
        progress.done
    );
    bench.say(&format!(
        "write error on {what} that takes {TAKES} of {SIZE} MiB: the deploy failed: {why}"
    ));
    Ok(())
}
