//! Opening and closing: what is refused, and with what words.

use crate::common::{Registry, at, chain, mac, seen};
use bugler_model::{DeviceId, EventKind, NewEvent, TaskId, TaskState};
use bugler_store::{SqliteStore, Store, StoreError};
use std::path::Path;

fn refusal(path: impl AsRef<Path>) -> String {
    match SqliteStore::open(path) {
        Ok(_) => panic!("it was opened"),
        Err(error) => chain(&error),
    }
}

fn sqlite(path: &Path, text: &str) {
    rusqlite::Connection::open(path)
        .unwrap()
        .execute_batch(text)
        .unwrap();
}

#[test]
fn a_second_server_is_kept_away() {
    let registry = Registry::new();
    let text = refusal(registry.path());
    assert!(
        text.contains("registry.sqlite: another server is using it (process "),
        "{text}"
    );
    assert!(text.contains(&std::process::id().to_string()), "{text}");
}

#[tokio::test]
async fn a_closed_registry_says_so_and_can_be_opened_again() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await;
    registry.close().await;
    registry.close().await;
    let event = NewEvent::new(EventKind::Log, "x");
    assert!(matches!(
        registry.append_event(event, at(1)).await,
        Err(StoreError::Closed)
    ));
    assert!(matches!(registry.leases().await, Err(StoreError::Closed)));
    let log = registry.path().with_extension("sqlite-wal");
    assert_eq!(
        std::fs::metadata(log).map_or(0, |log| log.len()),
        0,
        "all is in the one file"
    );
    let again = SqliteStore::open(registry.path()).unwrap();
    assert_eq!(again.device(device.id).await.unwrap(), device);
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = refusal(folder.path().join("nowhere/registry.sqlite"));
    assert!(
        text.contains("nowhere/registry.sqlite.lock: it cannot be created"),
        "{text}"
    );
    assert!(text.contains("No such file or directory"), "{text}");
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("registry.sqlite")).unwrap();
    let text = refusal(folder.path().join("registry.sqlite"));
    assert!(
        text.contains("give the server's user write access"),
        "{text}"
    );
}

#[test]
fn what_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.sqlite");
    let garbage = "This is a letter to my aunt. ".repeat(500);
    std::fs::write(&path, &garbage).unwrap();
    let text = refusal(&path);
    assert!(
        text.contains("registry.sqlite: it is not a registry: move it away"),
        "{text}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), garbage);
}

#[test]
fn a_database_of_another_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.sqlite");
    sqlite(&path, "CREATE TABLE recipes (name TEXT)");
    let text = refusal(&path);
    assert!(
        text.contains("it is a database of another program"),
        "{text}"
    );
    sqlite(&path, "INSERT INTO recipes VALUES ('cake')");
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused() {
    let registry = Registry::new();
    registry.close().await;
    sqlite(&registry.path(), "PRAGMA user_version = 99");
    let text = refusal(registry.path());
    assert!(
        text.contains("it has schema version 99, and this server knows versions up to 7"),
        "{text}"
    );
    sqlite(&registry.path(), "PRAGMA user_version = -1");
    refusal(registry.path());
    sqlite(&registry.path(), "PRAGMA user_version = 7");
    SqliteStore::open(registry.path()).unwrap();
}

#[tokio::test]
async fn a_row_that_is_not_understood_is_an_error() {
    let registry = Registry::new();
    seen(&registry, mac(1), None).await;
    registry.close().await;
    for (change, undo) in [
        (
            "UPDATE devices SET netboot = 'maybe'",
            "UPDATE devices SET netboot = 'on'",
        ),
        (
            "UPDATE devices SET tags = '['",
            "UPDATE devices SET tags = '[]'",
        ),
        (
            "UPDATE devices SET uuid = 'x'",
            "UPDATE devices SET uuid = NULL",
        ),
        (
            "UPDATE devices SET address = '1.2.3'",
            "UPDATE devices SET address = NULL",
        ),
        (
            "UPDATE devices SET inventory = '7'",
            "UPDATE devices SET inventory = NULL",
        ),
        (
            "INSERT INTO tasks (device, action, state, progress, created, updated)
          VALUES (1, '{}', 'queued', '{}', 0, 0)",
            "DELETE FROM tasks",
        ),
        (
            "INSERT INTO sessions (device, started, stages, outcome)
          VALUES (1, 0, '{}', 'open')",
            "DELETE FROM sessions",
        ),
        (
            "INSERT INTO leases VALUES (-1, x'000000000000', NULL, NULL, 'bound', 0)",
            "DELETE FROM leases",
        ),
    ] {
        sqlite(&registry.path(), change);
        let text = refusal(registry.path());
        assert!(
            text.contains("a row in it is not understood"),
            "{change}: {text}"
        );
        sqlite(&registry.path(), undo);
    }
    // Rows that are only read when they are asked for.
    sqlite(
        &registry.path(),
        "INSERT INTO tasks (id, device, action, state, progress, created, updated)
         VALUES (9, 1, '{\"kind\":\"reboot\"}', 'elsewhere', '{}', 0, 0);
         INSERT INTO events (at, kind, text) VALUES (0, 'rumour', '');
         INSERT INTO events (at, kind, text, device) VALUES (0, 'log', '', -5);
         INSERT INTO images VALUES (1, '../x', 1, '', NULL, '', -1, 0, 0, 512, 'good', 0);",
    );
    let store = SqliteStore::open(registry.path()).unwrap();
    for error in [
        store.images().await.err(),
        store.image("i1").await.err(),
        store.events(Default::default()).await.err(),
        store.tasks(Default::default()).await.err(),
        store.task(TaskId(9)).await.err(),
        store.cancel_task(TaskId(9), "x", at(1)).await.err(),
    ] {
        let text = chain(&error.expect("such a row is not read"));
        assert!(text.contains("a row in it is not understood"), "{text}");
    }
    assert_eq!(
        seen(&store, mac(1), None).await.id,
        DeviceId(1),
        "the rest goes on"
    );
}

#[tokio::test]
async fn a_registry_of_version_1_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.sqlite");
    sqlite(&path, include_str!("../fixtures/version-1.sql"));
    let store = SqliteStore::open(&path).unwrap();
    let device = store.resolve_device("pc-7").await.unwrap();
    assert_eq!((device.id, device.open_tasks), (DeviceId(3), 1));
    assert_eq!(device.macs, [mac(2), mac(1)]);
    assert_eq!(
        device.inventory.as_ref().unwrap().model.as_deref(),
        Some("Anvil 3")
    );
    let tasks = store.tasks(Default::default()).await.unwrap();
    assert_eq!(
        tasks.iter().map(|task| task.state).collect::<Vec<_>>(),
        [TaskState::Running, TaskState::Done]
    );
    assert_eq!(tasks[0].progress.done, 1_048_576);
    assert_eq!(store.open_session(device.id).unwrap().stages.len(), 2);
    assert_eq!(store.sessions(device.id, 9).await.unwrap().len(), 2);
    assert_eq!(store.leases().await.unwrap().len(), 1);
    assert_eq!(store.image("debian-12").await.unwrap().sector_size, 512);
    assert_eq!(store.events(Default::default()).await.unwrap().len(), 2);
    assert_eq!(
        store
            .agent_token(crate::common::token(0xa7))
            .unwrap()
            .device,
        device.id
    );
    let boot = store.boot_token(crate::common::token(0xb7)).await.unwrap();
    assert_eq!(boot.unwrap().0, device.id);
}
