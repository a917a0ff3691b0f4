//! The operator plane: what people and their programs reach, under `/api/v1/`.

mod capture;
mod devices;
mod eeprom;
mod events;
mod images;
mod look;
mod order;
mod overlays;
mod plan;
mod power;
mod profiles;
mod rules;
mod server;
mod tasks;
mod upload;
mod versions;
mod words;

pub(crate) use upload::{Uploads, receive};
pub(crate) use versions::{SizesCache, manifests};

use crate::device::{unknown_path, wrong_method};
use crate::guard::guarded;
use crate::state::AppState;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Largest body of a request but for an image, in bytes.
const MAX_BODY: usize = 1 << 20;

fn routes() -> OpenApiRouter<Arc<AppState>> {
    let info = InfoBuilder::new()
        .title("Bugler, operator plane")
        .version("1")
        .description(Some(
            "What the dashboard and the command line use. Error answers are JSON with one field, \
             `error`: what was tried, on what, what came back, and what to do.",
        ))
        .build();
    let v1 = OpenApiRouter::new()
        .routes(routes!(devices::list))
        .routes(routes!(devices::show, devices::patch, devices::remove))
        .routes(routes!(devices::netboot))
        .routes(routes!(devices::sessions))
        .routes(routes!(capture::packets))
        .routes(routes!(plan::show))
        .routes(routes!(eeprom::show, eeprom::put, eeprom::remove))
        .routes(routes!(profiles::list))
        .routes(routes!(profiles::show, profiles::put, profiles::remove))
        .routes(routes!(rules::list, rules::put))
        .routes(routes!(overlays::list))
        .routes(routes!(overlays::reset))
        .routes(routes!(overlays::grow))
        .routes(routes!(overlays::commit))
        .routes(routes!(power::list, power::order))
        .routes(routes!(power::show, power::put, power::remove))
        .routes(routes!(tasks::list, tasks::create))
        .routes(routes!(tasks::plan))
        .routes(routes!(tasks::show))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::image))
        .routes(routes!(images::list))
        .routes(routes!(
            images::show,
            upload::put,
            versions::patch,
            versions::remove
        ))
        .routes(routes!(versions::sizes))
        .routes(routes!(images::raw))
        .routes(routes!(images::block_map))
        .routes(routes!(images::verify))
        .routes(routes!(images::verify_every))
        .routes(routes!(images::gc))
        .routes(routes!(look::partitions))
        .routes(routes!(look::files))
        .routes(routes!(look::file))
        .routes(routes!(look::diff))
        .routes(routes!(events::list))
        .routes(routes!(events::stream))
        .routes(routes!(server::show))
        .routes(routes!(server::key))
        .routes(routes!(server::rotate))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    let document = OpenApiBuilder::new().info(info).build();
    OpenApiRouter::with_openapi(document).nest("/api/v1", v1)
}

/// The OpenAPI document of the operator plane. The one at `openapi.json` in this crate's folder is
/// the same.
#[must_use]
pub fn document() -> OpenApi {
    routes().into_openapi()
}

/// The operator plane, behind the guard that keeps other sites' pages away. Serve it with the
/// peer's address as connect info, as [`crate::serve`] does.
pub fn router(state: Arc<AppState>) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = document.to_json().unwrap_or_default();
    let openapi = move || {
        let document = document.clone();
        async move { ([("content-type", "application/json")], document).into_response() }
    };
    let router = router
        .route("/api/v1/openapi.json", get(openapi))
        .route("/api/{*path}", axum::routing::any(unknown_path))
        .method_not_allowed_fallback(wrong_method)
        .with_state(state.clone());
    guarded(router, state)
}
