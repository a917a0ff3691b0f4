//! However the network is built: beside Kea, through a relay, and every kind of machine on one segment.

use super::{Scenario, firmware, pi};
use crate::machine::{Firmware, Machine, Spec};
use crate::net::{Host, INTERFACE, Net, address};
use crate::peers::Kea;
use crate::pi::{Board, Pi};
use crate::process::{Process, output_of};
use crate::run::Run;
use crate::site::{STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_protocol::operator::ServerStatus;
use std::fs;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "proxy-kea",
        proves: "beside a Kea that owns the addresses BIOS and UEFI machines boot the agent",
        limit: LIMIT,
        machines: 2,
        image: true,
        product: true,
        play: beside_kea,
    },
    Scenario {
        name: "boot-relay",
        proves: "a machine behind a relay and a router boots the agent, and then its disk",
        limit: LIMIT,
        machines: 1,
        image: true,
        product: true,
        play: through_a_relay,
    },
    Scenario {
        name: "every-kind",
        proves: "PCs, Arm machines and Raspberry Pis of every firmware boot at once, from one server on one segment",
        limit: LIMIT,
        machines: 5,
        image: true,
        product: true,
        play: every_kind,
    },
];

fn beside_kea(run: &Run) -> Result<()> {
    let mut site = Site::new(run, &["--dhcp=auto"])?;
    let host = site.net.add_host("dhcp", address(2))?;
    let kea = Kea::addresses_only(run, &host)?;
    site.server.start()?;
    let said = site
        .server
        .api()
        .wait("the server to find Kea", STAGE, |api| {
            let status: ServerStatus = api.get("server")?;
            let mut lines = status.services.into_iter();
            Ok(lines.find(|line| line.contains("proxy beside")))
        })?;
    run.say(&format!("it found out: {said}"));
    let mut machines = Vec::new();
    for (number, kind) in [(1, Firmware::Bios), (2, Firmware::Uefi)] {
        let spec = Spec::new(&format!("n{number}"), number, kind);
        let mut machine = Machine::new(run, &site.net, spec)?;
        machine.power_on()?;
        machines.push(machine);
    }
    for machine in &machines {
        let device = site.registered(machine)?;
        let address = device.address.context("it registered without an address")?;
        let lease = kea.lease(machine.spec().mac)?;
        ensure!(
            lease == Some(address),
            "{} uses {address}, and Kea has given it {lease:?}",
            machine.spec().name
        );
        run.say(&format!(
            "{} ({}) registered with the address {address} from Kea",
            machine.spec().name,
            machine.spec().firmware
        ));
    }
    Ok(())
}

/// All on one bridge, switched on together.
fn every_kind(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    pi::give(&site, run)?;
    site.server.start()?;
    let kinds = [
        Firmware::Bios,
        Firmware::Uefi,
        Firmware::UefiHttp,
        Firmware::UefiArm,
        Firmware::UbootArm,
    ];
    let mut machines = Vec::new();
    for (number, kind) in (1..).zip(kinds) {
        let spec = Spec::new(&format!("n{number}"), number, kind).memory(768);
        let mut machine = Machine::new(run, &site.net, spec)?;
        machine.power_on()?;
        machines.push(machine);
    }
    for board in Board::ALL {
        pi::boot_from_bugler(&site, run, Pi::new(board, 1))?;
    }
    for machine in &machines {
        let device = site.registered(machine)?;
        run.say(&format!(
            "{}: {} s after power-on its agent is registered as {}",
            machine.spec().firmware,
            machine.console()?.age().as_secs(),
            device.id
        ));
    }
    Ok(())
}

/// The server on a wire of its own, with nothing but a router with a relay between it and the bridge.
fn through_a_relay(run: &Run) -> Result<()> {
    let net = Net::new()?;
    let relay = net.add_host("relay", address(254))?;
    let server = Host::alone("srv")?;
    for command in [
        "ip -n srv link set lo up",
        "ip link add eth0 netns srv type veth peer name wan netns relay",
        "ip -n srv addr add 10.20.60.1/24 dev eth0",
        "ip -n srv link set eth0 up",
        "ip -n relay addr add 10.20.60.254/24 dev wan",
        "ip -n relay link set wan up",
        "ip -n srv route add default via 10.20.60.254",
        "ip netns exec relay sysctl -q net.ipv4.ip_forward=1",
    ] {
        let mut words = command.split_whitespace();
        let program = words.next().unwrap_or_default();
        output_of(Command::new(program).args(words))?;
    }
    let config = run.file("bugler.toml");
    fs::write(
        &config,
        format!(
            "[[interface]]\nname = \"{INTERFACE}\"\ndhcp = \"full\"\n\
             pools = [\"10.20.60.100-10.20.60.110\"]\n\
             [[interface.subnet]]\nnetwork = \"10.20.50.0/24\"\n\
             pools = [\"10.20.50.100-10.20.50.150\"]\nrouter = \"10.20.50.254\"\n"
        ),
    )
    .with_context(|| format!("cannot write {}", config.display()))?;
    let option = format!("--config={}", config.display());
    let mut site = Site::on(run, net, server, &[&option])?;
    site.server.start()?;
    let mut daemon = relay.command("dhcrelay");
    daemon.args([
        "-4",
        "-d",
        "-id",
        INTERFACE,
        "-iu",
        "wan",
        "-a",
        "10.20.60.1",
    ]);
    let daemon = Process::start("dhcrelay", daemon, &run.file("dhcrelay.log"))?;
    daemon.wait_for("Sending on   Socket/fallback", STAGE)?;

    let mut node = firmware::ready(run, &site, Firmware::Bios)?;
    node.machine.power_on()?;
    let device = site.registered(&node.machine)?;
    let address = device.address.context("it registered without an address")?;
    ensure!(
        address.octets()[..3] == [10, 20, 50],
        "it has the address {address}, which is not of its own subnet"
    );
    run.say(&format!("behind the relay it registered with {address}"));
    firmware::back_to_disk(&site, &node, &device)
}
