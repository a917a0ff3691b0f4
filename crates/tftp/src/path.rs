//! File names from the network, made safe.

/// Makes a path of what a client sent: backslashes become slashes (Windows loaders send them),
/// leading and doubled slashes and `.` go. None when it names a parent folder, holds a control
/// character or a NUL, or names nothing. Bytes that are no UTF-8 become U+FFFD, so that the path can
/// be reported; no rendered file has such a name.
///
/// The result never begins with a slash and has no empty, `.` or `..` segment.
pub fn normalise(raw: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(raw);
    let mut path = String::with_capacity(text.len());
    for segment in text.split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => return None,
            name if name.chars().any(char::is_control) => return None,
            name => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(name);
            }
        }
    }
    (!path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_as_clients_write_them() {
        for (raw, path) in [
            (&b"undionly.kpxe"[..], "undionly.kpxe"),
            (b"/pxelinux.cfg/default", "pxelinux.cfg/default"),
            (b"//boot///grub/./grub.cfg", "boot/grub/grub.cfg"),
            (b"\\Boot\\BCD", "Boot/BCD"),
            (
                b"/pxelinux.cfg/01-52-54-00-12-34-56",
                "pxelinux.cfg/01-52-54-00-12-34-56",
            ),
            (b"a b", "a b"),
            (b"...", "..."),
        ] {
            assert_eq!(normalise(raw).as_deref(), Some(path));
        }
    }

    #[test]
    fn tricks_are_refused() {
        for raw in [
            &b".."[..],
            b"../etc/passwd",
            b"/../etc/passwd",
            b"a/../../etc/passwd",
            b"a\\..\\..\\etc",
            b"..\\etc",
            b"a/..",
            b"a\0b",
            b"a\nb",
            b"",
            b"/",
            b"./.",
        ] {
            assert_eq!(normalise(raw), None, "{}", raw.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_path_has_only_plain_segments(raw in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(path) = normalise(&raw) {
                prop_assert!(path.split('/').all(|s| !matches!(s, "" | "." | "..")));
                prop_assert!(!path.contains(['\\', '\0']));
                let again = normalise(path.as_bytes());
                prop_assert_eq!(again, Some(path));
            }
        }

        #[test]
        fn dots_and_slashes_never_lead_out(raw in "[./\\\\a]{0,20}") {
            if let Some(path) = normalise(raw.as_bytes()) {
                prop_assert!(!path.starts_with('/'));
                prop_assert!(path.split('/').all(|s| !matches!(s, "" | "." | "..")));
            }
        }
    }
}
