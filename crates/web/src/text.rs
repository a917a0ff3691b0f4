//! Sizes, times and names, as people read them.

use bugler_model::Timestamp;

/// Text from a machine or another operator, with every character replaced that is a control
/// character, invisible, or turns the direction of what follows: what is read is what is there.
pub(crate) fn clean(text: &str) -> String {
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

/// A size, in decimal units: `700.0 MB`.
pub(crate) fn bytes(n: u64) -> String {
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

/// A size of memory, in binary units, as it is sold: `16 GiB`.
pub(crate) fn memory(n: u64) -> String {
    let gib = n as f64 / f64::from(1 << 30);
    if gib >= 10.0 {
        format!("{gib:.0} GiB")
    } else {
        format!("{gib:.1} GiB")
    }
}

/// A length of time in seconds, roughly: `42 s`, `3 min`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

/// A moment: exactly, and how long ago it was.
pub(crate) struct Moment {
    /// RFC 3339.
    pub(crate) exact: String,
    /// Milliseconds since 1970, for the script that keeps `ago` true.
    pub(crate) millis: i64,
    /// Roughly: `12 s ago`.
    pub(crate) ago: String,
}

impl Moment {
    pub(crate) fn new(then: Timestamp, now: Timestamp) -> Self {
        let seconds = now.millis_since(then) / 1000;
        let ago = match seconds {
            ..=0 => "now".into(),
            1..120 => format!("{seconds} s ago"),
            120..7200 => format!("{} min ago", seconds / 60),
            7200..172_800 => format!("{} h ago", seconds / 3600),
            _ => format!("{} d ago", seconds / 86_400),
        };
        Self {
            exact: then.to_string(),
            millis: then.0,
            ago,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_times_are_read_at_a_glance() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1 << 31), "2.1 GB");
        assert_eq!(bytes(999_950), "1.0 MB");
        assert_eq!(memory(4 << 30), "4.0 GiB");
        assert_eq!(memory(64 << 30), "64 GiB");
        assert_eq!(duration(3.25), "3.2 s");
        assert_eq!(duration(600.0), "10 min");
        let ago = |millis| Moment::new(Timestamp(0), Timestamp(millis)).ago;
        assert_eq!(
            [ago(-5), ago(1500), ago(180_000)],
            ["now", "1 s ago", "3 min ago"]
        );
        assert_eq!([ago(7_200_000), ago(259_200_000)], ["2 h ago", "3 d ago"]);
    }

    #[test]
    fn text_that_hides_or_turns_is_made_visible() {
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
}
