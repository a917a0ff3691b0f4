//! A root over ATA over Ethernet: all of it is done by the kernel's driver.

use super::attach::AttachError;
use super::device::wait_for;
use crate::log::Log;
use crate::modules;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for an answer to one question who is there.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the driver sends a request again before it gives the device up, in seconds: until the
/// machine is switched off. Its own default is three minutes, after which a root is gone for good.
const DEAD_SECONDS: u32 = 365 * 24 * 3600;

/// Where the driver is asked to look, and to which interface it is told to keep.
const DISCOVER: &str = "/dev/etherd/discover";
const INTERFACES: &str = "/dev/etherd/interfaces";
const DEAD_PARAMETER: &str = "/sys/module/aoe/parameters/aoe_deadsecs";

/// Waits for a target on an interface and returns its device file.
pub(super) fn attach(
    shelf: u16,
    slot: u8,
    interface: &str,
    log: &Log,
) -> Result<PathBuf, AttachError> {
    let parameters = format!("aoe_iflist={interface} aoe_deadsecs={DEAD_SECONDS}");
    modules::load(&["aoe"], Some(("aoe", &parameters)), log);
    if wait_for(ANSWER, || Path::new(DISCOVER).exists().then_some(())).is_none() {
        return Err(AttachError::Missing(format!(
            "there is no {DISCOVER}: the boot environment has no driver for AoE (module aoe)"
        )));
    }
    // Again, for a driver that is part of the kernel or was loaded before.
    for (path, value) in [
        (DEAD_PARAMETER, DEAD_SECONDS.to_string()),
        (INTERFACES, interface.to_owned()),
    ] {
        if let Err(error) = fs::write(path, value) {
            log.line(format!("cannot write to {path}: {error}"));
        }
    }
    fs::write(DISCOVER, "1").map_err(super::attach::kernel(format!("write to {DISCOVER}")))?;
    let disk = PathBuf::from(format!("/dev/etherd/e{shelf}.{slot}"));
    match wait_for(ANSWER, || disk.exists().then_some(())) {
        Some(()) => Ok(disk),
        None => Err(AttachError::Missing(format!(
            "the AoE target e{shelf}.{slot} has not answered on {interface} for {} s; is it exported \
             to this machine, on this network?",
            ANSWER.as_secs()
        ))),
    }
}
