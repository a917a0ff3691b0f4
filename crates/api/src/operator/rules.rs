//! Rules: which device boots which profile.

use super::words::{printable, shown};
use crate::error::ApiError;
use crate::extract::Body;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use bugler_model::Rule;
use bugler_protocol::agent::ErrorBody;
use bugler_store::StoreError;
use std::sync::Arc;

/// Longest pattern, in characters.
const MAX_PATTERN: usize = 128;
/// Longest tag, in characters, as for devices.
const MAX_TAG: usize = 64;

/// Every rule, in order: the first that a device meets counts.
#[utoipa::path(
    get, path = "/rules", operation_id = "list_rules", tag = "profiles",
    responses((
        status = 200, body = Vec<Rule>,
        headers(("ETag" = String, description = "the version of the rules, for If-Match")),
    )),
)]
pub(super) async fn list(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    answer(state.store.boot_policy().rules.clone())
}

/// Replaces the rules, all or none. With If-Match, only where they are still of that version: who adds
/// one to what he has read does not undo what somebody else did in the meantime.
#[utoipa::path(
    put, path = "/rules", operation_id = "set_rules", tag = "profiles",
    params(("If-Match" = Option<String>, Header, description = "the ETag of the rules that these are to replace")),
    request_body = Vec<Rule>,
    responses(
        (
            status = 200, body = Vec<Rule>,
            headers(("ETag" = String, description = "the version of the new rules")),
        ),
        (status = 400, body = ErrorBody, description = "one has a condition that nothing can meet; the text says which"),
        (status = 409, body = ErrorBody, description = "one gives a profile that does not exist"),
        (status = 412, body = ErrorBody, description = "somebody else changed the rules in the meantime"),
    ),
)]
pub(super) async fn put(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    Body(rules): Body<Vec<Rule>>,
) -> Result<impl IntoResponse, ApiError> {
    for (number, rule) in (1..).zip(&rules) {
        check(rule).map_err(|why| {
            ApiError::bad_request(format!("could not save the rules: rule {number}: {why}"))
        })?;
    }
    let now = state.now();
    if headers.contains_key(header::IF_MATCH) {
        let known = state.store.boot_policy().rules.clone();
        if !meets(&headers, &version(&known)) {
            return Err(StoreError::RulesChanged.into());
        }
        state.store.replace_rules(known, rules.clone(), now).await?;
    } else {
        state.store.set_rules(rules.clone(), now).await?;
    }
    Ok(answer(rules))
}

/// The rules with their version.
fn answer(rules: Vec<Rule>) -> impl IntoResponse {
    ([(header::ETAG, version(&rules))], Json(rules))
}

/// The same for the same rules, whenever and in whichever order they came to be (RFC 9110 section
/// 8.8.3: an entity tag, with its quotes).
fn version(rules: &[Rule]) -> String {
    // Rules are plain data, which JSON always has words for.
    let text = serde_json::to_vec(rules).unwrap_or_default();
    let hash = blake3::hash(&text).to_hex();
    format!("\"{}\"", hash.get(..32).unwrap_or(&hash))
}

/// Whether If-Match names this version (RFC 9110 section 13.1.1).
fn meets(headers: &HeaderMap, version: &str) -> bool {
    let lines = headers.get_all(header::IF_MATCH).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|tag| [version, "*"].contains(&tag.trim()))
}

fn check(rule: &Rule) -> Result<(), String> {
    let when = &rule.when;
    let words = [
        ("tag", &when.tag, MAX_TAG),
        ("vendor", &when.vendor, MAX_PATTERN),
        ("model", &when.model, MAX_PATTERN),
        ("serial", &when.serial, MAX_PATTERN),
    ];
    for (what, word, most) in words {
        if let Some(word) = word
            && !printable(word, most)
        {
            return Err(format!(
                "its condition {what} = {} cannot be met: use 1 to {most} characters that can be \
                 printed, or leave it out",
                shown(word)
            ));
        }
    }
    Ok(())
}
