//! How long each stage of a boot takes, from the power button to the agent's registration.

use crate::machine::Machine;
use crate::site::Site;
use anyhow::{Context, Result, ensure};
use bugler_model::{BootSession, Device, Stage, Timestamp};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What PID 1 of the boot environment prints first.
const INIT: &str = "init of the boot environment";

/// The time of day when a machine is switched on.
pub(super) fn now() -> Result<Timestamp> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(Timestamp(i64::try_from(since.as_millis())?))
}

/// Prints the stages of the machine's latest boot, which began with the power button at `power`.
///
/// # Errors
///
/// When a stage is missing, or they are in another order than a boot has.
pub(super) fn print(
    site: &Site<'_>,
    machine: &Machine,
    device: &Device,
    power: Timestamp,
) -> Result<()> {
    let sessions: Vec<BootSession> = site
        .server
        .api()
        .get(&format!("devices/{}/sessions?limit=1", device.id))?;
    let session = sessions
        .first()
        .context("the server has no boot session of the device")?;
    let at = |wanted: Stage| -> Result<Duration> {
        let found = session.stages.iter().find(|(stage, _)| *stage == wanted);
        let (_, at) = found.with_context(|| {
            format!(
                "the boot session has no stage {wanted:?}: {:?}",
                session.stages
            )
        })?;
        Ok(Duration::from_millis(
            u64::try_from(at.millis_since(power)).unwrap_or_default(),
        ))
    };
    let init = machine.console()?.lines_with(INIT);
    let init = init
        .last()
        .context("the console does not say that the agent's init began")?
        .at;
    // A loader in the network card's ROM fetches none: then the script is what comes after DHCP.
    let loader = at(Stage::Loader).or_else(|_| at(Stage::Script))?;
    let parts = [
        ("firmware", at(Stage::Dhcp)?),
        ("DHCP", loader),
        ("loader", at(Stage::Kernel)?),
        ("kernel+initramfs transfer", at(Stage::Start)?),
        ("kernel", init),
        ("agent", at(Stage::Registered)?),
    ];
    let mut before = Duration::ZERO;
    let mut shown = Vec::new();
    for (name, until) in parts {
        let took = until.checked_sub(before).with_context(|| {
            format!(
                "{name} ended before the stage before it: {parts:?} of {:?}",
                session.stages
            )
        })?;
        shown.push(format!("{name} {:.1}", took.as_secs_f64()));
        before = until;
    }
    ensure!(!before.is_zero(), "the boot took no time");
    site.say(&format!(
        "{:.1} s from power-on to registered: {} s",
        before.as_secs_f64(),
        shown.join(", ")
    ));
    Ok(())
}
