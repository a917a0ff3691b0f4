//! Transactions.

use super::{Fixture, NOW, fixture, hold, log, observed, send};
use crate::sqlite::fault::Fault;
use crate::sqlite::{Limits, SqliteStore};
use crate::{EventFilter, Store, StoreError, TaskReport};
use bugler_model::{NewTask, Progress, TaskAction, TaskState, Timestamp};
use std::net::Ipv4Addr;
use std::time::Duration;

async fn texts(store: &SqliteStore) -> Vec<String> {
    let filter = EventFilter {
        limit: usize::MAX,
        ..EventFilter::default()
    };
    store
        .events(filter)
        .await
        .unwrap()
        .into_iter()
        .map(|event| event.text)
        .collect()
}

#[tokio::test]
async fn operations_that_wait_together_share_one_commit() {
    let Fixture { store, .. } = &fixture(Limits::default());
    let before = store.commits();
    let (held, release) = hold(store);
    let mut waiting: Vec<_> = (0..100)
        .map(|n| store.append_event(log(n.to_string()), NOW))
        .collect();
    waiting.iter_mut().for_each(send);
    drop(release);
    held.await;
    for (n, operation) in (1..).zip(waiting) {
        assert_eq!(operation.await.unwrap().id.0, n);
    }
    assert_eq!(
        store.commits() - before,
        2,
        "the one that was held, and one for all the others"
    );
}

#[tokio::test]
async fn an_operation_that_fails_takes_nobody_with_it() {
    let Fixture { store, .. } = &fixture(Limits::default());
    let (held, release) = hold(store);
    let mut listener = store.subscribe();
    let mut first = store.append_event(log("first"), NOW);
    let mut bad = Box::pin(store.writer.run("fail half way", |tx| {
        tx.keep(log("undone"), NOW)?;
        Err::<(), _>(Fault::Conflict("no".into()))
    }));
    let mut last = store.append_event(log("last"), NOW);
    send(&mut first);
    send(&mut bad);
    send(&mut last);
    drop(release);
    held.await;
    first.await.unwrap();
    assert!(matches!(bad.await, Err(StoreError::Conflict(text)) if text == "no"));
    last.await.unwrap();
    assert_eq!(texts(store).await, ["first", "last"]);
    assert_eq!(listener.try_recv().unwrap().text, "first");
    assert_eq!(listener.try_recv().unwrap().text, "last");
}

#[tokio::test]
async fn an_operation_that_is_given_up_happens_whole_or_not_at_all() {
    let Fixture { store, .. } = &fixture(Limits::default());
    let (held, release) = hold(store);
    let never_sent = store.append_event(log("never sent"), NOW);
    drop(never_sent);
    let mut given_up = store.append_event(log("given up"), NOW);
    send(&mut given_up);
    drop(given_up);
    drop(release);
    held.await;
    store.append_event(log("after"), NOW).await.unwrap();
    assert_eq!(texts(store).await, ["given up", "after"]);
}

#[tokio::test]
async fn what_was_sent_before_a_close_is_done_and_what_comes_after_is_refused() {
    let fixture = fixture(Limits::default());
    let store = &fixture.store;
    let (held, release) = hold(store);
    let mut before = store.append_event(log("before"), NOW);
    send(&mut before);
    let mut close = Box::pin(store.close());
    send(&mut close);
    let after = store.append_event(log("after"), NOW).await;
    assert!(matches!(after, Err(StoreError::Closed)));
    drop(release);
    held.await;
    before.await.unwrap();
    close.await;
    let again = SqliteStore::open(fixture.path()).unwrap();
    assert_eq!(texts(&again).await, ["before"]);
}

#[tokio::test]
async fn a_full_disk_is_told_and_what_was_acknowledged_stays() {
    let fixture = fixture(Limits::default());
    let store = &fixture.store;
    store.append_event(log("acknowledged"), NOW).await.unwrap();
    let allow = async |pages: i64| {
        let set = store.writer.run("set the size of the disk", move |tx| {
            Ok(tx
                .sql
                .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?)
        });
        set.await.unwrap();
    };
    // As few as there are: the next page is one too many.
    allow(1).await;
    let mut told = None;
    for _ in 0..100 {
        let before = texts(store).await;
        if let Err(error) = store.append_event(log("x".repeat(1000)), NOW).await {
            assert_eq!(texts(store).await, before, "nothing of it happened");
            told = Some(error);
            break;
        }
    }
    let Some(StoreError::Database { operation, source }) = told else {
        panic!("the disk was never full: {told:?}");
    };
    assert_eq!(operation, "keep an event");
    let text = source.to_string();
    assert!(
        text.contains("registry.sqlite: its disk is full: free some space there"),
        "{text}"
    );
    allow(1_000_000).await;
    store.append_event(log("goes on"), NOW).await.unwrap();
    let texts = texts(store).await;
    assert_eq!(texts.first().unwrap(), "acknowledged");
    assert_eq!(texts.last().unwrap(), "goes on");
}

#[tokio::test]
async fn a_transaction_that_sqlite_took_back_fails_everybody_in_it() {
    let Fixture { store, .. } = &fixture(Limits::default());
    let (held, release) = hold(store);
    let mut first = store.append_event(log("first"), NOW);
    // What SQLite does by itself where a disk fails under it.
    let mut broken = Box::pin(store.writer.run("lose the disk", |tx| {
        tx.sql.execute_batch("ROLLBACK")?;
        Ok(tx.sql.execute("INSERT INTO nowhere VALUES (1)", [])?)
    }));
    let mut last = store.append_event(log("last"), NOW);
    send(&mut first);
    send(&mut broken);
    send(&mut last);
    drop(release);
    held.await;
    assert!(matches!(
        first.await,
        Err(StoreError::Database {
            operation: "keep an event",
            ..
        })
    ));
    assert!(matches!(
        broken.await,
        Err(StoreError::Database {
            operation: "lose the disk",
            ..
        })
    ));
    assert!(matches!(last.await, Err(StoreError::Database { .. })));
    assert!(texts(store).await.is_empty());
    store.append_event(log("goes on"), NOW).await.unwrap();
    assert_eq!(texts(store).await, ["goes on"]);
}

#[tokio::test]
async fn a_database_that_another_program_keeps_locked_is_told() {
    let fixture = fixture(Limits::default());
    let store = &fixture.store;
    let patience = store.writer.run("be impatient", |tx| {
        Ok(tx.sql.busy_timeout(Duration::ZERO)?)
    });
    patience.await.unwrap();
    let other = rusqlite::Connection::open(fixture.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.append_event(log("x"), NOW).await.unwrap_err();
    let StoreError::Database { source, .. } = error else {
        panic!("{error:?}")
    };
    let text = source.to_string();
    assert!(text.contains("another program holds its lock"), "{text}");
    other.execute_batch("COMMIT").unwrap();
    store.append_event(log("x"), NOW).await.unwrap();
}

/// What the disk says of the only device and the only task.
async fn on_disk(store: &SqliteStore) -> (i64, String, String) {
    store
        .readers
        .query("read the rows", |sql| {
            Ok(sql.query_row(
                "SELECT devices.seen, devices.address, tasks.progress FROM devices, tasks",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?)
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn what_memory_is_ahead_with_is_written_when_its_time_has_come() {
    let Fixture { store, .. } = &fixture(Limits::default());
    let device = observed(store, 1, 1).await;
    store.touch(device, Some(Ipv4Addr::LOCALHOST), Timestamp(2));
    let task = store
        .create_tasks(
            vec![NewTask {
                device,
                action: TaskAction::Reboot,
            }],
            NOW,
        )
        .await
        .unwrap()
        .remove(0);
    store.claim_task(device, NOW).await.unwrap();
    let progress = Progress {
        done: 7,
        ..Progress::default()
    };
    let report = TaskReport {
        device,
        task: task.id,
        state: TaskState::Claimed,
        progress,
        message: None,
        disk: None,
    };
    store.report_task(report, NOW).await.unwrap();
    store.touch(device, Some(Ipv4Addr::BROADCAST), Timestamp(90));
    store.writer.flush_within(Duration::ZERO);
    // Comes after it in the writer's queue.
    store.append_event(log("x"), NOW).await.unwrap();
    let (seen, address, progress) = on_disk(store).await;
    assert_eq!((seen, &*address), (90, "255.255.255.255"));
    assert_eq!(serde_json::from_str::<Progress>(&progress).unwrap().done, 7);
    let pending = store.memory.pending();
    assert!(pending.touches.is_empty() && pending.tasks.is_empty());
    assert!(
        store.memory.touch(device, None, Timestamp(91)),
        "the next one asks for a flush again"
    );
}
