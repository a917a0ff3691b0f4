//! What the agent says and asks. See [`bugler_protocol::agent`] for the protocol.

use super::inventory::tidy;
use super::log::{Verdict, safe_line};
use crate::error::ApiError;
use crate::extract::{Agent, Body, Params, Peer, Segment, unknown_token};
use crate::limits::Turn;
use crate::presence::HEARTBEAT_S;
use crate::state::AppState;
use crate::token;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bugler_model::{EventKind, NewEvent, Presence, Stage, TaskAction, TaskId, TaskState};
use bugler_protocol::agent::{
    Assignment, Heartbeat, Register, Registered, Report, ReportAnswer, VERSION,
};
use bugler_store::{Claim, Registration, TaskReport};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// Longest that a poll waits, in seconds.
const MAX_WAIT_S: u64 = 60;

/// Most log lines that one heartbeat may bring.
const MAX_LOG_LINES: usize = 200;

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

pub(super) async fn register(
    State(state): State<Arc<AppState>>,
    Peer(peer): Peer,
    Body(body): Body<Register>,
) -> Result<Json<Registered>, ApiError> {
    if body.protocol != VERSION {
        return Err(ApiError::bad_request(format!(
            "the agent speaks version {} of the protocol, this server version {VERSION}: build a \
             boot environment with this version (`bugler bootenv build`), then boot again",
            body.protocol
        )));
    }
    if !body.boot_mac.is_unicast() {
        return Err(ApiError::bad_request(format!(
            "{} cannot be the address of the interface that this machine booted from",
            body.boot_mac
        )));
    }
    let boot = state
        .store
        .boot_token(token::hash(&body.boot_token))
        .await?;
    let Some((device, session)) = boot else {
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "this boot token was never given, or the device has booted several times since: boot \
             again",
        ));
    };
    let now = state.now();
    let agent_token = token::new_token();
    state.store.reach_stage(session, Stage::Agent, now).await?;
    let registration = Registration {
        device,
        session,
        boot_mac: body.boot_mac,
        address: v4(peer.ip()),
        inventory: tidy(body.inventory),
        agent_token: token::hash(&agent_token),
    };
    let device = state.store.register(registration, now).await?;
    Ok(Json(Registered {
        protocol: VERSION,
        device: device.id,
        label: device.label(),
        token: agent_token,
        heartbeat_s: HEARTBEAT_S,
    }))
}

/// Notes that an agent was heard from. One that was lost is there again; one that had said that it
/// reboots is there again only when it asks for work: a heartbeat may have been on its way.
async fn heard(
    state: &AppState,
    agent: &Agent,
    peer: IpAddr,
    asks_for_work: bool,
) -> Result<(), ApiError> {
    let (id, now) = (agent.auth.device, state.now());
    state.store.touch(id, v4(peer), now);
    let presence = state.store.device(id).await?.presence;
    if presence == Presence::Lost || (asks_for_work && presence != Presence::Agent) {
        state.store.set_presence(id, Presence::Agent, now).await?;
    }
    Ok(())
}

/// What becomes of the agent after a task that is done: it is gone, and not lost.
fn presence_after(action: &TaskAction) -> Presence {
    match action {
        TaskAction::Deploy(_) | TaskAction::PowerOff => Presence::Local,
        TaskAction::Capture(_) | TaskAction::Reboot => Presence::Booting,
        TaskAction::Wipe(_) => Presence::Agent,
    }
}

#[derive(Deserialize)]
pub(super) struct Wait {
    /// Seconds.
    #[serde(default)]
    wait: u64,
}

pub(super) async fn next_task(
    State(state): State<Arc<AppState>>,
    agent: Agent,
    Peer(peer): Peer,
    Params(Wait { wait }): Params<Wait>,
) -> Result<Response, ApiError> {
    heard(&state, &agent, peer.ip(), true).await?;
    let id = agent.auth.device;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(wait.min(MAX_WAIT_S));
    let waiting = state.wakes.waiting(id);
    let mut turn: Option<Turn> = None;
    loop {
        // From here on no task is missed, though it is only now looked for one.
        let change = waiting.change();
        // A later boot of the same device has a token of its own: this poll is nobody's.
        if state.store.agent_token(agent.token).is_none() {
            return Err(unknown_token());
        }
        // Asked first because it costs no write, and mostly there is nothing.
        if state.store.device(id).await?.open_tasks > 0 {
            let store = &state.store;
            match store.claim_in_turn(id, state.at_once, state.now()).await? {
                Claim::Task(task) => {
                    let assignment = Assignment {
                        task: task.id,
                        action: task.action,
                        attempt: task.attempts,
                    };
                    return Ok(Json(assignment).into_response());
                }
                // Stands in line first, and then looks once more: what ended in between called
                // another.
                Claim::NotYet(task) if turn.is_none() => {
                    turn = Some(state.turns.stand(task));
                    continue;
                }
                Claim::NotYet(_) => {}
                Claim::Nothing => turn = None,
            }
        }
        let called = async {
            match &turn {
                Some(turn) => turn.come().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = change => {}
            () = called => turn = None,
            () = tokio::time::sleep_until(deadline) => break,
            () = state.stop.cancelled() => break,
        }
    }
    state.store.touch(id, None, state.now());
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Whether the agent's task is claimed, so that a report of `Claimed` (it checks, it compares) is
/// progress. One that came late takes nothing back; one on a task that was not asked for is refused.
async fn is_claimed(state: &AppState, agent: &Agent, id: TaskId) -> Result<bool, ApiError> {
    let task = state.store.task(id).await?;
    if task.device != agent.auth.device {
        return Err(ApiError::not_found(format!(
            "there is no task {id} of this device"
        )));
    }
    if task.state == TaskState::Queued {
        return Err(ApiError::conflict(format!(
            "{id} is queued: ask for a task first"
        )));
    }
    Ok(task.state == TaskState::Claimed)
}

/// A capture is done when there is an image of it, and not before.
async fn check_taken(state: &AppState, id: TaskId) -> Result<(), ApiError> {
    let task = state.store.task(id).await?;
    let is_capture = matches!(task.action, TaskAction::Capture(_)) && task.state.is_open();
    if is_capture && state.store.captured(id).await?.is_none() {
        return Err(ApiError::conflict(format!(
            "{id} has made no image yet: commit it first, or report `failed`"
        )));
    }
    Ok(())
}

pub(super) async fn report(
    State(state): State<Arc<AppState>>,
    agent: Agent,
    Peer(peer): Peer,
    Segment(id): Segment,
    Body(report): Body<Report>,
) -> Result<Json<ReportAnswer>, ApiError> {
    let task: TaskId = id
        .parse()
        .map_err(|e| ApiError::not_found(format!("{e}")))?;
    let now = state.now();
    state.store.touch(agent.auth.device, v4(peer.ip()), now);
    if report.state == TaskState::Done {
        check_taken(&state, task).await?;
    }
    let task = match report.state {
        TaskState::Claimed if !is_claimed(&state, &agent, task).await? => {
            state.store.task(task).await?
        }
        TaskState::Claimed
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::Done
        | TaskState::Failed => {
            let report = TaskReport {
                device: agent.auth.device,
                task,
                state: report.state,
                progress: report.progress,
                message: report.message.map(|text| safe_line(&text)),
                disk: report.disk,
            };
            let task = state.store.report_task(report, now).await?;
            if task.state == TaskState::Done {
                let presence = presence_after(&task.action);
                state.store.set_presence(task.device, presence, now).await?;
            }
            task
        }
        // The agent confirms that it has stopped; the task was ended by who cancelled it.
        TaskState::Cancelled => {
            let task = state.store.task(task).await?;
            if task.device != agent.auth.device {
                return Err(ApiError::not_found(format!(
                    "there is no task {} of this device",
                    task.id
                )));
            }
            if task.state.is_open() {
                return Err(ApiError::conflict(format!(
                    "{} is {}: nobody has cancelled it; report `failed` to give it up",
                    task.id, task.state
                )));
            }
            task
        }
        TaskState::Queued => {
            return Err(ApiError::bad_request(
                "an agent does not report queued: it asks for a task",
            ));
        }
    };
    Ok(Json(ReportAnswer {
        cancel: task.state == TaskState::Cancelled,
    }))
}

pub(super) async fn heartbeat(
    State(state): State<Arc<AppState>>,
    agent: Agent,
    Peer(peer): Peer,
    Body(body): Body<Heartbeat>,
) -> Result<StatusCode, ApiError> {
    if body.log.len() > MAX_LOG_LINES {
        return Err(ApiError::bad_request(format!(
            "a heartbeat with {} log lines: at most {MAX_LOG_LINES} at a time",
            body.log.len()
        )));
    }
    heard(&state, &agent, peer.ip(), false).await?;
    for line in &body.log {
        let now = state.now();
        let text = match state.log_budget.take(agent.auth.device, now) {
            Verdict::Keep => safe_line(line),
            Verdict::Announce => "the agent logs too much: some of its lines are dropped".into(),
            Verdict::Drop => continue,
        };
        let mut event = NewEvent::new(EventKind::Log, text).device(agent.auth.device);
        event.session = Some(agent.auth.session);
        state.store.append_event(event, now).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
