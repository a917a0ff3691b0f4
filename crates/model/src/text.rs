//! Sizes, times and names, as people read them: the same words in a terminal and on a page.

use crate::Timestamp;

/// A size in bytes, in decimal units: `700.0 MB`.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Why a text is not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a number of bytes: write for example 500k, 10M, 1.5G (powers of 1000) or 64Mi"
)]
pub struct BytesError(String);

/// Reads a number of bytes as people write it: `10M`, `1.5G`, `64Mi`; a `B` behind it is allowed.
///
/// # Errors
/// [`BytesError`] where it is none, or more than fits.
pub fn parse_bytes(text: &str) -> Result<u64, BytesError> {
    let wrong = || BytesError(text.chars().take(40).collect());
    let given = text.trim();
    let given = given.strip_suffix(['B', 'b']).unwrap_or(given);
    let (given, base) = match given.strip_suffix('i') {
        Some(rest) => (rest, 1024_u64),
        None => (given, 1000),
    };
    let power = |c: char| match c.to_ascii_lowercase() {
        'k' => Some(1),
        'm' => Some(2),
        'g' => Some(3),
        't' => Some(4),
        _ => None,
    };
    let (digits, power) = match given.chars().last().and_then(power) {
        Some(power) => (given.get(..given.len() - 1).unwrap_or_default(), power),
        None if base == 1024 => return Err(wrong()),
        None => (given, 0),
    };
    let (whole, part) = digits
        .trim_end()
        .split_once('.')
        .unwrap_or((digits.trim_end(), "0"));
    let is_number = |text: &str| {
        (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !is_number(whole) || !is_number(part) {
        return Err(wrong());
    }
    let number = |text: &str| text.parse::<u128>().map_err(|_| wrong());
    let unit = u128::from(base.pow(power));
    let scale = 10_u128.pow(u32::try_from(part.len()).unwrap_or_default());
    let bytes = number(whole)? * unit + number(part)? * unit / scale;
    u64::try_from(bytes).map_err(|_| wrong())
}

/// How long before `now` something was, roughly: `12 s ago`, `3 d ago`; `now` when not before.
#[must_use]
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.millis_since(then) / 1000;
    match seconds {
        ..=0 => "now".into(),
        1..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Text from a machine or another operator, with every character replaced that is a control
/// character, invisible, or turns the direction of what follows: what is read is what is there,
/// and no machine drives a terminal.
#[must_use]
pub fn clean(text: &str) -> String {
    let bad = |c: char| {
        c.is_control()
            || matches!(c,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
    };
    text.chars()
        .map(|c| {
            if bad(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_at_a_glance() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (1 << 31, "2.1 GB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn times_are_read_at_a_glance() {
        let ago = |millis| ago(Timestamp(0), Timestamp(millis));
        assert_eq!(
            [ago(-5), ago(1500), ago(180_000)],
            ["now", "1 s ago", "3 min ago"]
        );
        assert_eq!([ago(7_200_000), ago(259_200_000)], ["2 h ago", "3 d ago"]);
    }

    #[test]
    fn text_that_hides_turns_or_drives_a_terminal_is_made_visible() {
        assert_eq!(clean("pc-7 \u{202e}gpj.exe"), "pc-7 \u{fffd}gpj.exe");
        assert_eq!(
            clean("a\u{200b}b\u{1b}[2J\n"),
            "a\u{fffd}b\u{fffd}[2J\u{fffd}"
        );
        assert_eq!(clean("Größe 日本 <b>"), "Größe 日本 <b>");
    }

    proptest! {
        #[test]
        fn clean_text_stays_as_it_is(text in ".{0,60}") {
            let once = clean(&text);
            prop_assert_eq!(clean(&once), once.clone());
            prop_assert_eq!(once.chars().count(), text.chars().count());
        }

        #[test]
        fn any_size_is_short(n: u64) {
            prop_assert!(bytes(n).len() <= 12, "{}", bytes(n));
        }
    }

    #[test]
    fn numbers_of_bytes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("10M", 10_000_000),
            (" 1.5G ", 1_500_000_000),
            ("500 kB", 500_000),
            ("64Mi", 64 << 20),
            ("2TiB", 2 << 40),
            ("0.001k", 1),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text:?}");
        }
        for text in [
            "",
            "M",
            "-1",
            "1e9",
            "10X",
            "10i",
            "1.",
            ".5",
            "1.2.3",
            "99999999999999T",
            "ä",
        ] {
            assert!(parse_bytes(text).is_err(), "{text:?}");
        }
    }
}
