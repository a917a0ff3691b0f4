//! Beside a DHCP server that owns the addresses and knows nothing of network boot.

use super::{Scenario, deploy};
use crate::machine::Firmware;
use crate::net::address;
use crate::peers::Dnsmasq;
use crate::run::Run;
use crate::site::{STAGE, Site};
use anyhow::{Result, ensure};
use bugler_model::{Event, EventKind};
use bugler_protocol::operator::ServerStatus;
use std::time::Duration;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "proxy-bios",
        proves: "beside a dnsmasq that owns the addresses a BIOS machine is deployed",
        limit: Duration::from_secs(600),
        machines: 1,
        image: true,
        product: true,
        play: |run| beside_dnsmasq(run, Firmware::Bios),
    },
    Scenario {
        name: "proxy-uefi",
        proves: "beside a dnsmasq that owns the addresses a UEFI machine is deployed",
        limit: Duration::from_secs(600),
        machines: 1,
        image: true,
        product: true,
        play: |run| beside_dnsmasq(run, Firmware::Uefi),
    },
];

fn beside_dnsmasq(run: &Run, firmware: Firmware) -> Result<()> {
    // What it is to do, it finds out by itself.
    let mut site = Site::new(run, &["--dhcp=auto"])?;
    let host = site.net.add_host("dhcp", address(2))?;
    let dnsmasq = Dnsmasq::addresses_only(run, &host)?;
    site.server.start()?;
    let beside = host.address().to_string();
    let said = site
        .server
        .api()
        .wait("the server to find dnsmasq", STAGE, |api| {
            let status: ServerStatus = api.get("server")?;
            Ok(status
                .services
                .into_iter()
                .find(|line| line.contains("proxy beside")))
        })?;
    ensure!(
        said.contains(&beside),
        "it does not say which server it found: {said}"
    );
    run.say(&format!("it found out: {said}"));

    let mut node = site.node(1, firmware, 1100)?;
    deploy::bare(&site, &mut node)?;

    let device = site.device(&node.machine)?;
    let lease = format!(
        "DHCPACK(eth0) {}",
        device.address.map_or_else(String::new, |a| a.to_string())
    );
    let mac = node.machine.spec().mac.to_string();
    let acknowledged = dnsmasq.process().transcript().lines_with(&lease);
    ensure!(
        acknowledged.iter().any(|seen| seen.line.contains(&mac)),
        "dnsmasq has not given {mac} the address {:?}",
        device.address
    );
    let events: Vec<Event> = site.server.api().get("events?limit=1000")?;
    let given = events.iter().find(|event| event.kind == EventKind::Lease);
    ensure!(
        given.is_none(),
        "the server has given out an address itself: {given:?}"
    );
    Ok(())
}
