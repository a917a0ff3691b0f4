//! Which disk a deploy takes, and what the server knows before the first byte is written to it.

mod support;

use bugler_agent::api::ApiError;
use bugler_agent::deploy::{Context, DeployError, Deployed, ReportFn, Settings, run};
use bugler_agent::log::Log;
use bugler_model::{Deploy, Disk, DiskRule, Phase, Progress, TaskState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{CHUNK, FileDisk, Image, Server};

/// A deploy that waits as long as it takes for disks to settle, and not at all for anything else.
fn deploy(
    server: &Server,
    task: &Deploy,
    attempt: u32,
    disks: &(dyn Fn() -> Vec<Disk> + Sync),
    settled: &(dyn Fn() -> bool + Sync),
    report: &ReportFn<'_>,
) -> Result<Deployed, DeployError> {
    let context = Context {
        bulk: &server.api().bulk(),
        disks,
        settled,
        report,
        log: &Log::stderr(),
        settings: Settings {
            disk_wait: Duration::ZERO,
            settle_wait: Duration::MAX,
            ..Settings::default()
        },
    };
    run(task, attempt, &context)
}

fn failure(status: u16) -> ApiError {
    ApiError::Status {
        request: "POST a report".into(),
        status,
        message: "no".into(),
    }
}

fn is_untouched(disk: &FileDisk) -> bool {
    disk.read().iter().all(|&byte| byte == 0xa5)
}

#[test]
fn a_small_disk_that_appears_late_is_the_one_that_is_written() {
    let image = Arc::new(Image::drawn("ab.c", 0));
    let server = Server::start(&image);
    let data = FileDisk::new(image.bytes.len() + CHUNK, 0xa5);
    let mut system = FileDisk::new(image.bytes.len(), 0xa5);
    system.disk.serial = Some("SYS-1".into());
    let looks = AtomicUsize::new(0);
    let disks = || {
        let mut disks = vec![data.disk.clone()];
        if looks.fetch_add(1, Ordering::SeqCst) > 0 {
            disks.push(system.disk.clone());
        }
        disks
    };
    let named = Mutex::new(Vec::new());
    // Not before the first report, which is then one without a disk.
    let settled = || looks.load(Ordering::SeqCst) > 2 && !named.lock().unwrap().is_empty();
    let report = |state, _, disk: Option<&str>| {
        named.lock().unwrap().push((state, disk.map(str::to_owned)));
        Ok(false)
    };
    deploy(&server, &image.task(), 1, &disks, &settled, &report).unwrap();
    assert!(system.read() == image.bytes);
    assert!(is_untouched(&data));

    let named = named.into_inner().unwrap();
    assert_eq!(named[0], (TaskState::Claimed, None), "before the choice");
    for (state, disk) in &named {
        let expected = Some("SYS-1".to_owned());
        assert!(
            *state == TaskState::Claimed || *disk == expected,
            "{named:?}"
        );
    }
}

#[test]
fn a_disk_that_is_named_does_not_wait_for_others() {
    let image = Arc::new(Image::drawn("ab", 0));
    let server = Server::start(&image);
    let other = FileDisk::new(image.bytes.len(), 0xa5);
    let mut stick = FileDisk::new(image.bytes.len(), 0xa5);
    stick.disk.removable = true;
    let by_path = stick.disk.path.clone();
    let named = Mutex::new(None);
    for serial in [None, Some("STICK")] {
        stick.disk.serial = serial.map(str::to_owned);
        let disks = || vec![other.disk.clone(), stick.disk.clone()];
        let report = |_, _, disk: Option<&str>| {
            *named.lock().unwrap() = disk.map(str::to_owned);
            Ok(false)
        };
        let name = serial.unwrap_or(&by_path);
        let task = Deploy {
            disk: DiskRule::Named(name.into()),
            ..image.task()
        };
        deploy(&server, &task, 2, &disks, &|| false, &report).unwrap();
        assert!(stick.read() == image.bytes);
        assert_eq!(named.lock().unwrap().as_deref(), Some(name));
    }
    assert!(is_untouched(&other));
}

#[test]
fn disks_that_never_settle_are_not_guessed_at() {
    let image = Arc::new(Image::drawn("ab", 0));
    let server = Server::start(&image);
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    let context = Context {
        bulk: &server.api().bulk(),
        disks: &|| vec![disk.disk.clone()],
        settled: &|| false,
        report: &|_, _, _| Ok(false),
        log: &Log::stderr(),
        settings: Settings {
            settle_wait: Duration::ZERO,
            ..Settings::default()
        },
    };
    let error = run(&image.task(), 1, &context).unwrap_err();
    assert!(error.to_string().contains("not settled yet"), "{error}");
    assert!(is_untouched(&disk));
}

#[test]
fn checks_that_fail_are_never_running() {
    let image = Arc::new(Image::drawn("abc", 0));
    let server = Server::start(&image);
    let small = FileDisk::new(CHUNK, 0xa5);
    // The inventory is wrong about the second one: found when it is open already.
    let mut shrunk = FileDisk::new(CHUNK, 0xa5);
    shrunk.disk.size = image.bytes.len() as u64;
    for disk in [&small, &shrunk] {
        let states = Mutex::new(Vec::new());
        let report = |state, _, _: Option<&str>| {
            states.lock().unwrap().push(state);
            Ok(false)
        };
        let disks = || vec![disk.disk.clone()];
        deploy(&server, &image.task(), 1, &disks, &|| true, &report).unwrap_err();
        let states = states.into_inner().unwrap();
        assert!(states.iter().all(|state| *state == TaskState::Claimed));
        assert!(is_untouched(disk));
    }
}

#[test]
fn nothing_is_written_before_the_server_knows() {
    // Zeroes to be written and chunks to be fetched.
    let image = Arc::new(Image::drawn("a..b", 0));
    let server = Server::start(&image);
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    let disks = || vec![disk.disk.clone()];
    let tries = AtomicUsize::new(0);
    let report = |state, progress: Progress, name: Option<&str>| {
        if state != TaskState::Running || tries.fetch_add(1, Ordering::SeqCst) > 2 {
            return Ok(false);
        }
        assert_eq!(progress.phase, Phase::Writing);
        assert_eq!(name, Some(disk.disk.path.as_str()));
        assert!(is_untouched(&disk), "before the report was taken");
        assert_eq!(server.seen(|seen| seen.sent.len()), 0);
        match tries.load(Ordering::SeqCst) {
            3 => Ok(false),
            _ => Err(failure(503)),
        }
    };
    deploy(&server, &image.task(), 1, &disks, &|| true, &report).unwrap();
    assert!(tries.load(Ordering::SeqCst) >= 3);
    assert!(disk.read() == image.bytes);
}

#[test]
fn a_server_that_refuses_the_announcement_keeps_the_disk_as_it_is() {
    let image = Arc::new(Image::drawn("a..b", 0));
    let server = Server::start(&image);
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    let disks = || vec![disk.disk.clone()];
    let running = AtomicUsize::new(0);
    for cancel in [true, false] {
        let report = |state, _, _: Option<&str>| {
            if state != TaskState::Running {
                return Ok(false);
            }
            running.fetch_add(1, Ordering::SeqCst);
            if cancel { Ok(true) } else { Err(failure(400)) }
        };
        let error = deploy(&server, &image.task(), 1, &disks, &|| true, &report).unwrap_err();
        assert_eq!(matches!(error, DeployError::Cancelled), cancel, "{error:?}");
        assert_eq!(
            matches!(error, DeployError::NotAnnounced { .. }),
            !cancel,
            "{error:?}"
        );
        assert!(is_untouched(&disk));
    }
    assert_eq!(running.load(Ordering::SeqCst), 2, "said once each");
}

#[test]
fn comparing_is_told_as_claimed_and_can_be_cancelled() {
    let image = Arc::new(Image::drawn("abcdefgh", 0));
    let server = Server::start(&image);
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    let disks = || vec![disk.disk.clone()];
    // While disks are waited for: what a cancel has to end is then still under way.
    let cancel = |state, _, _: Option<&str>| {
        assert_eq!(state, TaskState::Claimed);
        Ok(true)
    };
    let error = deploy(&server, &image.task(), 2, &disks, &|| false, &cancel).unwrap_err();
    assert!(matches!(error, DeployError::Cancelled), "{error:?}");
    assert!(is_untouched(&disk));

    let report = |state, progress: Progress, _: Option<&str>| {
        let looks = matches!(progress.phase, Phase::Checking | Phase::Comparing);
        assert_eq!(state == TaskState::Claimed, looks, "{progress:?}");
        Ok(false)
    };
    deploy(&server, &image.task(), 2, &disks, &|| true, &report).unwrap();
    assert!(disk.read() == image.bytes);
}
