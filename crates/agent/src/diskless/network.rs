//! What the system is told of the network, so that it leaves alone what its root comes over.
//!
//! | Who reads it | What |
//! |---|---|
//! | anybody | `/run/bugler/network`, `/run/bugler/resolv.conf` |
//! | initramfs-aware systems, cloud-init | `/run/net-IFACE.conf`, as klibc's ipconfig writes it |
//! | systemd-networkd | the same address without DHCP, kept at its end; the name kept by udev |
//! | systemd-resolved | the name servers |
//! | ifupdown | the interface counts as up, and is not taken down at shutdown |
//! | `NetworkManager` | the interface is not managed, resolv.conf not written |
//!
//! All of it is in `/run`, and gone at the next boot.

use crate::boot::dhcp_client::Lease;
use crate::boot::network::resolv_conf;
use crate::log::Log;
use bugler_model::MacAddr;
use rustix::mount::mount_bind;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Component, Path, PathBuf};

/// The resolver's configuration for whoever has none of its own.
const RESOLV_CONF: &str = "/run/bugler/resolv.conf";

/// Writes all of it; says what could not be.
pub(super) fn hand_over(root: &str, interface: &str, mac: MacAddr, lease: &Lease, log: &Log) {
    write(interface, mac, lease, log);
    if let Err(error) = lay_resolv_conf(root, lease) {
        log.line(format!(
            "cannot lay {RESOLV_CONF} over the image's /etc/resolv.conf: {error}; names may not resolve"
        ));
    }
}

/// Writes the files in `/run`; says what could not be written.
pub(super) fn write(interface: &str, mac: MacAddr, lease: &Lease, log: &Log) {
    for (path, text) in files(interface, mac, lease) {
        if let Err(error) = put(&path, &text) {
            log.line(format!(
                "cannot write {path}: {error}; the system may set {interface} up again, and lose its \
                 root"
            ));
        }
    }
}

/// What klibc's ipconfig has got for an interface; `None` where it has not.
pub(super) fn of_ipconfig(text: &str) -> Option<Lease> {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let (_, value) = lines.find(|(key, _)| *key == name)?;
        Some(value.trim_matches(['\'', '"']))
    };
    let address = |name: &str| -> Option<Ipv4Addr> {
        let address: Ipv4Addr = value(name)?.parse().ok()?;
        (!address.is_unspecified()).then_some(address)
    };
    let good = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let domain = value("DNSDOMAIN").filter(|text| !text.is_empty() && text.chars().all(good));
    Some(Lease {
        address: address("IPV4ADDR")?,
        prefix: address("IPV4NETMASK")?.to_bits().leading_ones() as u8,
        router: address("IPV4GATEWAY"),
        dns: ["IPV4DNS0", "IPV4DNS1"]
            .into_iter()
            .filter_map(address)
            .collect(),
        domain: domain.map(str::to_owned),
        server: address("ROOTSERVER").unwrap_or(Ipv4Addr::UNSPECIFIED),
    })
}

fn put(path: &str, text: &str) -> io::Result<()> {
    if let Some(folder) = Path::new(path).parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}

/// Paths and texts.
fn files(interface: &str, mac: MacAddr, lease: &Lease) -> Vec<(String, String)> {
    let resolved = format!(
        "[Resolve]\nDNS={}\nDomains={}\n",
        words(&lease.dns),
        lease.domain.as_deref().unwrap_or_default()
    );
    // Empty assignments take away what the unit says: its root would be gone with the interface.
    let stays_up = "[Service]\nExecStop=\n";
    let manager = format!(
        "[main]\ndns=none\n\n[keyfile]\nunmanaged-devices=mac:{mac}\n\n\
         [device-bugler]\nmatch-device=mac:{mac}\nmanaged=0\n"
    );
    [
        ("/run/bugler/network".into(), summary(interface, mac, lease)),
        (RESOLV_CONF.into(), resolv_conf(lease)),
        (
            format!("/run/net-{interface}.conf"),
            ipconfig(interface, lease),
        ),
        (
            "/run/systemd/network/00-bugler.network".into(),
            networkd(mac, lease),
        ),
        // Without a policy udev leaves the name as it is: drivers and sockets know it by now.
        (
            "/run/systemd/network/00-bugler.link".into(),
            format!("[Match]\nMACAddress={mac}\n\n[Link]\nNamePolicy=\n"),
        ),
        ("/run/systemd/resolved.conf.d/bugler.conf".into(), resolved),
        (
            "/run/systemd/system/networking.service.d/bugler.conf".into(),
            stays_up.into(),
        ),
        (
            format!("/run/systemd/system/ifup@{interface}.service.d/bugler.conf"),
            stays_up.into(),
        ),
        (
            "/run/network/ifstate".into(),
            format!("{interface}={interface}\n"),
        ),
        ("/run/NetworkManager/conf.d/00-bugler.conf".into(), manager),
    ]
    .into()
}

/// What was got, as a shell can read it.
fn summary(interface: &str, mac: MacAddr, lease: &Lease) -> String {
    let router = lease.router.map_or_else(String::new, |a| a.to_string());
    let domain = lease.domain.as_deref().unwrap_or_default();
    format!(
        "INTERFACE='{interface}'\nMAC='{mac}'\nADDRESS='{}'\nPREFIX='{}'\nROUTER='{router}'\n\
         DNS='{}'\nDOMAIN='{domain}'\nDHCP_SERVER='{}'\n",
        lease.address,
        lease.prefix,
        words(&lease.dns),
        lease.server
    )
}

/// As klibc's ipconfig writes it; 0.0.0.0 stands for nothing.
fn ipconfig(interface: &str, lease: &Lease) -> String {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(lease.prefix.min(32)))
        .unwrap_or(0);
    let broadcast = Ipv4Addr::from_bits(lease.address.to_bits() | !mask);
    let nothing = Ipv4Addr::UNSPECIFIED;
    let dns = |n: usize| lease.dns.get(n).copied().unwrap_or(nothing);
    let domain = lease.domain.as_deref().unwrap_or_default();
    format!(
        "DEVICE='{interface}'\nPROTO='dhcp'\nIPV4ADDR='{}'\nIPV4BROADCAST='{broadcast}'\n\
         IPV4NETMASK='{}'\nIPV4GATEWAY='{}'\nIPV4DNS0='{}'\nIPV4DNS1='{}'\nHOSTNAME=''\n\
         DNSDOMAIN='{domain}'\nNISDOMAIN=''\nROOTSERVER='{}'\nROOTPATH=''\nfilename=''\n\
         DOMAINSEARCH='{domain}'\n",
        lease.address,
        Ipv4Addr::from_bits(mask),
        lease.router.unwrap_or(nothing),
        dns(0),
        dns(1),
        lease.server
    )
}

/// The address that is there, so that nothing changes, and is left there when networkd ends.
fn networkd(mac: MacAddr, lease: &Lease) -> String {
    let mut text = format!(
        "[Match]\nMACAddress={mac}\n\n[Link]\nRequiredForOnline=yes\n\n[Network]\nDHCP=no\n\
         Address={}/{}\nKeepConfiguration=yes\nIgnoreCarrierLoss=yes\n",
        lease.address, lease.prefix
    );
    // Writing to a string cannot fail.
    if let Some(router) = lease.router {
        let _ = writeln!(text, "Gateway={router}");
    }
    for server in &lease.dns {
        let _ = writeln!(text, "DNS={server}");
    }
    if let Some(domain) = &lease.domain {
        let _ = writeln!(text, "Domains={domain}");
    }
    text
}

fn words(addresses: &[Ipv4Addr]) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    all.join(" ")
}

/// Gives the system name servers, where its resolv.conf is a file, or a link to one in `/run` that is
/// not written yet.
fn lay_resolv_conf(root: &str, lease: &Lease) -> io::Result<()> {
    if lease.dns.is_empty() {
        return Ok(());
    }
    let etc = format!("{root}/etc");
    let path = format!("{etc}/resolv.conf");
    let is_folder = fs::symlink_metadata(&etc).is_ok_and(|found| found.is_dir());
    let Ok(found) = fs::symlink_metadata(&path) else {
        return Ok(());
    };
    if is_folder && found.is_file() {
        return Ok(mount_bind(RESOLV_CONF, &path)?);
    }
    if found.is_symlink()
        && let Some(target) = in_run(&fs::read_link(&path)?)
    {
        let target = target.to_string_lossy().into_owned();
        if !Path::new(&target).exists() {
            put(&target, &resolv_conf(lease))?;
        }
    }
    Ok(())
}

/// Where a link in `/etc` leads, where that is a plain path in `/run`.
fn in_run(target: &Path) -> Option<PathBuf> {
    let path = match target.strip_prefix("..") {
        Ok(rest) => Path::new("/").join(rest),
        Err(_) => target.to_owned(),
    };
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    (path.starts_with("/run/") && path.components().all(is_plain)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            address: Ipv4Addr::new(10, 20, 50, 100),
            prefix: 24,
            router: Some(Ipv4Addr::new(10, 20, 50, 1)),
            dns: vec![Ipv4Addr::new(10, 20, 50, 1), Ipv4Addr::new(9, 9, 9, 9)],
            domain: Some("lab.example".into()),
            server: Ipv4Addr::new(10, 20, 50, 1),
        }
    }

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

    #[test]
    fn every_manager_is_told_of_the_same_interface() {
        let files = files("eth0", MAC, &lease());
        let text = |end: &str| {
            let found = files.iter().find(|(path, _)| path.ends_with(end));
            found.map(|(_, text)| text.as_str()).unwrap()
        };
        assert!(files.iter().all(|(path, _)| path.starts_with("/run/")));
        assert!(
            text("00-bugler.network").contains("Address=10.20.50.100/24\nKeepConfiguration=yes")
        );
        assert!(
            text("00-bugler.network").contains("Gateway=10.20.50.1\nDNS=10.20.50.1\nDNS=9.9.9.9")
        );
        assert_eq!(text("ifstate"), "eth0=eth0\n");
        assert!(text("00-bugler.conf").contains("unmanaged-devices=mac:52:54:00:00:00:01"));
        assert!(
            text("net-eth0.conf").contains("IPV4NETMASK='255.255.255.0'\nIPV4GATEWAY='10.20.50.1'")
        );
        assert!(text("net-eth0.conf").contains("IPV4BROADCAST='10.20.50.255'"));
        assert!(text("/run/bugler/network").contains("DNS='10.20.50.1 9.9.9.9'"));
    }

    #[test]
    fn a_lease_with_nothing_else_is_told_as_well() {
        let bare = Lease {
            router: None,
            dns: Vec::new(),
            domain: None,
            prefix: 32,
            ..lease()
        };
        let text = networkd(MAC, &bare);
        assert!(!text.contains("Gateway") && !text.contains("DNS") && text.contains("/32\n"));
        let text = ipconfig("eth0", &bare);
        assert!(
            text.contains("IPV4GATEWAY='0.0.0.0'\nIPV4DNS0='0.0.0.0'"),
            "{text}"
        );
    }

    #[test]
    fn what_ipconfig_got_is_read_as_it_is_written() {
        let text = ipconfig("eth0", &lease());
        assert_eq!(of_ipconfig(&text), Some(lease()));
        assert_eq!(
            of_ipconfig("IPV4ADDR='0.0.0.0'\nIPV4NETMASK='255.0.0.0'"),
            None
        );
        assert_eq!(of_ipconfig("IPV4ADDR\n=\n"), None);
    }

    #[test]
    fn only_links_into_run_are_followed() {
        let leads = |to: &str| in_run(Path::new(to)).map(|path| path.display().to_string());
        let stub = "/run/systemd/resolve/stub-resolv.conf";
        assert_eq!(leads(&format!("..{stub}")).as_deref(), Some(stub));
        assert_eq!(leads(stub).as_deref(), Some(stub));
        assert_eq!(leads("/run/../etc/passwd"), None);
        assert_eq!(leads("../../run/x"), None);
        assert_eq!(leads("/etc/resolv.conf.d/x"), None);
        assert_eq!(leads("resolv.conf.real"), None);
    }
}
