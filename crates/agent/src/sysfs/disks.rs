//! Block devices that could hold an image.

use super::Sysfs;
use bugler_model::{Disk, Transport};
use std::fs;

/// Beginnings of the names of block devices that are no disks of the machine: made of memory,
/// files, other disks or optical media.
const NO_DISKS: [&str; 12] = [
    "loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "rbd", "drbd", "mtdblock", "etherd",
];

impl Sysfs {
    /// The disks of the machine.
    #[must_use]
    pub fn disks(&self) -> Vec<Disk> {
        let names = self.list("sys/block");
        names
            .iter()
            .filter(|name| is_disk(name))
            .filter_map(|name| self.disk(name))
            .collect()
    }

    fn disk(&self, name: &str) -> Option<Disk> {
        let file = |path: &str| format!("sys/block/{name}/{path}");
        // A hidden path of a multipath NVMe namespace has no device node.
        if self.number::<u8>(file("hidden")) == Some(1) {
            return None;
        }
        // Always in units of 512 bytes, whatever the sector size.
        let size = self.number::<u64>(file("size"))?.checked_mul(512)?;
        if size == 0 {
            return None;
        }
        let transport = self.transport(name);
        let flag = |path: &str| self.number::<u8>(file(path)) == Some(1);
        Some(Disk {
            // The kernel writes `!` where the device node has a folder.
            path: format!("/dev/{}", name.replace('!', "/")),
            model: self.model(name),
            serial: self.serial(name),
            size,
            sector_size: self.number(file("queue/logical_block_size")).unwrap_or(512),
            transport,
            removable: flag("removable") || transport == Transport::Usb,
            read_only: flag("ro"),
        })
    }

    /// SCSI and NVMe call it `model`, SD and eMMC `name`.
    fn model(&self, name: &str) -> Option<String> {
        let model = ["device/model", "device/name"];
        model
            .iter()
            .find_map(|file| self.text(format!("sys/block/{name}/{file}")))
    }

    fn serial(&self, name: &str) -> Option<String> {
        // virtio has `serial` beside the queue, NVMe and eMMC beside the driver.
        let plain = ["serial", "device/serial"];
        plain
            .iter()
            .find_map(|file| self.text(format!("sys/block/{name}/{file}")))
            .or_else(|| self.scsi_serial(name))
    }

    /// Vital product data page 0x80 of a SCSI disk (SPC-4, 7.8.16): four bytes of header, then
    /// the serial number.
    fn scsi_serial(&self, name: &str) -> Option<String> {
        let path = self.path(format!("sys/block/{name}/device/vpd_pg80"));
        let page = fs::read(path).ok()?;
        let (&[_, code, high, low], rest) = page.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_be_bytes([high, low]))
            .min(rest.len())
            .min(64);
        let text = rest.get(..len).filter(|_| code == 0x80)?;
        let text: String = text
            .iter()
            .map(|&b| char::from(b))
            .filter(char::is_ascii_graphic)
            .collect();
        (!text.is_empty()).then_some(text)
    }

    /// How a disk is attached, from the path of its device: every bus leaves its name in it.
    fn transport(&self, name: &str) -> Transport {
        let path = self.path(format!("sys/block/{name}"));
        // The link tells it; a tree that was copied without links tells nothing.
        let target = fs::read_link(&path).unwrap_or_default();
        let has = |start: &str| {
            target.components().any(|part| {
                let part = part.as_os_str().to_string_lossy();
                let number = part.strip_prefix(start);
                number.is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()))
            })
        };
        if has("usb") {
            Transport::Usb
        } else if name.starts_with("nvme") {
            Transport::Nvme
        } else if name.starts_with("mmcblk") {
            Transport::Mmc
        } else if has("host") || name.starts_with("sd") {
            // virtio-scsi too: what matters to people is that it is a SCSI disk.
            Transport::Scsi
        } else if name.starts_with("vd") || has("virtio") {
            Transport::Virtio
        } else {
            Transport::Other
        }
    }
}

/// Whether a block device can be a disk, by its name.
fn is_disk(name: &str) -> bool {
    // `mmcblk0boot0` and `mmcblk0rpmb` are small parts of an eMMC with jobs of their own.
    let is_mmc_part =
        name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    let is_kind = |start: &&str| {
        let number = name.strip_prefix(*start);
        number.is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit() || c == '!'))
    };
    !is_mmc_part && !NO_DISKS.iter().any(is_kind)
}

#[cfg(test)]
mod tests {
    use super::is_disk;

    #[test]
    fn only_disks_are_disks() {
        for name in [
            "sda",
            "vdb",
            "nvme0n1",
            "mmcblk0",
            "xvda",
            "pmem0",
            "srv0",
            "cciss!c0d0",
        ] {
            assert!(is_disk(name), "{name}");
        }
        for name in [
            "loop0",
            "ram1",
            "zram0",
            "dm-0",
            "md127",
            "sr0",
            "fd0",
            "nbd3",
            "mmcblk0boot0",
            "mmcblk1boot1",
            "mmcblk0rpmb",
            "etherd!e0.0",
            "mtdblock0",
        ] {
            assert!(!is_disk(name), "{name}");
        }
    }
}
