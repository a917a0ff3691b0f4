//! A web service of the user's.

use super::{Action, Outcome, PowerDriver};
use crate::credentials::Secret;
use crate::error::Error;
use std::fmt;
use std::time::Duration;

/// Posts to an address. `{action}` in it becomes the name of the action; the body is
/// `{"action":"on"}`. The action counts as done when the answer is of class 2xx.
#[derive(Clone)]
pub struct Webhook {
    url: String,
    token: Option<Secret>,
    agent: ureq::Agent,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({})", shown(&self.url))
    }
}

impl Webhook {
    /// Posts to this `http` address; a call that takes longer than `limit` has failed.
    pub fn new(url: impl Into<String>, limit: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(limit))
            // A POST that follows a redirect may happen twice, or elsewhere.
            .max_redirects(0)
            .http_status_as_error(false)
            .build();
        Self {
            url: url.into(),
            token: None,
            agent: config.into(),
        }
    }

    /// With a token, sent as `Authorization: Bearer`.
    #[must_use]
    pub fn with_token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    fn post(&self, action: Action) -> Result<(), String> {
        let url = self.url.replace("{action}", action.as_str());
        let mut request = self
            .agent
            .post(&url)
            .header("Content-Type", "application/json");
        if let Some(token) = &self.token {
            let token = zeroize::Zeroizing::new(format!(
                "Bearer {}",
                String::from_utf8_lossy(token.expose())
            ));
            request = request.header("Authorization", token.as_str());
        }
        let body = format!("{{\"action\":\"{action}\"}}");
        let answer = request.send(&body).map_err(|error| error.to_string())?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let said = answer.into_body().read_to_string().unwrap_or_default();
        let said: String = said.trim().chars().take(200).collect();
        Err(format!("it answered {status} {said}").trim_end().to_owned())
    }
}

/// An address without the user and password that may stand in it, and without its query.
pub fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/{path}")
}

#[async_trait::async_trait]
impl PowerDriver for Webhook {
    fn name(&self) -> &'static str {
        "the webhook"
    }

    async fn power(&self, action: Action) -> Result<Outcome, Error> {
        let hook = self.clone();
        let posted = tokio::task::spawn_blocking(move || hook.post(action))
            .await
            .unwrap_or_else(|error| Err(error.to_string()));
        match posted {
            Ok(()) => Ok(Outcome::Done),
            Err(what) => Err(Error::Webhook {
                url: shown(&self.url),
                action: action.to_string(),
                what,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_in_an_address_is_not_shown() {
        assert_eq!(
            shown("http://me:pw@pdu.lan:8080/out/3?token=x"),
            "http://pdu.lan:8080/out/3"
        );
        assert_eq!(shown("http://pdu.lan"), "http://pdu.lan/");
    }
}
