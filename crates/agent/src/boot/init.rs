//! PID 1: mounts, then keeps one child at work.
//!
//! ```text
//!  PID 1 ──┬── child `boot`: drivers, network, registration, tasks; restarted when it ends, but for
//!          │   one that has attached a root: then PID 1 becomes the init of the system on it
//!          ├── child `shell`: on the console, while somebody uses it
//!          └── main thread: waits for children, orphans included
//! ```
//!
//! PID 1 itself does as little as it can: if it ends, the kernel panics. A bug in the work ends
//! the child, which is started again and resumes its task.

use super::console;
use crate::backoff::{self, Backoff};
use crate::cmdline::Cmdline;
use crate::diskless::{self, Plan};
use crate::log::Log;
use crate::power::Power;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Tells the child what became of the one before it.
pub(crate) const LAST_EXIT: &str = "BUGLER_AGENT_LAST_EXIT";

/// A child that has worked this long is one that worked: the next is started at once.
const WORKED: Duration = Duration::from_secs(60);

/// The process of an open rescue shell; 0 while there is none.
static OPEN_SHELL: AtomicI32 = AtomicI32::new(0);

/// Filesystems of the kernel: type, place, flags, options.
const MOUNTS: [(&CStr, &CStr, MountFlags, &CStr); 5] = [
    (c"proc", c"/proc", MountFlags::NOSUID, c""),
    (c"sysfs", c"/sys", MountFlags::NOSUID, c""),
    (c"devtmpfs", c"/dev", MountFlags::NOSUID, c"mode=0755"),
    (c"tmpfs", c"/run", MountFlags::NOSUID, c"mode=0755"),
    (c"tmpfs", c"/tmp", MountFlags::NOSUID, c"mode=1777"),
];

/// The life of PID 1.
pub fn main() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        // What follows would be a kernel panic, on which most machines stand still for ever.
        eprintln!("bugler-agent: bug in init: {panic}; rebooting in 10 s");
        std::thread::sleep(Duration::from_secs(10));
        let error = Power::Reboot.execute();
        eprintln!("bugler-agent: cannot reboot: {error}");
        loop {
            std::thread::park();
        }
    }));
    let problems = mount_all();
    open_console();
    let log = console::start();
    log.line(concat!(
        "version ",
        env!("CARGO_PKG_VERSION"),
        ", init of the boot environment"
    ));
    for problem in problems {
        log.line(problem);
    }
    let cmdline = Cmdline::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let (ended, exits) = channel();
    let console_log = log.clone();
    let rescue = cmdline.rescue;
    let spawned = std::thread::Builder::new()
        .name("rescue".into())
        .spawn(move || rescue_shell(rescue, &exits, &console_log));
    if let Err(error) = spawned {
        log.line(format!("no rescue shell: {error}"));
    }
    let plan = cmdline.diskless.plan().ok().flatten();
    supervise(&log, &ended, plan.as_ref())
}

/// Mounts what programs expect; says what could not be.
fn mount_all() -> Vec<String> {
    let mut problems = Vec::new();
    for (kind, place, flags, options) in MOUNTS {
        let path = place.to_string_lossy();
        let made = std::fs::create_dir_all(&*path);
        let mounted = mount(kind, place, kind, flags, options);
        // EBUSY: it is there already.
        if let Err(error) = mounted
            && error != Errno::BUSY
        {
            let made = made.err().map(|e| format!(" ({e})")).unwrap_or_default();
            let kind = kind.to_string_lossy();
            problems.push(format!("cannot mount {kind} on {path}: {error}{made}"));
        }
    }
    problems
}

/// Makes `/dev/console` standard input and output. The kernel has done so where the initramfs
/// brings that device node; where it does not, the node exists only now.
fn open_console() {
    let console = File::options().read(true).write(true).open("/dev/console");
    if let Ok(console) = console {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
}

/// Keeps a child at work, and takes the status of everything that ends.
fn supervise(log: &Log, ended: &Sender<Pid>, plan: Option<&Plan>) -> ! {
    let mut backoff = Backoff::new(
        Duration::from_secs(1),
        Duration::from_secs(30),
        backoff::seed(),
    );
    let mut last = String::new();
    loop {
        let began = Instant::now();
        match spawn("boot", &last) {
            Ok(pid) => {
                let status = wait_for(pid, ended);
                if let Some(plan) = plan
                    && matches!(&status, Ok(status) if status.exit_status() == Some(diskless::READY.into()))
                {
                    become_system(plan, log, ended);
                }
                last = status.map_or_else(|error| error.to_string(), describe);
                log.line(format!(
                    "the agent's work ended by {last}; starting it again"
                ));
            }
            Err(error) => log.line(format!("cannot start the agent's work: {error}")),
        }
        if began.elapsed() > WORKED {
            backoff.reset();
        }
        std::thread::sleep(backoff.wait());
    }
}

/// Waits for a child; other children that end meanwhile are reported to whoever waits for them.
///
/// # Errors
/// It has gone, unseen.
fn wait_for(pid: Pid, ended: &Sender<Pid>) -> Result<WaitStatus, Errno> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((found, status))) if found == pid => return Ok(status),
            Ok(Some((found, _))) => drop(ended.send(found)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Starts the system on the attached root in place of this program. Where that fails there is nothing
/// left to go back to.
fn become_system(plan: &Plan, log: &Log, ended: &Sender<Pid>) -> ! {
    if let Some(shell) = Pid::from_raw(OPEN_SHELL.load(Ordering::SeqCst)) {
        log.line("the root is mounted at /sysroot; its system starts when the shell ends");
        let _ = wait_for(shell, ended);
    }
    // Not by the log: its thread does not outlive what follows.
    let say = |text: &str| eprintln!("bugler-agent: {text}\r");
    say(&format!("starting {} of the root", plan.init));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let error = diskless::switch::over(&plan.init, &arguments, &say);
    // The hook for panics says it, waits and reboots.
    panic!("cannot start {} of the root: {error}", plan.init);
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".into(),
    }
}

/// Starts this program again, in another role.
fn spawn(role: &str, last: &str) -> io::Result<Pid> {
    let child = Command::new("/proc/self/exe")
        .arg(role)
        .env(LAST_EXIT, last)
        .spawn()?;
    // Dropping `child` leaves the process alone: its status is taken by `wait_for`.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("the child has no process id"))
}

/// Gives whoever presses Enter on the console a shell, where the boot environment has one.
fn rescue_shell(mut at_once: bool, exits: &Receiver<Pid>, log: &Log) {
    if !Path::new("/bin/sh").exists() {
        if at_once {
            log.line("bugler.rescue: this boot environment has no /bin/sh");
        }
        return;
    }
    log.line("press Enter on the console for a shell");
    loop {
        if !std::mem::take(&mut at_once) && !wait_for_enter() {
            return;
        }
        match spawn("shell", "") {
            Ok(pid) => {
                OPEN_SHELL.store(pid.as_raw_nonzero().get(), Ordering::SeqCst);
                // Orphans' exits come here too, and are passed over.
                while exits.recv().is_ok_and(|exit| exit != pid) {}
                OPEN_SHELL.store(0, Ordering::SeqCst);
                log.line("the shell has ended; press Enter for another one");
            }
            Err(error) => log.line(format!("cannot start a shell: {error}")),
        }
    }
}

/// Waits for a line on the console; false where there is no console to read from.
fn wait_for_enter() -> bool {
    let mut byte = [0; 1];
    loop {
        match io::stdin().read(&mut byte) {
            Ok(0) => return false,
            Ok(_) if matches!(byte, [b'\n' | b'\r']) => return true,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return false,
            _ => {}
        }
    }
}
