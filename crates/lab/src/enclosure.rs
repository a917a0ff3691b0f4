//! The private network that a scenario lives in: namespaces that end with the process that made
//! them.
//!
//! The program starts itself again through `unshare` (util-linux) in new network, mount and process
//! namespaces, and in a user namespace when it lacks the right to make the others. The inner program
//! is process 1 of its process namespace, so the kernel ends every server and every machine with it;
//! namespaces, bridges and taps have no other owner and vanish too.
//!
//! The outer program keeps the write end of the inner one's standard input. When the outer one ends,
//! however it ends, the inner one reads the end of file and ends as well.

use anyhow::{Context, Result, bail, ensure};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, mount};
use rustix::thread::set_name;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// The variable that tells the inner program which network namespace it must not be in.
const OUTSIDE: &str = "BUGLER_LAB_OUTSIDE";

/// A private folder, in memory, of the inner program: sockets of QEMU, whose paths must be short.
pub const RUN_DIR: &str = "/run/bugler-lab";

/// Which side of the wall this process is on.
#[derive(Debug)]
pub enum Side {
    /// Inside: the caller plays its scenario.
    Inside,
    /// Outside: the inner program has ended with this code.
    Outside(ExitCode),
}

/// Whether this process has been started inside by [`enter`].
#[must_use]
pub fn is_inside() -> bool {
    env::var_os(OUTSIDE).is_some()
}

/// Enters the private network. Call it before any thread is started. The first call starts the
/// program again inside, waits for it for at most `limit`, and returns [`Side::Outside`]; in the
/// inner program it returns [`Side::Inside`].
///
/// # Errors
///
/// When namespaces cannot be made (the text says what to change), or `limit` has passed.
pub fn enter(limit: Duration) -> Result<Side> {
    if let Some(outside) = env::var_os(OUTSIDE) {
        settle(&outside)?;
        return Ok(Side::Inside);
    }
    let never = AtomicBool::new(false);
    match enter_with(limit, &[], &never)? {
        Some(code) => Ok(Side::Outside(code)),
        None => bail!("the scenario was stopped"),
    }
}

/// The outer program's part of [`enter`], for one that has more to say: the inner program gets the
/// variables `environment` as well, and is ended as soon as `stop` is set; then the result is `None`.
///
/// # Errors
///
/// As [`enter`].
pub fn enter_with(
    limit: Duration,
    environment: &[(&str, OsString)],
    stop: &AtomicBool,
) -> Result<Option<ExitCode>> {
    let mut inner = start_inner(environment)?;
    let end = Instant::now() + limit;
    loop {
        if stop.load(Ordering::Relaxed) {
            kill(&mut inner)?;
            return Ok(None);
        }
        if let Some(status) = inner
            .try_wait()
            .context("cannot wait for the inner program")?
        {
            return Ok(Some(exit_code(status)));
        }
        if Instant::now() >= end {
            kill(&mut inner)?;
            bail!(
                "the scenario was still running after {} s and was ended",
                limit.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn kill(inner: &mut Child) -> Result<()> {
    inner
        .kill()
        .context("cannot end the program inside the private network")?;
    inner.wait().context("cannot wait for the inner program")?;
    Ok(())
}

/// The arguments with which `unshare` gives us a private network here.
fn unshare_arguments() -> Result<Vec<&'static str>> {
    // --kill-child: when unshare is killed, so is process 1 inside.
    let plain = vec!["--net", "--mount", "--pid", "--fork", "--kill-child"];
    let mut with_user = plain.clone();
    with_user.extend(["--user", "--map-root-user"]);
    let mut said = String::new();
    for arguments in [plain, with_user] {
        let output = Command::new("unshare")
            .args(&arguments)
            .arg("true")
            .stdin(Stdio::null())
            .output()
            .context("cannot run unshare; it is in the package util-linux")?;
        if output.status.success() {
            return Ok(arguments);
        }
        said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    bail!(
        "cannot make network namespaces, neither directly nor in a user namespace: {said}. Run it \
         as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces above 0)"
    )
}

fn start_inner(environment: &[(&str, OsString)]) -> Result<Child> {
    // Our own file, even when a build has put another one in its place meanwhile. Children inherit
    // it; that does no harm.
    let program = File::open("/proc/self/exe").context("cannot open this program's own file")?;
    fcntl_setfd(&program, FdFlags::empty()).context("cannot let a child have an open file")?;
    Command::new("unshare")
        .args(unshare_arguments()?)
        .arg("--")
        .arg(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .args(env::args_os().skip(1))
        .env(OUTSIDE, network_namespace()?)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start the program again inside a private network")
}

fn exit_code(status: ExitStatus) -> ExitCode {
    ExitCode::from(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    )
}

/// The identity of the network namespace that this process is in.
fn network_namespace() -> Result<OsString> {
    let link = "/proc/self/ns/net";
    Ok(fs::read_link(link)
        .with_context(|| format!("cannot read {link}"))?
        .into())
}

/// Prepares the inside, as process 1.
fn settle(outside: &OsString) -> Result<()> {
    ensure!(
        network_namespace()? != *outside,
        "{OUTSIDE} is set, but this is the network namespace that it names: refusing to make \
         bridges in a real network. Unset it"
    );
    // Started through a file descriptor, we would be listed as its number.
    let _ = set_name(c"bugler-lab");
    // The old /proc still works for everything that asks about itself; where it is masked (in a
    // container), a new one is not allowed.
    let _ = mount("proc", "/proc", "proc", MountFlags::empty(), None);
    // `ip netns` keeps its namespaces in /run/netns. This /run is ours alone and ends with us.
    mount(
        "lab",
        "/run",
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=0755"),
    )
    .context("cannot mount a private /run inside the private network")?;
    for dir in ["/run/netns", RUN_DIR] {
        fs::create_dir(dir).with_context(|| format!("cannot make {dir}"))?;
    }
    thread::Builder::new().name("lifeline".into()).spawn(|| {
        let mut end = [0];
        // Nothing is ever sent: this returns when the outer program is gone.
        let _ = std::io::stdin().read(&mut end);
        die();
    })?;
    Ok(())
}

/// Ends this process, and with it everything inside.
#[allow(clippy::disallowed_methods)] // The kernel ends the children of process 1; that is the point.
fn die() -> ! {
    std::process::exit(1)
}
