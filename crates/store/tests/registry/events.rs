//! Events.

use crate::common::{Registry, at, mac, seen};
use bugler_model::{DeviceId, Event, EventId, EventKind, ImageId, NewEvent, SessionId, TaskId};
use bugler_store::{EventFilter, SqliteStore, Store};
use tokio::sync::broadcast::error::TryRecvError;

async fn fill(store: &SqliteStore) {
    for n in 1..=6 {
        let kind = if n % 2 == 0 {
            EventKind::Log
        } else {
            EventKind::Server
        };
        let event = NewEvent::new(kind, n.to_string()).device(DeviceId(n % 3));
        store.append_event(event, at(n as i64)).await.unwrap();
    }
}

#[tokio::test]
async fn an_event_is_kept_whole() {
    let mut registry = Registry::new();
    let new = NewEvent {
        kind: EventKind::Log,
        device: Some(DeviceId(1)),
        session: Some(SessionId(2)),
        task: Some(TaskId(3)),
        image: Some(ImageId(4)),
        text: "hello".into(),
    };
    let event = registry.append_event(new, at(5)).await.unwrap();
    assert_eq!(event.id, EventId(1));
    registry.restart();
    assert_eq!(
        registry.events(EventFilter::default()).await.unwrap(),
        [event]
    );
}

#[tokio::test]
async fn a_text_is_one_line_of_at_most_a_thousand_characters() {
    let registry = Registry::new();
    let text = format!("a\r\n\u{1b}[31m{}", "ä".repeat(2000));
    let event = registry
        .append_event(NewEvent::new(EventKind::Log, text), at(1))
        .await
        .unwrap();
    assert_eq!(event.text.chars().count(), 1000);
    assert!(event.text.starts_with("a   [31mää"));
    assert_eq!(
        registry.events(EventFilter::default()).await.unwrap(),
        [event]
    );
}

#[tokio::test]
async fn events_are_filtered_and_paged() {
    let registry = Registry::new();
    fill(&registry).await;
    let list = async |filter| {
        let events = registry.events(filter).await.unwrap();
        events.iter().map(|event| event.id.0).collect::<Vec<_>>()
    };
    let all = EventFilter::default();
    assert_eq!(list(all.clone()).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        list(EventFilter {
            limit: 2,
            ..all.clone()
        })
        .await,
        [5, 6],
        "the latest"
    );
    let after = |id| EventFilter {
        after: Some(EventId(id)),
        limit: 2,
        ..all.clone()
    };
    assert_eq!(list(after(0)).await, [1, 2], "the earliest");
    assert_eq!(list(after(2)).await, [3, 4]);
    assert_eq!(list(after(6)).await, [] as [u64; 0]);
    assert_eq!(list(after(u64::MAX)).await, [] as [u64; 0]);
    let device = EventFilter {
        device: Some(DeviceId(1)),
        ..all.clone()
    };
    assert_eq!(list(device.clone()).await, [1, 4]);
    assert_eq!(
        list(EventFilter {
            kind: Some(EventKind::Log),
            ..device
        })
        .await,
        [4]
    );
    let log = EventFilter {
        kind: Some(EventKind::Log),
        ..all.clone()
    };
    assert_eq!(
        list(EventFilter {
            limit: 2,
            ..log.clone()
        })
        .await,
        [4, 6]
    );
    assert_eq!(
        list(EventFilter {
            after: Some(EventId(2)),
            ..log
        })
        .await,
        [4, 6]
    );
    assert_eq!(list(EventFilter { limit: 0, ..all }).await, [] as [u64; 0]);
}

#[tokio::test]
async fn a_listener_hears_what_is_kept_once_it_can_be_read() {
    let registry = Registry::new();
    let mut listener = registry.subscribe();
    let device = seen(&registry, mac(1), None).await;
    let heard = listener.recv().await.unwrap();
    assert_eq!(
        (heard.kind, heard.device),
        (EventKind::Device, Some(device.id))
    );
    assert_eq!(
        registry.events(EventFilter::default()).await.unwrap(),
        [(*heard).clone()]
    );
    assert!(matches!(listener.try_recv(), Err(TryRecvError::Empty)));
}

#[tokio::test]
async fn what_did_not_happen_is_not_told() {
    let registry = Registry::new();
    let mut listener = registry.subscribe();
    assert!(registry.remove_device(DeviceId(1), at(1)).await.is_err());
    assert!(matches!(listener.try_recv(), Err(TryRecvError::Empty)));
}

#[tokio::test]
async fn what_is_published_is_not_kept() {
    let registry = Registry::new();
    let mut listener = registry.subscribe();
    let event = Event {
        id: EventId(0),
        at: at(1),
        kind: EventKind::Progress,
        device: None,
        session: None,
        task: None,
        image: None,
        text: "41 %".into(),
    };
    registry.publish(event.clone());
    assert_eq!(*listener.try_recv().unwrap(), event);
    let progress = NewEvent::new(EventKind::Progress, "42 %");
    let appended = registry.append_event(progress, at(2)).await.unwrap();
    assert_eq!(appended.id, EventId(0), "progress is never kept");
    assert_eq!(*listener.recv().await.unwrap(), appended);
    assert!(
        registry
            .events(EventFilter::default())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_slow_listener_is_told_how_much_it_missed() {
    let registry = Registry::new();
    let mut listener = registry.subscribe();
    let event = registry
        .append_event(NewEvent::new(EventKind::Log, "x"), at(1))
        .await
        .unwrap();
    for _ in 0..4096 {
        registry.publish(event.clone());
    }
    assert!(matches!(listener.try_recv(), Err(TryRecvError::Lagged(1))));
}
