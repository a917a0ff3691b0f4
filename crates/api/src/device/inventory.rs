//! Bounds on what a machine says of itself.

use super::log::safe_line;
use bugler_model::{Disk, Inventory, Nic};

/// Most characters of a name or number that firmware gives.
const MAX_CHARS: usize = 256;

/// Most disks of one machine that are recorded.
const MAX_DISKS: usize = 1024;

/// Most network interfaces of one machine that are recorded.
const MAX_NICS: usize = 64;

/// The same inventory, its texts short and printable, its lists bounded, its addresses such as an
/// interface can have.
pub(super) fn tidy(mut inventory: Inventory) -> Inventory {
    let Inventory {
        uuid: _,
        serial,
        vendor,
        model,
        cpu,
        memory: _,
        disks,
        nics,
    } = &mut inventory;
    for text in [serial, vendor, model] {
        tidy_option(text);
    }
    tidy_text(&mut cpu.model);
    disks.retain(|disk| !disk.path.is_empty());
    disks.truncate(MAX_DISKS);
    for Disk {
        path,
        model,
        serial,
        ..
    } in disks
    {
        tidy_text(path);
        tidy_option(model);
        tidy_option(serial);
    }
    nics.retain(|nic| nic.mac.is_unicast());
    nics.truncate(MAX_NICS);
    for Nic { name, driver, .. } in nics {
        tidy_text(name);
        tidy_option(driver);
    }
    inventory
}

fn tidy_text(text: &mut String) {
    *text = safe_line(text.trim()).chars().take(MAX_CHARS).collect();
}

fn tidy_option(text: &mut Option<String>) {
    if let Some(inner) = text {
        tidy_text(inner);
    }
    *text = text.take().filter(|text| !text.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::MacAddr;

    #[test]
    fn a_hostile_inventory_becomes_a_bounded_one() {
        let nic = |mac| Nic {
            name: "eth0\u{1b}[2J".into(),
            mac: MacAddr(mac),
            link: true,
            speed: None,
            driver: Some(" ".into()),
        };
        let tidied = tidy(Inventory {
            serial: Some("s\0".repeat(1000)),
            vendor: Some("  ACME \n".into()),
            model: Some("\t".into()),
            disks: vec![
                Disk {
                    path: "/dev/sda".into(),
                    ..Disk::default()
                };
                3000
            ],
            nics: vec![nic([0; 6]), nic([0xff; 6]), nic([2, 0, 0, 0, 0, 1])],
            ..Inventory::default()
        });
        assert_eq!(tidied.serial.unwrap().chars().count(), MAX_CHARS);
        assert_eq!(tidied.vendor.as_deref(), Some("ACME"));
        assert_eq!(tidied.model, None);
        assert_eq!(tidied.disks.len(), MAX_DISKS);
        assert_eq!(tidied.nics.len(), 1);
        assert_eq!(tidied.nics[0].name, "eth0\u{fffd}[2J");
        assert_eq!(tidied.nics[0].driver, None);
    }
}
