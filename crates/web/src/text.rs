//! Sizes and times that only the pages show; what a terminal shows as well is in the model.

use bugler_model::{Timestamp, text};

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
        Self {
            exact: then.to_string(),
            millis: then.0,
            ago: text::ago(then, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_at_a_glance() {
        assert_eq!(memory(4 << 30), "4.0 GiB");
        assert_eq!(memory(64 << 30), "64 GiB");
        assert_eq!(duration(3.25), "3.2 s");
        assert_eq!(duration(600.0), "10 min");
        let moment = Moment::new(Timestamp(0), Timestamp(1500));
        assert_eq!((moment.ago.as_str(), moment.millis), ("1 s ago", 0));
    }
}
