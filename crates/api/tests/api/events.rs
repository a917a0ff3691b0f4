//! Events, and following them.

use crate::lab::{Lab, mac, request};
use axum::body::{Body, BodyDataStream};
use axum::http::Method;
use bugler_model::{DeviceId, Event, EventId, EventKind, NewEvent};
use futures::StreamExt;
use tower::ServiceExt;

async fn say(lab: &Lab, text: &str, device: Option<DeviceId>) -> EventId {
    let mut event = NewEvent::new(EventKind::Server, text);
    event.device = device;
    lab.store()
        .append_event(event, lab.state.now())
        .await
        .unwrap()
        .id
}

/// An open stream of events.
struct Following {
    body: BodyDataStream,
    text: String,
}

impl Following {
    async fn new(lab: &Lab, query: &str, last: Option<EventId>) -> Self {
        let last = last.map(|id| id.to_string()).unwrap_or_default();
        let headers = if last.is_empty() {
            vec![]
        } else {
            vec![("last-event-id", last.as_str())]
        };
        let path = format!("/api/v1/events/stream{query}");
        let get = request(Method::GET, &path, &headers, Body::empty());
        let response = lab.operator.clone().oneshot(get).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    /// The next event, with its `id:` line where it has one.
    async fn next(&mut self) -> Option<(Event, Option<String>)> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(str::trim)
                };
                let Some(data) = field("data:") else { continue };
                let id = field("id:").map(str::to_owned);
                return Some((serde_json::from_str(data).unwrap(), id));
            }
            let bytes = self.body.next().await?.unwrap();
            self.text += std::str::from_utf8(&bytes).unwrap();
        }
    }

    async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.next().await.unwrap().0.text);
        }
        texts
    }
}

#[tokio::test]
async fn a_stream_gives_what_happens_from_now_on() {
    let lab = Lab::new().await;
    say(&lab, "before", None).await;
    let mut stream = Following::new(&lab, "", None).await;
    let id = say(&lab, "kept", None).await;
    let (event, line) = stream.next().await.unwrap();
    assert_eq!((event.text.as_str(), line), ("kept", Some(id.to_string())));
    let mut unkept = event.clone();
    (unkept.id, unkept.text) = (EventId(0), "fleeting".into());
    lab.store().publish(unkept);
    let (event, line) = stream.next().await.unwrap();
    assert_eq!((event.text.as_str(), line), ("fleeting", None));
    lab.stop.cancel();
    assert!(
        stream.next().await.is_none(),
        "the stream ends with the server"
    );
}

#[tokio::test]
async fn a_stream_resumes_without_a_gap_and_without_a_repetition() {
    let lab = Lab::new().await;
    let first = say(&lab, "1", None).await;
    let wanted: Vec<String> = (2..=1500).map(|n| n.to_string()).collect();
    // More than one look into the past takes, and some while the stream is already open.
    for text in &wanted[..1200] {
        say(&lab, text, None).await;
    }
    let mut stream = Following::new(&lab, "", Some(first)).await;
    let (saying, got) = tokio::join!(
        async {
            for text in &wanted[1200..] {
                say(&lab, text, None).await;
            }
        },
        stream.texts(wanted.len()),
    );
    let () = saying;
    assert_eq!(got, wanted);
    let mut from_query = Following::new(&lab, &format!("?after={first}"), None).await;
    assert_eq!(from_query.texts(3).await, wanted[..3]);
}

#[tokio::test]
async fn a_listener_that_falls_behind_catches_up_from_what_is_kept() {
    let lab = Lab::new().await;
    let mut stream = Following::new(&lab, "", None).await;
    let wanted: Vec<String> = (0..6000).map(|n| n.to_string()).collect();
    say(&lab, &wanted[0], None).await;
    assert_eq!(stream.texts(1).await, wanted[..1]);
    // Nobody reads the stream meanwhile: more happens than a listener may be behind.
    let mut saying = Vec::new();
    for text in &wanted[1..] {
        saying.push(say(&lab, text, None));
        if saying.len() == 200 {
            futures::future::join_all(saying.drain(..)).await;
        }
    }
    futures::future::join_all(saying).await;
    let mut got = stream.texts(wanted.len() - 1).await;
    let mut expected = wanted[1..].to_vec();
    // Those that were said together have no order among them.
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_stream_can_be_about_one_device_or_kind() {
    let lab = Lab::new().await;
    let (one, _, _) = lab.booting(mac(1)).await;
    let (two, _, _) = lab.booting(mac(2)).await;
    let start = say(&lab, "start", None).await;
    say(&lab, "of one", Some(one)).await;
    say(&lab, "of two", Some(two)).await;
    let query = format!("?device={two}");
    let mut stream = Following::new(&lab, &query, Some(start)).await;
    assert_eq!(stream.texts(1).await, ["of two"]);
    say(&lab, "of one again", Some(one)).await;
    say(&lab, "of two again", Some(two)).await;
    assert_eq!(stream.texts(1).await, ["of two again"]);
    let listed: Vec<Event> = lab
        .get(&format!("/api/v1/events{query}&kind=server"))
        .await
        .json();
    let texts: Vec<&str> = listed.iter().map(|event| event.text.as_str()).collect();
    assert_eq!(texts, ["of two", "of two again"]);
    let paged: Vec<Event> = lab
        .get(&format!("/api/v1/events?after={start}&limit=1"))
        .await
        .json();
    assert_eq!(paged[0].text, "of one");
    lab.get("/api/v1/events/stream?device=nobody")
        .await
        .error(404);
    lab.get("/api/v1/events?after=x").await.error(400);
}
