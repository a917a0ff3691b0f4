//! Changes of texts: pure functions.

/// Whether this is a host name (RFC 1123, section 2.1; hostname(7)): labels of 1 to 63 letters, digits
/// and hyphens, at most 253 characters with the dots.
pub(super) fn is_hostname(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// A hosts file (hosts(5)) in which `new` stands in place of `old`. As Debian has it, the name is that
/// of 127.0.1.1, with its first label as an alias; where the old name was one of the loopback addresses,
/// it is replaced there as well.
pub(super) fn hosts(text: &str, old: Option<&str>, new: &str) -> String {
    let old: Vec<&str> = old
        .into_iter()
        .flat_map(|old| [old, first_label(old)])
        .filter(|old| !old.is_empty() && first_label(old) != "localhost")
        .collect();
    let own = match first_label(new) {
        label if label == new => format!("127.0.1.1\t{new}"),
        label => format!("127.0.1.1\t{new} {label}"),
    };
    let mut lines: Vec<String> = Vec::new();
    let mut has_own = false;
    for line in text.lines() {
        let (fields, comment) = match line.find('#') {
            Some(at) => line.split_at(at),
            None => (line, ""),
        };
        let words: Vec<&str> = fields.split_ascii_whitespace().collect();
        match words.split_first() {
            Some((&"127.0.1.1", _)) => {
                if !std::mem::replace(&mut has_own, true) {
                    lines.push(own.clone());
                }
            }
            Some((&address, names))
                if matches!(address, "127.0.0.1" | "::1")
                    && names.iter().any(|name| old.contains(name)) =>
            {
                let names: Vec<&str> = names
                    .iter()
                    .map(|name| match name {
                        name if !old.contains(name) => name,
                        name if name.contains('.') => new,
                        _ => first_label(new),
                    })
                    .collect();
                lines.push(format!("{address}\t{}{comment}", names.join(" ")));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    if !has_own {
        // Behind the line of localhost, where people look for it.
        let localhost = lines.iter().position(|line| line.starts_with("127.0.0.1"));
        lines.insert(localhost.map_or(0, |at| at + 1), own);
        if localhost.is_none() {
            lines.insert(0, "127.0.0.1\tlocalhost".to_owned());
        }
    }
    lines.join("\n") + "\n"
}

fn first_label(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Where the table of a system (fstab(5)) mounts something at `path` or above it, but for the root.
pub(super) fn mounted_at<'a>(fstab: &'a str, path: &str) -> Option<&'a str> {
    fstab.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let source = words.next().filter(|word| !word.starts_with('#'))?;
        let place = words.next()?.trim_end_matches('/');
        let covers = path
            .strip_prefix(place)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (place.starts_with('/') && covers && !source.is_empty()).then_some(place)
    })
}

/// The files that a configuration of the SSH server names as its host keys (sshd_config(5), "HostKey").
pub(super) fn host_keys(config: &str) -> impl Iterator<Item = &str> {
    config.lines().filter_map(|line| {
        let line = line.trim_start();
        let end = line.find(|c: char| c.is_ascii_whitespace() || c == '=')?;
        let (keyword, value) = line.split_at_checked(end)?;
        let value = value.trim_matches(|c: char| c.is_ascii_whitespace() || c == '=' || c == '"');
        (keyword.eq_ignore_ascii_case("HostKey") && !value.is_empty()).then_some(value)
    })
}

/// `content` with every `old` GUID replaced by its `new` one, in the case that the old one is written in;
/// `None` where there is none of them. GUIDs are 36 characters; their lengths never change.
pub(super) fn replace_guids(content: &[u8], guids: &[(String, String)]) -> Option<Vec<u8>> {
    let mut changed: Option<Vec<u8>> = None;
    for (old, new) in guids {
        let mut at = 0;
        while let Some(found) = find_text(content.get(at..).unwrap_or_default(), old) {
            let place = at + found..at + found + old.len();
            let is_upper = content
                .get(place.clone())
                .is_some_and(|text| text.iter().any(u8::is_ascii_uppercase));
            let new = if is_upper {
                new.to_ascii_uppercase()
            } else {
                new.to_ascii_lowercase()
            };
            at = place.end;
            let bytes = changed.get_or_insert_with(|| content.to_vec());
            if let Some(place) = bytes.get_mut(place)
                && place.len() == new.len()
            {
                place.copy_from_slice(new.as_bytes());
            }
        }
    }
    changed
}

/// Where `text`, which is ASCII, stands in `content`, in either case.
fn find_text(content: &[u8], text: &str) -> Option<usize> {
    if text.is_empty() {
        return None;
    }
    content
        .windows(text.len())
        .position(|window| window.eq_ignore_ascii_case(text.as_bytes()))
}

/// Whether `content` names a GUID in a way that cannot be changed with certainty: as UTF-16, or in its
/// binary form.
pub(super) fn names_hidden(content: &[u8], text: &str, binary: &[u8; 16]) -> bool {
    let is_wide = |window: &[u8]| {
        window
            .as_chunks::<2>()
            .0
            .iter()
            .zip(text.bytes())
            .all(|(pair, byte)| pair[1] == 0 && pair[0].eq_ignore_ascii_case(&byte))
    };
    content.windows(binary.len()).any(|window| window == binary)
        || content.windows(text.len() * 2).any(is_wide)
}

/// Does all of this with whatever `bytes` hold. For fuzzing: it must not panic on anything.
pub fn fuzz(bytes: &[u8]) {
    let old = "01234567-89ab-cdef-0123-456789abcdef".to_owned();
    let new = "ffffffff-89ab-cdef-0123-456789abcdef".to_owned();
    names_hidden(bytes, &old, &[7; 16]);
    if let Some(changed) = replace_guids(bytes, &[(old.clone(), new)]) {
        assert_eq!(changed.len(), bytes.len());
        assert!(find_text(&changed, &old).is_none());
    }
    let text = String::from_utf8_lossy(bytes);
    mounted_at(&text, "/var/lib/cloud");
    assert!(host_keys(&text).all(|path| text.contains(path)));
    let name = text.lines().next().unwrap_or_default();
    is_hostname(name);
    let once = hosts(&text, Some(name), "new.example.org");
    assert!(once.contains("127.0.1.1\tnew.example.org new"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn host_names_are_told_from_other_texts() {
        for name in ["a", "rack1-07", "node.example.org", "7", "A-1"] {
            assert!(is_hostname(name), "{name}");
        }
        let long = "a".repeat(64);
        for name in ["", "-a", "a-", "a..b", "a b", "a\n", "ä", ".", "a_b", &long] {
            assert!(!is_hostname(name), "{name}");
        }
    }

    #[test]
    fn the_host_s_line_is_replaced_or_added() {
        let debian = "127.0.0.1\tlocalhost\n127.0.1.1\tlab.lan lab\n\n::1 localhost ip6-loopback\n";
        assert_eq!(
            hosts(debian, Some("lab"), "n1.example.org"),
            "127.0.0.1\tlocalhost\n127.0.1.1\tn1.example.org n1\n\n::1 localhost ip6-loopback\n"
        );
        assert_eq!(
            hosts(
                "# mine\n127.0.0.1 localhost lab # x\n10.0.0.1 lab\n",
                Some("lab"),
                "n1"
            ),
            "# mine\n127.0.0.1\tlocalhost n1# x\n127.0.1.1\tn1\n10.0.0.1 lab\n"
        );
        assert_eq!(
            hosts("", None, "n1"),
            "127.0.0.1\tlocalhost\n127.0.1.1\tn1\n"
        );
        assert_eq!(
            hosts("127.0.0.1 localhost\n", Some("localhost"), "n1"),
            "127.0.0.1 localhost\n127.0.1.1\tn1\n"
        );
    }

    #[test]
    fn mounts_over_a_path_are_found() {
        let fstab =
            "# /var is small\nUUID=1 / ext4 rw 0 1\nUUID=2 /var/ xfs rw 0 2\nUUID=3 none swap\n";
        assert_eq!(mounted_at(fstab, "/var/lib/cloud"), Some("/var"));
        assert_eq!(mounted_at(fstab, "/variable"), None);
        assert_eq!(mounted_at("UUID=1 / ext4\n", "/var"), None);
    }

    #[test]
    fn host_keys_of_a_configuration_are_found() {
        let config = "Port 22\n#HostKey /etc/ssh/no\nHostKey /etc/ssh/ssh_host_rsa_key\n\
                      \thostkey=\"/etc/my key\" \nHostKeyAlgorithms x\nHostKey\n";
        let found: Vec<_> = host_keys(config).collect();
        assert_eq!(found, ["/etc/ssh/ssh_host_rsa_key", "/etc/my key"]);
    }

    const OLD: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
    const NEW: &str = "11111111-2222-4333-8444-55555555abcd";

    #[test]
    fn guids_are_replaced_in_their_own_case() {
        let guids = [(OLD.to_owned(), NEW.to_owned())];
        let text = format!("PARTUUID={OLD} / x\nroot=PARTUUID={}", OLD.to_uppercase());
        let changed = replace_guids(text.as_bytes(), &guids).unwrap();
        let expected = format!("PARTUUID={NEW} / x\nroot=PARTUUID={}", NEW.to_uppercase());
        assert_eq!(String::from_utf8(changed).unwrap(), expected);
        assert_eq!(replace_guids(b"UUID=x", &guids), None);
    }

    #[test]
    fn other_ways_to_name_a_guid_are_found() {
        let wide: Vec<u8> = OLD.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut content = vec![1; 99];
        assert!(!names_hidden(&content, OLD, &[9; 16]));
        content.extend(&wide);
        assert!(names_hidden(&content, OLD, &[9; 16]));
        assert!(names_hidden(
            &[[0; 3].as_slice(), &[9; 16]].concat(),
            OLD,
            &[9; 16]
        ));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(bytes: Vec<u8>, text in "(127\\.0\\.[01]\\.1|::1|lab|#| |\t|\n|[a-f0-9-]){0,60}") {
            fuzz(&bytes);
            fuzz(text.as_bytes());
        }

        #[test]
        fn giving_a_name_twice_is_giving_it_once(
            text in "(127\\.0\\.[01]\\.1|::1|lab|localhost|#| |\t|\n|x){0,40}",
            old in proptest::option::of("[a-z]{1,5}(\\.[a-z]{1,3})?"),
        ) {
            let once = hosts(&text, old.as_deref(), "n1.example.org");
            prop_assert_eq!(&hosts(&once, Some("n1.example.org"), "n1.example.org"), &once);
        }
    }
}
