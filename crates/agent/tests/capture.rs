//! Whole captures of file-backed disks, to a server that misbehaves, and back onto poisoned ones.

mod support;

use bugler_agent::api::ApiError;
use bugler_agent::capture::{CaptureError, Taken, run};
use bugler_agent::deploy::{Context, ReportFn, Settings};
use bugler_agent::log::Log;
use bugler_model::{Capture, Disk, DiskRule, Phase, Progress, TaskId, TaskState, Unclean};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::captures::Trick;
use support::{CHUNK, FileDisk, Image, Server};

/// A server that takes every report, and where nobody cancels.
fn quiet(_: TaskState, _: Progress, _: Option<&str>) -> Result<bool, ApiError> {
    Ok(false)
}

fn task() -> Capture {
    Capture {
        image_name: "test".parse().unwrap(),
        note: String::new(),
        disk: DiskRule::Auto,
        partition: None,
        whole: false,
        unclean: Unclean::Whole,
        limit_rate: None,
    }
}

fn settings() -> Settings {
    Settings {
        first_wait: Duration::from_millis(1),
        disk_wait: Duration::ZERO,
        settle_wait: Duration::ZERO,
        ..Settings::default()
    }
}

fn capture_with(
    server: &Server,
    task: &Capture,
    disks: &[Disk],
    settings: Settings,
    report: &ReportFn<'_>,
) -> (Result<Taken, CaptureError>, Vec<String>) {
    let bulk = server.api().bulk();
    let log = Log::stderr();
    let context = Context {
        bulk: &bulk,
        disks: &|| disks.to_vec(),
        settled: &|| true,
        report,
        log: &log,
        settings,
    };
    let result = run(task, TaskId(5), &context);
    (result, log.take(1000))
}

fn capture(server: &Server, disk: &FileDisk) -> Result<Taken, CaptureError> {
    let disks = [disk.disk.clone()];
    capture_with(server, &task(), &disks, settings(), &quiet).0
}

/// A disk with these bytes, and a server that knows nothing of them.
fn prepared(image: &Arc<Image>) -> (Server, FileDisk) {
    let server = Server::start(image);
    let disk = FileDisk::new(image.bytes.len(), 0);
    disk.write(&image.bytes);
    (server, disk)
}

#[test]
fn a_disk_becomes_an_image_and_each_content_travels_once() {
    let image = Arc::new(Image::drawn("ab.a..cabcab", 512 * 3));
    let (server, disk) = prepared(&image);
    let states = Mutex::new(Vec::new());
    let report = |state, progress: Progress, _: Option<&str>| {
        states.lock().unwrap().push((state, progress.phase));
        Ok(false)
    };
    let disks = [disk.disk.clone()];
    let (result, log) = capture_with(&server, &task(), &disks, settings(), &report);
    let taken = result.unwrap();
    assert!(server.captures(|store| store.disk()) == image.bytes);
    assert_eq!(server.captures(|store| store.taken.len()), 4);
    assert_eq!(taken.captured.version, 3);
    assert_eq!(taken.progress.phase, Phase::Capturing);
    assert_eq!(taken.progress.done, image.bytes.len() as u64);
    assert_eq!(taken.progress.total, image.bytes.len() as u64);
    let sent = taken.progress.fetched;
    let packed: usize = image.frames.values().map(|frame| frame.len() + 4).sum();
    assert_eq!(sent, packed as u64);
    let (about, manifest) = server.captures(|store| store.commits[0].clone());
    assert_eq!(manifest.sector_size, 512);
    assert_eq!(about.disk, disk.disk.path);
    assert_eq!(about.agent_version, env!("CARGO_PKG_VERSION"));
    assert!(about.reading[0].contains("no partition table"), "{about:?}");
    assert!(log.contains(&about.reading[0]), "{log:?}");
    let states = states.into_inner().unwrap();
    assert!(states.contains(&(TaskState::Running, Phase::Capturing)));
    assert!(disk.read() == image.bytes, "the disk was changed");
}

#[test]
fn a_second_capture_sends_only_what_changed() {
    let old = Image::drawn("abcd.fgh", 512);
    let new = Arc::new(Image::drawn("abXd.fgh", 512));
    let (server, disk) = prepared(&new);
    server.captures(|store| store.know(&old));
    let taken = capture(&server, &disk).unwrap();
    assert_eq!(server.captures(|store| store.taken.clone()), [new.hash(2)]);
    assert!(server.captures(|store| store.disk()) == new.bytes);
    assert!(taken.progress.fetched <= new.frames[&new.hash(2)].len() as u64 + 4);
}

#[test]
fn which_disk_is_meant_is_asked_rather_than_guessed() {
    let image = Arc::new(Image::drawn("a", 0));
    let (server, disk) = prepared(&image);
    let other = FileDisk::new(CHUNK, 1);
    let mut stick = FileDisk::new(CHUNK, 2);
    stick.disk.removable = true;
    let fail = |disks: &[Disk]| {
        let result = capture_with(&server, &task(), disks, settings(), &quiet).0;
        result.unwrap_err().to_string()
    };
    let text = fail(&[disk.disk.clone(), other.disk.clone()]);
    assert!(text.contains("several disks"), "{text}");
    assert!(fail(&[stick.disk.clone()]).contains("only removable disks"));
    assert!(fail(&[]).contains("shows no disk"));
    // A removable one beside it makes nothing ambiguous, and a name is a name.
    let both = [disk.disk.clone(), stick.disk.clone()];
    capture_with(&server, &task(), &both, settings(), &quiet)
        .0
        .unwrap();
    assert!(server.captures(|store| store.disk()) == image.bytes);
    let named = Capture {
        disk: DiskRule::Named(other.disk.path.clone()),
        ..task()
    };
    let disks = [disk.disk.clone(), other.disk.clone()];
    capture_with(&server, &named, &disks, settings(), &quiet)
        .0
        .unwrap();
    assert!(server.captures(|store| store.disk()) == other.read());
}

#[test]
fn a_full_store_ends_it_at_once() {
    let image = Arc::new(Image::drawn("abcdefghijkl", 0));
    let (server, disk) = prepared(&image);
    server.faults(|faults| faults.tricks = vec![Trick::Full; 100].into());
    let error = capture(&server, &disk).unwrap_err();
    assert!(matches!(error, CaptureError::Server { .. }), "{error:?}");
    let text = bugler_agent::log::chain(&error);
    assert!(text.contains("507") && text.contains("no room"), "{text}");
}

#[test]
fn a_cancel_ends_it() {
    let image = Arc::new(Image::drawn("abcdefghijkl", 0));
    let (server, disk) = prepared(&image);
    server.faults(|faults| faults.tricks = vec![Trick::Busy; 10_000].into());
    let report = |state, _, _: Option<&str>| Ok(state == TaskState::Running);
    let disks = [disk.disk.clone()];
    let result = capture_with(&server, &task(), &disks, settings(), &report).0;
    assert!(matches!(result, Err(CaptureError::Cancelled)), "{result:?}");
    assert!(server.captures(|store| store.commits.is_empty()));
}

#[test]
fn patience_has_an_end() {
    let image = Arc::new(Image::drawn("ab", 0));
    let (server, disk) = prepared(&image);
    server.faults(|faults| faults.tricks = vec![Trick::Cut; 10_000].into());
    let settings = Settings {
        patience: Duration::from_millis(300),
        ..settings()
    };
    let disks = [disk.disk.clone()];
    let result = capture_with(&server, &task(), &disks, settings, &quiet).0;
    let text = bugler_agent::log::chain(&result.unwrap_err());
    assert!(text.contains("nothing has come for 0 s"), "{text}");
}

#[test]
fn a_server_that_goes_away_and_forgets_costs_nothing_but_time() {
    let image = Arc::new(Image::drawn("abcdefghijklmnopqrstuvwxyz", 512));
    let first = Server::start_alone(&image);
    let disk = FileDisk::new(image.bytes.len(), 0);
    disk.write(&image.bytes);
    // The third request is never answered, nor is any other: the server is gone.
    first.faults(|faults| {
        faults.tricks = vec![Trick::Cut; 100_000].into();
        faults.tricks.push_front(Trick::Good);
        faults.tricks.push_front(Trick::Good);
    });
    let address = first.address();
    let api = first.api();
    std::thread::scope(|scope| {
        let capturing = scope.spawn(|| {
            let bulk = api.bulk();
            let disks = || vec![disk.disk.clone()];
            let context = Context {
                bulk: &bulk,
                disks: &disks,
                settled: &|| true,
                report: &quiet,
                log: &Log::stderr(),
                settings: Settings {
                    connections: 2,
                    ..settings()
                },
            };
            run(&task(), TaskId(5), &context)
        });
        first.wait_until(|seen| seen.log.iter().any(|line| line == "cut"));
        first.stop();
        let second = Server::start_at(&image, address, "second");
        capturing.join().unwrap().unwrap();
        assert!(second.captures(|store| store.disk()) == image.bytes);
        assert_eq!(second.seen(|seen| seen.registrations.len()), 1);
    });
}

#[test]
fn a_rate_is_kept() {
    let image = Arc::new(Image::drawn("abcd", 0));
    let (server, disk) = prepared(&image);
    let bytes: usize = image.frames.values().map(Vec::len).sum();
    let limited = Capture {
        limit_rate: Some(bytes as u64 * 2),
        ..task()
    };
    let disks = [disk.disk.clone()];
    let began = Instant::now();
    capture_with(&server, &limited, &disks, settings(), &quiet)
        .0
        .unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(450), "{took:?}");
    assert!(server.captures(|store| store.disk()) == image.bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens to each request, the image is that of the disk in the end.
    #[test]
    fn a_capture_over_a_bad_link_is_whole(
        letters in "[abcdefghij.]{1,24}",
        tail in 0usize..3,
        connections in 1usize..5,
        known in "[abc]{0,3}",
        tricks in proptest::collection::vec(prop_oneof![
            4 => Just(Trick::Good),
            1 => Just(Trick::Cut),
            1 => Just(Trick::LoseAnswer),
            1 => Just(Trick::Busy),
            1 => Just(Trick::Damage),
            1 => Just(Trick::Forget),
        ], 0..16),
    ) {
        // A damage that repeats for one batch ends the capture, which is right and shown elsewhere.
        let mut damages = 0;
        let tricks = tricks.into_iter().map(|trick| {
            damages += usize::from(trick == Trick::Damage);
            if trick == Trick::Damage && damages > 2 { Trick::Good } else { trick }
        });
        let image = Arc::new(Image::drawn(&letters, tail * 512));
        let (server, disk) = prepared(&image);
        server.captures(|store| store.know(&Image::drawn(&known, 0)));
        server.faults(|faults| faults.tricks = tricks.collect());
        let disks = [disk.disk.clone()];
        let settings = Settings { connections, ..settings() };
        let taken = capture_with(&server, &task(), &disks, settings, &quiet).0.unwrap();
        prop_assert!(server.captures(|store| store.disk()) == image.bytes);
        prop_assert_eq!(taken.progress.done, taken.progress.total);
    }
}
