//! `bugler simulate`: clients that are not there, against a server that is.

use super::Scenario;
use crate::net::{Host, INTERFACE, Net};
use crate::process::output_of;
use crate::run::Run;
use crate::site::Site;
use anyhow::{Context, Result, ensure};
use bugler_model::Device;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "simulate",
    proves: "bugler simulate boots seventy clients of seven kinds within a second, and the server knows each",
    limit: Duration::from_secs(900),
    machines: 0,
    image: true,
    product: true,
    play: seventy,
}];

/// Clients of each kind.
const EACH: u64 = 10;
/// How each kind ends. 64-bit Arm gets GRUB, which is not played any further; a Raspberry Pi and an
/// operating system are done when they have their address.
const ENDS: [(&str, &str); 7] = [
    ("bios", "booted"),
    ("uefi", "booted"),
    ("uefi-http", "booted"),
    ("ipxe", "booted"),
    ("uefi-arm64", "loader"),
    ("pi4", "booted"),
    ("plain", "booted"),
];

/// The clients stand behind a relay and a router, which is the host that plays them: each fetches from
/// the address that it was given.
fn seventy(run: &Run) -> Result<()> {
    let net = Net::new()?;
    let (clients, server) = (Host::alone("gen")?, Host::alone("srv")?);
    for arguments in [
        &format!("-n gen link add {INTERFACE} type veth peer name {INTERFACE} netns srv")[..],
        &format!("-n gen addr add 10.16.0.2/24 dev {INTERFACE}"),
        &format!("-n srv addr add 10.16.0.1/24 dev {INTERFACE}"),
        "-n gen link set lo up",
        "-n srv link set lo up",
        &format!("-n gen link set {INTERFACE} up"),
        &format!("-n srv link set {INTERFACE} up"),
        "-n srv route add 10.17.0.0/24 via 10.16.0.2",
        "-n gen route add local 10.17.0.0/24 dev lo",
        "-n gen addr add 10.17.0.254/32 dev lo",
    ] {
        output_of(Command::new("ip").args(arguments.split_whitespace()))?;
    }
    let config = run.file("bugler.toml");
    let text = format!(
        "[[interface]]\nname = \"{INTERFACE}\"\ndhcp = \"full\"\n\
         pools = [\"10.16.0.100-10.16.0.110\"]\n\
         [[interface.subnet]]\nnetwork = \"10.17.0.0/24\"\n\
         pools = [\"10.17.0.1-10.17.0.200\"]\nrouter = \"10.17.0.254\"\n"
    );
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let config = format!("--config={}", config.display());
    let mut site = Site::on(run, net, server, &[&config])?;
    site.server.start()?;

    let mut simulate = clients.command(&site.product.bugler.display().to_string());
    simulate.args(["simulate", "10.16.0.1", "--relay=10.17.0.254", "--leased"]);
    simulate.arg(format!("--clients={}", EACH * ENDS.len() as u64));
    let report = output_of(simulate.arg("--json"))?;
    let report: Value =
        serde_json::from_str(&report).with_context(|| format!("it printed {report:.500}"))?;
    for (kind, end) in ENDS {
        let ends = &report["kinds"][kind];
        ensure!(
            ends[end] == EACH,
            "of {EACH} clients of the kind {kind} ended: {ends}; failures: {}",
            report["failures"]
        );
    }
    run.say(&format!(
        "{} clients in {:.1} s, {:.0} MB of files, {} DHCP messages sent again",
        EACH * ENDS.len() as u64,
        report["seconds"].as_f64().unwrap_or_default(),
        report["bytes"].as_f64().unwrap_or_default() / 1e6,
        report["repeated"]
    ));
    // All but the operating systems have asked to boot.
    let asked = EACH as usize * (ENDS.len() - 1);
    let devices =
        site.server
            .api()
            .wait("the server to know them", Duration::from_secs(120), |api| {
                let devices: Vec<Device> = api.get("devices")?;
                Ok((devices.len() >= asked).then_some(devices))
            })?;
    ensure!(
        devices.len() == asked,
        "the server knows {} devices",
        devices.len()
    );
    run.say(&format!("the server knows {asked} of them as devices"));
    Ok(())
}
