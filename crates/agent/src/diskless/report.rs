//! Tells the server how far this machine is. A server that does not want to know is no reason to stop.

use crate::cmdline::Cmdline;
use crate::log::Log;
use crate::sysfs::Sysfs;
use bugler_model::MacAddr;
use bugler_protocol::agent::{DISKLESS_PATH, Diskless, DisklessStage};
use std::time::Duration;
use ureq::Agent;

/// How long one report may take, and how often it is tried. The system waits for it.
const PATIENCE: Duration = Duration::from_secs(3);
const TRIES: u32 = 2;

/// Where to, and in whose name.
pub(super) struct Reporter<'a> {
    server: Option<&'a str>,
    token: Option<&'a str>,
    boot_mac: MacAddr,
    sysfs: &'a Sysfs,
    agent: Agent,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(cmdline: &'a Cmdline, boot_mac: MacAddr, sysfs: &'a Sysfs) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("bugler-agent/", env!("CARGO_PKG_VERSION")));
        Self {
            server: cmdline.server.as_deref(),
            token: cmdline.token.as_deref(),
            boot_mac,
            sysfs,
            agent: config.build().into(),
        }
    }

    /// Tells it. A boot without a server, and a server that does not know such reports, are fine.
    pub(super) fn tell(&self, stage: DisklessStage, detail: &str, log: &Log) {
        let (Some(server), Some(token)) = (self.server, self.token) else {
            return;
        };
        let message = Diskless {
            boot_token: token.to_owned(),
            boot_mac: self.boot_mac,
            stage,
            detail: detail.to_owned(),
            uptime_ms: self.sysfs.uptime_ms(),
        };
        let Ok(json) = serde_json::to_vec(&message) else {
            return;
        };
        let url = format!("{}{DISKLESS_PATH}", server.trim_end_matches('/'));
        let mut why = String::new();
        for _ in 0..TRIES {
            let request = self
                .agent
                .post(&url)
                .header("content-type", "application/json");
            match request.send(&json[..]) {
                // 404: a server without diskless boots.
                Ok(answer) if answer.status().is_success() || answer.status() == 404 => return,
                Ok(answer) => why = format!("it answered {}", answer.status()),
                Err(error) => why = error.to_string(),
            }
        }
        log.line(format!(
            "cannot tell {server} how this boot goes: {why}; it goes on all the same"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// What a server gets that answers with `status`, and what the agent then logs.
    fn exchange(status: &str, times: u32) -> (String, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let status = status.to_owned();
        let serving = std::thread::spawn(move || {
            let mut got = String::new();
            for _ in 0..times {
                let (mut stream, _) = listener.accept().unwrap();
                got.clear();
                let mut buffer = [0; 1024];
                while !got.contains("uptime_ms") {
                    let len = stream.read(&mut buffer).unwrap();
                    got.push_str(std::str::from_utf8(&buffer[..len]).unwrap());
                }
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
                .unwrap();
            }
            got
        });
        let cmdline = Cmdline::parse(&format!("bugler.server={server} bugler.token=t1"));
        let (sysfs, log) = (Sysfs::at("/"), Log::stderr());
        let reporter = Reporter::new(&cmdline, MacAddr([2, 0, 0, 0, 0, 1]), &sysfs);
        reporter.tell(DisklessStage::RootAttached, "an export", &log);
        (serving.join().unwrap(), log.take(9))
    }

    #[test]
    fn a_report_arrives_and_an_old_server_does_not_matter() {
        let (got, log) = exchange("204 No Content", 1);
        assert!(got.starts_with("POST /agent/v1/diskless HTTP/1.1"), "{got}");
        assert!(
            got.contains("\"stage\":\"root-attached\"") && got.contains("\"t1\""),
            "{got}"
        );
        assert!(log.is_empty());
        assert!(exchange("404 Not Found", 1).1.is_empty());
        let (_, log) = exchange("500 Oh", 2);
        assert!(
            log.len() == 1 && log[0].contains("it answered 500"),
            "{log:?}"
        );
    }

    #[test]
    fn a_boot_without_a_server_says_nothing() {
        let (sysfs, log) = (Sysfs::at("/"), Log::stderr());
        let cmdline = Cmdline::default();
        let reporter = Reporter::new(&cmdline, MacAddr([2, 0, 0, 0, 0, 1]), &sysfs);
        reporter.tell(DisklessStage::RootFailed, "", &log);
        assert!(log.is_empty());
    }
}
