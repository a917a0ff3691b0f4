//! Small texts that a command takes from a file, or from a pipe.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Largest file, in bytes: what the server takes at once.
const MOST: u64 = 1 << 20;

/// The text in a file; `-` is standard input.
pub(super) fn text(file: &Path) -> Result<String> {
    let shown = file.display();
    let from: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(file).with_context(|| format!("could not open {shown}"))?)
    };
    let mut text = String::new();
    from.take(MOST + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("could not read {shown}"))?;
    ensure!(
        text.len() as u64 <= MOST,
        "{shown} has more than {MOST} bytes, which is more than the server takes"
    );
    Ok(text)
}
