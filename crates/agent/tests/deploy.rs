//! Whole deploys onto file-backed disks, from a server that misbehaves.

mod support;

use bugler_agent::api::ApiError;
use bugler_agent::deploy::{Context, DeployError, Deployed, ReportFn, Settings, run};
use bugler_agent::log::Log;
use bugler_model::{Compare, Deploy, DiskRule, Phase, Progress, TaskState, VerifyMode};
use proptest::prelude::*;
use std::collections::HashSet;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{CHUNK, FileDisk, Image, Server};

/// A server that takes every report, and where nobody cancels.
fn quiet(_: TaskState, _: Progress, _: Option<&str>) -> Result<bool, ApiError> {
    Ok(false)
}

fn deploy_with(
    server: &Server,
    task: &Deploy,
    attempt: u32,
    disks: &[&FileDisk],
    report: &ReportFn<'_>,
) -> Result<Deployed, DeployError> {
    let bulk = server.api().bulk();
    let disks = || disks.iter().map(|disk| disk.disk.clone()).collect();
    let context = Context {
        bulk: &bulk,
        disks: &disks,
        settled: &|| true,
        report,
        log: &Log::stderr(),
        settings: Settings {
            disk_wait: Duration::ZERO,
            ..Settings::default()
        },
    };
    run(task, attempt, &context)
}

fn deploy(server: &Server, task: &Deploy, disk: &FileDisk) -> Result<Deployed, DeployError> {
    deploy_with(server, task, 1, &[disk], &quiet)
}

/// Compares without printing megabytes.
fn assert_holds(disk: &FileDisk, expected: &[u8]) {
    let found = disk.read();
    assert_eq!(found.len(), expected.len());
    let different = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(different, None, "first byte that differs");
}

#[test]
fn a_fresh_disk_gets_the_image_and_each_content_travels_once() {
    let image = Arc::new(Image::drawn("ab.a..ca", 512 * 3));
    let server = Server::start(&image);
    let disk = FileDisk::new(image.bytes.len(), 0);
    let states = Mutex::new(Vec::new());
    let report = |state, progress: Progress, _: Option<&str>| {
        states.lock().unwrap().push((state, progress));
        Ok(false)
    };
    let deployed = deploy_with(&server, &image.task(), 1, &[&disk], &report).unwrap();
    assert_holds(&disk, &image.bytes);
    let total = image.manifest.used_bytes();
    let frames: usize = image.frames.values().map(Vec::len).sum();
    let progress = deployed.progress;
    assert_eq!(progress.phase, Phase::Verifying);
    assert_eq!((progress.done, progress.total), (total, total));
    assert_eq!((progress.skipped, progress.fetched), (0, frames as u64));
    assert_eq!(
        server.seen(|seen| seen.sent.len()),
        4,
        "a, b, c and the short one"
    );
    let states = states.into_inner().unwrap();
    let order = [TaskState::Claimed, TaskState::Running, TaskState::Verifying];
    let places: Vec<_> = states
        .iter()
        .map(|(state, _)| order.iter().position(|s| s == state).unwrap())
        .collect();
    assert!(places.is_sorted() && places.contains(&1), "{states:?}");
}

#[test]
fn a_full_disk_is_zeroed_where_the_image_is_and_left_alone_behind_it() {
    for tail in [0, 512, 4096, 100 * 512] {
        let image = Arc::new(Image::drawn("..a...b.", tail));
        let server = Server::start(&image);
        let size = image.bytes.len() + 3 * CHUNK / 2;
        let disk = FileDisk::new(size, 0xa5);
        deploy(&server, &image.task(), &disk).unwrap();
        let mut expected = image.bytes.clone();
        expected.resize(size, 0xa5);
        assert_holds(&disk, &expected);
    }
}

#[test]
fn an_image_that_is_all_zero_leaves_zeroes() {
    let image = Arc::new(Image::drawn("...", 0));
    let server = Server::start(&image);
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    let deployed = deploy(&server, &image.task(), &disk).unwrap();
    assert_holds(&disk, &image.bytes);
    assert_eq!(deployed.progress.total, 0);
}

#[test]
fn writing_without_reading_back_says_so() {
    let image = Arc::new(Image::drawn("ab", 0));
    let server = Server::start(&image);
    let disk = FileDisk::new(image.bytes.len(), 0);
    let task = Deploy {
        verify: VerifyMode::WriteOnly,
        ..image.task()
    };
    let deployed = deploy(&server, &task, &disk).unwrap();
    assert_eq!(deployed.progress.phase, Phase::Finalizing);
    assert_eq!(deployed.progress.done, image.manifest.used_bytes());
    assert_holds(&disk, &image.bytes);
}

#[test]
fn a_chunk_that_comes_damaged_is_never_written() {
    let image = Arc::new(Image::drawn("abcd", 0));
    let server = Server::start(&image);
    let hash = image.hash(2);
    server.faults(|faults| faults.damage = [(hash.clone(), usize::MAX)].into());
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    let error = deploy(&server, &image.task(), &disk).unwrap_err();
    let DeployError::DamagedChunk {
        hash: named,
        offset,
        detail,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        (named.to_string(), *offset),
        (hash.clone(), 2 * CHUNK as u64)
    );
    assert!(detail.starts_with("its BLAKE3 is "), "{detail}");
    let place = &disk.read()[2 * CHUNK..3 * CHUNK];
    assert!(place.iter().all(|&byte| byte == 0xa5));
    let damaged = server.seen(|seen| seen.damaged.clone());
    assert_eq!(damaged.len(), 2, "the server is told both times");
    assert!(damaged.iter().all(|damaged| damaged.hash == hash));
}

#[test]
fn a_chunk_that_comes_damaged_once_is_fetched_again() {
    let image = Arc::new(Image::drawn("abcd", 0));
    let server = Server::start(&image);
    server.faults(|faults| faults.damage = [(image.hash(1), 1)].into());
    let disk = FileDisk::new(image.bytes.len(), 0);
    deploy(&server, &image.task(), &disk).unwrap();
    assert_holds(&disk, &image.bytes);
    assert_eq!(server.seen(|seen| seen.damaged.len()), 1);
}

#[test]
fn a_chunk_that_the_server_has_not_got_fails_the_task() {
    let image = Arc::new(Image::drawn("abcd", 0));
    let server = Server::start(&image);
    server.faults(|faults| faults.absent = [image.hash(3)].into());
    let disk = FileDisk::new(image.bytes.len(), 0);
    let error = deploy(&server, &image.task(), &disk).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&image.hash(3)) && text.contains("byte 3145728"),
        "{text}"
    );
}

#[test]
fn a_stream_of_nonsense_is_given_up_and_asked_for_again() {
    let image = Arc::new(Image::drawn("abcd", 0));
    for garbage in [vec![0xff; 64], vec![1, 0], vec![9, 0, 0, 0, 1], Vec::new()] {
        let server = Server::start(&image);
        server.faults(|faults| faults.garbage = Some(garbage));
        let disk = FileDisk::new(image.bytes.len(), 0);
        deploy(&server, &image.task(), &disk).unwrap();
        assert_holds(&disk, &image.bytes);
    }
}

#[test]
fn a_server_that_dies_and_comes_back_without_its_memory_is_waited_for() {
    let image = Arc::new(Image::drawn("abcdefghijklmnopqrstuvwxyz", 512));
    let server = Server::start_alone(&image);
    server.faults(|faults| faults.die_after = Some(7));
    let disk = FileDisk::new(image.bytes.len(), 0);
    let api = server.api();
    let address = server.address();
    std::thread::scope(|scope| {
        let deploying = scope.spawn(|| {
            let bulk = api.bulk();
            let disks = || vec![disk.disk.clone()];
            let context = Context {
                bulk: &bulk,
                disks: &disks,
                settled: &|| true,
                report: &quiet,
                log: &Log::stderr(),
                settings: Settings::default(),
            };
            run(&image.task(), 1, &context)
        });
        server.wait_until(|seen| seen.sent.len() >= 7);
        let before: HashSet<String> = server.seen(|seen| seen.sent.iter().cloned().collect());
        server.stop();
        let second = Server::start_at(&image, address, "second");
        deploying.join().unwrap().unwrap();
        assert!(
            second.seen(|seen| seen.refused) > 0,
            "the old token was tried"
        );
        assert_eq!(
            second.seen(|seen| seen.registrations.len()),
            1,
            "one registration for all"
        );
        // What had arrived whole is not asked for again, but for what was on its way.
        let again = second.seen(|seen| seen.sent.iter().filter(|h| before.contains(*h)).count());
        assert!(
            again < before.len(),
            "{again} of {} were sent again",
            before.len()
        );
    });
    assert_holds(&disk, &image.bytes);
}

#[test]
fn a_cancel_ends_a_deploy_that_waits_for_a_silent_server() {
    let image = Arc::new(Image::drawn("abcdefgh", 0));
    let server = Server::start(&image);
    server.faults(|faults| faults.stall_after = Some(2));
    let disk = FileDisk::new(image.bytes.len(), 0);
    let report = |_, _, _: Option<&str>| Ok(server.seen(|seen| !seen.log.is_empty()));
    let error = deploy_with(&server, &image.task(), 1, &[&disk], &report).unwrap_err();
    assert!(matches!(error, DeployError::Cancelled), "{error:?}");
}

#[test]
fn a_disk_that_cannot_take_the_image_is_not_touched() {
    let image = Arc::new(Image::drawn("abc", 512));
    let small = FileDisk::new(image.bytes.len() - 512, 0xa5);
    let mut sectors = FileDisk::new(image.bytes.len(), 0xa5);
    sectors.disk.sector_size = 4096;
    let mut stick = FileDisk::new(image.bytes.len(), 0xa5);
    stick.disk.removable = true;
    let server = Server::start(&image);
    let all = [&small, &sectors, &stick];
    let error = deploy_with(&server, &image.task(), 1, &all, &quiet).unwrap_err();
    let text = error.to_string();
    for part in [
        "the image needs 3146240",
        "sectors are 4096 bytes, the image's are 512",
        "removable",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    for disk in all {
        let rule = DiskRule::Named(disk.disk.path.clone());
        if disk.disk.removable {
            continue;
        }
        let task = Deploy {
            disk: rule,
            ..image.task()
        };
        deploy_with(&server, &task, 1, &all, &quiet).unwrap_err();
    }
    for disk in all {
        assert!(disk.read().iter().all(|&byte| byte == 0xa5));
    }
    // Only its beginning is looked at: perhaps a smaller disk would do.
    server.seen(|seen| assert!(seen.sent.iter().all(|hash| *hash == image.hash(0))));

    let named = Deploy {
        disk: DiskRule::Named(stick.disk.path.clone()),
        ..image.task()
    };
    deploy_with(&server, &named, 1, &all, &quiet).unwrap();
    assert_holds(&stick, &image.bytes);
}

#[test]
fn a_disk_that_shrank_since_the_inventory_is_not_touched() {
    let image = Arc::new(Image::drawn("abc", 0));
    let server = Server::start(&image);
    let mut disk = FileDisk::new(CHUNK, 0xa5);
    disk.disk.size = image.bytes.len() as u64;
    let error = deploy(&server, &image.task(), &disk).unwrap_err();
    assert!(matches!(error, DeployError::Changed { .. }), "{error:?}");
    assert!(disk.read().iter().all(|&byte| byte == 0xa5));
}

#[test]
fn a_manifest_that_is_not_the_one_of_the_task_is_refused() {
    let image = Arc::new(Image::drawn("abc", 0));
    let server = Server::start(&image);
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    let task = Deploy {
        manifest: "0".repeat(64),
        ..image.task()
    };
    let error = deploy(&server, &task, &disk).unwrap_err();
    assert!(
        matches!(error, DeployError::ManifestHash { .. }),
        "{error:?}"
    );
    assert!(disk.read().iter().all(|&byte| byte == 0xa5));
}

#[test]
fn the_next_version_of_an_image_moves_only_what_changed() {
    let old = Image::drawn("abcd.fgh", 512);
    let new = Arc::new(Image::drawn("abcdef.h", 512));
    let server = Server::start(&new);
    let disk = FileDisk::new(new.bytes.len(), 0);
    disk.write(&old.bytes);
    // Left to the agent, a computer that is busy can make comparing look slower.
    let task = Deploy {
        compare: Compare::Always,
        ..new.task()
    };
    let deployed = deploy(&server, &task, &disk).unwrap();
    assert_holds(&disk, &new.bytes);
    assert_eq!(server.seen(|seen| seen.sent.clone()), [new.hash(4)]);
    let total = new.manifest.used_bytes();
    assert_eq!(
        (deployed.progress.skipped, deployed.progress.done),
        (total - CHUNK as u64, total)
    );
}

/// A GPT disk with a partition, made by sgdisk.
fn gpt_image() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(8 * CHUNK as u64).unwrap();
    sgdisk(&["-n", "1:2048:0", "-c", "1:root"], file.path());
    let mut bytes = std::fs::read(file.path()).unwrap();
    bytes[2 * CHUNK..2 * CHUNK + 5].copy_from_slice(b"hello");
    bytes
}

fn sgdisk(arguments: &[&str], path: &std::path::Path) -> String {
    let output = Command::new("sgdisk").args(arguments).arg(path).output();
    let output = output.expect("sgdisk, of the package gdisk, is needed for this test");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_larger_disk_gets_its_partition_table_made_whole() {
    let image = Arc::new(Image::new(gpt_image(), 512));
    for more in [512, 7 * 512, 5 * CHUNK + 512] {
        let server = Server::start(&image);
        let disk = FileDisk::new(image.bytes.len() + more, 0xa5);
        let deployed = deploy(&server, &image.task(), &disk).unwrap();
        assert_eq!(deployed.progress.done, image.manifest.used_bytes());
        let found = sgdisk(&["-v"], disk.path());
        assert!(found.contains("No problems found"), "{found}");
        let listed = sgdisk(&["-p"], disk.path());
        assert!(listed.contains("root"), "{listed}");
        assert_eq!(disk.read()[2 * CHUNK..2 * CHUNK + 5], *b"hello");

        // A second time: the first chunk differs by what was moved, and is written again.
        let deployed = deploy_with(&server, &image.task(), 2, &[&disk], &quiet).unwrap();
        assert_eq!(deployed.progress.done, image.manifest.used_bytes());
        assert!(sgdisk(&["-v"], disk.path()).contains("No problems found"));
    }
}

#[test]
fn a_disk_of_the_image_s_size_keeps_its_table_byte_for_byte() {
    let image = Arc::new(Image::new(gpt_image(), 512));
    let server = Server::start(&image);
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    deploy(&server, &image.task(), &disk).unwrap();
    assert_holds(&disk, &image.bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Cut at any point and begun again: the disk is right in the end, and what was right at the
    /// cut is not fetched a second time.
    #[test]
    fn a_deploy_resumes_where_it_was_cut(
        letters in "[abcdefghij.]{4,14}",
        cut in 0usize..12,
        tail in 0usize..3,
        poison in prop_oneof![Just(0u8), Just(0xa5)],
    ) {
        let image = Arc::new(Image::drawn(&letters, tail * 512));
        let disk = FileDisk::new(image.bytes.len(), poison);
        let first = Server::start(&image);
        first.faults(|faults| faults.stall_after = Some(cut));
        let cancel = |_, _, _: Option<&str>| Ok(first.seen(|seen| !seen.log.is_empty()));
        let result = deploy_with(&first, &image.task(), 1, &[&disk], &cancel);
        drop(first);
        let at_cut = disk.read();
        let right: HashSet<String> = image.manifest.chunks.iter().filter(|chunk| {
            let start = chunk.offset() as usize;
            let end = start + image.manifest.chunk_len(chunk.index) as usize;
            at_cut[start..end] == image.bytes[start..end]
        }).map(|chunk| chunk.hash.to_string()).collect();
        let all: HashSet<String> = image.frames.keys().cloned().collect();
        prop_assert_eq!(result.is_ok(), all.len() <= cut);

        let second = Server::start(&image);
        let deployed = deploy_with(&second, &image.task(), 2, &[&disk], &quiet).unwrap();
        assert_holds(&disk, &image.bytes);
        let sent: HashSet<String> = second.seen(|seen| seen.sent.iter().cloned().collect());
        let wholly_right: HashSet<String> = right.iter().filter(|hash| {
            image.manifest.chunks.iter().filter(|c| c.hash.to_string() == **hash).all(|c| {
                let start = c.offset() as usize;
                let end = start + image.manifest.chunk_len(c.index) as usize;
                at_cut[start..end] == image.bytes[start..end]
            })
        }).cloned().collect();
        prop_assert!(sent.is_disjoint(&wholly_right));
        prop_assert_eq!(deployed.progress.done, deployed.progress.total);
    }
}
