//! The story, step by step.

use super::screen::Screen;
use super::timeline::{self, Deploy, Times};
use super::{forward, operator};
use crate::disk;
use crate::machine::{Firmware, Machine, Spec};
use crate::run::Run;
use crate::site::{IMAGE, MIB, STAGE, Site};
use anyhow::{Context, Result, bail, ensure};
use bugler_model::{BootSession, Device, DeviceId, Presence, Stage, Task, TaskState, Timestamp};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many steps there are.
const STEPS: usize = 7;
/// The machine's disk in MiB: larger than the image, as disks are.
const DISK: u64 = 4096;
/// How often the server is asked how far a deploy is.
const LOOK: Duration = Duration::from_millis(100);

/// How the dashboard is reached from the host.
pub(super) struct Dashboard {
    /// The address on the host.
    pub(super) address: String,
    /// Where its connections come in.
    pub(super) socket: PathBuf,
}

/// Plays it. `passed` is called once the machine is up from its own disk; with a `dashboard`,
/// everything is then left as it is, and this does not return.
pub(super) fn play(
    run: &Run,
    firmware: Firmware,
    dashboard: Option<Dashboard>,
    passed: &dyn Fn() -> Result<()>,
) -> Result<()> {
    println!(
        "One machine with an empty disk, one server, one private network. Nothing else is touched."
    );
    let screen = Screen::new(STEPS);
    let outcome = Story {
        run,
        screen: &screen,
        firmware,
        dashboard,
    }
    .play(passed);
    screen.rest();
    outcome.with_context(|| screen.current())
}

struct Story<'a> {
    run: &'a Run,
    screen: &'a Screen,
    firmware: Firmware,
    dashboard: Option<Dashboard>,
}

impl Story<'_> {
    fn play(&self, passed: &dyn Fn() -> Result<()>) -> Result<()> {
        let screen = self.screen;
        screen.step("The server starts");
        let mut site = Site::full(self.run)?;
        screen.wait("bugler serve --interface eth0 --dhcp full");
        site.server.start()?;
        screen.rest();
        screen.line(&format!(
            "bugler serve answers {:.1} s after the network was made",
            self.run.elapsed().as_secs_f64()
        ));
        if let Some(dashboard) = &self.dashboard {
            let address = operator(&site.server)?;
            site.server
                .host()
                .run(|| forward::from_unix(&dashboard.socket, address))??;
            screen.line(&format!("dashboard: http://{}/", dashboard.address));
        }

        screen.step("A machine that nobody knows is switched on");
        let file = self.run.file("n1.raw");
        disk::empty(&file, DISK * MIB)?;
        let spec = Spec::new("n1", 1, self.firmware).disk(&file);
        let mut machine = Machine::new(self.run, &site.net, spec)?;
        screen.line(&format!("{}, an empty disk of {DISK} MiB", self.firmware));
        screen.line(&format!("run by {}", machine.accelerator()));
        machine.power_on()?;
        let power_on = now();
        let device = self.arrives(&site, &machine, power_on)?;

        screen.step("It is in the list, with what it is made of; nothing on it is changed");
        self.bugler(&site, &["device", "list"])?;
        self.bugler(&site, &["device", "show", &device.id.to_string()])?;
        ensure!(
            machine.disk_written()? == 0,
            "somebody has written to the machine's disk"
        );

        screen.step("A Debian image is added");
        self.bugler(&site, &["image", "add", IMAGE, "disk.raw"])?;
        self.bugler(&site, &["image", "list"])?;

        screen.step("The image is deployed, and read back");
        let deploy = self.deploy(&site, &device)?;

        screen.step("The machine reboots, and starts from its own disk");
        screen.wait("waiting for Debian to say on the serial console that it is up");
        let seen = machine.wait_for("BUGLER-LAB: up from", 2 * STAGE)?;
        let up = now();
        screen.rest();
        screen.line(&seen.line);
        for part in [&machine.spec().uuid, &site.image.stamp] {
            ensure!(
                seen.line.contains(part),
                "another system came up: {part} is not in that line"
            );
        }
        self.bugler(&site, &["device", "list"])?;
        let boots = sessions(&site, device.id)?;
        self.told_to_boot_its_disk(&site, &machine)?;

        screen.step("Where the time went");
        let ink = if screen.is_terminal() { '█' } else { '#' };
        println!(
            "{}",
            timeline::draw(
                &Times {
                    power_on,
                    boots,
                    deploy,
                    up
                },
                ink
            )
        );
        println!("The machine came up from its own disk.");
        passed()?;
        if let Some(dashboard) = &self.dashboard {
            self.stay(&site, &machine, dashboard)?;
        }
        Ok(())
    }

    /// Follows the first boot until the server knows what the machine is made of.
    fn arrives(&self, site: &Site<'_>, machine: &Machine, power_on: Timestamp) -> Result<Device> {
        let mac = machine.spec().mac;
        self.screen.wait("waiting for its agent");
        let mut shown = 0;
        let found = site
            .server
            .api()
            .wait("the machine to register", 2 * STAGE, |api| {
                let Some(device) = api.device(mac)? else {
                    return Ok(None);
                };
                let boots = sessions(site, device.id)?;
                let stages = boots
                    .first()
                    .map(|boot| boot.stages.as_slice())
                    .unwrap_or_default();
                for (stage, at) in stages.iter().skip(shown) {
                    let after = at.millis_since(power_on) as f64 / 1000.0;
                    self.screen
                        .line(&format!("{after:5.1} s  {}", happened(*stage)));
                }
                shown = stages.len().max(shown);
                let arrived = device.presence == Presence::Agent && device.inventory.is_some();
                Ok(arrived.then_some(device))
            });
        self.screen.rest();
        found.with_context(|| {
            let console = machine
                .console()
                .map(|console| console.tail())
                .unwrap_or_default();
            format!("{mac} did not register; the last lines of its console:\n{console}")
        })
    }

    /// Deploys as an operator does, and looks at the clock meanwhile.
    fn deploy(&self, site: &Site<'_>, device: &Device) -> Result<Deploy> {
        let id = device.id.to_string();
        let api = site.server.api();
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut times = Deploy::default();
                // The last look comes after the end, so that the end is seen.
                loop {
                    let last = ended.load(Ordering::Acquire);
                    let tasks: Vec<Task> = api.get(&format!("tasks?device={id}"))?;
                    if let Some(task) = tasks.first() {
                        note(&mut times, task);
                    }
                    if last {
                        return Ok(times);
                    }
                    thread::sleep(LOOK);
                }
            });
            let deployed = self.bugler(site, &["deploy", IMAGE, &id, "--wait"]);
            ended.store(true, Ordering::Release);
            let times: Result<Deploy> = match watcher.join() {
                Ok(times) => times,
                Err(_) => bail!("the thread that watches the deploy panicked"),
            };
            deployed?;
            let times = times.context("cannot follow the deploy")?;
            ensure!(
                times.done.is_some(),
                "`bugler deploy --wait` ended before the task was done"
            );
            Ok(times)
        })
    }

    /// The server, too, has to say that the machine was sent to its own disk.
    fn told_to_boot_its_disk(&self, site: &Site<'_>, machine: &Machine) -> Result<()> {
        let device = site.device(machine)?;
        ensure!(
            device.presence == Presence::Local,
            "the machine is up, but for the server it is not at its local disk: {:?}",
            device.presence
        );
        Ok(())
    }

    /// Shows a command line of the operator, and runs it as it is.
    fn bugler(&self, site: &Site<'_>, arguments: &[&str]) -> Result<()> {
        let shown = format!("bugler {}", arguments.join(" "));
        self.screen.command(&shown);
        let status = site
            .command(arguments)
            .current_dir(
                site.image
                    .disk
                    .parent()
                    .context("the image is in no folder")?,
            )
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot run `{shown}`"))?;
        ensure!(
            status.success(),
            "`{shown}` failed ({status}); the server's last lines:\n{}",
            site.server.process()?.transcript().tail()
        );
        Ok(())
    }

    /// Leaves everything running.
    fn stay(&self, site: &Site<'_>, machine: &Machine, dashboard: &Dashboard) -> Result<()> {
        println!("\nIt is left running.");
        println!("  dashboard       http://{}/", dashboard.address);
        println!(
            "  command line    {} --server http://{} device list",
            site.product.bugler.display(),
            dashboard.address
        );
        println!(
            "  serial console  tail -f {}",
            machine.console()?.path().display()
        );
        println!("  files           {}", self.run.dir().display());
        println!("Ctrl-C ends it and removes all of it.");
        loop {
            // The outer program ends this one.
            thread::park();
        }
    }
}

/// Writes down when the task was first seen in its state.
fn note(times: &mut Deploy, task: &Task) {
    times.ordered.get_or_insert(task.created);
    match task.state {
        TaskState::Running => _ = times.writing.get_or_insert(task.updated),
        TaskState::Verifying => _ = times.verifying.get_or_insert(task.updated),
        TaskState::Done => _ = times.done.get_or_insert(task.updated),
        TaskState::Queued | TaskState::Claimed | TaskState::Failed | TaskState::Cancelled => {}
    }
}

/// The boots of the device, latest first.
fn sessions(site: &Site<'_>, device: DeviceId) -> Result<Vec<BootSession>> {
    site.server
        .api()
        .get(&format!("devices/{device}/sessions?limit=10"))
}

/// What a stage of a boot means, as it is reached.
fn happened(stage: Stage) -> &'static str {
    match stage {
        Stage::Dhcp => "the firmware asks for an address",
        Stage::Loader => "it fetches the boot loader",
        Stage::Script => "iPXE asks for its script",
        Stage::Kernel => "it fetches the kernel",
        Stage::Initramfs => "it fetches the initramfs, with the agent inside",
        Stage::Start => "the kernel starts",
        Stage::Agent => "the agent calls",
        Stage::Registered => "the agent has registered",
        Stage::Local => "it is told to boot its own disk",
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::{Progress, TaskAction, TaskId};

    #[test]
    fn the_first_sight_of_a_state_counts() {
        let mut task = Task {
            id: TaskId(1),
            device: DeviceId(1),
            action: TaskAction::Reboot,
            state: TaskState::Queued,
            progress: Progress::default(),
            message: None,
            attempts: 1,
            created: Timestamp(10),
            updated: Timestamp(10),
        };
        let mut times = Deploy::default();
        let seen = [
            (TaskState::Queued, 10),
            (TaskState::Running, 20),
            (TaskState::Running, 30),
            (TaskState::Verifying, 40),
            (TaskState::Done, 50),
        ];
        for (state, at) in seen {
            task.state = state;
            task.updated = Timestamp(at);
            note(&mut times, &task);
        }
        let expected = Deploy {
            ordered: Some(Timestamp(10)),
            writing: Some(Timestamp(20)),
            verifying: Some(Timestamp(40)),
            done: Some(Timestamp(50)),
        };
        assert_eq!(times, expected);
    }
}
