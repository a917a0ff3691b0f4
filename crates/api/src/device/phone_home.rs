//! What an operating system calls when it is up for the first time after a deploy.
//!
//! The token in the path was made for one deploy and opens nothing else. cloud-init's `phone_home`
//! module posts a form with keys and names of the machine; none of it is kept.

use crate::error::ApiError;
use crate::extract::{Segment, SmallBody};
use crate::state::AppState;
use crate::token;
use axum::extract::State;
use std::sync::Arc;

/// Length of a token, in characters.
const TOKEN: usize = 64;

/// `GET` and `POST /phone-home/<token>`. Called again, it answers the same and changes nothing.
pub(super) async fn call(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
    // Read, so that the client sees the answer, and bounded as every body of this plane.
    SmallBody(_): SmallBody,
) -> Result<&'static str, ApiError> {
    let known = match text.len() {
        TOKEN => {
            let hash = token::hash(&text);
            state.store.phone_home(hash, state.now()).await?
        }
        _ => None,
    };
    match known {
        Some(_) => Ok("welcome\n"),
        None => Err(ApiError::not_found(
            "this address was made for no deploy, or for one that is long past",
        )),
    }
}
