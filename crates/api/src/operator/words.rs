//! Texts that people type and that are shown again.

/// Whether it has something to read, at most `most` characters, and no control characters.
pub(super) fn printable(text: &str, most: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= most && !text.contains(char::is_control)
}

/// The text in quotes, cut off where it is long.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let cut: String = text.chars().take(MOST).collect();
    if cut.len() < text.len() {
        format!("{cut:?}... ({} characters)", text.chars().count())
    } else {
        format!("{cut:?}")
    }
}
