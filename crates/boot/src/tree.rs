//! The virtual boot tree: the same paths over TFTP and under `/boot/` over HTTP.

use bugler_model::{MacAddr, ProfileName};
use uuid::Uuid;

/// What a path of the boot tree stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A loader's script or configuration, rendered for the client that asks.
    Script {
        /// In whose language.
        dialect: Dialect,
        /// Who asks, as far as the path says.
        asker: Asker,
        /// The profile that was picked from a menu; `None`: what the device boots.
        picked: Option<ProfileName>,
    },
    /// A boot loader, or a part of one, by its file name.
    Loader(&'static str),
    /// A file of the boot environment.
    Bootenv {
        /// Architecture folder.
        arch: String,
        /// Version folder.
        version: String,
        /// `vmlinuz` or `initrd`.
        file: &'static str,
    },
    /// What starts a diskless machine: its image's kernel, and an initramfs for it.
    Diskless {
        /// Architecture folder.
        arch: String,
        /// Version folder.
        version: String,
        /// `vmlinuz` or `initrd`.
        file: &'static str,
    },
    /// A file of the operator's folder, by its path in it.
    File(String),
}

/// Whose language a script is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// iPXE.
    Ipxe,
    /// PXELINUX, and U-Boot's `pxe`.
    Pxelinux,
    /// GRUB.
    Grub,
    /// A script of U-Boot's own shell, as a legacy image.
    UBoot,
}

/// How a path names the client that asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// By its interface.
    Mac(MacAddr),
    /// By its UUID, in the loader's spelling: either byte order.
    Uuid(Uuid),
    /// By the first digits of its address in hexadecimal, upper case.
    Address(String),
    /// Not at all: it is whoever has the address that the request came from.
    Default,
}

/// Where U-Boot looks for its script.
pub const UBOOT_SCRIPT: &str = "boot.scr.uimg";

/// The loaders and their parts, with the Debian package that has each.
const LOADERS: [(&str, &str); 20] = [
    ("undionly.kpxe", "ipxe"),
    ("snponly.efi", "ipxe"),
    ("ipxe.efi", "ipxe"),
    ("pxelinux.0", "pxelinux"),
    ("lpxelinux.0", "pxelinux"),
    ("ldlinux.c32", "syslinux-common"),
    ("libcom32.c32", "syslinux-common"),
    ("libutil.c32", "syslinux-common"),
    ("menu.c32", "syslinux-common"),
    ("vesamenu.c32", "syslinux-common"),
    ("chain.c32", "syslinux-common"),
    ("shimx64.efi", "shim-signed"),
    ("mmx64.efi", "shim-helpers-amd64-signed"),
    ("grubx64.efi", "grub-efi-amd64-signed"),
    ("shimaa64.efi", "shim-signed (arm64)"),
    ("mmaa64.efi", "shim-helpers-arm64-signed (arm64)"),
    (
        "grubaa64.efi",
        "grub-efi-arm64-bin or grub-efi-arm64-signed (arm64)",
    ),
    ("grubia32.efi", "grub-efi-ia32-bin"),
    ("fbx64.efi", "shim-helpers-amd64-signed"),
    ("fbaa64.efi", "shim-helpers-arm64-signed (arm64)"),
];

/// The names of all loaders and their parts.
pub fn loaders() -> impl Iterator<Item = &'static str> {
    LOADERS.into_iter().map(|(name, _)| name)
}

/// The Debian package that has a loader.
#[must_use]
pub fn package_of(loader: &str) -> &'static str {
    LOADERS
        .into_iter()
        .find(|(name, _)| *name == loader)
        .map_or("it", |(_, package)| package)
}

/// Takes a path apart, as TFTP and HTTP clients write it: one leading slash and backslashes are
/// forgiven. `None` for everything that the tree does not have; a part that is `.` or `..` or holds
/// a byte outside of `A-Z a-z 0-9 . _ + - : ~` is never in it.
#[must_use]
pub fn parse_path(path: &str) -> Option<Node> {
    let path = path.replace('\\', "/");
    let path = path.trim_start_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let safe = |part: &&str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._+-:~".contains(&b))
    };
    if path.len() > 512 || parts.len() > 16 || !parts.iter().all(safe) {
        return None;
    }
    match parts.as_slice() {
        ["profile", name, rest @ ..] => {
            let Node::Script {
                dialect,
                asker,
                picked: None,
            } = script(rest)?
            else {
                return None;
            };
            Some(Node::Script {
                dialect,
                asker,
                picked: Some(name.parse().ok()?),
            })
        }
        [folder @ ("bootenv" | "diskless"), arch, version, file] => {
            let file = ["vmlinuz", "initrd"]
                .into_iter()
                .find(|known| known == file)?;
            let (arch, version) = ((*arch).into(), (*version).into());
            Some(match *folder {
                "bootenv" => Node::Bootenv {
                    arch,
                    version,
                    file,
                },
                _ => Node::Diskless {
                    arch,
                    version,
                    file,
                },
            })
        }
        ["files", rest @ ..] if !rest.is_empty() => Some(Node::File(rest.join("/"))),
        // shim asks for its second stage beside itself, which some firmware takes for the root.
        [file] | ["grub", file] if loaders().any(|known| known == *file) => {
            loaders().find(|known| known == file).map(Node::Loader)
        }
        parts => script(parts),
    }
}

/// A path of a script or configuration.
fn script(parts: &[&str]) -> Option<Node> {
    let node = |dialect, asker| {
        Some(Node::Script {
            dialect,
            asker,
            picked: None,
        })
    };
    match parts {
        ["ipxe", mac] => node(Dialect::Ipxe, Asker::Mac(mac.parse().ok()?)),
        ["pxelinux.cfg", name] => node(Dialect::Pxelinux, pxelinux_asker(name)?),
        ["grub.cfg"] | ["grub", "grub.cfg"] => node(Dialect::Grub, Asker::Default),
        [file] | ["grub", file] if file.starts_with("grub.cfg-") => {
            let name = file.strip_prefix("grub.cfg-")?;
            node(Dialect::Grub, named_asker(name)?)
        }
        [UBOOT_SCRIPT] => node(Dialect::UBoot, Asker::Default),
        _ => None,
    }
}

/// PXELINUX: UUID, `01-` and the interface, the address in hexadecimal with one digit less each time,
/// `default`. U-Boot adds `default-<arch>-<soc>-<board>` and its shorter forms.
fn pxelinux_asker(name: &str) -> Option<Asker> {
    if name == "default" || name.starts_with("default-") {
        return Some(Asker::Default);
    }
    named_asker(name)
}

fn named_asker(name: &str) -> Option<Asker> {
    // The hardware type stands before the address: 01 is Ethernet (RFC 1700 "hrd").
    if let Some(mac) = name.strip_prefix("01-") {
        return mac.parse().ok().map(Asker::Mac);
    }
    let hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if (1..=8).contains(&name.len()) && name.bytes().all(hex) {
        return Some(Asker::Address(name.to_owned()));
    }
    (name.len() == 36)
        .then(|| name.parse().ok().map(Asker::Uuid))
        .flatten()
}

/// Whether a path that the tree does not have is one that loaders ask for as a matter of course: that
/// it is missing is no failure.
#[must_use]
pub fn is_expected_to_miss(path: &str) -> bool {
    let path = path.replace('\\', "/");
    let path = path.trim_start_matches('/');
    let name = path.rsplit('/').next().unwrap_or_default();
    // GRUB's modules and lists are in its image; shim looks for updates of its own beside itself.
    path.starts_with("grub/")
        || path.starts_with("pxelinux.cfg/")
        || name.starts_with("grub.cfg")
        || name.starts_with("revocations")
        || name.starts_with("shim_certificate")
        || matches!(name, "boot.cfg" | "autoexec.ipxe" | "BCD")
        // iPXE looks for a script of its own beside itself, U-Boot for an EFI program.
        || name.starts_with("boot") && name.ends_with(".efi")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    fn asked(dialect: Dialect, asker: Asker) -> Option<Node> {
        Some(Node::Script {
            dialect,
            asker,
            picked: None,
        })
    }

    #[test]
    fn the_tree_has_loaders_boot_environments_and_files() {
        assert_eq!(
            parse_path("undionly.kpxe"),
            Some(Node::Loader("undionly.kpxe"))
        );
        assert_eq!(
            parse_path("\\snponly.efi"),
            Some(Node::Loader("snponly.efi"))
        );
        assert_eq!(
            parse_path("//grubx64.efi"),
            Some(Node::Loader("grubx64.efi"))
        );
        assert_eq!(
            parse_path("bootenv/x86_64/6.1.0-37-amd64+1a2b/initrd"),
            Some(Node::Bootenv {
                arch: "x86_64".into(),
                version: "6.1.0-37-amd64+1a2b".into(),
                file: "initrd"
            })
        );
        assert_eq!(
            parse_path("files/debian/linux"),
            Some(Node::File("debian/linux".into()))
        );
    }

    #[test]
    fn loaders_find_their_scripts_in_their_own_order() {
        let mac = || Asker::Mac(MAC);
        let uuid = "1eadff66-19e7-84ad-9831-b8aeed7d5f80";
        for (path, node) in [
            ("/ipxe/52:54:00:12:34:56", asked(Dialect::Ipxe, mac())),
            (
                "pxelinux.cfg/01-52-54-00-12-34-56",
                asked(Dialect::Pxelinux, mac()),
            ),
            (
                "pxelinux.cfg/1eadff66-19e7-84ad-9831-b8aeed7d5f80",
                asked(Dialect::Pxelinux, Asker::Uuid(uuid.parse().unwrap())),
            ),
            (
                "pxelinux.cfg/0A143264",
                asked(Dialect::Pxelinux, Asker::Address("0A143264".into())),
            ),
            (
                "pxelinux.cfg/0A",
                asked(Dialect::Pxelinux, Asker::Address("0A".into())),
            ),
            (
                "pxelinux.cfg/default",
                asked(Dialect::Pxelinux, Asker::Default),
            ),
            (
                "pxelinux.cfg/default-arm-highbank",
                asked(Dialect::Pxelinux, Asker::Default),
            ),
            ("grub.cfg-01-52-54-00-12-34-56", asked(Dialect::Grub, mac())),
            (
                "/grub/grub.cfg-0A143264",
                asked(Dialect::Grub, Asker::Address("0A143264".into())),
            ),
            ("/grub/grub.cfg", asked(Dialect::Grub, Asker::Default)),
            ("boot.scr.uimg", asked(Dialect::UBoot, Asker::Default)),
        ] {
            assert_eq!(parse_path(path), node, "{path}");
        }
        assert_eq!(
            parse_path("profile/rescue/grub.cfg"),
            Some(Node::Script {
                dialect: Dialect::Grub,
                asker: Asker::Default,
                picked: Some("rescue".parse().unwrap()),
            })
        );
    }

    #[test]
    fn nothing_outside_of_the_tree_has_a_path() {
        for path in [
            "",
            "/",
            "../etc/passwd",
            "bootenv/../../etc/passwd",
            "bootenv/x86_64/../initrd",
            "bootenv/x86_64/v/bootenv.json",
            "files/../registry.sqlite",
            "files/.hidden",
            "files",
            "files/",
            "ipxe/nobody",
            "bootenv//v/initrd",
            "undionly.kpxe\0",
            "pxelinux.cfg/0a143264",
            "pxelinux.cfg/0A1432640",
            "profile/x/files/y",
            "profile/x/profile/y/grub.cfg",
            "profile/X/grub.cfg",
            "grub/x86_64-efi/command.lst",
        ] {
            assert_eq!(parse_path(path), None, "{path:?}");
        }
    }

    #[test]
    fn what_loaders_ask_for_in_vain_is_no_failure() {
        for path in [
            "grub/x86_64-efi/command.lst",
            "revocations_sku.efi",
            "shim_certificate_0.efi",
            "pxelinux.cfg/0A14",
            "/bootaa64.efi",
            "autoexec.ipxe",
        ] {
            assert!(is_expected_to_miss(path), "{path}");
        }
        assert!(!is_expected_to_miss("files/linux"));
        assert!(!is_expected_to_miss("undionly.kpxe"));
    }

    #[test]
    fn every_loader_has_a_package() {
        for loader in loaders() {
            assert_ne!(package_of(loader), "it");
        }
    }

    proptest! {
        #[test]
        fn a_path_never_leaves_the_tree(path in "(files|bootenv|grub)?[./\\\\a-z0-9:]{0,40}|.{0,60}") {
            match parse_path(&path) {
                Some(Node::Bootenv { arch, version, .. }) => {
                    prop_assert!(!arch.contains('/') && !arch.starts_with('.'));
                    prop_assert!(!version.contains('/') && !version.starts_with('.'));
                }
                Some(Node::File(path)) => {
                    prop_assert!(!path.starts_with('/'));
                    prop_assert!(path.split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
                }
                _ => {}
            }
        }
    }
}
