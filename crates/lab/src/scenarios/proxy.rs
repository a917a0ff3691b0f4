//! Beside a DHCP server that owns the addresses and knows nothing of network boot.

use super::{Scenario, deploy, firmware};
use crate::machine::{Firmware, Machine, Spec};
use crate::net::{Host, address};
use crate::peers::{Dnsmasq, Kea};
use crate::run::Run;
use crate::site::{STAGE, Site};
use crate::uboot;
use anyhow::{Context, Result, ensure};
use bugler_model::{Event, EventKind, MacAddr};
use bugler_protocol::operator::ServerStatus;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::time::Duration;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "proxy-bios",
        proves: "beside a dnsmasq that owns the addresses a BIOS machine is deployed",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: |run| beside_dnsmasq(run, Firmware::Bios),
    },
    Scenario {
        name: "proxy-uefi",
        proves: "beside a dnsmasq that owns the addresses a UEFI machine is deployed",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: |run| beside_dnsmasq(run, Firmware::Uefi),
    },
    Scenario {
        name: "proxy-uboot",
        proves: "beside a dnsmasq that owns the addresses a U-Boot that heeds proxies boots the agent",
        limit: Duration::from_secs(900),
        machines: 1,
        image: true,
        product: true,
        play: |run| proxied_uboot(run, Owner::dnsmasq),
    },
    Scenario {
        name: "proxy-uboot-kea",
        proves: "beside a Kea that owns the addresses a U-Boot that heeds proxies boots the agent",
        limit: Duration::from_secs(900),
        machines: 1,
        image: true,
        product: true,
        play: |run| proxied_uboot(run, Owner::kea),
    },
    Scenario {
        name: "proxy-every-kind",
        proves: "beside a dnsmasq that owns the addresses PXELINUX, HTTP boot, AArch64 and UEFI of 32 bits reach the agent",
        limit: Duration::from_secs(900),
        machines: 4,
        image: true,
        product: true,
        play: |run| every_kind(run, Owner::dnsmasq),
    },
    Scenario {
        name: "proxy-every-kind-kea",
        proves: "beside a Kea that owns the addresses PXELINUX, HTTP boot, AArch64 and UEFI of 32 bits reach the agent",
        limit: Duration::from_secs(900),
        machines: 4,
        image: true,
        product: true,
        play: |run| every_kind(run, Owner::kea),
    },
];

/// Who owns the addresses.
enum Owner {
    Dnsmasq(Dnsmasq),
    Kea(Kea),
}

impl Owner {
    fn dnsmasq(run: &Run, host: &Host) -> Result<Self> {
        Ok(Self::Dnsmasq(Dnsmasq::addresses_only(run, host)?))
    }

    fn kea(run: &Run, host: &Host) -> Result<Self> {
        Ok(Self::Kea(Kea::addresses_only(run, host)?))
    }

    /// Whether it has given this address to this interface.
    fn gave(&self, address: Ipv4Addr, mac: MacAddr) -> Result<bool> {
        Ok(match self {
            Self::Dnsmasq(dnsmasq) => {
                let given = format!("DHCPACK(eth0) {address} {mac}");
                !dnsmasq.process().transcript().lines_with(&given).is_empty()
            }
            Self::Kea(kea) => kea.lease(mac)? == Some(address),
        })
    }
}

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

/// U-Boot reads nothing but the header of a proxy's offer, and only where it was built to.
fn proxied_uboot(run: &Run, owner: fn(&Run, &Host) -> Result<Owner>) -> Result<()> {
    uboot::proxydhcp()?;
    let mut site = Site::new(run, &["--dhcp=proxy"])?;
    let host = site.net.add_host("dhcp", address(2))?;
    let owner = owner(run, &host)?;
    site.server.start()?;
    let spec = Spec::new("n1", 1, Firmware::UbootArmProxy).memory(768);
    let mut machine = Machine::new(run, &site.net, spec)?;
    machine.power_on()?;
    let device = site.registered(&machine)?;
    firmware::went_through(
        &site,
        &device,
        &[
            "(U-Boot, arch 22): boot.scr.uimg over TFTP",
            "TFTP sent boot.scr.uimg",
            "TFTP sent pxelinux.cfg/",
        ],
    )?;
    let mac = machine.spec().mac;
    let address = device.address.context("the device has no address")?;
    ensure!(
        owner.gave(address, mac)?,
        "{mac} has the address {address} from somebody else"
    );
    run.say(&format!(
        "{}: registered as {} with {address}, which the other server gave",
        machine.spec().firmware,
        device.id
    ));
    Ok(())
}

/// A machine each, on one segment, switched on together.
fn every_kind(run: &Run, owner: fn(&Run, &Host) -> Result<Owner>) -> Result<()> {
    let mut site = Site::new(run, &["--dhcp=proxy"])?;
    let host = site.net.add_host("dhcp", address(2))?;
    let owner = owner(run, &host)?;
    site.server.start()?;
    let profile = ["profile", "set", "lpxe", "--agent", "--loader", "lpxelinux"];
    let _: Value = site.bugler(&profile)?;
    let _: Value = site.bugler(&["rule", "add", "--firmware", "ipxe-bios", "lpxe"])?;
    let kinds = [
        (Firmware::UefiIa32, "TFTP sent grubia32.efi"),
        (Firmware::Bios, "TFTP sent lpxelinux.0"),
        (Firmware::UefiHttp, "HTTP sent snponly.efi"),
        (Firmware::UefiArm, "TFTP sent grubaa64.efi"),
    ];
    let mut machines = Vec::new();
    for (number, (kind, loader)) in (1..).zip(kinds) {
        let spec = Spec::new(&format!("n{number}"), number, kind).memory(768);
        let mut machine = Machine::new(run, &site.net, spec)?;
        machine.power_on()?;
        machines.push((machine, loader));
    }
    for (machine, loader) in &machines {
        let device = site.registered(machine)?;
        firmware::went_through(&site, &device, &[loader])?;
        let mac = machine.spec().mac;
        let address = device.address.context("the device has no address")?;
        ensure!(
            owner.gave(address, mac)?,
            "{mac} has the address {address} from somebody else"
        );
        run.say(&format!(
            "{}: registered as {}, with an address that the other server gave",
            machine.spec().firmware,
            device.id
        ));
    }
    Ok(())
}
