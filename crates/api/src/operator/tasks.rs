//! Tasks.

use super::order::{self, Planned};
use crate::error::ApiError;
use crate::extract::{Body, Params, Segment};
use crate::state::AppState;
use crate::token;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bugler_model::{EventKind, Image, NewTask, Task, TaskId};
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::operator::{CreatedTasks, NewTasks, TaskPlan, Verdict};
use bugler_store::TaskFilter;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use utoipa::IntoParams;

/// Most tasks in one answer.
const MAX_TASKS: usize = 1000;

/// Longest that a request waits for a change, in seconds.
const MAX_WAIT_S: u64 = 60;

/// Which tasks to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TaskQuery {
    /// Only this device's: its id, name, MAC address or UUID.
    device: Option<String>,
    /// Only those that have not ended.
    #[serde(default)]
    open: bool,
    /// At most this many; 200 where it is not given, 1,000 at most.
    limit: Option<usize>,
}

/// Tasks, latest first.
#[utoipa::path(
    get, path = "/tasks", operation_id = "list_tasks", tag = "tasks",
    params(TaskQuery),
    responses((status = 200, body = Vec<Task>), (status = 404, body = ErrorBody, description = "there is no such thing")),
)]
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    Params(query): Params<TaskQuery>,
) -> Result<Json<Vec<Task>>, ApiError> {
    let device = match &query.device {
        Some(text) => Some(state.store.resolve_device(text).await?.id),
        None => None,
    };
    let defaults = TaskFilter::default();
    let limit = query.limit.unwrap_or(defaults.limit).min(MAX_TASKS);
    let filter = TaskFilter {
        device,
        open_only: query.open,
        limit,
    };
    Ok(Json(state.store.tasks(filter).await?))
}

/// Makes the same task for several devices, all or none. Where a deploy, a wipe or a capture is for a
/// device whose agent does not run, and something switches it, it is switched into its agent.
#[utoipa::path(
    post, path = "/tasks", operation_id = "create_tasks", tag = "tasks",
    request_body = NewTasks,
    responses(
        (status = 201, body = CreatedTasks),
        (status = 400, body = ErrorBody, description = "no device is named, or a template is wrong"),
        (status = 404, body = ErrorBody, description = "no such device or image"),
        (status = 409, body = ErrorBody, description = "a device has an open task, a device is \
         ambiguous, the image is damaged, or no disk can hold it"),
    ),
)]
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    Body(new): Body<NewTasks>,
) -> Result<(StatusCode, Json<CreatedTasks>), ApiError> {
    let planned = order::plan(&state, &new).await?;
    let mut tasks = Vec::new();
    let mut skipped = Vec::new();
    let now = state.now();
    for planned in planned {
        let Planned {
            view,
            action,
            phone_home,
        } = planned?;
        // Before the task: its agent may be quicker than the next line.
        if let Some(token) = phone_home {
            let store = &state.store;
            store
                .expect_phone_home(view.device, token::hash(&token), now)
                .await?;
        }
        match action {
            Some(action) => tasks.push(NewTask {
                device: view.device,
                action,
            }),
            None => skipped.push(view),
        }
    }
    let tasks = state.store.create_tasks(tasks, now).await?;
    let power = super::power::into_agents(&state, &new, &tasks).await;
    Ok((
        StatusCode::CREATED,
        Json(CreatedTasks {
            tasks,
            skipped,
            power,
        }),
    ))
}

/// What would come of an order, for each device, and why. Nothing is made or changed.
#[utoipa::path(
    post, path = "/tasks/plan", operation_id = "plan_tasks", tag = "tasks",
    request_body = NewTasks,
    responses(
        (status = 200, body = TaskPlan),
        (status = 400, body = ErrorBody, description = "no device is named, or the order cannot be meant"),
        (status = 404, body = ErrorBody, description = "no such device or image"),
        (status = 409, body = ErrorBody, description = "a device is ambiguous, or the image is damaged"),
    ),
)]
pub(super) async fn plan(
    State(state): State<Arc<AppState>>,
    Body(new): Body<NewTasks>,
) -> Result<Json<TaskPlan>, ApiError> {
    let planned = order::plan(&state, &new).await?;
    let mut devices = Vec::new();
    for planned in planned {
        let mut view = match planned {
            Ok(planned) => planned.view,
            Err(refused) => refused.view(),
        };
        if view.verdict == Verdict::Do
            && let Some(task) = state.store.open_task(view.device).await?
        {
            view.verdict = Verdict::Refuse;
            view.why = format!(
                "it has an open task already, {}, which is {}",
                task.id, task.state
            );
        }
        devices.push(view);
    }
    Ok(Json(TaskPlan { devices }))
}

fn task_id(text: &str) -> Result<TaskId, ApiError> {
    text.parse()
        .map_err(|error| ApiError::not_found(format!("{error}")))
}

/// How to show a task.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// Answer when the task changes or has ended, at the latest after so many seconds; 0 to 60.
    #[serde(default)]
    wait: u64,
}

/// One task, now or when it changes.
#[utoipa::path(
    get, path = "/tasks/{task}", operation_id = "show_task", tag = "tasks",
    params(("task" = String, Path), Wait),
    responses((status = 200, body = Task), (status = 404, body = ErrorBody, description = "there is no such thing")),
)]
pub(super) async fn show(
    State(state): State<Arc<AppState>>,
    Segment(id): Segment,
    Params(Wait { wait }): Params<Wait>,
) -> Result<Json<Task>, ApiError> {
    let id = task_id(&id)?;
    // Listens before it looks: what changes after the look wakes it.
    let mut events = state.store.subscribe();
    let task = state.store.task(id).await?;
    if wait == 0 || !task.state.is_open() {
        return Ok(Json(task));
    }
    let deadline = tokio::time::sleep(Duration::from_secs(wait.min(MAX_WAIT_S)));
    tokio::pin!(deadline);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = &mut deadline => break,
            () = state.stop.cancelled() => break,
        };
        match event {
            Ok(event) => {
                let about = matches!(event.kind, EventKind::Task | EventKind::Progress);
                if about && event.task == Some(id) {
                    break;
                }
            }
            Err(RecvError::Lagged(_) | RecvError::Closed) => break,
        }
    }
    Ok(Json(state.store.task(id).await?))
}

/// The image that a capture has made.
#[utoipa::path(
    get, path = "/tasks/{task}/image", operation_id = "show_captured_image", tag = "tasks",
    params(("task" = String, Path)),
    responses(
        (status = 200, body = Image),
        (status = 404, body = ErrorBody, description = "there is no such task, or it has made no image"),
    ),
)]
pub(super) async fn image(
    State(state): State<Arc<AppState>>,
    Segment(id): Segment,
) -> Result<Json<Image>, ApiError> {
    let task = state.store.task(task_id(&id)?).await?;
    let image = state.store.captured(task.id).await?;
    image.map(Json).ok_or_else(|| {
        ApiError::not_found(format!(
            "{}, a {} that is {}, has made no image that is still there",
            task.id,
            task.action.word(),
            task.state
        ))
    })
}

/// Ends a task. Its agent stops at its next report and leaves the disk as it is.
#[utoipa::path(
    post, path = "/tasks/{task}/cancel", operation_id = "cancel_task", tag = "tasks",
    params(("task" = String, Path)),
    responses(
        (status = 200, body = Task),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 409, body = ErrorBody, description = "it has ended already"),
    ),
)]
pub(super) async fn cancel(
    State(state): State<Arc<AppState>>,
    Segment(id): Segment,
) -> Result<Json<Task>, ApiError> {
    let task = state
        .store
        .cancel_task(task_id(&id)?, "by an operator", state.now())
        .await?;
    Ok(Json(task))
}
