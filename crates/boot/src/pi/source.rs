//! Where the files of a Raspberry Pi are, in a source that the operator chose.

use super::{Family, File, Prefix, Request};

/// How a source of boot files is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As a boot partition is: of a folder, and of the FAT partition inside an image.
    Folder,
    /// Debian's packages `raspi-firmware` and `linux-image-…-arm64`, unpacked into one folder.
    Debian {
        /// The kernel's version, as in its file names: `6.1.0-37-arm64`.
        kernel: String,
    },
}

/// Blocks of a TFTP transfer before the block number is used up.
const BLOCKS: u64 = 65535;

/// Device trees that the boot loader asks for by their name in Raspberry Pi's own kernel, and their
/// names in the kernel of kernel.org, which Debian has: beginnings of names, the first that fits.
const UPSTREAM_NAMES: [(&str, &str); 7] = [
    ("bcm2711-rpi-cm4.dtb", "bcm2711-rpi-cm4-io.dtb"),
    ("bcm2710-rpi-cm3.dtb", "bcm2837-rpi-cm3-io3.dtb"),
    ("bcm2710-rpi-2-b.dtb", "bcm2836-rpi-2-b.dtb"),
    ("bcm2710-rpi-", "bcm2837-rpi-"),
    ("bcm2709-rpi-", "bcm2836-rpi-"),
    ("bcm2708-rpi-", "bcm2835-rpi-"),
    ("bcm2712-d-rpi-", "bcm2712-rpi-"),
];

/// The names, relative to the root of the source, below which the file may be, best first. The
/// first one that exists is the file. `config.txt` and `cmdline.txt` are among them: those of the
/// source, which [`config_txt`](super::config_txt) takes in.
///
/// In a folder a file of the board's own comes first: `91cdf03d/config.txt` before `config.txt`. A boot
/// loader update is taken from there alone.
#[must_use]
pub fn candidates(request: &Request, layout: &Layout) -> Vec<String> {
    let name = &request.name;
    let mut names = vec![];
    match layout {
        Layout::Folder => {
            let own = match &request.prefix {
                Some(Prefix::Serial(serial)) => Some(format!("{serial:08x}")),
                Some(Prefix::Mac(mac)) => Some(mac.to_string().replace(':', "-")),
                Some(Prefix::Text(text)) => Some(text.clone()),
                None => None,
            };
            names.extend(own.map(|own| format!("{own}/{name}")));
            // What an update left in a common folder would be written to every board.
            if request.file != File::SelfUpdate {
                names.push(name.clone());
            }
            if request.file == File::DeviceTree {
                names.extend(upstream(name));
            }
        }
        Layout::Debian { kernel } => match request.file {
            File::Firmware => names.push(format!("usr/lib/raspi-firmware/{name}")),
            // The boot loader may ask by the default name or by the one in our config.txt.
            File::Kernel => names.push(format!("boot/vmlinuz-{kernel}")),
            File::DeviceTree => {
                let folder = format!("usr/lib/linux-image-{kernel}/broadcom");
                for name in [Some(name.clone()), upstream(name)].into_iter().flatten() {
                    names.push(format!("{folder}/{name}"));
                }
            }
            File::Overlay => {
                names.push(format!("usr/lib/linux-image-{kernel}/{name}"));
                names.push(format!("usr/lib/raspi-firmware/{name}"));
            }
            // Debian makes these when the package is installed on the board.
            File::Config
            | File::Cmdline
            | File::Initramfs
            | File::SelfUpdate
            | File::BootImage
            | File::Probe
            | File::Other => {}
        },
    }
    names
}

fn upstream(name: &str) -> Option<String> {
    let (theirs, ours) = UPSTREAM_NAMES
        .iter()
        .find(|(theirs, _)| name.starts_with(theirs))?;
    Some(format!("{ours}{}", &name[theirs.len()..]))
}

/// How many bytes a file may have at most for this board to load it in blocks of `blksize` bytes:
/// before the 5 the block number does not start again, and the transfer hangs. A 5 goes on since
/// its boot loader of 2025-09-23 (rpi-eeprom issue 720).
#[must_use]
pub fn largest_file(family: Family, blksize: u16) -> Option<u64> {
    // The last block has to be a short one.
    (family != Family::Pi5).then(|| BLOCKS * u64::from(blksize) - 1)
}

/// What to tell the operator before a file of `size` bytes is given to this board, which asked for
/// blocks of `blksize` bytes; `None` where there is nothing to tell.
#[must_use]
pub fn size_warning(family: Family, name: &str, size: u64, blksize: u16) -> Option<String> {
    let limit = BLOCKS * u64::from(blksize) - 1;
    if size <= limit {
        return None;
    }
    let mb = |bytes: u64| bytes / 1_000_000;
    let (size, limit) = (mb(size), mb(limit));
    Some(if largest_file(family, blksize).is_some() {
        format!(
            "{name} has {size} MB and a {family} loads {limit} MB over TFTP at most (65535 blocks of \
             {blksize} bytes): it will hang; make the file smaller, or boot from an image"
        )
    } else {
        format!(
            "{name} has {size} MB: a {family} loads more than {limit} MB over TFTP only with a boot \
             loader of 2025-09-23 or later; update it if this one hangs"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, layout: &Layout) -> Vec<String> {
        candidates(&Request::parse(path).unwrap(), layout)
    }

    #[test]
    fn in_a_folder_the_boards_own_file_comes_first() {
        assert_eq!(
            of("91cdf03d/config.txt", &Layout::Folder),
            ["91cdf03d/config.txt", "config.txt"]
        );
        assert_eq!(
            of("overlays/vc4.dtbo", &Layout::Folder),
            ["overlays/vc4.dtbo"]
        );
        assert_eq!(
            of("bcm2710-rpi-3-b-plus.dtb", &Layout::Folder),
            ["bcm2710-rpi-3-b-plus.dtb", "bcm2837-rpi-3-b-plus.dtb"]
        );
    }

    #[test]
    fn debians_packages_have_their_own_places() {
        let debian = Layout::Debian {
            kernel: "6.1.0-37-arm64".into(),
        };
        assert_eq!(
            of("91cdf03d/start4.elf", &debian),
            ["usr/lib/raspi-firmware/start4.elf"]
        );
        assert_eq!(of("kernel8.img", &debian), ["boot/vmlinuz-6.1.0-37-arm64"]);
        assert_eq!(
            of("bcm2711-rpi-4-b.dtb", &debian),
            ["usr/lib/linux-image-6.1.0-37-arm64/broadcom/bcm2711-rpi-4-b.dtb"]
        );
        assert_eq!(
            of("bcm2710-rpi-3-b.dtb", &debian)[1],
            "usr/lib/linux-image-6.1.0-37-arm64/broadcom/bcm2837-rpi-3-b.dtb"
        );
        assert!(of("bcm2711-rpi-cm4.dtb", &debian)[1].ends_with("/bcm2711-rpi-cm4-io.dtb"));
        assert!(of("recovery.elf", &debian).is_empty());
    }

    #[test]
    fn a_file_that_hangs_the_boot_loader_is_told_of() {
        assert_eq!(largest_file(Family::Pi4, 1468), Some(96_205_379));
        assert_eq!(size_warning(Family::Pi4, "initrd", 96_205_379, 1468), None);
        let text = size_warning(Family::Pi4, "initrd", 96_205_380, 1468).unwrap();
        assert!(
            text.starts_with("initrd has 96 MB and a Raspberry Pi 4 loads 96 MB"),
            "{text}"
        );
        let text = size_warning(Family::Pi5, "boot.img", 300 << 20, 1468).unwrap();
        assert!(text.contains("2025-09-23"), "{text}");
        assert_eq!(largest_file(Family::Pi5, 1468), None);
    }
}
