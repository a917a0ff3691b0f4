//! Six machines without a disk, all on at once, run one image: each has its own layer, and what one
//! writes no other ever reads.

use super::Scenario;
use super::diskless::{ANSWER, LOGIN, THIN, answer, begin_work, enter, profile};
use crate::machine::{Firmware, Machine, Spec};
use crate::run::Run;
use crate::site::{IMAGE, MIB, Site};
use anyhow::{Context, Result, ensure};
use bugler_protocol::operator::OverlayView;
use std::collections::BTreeSet;
use std::time::Duration;

/// How many machines.
const MACHINES: u8 = 6;
/// Memory of each in MiB: kernel, initramfs and Debian need no more.
const MEMORY: u32 = 384;
/// How long they may take together for what one does in [`STAGE`](crate::site::STAGE): six emulated
/// machines share what cores there are.
const TOGETHER: Duration = Duration::from_secs(1500);
/// What each machine writes, in MiB.
const OWN: u64 = 4;

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "diskless-six",
    proves: "six machines that are on at once run one image over NBD, each with a layer of its own, \
             and none ever sees what another one writes",
    limit: Duration::from_secs(3000),
    machines: MACHINES as usize,
    image: true,
    product: true,
    play: six,
}];

/// Reads what it wrote from the server again, not from its memory: its sum, its note, whose names it
/// sees, and who it is.
fn look() -> String {
    format!(
        "echo 3 >/proc/sys/vm/drop_caches; \
         {ANSWER}$(sha256sum <own | cut -c 1-64) $(cat note) $(echo from-*) $(cat /etc/machine-id)\""
    )
}

fn six(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    site.add_image()?;
    profile(&site, IMAGE, "nbd")?;
    let _: serde_json::Value = site.bugler(&["rule", "add", THIN])?;

    let mut machines = Vec::new();
    for number in 1..=MACHINES {
        let spec = Spec::new(&format!("n{number}"), number, Firmware::Bios).memory(MEMORY);
        machines.push(Machine::new(run, &site.net, spec)?);
    }
    let began = run.elapsed();
    for machine in &mut machines {
        machine.power_on()?;
    }
    for machine in &machines {
        let seen = machine.wait_for("BUGLER-LAB: up from", TOGETHER)?;
        run.say(&format!(
            "{}, {:.0} s after power-on: {}",
            machine.spec().name,
            seen.at.as_secs_f64(),
            seen.line.trim()
        ));
    }
    run.say(&format!(
        "all {MACHINES} run the image {:.0} s after power-on",
        (run.elapsed() - began).as_secs_f64()
    ));
    for machine in &mut machines {
        machine.wait_for(LOGIN, TOGETHER)?;
        enter(machine)?;
    }

    // All at once, and under the same names, so that a filesystem of the same content puts them at the
    // same places of its disk.
    for machine in &mut machines {
        let name = machine.spec().name.clone();
        let work = format!(
            "head -c {OWN}M /dev/urandom >own; echo {name} >note; touch from-{name}; sync; {}",
            look()
        );
        begin_work(machine, &work)?;
    }
    let wrote = answers(&machines)?;
    // The last of them had written when its answer came: whatever one did to another is there now.
    for machine in &mut machines {
        begin_work(machine, &look())?;
    }
    let found = answers(&machines)?;
    for (machine, (wrote, found)) in machines.iter().zip(wrote.iter().zip(&found)) {
        let name = &machine.spec().name;
        ensure!(
            wrote == found,
            "{name} wrote {wrote:?}, and when all had written it read {found:?}"
        );
        let [_, note, names, _] = words(found)?;
        ensure!(
            note == name && names == format!("from-{name}"),
            "{name} sees what others wrote: {found:?}"
        );
    }
    for (column, what) in [(0, "contents"), (3, "machine ids")] {
        let mut all = BTreeSet::new();
        for line in &found {
            all.insert(words(line)?[column]);
        }
        ensure!(
            all.len() == machines.len(),
            "{MACHINES} machines have {} different {what}",
            all.len()
        );
    }
    run.say("each reads back what it wrote, and no name, content or identity of another");

    let views: Vec<OverlayView> = site.bugler(&["overlay", "list"])?;
    let devices: BTreeSet<String> = views
        .iter()
        .map(|view| view.export.device.to_string())
        .collect();
    ensure!(
        views.len() == machines.len() && devices.len() == machines.len(),
        "there are {} layers of {} devices",
        views.len(),
        devices.len()
    );
    let version = &views.first().context("there is no layer")?.export.manifest;
    for view in &views {
        ensure!(
            view.export.manifest == *version,
            "{} runs another image",
            view.device
        );
        ensure!(
            view.used >= OWN * MIB && view.clients.len() == 1,
            "the layer {} holds {} bytes and serves {:?}",
            view.export.id,
            view.used,
            view.clients
        );
        run.say(&format!(
            "{} of {}: {} KiB on {}, {} MiB read",
            view.export.id,
            view.device,
            view.used / 1024,
            view.export.label,
            view.read / MIB
        ));
    }
    for machine in &mut machines {
        machine.cut_power()?;
    }
    Ok(())
}

/// What all machines answer, in their order.
fn answers(machines: &[Machine]) -> Result<Vec<String>> {
    machines
        .iter()
        .map(|machine| answer(machine, TOGETHER))
        .collect()
}

/// The four words of what [`look`] prints.
fn words(line: &str) -> Result<[&str; 4]> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let count = words.len();
    words
        .try_into()
        .ok()
        .with_context(|| format!("a machine answered {count} words: {line:?}"))
}
