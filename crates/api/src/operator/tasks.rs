//! Tasks.

use crate::error::ApiError;
use crate::extract::{Body, Params, Segment};
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bugler_model::{
    Deploy, Device, Disk, DiskRule, EventKind, Image, ImageState, NewTask, Task, TaskAction, TaskId,
};
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::operator::{CreatedTasks, NewTasks, Order};
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

/// Makes the same task for several devices, all or none.
#[utoipa::path(
    post, path = "/tasks", operation_id = "create_tasks", tag = "tasks",
    request_body = NewTasks,
    responses(
        (status = 201, body = CreatedTasks),
        (status = 400, body = ErrorBody, description = "no device is named"),
        (status = 404, body = ErrorBody, description = "no such device or image"),
        (status = 409, body = ErrorBody, description = "a device has an open task, a device is \
         ambiguous, the image is damaged, or no disk can hold it"),
    ),
)]
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    Body(new): Body<NewTasks>,
) -> Result<(StatusCode, Json<CreatedTasks>), ApiError> {
    let mut devices: Vec<Arc<Device>> = Vec::new();
    for text in &new.devices {
        devices.push(state.store.resolve_device(text).await?);
    }
    if let Some(tag) = &new.tag {
        let all = state.store.devices().await?;
        let tagged = all.into_iter().filter(|device| device.tags.contains(tag));
        let before = devices.len();
        devices.extend(tagged);
        if devices.len() == before {
            return Err(ApiError::not_found(format!(
                "no device has the tag {tag:?}"
            )));
        }
    }
    devices.sort_by_key(|device| device.id);
    devices.dedup_by_key(|device| device.id);
    if devices.is_empty() {
        return Err(ApiError::bad_request("name at least one device, or a tag"));
    }
    let action = match new.action {
        Order::Deploy {
            image,
            disk,
            verify,
        } => {
            let image = state.store.image(&image).await?;
            if image.state == ImageState::Damaged {
                return Err(ApiError::conflict(format!(
                    "image {} is damaged in the store: remove it and add it again",
                    image.name
                )));
            }
            for device in &devices {
                check_disks(device, &image, &disk)?;
            }
            TaskAction::Deploy(Deploy {
                image: image.id,
                image_name: image.name,
                manifest: image.manifest,
                disk,
                verify,
            })
        }
        Order::Reboot {} => TaskAction::Reboot,
        Order::PowerOff {} => TaskAction::PowerOff,
    };
    let tasks = devices
        .iter()
        .map(|device| NewTask {
            device: device.id,
            action: action.clone(),
        })
        .collect();
    let tasks = state.store.create_tasks(tasks, state.now()).await?;
    Ok((StatusCode::CREATED, Json(CreatedTasks { tasks })))
}

/// Refuses a deploy that cannot succeed on the disks that the device's agent last reported. The
/// agent looks again before it writes: what passes here may still be refused there.
fn check_disks(device: &Device, image: &Image, rule: &DiskRule) -> Result<(), ApiError> {
    let Some(inventory) = &device.inventory else {
        return Ok(());
    };
    let meant = |disk: &&Disk| match rule {
        DiskRule::Auto => !disk.removable,
        DiskRule::Named(name) => {
            disk.path == *name
                || disk.serial.as_ref() == Some(name)
                || disk.model.as_ref() == Some(name)
        }
    };
    let fits = |disk: &&Disk| {
        !disk.read_only && disk.size >= image.size && disk.sector_size == image.sector_size
    };
    let candidates: Vec<&Disk> = inventory.disks.iter().filter(meant).collect();
    // A named disk that was not there at the last boot may have been put in since.
    let unknown = matches!(rule, DiskRule::Named(_)) && candidates.is_empty();
    if unknown || candidates.iter().any(fits) {
        return Ok(());
    }
    let found = match candidates.as_slice() {
        [] => "has no fixed disk".to_owned(),
        disks => {
            let each = disks.iter().map(|disk| {
                let read_only = if disk.read_only { ", read-only" } else { "" };
                format!(
                    "{}: {} bytes, {} B sectors{read_only}",
                    disk.path, disk.size, disk.sector_size
                )
            });
            format!("has {}", each.collect::<Vec<_>>().join("; "))
        }
    };
    Err(ApiError::conflict(format!(
        "image {} needs a disk of at least {} bytes with {} B sectors; {} {found}: choose another \
         image or disk",
        image.name,
        image.size,
        image.sector_size,
        device.label()
    )))
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

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::{ImageId, Inventory, Netboot, Presence, Profile, Timestamp};

    fn image(size: u64) -> Image {
        Image {
            id: ImageId(1),
            name: "debian".parse().unwrap(),
            manifest: String::new(),
            size,
            used: 0,
            stored: 0,
            sector_size: 512,
            state: ImageState::Good,
            created: Timestamp(0),
        }
    }

    fn device(disks: Option<Vec<Disk>>) -> Device {
        Device {
            id: bugler_model::DeviceId(1),
            name: None,
            tags: vec![],
            uuid: None,
            macs: vec![],
            arch: None,
            firmware: None,
            netboot: Netboot::On,
            profile: Profile::Agent,
            presence: Presence::Agent,
            address: None,
            inventory: disks.map(|disks| Inventory {
                disks,
                ..Inventory::default()
            }),
            created: Timestamp(0),
            seen: Timestamp(0),
            open_tasks: 0,
        }
    }

    fn disk(path: &str, size: u64) -> Disk {
        Disk {
            path: path.into(),
            size,
            sector_size: 512,
            ..Disk::default()
        }
    }

    fn error(disks: Vec<Disk>, rule: DiskRule) -> String {
        check_disks(&device(Some(disks)), &image(1000), &rule)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_deploy_that_fits_no_disk_is_refused_with_the_numbers() {
        let small = error(
            vec![disk("/dev/sda", 999), disk("/dev/sdb", 10)],
            DiskRule::Auto,
        );
        assert!(
            small.contains("at least 1000 bytes") && small.contains("/dev/sda: 999"),
            "{small}"
        );
        assert!(error(vec![], DiskRule::Auto).contains("no fixed disk"));
        let usb = Disk {
            removable: true,
            ..disk("/dev/sdc", 5000)
        };
        assert!(error(vec![usb.clone()], DiskRule::Auto).contains("no fixed disk"));
        let named = DiskRule::Named("/dev/sda".into());
        let text = error(vec![disk("/dev/sda", 999), disk("/dev/sdb", 5000)], named);
        assert!(!text.contains("sdb"), "{text}");
        let other = Disk {
            sector_size: 4096,
            ..disk("/dev/sda", 5000)
        };
        assert!(error(vec![other], DiskRule::Auto).contains("4096 B sectors"));
        let read_only = Disk {
            read_only: true,
            ..disk("/dev/sda", 5000)
        };
        assert!(error(vec![read_only], DiskRule::Auto).contains("read-only"));
    }

    #[test]
    fn what_may_fit_is_left_to_the_agent() {
        let check = |disks, rule| check_disks(&device(disks), &image(1000), &rule);
        check(None, DiskRule::Auto).unwrap();
        check(
            Some(vec![disk("/dev/sda", 1), disk("/dev/sdb", 1000)]),
            DiskRule::Auto,
        )
        .unwrap();
        check(
            Some(vec![disk("/dev/sda", 1)]),
            DiskRule::Named("/dev/sdz".into()),
        )
        .unwrap();
        let usb = Disk {
            removable: true,
            ..disk("/dev/sdc", 5000)
        };
        check(Some(vec![usb]), DiskRule::Named("/dev/sdc".into())).unwrap();
    }
}
