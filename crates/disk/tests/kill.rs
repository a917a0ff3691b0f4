//! A process writes a sequence that is known, and is killed with SIGKILL at any moment, 200 times: all
//! that it was told to be durable is found again, and nothing that was never written.

use bugler_disk::{BlockDevice, Durability, EmptyBase, Overlay, OverlayOptions};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

const RUNS: u64 = 200;
const BLOCKS: u64 = 48;
const BLOCK: u64 = 4096;
/// Runs that go on with the same file.
const SAME_FILE: u64 = 20;
const CHILD: &str = "BUGLER_OVERLAY_KILL";

fn base() -> Arc<EmptyBase> {
    Arc::new(EmptyBase { size: 64 << 20 })
}

/// Which block the step `number` writes. Some lie far apart, so that several groups are in use.
fn block(number: u64) -> u64 {
    let mixed = (number ^ number >> 7).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let block = mixed % BLOCKS;
    if block < 24 { block } else { 9000 + block }
}

fn content(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK as usize / 8)
}

/// Writes until it is killed; a line for each flush that returned: the number of the step before it.
#[test]
fn child() {
    let Ok(arguments) = env::var(CHILD) else {
        return;
    };
    let (path, first) = arguments.split_once('|').unwrap();
    let first: u64 = first.parse().unwrap();
    let options = OverlayOptions::default();
    let overlay = Overlay::open_or_create(path, base(), &options).unwrap();
    let mut out = std::io::stdout().lock();
    writeln!(out, "began").unwrap();
    for number in first.. {
        let at = block(number) * BLOCK;
        if number % 11 == 0 {
            overlay
                .write(at, &content(number), Durability::Durable)
                .unwrap();
            writeln!(out, "durable {number}").unwrap();
        } else {
            overlay
                .write(at, &content(number), Durability::Cached)
                .unwrap();
        }
        if number % 29 == 0 {
            overlay.flush().unwrap();
            writeln!(out, "durable {number}").unwrap();
        }
    }
}

/// The step that wrote what a block holds; 0 for none.
fn found(overlay: &Overlay, block: u64) -> u64 {
    let mut bytes = vec![0; BLOCK as usize];
    overlay.read(block * BLOCK, &mut bytes).unwrap();
    let number = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    assert!(bytes == content(number), "block {block} is a mix");
    number
}

#[test]
fn what_was_flushed_is_found_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    // Of each block, the step whose content was found last.
    let mut before = vec![0; BLOCKS as usize];
    let all: Vec<u64> = (0..BLOCKS)
        .map(|b| if b < 24 { b } else { 9000 + b })
        .collect();
    let (mut flushes, mut steps) = (0, 0);
    for run in 0..RUNS {
        let path = dir.path().join(format!("overlay-{}", run / SAME_FILE));
        if run % SAME_FILE == 0 {
            before.fill(0);
        }
        let first = (run + 1) * 1_000_000;
        // Every fourth is killed before it has told anything, if that is how it comes.
        let durable = one_run(
            &path,
            first,
            run % 4 * 3,
            Duration::from_micros(run * 7919 % 40_000),
        );
        let overlay = Overlay::open_or_create(&path, base(), &OverlayOptions::default()).unwrap();
        for (&block_number, before) in all.iter().zip(&mut before) {
            let now = found(&overlay, block_number);
            let wrote = |last: u64| (first..=last).rfind(|&number| block(number) == block_number);
            // The last step that was durable for sure; anything since is possible too.
            let least = durable.and_then(wrote).unwrap_or(*before);
            let is_possible =
                now == least || now > least && now >= first && block(now) == block_number;
            assert!(
                is_possible,
                "run {run}, block {block_number}: {now}, not {least} or later"
            );
            *before = now;
        }
        if let Some(durable) = durable {
            steps += durable - first;
            flushes += 1;
        }
        drop(overlay);
        if run % SAME_FILE == SAME_FILE - 1 {
            fs::remove_file(&path).unwrap();
        }
    }
    println!(
        "{RUNS} kills, {flushes} of them behind a flush, {steps} durable steps, {:?}",
        began.elapsed()
    );
    assert!(flushes > RUNS / 2, "too few runs came to a flush");
}

/// Lets a child write until it has told of so many flushes and for a time after that, kills it, and says
/// which step was the last that it was told to be durable.
fn one_run(path: &Path, first: u64, flushes: u64, time: Duration) -> Option<u64> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{}|{first}", path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("began") {
        line.clear();
        assert!(
            lines.read_line(&mut line).unwrap() > 0,
            "the child did not begin"
        );
    }
    let mut last = None;
    // The number of the next line about a flush; none where the child's output has ended.
    let mut next = || {
        loop {
            line.clear();
            if lines.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
                return None;
            }
            if let Some(number) = line.trim().strip_prefix("durable ") {
                return Some(number.parse::<u64>().unwrap());
            }
        }
    };
    for _ in 0..flushes {
        last = Some(next().expect("the child goes on writing"));
    }
    thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
    while let Some(number) = next() {
        last = Some(number);
    }
    last
}
