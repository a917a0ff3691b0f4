//! The dashboard: server-rendered pages and live updates.
//!
//! A page is a frame around a *fragment*; the fragment has a path of its own. The page's script
//! (`assets/app.js`; no framework, no build step, nothing from another host) follows the event
//! stream of the API and fetches the fragment again when something it shows has changed. What
//! changes something goes to the API as JSON.
//!
//! Machines name themselves, so everything shown is escaped by the templates, what could turn
//! text around or hide it is replaced ([`bugler_model::text::clean`]), and a content security policy allows
//! nothing but this server's own script and style.

mod boots;
mod diskless;
mod pages;
mod text;
mod view;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bugler_api::AppState;
use std::sync::Arc;

/// Nothing but this server's own files; no other site may frame the dashboard or send forms.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; \
                      frame-ancestors 'none'; object-src 'none'";

/// The dashboard, mounted at `/` of the operator plane: merge it with the API's router. It stands
/// behind the same guard as the API.
pub fn router(state: Arc<AppState>) -> Router {
    let router = Router::new()
        .route("/", get(pages::devices))
        .route("/devices/{device}", get(pages::device))
        .route("/images", get(pages::images))
        .route("/diskless", get(diskless::page))
        .route("/tasks", get(pages::tasks))
        .route("/events", get(pages::events))
        .route("/fragments/devices", get(pages::devices_fragment))
        .route("/fragments/devices/{device}", get(pages::device_fragment))
        .route("/fragments/images", get(pages::images_fragment))
        .route("/fragments/diskless", get(diskless::fragment))
        .route("/fragments/tasks", get(pages::tasks_fragment))
        .route("/fragments/events", get(pages::events_fragment))
        .route("/assets/app.js", get(script))
        .route("/assets/upload.js", get(upload_script))
        .route("/assets/style.css", get(style))
        .route("/assets/icon.svg", get(icon))
        .fallback(pages::nothing_here)
        .with_state(state.clone())
        .layer(middleware::from_fn(secure));
    bugler_api::guarded(router, state)
}

async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    // Pages show the present, and assets change with the server's version: nothing is kept
    // without asking.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn asset(
    kind: &'static str,
    content: &'static str,
) -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, kind)], content)
}

async fn script() -> impl IntoResponse {
    asset(
        "text/javascript; charset=utf-8",
        include_str!("../assets/app.js"),
    )
}

async fn upload_script() -> impl IntoResponse {
    asset(
        "text/javascript; charset=utf-8",
        include_str!("../assets/upload.js"),
    )
}

async fn style() -> impl IntoResponse {
    asset(
        "text/css; charset=utf-8",
        include_str!("../assets/style.css"),
    )
}

async fn icon() -> impl IntoResponse {
    asset("image/svg+xml", include_str!("../assets/icon.svg"))
}
