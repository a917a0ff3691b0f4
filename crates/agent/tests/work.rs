//! The program itself, as a normal process: registers, works, reports.

mod support;

use bugler_agent::deploy::Settings;
use bugler_agent::log::Log;
use bugler_agent::work::{self, Ended, Machine, TokenRefused};
use bugler_model::{Inventory, Phase, TaskAction, TaskId, TaskState};
use bugler_protocol::agent::Assignment;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use support::{FileDisk, Image, Server};

fn agent(server: &Server, disk: &FileDisk) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bugler-agent"))
        .args([
            "run",
            "--server",
            &server.url(),
            "--boot-token",
            "boot",
            "--once",
        ])
        .args(["--boot-mac", "52:54:00:00:00:01", "--disk"])
        .arg(format!("{}:SERIAL-1", disk.path().display()))
        .args(["--uuid", "66ffad1e-e719-ad84-9831-b8aeed7d5f80"])
        .output()
        .unwrap()
}

fn assign(server: &Server, action: TaskAction) {
    server.assign(Assignment {
        task: TaskId(5),
        action,
        attempt: 1,
    });
}

#[test]
fn a_task_is_done_and_told() {
    let image = Arc::new(Image::drawn("ab.c", 0));
    let server = Server::start(&image);
    assign(&server, TaskAction::Deploy(image.task()));
    let disk = FileDisk::new(image.bytes.len(), 0);
    let output = agent(&server, &disk);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"would reboot now\n");
    assert!(disk.read() == image.bytes);
    server.seen(|seen| {
        let register = &seen.registrations[0];
        assert_eq!(register.boot_token, "boot");
        let found = &register.inventory.disks[0];
        assert_eq!(found.serial.as_deref(), Some("SERIAL-1"));
        assert_eq!(found.size, image.bytes.len() as u64);
        assert!(register.inventory.uuid.is_some() && register.inventory.memory > 0);
        let last = seen.reports.last().unwrap();
        assert_eq!(
            (last.state, last.message.as_deref()),
            (TaskState::Done, None)
        );
        assert_eq!(last.disk.as_deref(), Some("SERIAL-1"));
        assert_eq!(last.progress.phase, Phase::Verifying);
        assert_eq!(last.progress.done, image.manifest.used_bytes());
        let said = |text: &str| seen.log.iter().any(|line| line.contains(text));
        assert!(
            said("registered as d3 (rack1-07) with http://127.0.0.1:"),
            "{:?}",
            seen.log
        );
        assert!(said("task t5 is done"));
    });
}

#[test]
fn a_task_that_fails_tells_why_and_the_machine_stays() {
    let image = Arc::new(Image::drawn("ab.c", 0));
    let server = Server::start(&image);
    assign(&server, TaskAction::Deploy(image.task()));
    let disk = FileDisk::new(image.bytes.len() / 2, 0);
    let output = agent(&server, &disk);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, b"");
    let last = server.seen(|seen| seen.reports.last().cloned()).unwrap();
    assert_eq!(last.state, TaskState::Failed);
    let message = last.message.unwrap();
    assert!(
        message.contains("it has 2097152 bytes, the image needs 4194304"),
        "{message}"
    );
}

#[test]
fn power_tasks_are_reported_before_they_are_done() {
    let image = Arc::new(Image::drawn("a", 0));
    let disk = FileDisk::new(image.bytes.len(), 0);
    for (action, word) in [
        (TaskAction::Reboot, "reboot"),
        (TaskAction::PowerOff, "power off"),
    ] {
        let server = Server::start(&image);
        assign(&server, action);
        let output = agent(&server, &disk);
        assert_eq!(output.stdout, format!("would {word} now\n").as_bytes());
        assert_eq!(
            server.seen(|seen| seen.reports.last().unwrap().state),
            TaskState::Done
        );
    }
}

/// The agent in this process, with disks that need no looking at and little patience.
fn work(server: &Server, token_patience: Duration) -> Result<Ended, TokenRefused> {
    let machine = Machine {
        inventory: &Inventory::default,
        settled: &|| true,
        token_patience,
        settings: Settings::default(),
        once: false,
    };
    work::run(&server.api(), &machine, &Log::stderr())
}

#[test]
fn a_boot_token_that_is_refused_ends_the_boot() {
    let image = Arc::new(Image::drawn("a", 0));
    let server = Server::start(&image);
    server.faults(|faults| faults.refuse_all = true);
    let error = work(&server, Duration::ZERO).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&server.url()) && text.contains("boot this machine again"),
        "{text}"
    );
    assert!(error.source.is_unknown_boot(), "{:?}", error.source);

    // Not only at the start: also when the server forgets it while the agent waits for a task.
    server.faults(|faults| faults.refuse_all = false);
    std::thread::scope(|scope| {
        let working = scope.spawn(|| work(&server, Duration::ZERO));
        server.wait_until(|seen| seen.registrations.len() == 1);
        server.faults(|faults| faults.refuse_all = true);
        assert!(working.join().unwrap().is_err());
    });
}

#[test]
fn a_token_that_is_forgotten_during_a_deploy_does_not_stop_it() {
    let image = Arc::new(Image::drawn("abcd", 0));
    let server = Server::start(&image);
    server.faults(|faults| faults.stall_after = Some(2));
    assign(&server, TaskAction::Deploy(image.task()));
    let disk = FileDisk::new(image.bytes.len(), 0);
    std::thread::scope(|scope| {
        let machine_disks = || Inventory {
            disks: vec![disk.disk.clone()],
            ..Inventory::default()
        };
        let api = server.api();
        let working = scope.spawn(move || {
            let machine = Machine {
                inventory: &machine_disks,
                settled: &|| true,
                token_patience: Duration::ZERO,
                settings: Settings::default(),
                once: true,
            };
            work::run(&api, &machine, &Log::stderr())
        });
        server.wait_until(|seen| seen.log.iter().any(|line| line == "stalled"));
        server.faults(|faults| {
            faults.stall_after = None;
            faults.refuse_all = true;
        });
        server.cut();
        server.wait_until(|seen| seen.refused > 3);
        server.faults(|faults| faults.refuse_all = false);
        let ended = working.join().unwrap().unwrap();
        assert_eq!(ended.state, TaskState::Done);
    });
    assert!(disk.read() == image.bytes);
}

#[test]
fn a_bad_command_line_is_explained() {
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_bugler-agent");
        let output = Command::new(program).args(arguments).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text) = run(&["run", "--fly"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("--help"), "{text}");
    let line = [
        "run",
        "--server",
        "http://127.0.0.1:1",
        "--boot-token",
        "t",
        "--boot-mac",
    ];
    let (code, text) = run(&[&line[..], &["52:54:00:00:00:01", "--disk", "/nonexistent"]].concat());
    assert_eq!(code, Some(1));
    assert!(text.contains("cannot use /nonexistent as a disk"), "{text}");
}
