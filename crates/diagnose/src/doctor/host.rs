//! The host itself: state directory, loaders, clock, capabilities, kernel.

use super::{Check, Level, Loader, Subject};
use crate::unsafe_system::clock_is_synchronised;
use bugler_model::text::bytes;
use rustix::fs::statvfs;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Below this a boot environment and a registry do not fit.
const LITTLE_SPACE: u64 = 500 << 20;

/// Below this an image hardly fits.
const SOME_SPACE: u64 = 4 << 30;

/// A chunk is a file: below this an image hardly fits either.
const FEW_INODES: u64 = 20_000;

/// 2025-01-01: the clock of a host that is set is past it.
const EARLIEST: u64 = 1_735_689_600;

/// 2100-01-01.
const LATEST: u64 = 4_102_444_800;

pub(super) fn check(subject: &Subject) -> Vec<Check> {
    let mut checks = state_dir(&subject.state_dir);
    checks.extend(loaders(&subject.loaders));
    checks.extend(bootenv(&subject.state_dir));
    checks.extend(clock());
    checks.push(capabilities(
        &fs::read_to_string("/proc/self/status").unwrap_or_default(),
    ));
    checks.push(packet_sockets());
    checks
}

/// The folder itself, or the nearest one above it that is there.
fn nearest(dir: &Path) -> Option<&Path> {
    dir.ancestors().find(|dir| dir.exists())
}

fn state_dir(dir: &Path) -> Vec<Check> {
    let shown = dir.display().to_string();
    let problem = |text: String| Check::new(Level::Problem, "state-dir", &shown, text);
    let Some(there) = nearest(dir) else {
        return vec![
            problem(format!("{shown} cannot be made")).remedy("name another with --state-dir"),
        ];
    };
    if !there.is_dir() {
        return vec![
            problem(format!(
                "{} is a file, where a folder is needed",
                there.display()
            ))
            .remedy("move it away, or name another folder with --state-dir"),
        ];
    }
    let mut checks = vec![];
    match tempfile::tempfile_in(there) {
        Ok(_) if there == dir => checks.push(Check::ok(
            "state-dir",
            &shown,
            format!("{shown} is there and can be written"),
        )),
        Ok(_) => checks.push(Check::new(
            Level::Note,
            "state-dir",
            &shown,
            format!("{shown} is not there yet; the server will make it"),
        )),
        Err(error) => checks.push(
            problem(format!("{} cannot be written: {error}", there.display()))
                .remedy("run the server as its owner, or name another with --state-dir"),
        ),
    }
    if let Ok(space) = statvfs(there) {
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let level = match free {
            0..LITTLE_SPACE => Level::Problem,
            LITTLE_SPACE..SOME_SPACE => Level::Warning,
            _ => Level::Ok,
        };
        let check = Check::new(
            level,
            "disk-space",
            &shown,
            format!("{} are free for {shown}", bytes(free)),
        );
        checks.push(match level {
            Level::Ok => check,
            _ => check.remedy(
                "make room, or move the state directory to a larger disk; `bugler image gc` removes \
                 what no image needs",
            ),
        });
        // File systems that make inodes as they need them say 0.
        if space.f_files > 0 && space.f_favail < FEW_INODES {
            checks.push(
                Check::new(
                    Level::Warning,
                    "inodes",
                    &shown,
                    format!("only {} files more can be made for {shown}", space.f_favail),
                )
                .remedy("every MiB of an image is a file: use a file system made with more inodes"),
            );
        }
    }
    checks
}

fn loaders(wanted: &[Loader]) -> Vec<Check> {
    let mut checks = vec![];
    let mut there = vec![];
    // By package: those of one are there or missing together.
    let mut missing: Vec<(&str, Vec<&str>)> = vec![];
    for loader in wanted {
        let good = |path: &&PathBuf| fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() > 0);
        if loader
            .paths
            .iter()
            .find(|path| path.is_file())
            .is_some_and(|path| good(&path))
        {
            there.push(loader.name.as_str());
            continue;
        }
        let package = bugler_boot::package_of(&loader.name);
        if !loader.needed {
            match missing.iter_mut().find(|(known, _)| *known == package) {
                Some((_, names)) => names.push(&loader.name),
                None => missing.push((package, vec![&loader.name])),
            }
            continue;
        }
        let path = loader.paths.first().cloned().unwrap_or_default();
        let why = match fs::metadata(&path) {
            Ok(_) => "is not a boot loader".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "is missing".to_owned(),
            Err(error) => format!("cannot be read ({error})"),
        };
        checks.push(
            Check::new(
                Level::Problem,
                "loader",
                &loader.name,
                format!(
                    "the boot loader {} {why}: the server needs it",
                    path.display()
                ),
            )
            .remedy(format!(
                "install Debian's package `{package}`, or say in which folder the loaders are \
                 ([boot] loaders = \"...\" in the configuration file)"
            )),
        );
    }
    for (package, names) in missing {
        checks.push(
            Check::new(
                Level::Note,
                "loader",
                package,
                format!("not there: {}", names.join(", ")),
            )
            .remedy(format!(
                "install Debian's package `{package}` where machines or profiles need it"
            )),
        );
    }
    if !there.is_empty() {
        let text = format!("boot loaders that are there: {}", there.join(", "));
        checks.push(Check::ok("loader", "", text));
    }
    checks
}

fn bootenv(state_dir: &Path) -> Option<Check> {
    let dir = state_dir.join("bootenv");
    let built = fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|arch| fs::read_dir(arch.path()).ok())
        .flatten()
        .flatten()
        .any(|version| version.path().join("vmlinuz").exists());
    Some(if built {
        Check::ok(
            "bootenv",
            dir.display().to_string(),
            "a boot environment has been built",
        )
    } else {
        Check::new(
            Level::Note,
            "bootenv",
            dir.display().to_string(),
            "no boot environment has been built yet",
        )
        .remedy("the server builds one when it starts; `bugler bootenv build` shows how that goes")
    })
}

fn clock() -> Vec<Check> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    vec![clock_at(now, clock_is_synchronised().ok())]
}

fn clock_at(now: u64, synchronised: Option<bool>) -> Check {
    let text = bugler_model::Timestamp(i64::try_from(now).unwrap_or_default() * 1000).to_string();
    let remedy = "set it, and let a time service keep it right (systemd-timesyncd, chrony)";
    if !(EARLIEST..LATEST).contains(&now) {
        return Check::new(
            Level::Problem,
            "clock",
            "",
            format!("the clock says {text}: leases, tokens and events would be wrong"),
        )
        .remedy(remedy);
    }
    match synchronised {
        Some(true) => Check::ok(
            "clock",
            "",
            format!("the clock says {text} and is synchronised"),
        ),
        _ => Check::new(
            Level::Note,
            "clock",
            "",
            format!("the clock says {text}; nothing is known to keep it right"),
        )
        .remedy(remedy),
    }
}

/// What this process may do (capabilities(7)), from its /proc/self/status.
fn capabilities(status: &str) -> Check {
    const NEEDED: [(u32, &str); 2] = [(10, "CAP_NET_BIND_SERVICE"), (13, "CAP_NET_RAW")];
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let Some(effective) = effective else {
        return Check::new(
            Level::Note,
            "capabilities",
            "",
            "the kernel does not tell what this process may do",
        );
    };
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(bit, _)| effective & 1 << bit == 0)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Check::ok(
            "capabilities",
            "",
            "this user may take low ports and open packet sockets",
        );
    }
    Check::new(
        Level::Warning,
        "capabilities",
        "",
        format!(
            "this user lacks {}; the server needs them",
            missing.join(" and ")
        ),
    )
    .remedy("run the server as root, or give its unit AmbientCapabilities= with these")
}

fn packet_sockets() -> Check {
    match Socket::new(Domain::PACKET, Type::RAW, None) {
        Ok(_) => Check::ok("kernel", "AF_PACKET", "the kernel has packet sockets"),
        Err(error) => packet_socket_error(&error),
    }
}

fn packet_socket_error(error: &io::Error) -> Check {
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => Check::new(
            Level::Problem,
            "kernel",
            "AF_PACKET",
            "the kernel has no packet sockets: DHCP cannot answer machines without an address",
        )
        .remedy("`modprobe af_packet`, or a kernel with CONFIG_PACKET"),
        Some(libc::EPERM | libc::EACCES) => Check::new(
            Level::Note,
            "kernel",
            "AF_PACKET",
            "packet sockets were not tried: this user may not open one",
        ),
        _ => Check::new(
            Level::Warning,
            "kernel",
            "AF_PACKET",
            format!("a packet socket could not be opened: {error}"),
        )
        .remedy("see what the kernel says: `dmesg | tail`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(checks: &[Check]) -> Vec<(Level, &'static str)> {
        checks
            .iter()
            .map(|check| (check.level, check.about))
            .collect()
    }

    #[test]
    fn a_state_directory_that_cannot_be_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let there = state_dir(dir.path());
        assert_eq!(levels(&there)[0], (Level::Ok, "state-dir"));
        assert_eq!(there[1].about, "disk-space");
        let later = state_dir(&dir.path().join("a/b"));
        assert_eq!(levels(&later)[0], (Level::Note, "state-dir"));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let inside = state_dir(&file.join("state"));
        assert_eq!(levels(&inside), [(Level::Problem, "state-dir")]);
        assert!(inside[0].text.contains("is a file"), "{}", inside[0].text);
    }

    #[test]
    fn missing_loaders_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let loader = |name: &str, needed| Loader {
            name: name.into(),
            paths: vec![
                dir.path().join(name),
                dir.path().join("elsewhere").join(name),
            ],
            needed,
        };
        let wanted = [
            loader("undionly.kpxe", true),
            loader("snponly.efi", true),
            loader("pxelinux.0", false),
            loader("lpxelinux.0", false),
        ];
        let none = loaders(&wanted);
        assert_eq!(
            none.iter().map(|check| check.level).collect::<Vec<_>>(),
            [Level::Problem, Level::Problem, Level::Note]
        );
        assert!(
            none[0]
                .remedy
                .as_deref()
                .unwrap()
                .contains("package `ipxe`")
        );
        assert_eq!(none[2].text, "not there: pxelinux.0, lpxelinux.0");
        assert!(
            none[2]
                .remedy
                .as_deref()
                .unwrap()
                .contains("package `pxelinux`")
        );
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        fs::write(dir.path().join("undionly.kpxe"), "x").unwrap();
        fs::write(dir.path().join("snponly.efi"), "").unwrap();
        fs::write(dir.path().join("elsewhere/pxelinux.0"), "x").unwrap();
        let some = loaders(&wanted);
        assert_eq!(some[0].subject, "snponly.efi");
        assert!(
            some[0].text.contains("is not a boot loader"),
            "{}",
            some[0].text
        );
        assert_eq!(some[1].text, "not there: lpxelinux.0");
        assert!(
            some[2].text.ends_with("undionly.kpxe, pxelinux.0"),
            "{}",
            some[2].text
        );
    }

    #[test]
    fn a_clock_that_was_never_set_is_told() {
        assert_eq!(clock_at(0, Some(true)).level, Level::Problem);
        assert_eq!(clock_at(LATEST, Some(true)).level, Level::Problem);
        assert_eq!(clock_at(1_800_000_000, Some(true)).level, Level::Ok);
        assert_eq!(clock_at(1_800_000_000, Some(false)).level, Level::Note);
    }

    #[test]
    fn what_a_user_may_not_do_is_told() {
        let check = capabilities("Name:\tx\nCapEff:\t0000000000002000\n");
        assert_eq!(check.level, Level::Warning);
        assert!(check.text.contains("CAP_NET_BIND_SERVICE") && !check.text.contains("CAP_NET_RAW"));
        assert_eq!(capabilities("CapEff:\t000001ffffffffff\n").level, Level::Ok);
        assert_eq!(capabilities("").level, Level::Note);
        let none = io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        assert_eq!(packet_socket_error(&none).level, Level::Problem);
    }
}
