//! The virtual boot tree: the same paths over TFTP and under `/boot/` over HTTP.

use bugler_model::MacAddr;

/// What a path of the boot tree stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// The script rendered for the client with this interface.
    Script(MacAddr),
    /// A boot loader, by its file name.
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
}

/// The loaders that a client may be given.
const LOADERS: [&str; 3] = ["undionly.kpxe", "snponly.efi", "ipxe.efi"];

/// Takes a path apart, as TFTP and HTTP clients write it: one leading slash and backslashes are
/// forgiven. `None` for everything that the tree does not have; a part that is `.` or `..` or holds
/// a byte outside of `A-Z a-z 0-9 . _ + - :` is never in it.
#[must_use]
pub fn parse_path(path: &str) -> Option<Node> {
    let path = path.replace('\\', "/");
    let path = path.strip_prefix('/').unwrap_or(&path);
    let parts: Vec<&str> = path.split('/').collect();
    let safe = |part: &&str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._+-:".contains(&b))
    };
    if parts.len() > 8 || !parts.iter().all(safe) {
        return None;
    }
    match parts.as_slice() {
        ["ipxe", mac] => mac.parse().ok().map(Node::Script),
        ["bootenv", arch, version, file] => {
            let file = ["vmlinuz", "initrd"]
                .into_iter()
                .find(|known| known == file)?;
            Some(Node::Bootenv {
                arch: (*arch).into(),
                version: (*version).into(),
                file,
            })
        }
        [file] => LOADERS
            .into_iter()
            .find(|known| known == file)
            .map(Node::Loader),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tree_has_scripts_loaders_and_boot_environments() {
        assert_eq!(
            parse_path("undionly.kpxe"),
            Some(Node::Loader("undionly.kpxe"))
        );
        assert_eq!(
            parse_path("\\snponly.efi"),
            Some(Node::Loader("snponly.efi"))
        );
        assert_eq!(
            parse_path("/ipxe/52:54:00:12:34:56"),
            Some(Node::Script(MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56])))
        );
        assert_eq!(
            parse_path("bootenv/x86_64/6.1.0-37-amd64+1a2b/initrd"),
            Some(Node::Bootenv {
                arch: "x86_64".into(),
                version: "6.1.0-37-amd64+1a2b".into(),
                file: "initrd"
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
            "//undionly.kpxe",
            "ipxe/nobody",
            "bootenv//v/initrd",
            "undionly.kpxe\0",
        ] {
            assert_eq!(parse_path(path), None, "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn a_path_never_leaves_the_tree(path in "[./\\\\a-z0-9:]{0,40}|.{0,60}") {
            if let Some(Node::Bootenv { arch, version, .. }) = parse_path(&path) {
                prop_assert!(!arch.contains('/') && !arch.starts_with('.'));
                prop_assert!(!version.contains('/') && !version.starts_with('.'));
            }
        }
    }
}
