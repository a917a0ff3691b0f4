//! Deploys onto disks that have something of the image already, and onto disks of another size.

mod support;

use bugler_agent::api::ApiError;
use bugler_agent::deploy::{Context, DeployError, Deployed, ReportFn, Settings, run};
use bugler_agent::log::Log;
use bugler_model::{Compare, Deploy, Progress, TaskState, VerifyMode};
use proptest::prelude::*;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{CHUNK, FileDisk, Image, Server};

fn quiet(_: TaskState, _: Progress, _: Option<&str>) -> Result<bool, ApiError> {
    Ok(false)
}

fn deploy_with(
    server: &Server,
    task: &Deploy,
    attempt: u32,
    disk: &FileDisk,
    report: &ReportFn<'_>,
) -> (Result<Deployed, DeployError>, String) {
    let bulk = server.api().bulk();
    let log = Log::stderr();
    let context = Context {
        bulk: &bulk,
        disks: &|| vec![disk.disk.clone()],
        settled: &|| true,
        report,
        log: &log,
        settings: Settings {
            first_wait: Duration::from_millis(1),
            disk_wait: Duration::ZERO,
            ..Settings::default()
        },
    };
    let result = run(task, attempt, &context);
    (result, log.take(1000).join("\n"))
}

/// Deploys and gives how many chunks were sent for it.
fn deploy(image: &Arc<Image>, task: &Deploy, disk: &FileDisk) -> (Deployed, String, usize) {
    let server = Server::start(image);
    let (result, log) = deploy_with(&server, task, 1, disk, &quiet);
    let sent = server.seen(|seen| seen.sent.len());
    (result.unwrap(), log, sent)
}

/// A deploy that compares: left to the agent, a computer that is busy can make it look slower.
fn compared(image: &Image) -> Deploy {
    Deploy {
        compare: Compare::Always,
        ..image.task()
    }
}

fn holds(disk: &FileDisk, expected: &[u8]) -> bool {
    disk.read().starts_with(expected)
}

fn tool(program: &str, arguments: &[&str], path: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(path).output();
    let output = output.unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A disk of 8 MiB with a GPT and a partition from 1 MiB to the end of the fourth.
fn gpt_image() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(8 * CHUNK as u64).unwrap();
    tool(
        "sgdisk",
        &["-n", "1:2048:8191", "-c", "1:root"],
        file.path(),
    );
    let mut bytes = std::fs::read(file.path()).unwrap();
    bytes[2 * CHUNK..2 * CHUNK + 5].copy_from_slice(b"hello");
    bytes[4 * CHUNK - 4..4 * CHUNK].copy_from_slice(b"last");
    bytes
}

/// Deploys once more and proves that the disk was only read. On a smaller disk a few chunks are
/// `looked_at`: the image's partition table and its end.
fn assert_untouched(image: &Arc<Image>, disk: &FileDisk, looked_at: usize) {
    let before = (
        disk.read(),
        disk.path().metadata().unwrap().modified().unwrap(),
    );
    let server = Server::start(image);
    let states = Mutex::new(Vec::new());
    let report = |state, _, _: Option<&str>| {
        states.lock().unwrap().push(state);
        Ok(false)
    };
    let (result, log) = deploy_with(&server, &image.task(), 1, disk, &report);
    let progress = result.unwrap().progress;
    assert_eq!(
        (progress.done, progress.skipped),
        (progress.total, progress.total)
    );
    assert!(log.contains("nothing had to be written"), "{log}");
    let sampled = log.contains("sampled chunks are on the disk, which reads");
    assert!(sampled, "it is the agent that decides: {log}");
    assert!(server.seen(|seen| seen.sent.len()) <= looked_at);
    assert!(!states.lock().unwrap().contains(&TaskState::Running));
    let after = (
        disk.read(),
        disk.path().metadata().unwrap().modified().unwrap(),
    );
    assert!(before == after, "it was written");
}

#[test]
fn an_image_that_is_there_already_is_not_written_again() {
    let plain = Arc::new(Image::drawn("ab.c..de", 512 * 3));
    let disk = FileDisk::new(plain.bytes.len(), 0xa5);
    deploy(&plain, &plain.task(), &disk);
    assert_untouched(&plain, &disk, 0);

    // On a larger disk the partition table is not the image's: it is known again all the same, also
    // where its backup has replaced a part of the image's own.
    let table = Arc::new(Image::new(gpt_image(), 512));
    for more in [0, 512, 7 * 512, 33 * 512, 5 * CHUNK + 512] {
        let disk = FileDisk::new(table.bytes.len() + more, 0xa5);
        deploy(&table, &table.task(), &disk);
        tool("sgdisk", &["-v"], disk.path());
        assert_untouched(&table, &disk, 0);
    }
}

#[test]
fn a_table_that_is_not_whole_is_written_again() {
    let image = Arc::new(Image::new(gpt_image(), 512));
    for more in [7 * 512, 5 * CHUNK] {
        let disk = FileDisk::new(image.bytes.len() + more, 0);
        deploy(&image, &image.task(), &disk);
        let good = disk.read();
        let size = good.len();
        // In the backup's header, in its array, in the primary header, in the protective MBR.
        for at in [size - 500, size - 10 * 512, 512 + 40, 460] {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            disk.write(&bytes);
            let (_, _, sent) = deploy(&image, &compared(&image), &disk);
            assert!(disk.read() == good, "byte {at} of {size}");
            assert!((1..=2).contains(&sent), "{sent} chunks were sent");
        }
    }
}

#[test]
fn only_what_changed_is_moved_and_zeroed() {
    let image = Arc::new(Image::drawn("abcd.fgh.jklmnop.rstuvwxyz.", 512));
    let disk = FileDisk::new(image.bytes.len(), 0);
    disk.write(&image.bytes);
    let mut bytes = image.bytes.clone();
    bytes[3 * CHUNK + 7] ^= 1;
    bytes[8 * CHUNK + 99] = 1;
    disk.write(&bytes);
    let (deployed, log, sent) = deploy(&image, &compared(&image), &disk);
    assert!(holds(&disk, &image.bytes));
    assert_eq!(sent, 1);
    let changed = image.frames[&image.hash(3)].len() as u64;
    assert_eq!(deployed.progress.fetched, changed);
    assert!(
        log.contains("23 of 24 chunks are on the disk already"),
        "{log}"
    );
}

#[test]
fn comparing_is_forced_either_way() {
    let image = Arc::new(Image::drawn("abcdefgh", 0));
    let task = |compare| Deploy {
        compare,
        ..image.task()
    };
    let disk = FileDisk::new(image.bytes.len(), 0);
    disk.write(&image.bytes);
    assert_eq!(deploy(&image, &task(Compare::Never), &disk).2, 8);
    // Nothing of it is there but one chunk, which a sample may miss.
    let mut bytes = vec![0xa5; image.bytes.len()];
    bytes[CHUNK..2 * CHUNK].copy_from_slice(&image.bytes[CHUNK..2 * CHUNK]);
    disk.write(&bytes);
    assert_eq!(deploy(&image, &task(Compare::Always), &disk).2, 7);
    assert!(holds(&disk, &image.bytes));
    // What was interrupted is resumed in any case.
    let server = Server::start(&image);
    let never = task(Compare::Never);
    deploy_with(&server, &never, 2, &disk, &quiet).0.unwrap();
    assert_eq!(server.seen(|seen| seen.sent.len()), 0);
}

#[test]
fn a_rate_is_kept() {
    let image = Arc::new(Image::drawn("abcd", 0));
    let bytes: usize = image.frames.values().map(Vec::len).sum();
    let task = Deploy {
        limit_rate: Some(bytes as u64 * 2),
        ..image.task()
    };
    let disk = FileDisk::new(image.bytes.len(), 0);
    let began = Instant::now();
    deploy(&image, &task, &disk);
    assert!(began.elapsed() >= Duration::from_millis(450));
    assert!(holds(&disk, &image.bytes));
}

#[test]
fn a_smaller_disk_takes_what_is_used() {
    let bytes = gpt_image();
    let image = Arc::new(Image::new(bytes.clone(), 512));
    let least = 4 * CHUNK + 33 * 512;
    for size in [
        least,
        least + 512,
        5 * CHUNK,
        5 * CHUNK + 5 * 512,
        8 * CHUNK - 512,
    ] {
        let disk = FileDisk::new(size, 0xa5);
        let (deployed, log, _) = deploy(&image, &image.task(), &disk);
        assert!(
            log.contains("is smaller than the image, which needs 4211200"),
            "{log}"
        );
        assert_eq!(deployed.progress.done, deployed.progress.total);
        let checked = tool("sgdisk", &["-v"], disk.path());
        assert!(checked.contains("No problems found"), "{size}: {checked}");
        assert!(tool("sgdisk", &["-p"], disk.path()).contains("root"));
        let found = disk.read();
        assert!(found[CHUNK..4 * CHUNK] == bytes[CHUNK..4 * CHUNK]);
        assert!(
            found[4 * CHUNK..size - 33 * 512]
                .iter()
                .all(|&byte| byte == 0)
        );
        // A protective record that covers this disk, and not the image's.
        let sectors = u32::from_le_bytes(found[458..462].try_into().unwrap());
        assert_eq!(sectors as usize, size / 512 - 1);
        assert_untouched(&image, &disk, 3);
    }
    let disk = FileDisk::new(least - 512, 0xa5);
    let server = Server::start(&image);
    let error = deploy_with(&server, &image.task(), 1, &disk, &quiet)
        .0
        .unwrap_err();
    let text = error.to_string();
    for part in [
        "it has 4210688 bytes, the image needs 8388608",
        "4211200 bytes, since its last partition ends at byte 4194304",
        "nothing was written",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert!(disk.read().iter().all(|&byte| byte == 0xa5));
}

#[test]
fn data_behind_the_partitions_is_not_cut_off() {
    let mut bytes = gpt_image();
    bytes[6 * CHUNK] = 1;
    let image = Arc::new(Image::new(bytes, 512));
    let server = Server::start(&image);
    let disk = FileDisk::new(6 * CHUNK, 0xa5);
    let error = deploy_with(&server, &image.task(), 1, &disk, &quiet)
        .0
        .unwrap_err();
    assert!(
        error.to_string().contains("ends at byte 6291968"),
        "{error}"
    );
    assert!(disk.read().iter().all(|&byte| byte == 0xa5));
}

#[test]
fn an_mbr_on_a_smaller_disk_stays_as_it_is() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(8 * CHUNK as u64).unwrap();
    let script = format!(
        "printf '2048,4096,c\\n' | sfdisk -q {}",
        file.path().display()
    );
    tool("sh", &["-c", &script], Path::new("-"));
    let mut bytes = std::fs::read(file.path()).unwrap();
    bytes[CHUNK..CHUNK + 3].copy_from_slice(b"abc");
    let image = Arc::new(Image::new(bytes.clone(), 512));
    let disk = FileDisk::new(3 * CHUNK, 0xa5);
    deploy(&image, &image.task(), &disk);
    assert!(disk.read() == bytes[..3 * CHUNK]);
    assert_untouched(&image, &disk, 3);

    let server = Server::start(&image);
    let disk = FileDisk::new(3 * CHUNK - 512, 0xa5);
    let error = deploy_with(&server, &image.task(), 1, &disk, &quiet)
        .0
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("its last partition ends at byte 3145728"),
        "{error}"
    );

    // Without a table what is on it fills its disk, whatever is zero at its end.
    let image = Arc::new(Image::drawn("ab......", 0));
    let server = Server::start(&image);
    let error = deploy_with(&server, &image.task(), 1, &disk, &quiet)
        .0
        .unwrap_err();
    assert!(
        error.to_string().contains("it has no partition table"),
        "{error}"
    );
    assert!(disk.read().iter().all(|&byte| byte == 0xa5));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever is on the disk, and however it is compared: it holds the image in the end, and what
    /// was right did not travel.
    #[test]
    fn whatever_was_there_the_image_is_there_then(
        letters in "[abcdef.]{1,12}",
        damage in proptest::collection::vec((0usize..13 * CHUNK, 1usize..3 * CHUNK), 0..4),
        tail in 0usize..3,
        more in prop_oneof![Just(0), Just(512), Just(CHUNK + 512)],
        compare in prop_oneof![Just(Compare::Auto), Just(Compare::Always)],
        verify in prop_oneof![Just(VerifyMode::ReadBack), Just(VerifyMode::WriteOnly)],
    ) {
        let image = Arc::new(Image::drawn(&letters, tail * 512));
        let disk = FileDisk::new(image.bytes.len() + more, 0);
        let mut bytes = image.bytes.clone();
        for (at, len) in damage {
            let end = (at + len).min(bytes.len());
            if let Some(place) = bytes.get_mut(at..end) {
                place.iter_mut().for_each(|byte| *byte ^= 0x55);
            }
        }
        let right = |hash: &str| image.manifest.chunks.iter().all(|chunk| {
            let range = chunk.offset() as usize..;
            let len = image.manifest.chunk_len(chunk.index) as usize;
            chunk.hash.to_string() != hash
                || bytes[range.clone()][..len] == image.bytes[range][..len]
        });
        disk.write(&[&bytes[..], &vec![0xa5; more]].concat());
        let server = Server::start(&image);
        let task = Deploy { compare, verify, ..image.task() };
        let (result, log) = deploy_with(&server, &task, 1, &disk, &quiet);
        result.unwrap();
        prop_assert!(disk.read() == [&image.bytes[..], &vec![0xa5; more]].concat());
        if log.contains("compared") {
            server.seen(|seen| assert!(!seen.sent.iter().any(|hash| right(hash))));
        }
    }
}
