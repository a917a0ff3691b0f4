//! Where the image's packages come from: the same mirrors as this computer's own.

use crate::process::output_of;
use anyhow::Result;
use std::fs;
use std::process::Command;

/// The suite to use on a computer that is not a Debian release.
const FALLBACK: &str = "bookworm";

/// A Debian release and its mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// The release's code name.
    pub suite: String,
    /// Lines for apt's `sources.list`. None: mmdebstrap's own choice, `deb.debian.org`.
    pub lines: Vec<String>,
    /// Options of this computer's apt that say how mirrors are reached.
    pub apt_options: Vec<String>,
}

/// What this computer uses.
///
/// # Errors
///
/// When apt cannot be asked.
pub fn of_host() -> Result<Sources> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    // Index targets are what apt really fetches, whichever way its sources are written down.
    let targets = output_of(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN) $(ARCHITECTURE)",
        "Created-By: Packages",
    ]))?;
    let configuration = output_of(Command::new("apt-config").arg("dump"))?;
    Ok(choose(&release, &targets, &configuration))
}

fn choose(release: &str, targets: &str, configuration: &str) -> Sources {
    let field = |name: &str| {
        let line = release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"'))
    };
    let mut suite = FALLBACK;
    let mut lines = Vec::new();
    if let (Some("debian"), Some(name)) = (field("ID"), field("VERSION_CODENAME")) {
        suite = name;
        for target in targets.lines() {
            let [uri, of, "main", "Debian", "amd64"] = target.split(' ').collect::<Vec<_>>()[..]
            else {
                continue;
            };
            let more = of
                .strip_prefix(name)
                .is_some_and(|rest| matches!(rest, "" | "-updates" | "-security"));
            let line = format!("deb {uri} {of} main");
            if more && !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    let apt_options = configuration
        .lines()
        .filter(|line| {
            [
                "Acquire::http::Proxy ",
                "Acquire::https::Proxy ",
                "Acquire::Check-Valid-Until ",
            ]
            .iter()
            .any(|option| line.starts_with(option))
        })
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect();
    Sources {
        suite: suite.to_owned(),
        lines,
        apt_options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n\
                            VERSION_CODENAME=bookworm\n";

    #[test]
    fn takes_the_hosts_mirrors_of_debian_main_and_nothing_else() {
        let targets = "http://mirror.example/debian/ bookworm main Debian amd64\n\
                       http://mirror.example/debian/ bookworm main Debian amd64\n\
                       http://mirror.example/debian/ bookworm contrib Debian amd64\n\
                       http://mirror.example/debian/ bookworm main Debian arm64\n\
                       http://mirror.example/debian/ bookworm-backports main Debian amd64\n\
                       http://security.example/ bookworm-security main Debian amd64\n\
                       https://node.example/ nodistro main . amd64\n";
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://cache:3142/\";\n";
        let sources = choose(BOOKWORM, targets, dump);
        assert_eq!(sources.suite, "bookworm");
        assert_eq!(
            sources.lines,
            [
                "deb http://mirror.example/debian/ bookworm main",
                "deb http://security.example/ bookworm-security main"
            ]
        );
        assert_eq!(
            sources.apt_options,
            ["Acquire::http::Proxy \"http://cache:3142/\""]
        );
    }

    #[test]
    fn elsewhere_it_is_debian_from_its_own_mirror() {
        let ubuntu = "ID=ubuntu\nVERSION_CODENAME=noble\n";
        let targets = "http://archive.ubuntu.com/ubuntu/ noble main Ubuntu amd64\n";
        let sources = choose(ubuntu, targets, "");
        assert_eq!(
            (sources.suite.as_str(), sources.lines.len()),
            ("bookworm", 0)
        );
    }
}
