//! What the server finds out about a machine's firmware by itself, and keeps.

use super::{Scenario, firmware, menus};
use crate::image;
use crate::machine::{Firmware, Machine};
use crate::net::address;
use crate::peers::Dnsmasq;
use crate::process::output_of;
use crate::run::Run;
use crate::site::{POOL, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{Device, EfiStart, Event, OfferShape};
use bugler_protocol::operator::ServerStatus;
use std::time::Duration;

/// How long a scenario may take: one machine boots four times.
const LIMIT: Duration = Duration::from_secs(600);

pub(super) const ALL: &[Scenario] = &[
    Scenario::of_one_machine(
        LIMIT,
        "secure-unmarked",
        "a machine with Secure Boot that nobody marked gets shim and GRUB after it refused what is not signed, and keeps them",
        secure_unmarked,
    ),
    Scenario::of_one_machine(
        LIMIT,
        "offer-shapes",
        "UEFI firmware whose questions to port 4011 a firewall drops gets another shape of offer, and keeps it, also where the server gives the addresses",
        port_4011_closed,
    ),
];

/// The texts of a device's events, oldest first, after the event with the number `after`.
fn texts(site: &Site<'_>, device: &Device, after: u64) -> Result<Vec<(u64, String)>> {
    let path = format!("events?device={}&limit=1000", device.id);
    let mut events: Vec<Event> = site.server.api().get(&path)?;
    events.sort_by_key(|event| event.id.0);
    Ok(events
        .into_iter()
        .filter(|event| event.id.0 > after)
        .map(|event| (event.id.0, event.text))
        .collect())
}

/// Nobody says that Secure Boot is on. The firmware says it by starting nothing that it fetches.
fn secure_unmarked(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let mut node = firmware::ready(run, &site, Firmware::UefiSecure)?;
    // With a disk to go on to, it tries nothing else in between.
    image::with_signed_loaders(&node.disk, run.dir())?;
    let machine = &mut node.machine;
    machine.power_on()?;
    for loader in ["snponly.efi", "ipxe.efi"] {
        let refused = machine.wait_for("Access Denied", STAGE)?;
        let device = site.device(machine)?;
        firmware::went_through(&site, &device, &[&format!("TFTP sent {loader}")])?;
        run.say(&format!("the firmware refuses {loader}: {}", refused.line));
        machine.reset()?;
    }
    let device = site.registered(machine)?;
    ensure!(
        device.quirks.efi == EfiStart::Signed && !device.secure_boot,
        "it registered, and the server has learned {:?}",
        device.quirks
    );
    firmware::went_through(
        &site,
        &device,
        &[
            "nothing followed after it fetched snponly.efi: it gets ipxe.efi from now on",
            "nothing followed after it fetched ipxe.efi: it gets shim and GRUB from now on",
            "TFTP sent shimx64.efi",
            "TFTP sent grubx64.efi",
            "TFTP sent bootenv/x86_64/",
        ],
    )?;
    // What it keeps: the next boot begins with shim. GRUB shows a menu then.
    let before = texts(&site, &device, 0)?;
    let last = before.last().map_or(0, |(id, _)| *id);
    menus::desk(&site, &[])?;
    let id = device.id.to_string();
    let _: Device = site.bugler(&["device", "set", &id, "--profile", "desk"])?;
    machine.reset()?;
    let shown = machine.wait_for("Bugler agent", STAGE)?;
    run.say(&format!("GRUB shows: {}", shown.line));
    machine.type_text(menus::SECOND_ENTRY)?;
    site.registered(machine)?;
    run.say("its second entry, chosen with two keys: the agent has registered");
    let since = texts(&site, &device, last)?;
    let loaders: Vec<&str> = since
        .iter()
        .map(|(_, text)| text.as_str())
        .filter(|text| text.contains("TFTP sent") && text.contains(".efi:"))
        .collect();
    ensure!(
        loaders.len() == 2
            && loaders[0].contains("shimx64.efi")
            && loaders[1].contains("grubx64.efi"),
        "the next boot began with other loaders: {loaders:?}"
    );
    run.say(&format!("the next boot: {loaders:?}"));
    Ok(())
}

/// A firewall on the server's host that nobody opened for PXE's second port: the firmware asks there for
/// its boot file, and gives up.
fn port_4011_closed(run: &Run) -> Result<()> {
    let pool = format!("--pool={POOL}");
    let mut site = Site::new(run, &["--dhcp=auto", &pool])?;
    let host = site.net.add_host("dhcp", address(2))?;
    let dnsmasq = Dnsmasq::addresses_only(run, &host)?;
    site.server.start()?;
    serves(&site, "proxy beside")?;
    let rules = "table inet trouble { chain input { type filter hook input priority 0; udp dport 4011 counter drop; }; }";
    output_of(site.server.host().command("nft").arg(rules))?;
    // With a disk to go on to, the firmware tries nothing else in between.
    let mut node = firmware::ready(run, &site, Firmware::Uefi)?;
    let machine = &mut node.machine;
    machine.power_on()?;
    for _ in 0..3 {
        let seen = machine.wait_for("PXE-E", STAGE)?;
        run.say(&format!("the firmware gives up: {}", seen.line));
        machine.reset()?;
    }
    let device = site.registered(machine)?;
    ensure!(
        device.quirks.offer == OfferShape::Direct,
        "it registered, and the server has learned {:?}",
        device.quirks
    );
    let before = texts(&site, &device, 0)?;
    let asked: Vec<&str> = before
        .iter()
        .map(|(_, text)| text.as_str())
        .filter(|text| text.starts_with("DISCOVER") && text.contains("(UEFI PXE"))
        .collect();
    let direct = |text: &str| text.contains("(boot file in the offer)");
    ensure!(
        asked.len() == 4 && direct(asked[3]) && !asked[..3].iter().any(|text| direct(text)),
        "it was offered: {asked:#?}"
    );
    firmware::went_through(
        &site,
        &device,
        &[asked[0], asked[3], "it is offered that way from now on"],
    )?;

    boots_directly(&site, &device, machine)?;
    run.say("the next boot is offered that at once, and takes it");
    let dropped = output_of(site.server.host().command("nft").args(["list", "ruleset"]))
        .context("cannot list the rules")?;
    let counted = dropped
        .lines()
        .find_map(|line| line.trim().strip_prefix("udp dport 4011 counter packets "));
    let counted: u64 = counted
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .with_context(|| format!("the rule counts nothing: {dropped}"))?;
    ensure!(counted > 0, "nothing was asked on port 4011");
    run.say(&format!(
        "the firewall dropped {counted} questions to port 4011"
    ));

    drop(dnsmasq);
    site.server.stop()?;
    site.server.start()?;
    serves(&site, "given out from the pool")?;
    boots_directly(&site, &device, machine)?;
    run.say(
        "the DHCP server is gone and this one gives the addresses: one full offer, without a word of \
         PXE, is taken as well",
    );
    Ok(())
}

/// Waits until the server says that it serves DHCP so.
fn serves(site: &Site<'_>, how: &str) -> Result<()> {
    let what = format!("the server to be {how}");
    let line = site.server.api().wait(&what, STAGE, |api| {
        let status: ServerStatus = api.get("server")?;
        let mut lines = status.services.into_iter();
        Ok(lines.find(|line| line.contains(how) && line.contains("DHCP")))
    })?;
    site.say(&line);
    Ok(())
}

/// The machine's next boot: its first offer has the boot file in it, and the file is fetched.
fn boots_directly(site: &Site<'_>, device: &Device, machine: &mut Machine) -> Result<()> {
    let last = texts(site, device, 0)?.last().map_or(0, |(id, _)| *id);
    machine.reset()?;
    let said = site
        .server
        .api()
        .wait("the next boot to fetch its loader", STAGE, |_| {
            let since = texts(site, device, last)?;
            let fetched = since.iter().any(|(_, text)| text.contains("TFTP sent"));
            Ok(fetched.then_some(since))
        })?;
    let first = said.iter().find(|(_, text)| text.starts_with("DISCOVER"));
    ensure!(
        first.is_some_and(|(_, text)| text.contains("(boot file in the offer)")),
        "the next boot was offered: {said:#?}"
    );
    Ok(())
}
