//! Lines that come from a machine and are shown to people.

/// Most characters of a line.
const MAX_CHARS: usize = 1000;

/// One line of at most 1,000 characters, with every control character replaced: what a machine
/// sends cannot move a terminal's cursor.
pub(crate) fn safe_line(text: &str) -> String {
    text.chars()
        .take(MAX_CHARS)
        .map(|c| {
            if c.is_control() {
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

    proptest! {
        #[test]
        fn any_text_becomes_one_short_line(text in "\\PC*|[\\x00-\\x{9f}]{0,20}|.{900,1100}") {
            let line = safe_line(&text);
            prop_assert!(line.chars().count() <= MAX_CHARS);
            prop_assert!(!line.chars().any(char::is_control));
            if text.chars().count() <= MAX_CHARS && !text.chars().any(char::is_control) {
                prop_assert_eq!(line, text);
            }
        }
    }
}
