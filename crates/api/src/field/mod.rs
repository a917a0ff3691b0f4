//! The device API for shell clients: `curl` and `dd` in place of the agent.
//!
//! `docs/device-api.md` describes it for those who write such a client.

mod image;
pub(crate) mod input;
mod upload;

use crate::device::safe_line;
use crate::error::ApiError;
use crate::extract::{Peer, SmallBody};
use crate::state::AppState;
use axum::Json;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bugler_model::{
    Capture, Deploy, Device, DiskRule, EventKind, MacAddr, NewEvent, Presence, Task, TaskAction,
    TaskState,
};
use bugler_store::{Claim, Sighting, TaskReport};
use input::{FieldError, Fields};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub(crate) use image::Streaming;

pub(crate) fn router() -> Router<Arc<AppState>> {
    Router::new()
        .route("/api/register-device", post(register))
        .route("/api/device-action-poll", get(poll))
        .route("/api/action-done", post(done))
        .route("/api/images/{image}/raw", get(image::raw))
        .route("/api/uploads/{task}", put(upload::put).post(upload::put))
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        let example = "send for example mac=52:54:00:12:34:56&ip=10.0.0.7";
        Self::bad_request(format!("{error}; {example}"))
    }
}

/// An answer of plain fields: a JSON object, or `key=value` lines with `format=text`, which a
/// shell can read without help.
struct Answer(Vec<(&'static str, String)>);

impl Answer {
    fn render(self, query: &Fields) -> Response {
        if query.get(&["format"]) != Some("text") {
            let object = self
                .0
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.into()));
            return Json(serde_json::Value::Object(object.collect())).into_response();
        }
        let lines: String = self
            .0
            .into_iter()
            .map(|(key, value)| format!("{key}={}\n", safe_line(&value)))
            .collect();
        ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], lines).into_response()
    }
}

fn query_fields(RawQuery(query): RawQuery) -> Result<Fields, ApiError> {
    Ok(Fields::form(query.unwrap_or_default().as_bytes())?)
}

/// Whoever is known to have another interface speaks for that one only.
fn check_peer(state: &AppState, peer: SocketAddr, mac: MacAddr) -> Result<(), ApiError> {
    if state.boot.may_act_for(peer, mac) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        format!("{peer} asks on behalf of {mac}, which is not its interface"),
    ))
}

/// The device with this interface; recorded where it was not known.
async fn device(state: &AppState, mac: MacAddr) -> Result<(Arc<Device>, bool), ApiError> {
    if let Some(device) = state.store.find_client(mac, None) {
        return Ok((device, false));
    }
    let sighting = Sighting {
        mac,
        uuid: None,
        arch: None,
        firmware: None,
    };
    let observed = state.store.observe(sighting, state.now()).await?;
    Ok((observed.device, observed.new))
}

/// Reports a step of a task on the device's behalf.
async fn step(
    state: &AppState,
    task: &Task,
    to: TaskState,
    message: Option<String>,
) -> Result<Task, ApiError> {
    let report = TaskReport {
        device: task.device,
        task: task.id,
        state: to,
        progress: task.progress,
        message,
        disk: None,
    };
    Ok(state.store.report_task(report, state.now()).await?)
}

async fn register(
    State(state): State<Arc<AppState>>,
    Peer(peer): Peer,
    query: RawQuery,
    SmallBody(body): SmallBody,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let (mac, ip) = (fields.mac()?, fields.ip()?);
    check_peer(&state, peer, mac)?;
    let (device, new) = device(&state, mac).await?;
    let now = state.now();
    let from = match peer.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    };
    state.store.touch(device.id, ip.or(from), now);
    if new && let Some(hostname) = fields.get(&["hostname"]) {
        let text = safe_line(&format!("{mac} registered itself as {hostname:.64}"));
        let event = NewEvent::new(EventKind::Device, text).device(device.id);
        state.store.append_event(event, now).await?;
    }
    if matches!(device.presence, Presence::Booting | Presence::Lost) {
        state
            .store
            .set_presence(device.id, Presence::Local, now)
            .await?;
    }
    // A machine that was told to reboot and starts again has rebooted.
    if device.presence != Presence::Agent
        && let Some(task) = state.store.open_task(device.id).await?
        && task.action == TaskAction::Reboot
        && task.state != TaskState::Queued
    {
        finish(&state, task, true, None).await?;
    }
    Ok(Answer(vec![
        ("status", "ok".into()),
        ("device", device.id.to_string()),
        ("label", device.label()),
    ])
    .render(&query_fields(query)?))
}

async fn poll(
    State(state): State<Arc<AppState>>,
    Peer(peer): Peer,
    headers: HeaderMap,
    query: RawQuery,
) -> Result<Response, ApiError> {
    let fields = query_fields(query)?;
    let mac = fields.mac()?;
    check_peer(&state, peer, mac)?;
    let (device, _) = device(&state, mac).await?;
    state.store.touch(device.id, None, state.now());
    let answer = match next_action(&state, &device).await? {
        Some(task) => action(&state, &headers, &task).await?,
        None => Answer(vec![("action", "none".into())]),
    };
    Ok(answer.render(&fields))
}

/// The task that a shell client is to do now.
async fn next_action(state: &AppState, device: &Device) -> Result<Option<Task>, ApiError> {
    // A running agent does the device's tasks itself.
    if device.presence == Presence::Agent {
        return Ok(None);
    }
    let Some(task) = state.store.open_task(device.id).await? else {
        return Ok(None);
    };
    // A client that polls while it writes is not to begin again.
    let is_ours = matches!(
        task.action,
        TaskAction::Deploy(_) | TaskAction::Capture(_) | TaskAction::Reboot
    );
    if !is_ours || state.streaming.is_open(task.id) {
        return Ok(None);
    }
    // One that was handed out already is handed out again: the client may have started anew.
    if task.state != TaskState::Queued {
        return Ok(Some(task));
    }
    let claim = state
        .store
        .claim_in_turn(device.id, state.at_once, state.now());
    Ok(match claim.await? {
        Claim::Task(task) => Some(*task),
        Claim::NotYet(_) | Claim::Nothing => None,
    })
}

async fn action(state: &AppState, headers: &HeaderMap, task: &Task) -> Result<Answer, ApiError> {
    let mut answer = match &task.action {
        TaskAction::Wipe(_) | TaskAction::PowerOff => {
            return Ok(Answer(vec![("action", "none".into())]));
        }
        TaskAction::Capture(capture) => capture_fields(state, headers, task, capture)?,
        TaskAction::Reboot => vec![("action", "reboot".into())],
        TaskAction::Deploy(deploy) => deploy_fields(state, headers, task, deploy).await?,
    };
    answer.push(("task", task.id.to_string()));
    Ok(Answer(answer))
}

async fn deploy_fields(
    state: &AppState,
    headers: &HeaderMap,
    task: &Task,
    deploy: &Deploy,
) -> Result<Vec<(&'static str, String)>, ApiError> {
    let host = host(headers)?;
    let image = state.store.image(&deploy.image.to_string()).await?;
    let token = state.task_tokens.make(task.id, task.device);
    let mut fields = vec![
        ("action", "deploy".into()),
        (
            "url",
            format!(
                "http://{host}/api/images/{}/raw?token={token}",
                deploy.image
            ),
        ),
        ("image", deploy.image_name.to_string()),
        ("size", image.size.to_string()),
    ];
    if let DiskRule::Named(disk) = &deploy.disk {
        fields.push(("disk", disk.clone()));
    }
    Ok(fields)
}

fn capture_fields(
    state: &AppState,
    headers: &HeaderMap,
    task: &Task,
    capture: &Capture,
) -> Result<Vec<(&'static str, String)>, ApiError> {
    let host = host(headers)?;
    let token = state.task_tokens.make(task.id, task.device);
    let mut fields = vec![
        ("action", "capture".into()),
        (
            "upload_url",
            format!("http://{host}/api/uploads/{}?token={token}", task.id),
        ),
        ("image", capture.image_name.to_string()),
    ];
    if let DiskRule::Named(disk) = &capture.disk {
        fields.push(("disk", disk.clone()));
    }
    if let Some(partition) = capture.partition {
        fields.push(("partition", partition.to_string()));
    }
    Ok(fields)
}

/// How the client calls this server: its `Host` header, where that is safe in a URL.
fn host(headers: &HeaderMap) -> Result<&str, ApiError> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let safe = |host: &&str| {
        (1..=255).contains(&host.len())
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
    };
    host.filter(safe).ok_or_else(|| {
        ApiError::bad_request(
            "the request does not say in its Host header how it reached this server",
        )
    })
}

async fn done(
    State(state): State<Arc<AppState>>,
    Peer(peer): Peer,
    query: RawQuery,
    SmallBody(body): SmallBody,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let mac = fields.mac()?;
    let succeeded = fields.succeeded()?;
    check_peer(&state, peer, mac)?;
    let Some(device) = state.store.find_client(mac, None) else {
        return Err(ApiError::not_found(format!(
            "no device with the interface {mac} is known: POST /api/register-device first"
        )));
    };
    state.store.touch(device.id, None, state.now());
    if device.presence == Presence::Agent {
        return Err(ApiError::conflict(format!(
            "{} runs an agent, which reports for itself",
            device.label()
        )));
    }
    let mut answer = vec![("status", "ok".to_owned())];
    // No open task: the answer to an earlier, equal request was lost, or an operator cancelled.
    if let Some(task) = state.store.open_task(device.id).await? {
        if task.state == TaskState::Queued {
            return Err(ApiError::conflict(format!(
                "{} has not been handed out yet: GET /api/device-action-poll first",
                task.id
            )));
        }
        if succeeded && let Some(why) = lacking(&state, &task).await? {
            step(&state, &task, TaskState::Failed, Some(why.clone())).await?;
            return Err(ApiError::conflict(why));
        }
        let message = fields.get(&["message", "error"]).map(safe_line);
        let task = finish(&state, task, succeeded, message).await?;
        answer.push(("task", task.id.to_string()));
        answer.push(("state", task.state.to_string()));
    }
    Ok(Answer(answer).render(&query_fields(query)?))
}

/// What speaks against it that a task is done: an image cannot be on a disk that has not been sent
/// all of it, nor can one have been taken of which nothing came.
async fn lacking(state: &AppState, task: &Task) -> Result<Option<String>, ApiError> {
    let deploy = match &task.action {
        TaskAction::Deploy(deploy) => deploy,
        TaskAction::Capture(capture) => {
            let taken = state.store.captured(task.id).await?;
            return Ok(taken.is_none().then(|| {
                format!(
                    "nothing that is whole was uploaded for image {}: order the capture again, and \
                     report `ok` when the upload was answered with 201",
                    capture.image_name
                )
            }));
        }
        TaskAction::Wipe(_) | TaskAction::Reboot | TaskAction::PowerOff => return Ok(None),
    };
    let size = state.store.image(&deploy.image.to_string()).await?.size;
    let sent = task.progress.done;
    Ok((sent < size).then(|| {
        format!(
            "only {sent} of {size} bytes were fetched of image {}: the disk is not written; order \
             the deploy again, and report `ok` when all of the image is on the disk",
            deploy.image_name
        )
    }))
}

/// Takes a task through the rest of its states.
async fn finish(
    state: &AppState,
    task: Task,
    succeeded: bool,
    message: Option<String>,
) -> Result<Task, ApiError> {
    if !succeeded {
        let message = message.unwrap_or_else(|| "the device reported an error".into());
        return step(state, &task, TaskState::Failed, Some(message)).await;
    }
    let running = match task.state {
        TaskState::Claimed => step(state, &task, TaskState::Running, None).await?,
        _ => task,
    };
    step(state, &running, TaskState::Done, None).await
}
