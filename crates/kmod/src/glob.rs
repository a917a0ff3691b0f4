//! The patterns of `modules.alias`, which follow fnmatch(3) without flags.

/// Whether `text`, a modalias, is one of those that `pattern` stands for.
///
/// `*` is any run of characters, `?` any one, `[...]` one of a set with ranges (`[0-9a-f]`) that
/// a leading `!` or `^` turns around. A `[` with no `]` in the 64 bytes after it is a plain one.
/// `-` and `_` are the same outside of a set. Whatever the pattern, the time grows no faster than
/// the product of both lengths: only the last `*` is ever tried again.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut pattern = pattern.as_bytes();
    let mut text = text.as_bytes();
    // Where to go on when what follows the last `*` did not match: the `*` takes one more byte.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            if rest.is_empty() {
                return true;
            }
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        match (text, one(pattern, text)) {
            ([], _) if pattern.is_empty() => return true,
            // Nothing is left to be matched, so a longer `*` cannot help either.
            ([], _) => return false,
            ([_, text_rest @ ..], Some(pattern_rest)) => {
                pattern = pattern_rest;
                text = text_rest;
            }
            (_, None) => match retry {
                Some((after_star, [_, longer @ ..])) => {
                    retry = Some((after_star, longer));
                    pattern = after_star;
                    text = longer;
                }
                _ => return false,
            },
        }
    }
}

/// Matches the first byte of `text` against the first item of `pattern`, which is not `*`.
/// Returns what is left of the pattern.
fn one<'a>(pattern: &'a [u8], text: &[u8]) -> Option<&'a [u8]> {
    let (&byte, (&item, rest)) = (text.first()?, pattern.split_first()?);
    match item {
        b'?' => Some(rest),
        b'[' => match set(rest, byte) {
            Some((true, after)) => Some(after),
            Some((false, _)) => None,
            None => (byte == b'[').then_some(rest),
        },
        _ => (fold(item) == fold(byte)).then_some(rest),
    }
}

/// Longest set, from behind its `[` to its `]`: looking for the end must cost no more than this.
const MAX_SET: usize = 64;

/// Reads a set whose `[` is gone. Returns whether `byte` is in it and what follows the `]`, or
/// `None` when there is no `]`.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (length, found) = set_within(pattern.get(..MAX_SET).unwrap_or(pattern), byte)?;
    Some((found, pattern.get(length..)?))
}

/// As [`set`], but returns the length up to and with the `]` first.
fn set_within(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let (negated, mut rest) = match pattern {
        [b'!' | b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut found = false;
    let mut first = true;
    loop {
        match rest {
            [] => return None,
            // A `]` that stands first is a member of the set.
            [b']', after @ ..] if !first => {
                return Some((pattern.len() - after.len(), found != negated));
            }
            [low, b'-', high, after @ ..] if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                rest = after;
            }
            [member, after @ ..] => {
                found |= *member == byte;
                rest = after;
            }
        }
        first = false;
    }
}

fn fold(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modaliases_of_real_hardware() {
        let virtio_net = "virtio:d00000001v*";
        assert!(matches(virtio_net, "virtio:d00000001v00001AF4"));
        assert!(!matches(virtio_net, "virtio:d00000002v00001AF4"));
        let e1000e = "pci:v00008086d000010D3sv*sd*bc*sc*i*";
        assert!(matches(
            e1000e,
            "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"
        ));
        assert!(!matches(
            e1000e,
            "pci:v00008086d000010D4sv00008086sd00000000bc02sc00i00"
        ));
        let cdc_ether = "usb:v*p*d*dc*dsc*dp*ic02isc06ip00in*";
        assert!(matches(
            cdc_ether,
            "usb:v0525pA4A2d0504dc02dsc00dp00ic02isc06ip00in00"
        ));
        assert!(matches("platform:i2c_hid", "platform:i2c-hid"));
    }

    #[test]
    fn sets() {
        assert!(matches("d0[0-3A]*", "d02"));
        assert!(matches("d0[0-3A]*", "d0Axyz"));
        assert!(!matches("d0[0-3A]*", "d04"));
        assert!(matches("[!0-9]", "x"));
        assert!(!matches("[^0-9]", "5"));
        assert!(matches("[]]", "]"));
        assert!(matches("[a-]", "-"));
        assert!(
            matches("a[b", "a[b"),
            "a set that is not closed is a plain bracket"
        );
        assert!(!matches("[", ""));
        assert!(matches(&format!("[{}]x", "b".repeat(63)), "bx"));
        assert!(!matches(&format!("[{}]x", "b".repeat(64)), "bx"));
    }

    #[test]
    fn ends() {
        assert!(matches("", ""));
        assert!(matches("*", ""));
        assert!(matches("**a", "bba"));
        assert!(!matches("", "a"));
        assert!(!matches("a", ""));
        assert!(!matches("?", ""));
        assert!(matches("*a*b", "xaxxab"));
        assert!(!matches("*a*b", "xaxxabx"));
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!matches(&pattern, &"a".repeat(2_000)));
    }

    /// What fnmatch means, said as plainly as possible: recursive, and slow.
    fn reference(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|n| reference(rest, &text[n..])),
            _ => one(pattern, text).is_some_and(|rest| reference(rest, &text[1..])),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_recursive_definition(
            pattern in "[ab*?\\[\\]!-]{0,8}", text in "[ab_\\[\\]-]{0,8}",
        ) {
            prop_assert_eq!(
                matches(&pattern, &text),
                reference(pattern.as_bytes(), text.as_bytes())
            );
        }

        #[test]
        fn any_text_is_survived(pattern in any::<String>(), text in any::<String>()) {
            let _ = matches(&pattern, &text);
            prop_assert!(matches("*", &text));
        }
    }
}
