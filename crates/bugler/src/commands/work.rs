//! `bugler deploy`, `capture` and `wipe`.

use super::task::{create, wait_for};
use super::{Session, input};
use crate::cli;
use crate::client::encode;
use crate::output;
use anyhow::{Result, bail};
use bugler_model::{Device, DiskRule, Image, VerifyMode, text};
use bugler_protocol::operator::{
    CaptureOrder, CreatedTasks, DeployOrder, IdentityOrder, NewTasks, Order, PlannedTask,
    PowerNote, SeedOrder, TaskPlan, Verdict, WipeOrder,
};
use std::io::{IsTerminal, Write};
use std::path::Path;

fn disk(named: Option<String>) -> DiskRule {
    named.map_or(DiskRule::Auto, DiskRule::Named)
}

pub(super) fn deploy(session: &Session, args: cli::Deploy) -> Result<()> {
    let order = Order::Deploy(DeployOrder {
        image: args.image,
        disk: disk(args.disk),
        verify: if args.no_verify {
            VerifyMode::WriteOnly
        } else {
            VerifyMode::ReadBack
        },
        compare: args.compare.into(),
        grow: args.grow,
        limit_rate: args.limit_rate,
        identity: identity(args.identity)?,
        upgrade_only: args.upgrade_only,
    });
    if args.dry_run {
        return plan(session, order, args.targets);
    }
    create(session, order, args.targets, args.no_power)
}

/// What was asked for of an identity; `None` where nothing was.
fn identity(args: cli::Identity) -> Result<Option<IdentityOrder>> {
    let file = |file: Option<&Path>| file.map(input::text).transpose();
    let seed = SeedOrder {
        user_data: file(args.user_data.as_deref())?,
        meta_data: file(args.meta_data.as_deref())?,
        network_config: file(args.network_config.as_deref())?,
    };
    let all = args.identity;
    let own_name = || all.then(|| "{{ device.name }}".to_owned());
    let identity = IdentityOrder {
        hostname: args.hostname.or_else(own_name),
        machine_id: args.machine_id || all,
        ssh_host_keys: args.ssh_host_keys || all,
        gpt_guids: args.gpt_guids || all,
        seed: (seed != SeedOrder::default()).then_some(seed),
    };
    Ok((identity != IdentityOrder::default()).then_some(identity))
}

fn plan(session: &Session, action: Order, targets: cli::Targets) -> Result<()> {
    let cli::Targets { devices, tag, .. } = targets;
    if devices.is_empty() && tag.is_none() {
        bail!("name at least one device, or a --tag");
    }
    let plan: TaskPlan = session.client.post(
        "tasks/plan",
        &NewTasks {
            action,
            devices,
            tag,
            leave_power: true,
        },
    )?;
    if session.json {
        return output::json(&plan);
    }
    output::table(
        &["DEVICE", "WHAT", "NOW", "THEN", "DISK", "WHY"],
        plan.devices.iter().map(|planned| {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
            vec![
                planned.label.clone(),
                match planned.verdict {
                    Verdict::Do => "deploy".into(),
                    Verdict::Skip => "skip".into(),
                    Verdict::Refuse => "refused".into(),
                },
                or_none(&planned.now),
                or_none(&planned.then),
                or_none(&planned.disk),
                planned.why.clone(),
            ]
        }),
    )
}

/// Names the devices that an order leaves as they are.
pub(super) fn say_skipped(skipped: &[PlannedTask]) {
    for planned in skipped {
        let line = format!("{}: {}", planned.label, planned.why);
        eprintln!("{}", text::clean(&line));
    }
}

/// Says how devices get into their agent.
pub(super) fn say_power(notes: &[PowerNote]) {
    for note in notes {
        eprintln!("{}", text::clean(&format!("{}: {}", note.label, note.text)));
    }
}

pub(super) fn capture(session: &Session, args: cli::Capture) -> Result<()> {
    let order = NewTasks {
        action: Order::Capture(CaptureOrder {
            image_name: args.name,
            note: args.note,
            disk: disk(args.disk),
            partition: args.partition,
            whole: args.whole,
            unclean: args.unclean.into(),
            limit_rate: args.limit_rate,
        }),
        devices: vec![args.device],
        tag: None,
        leave_power: args.no_power,
    };
    let created: CreatedTasks = session.client.post("tasks", &order)?;
    say_power(&created.power);
    if !args.wait {
        return super::task::listed(session, &created.tasks);
    }
    wait_for(session, created.tasks.iter().map(|task| task.id).collect())?;
    if session.json {
        return Ok(());
    }
    for task in &created.tasks {
        let image: Image = session.client.get(&format!("tasks/{}/image", task.id))?;
        println!(
            "{} ({}): {}, {} of them used",
            image.label(),
            image.id,
            text::bytes(image.size),
            text::bytes(image.used)
        );
        for line in image.origin.iter().flat_map(|origin| &origin.reading) {
            println!("  {}", text::clean(line));
        }
    }
    Ok(())
}

pub(super) fn wipe(session: &Session, args: cli::Wipe) -> Result<()> {
    if !args.yes {
        confirm_wipe(session, &args.device)?;
    }
    let order = Order::Wipe(WipeOrder {
        disk: disk(args.disk),
        method: args.method.into(),
    });
    let targets = cli::Targets {
        devices: vec![args.device],
        tag: None,
        wait: args.wait,
    };
    create(session, order, targets, args.no_power)
}

/// Asks a person for the device's name.
fn confirm_wipe(session: &Session, device: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("a wipe cannot be taken back: say --yes where nobody can be asked");
    }
    let device: Device = session.client.get(&format!("devices/{}", encode(device)))?;
    let label = device.label();
    eprint!(
        "Everything on the disk of {} will be gone for good. Type its name to go on: ",
        text::clean(&label)
    );
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == label {
        return Ok(());
    }
    bail!("nothing was wiped: {:?} is not its name", answer.trim())
}
