//! Faults in the middle of a deploy, each of which ends in the right state.

mod support;

use bugler_agent::api::ApiError;
use bugler_agent::deploy::{Context, DeployError, Settings, run};
use bugler_agent::log::Log;
use bugler_model::{Progress, TaskAction, TaskId, TaskState};
use bugler_protocol::agent::Assignment;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{CHUNK, FileDisk, Image, Server};

fn assign(server: &Server, image: &Image, attempt: u32) {
    server.assign(Assignment {
        task: TaskId(5),
        action: TaskAction::Deploy(image.task()),
        attempt,
    });
}

/// The program itself; `limit` bytes are the most that it may write of a file, where it is given.
fn agent(server: &Server, disk: &FileDisk, limit: Option<usize>) -> Child {
    let program = env!("CARGO_BIN_EXE_bugler-agent");
    // Beyond the limit writing fails with EFBIG, once its signal is ignored.
    let blocks = limit.map_or("unlimited".into(), |limit| (limit / 512).to_string());
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    Command::new("sh")
        .args([
            "-c",
            &script,
            program,
            "run",
            "--once",
            "--boot-token",
            "boot",
        ])
        .args(["--server", &server.url()])
        .args([
            "--boot-mac",
            "52:54:00:00:00:01",
            "--connections",
            "1",
            "--disk",
        ])
        .arg(disk.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn an_agent_that_is_killed_leaves_a_disk_that_the_next_one_resumes() {
    let image = Arc::new(Image::drawn("abcdefghijklmnopqrst", 512));
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    let first = Server::start(&image);
    first.faults(|faults| faults.stall_after = Some(9));
    assign(&first, &image, 1);
    let mut killed = agent(&first, &disk, None);
    first.wait_until(|seen| seen.log.iter().any(|line| line == "stalled"));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let last = first.seen(|seen| seen.reports.last().cloned()).unwrap();
    assert_eq!(
        last.state,
        TaskState::Running,
        "the server knows that it is half written"
    );
    drop(first);
    let at_kill = disk.read();
    assert!(at_kill != image.bytes);

    let second = Server::start(&image);
    assign(&second, &image, 2);
    assert!(agent(&second, &disk, None).wait().unwrap().success());
    assert!(disk.read() == image.bytes);
    let sent = second.seen(|seen| seen.sent.clone());
    for (n, chunk) in image.manifest.chunks.iter().enumerate() {
        let range = chunk.offset() as usize..;
        let len = image.manifest.chunk_len(chunk.index) as usize;
        let was_right = at_kill[range.clone()][..len] == image.bytes[range][..len];
        assert_eq!(
            !sent.contains(&chunk.hash.to_string()),
            was_right,
            "chunk {n}"
        );
    }
}

#[test]
fn a_disk_that_refuses_a_write_fails_the_task_with_the_place() {
    let image = Arc::new(Image::drawn("abcdefgh", 0));
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    let server = Server::start(&image);
    assign(&server, &image, 1);
    let status = agent(&server, &disk, Some(5 * CHUNK)).wait().unwrap();
    assert_eq!(status.code(), Some(1));
    let last = server.seen(|seen| seen.reports.last().cloned()).unwrap();
    assert_eq!(last.state, TaskState::Failed);
    let message = last.message.unwrap();
    assert!(
        message.contains("cannot write 1048576 bytes at byte 5242880 of"),
        "{message}"
    );
    assert!(disk.read()[5 * CHUNK..].iter().all(|&byte| byte == 0xa5));

    // Another disk, as it were: the same one without the fault.
    assign(&server, &image, 2);
    assert!(agent(&server, &disk, None).wait().unwrap().success());
    assert!(disk.read() == image.bytes);
}

#[test]
fn a_bit_that_flips_on_the_disk_is_found_by_reading_back() {
    let image = Arc::new(Image::drawn("abcdefghijklmnopqrstuvwxyz", 0));
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    let server = Server::start(&image);
    let flipped = AtomicBool::new(false);
    // While it is written, a byte of what is durable already changes behind the agent's back.
    let report = |state, progress: Progress, _: Option<&str>| -> Result<bool, ApiError> {
        if state == TaskState::Running && progress.done > 0 && !flipped.load(Ordering::SeqCst) {
            let found = disk.read();
            let right = (0..26).find(|n| {
                let range = n * CHUNK..(n + 1) * CHUNK;
                found[range.clone()] == image.bytes[range]
            });
            if let Some(n) = right {
                let file = std::fs::File::options()
                    .write(true)
                    .open(disk.path())
                    .unwrap();
                let at = n * CHUNK + 4711;
                file.write_all_at(&[image.bytes[at] ^ 4], at as u64)
                    .unwrap();
                flipped.store(true, Ordering::SeqCst);
                server.faults(|faults| faults.stall_after = None);
                server.cut();
            }
        }
        Ok(false)
    };
    // Nothing more comes until the byte has changed.
    server.faults(|faults| faults.stall_after = Some(20));
    let bulk = server.api().bulk();
    let context = Context {
        bulk: &bulk,
        disks: &|| vec![disk.disk.clone()],
        settled: &|| true,
        report: &report,
        log: &Log::stderr(),
        settings: Settings {
            first_wait: Duration::from_millis(1),
            ..Settings::default()
        },
    };
    let error = run(&image.task(), 1, &context).unwrap_err();
    assert!(flipped.load(Ordering::SeqCst));
    let DeployError::Verify { offset, .. } = error else {
        panic!("{error:?}");
    };
    let place = offset as usize;
    assert!(disk.read()[place..place + CHUNK] != image.bytes[place..place + CHUNK]);
}
