//! A thin client of WebDriver (W3C), enough for these tests: it starts its own driver and browser,
//! and ends both when dropped.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a page may take to show what is waited for. The browser tells of no change by itself,
/// so it is asked again and again.
const PATIENCE: Duration = Duration::from_secs(180);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// The name under which WebDriver hands out elements (section 11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser.
pub(crate) struct Browser {
    driver: Child,
    agent: ureq::Agent,
    /// The URL of the session.
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver cannot be started; `make setup` installs chromium-driver");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: u16 = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, rest) = line.split_once("successfully on port ")?;
                rest.trim_end_matches('.').parse().ok()
            })
            .expect("chromedriver does not say on which port it listens");
        // It goes on talking: a full pipe would stop it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(300)))
            .build()
            .into();
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1200,900",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": arguments},
        }}});
        let base = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self {
            driver,
            agent,
            session: base,
            _profile: profile,
        };
        let made = browser.post("", &wanted);
        let id = made["sessionId"].as_str().expect("a session").to_owned();
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    fn try_post(&self, path: &str, body: &Value) -> Result<Value, String> {
        let sent = self
            .agent
            .post(format!("{}{path}", self.session))
            .send_json(body);
        let mut answer = sent.map_err(|error| format!("{path}: {error}"))?;
        let value: Value = answer
            .body_mut()
            .read_json()
            .map_err(|error| format!("{path}: {error}"))?;
        if answer.status().is_success() {
            Ok(value["value"].clone())
        } else {
            Err(format!("{path} {body}: {}", value["value"]["message"]))
        }
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        self.try_post(path, body)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Opens a page.
    #[track_caller]
    pub(crate) fn go(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Runs a script in the page.
    #[track_caller]
    pub(crate) fn script(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The text of the first element that a selector finds, as it is shown; empty where there is
    /// none.
    #[track_caller]
    pub(crate) fn text(&self, selector: &str) -> String {
        let script = format!(
            "return document.querySelector({})?.innerText ?? ''",
            json!(selector)
        );
        self.script(&script).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until that text has `wanted` in it.
    #[track_caller]
    pub(crate) fn wait_text(&self, selector: &str, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.text(selector);
            if text.contains(wanted) {
                return;
            }
            if Instant::now() >= end {
                self.screenshot("failed");
                panic!("{selector} never has {wanted:?}; it has {text:?}");
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Waits until a selector finds so many elements.
    #[track_caller]
    pub(crate) fn wait_count(&self, selector: &str, wanted: u64) {
        let script = format!(
            "return document.querySelectorAll({}).length",
            json!(selector)
        );
        let end = Instant::now() + PATIENCE;
        loop {
            let count = self.script(&script).as_u64();
            if count == Some(wanted) {
                return;
            }
            if Instant::now() >= end {
                self.screenshot("failed");
                panic!("{selector} finds {count:?} elements, not {wanted}");
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Clicks as a person does: the element must be in sight and not covered. A fragment that is
    /// replaced at that moment is looked for again.
    #[track_caller]
    pub(crate) fn click(&self, selector: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.try_post(
                "/element",
                &json!({"using": "css selector", "value": selector}),
            );
            let clicked = found.and_then(|found| {
                let id = found[ELEMENT].as_str().unwrap_or_default().to_owned();
                self.try_post(&format!("/element/{id}/click"), &json!({}))
            });
            match clicked {
                Ok(_) => return,
                Err(error) if Instant::now() >= end => panic!("{selector}: {error}"),
                Err(_) => std::thread::sleep(ASK_EVERY),
            }
        }
    }

    /// What the browser's console has of errors: scripts that failed, and what the content security
    /// policy forbade.
    pub(crate) fn complaints(&self) -> Vec<Value> {
        let log = self.post("/se/log", &json!({"type": "browser"}));
        log.as_array()
            .into_iter()
            .flatten()
            .filter(|entry| entry["level"] == "SEVERE")
            .cloned()
            .collect()
    }

    /// Puts a picture of the page into the folder that `BUGLER_SCREENSHOTS` names, where it is set.
    pub(crate) fn screenshot(&self, name: &str) {
        let Some(dir) = std::env::var_os("BUGLER_SCREENSHOTS") else {
            return;
        };
        let url = format!("{}/screenshot", self.session);
        let Ok(mut answer) = self.agent.get(url).call() else {
            return;
        };
        let Ok(value) = answer
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_json::<Value>()
        else {
            return;
        };
        let picture = base64(value["value"].as_str().unwrap_or_default());
        let _ = std::fs::write(
            std::path::Path::new(&dir).join(format!("{name}.png")),
            picture,
        );
    }
}

/// RFC 4648 section 4, as a browser writes it.
fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> = text
        .bytes()
        .filter_map(|b| ALPHABET.iter().position(|a| *a == b))
        .map(|n| n as u32)
        .collect();
    digits
        .chunks(4)
        .flat_map(|group| {
            let sum =
                group.iter().fold(0, |sum, digit| sum << 6 | digit) << (6 * (4 - group.len()));
            sum.to_be_bytes()[1..group.len()].to_vec()
        })
        .collect()
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser with the session.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
