//! The page of diskless machines: what each runs from, and what it wrote.

use crate::pages::{Frame, Page, PageError, Server, render};
use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use bugler_api::{ApiError, AppState};
use bugler_model::text::{bytes, clean};
use bugler_protocol::operator::OverlayView;

#[derive(Template)]
#[template(path = "diskless.html")]
struct DisklessPage {
    frame: Frame,
    list: DisklessFragment,
}

#[derive(Template)]
#[template(path = "fragments/diskless.html")]
struct DisklessFragment {
    layers: Vec<LayerView>,
}

struct LayerView {
    id: String,
    device_id: String,
    device: String,
    image: String,
    over: String,
    kind: String,
    used: String,
    most: String,
    read: String,
    written: String,
    read_rate: String,
    write_rate: String,
    state: String,
    is_bad: bool,
}

impl LayerView {
    fn new(view: &OverlayView) -> Self {
        let export = &view.export;
        let state = match (&view.problem, view.clients.is_empty(), view.idle_s) {
            (Some(problem), ..) => clean(problem),
            (None, false, _) => "connected".to_owned(),
            (None, true, _) if !export.current => "kept from an earlier version".to_owned(),
            (None, true, None) => "not connected".to_owned(),
            (None, true, Some(idle)) => format!("gone for {idle} s"),
        };
        Self {
            id: export.id.to_string(),
            device_id: export.device.to_string(),
            device: clean(&view.device),
            image: clean(&export.label),
            over: export.over.to_string(),
            kind: export.overlay.to_string(),
            used: bytes(view.used),
            most: bytes(export.overlay_size),
            read: bytes(view.read),
            written: bytes(view.written),
            read_rate: bytes(view.read_rate),
            write_rate: bytes(view.write_rate),
            state,
            is_bad: view.problem.is_some(),
        }
    }
}

async fn list(state: &AppState) -> Result<DisklessFragment, PageError> {
    let views = match &state.info.overlays {
        Some(overlays) => overlays
            .list()
            .await
            .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?,
        None => Vec::new(),
    };
    Ok(DisklessFragment {
        layers: views.iter().map(LayerView::new).collect(),
    })
}

pub(crate) async fn page(State(state): Server) -> Page {
    render(&DisklessPage {
        frame: Frame::new("Diskless"),
        list: list(&state).await?,
    })
}

pub(crate) async fn fragment(State(state): Server) -> Page {
    render(&list(&state).await?)
}
