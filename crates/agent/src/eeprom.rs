//! The boot EEPROM of a Raspberry Pi 4, CM4 or 5, as far as the running kernel shows it.
//!
//! | What | Where |
//! |---|---|
//! | version, times, how it booted | `/proc/device-tree/chosen/bootloader/`, from the boot loader |
//! | configuration | the nvmem device of the alias `blconfig`: the boot loader leaves a copy in memory |
//!
//! The second needs the driver `nvmem-rmem` (`CONFIG_NVMEM_RMEM`), which Debian 12's kernel was built
//! without: there the first alone shows. Another way, `vcgencmd` over `/dev/vcio`, exists only
//! with Raspberry Pi's own kernel, and is not used. A third, `/dev/mem` at the address in the property
//! `reg` of that nvmem device's node, is open to a process with enough rights (the memory is `no-map`, which
//! `CONFIG_STRICT_DEVMEM` does not count as RAM); it is not used either, because QEMU's boards have no such
//! copy, and a read of physical memory that was never tried on a board does not belong here. From here the EEPROM is read and not written: the
//! boot loader changes itself, with the `pieeprom.upd` that the server gives it at its next boot.

use crate::sysfs::Sysfs;
use bugler_boot::pi::eeprom::{BootOrder, Config, Setting};
use bugler_model::Timestamp;
use std::fs;

/// What the boot loader has left for the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootLoader {
    /// Its version, a git hash.
    pub version: Option<String>,
    /// When it was built, in seconds since the Unix epoch.
    pub built: Option<u32>,
    /// The time in the last update that it took, in seconds since the Unix epoch; an update has to
    /// have a later one. 0: none yet.
    pub updated: Option<u32>,
    /// What it can do, as a bit field.
    pub capabilities: Option<u32>,
    /// Other than 0: it starts only what its owner signed, as a bit field.
    pub signed: Option<u32>,
    /// How it booted this time: a digit of `BOOT_ORDER`.
    pub boot_mode: Option<u32>,
    /// Its configuration; `None` where the kernel does not show it.
    pub config: Option<Config>,
}

impl Sysfs {
    /// The boot EEPROM. `None` on every machine that has none.
    #[must_use]
    pub fn boot_loader(&self) -> Option<BootLoader> {
        let compatible = fs::read(self.path("proc/device-tree/compatible")).ok()?;
        let of_a_pi = compatible
            .split(|byte| *byte == 0)
            .any(|name| name.starts_with(b"raspberrypi,"));
        of_a_pi.then_some(())?;
        let number = |name: &str| {
            let path = format!("proc/device-tree/chosen/bootloader/{name}");
            let bytes = fs::read(self.path(path)).ok()?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?))
        };
        let found = BootLoader {
            version: self.text("proc/device-tree/chosen/bootloader/version"),
            built: number("build-timestamp"),
            updated: number("update-timestamp"),
            capabilities: number("capabilities"),
            signed: number("signed"),
            boot_mode: number("boot-mode"),
            config: self.boot_loader_config(),
        };
        // A 3B says how it booted and has no EEPROM.
        (found.built.is_some() || found.config.is_some()).then_some(found)
    }

    fn boot_loader_config(&self) -> Option<Config> {
        let alias = self.text("proc/device-tree/aliases/blconfig")?;
        for device in self.list("sys/bus/nvmem/devices") {
            let folder = format!("sys/bus/nvmem/devices/{device}");
            let node = fs::read_link(self.path(format!("{folder}/of_node")));
            // …/firmware/devicetree/base/reserved-memory/nvram@0
            if node.is_ok_and(|node| node.ends_with(alias.trim_start_matches('/'))) {
                let text = fs::read(self.path(format!("{folder}/nvmem"))).ok()?;
                return Config::parse(&text).ok();
            }
        }
        None
    }
}

impl BootLoader {
    /// What to say of it, one line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let time = |seconds: u32| {
            let text = Timestamp(i64::from(seconds) * 1000).to_string();
            text.split('.').next().unwrap_or_default().replace('T', " ")
        };
        let mut first = "boot loader in EEPROM".to_owned();
        if let Some(built) = self.built {
            first += &format!(", built {}", time(built));
        }
        if let Some(updated) = self.updated.filter(|updated| *updated != 0) {
            first += &format!(", updated {}", time(updated));
        }
        if let Some(mode) = self.boot_mode
            && let Ok(order) = format!("{mode:x}").parse::<BootOrder>()
        {
            first += &format!(", booted from: {}", order.describe());
        }
        if self.signed.is_some_and(|signed| signed != 0) {
            first += ", starts only what is signed";
        }
        let mut lines = vec![first];
        match &self.config {
            Some(config) => {
                let settings = config.settings();
                let order = settings.iter().rfind(|setting| setting.key == "BOOT_ORDER");
                lines.push(match order {
                    Some(setting) => Setting::to_string(setting),
                    None => format!(
                        "BOOT_ORDER is not set: tries {}",
                        BootOrder::DEFAULT.describe()
                    ),
                });
                lines.extend(
                    config
                        .check()
                        .into_iter()
                        .map(|line| format!("boot loader: {line}")),
                );
            }
            None => lines.push(
                "its configuration does not show: the kernel has no nvmem device for it (it needs \
                 CONFIG_NVMEM_RMEM and the device tree alias blconfig)"
                    .into(),
            ),
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// The tree of a Pi 4 as its documentation describes it; it was not recorded.
    fn tree(config: Option<&[u8]>) -> (tempfile::TempDir, Sysfs) {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put(
            "proc/device-tree/compatible",
            b"raspberrypi,4-model-b\0brcm,bcm2711\0",
        );
        let chosen = "proc/device-tree/chosen/bootloader";
        put(
            &format!("{chosen}/build-timestamp"),
            &1_746_713_597_u32.to_be_bytes(),
        );
        put(&format!("{chosen}/update-timestamp"), &0_u32.to_be_bytes());
        put(&format!("{chosen}/boot-mode"), &2_u32.to_be_bytes());
        put(&format!("{chosen}/version"), b"69471177b5adbbe9\0");
        put(
            "proc/device-tree/aliases/blconfig",
            b"/reserved-memory/nvram@0\0",
        );
        let other = "sys/bus/nvmem/devices/bcm2711-otp0";
        put(&format!("{other}/nvmem"), b"otp");
        if let Some(config) = config {
            let device = "sys/bus/nvmem/devices/rmem0";
            put(&format!("{device}/nvmem"), config);
            let node = "../../../firmware/devicetree/base/reserved-memory/nvram@0";
            symlink(node, dir.path().join(format!("{device}/of_node"))).unwrap();
        }
        let sysfs = Sysfs::at(dir.path());
        (dir, sysfs)
    }

    #[test]
    fn a_pi_shows_its_boot_order_in_words() {
        let (_dir, sysfs) = tree(Some(b"[all]\nBOOT_UART=1\nBOOT_ORDER=0xf41\n\0\0\0"));
        let found = sysfs.boot_loader().unwrap();
        assert_eq!(found.config.as_ref().unwrap().get("BOOT_UART"), Some("1"));
        assert_eq!(
            found.lines(),
            [
                "boot loader in EEPROM, built 2025-05-08 14:13:17, booted from: network",
                "BOOT_ORDER=0xf41: tries SD card or eMMC, then USB disk, then start again",
                "boot loader: BOOT_ORDER 0xf41 never boots from the network: SD card or eMMC, then \
                 USB disk, then start again",
            ]
        );
    }

    #[test]
    fn what_the_kernel_does_not_show_is_said() {
        let (_dir, sysfs) = tree(None);
        let found = sysfs.boot_loader().unwrap();
        assert_eq!((found.config.as_ref(), found.updated), (None, Some(0)));
        assert!(
            found.lines()[1].contains("does not show"),
            "{:?}",
            found.lines()
        );
        // No text at all.
        let (_dir, sysfs) = tree(Some(&[1, 2, 3]));
        assert_eq!(sysfs.boot_loader().unwrap().config, None);
    }

    #[test]
    fn other_machines_have_no_boot_eeprom() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Sysfs::at(dir.path()).boot_loader(), None);
        let (dir, sysfs) = tree(None);
        fs::write(
            dir.path().join("proc/device-tree/compatible"),
            b"qemu,virt\0",
        )
        .unwrap();
        assert_eq!(sysfs.boot_loader(), None);
        // A 3B.
        let (dir, sysfs) = tree(None);
        fs::remove_file(
            dir.path()
                .join("proc/device-tree/chosen/bootloader/build-timestamp"),
        )
        .unwrap();
        assert_eq!(sysfs.boot_loader(), None);
    }
}
