//! Events: those that are kept, and those that happen now.

use crate::error::ApiError;
use crate::extract::Params;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use bugler_model::{DeviceId, Event, EventId, EventKind};
use bugler_protocol::agent::ErrorBody;
use bugler_store::EventFilter;
use futures::Stream;
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use utoipa::IntoParams;

/// Most events in one answer, and in one look into the past.
const MAX_EVENTS: usize = 1000;

/// Which events to give.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventQuery {
    /// Only this device's: its id, name, MAC address or UUID.
    device: Option<String>,
    /// Only of this kind.
    kind: Option<EventKind>,
    /// Only those after this one, such as `e12`: then the earliest `limit` of them.
    after: Option<EventId>,
    /// At most this many; 200 where it is not given, 1,000 at most.
    limit: Option<usize>,
}

async fn filter(state: &AppState, query: &EventQuery) -> Result<EventFilter, ApiError> {
    let device = match &query.device {
        Some(text) => Some(state.store.resolve_device(text).await?.id),
        None => None,
    };
    let limit = query
        .limit
        .unwrap_or(EventFilter::default().limit)
        .min(MAX_EVENTS);
    Ok(EventFilter {
        device,
        kind: query.kind,
        after: query.after,
        limit,
    })
}

/// Kept events, oldest first: the latest ones, or those after a given one.
#[utoipa::path(
    get, path = "/events", operation_id = "list_events", tag = "events",
    params(EventQuery),
    responses((status = 200, body = Vec<Event>), (status = 404, body = ErrorBody, description = "there is no such thing")),
)]
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    Params(query): Params<EventQuery>,
) -> Result<Json<Vec<Event>>, ApiError> {
    let filter = filter(&state, &query).await?;
    Ok(Json(state.store.events(filter).await?))
}

/// Which events to follow.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamQuery {
    /// Only this device's: its id, name, MAC address or UUID.
    device: Option<String>,
    /// Only of this kind.
    kind: Option<EventKind>,
    /// Begin with the kept ones after this one, such as `e12`; the header `Last-Event-ID` says the
    /// same, and wins.
    after: Option<EventId>,
}

/// Events as they happen, as Server-Sent Events: each one's data is an event in JSON. Events that
/// are kept carry their id, so that a client that reconnects with `Last-Event-ID` misses none and
/// gets none twice.
#[utoipa::path(
    get, path = "/events/stream", operation_id = "follow_events", tag = "events",
    params(StreamQuery),
    responses(
        (status = 200, content_type = "text/event-stream", body = Event),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 503, body = ErrorBody, description = "too many such streams are open"),
    ),
)]
pub(super) async fn stream(
    State(state): State<Arc<AppState>>,
    Params(query): Params<StreamQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, ApiError> {
    let place = state.streams.clone().try_acquire_owned().map_err(|_| {
        ApiError::busy("too many event streams are open already: close one, then try again")
    })?;
    let device = match &query.device {
        Some(text) => Some(state.store.resolve_device(text).await?.id),
        None => None,
    };
    let resume = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok());
    let after = resume.and_then(|text| text.parse().ok()).or(query.after);
    // Listens before it looks into the past: nothing falls between.
    let events = state.store.subscribe();
    let follow = Follow {
        behind: after.is_some(),
        last: after.unwrap_or(EventId(0)),
        state,
        events,
        device,
        kind: query.kind,
        queue: VecDeque::new(),
        _place: place,
    };
    let stream = futures::stream::unfold(follow, |mut follow| async move {
        let event = follow.next().await?;
        Some((Ok(sse(&event)), follow))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

fn sse(event: &Event) -> SseEvent {
    // An event is plain data: it always becomes JSON.
    let data = serde_json::to_string(event).unwrap_or_default();
    let sse = SseEvent::default().data(data);
    if event.id == EventId(0) {
        sse
    } else {
        sse.id(event.id.to_string())
    }
}

/// One listener.
struct Follow {
    state: Arc<AppState>,
    events: Receiver<Arc<Event>>,
    device: Option<DeviceId>,
    kind: Option<EventKind>,
    /// The latest kept event that was given or passed over.
    last: EventId,
    /// Whether kept events after `last` are to be read from the registry first.
    behind: bool,
    /// Read, and to be given next.
    queue: VecDeque<Event>,
    _place: OwnedSemaphorePermit,
}

impl Follow {
    /// The next event; `None` at the end of the stream. The client then connects again.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.behind {
                self.catch_up().await?;
                continue;
            }
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = self.state.stop.cancelled() => return None,
            };
            match event {
                Ok(event) => {
                    let kept = event.id != EventId(0);
                    if kept && event.id <= self.last {
                        continue;
                    }
                    self.last = self.last.max(event.id);
                    let wanted = self.device.is_none_or(|id| event.device == Some(id))
                        && self.kind.is_none_or(|kind| event.kind == kind);
                    if wanted {
                        return Some(Event::clone(&event));
                    }
                }
                // The ones that were missed and are kept can be read. Where none was seen yet,
                // nobody can say from where on: the client begins anew.
                Err(RecvError::Lagged(_)) if self.last == EventId(0) => return None,
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Reads the next kept events after `last`.
    async fn catch_up(&mut self) -> Option<()> {
        let filter = EventFilter {
            device: self.device,
            kind: self.kind,
            after: Some(self.last),
            limit: MAX_EVENTS,
        };
        match self.state.store.events(filter).await {
            Ok(events) => {
                self.behind = events.len() == MAX_EVENTS;
                if let Some(latest) = events.last() {
                    self.last = self.last.max(latest.id);
                }
                self.queue = events.into();
                Some(())
            }
            Err(error) => {
                tracing::warn!("an event stream ends: {error}");
                None
            }
        }
    }
}
