//! Keeps other sites' pages away from the operator plane.
//!
//! Nobody has to log in yet, and the plane listens on loopback: what protects it from a page that
//! the operator has open in the same browser is that a browser says which host it means and which
//! page is asking.

use crate::error::ApiError;
use crate::state::AppState;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The same router behind the guard: a request whose `Host` is not loopback, an IP address or a
/// configured name is refused (a name that was made to point here by DNS rebinding), and so is one
/// that changes something and comes from another site's page.
pub fn guarded(router: Router, state: Arc<AppState>) -> Router {
    router.layer(middleware::from_fn_with_state(state, guard))
}

async fn guard(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let checked = check(
        request.method(),
        request.headers(),
        &state.info.operator_names,
    );
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    // A value that is no text cannot be right: it is treated as one that is wrong.
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

fn check(method: &Method, headers: &HeaderMap, names: &[String]) -> Result<(), ApiError> {
    let forbidden = |text: String| ApiError::new(StatusCode::FORBIDDEN, text);
    let Some(host) = text(headers, "host") else {
        return Err(ApiError::bad_request("the request has no Host header"));
    };
    if !is_own_name(host, names) {
        return Err(forbidden(format!(
            "this server is not known as {host:?}: use localhost or its IP address, or add the \
             name to operator-names in the configuration"
        )));
    }
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let other_site = || forbidden("refused: this request comes from another site's page".into());
    if text(headers, "sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Err(other_site());
    }
    if let Some(origin) = text(headers, "origin") {
        let own = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"))
            .is_some_and(|authority| authority.eq_ignore_ascii_case(host));
        if !own {
            return Err(other_site());
        }
    }
    Ok(())
}

/// Whether a `Host` header names this host for sure.
fn is_own_name(host: &str, names: &[String]) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) if v6.parse::<Ipv6Addr>().is_ok() => ("", port),
            _ => return false,
        },
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let good_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok());
    let name = name.strip_suffix('.').unwrap_or(name);
    let good_name = host.starts_with('[')
        || name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok()
        || names.iter().any(|own| own.eq_ignore_ascii_case(name));
    good_port && good_name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(method: Method, headers: &[(&'static str, &str)]) -> Option<StatusCode> {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    value.parse().unwrap(),
                )
            })
            .collect();
        check(&method, &headers, &["Boot.Lab".into()])
            .err()
            .map(|error| error.status())
    }

    #[test]
    fn only_names_that_nobody_else_can_point_here_are_taken() {
        for host in [
            "localhost",
            "localhost:8481",
            "127.0.0.1:8481",
            "[::1]:8481",
            "10.1.2.3",
            "boot.lab:1",
        ] {
            assert_eq!(status(Method::GET, &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[::1",
            "[evil]",
            "",
            ":80",
            "localhost:99999",
            "boot.lab.evil.example",
            "127.0.0.1:80:80",
        ] {
            let refused = Some(StatusCode::FORBIDDEN);
            assert_eq!(status(Method::GET, &[("host", host)]), refused, "{host}");
        }
        assert_eq!(status(Method::GET, &[]), Some(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn another_sites_page_changes_nothing() {
        let host = ("host", "localhost:8481");
        let refused = Some(StatusCode::FORBIDDEN);
        assert_eq!(status(Method::POST, &[host]), None, "the command line");
        assert_eq!(
            status(Method::POST, &[host, ("origin", "http://localhost:8481")]),
            None
        );
        assert_eq!(
            status(Method::POST, &[host, ("sec-fetch-site", "same-origin")]),
            None
        );
        for other in [
            "http://evil.example",
            "null",
            "http://localhost:1",
            "localhost:8481",
        ] {
            assert_eq!(
                status(Method::DELETE, &[host, ("origin", other)]),
                refused,
                "{other}"
            );
        }
        for site in ["cross-site", "same-site", "junk"] {
            assert_eq!(
                status(Method::PUT, &[host, ("sec-fetch-site", site)]),
                refused,
                "{site}"
            );
        }
        assert_eq!(
            status(Method::GET, &[host, ("sec-fetch-site", "cross-site")]),
            None
        );
    }

    proptest! {
        #[test]
        fn any_host_is_taken_or_refused(host in ".{0,60}|\\[[0-9a-f:]{0,20}\\](:[0-9]{0,6})?") {
            let _ = is_own_name(&host, &[]);
        }
    }
}
