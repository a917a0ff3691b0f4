//! Switching machines.

use super::order::devices;
use crate::error::ApiError;
use crate::extract::{Body, Params, Segment};
use crate::state::AppState;
use axum::Json;
use axum::body::Body as Stream;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugler_model::{Device, PowerRole, PowerState, Presence, Task, TaskAction, Timestamp};
use bugler_power::{Order, Power, PowerError, Secrets, What};
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::operator::{
    NewPowerOrder, NewTasks, PowerNote, PowerResult, PowerView, SecretText, SetPower,
};
use bytes::Bytes;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

/// Longest wait between two devices, in milliseconds.
const MOST_EVERY_MS: u64 = 3_600_000;
/// Most devices that are at work at once.
const MOST_AT_ONCE: u32 = 256;
/// How many are where nothing is said.
const AT_ONCE: u32 = 64;
/// Longest time for one device, in seconds.
const MOST_TIMEOUT_S: u32 = 3600;
/// How long one may take where nothing is said, in seconds.
const TIMEOUT_S: u32 = 120;
/// An agent that was heard this long ago runs, in milliseconds: three heartbeats.
const ALIVE_MS: i64 = 30_000;
/// A machine whose boot is under way and was heard this long ago will be in its agent soon.
const BOOTING_MS: i64 = 60_000;

fn power(state: &AppState) -> Result<&Arc<Power>, ApiError> {
    let missing = || ApiError::conflict("this server switches no machines".to_owned());
    state.info.power.as_ref().ok_or_else(missing)
}

/// Every device that something switches, by id: how, and whether it was on when it was last asked.
#[utoipa::path(
    get, path = "/power", operation_id = "list_power", tag = "power",
    responses((status = 200, body = Vec<PowerView>)),
)]
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
) -> Result<Json<Vec<PowerView>>, ApiError> {
    match &state.info.power {
        Some(power) => Ok(Json(power.views().await?)),
        None => Ok(Json(Vec::new())),
    }
}

/// How one device is switched, and whether it was on when it was last asked.
#[utoipa::path(
    get, path = "/devices/{device}/power", operation_id = "show_power", tag = "power",
    params(("device" = String, Path)),
    responses(
        (status = 200, body = PowerView),
        (status = 404, body = ErrorBody, description = "there is no such device"),
        (status = 409, body = ErrorBody, description = "several devices could be meant"),
    ),
)]
pub(super) async fn show(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
) -> Result<Json<PowerView>, ApiError> {
    let device = state.store.resolve_device(&text).await?;
    Ok(Json(power(&state)?.view(&device).await?))
}

/// Gives a device a driver, in the place of the one with the same role. Its secrets are kept encrypted
/// and never told again.
#[utoipa::path(
    put, path = "/devices/{device}/power", operation_id = "set_power", tag = "power",
    params(("device" = String, Path)),
    request_body = SetPower,
    responses(
        (status = 200, body = PowerView),
        (status = 400, body = ErrorBody, description = "it cannot be meant"),
        (status = 404, body = ErrorBody, description = "there is no such device"),
        (status = 409, body = ErrorBody, description = "several devices could be meant"),
    ),
)]
pub(super) async fn put(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
    Body(wanted): Body<SetPower>,
) -> Result<Json<PowerView>, ApiError> {
    let device = state.store.resolve_device(&text).await?;
    let power = power(&state)?;
    let plain = |secret: Option<SecretText>| secret.map(|secret| secret.0.into());
    let secrets = Secrets {
        password: plain(wanted.password),
        group_key: plain(wanted.group_key),
        token: plain(wanted.token),
        url: None,
    };
    power
        .set(&device, wanted.role, wanted.driver, secrets)
        .await?;
    Ok(Json(power.view(&device).await?))
}

/// Which driver.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// What it is for; `power` where it is not given.
    #[serde(default)]
    role: PowerRole,
}

/// Takes a driver from a device.
#[utoipa::path(
    delete, path = "/devices/{device}/power", operation_id = "remove_power", tag = "power",
    params(("device" = String, Path), Which),
    responses(
        (status = 204),
        (status = 404, body = ErrorBody, description = "there is no such device, or it has no such driver"),
        (status = 409, body = ErrorBody, description = "several devices could be meant"),
    ),
)]
pub(super) async fn remove(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
    Params(which): Params<Which>,
) -> Result<StatusCode, ApiError> {
    let device = state.store.resolve_device(&text).await?;
    power(&state)?.remove(&device, which.role).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Switches devices, asks whether they are on, or sets what they boot. One JSON document a line, as they
/// come in; who ends the connection gives up those that have not begun.
#[utoipa::path(
    post, path = "/power", operation_id = "order_power", tag = "power",
    request_body = NewPowerOrder,
    responses(
        (status = 200, content_type = "application/x-ndjson", body = PowerResult),
        (status = 400, body = ErrorBody, description = "no device is named, or nothing is to be done"),
        (status = 404, body = ErrorBody, description = "there is no such device, or none with this tag"),
        (status = 409, body = ErrorBody, description = "several devices could be meant"),
        (status = 503, body = ErrorBody, description = "too many orders run already"),
    ),
)]
pub(super) async fn order(
    State(state): State<Arc<AppState>>,
    Body(new): Body<NewPowerOrder>,
) -> Result<Response, ApiError> {
    let power = power(&state)?;
    let order = checked(&new)?;
    let devices = devices(&state, &new.devices, new.tag.as_deref()).await?;
    let results = power.order(devices, order)?;
    let lines = ReceiverStream::new(results).map(|result| {
        let mut line = serde_json::to_vec(&result).unwrap_or_default();
        line.push(b'\n');
        Ok::<Bytes, Infallible>(line.into())
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Stream::from_stream(lines)).into_response())
}

fn checked(new: &NewPowerOrder) -> Result<Order, ApiError> {
    let bad = |text: String| Err(ApiError::bad_request(text));
    if new.action.is_none() && new.boot.is_none() {
        return bad("say how to switch the devices, or what they are to boot".to_owned());
    }
    if new.every_ms > MOST_EVERY_MS {
        return bad(format!(
            "{} ms from one device to the next are too many: {MOST_EVERY_MS} are the most",
            new.every_ms
        ));
    }
    let at_once = new.at_once.unwrap_or(AT_ONCE);
    if !(1..=MOST_AT_ONCE).contains(&at_once) {
        return bad(format!("1 to {MOST_AT_ONCE} devices are at work at once"));
    }
    let timeout = new.timeout_s.unwrap_or(TIMEOUT_S);
    if !(1..=MOST_TIMEOUT_S).contains(&timeout) {
        return bad(format!("a device may take 1 to {MOST_TIMEOUT_S} seconds"));
    }
    Ok(Order {
        what: What {
            boot: new.boot,
            action: new.action,
            hard: new.hard,
        },
        every: Duration::from_millis(new.every_ms),
        at_once: usize::try_from(at_once).unwrap_or(usize::MAX),
        timeout: Duration::from_secs(u64::from(timeout)),
    })
}

/// Sees to it that devices get into the agent that their new tasks need, and says how.
pub(super) async fn into_agents(
    state: &AppState,
    new: &NewTasks,
    tasks: &[Task],
) -> Vec<PowerNote> {
    let mut notes = Vec::new();
    for task in tasks {
        let gently = match task.action {
            TaskAction::Deploy(_) | TaskAction::Wipe(_) => false,
            // What is not written yet is a part of the disk too.
            TaskAction::Capture(_) => true,
            // These are for agents that run.
            TaskAction::Reboot | TaskAction::PowerOff => continue,
        };
        let Ok(device) = state.store.device(task.device).await else {
            continue;
        };
        let is_off = match &state.info.power {
            Some(power) => power.last_state(device.id) == PowerState::Off,
            None => false,
        };
        if !is_off && is_coming(state, &device, state.now()) {
            continue;
        }
        let label = device.label();
        let note = |text, by_hand| PowerNote {
            device: device.id,
            label,
            text,
            by_hand,
        };
        notes.push(match way(state, &device).await {
            Ok(Some(text)) if new.leave_power => {
                note(format!("not done, as ordered: {text}"), true)
            }
            Ok(Some(text)) => {
                if let Some(power) = &state.info.power {
                    power.into_agent(device.clone(), gently);
                }
                note(text, false)
            }
            Ok(None) => note(Power::by_hand(&device), true),
            Err(error) => note(format!("{error}. {}", Power::by_hand(&device)), true),
        });
    }
    notes
}

async fn way(state: &AppState, device: &Device) -> Result<Option<String>, PowerError> {
    match &state.info.power {
        Some(power) => power.way_into_agent(device).await,
        None => Ok(None),
    }
}

/// Whether its agent runs, or will without anybody's help.
fn is_coming(state: &AppState, device: &Device, now: Timestamp) -> bool {
    let silent = now.millis_since(device.seen);
    match device.presence {
        Presence::Agent => silent <= ALIVE_MS,
        Presence::Booting => silent <= BOOTING_MS && state.store.open_session(device.id).is_some(),
        Presence::Local | Presence::Lost => false,
    }
}
