//! What of this host stands in the way of booting machines, each with a remedy in words.
//!
//! Facts are gathered from the kernel and the file system; each check is a function over them. It
//! works whether or not the server runs: a port that the server itself holds is as it should be.

mod firewall;
mod host;
mod links;
mod ports;
mod servers;

use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It will be in the way of some machines.
    Warning,
    /// Machines cannot boot like that.
    Problem,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        })
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// How bad it is.
    pub level: Level,
    /// What was checked; one word that does not change: for scripts.
    pub about: &'static str,
    /// On what: an interface, a port, a folder; empty for the host itself.
    pub subject: String,
    /// What was found.
    pub text: String,
    /// What to do, where there is something to do.
    pub remedy: Option<String>,
}

impl Check {
    fn new(
        level: Level,
        about: &'static str,
        subject: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self {
            level,
            about,
            subject: subject.into(),
            text: text.into(),
            remedy: None,
        }
    }

    fn ok(about: &'static str, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Level::Ok, about, subject, text)
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// What an interface is to do about DHCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dhcp {
    /// Look for another server, then pick.
    Auto,
    /// Give addresses.
    Full,
    /// Leave addresses to another server.
    Proxy,
    /// Nothing.
    Off,
}

/// An interface that is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// What it is to do about DHCP.
    pub dhcp: Dhcp,
    /// Whether it has addresses to give.
    pub has_pool: bool,
}

/// A boot loader that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loader {
    /// Its name.
    pub name: String,
    /// Where it may be: the first that is a file is taken.
    pub paths: Vec<PathBuf>,
    /// Whether the server does not start without it.
    pub needed: bool,
}

/// What is examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The interfaces to serve.
    pub interfaces: Vec<Wanted>,
    /// Where machines reach the server.
    pub device_listen: SocketAddr,
    /// Where operators reach it.
    pub operator_listen: SocketAddr,
    /// Whether it serves TFTP.
    pub tftp: bool,
    /// Where it keeps everything.
    pub state_dir: PathBuf,
    /// The boot loaders.
    pub loaders: Vec<Loader>,
    /// Whether to ask for other DHCP servers, with one DISCOVER that takes no address.
    pub probe: bool,
}

/// Examines this host. Takes about five seconds where it asks for other servers.
pub async fn examine(subject: &Subject) -> Vec<Check> {
    let links = links::gather().await;
    let mut checks = vec![];
    match &links {
        Ok(links) => checks.extend(links::check(subject, links)),
        Err(error) => checks.push(
            Check::new(
                Level::Warning,
                "interface",
                "",
                format!("the kernel does not tell of its interfaces: {error}"),
            )
            .remedy("run it as root, outside of a sandbox that forbids netlink"),
        ),
    }
    let links = links.unwrap_or_default();
    let usable: Vec<_> = subject
        .interfaces
        .iter()
        .filter_map(|wanted| {
            let link = links.iter().find(|link| link.name == wanted.name)?;
            (link.up && !link.addresses.is_empty()).then_some((wanted, link))
        })
        .collect();
    checks.extend(ports::check(subject));
    if subject.probe {
        checks.extend(servers::check(&usable).await);
    }
    checks.extend(firewall::check(subject).await);
    checks.extend(host::check(subject));
    checks
}

/// The worst of them.
#[must_use]
pub fn worst(checks: &[Check]) -> Level {
    checks
        .iter()
        .map(|check| check.level)
        .max()
        .unwrap_or(Level::Ok)
}
