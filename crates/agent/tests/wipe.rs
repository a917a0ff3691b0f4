//! Whole wipes of file-backed disks and loop devices.

mod support;

use bugler_agent::api::ApiError;
use bugler_agent::deploy::{Context, ReportFn, Settings};
use bugler_agent::log::Log;
use bugler_agent::wipe::{WipeError, Wiped, run};
use bugler_model::{Disk, Phase, Progress, TaskState, Wipe, WipeMethod};
use std::process::Command;
use std::slice::from_ref;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{FileDisk, Image, Server};

fn quiet(_: TaskState, _: Progress, _: Option<&str>) -> Result<bool, ApiError> {
    Ok(false)
}

fn wipe(method: WipeMethod, disks: &[Disk], report: &ReportFn<'_>) -> Result<Wiped, WipeError> {
    let server = Server::start(&Arc::new(Image::drawn("a", 0)));
    let bulk = server.api().bulk();
    let context = Context {
        bulk: &bulk,
        disks: &|| disks.to_vec(),
        settled: &|| true,
        report,
        log: &Log::stderr(),
        settings: Settings {
            disk_wait: Duration::ZERO,
            settle_wait: Duration::ZERO,
            ..Settings::default()
        },
    };
    let task = Wipe {
        method,
        ..Wipe::default()
    };
    run(&task, &context)
}

#[test]
fn a_disk_is_zeroed_and_proved() {
    let disk = FileDisk::new((150 << 20) + 512, 0xa5);
    let states = Mutex::new(Vec::new());
    let report = |state, progress: Progress, _: Option<&str>| {
        let mut states = states.lock().unwrap();
        if state == TaskState::Running {
            // The server knows before anything is lost.
            assert!(!states.is_empty() || disk.read().iter().all(|&byte| byte == 0xa5));
        }
        states.push((state, progress));
        Ok(false)
    };
    let wiped = wipe(WipeMethod::Auto, from_ref(&disk.disk), &report).unwrap();
    assert!(disk.read().iter().all(|&byte| byte == 0));
    assert_eq!(wiped.proof.samples, wiped.proof.zero);
    assert!(wiped.proof.samples > 900, "{:?}", wiped.proof);
    assert_eq!(wiped.progress.phase, Phase::Wiping);
    assert_eq!(wiped.progress.done, wiped.progress.total);
    let told = wiped.told();
    assert!(told.contains("is wiped by writing zeroes: of "), "{told}");
    println!("{told}");
    let states = states.into_inner().unwrap();
    assert!(
        states
            .iter()
            .any(|(state, p)| *state == TaskState::Running && p.phase == Phase::Wiping)
    );
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_lost() {
    let disk = FileDisk::new(1 << 20, 7);
    for method in [WipeMethod::NvmeFormat, WipeMethod::AtaSecureErase] {
        let error = wipe(method, from_ref(&disk.disk), &quiet).unwrap_err();
        assert!(error.to_string().contains("nothing was wiped"), "{error}");
    }
    let second = FileDisk::new(1 << 20, 7);
    let both = [disk.disk.clone(), second.disk.clone()];
    let error = wipe(WipeMethod::Zero, &both, &quiet).unwrap_err();
    assert!(error.to_string().contains("several disks"), "{error}");
    let cancel = |state, _: Progress, _: Option<&str>| Ok(state == TaskState::Running);
    let error = wipe(WipeMethod::Zero, from_ref(&disk.disk), &cancel).unwrap_err();
    assert!(matches!(error, WipeError::Cancelled), "{error}");
    assert!(disk.read().iter().all(|&byte| byte == 7));
    assert!(second.read().iter().all(|&byte| byte == 7));
}

#[test]
fn a_block_device_is_zeroed_and_does_not_promise_what_discards_read_as() {
    let file = FileDisk::new(20 << 20, 0xa5);
    let losetup = |arguments: &[&str]| {
        Command::new("/usr/sbin/losetup")
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(path) = losetup(&["--show", "--find", file.path().to_str().unwrap()]) else {
        eprintln!("skipped: no loop device");
        return;
    };
    let disk = Disk {
        path: path.clone(),
        ..file.disk.clone()
    };
    let refused = wipe(WipeMethod::Discard, from_ref(&disk), &quiet);
    let zeroed = wipe(WipeMethod::Zero, &[disk], &quiet);
    losetup(&["--detach", &path]);
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("does not promise") || error.contains("cannot discard"),
        "{error}"
    );
    assert_eq!(zeroed.unwrap().proof.blank, 0);
    assert!(file.read().iter().all(|&byte| byte == 0));
}
