//! Wired network interfaces.

use super::{Sysfs, parse_mac};
use bugler_model::{MacAddr, Nic};
use std::fs;

/// ARP hardware type of Ethernet, as in `/sys/class/net/*/type`.
const ETHERNET: u32 = 1;

impl Sysfs {
    /// The wired interfaces of the machine.
    #[must_use]
    pub fn nics(&self) -> Vec<Nic> {
        let names = self.list("sys/class/net");
        names.iter().filter_map(|name| self.nic(name)).collect()
    }

    fn nic(&self, name: &str) -> Option<Nic> {
        let file = |path: &str| format!("sys/class/net/{name}/{path}");
        // What no driver of a device stands behind is made of software: lo, bridges, bonds, VLANs.
        let has_device = fs::symlink_metadata(self.path(file("device"))).is_ok();
        let is_wireless =
            self.path(file("wireless")).exists() || self.path(file("phy80211")).exists();
        if !has_device || is_wireless || self.number(file("type")) != Some(ETHERNET) {
            return None;
        }
        let mac = parse_mac(&self.text(file("address"))?)?;
        Some(Nic {
            mac,
            link: self.carrier(name),
            // -1 or an error where the driver does not know.
            speed: self
                .number::<u32>(file("speed"))
                .filter(|&speed| speed > 0 && speed < u32::MAX),
            driver: self.link_name(file("device/driver")),
            name: name.into(),
        })
    }

    /// Whether an interface sees a link. The kernel tells only of interfaces that are up.
    #[must_use]
    pub fn carrier(&self, name: &str) -> bool {
        self.number::<u8>(format!("sys/class/net/{name}/carrier")) == Some(1)
    }

    /// The kernel's number of an interface.
    #[must_use]
    pub fn interface_index(&self, name: &str) -> Option<u32> {
        self.number(format!("sys/class/net/{name}/ifindex"))
    }

    /// The order in which to try interfaces: the one that the machine booted from, then those
    /// with a link, then the rest.
    #[must_use]
    pub fn boot_order(&self, boot_mac: Option<MacAddr>) -> Vec<Nic> {
        let mut nics = self.nics();
        nics.sort_by_key(|nic| (Some(nic.mac) != boot_mac, !nic.link));
        nics
    }
}
