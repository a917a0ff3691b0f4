//! What a path means that a Raspberry Pi asks for over TFTP.

use super::{Family, Identity};
use bugler_model::MacAddr;

/// Longest path that is looked at, in bytes.
const MAX_PATH: usize = 200;

/// The folder in front of the file name: `TFTP_PREFIX` of the EEPROM configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// The low 32 bits of the serial number (0, the default).
    Serial(u32),
    /// The MAC address (2).
    Mac(MacAddr),
    /// Another text (1), with the slashes inside, without the last one.
    Text(String),
}

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum File {
    /// `config.txt`
    Config,
    /// `cmdline.txt`
    Cmdline,
    /// `bootcode.bin`, `start*.elf`, `fixup*.dat`: the boot loader's further stages.
    Firmware,
    /// A kernel: `kernel*.img`, or what `config.txt` calls it.
    Kernel,
    /// An initramfs: `initramfs*`, `initrd*`.
    Initramfs,
    /// `bcm*.dtb`
    DeviceTree,
    /// `overlays/…`
    Overlay,
    /// `pieeprom.sig`, `pieeprom.upd` and those of the USB controller: a newer boot loader, where one
    /// is given.
    SelfUpdate,
    /// `boot.img`, `boot.sig`: everything in one file, where one is given.
    BootImage,
    /// A file that is looked for by habit and is hardly ever there.
    Probe,
    /// Any other file below a board's own folder.
    Other,
}

/// A path, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The folder in front.
    pub prefix: Option<Prefix>,
    /// What it is.
    pub file: File,
    /// The name without the prefix: `start4.elf`, `overlays/bcm2712d0.dtbo`.
    pub name: String,
}

impl Request {
    /// Takes a path apart. One leading slash is forgiven. `None` where it can be no Raspberry Pi's: a
    /// name that none of them asks for, or a part that is empty, begins with a dot or holds a byte
    /// outside of `A-Z a-z 0-9 . _ + - @`.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let safe = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._+-@".contains(&b))
        };
        if path.len() > MAX_PATH || !path.split('/').all(safe) {
            return None;
        }
        let overlay = path.rfind("overlays/").filter(|&at| {
            // A folder of its own, with nothing but the file below it.
            (at == 0 || path[..at].ends_with('/')) && !path[at + 9..].contains('/')
        });
        let begin = overlay
            .or_else(|| path.rfind('/').map(|at| at + 1))
            .unwrap_or(0);
        let (folder, name) = path.split_at(begin);
        let prefix = (!folder.is_empty()).then(|| Prefix::parse(folder.trim_end_matches('/')));
        let file = match kind(name) {
            Some(file) => file,
            None => match prefix {
                Some(Prefix::Serial(_) | Prefix::Mac(_)) => File::Other,
                _ => return None,
            },
        };
        Some(Self {
            prefix,
            file,
            name: name.to_owned(),
        })
    }

    /// Whether the folder in front, if there is one, can be this board's own.
    #[must_use]
    pub fn may_be_of(&self, identity: &Identity) -> bool {
        match &self.prefix {
            Some(Prefix::Serial(serial)) => identity.may_own(&format!("{serial:08x}")),
            Some(Prefix::Mac(mac)) => *mac == identity.mac,
            Some(Prefix::Text(_)) | None => true,
        }
    }

    /// Whether "file not found" is an ordinary answer to this, and no reason to worry anybody.
    /// `needed` are the names, without prefix, that this board's own `config.txt` makes it load.
    ///
    /// | Asked for | Because |
    /// |---|---|
    /// | `bootsig.bin`, `recovery.elf`, `autoboot.txt`, … | the boot loader looks by habit |
    /// | `start4.elf` below a prefix | a miss makes it ask without the prefix |
    /// | `start.elf` by a 4 | it tries this name when `start4.elf` is missing, and the other way |
    /// | `pieeprom.sig`, `vl805.sig` | there is no update |
    /// | `boot.img` | only where `config.txt` or the EEPROM says so |
    /// | overlays, `kernel7.img` beside a `kernel8.img` | it works without |
    #[must_use]
    pub fn missing_is_normal(&self, family: Family, needed: &[&str]) -> bool {
        if needed.contains(&self.name.as_str()) {
            return false;
        }
        match self.file {
            File::Config | File::Cmdline | File::DeviceTree => false,
            File::Firmware => self.prefix.is_some() || !wants_firmware(family, &self.name),
            File::Kernel
            | File::Initramfs
            | File::Overlay
            | File::SelfUpdate
            | File::BootImage
            | File::Probe
            | File::Other => true,
        }
    }
}

impl Prefix {
    fn parse(folder: &str) -> Self {
        let digits = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if folder.len() == 8
            && digits(folder)
            && let Ok(serial) = u32::from_str_radix(folder, 16)
        {
            return Self::Serial(serial);
        }
        if folder.len() == 17
            && folder.contains('-')
            && let Ok(mac) = folder.parse()
        {
            return Self::Mac(mac);
        }
        Self::Text(folder.to_owned())
    }
}

/// Whether an ERROR packet is only the end of a probe: a boot loader that wanted to know whether a
/// file is there, and how long it is, stops the transfer with this.
#[must_use]
pub fn is_early_terminate(code: u16, message: &[u8]) -> bool {
    code == 0 && message.eq_ignore_ascii_case(b"Early terminate")
}

/// Whether a board cannot boot without this stage of the boot loader.
fn wants_firmware(family: Family, name: &str) -> bool {
    match family {
        Family::Pi5 => false,
        Family::Pi4 | Family::Cm4 => name.starts_with("start4") || name.starts_with("fixup4"),
        Family::Pi3 | Family::Pi3Plus => !name.starts_with("start4") && !name.starts_with("fixup4"),
        Family::Unknown => true,
    }
}

/// The kind of a file by its name; `None` for a name that no boot loader asks for by itself.
fn kind(name: &str) -> Option<File> {
    let ends = |end: &str| name.ends_with(end);
    let begins = |start: &str| name.starts_with(start);
    Some(match name {
        "config.txt" => File::Config,
        "cmdline.txt" => File::Cmdline,
        "bootcode.bin" => File::Firmware,
        "boot.img" | "boot.sig" => File::BootImage,
        "pieeprom.sig" | "pieeprom.upd" | "pieeprom.bin" | "vl805.sig" | "vl805.bin" => {
            File::SelfUpdate
        }
        "bootsig.bin"
        | "recovery.elf"
        | "recover4.elf"
        | "recovery.bin"
        | "recovery.dtb"
        | "recovery.txt"
        | "autoboot.txt"
        | "tryboot.txt"
        | "usercfg.txt"
        | "dt-blob.bin"
        | "bootcfg.txt"
        | "overlays/hat_map.dtb" => File::Probe,
        _ if begins("overlays/") => File::Overlay,
        _ if begins("start") && ends(".elf") => File::Firmware,
        _ if begins("fixup") && ends(".dat") => File::Firmware,
        _ if begins("recovery") && ends(".img") => File::Probe,
        _ if begins("armstub") && ends(".bin") => File::Probe,
        _ if begins("bcm") && ends(".dtb") => File::DeviceTree,
        _ if begins("kernel") && ends(".img") => File::Kernel,
        _ if begins("vmlinuz") || begins("Image") => File::Kernel,
        _ if begins("initramfs") || begins("initrd") => File::Initramfs,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(path: &str) -> Request {
        Request::parse(path).unwrap_or_else(|| panic!("{path}"))
    }

    #[test]
    fn paths_are_taken_apart() {
        let mac = "dc:a6:32:01:36:c2".parse().unwrap();
        for (path, prefix, file, name) in [
            ("config.txt", None, File::Config, "config.txt"),
            (
                "9ffefdef/start4.elf",
                Some(Prefix::Serial(0x9ffe_fdef)),
                File::Firmware,
                "start4.elf",
            ),
            (
                "dc-a6-32-01-36-c2/cmdline.txt",
                Some(Prefix::Mac(mac)),
                File::Cmdline,
                "cmdline.txt",
            ),
            (
                "lab/pi4/overlays/overlay_map.dtb",
                Some(Prefix::Text("lab/pi4".into())),
                File::Overlay,
                "overlays/overlay_map.dtb",
            ),
            (
                "overlays/bcm2712d0.dtbo",
                None,
                File::Overlay,
                "overlays/bcm2712d0.dtbo",
            ),
            (
                "9ffefdef/my-splash.bin",
                Some(Prefix::Serial(0x9ffe_fdef)),
                File::Other,
                "my-splash.bin",
            ),
            // Upper-case digits are no serial number's folder.
            (
                "9FFEFDEF/fixup4.dat",
                Some(Prefix::Text("9FFEFDEF".into())),
                File::Firmware,
                "fixup4.dat",
            ),
            ("/kernel8.img", None, File::Kernel, "kernel8.img"),
        ] {
            let request = parse(path);
            assert_eq!(
                (request.prefix, request.file, request.name.as_str()),
                (prefix, file, name)
            );
        }
    }

    #[test]
    fn paths_of_others_are_not_taken() {
        for path in [
            "",
            "undionly.kpxe",
            "pxelinux.cfg/default",
            "ipxe/52:54:00:12:34:56",
            "../config.txt",
            "9ffefdef/../../etc/passwd",
            "9ffefdef//config.txt",
            "9ffefdef/.hidden",
            "config.txt\0",
        ] {
            assert_eq!(Request::parse(path), None, "{path:?}");
        }
    }

    /// The requests that were recorded of these boards, in their order.
    #[test]
    fn what_is_normal_to_miss_is_normal_and_the_rest_is_not() {
        let needed = ["kernel8.img"];
        let normal = |family, paths: &[&str], expected: bool| {
            for path in paths {
                let missing = parse(path).missing_is_normal(family, &needed);
                assert_eq!(missing, expected, "{family}: {path}");
            }
        };
        let probes = [
            "bootsig.bin",
            "autoboot.txt",
            "recovery.elf",
            "dt-blob.bin",
            "bootcfg.txt",
            "recovery8.img",
            "recovery7.img",
            "kernel7.img",
            "armstub8-32.bin",
        ];
        normal(Family::Pi3, &probes, true);
        let rest = [
            "bootcode.bin",
            "start.elf",
            "fixup.dat",
            "config.txt",
            "cmdline.txt",
        ];
        normal(Family::Pi3, &rest, false);
        normal(
            Family::Pi3Plus,
            &["bcm2710-rpi-3-b-plus.dtb", "kernel8.img"],
            false,
        );
        let probes = [
            "91cdf03d/start4.elf",
            "91cdf03d/start.elf",
            "start.elf",
            "vl805.sig",
            "pieeprom.sig",
            "recover4.elf",
            "recovery.elf",
            "overlays/overlay_map.dtb",
            "armstub8-gic.bin",
        ];
        normal(Family::Pi4, &probes, true);
        normal(
            Family::Cm4,
            &["start4.elf", "fixup4.dat", "bcm2711-rpi-cm4.dtb"],
            false,
        );
        normal(
            Family::Pi5,
            &["boot.img", "start4.elf", "overlays/bcm2712d0.dtbo"],
            true,
        );
        normal(
            Family::Pi5,
            &["91cdf03d/config.txt", "bcm2712-rpi-5-b.dtb"],
            false,
        );
    }

    #[test]
    fn the_end_of_a_probe_is_no_failure() {
        assert!(is_early_terminate(0, b"Early terminate"));
        assert!(!is_early_terminate(8, b"Early terminate"));
        assert!(!is_early_terminate(0, b"disk full"));
    }

    #[test]
    fn a_folder_belongs_to_its_board() {
        let mac = "b8:27:eb:28:f6:6d".parse().unwrap();
        let id: Vec<u8> = std::iter::once(0).chain([0x44; 16]).collect();
        let pi = Identity::of(mac, Some(&id)).unwrap();
        assert!(parse("4a28f66d/start.elf").may_be_of(&pi));
        assert!(!parse("4a28f66e/start.elf").may_be_of(&pi));
        assert!(parse("start.elf").may_be_of(&pi));
    }

    proptest! {
        #[test]
        fn any_path_is_read_and_none_leaves(path in "[./a-f0-9-]{0,30}(overlays/|config.txt|start4.elf)?|.{0,60}") {
            if let Some(request) = Request::parse(&path) {
                prop_assert!(request.name.split('/').all(|part| !part.is_empty() && part != ".."));
                prop_assert!(path.ends_with(&request.name));
                let _ = request.missing_is_normal(Family::Unknown, &[]);
            }
        }
    }
}
