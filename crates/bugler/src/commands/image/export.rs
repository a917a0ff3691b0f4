//! `bugler image export`: an image into a file, with holes where it is zero.

use super::bar;
use crate::cli::{ExportFormat, ExportImage};
use crate::client::encode;
use crate::commands::Session;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that are read at a time, and how many of them are left out together where they are zero.
const READ: usize = 1 << 20;
const HOLE: usize = 64 << 10;

pub(super) fn run(session: &Session, args: &ExportImage) -> Result<()> {
    let name = encode(&args.image);
    let url = format!("images/{name}/raw?format={}", args.format.as_str());
    if args.file == Path::new("-") {
        if args.bmap {
            bail!("--bmap writes a file beside the image's: name that file");
        }
        let mut response = session.client.stream(&url)?;
        io::copy(
            &mut response.body_mut().as_reader(),
            &mut io::stdout().lock(),
        )?;
        return Ok(());
    }
    let bmap = bmap_path(&args.file, args.format);
    if args.bmap {
        let mut response = session.client.stream(&format!("images/{name}/bmap"))?;
        let length = response.body().content_length();
        save(&args.image, &bmap, length, response.body_mut().as_reader())?;
    }
    let saved = session.client.stream(&url).and_then(|mut response| {
        let length = response.body().content_length();
        let body = response.body_mut().as_reader();
        save(&args.image, &args.file, length, body)
    });
    if saved.is_err() && args.bmap {
        // Of no use alone, and in the way of another try.
        let _ = std::fs::remove_file(&bmap);
    }
    saved
}

/// Where bmaptool looks for the block map: beside the image, named as the unpacked one.
fn bmap_path(image: &Path, format: ExportFormat) -> PathBuf {
    let mut base = image.to_path_buf();
    if format == ExportFormat::RawZst && base.extension().is_some_and(|end| end == "zst") {
        base.set_extension("");
    }
    base.set_extension("bmap");
    base
}

/// Writes a body into a new file, and removes it again where not all of it came.
fn save(image: &str, path: &Path, length: Option<u64>, body: impl Read) -> Result<()> {
    let file = File::create_new(path).with_context(|| {
        format!(
            "could not create {} (a file that exists is not overwritten)",
            path.display()
        )
    })?;
    let bar = bar(
        length,
        "{wide_bar} {bytes} of {total_bytes}  {bytes_per_sec}",
    );
    let result = write_sparse(&file, &mut bar.wrap_read(body));
    bar.finish_and_clear();
    match result {
        Ok(written) if length.is_none_or(|length| length == written) => Ok(()),
        outcome => {
            // Half an image must not be taken for one.
            let _ = std::fs::remove_file(path);
            match outcome {
                Ok(written) => bail!(
                    "the server stopped after {written} of {} bytes of {image}: {} was removed; \
                     `bugler image verify {image}` tells whether the image is damaged",
                    length.unwrap_or_default(),
                    path.display()
                ),
                Err(error) => Err(error).with_context(|| {
                    format!(
                        "could not write {image} to {}, which was removed",
                        path.display()
                    )
                }),
            }
        }
    }
}

/// Writes what comes, but for zeros, and makes it durable; gives how much came.
fn write_sparse(file: &File, input: &mut impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; READ];
    let mut at = 0;
    loop {
        let mut length = 0;
        while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match input.read(rest) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let came = buffer.get(..length).unwrap_or_default();
        if came.is_empty() {
            file.set_len(at)?;
            file.sync_all()?;
            return Ok(at);
        }
        for part in came.chunks(HOLE) {
            if part.iter().any(|byte| *byte != 0) {
                file.write_all_at(part, at)?;
            }
            at += part.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_become_holes() {
        let mut content = vec![0; 3 * READ + 700];
        content[READ + 5] = 1;
        let file = tempfile::tempfile().unwrap();
        let written = write_sparse(&file, &mut content.as_slice()).unwrap();
        assert_eq!(written, content.len() as u64);
        let mut found = vec![9; content.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == content);
        assert!(file.metadata().unwrap().blocks() * 512 <= HOLE as u64 * 2);
    }

    #[test]
    fn the_block_map_is_where_bmaptool_looks() {
        let named = |file: &str, format| bmap_path(Path::new(file), format);
        assert_eq!(named("d/a.img", ExportFormat::Raw), Path::new("d/a.bmap"));
        assert_eq!(
            named("a.img.zst", ExportFormat::RawZst),
            Path::new("a.bmap")
        );
        assert_eq!(named("a", ExportFormat::Raw), Path::new("a.bmap"));
    }
}
