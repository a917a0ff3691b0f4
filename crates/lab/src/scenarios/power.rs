//! Machines that nobody touches: switched by their BMC.

use super::Scenario;
use crate::bmc::fleet::{ARGUMENTS, PASSWORD, USER, configure};
use crate::machine::Firmware;
use crate::process::Process;
use crate::run::Run;
use crate::site::{IMAGE, Node, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{PowerState, Task, TaskState};
use bugler_protocol::operator::{PowerResult, PowerView};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

pub(super) const ALL: &[Scenario] = &[Scenario::of_one_machine(
    Duration::from_secs(600),
    "power-ipmi",
    "a machine that is off and boots its disk first is deployed by one command: its BMC (ipmi_sim) has it \
     boot from the network once and switches it on",
    ipmi,
)];

/// What the BMC calls: keeps the power state in a file, and notes what was done.
const CHASSIS: &str = "#!/bin/sh
d=$1; op=$2; shift 2
if [ \"$op\" = get ]; then
  for word in \"$@\"; do
    case $word in
      power) echo \"power:$(cat \"$d/power\")\" ;;
      boot) echo boot:default ;;
    esac
  done
  exit 0
fi
while [ $# -gt 0 ]; do
  [ \"$1\" = power ] && echo \"$2\" > \"$d/power\"
  echo \"$1 $2\" >> \"$d/done\"
  shift 2
done
";

/// A BMC. The lab is the wire between it and its machine: it does what the BMC has noted.
struct Bmc {
    dir: PathBuf,
    _process: Process,
}

impl Bmc {
    fn start(site: &Site<'_>) -> Result<Self> {
        let dir = site.run().file("bmc");
        let script = dir.join("chassis.sh");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 623));
        let chassis = format!("{} {}", script.display(), dir.display());
        configure(&dir, &chassis, address)?;
        for (file, text) in [("power", "1\n"), ("done", ""), ("chassis.sh", CHASSIS)] {
            fs::write(dir.join(file), text)?;
        }
        fs::write(dir.join("password"), format!("{PASSWORD}\n"))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let mut command = site.server.host().command("ipmi_sim");
        command.args(ARGUMENTS).current_dir(&dir);
        let process = Process::start("ipmi_sim", command, &site.run().file("ipmi_sim.log"))?;
        Ok(Self {
            dir,
            _process: process,
        })
    }

    fn done(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.dir.join("done"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Waits until the last that was done to the machine is this.
    fn wait(&self, site: &Site<'_>, wanted: &[&str]) -> Result<()> {
        let api = site.server.api();
        let done = api
            .wait(&format!("the BMC to do {wanted:?}"), STAGE, |_| {
                let done = self.done()?;
                let last = done.len().saturating_sub(wanted.len());
                Ok((done[last..] == *wanted).then_some(done))
            })
            .with_context(|| format!("it did {:?}", self.done()))?;
        site.say(&format!("the BMC was told: {}", done.join(", ")));
        Ok(())
    }
}

/// The result of a power command for one device.
fn power(site: &Site<'_>, arguments: &[&str]) -> Result<PowerResult> {
    let mut all = vec!["power"];
    all.extend(arguments);
    site.bugler(&all)
}

fn ipmi(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let mut node = site.node(1, Firmware::Bios, 1200)?;
    node.machine.boot_disk_first(true);
    let bmc = Bmc::start(&site)?;

    // Nothing can be started from its disk yet: it falls through to the network, and is known.
    node.machine.power_on()?;
    let device = site.registered(&node.machine)?;
    let id = device.id.to_string();
    let password = bmc.dir.join("password").display().to_string();
    let view: PowerView = site.bugler(&[
        "device",
        "power",
        &id,
        "--ipmi=127.0.0.1",
        "--user",
        USER,
        "--password-file",
        &password,
    ])?;
    ensure!(view.drivers.len() == 1, "its power is {view:?}");
    let status = power(&site, &["status", &id])?;
    ensure!(status.state == PowerState::On, "it is {status:?}");

    power(&site, &["off", &id])?;
    bmc.wait(&site, &["power 0"])?;
    node.machine.cut_power()?;
    let status = power(&site, &["status", &id])?;
    ensure!(status.state == PowerState::Off, "it is {status:?}");
    site.add_image()?;

    let mut deploying = site.start_bugler(&["deploy", IMAGE, &id, "--wait"], "deploy.log")?;
    bmc.wait(&site, &["boot pxe", "power 1"])?;
    switch_on(&mut node, false)?;
    let status = deploying.wait_exit(STAGE)?;
    ensure!(status.success(), "bugler deploy --wait ended with {status}");
    let tasks: Vec<Task> = site.bugler(&["task", "list", "--device", &id])?;
    ensure!(
        tasks.iter().all(|task| task.state == TaskState::Done),
        "the tasks are {tasks:?}"
    );
    node.machine.wait_reboot(STAGE)?;
    site.compare(&node.disk)?;
    // What was for once is used up: its firmware goes to the disk by itself.
    node.machine.cut_power()?;
    switch_on(&mut node, true)?;
    site.up_from_disk(&node.machine)?;

    power(&site, &["reset", &id])?;
    bmc.wait(&site, &["reset 1"])?;
    Ok(())
}

fn switch_on(node: &mut Node, disk_first: bool) -> Result<()> {
    node.machine.boot_disk_first(disk_first);
    node.machine.power_on()
}
