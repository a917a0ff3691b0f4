//! Pages and their fragments.

use crate::boots::BootView;
use crate::view::{
    DeviceView, DiskView, EventView, Fact, ImageView, Labels, NicView, PowerBox, TaskView, facts,
    label,
};
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use bugler_api::{ApiError, AppState};
use bugler_model::text::clean;
use bugler_model::{Device, DeviceId, Event, EventKind, Image, ProfileName};
use bugler_protocol::operator::{PlanGoal, PlanView};
use bugler_store::{EventFilter, TaskFilter};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

/// Tasks and events on the pages that list them.
const LISTED: usize = 200;

/// Ended tasks, boots and events on the page of a device.
const RECENT: usize = 5;
const RECENT_EVENTS: usize = 60;

pub(crate) type Server = State<Arc<AppState>>;

/// A page that could not be made.
pub(crate) struct PageError(ApiError);

impl<E: Into<ApiError>> From<E> for PageError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let status = self.0.status();
        let page = ErrorPage {
            frame: Frame::new("Error"),
            text: clean(&self.0.to_string()),
        };
        let html = page
            .render()
            .unwrap_or_else(|error| format!("no page: {error}"));
        (status, Html(html)).into_response()
    }
}

pub(crate) type Page = Result<Html<String>, PageError>;

pub(crate) fn render(template: &impl Template) -> Page {
    template.render().map(Html).map_err(|error| {
        tracing::error!("a page could not be rendered: {error}");
        PageError(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
        ))
    })
}

/// What stands around every page.
pub(crate) struct Frame {
    pub(crate) title: String,
    pub(crate) version: &'static str,
}

impl Frame {
    pub(crate) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    frame: Frame,
    text: String,
}

pub(crate) async fn nothing_here(uri: Uri) -> PageError {
    let text = format!("there is no page {}", uri.path());
    PageError(ApiError::new(StatusCode::NOT_FOUND, text))
}

async fn labels(state: &AppState) -> Result<Labels, PageError> {
    let devices = state.store.devices().await?;
    Ok(devices
        .iter()
        .map(|device| (device.id, label(device)))
        .collect())
}

// ---- devices ---------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "devices.html")]
struct DevicesPage {
    frame: Frame,
    list: DevicesFragment,
}

#[derive(Template)]
#[template(path = "fragments/devices.html")]
struct DevicesFragment {
    devices: Vec<DeviceView>,
}

/// What is known of the power of each device that something switches.
async fn powers(state: &AppState) -> Result<HashMap<DeviceId, PowerBox>, PageError> {
    let Some(power) = &state.info.power else {
        return Ok(HashMap::new());
    };
    let views = power.views().await?;
    Ok(views
        .iter()
        .filter_map(|view| Some((view.device, PowerBox::new(view)?)))
        .collect())
}

async fn device_list(state: &AppState) -> Result<DevicesFragment, PageError> {
    let now = state.now();
    let devices = state.store.devices().await?;
    let labels: Labels = devices
        .iter()
        .map(|device| (device.id, label(device)))
        .collect();
    // A device has one open task at most.
    let filter = TaskFilter {
        open_only: true,
        limit: devices.len(),
        ..TaskFilter::default()
    };
    let tasks = state.store.tasks(filter).await?;
    let mut power = powers(state).await?;
    let mut open: HashMap<_, _> = tasks
        .iter()
        .map(|task| (task.device, TaskView::new(task, &labels, now)))
        .collect();
    let devices = devices
        .iter()
        .map(|device| {
            DeviceView::new(device, open.remove(&device.id), now)
                .with_power(power.remove(&device.id))
        })
        .collect();
    Ok(DevicesFragment { devices })
}

pub(crate) async fn devices(State(state): Server) -> Page {
    render(&DevicesPage {
        frame: Frame::new("Devices"),
        list: device_list(&state).await?,
    })
}

pub(crate) async fn devices_fragment(State(state): Server) -> Page {
    render(&device_list(&state).await?)
}

// ---- one device ------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "device.html")]
struct DevicePage {
    frame: Frame,
    device: DeviceView,
    disks: Vec<DiskView>,
    images: Vec<ImageView>,
    /// Each name of an image once.
    image_names: Vec<String>,
    /// The names of all profiles.
    profiles: Vec<String>,
    parts: DeviceFragment,
}

#[derive(Template)]
#[template(path = "fragments/device.html")]
struct DeviceFragment {
    device: DeviceView,
    /// What it would boot now, and why.
    plan: Option<(String, String)>,
    facts: Vec<Fact>,
    disks: Vec<DiskView>,
    nics: Vec<NicView>,
    tasks: Vec<TaskView>,
    boots: Vec<BootView>,
    events: Vec<EventView>,
}

fn disks(device: &Device) -> Vec<DiskView> {
    device
        .inventory
        .iter()
        .flat_map(|inventory| &inventory.disks)
        .map(DiskView::new)
        .collect()
}

/// What a plan comes to, and why.
fn would_boot(plan: &PlanView) -> (String, String) {
    let what = match (plan.goal, &plan.profile) {
        (PlanGoal::None, _) => "nothing".to_owned(),
        (PlanGoal::Local, _) => "its local disk".to_owned(),
        (PlanGoal::Agent, _) => "the agent".to_owned(),
        (PlanGoal::Profile, Some(profile)) => format!("the profile {profile}"),
        (PlanGoal::Profile, None) => "what its profile says".to_owned(),
    };
    (what, clean(&plan.why))
}

/// The names of all profiles, first of those that are always there.
fn profiles(state: &AppState) -> Vec<String> {
    let always = [ProfileName::agent(), ProfileName::local()];
    let policy = state.store.boot_policy();
    let own = policy.profiles.iter().map(|profile| &profile.name);
    always.iter().chain(own).map(ToString::to_string).collect()
}

async fn device_parts(state: &AppState, device: &Device) -> Result<DeviceFragment, PageError> {
    let now = state.now();
    let labels = Labels::from([(device.id, label(device))]);
    let filter = TaskFilter {
        device: Some(device.id),
        limit: RECENT,
        ..TaskFilter::default()
    };
    let tasks = state.store.tasks(filter).await?;
    let boots = state.store.sessions(device.id, RECENT).await?;
    let filter = EventFilter {
        device: Some(device.id),
        limit: RECENT_EVENTS,
        ..EventFilter::default()
    };
    let events = state.store.events(filter).await?;
    let nics = device
        .inventory
        .iter()
        .flat_map(|inventory| &inventory.nics);
    let power = match &state.info.power {
        Some(power) => PowerBox::new(&power.view(device).await?),
        None => None,
    };
    Ok(DeviceFragment {
        device: DeviceView::new(device, None, now).with_power(power),
        plan: state.boot.explain(device).map(|plan| would_boot(&plan)),
        facts: facts(device),
        disks: disks(device),
        nics: nics.map(NicView::new).collect(),
        tasks: tasks
            .iter()
            .map(|task| TaskView::new(task, &labels, now))
            .collect(),
        boots: boots.iter().map(|boot| BootView::new(boot, now)).collect(),
        events: latest_first(&events, &labels, state),
    })
}

fn latest_first(events: &[Event], labels: &Labels, state: &AppState) -> Vec<EventView> {
    let now = state.now();
    events
        .iter()
        .rev()
        .map(|event| EventView::new(event, labels, now))
        .collect()
}

pub(crate) async fn device(State(state): Server, Path(text): Path<String>) -> Page {
    let device = state.store.resolve_device(&text).await?;
    let now = state.now();
    let images = state.store.images().await?;
    render(&DevicePage {
        frame: Frame::new(&label(&device)),
        device: DeviceView::new(&device, None, now),
        disks: disks(&device),
        image_names: image_names(&images),
        images: images
            .iter()
            .map(|image| ImageView::new(image, now))
            .collect(),
        profiles: profiles(&state),
        parts: device_parts(&state, &device).await?,
    })
}

/// Each name once; they come in order.
fn image_names(images: &[Image]) -> Vec<String> {
    let mut names: Vec<_> = images.iter().map(|image| image.name.to_string()).collect();
    names.dedup();
    names
}

pub(crate) async fn device_fragment(State(state): Server, Path(text): Path<String>) -> Page {
    let device = state.store.resolve_device(&text).await?;
    render(&device_parts(&state, &device).await?)
}

// ---- images ----------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "images.html")]
struct ImagesPage {
    frame: Frame,
    list: ImagesFragment,
}

#[derive(Template)]
#[template(path = "fragments/images.html")]
struct ImagesFragment {
    images: Vec<ImageView>,
}

async fn image_list(state: &AppState) -> Result<ImagesFragment, PageError> {
    let now = state.now();
    let images = state.store.images().await?;
    Ok(ImagesFragment {
        images: images
            .iter()
            .map(|image| ImageView::new(image, now))
            .collect(),
    })
}

pub(crate) async fn images(State(state): Server) -> Page {
    render(&ImagesPage {
        frame: Frame::new("Images"),
        list: image_list(&state).await?,
    })
}

pub(crate) async fn images_fragment(State(state): Server) -> Page {
    render(&image_list(&state).await?)
}

// ---- tasks -----------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "tasks.html")]
struct TasksPage {
    frame: Frame,
    list: TasksFragment,
}

#[derive(Template)]
#[template(path = "fragments/tasks.html")]
struct TasksFragment {
    tasks: Vec<TaskView>,
}

async fn task_list(state: &AppState) -> Result<TasksFragment, PageError> {
    let labels = labels(state).await?;
    let filter = TaskFilter {
        limit: LISTED,
        ..TaskFilter::default()
    };
    let tasks = state.store.tasks(filter).await?;
    let now = state.now();
    Ok(TasksFragment {
        tasks: tasks
            .iter()
            .map(|task| TaskView::new(task, &labels, now))
            .collect(),
    })
}

pub(crate) async fn tasks(State(state): Server) -> Page {
    render(&TasksPage {
        frame: Frame::new("Tasks"),
        list: task_list(&state).await?,
    })
}

pub(crate) async fn tasks_fragment(State(state): Server) -> Page {
    render(&task_list(&state).await?)
}

// ---- events ----------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    frame: Frame,
    services: Vec<String>,
    kinds: Vec<KindView>,
    /// The fragment's own path.
    source: String,
    list: EventsFragment,
}

struct KindView {
    word: &'static str,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "fragments/events.html")]
struct EventsFragment {
    events: Vec<EventView>,
}

#[derive(Deserialize)]
pub(crate) struct EventQuery {
    kind: Option<EventKind>,
}

/// Every kind that is kept.
const KINDS: [(&str, EventKind); 8] = [
    ("device", EventKind::Device),
    ("boot", EventKind::Boot),
    ("task", EventKind::Task),
    ("image", EventKind::Image),
    ("lease", EventKind::Lease),
    ("log", EventKind::Log),
    ("power", EventKind::Power),
    ("server", EventKind::Server),
];

async fn event_list(
    state: &AppState,
    kind: Option<EventKind>,
) -> Result<EventsFragment, PageError> {
    let labels = labels(state).await?;
    let filter = EventFilter {
        kind,
        limit: LISTED,
        ..EventFilter::default()
    };
    let events = state.store.events(filter).await?;
    Ok(EventsFragment {
        events: latest_first(&events, &labels, state),
    })
}

pub(crate) async fn events(State(state): Server, Query(query): Query<EventQuery>) -> Page {
    let services = state
        .info
        .services
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let chosen = KINDS.iter().find(|(_, kind)| Some(*kind) == query.kind);
    let query_text = chosen
        .map(|(word, _)| format!("?kind={word}"))
        .unwrap_or_default();
    render(&EventsPage {
        frame: Frame::new("Events"),
        services,
        kinds: KINDS
            .iter()
            .map(|(word, kind)| KindView {
                word,
                chosen: Some(*kind) == query.kind,
            })
            .collect(),
        source: format!("/fragments/events{query_text}"),
        list: event_list(&state, query.kind).await?,
    })
}

pub(crate) async fn events_fragment(State(state): Server, Query(query): Query<EventQuery>) -> Page {
    render(&event_list(&state, query.kind).await?)
}
