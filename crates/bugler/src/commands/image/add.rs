//! `bugler image add`: what of an image file is sent, and how.

use super::{bar, shown};
use crate::cli::AddImage;
use crate::client::encode;
use crate::commands::Session;
use anyhow::{Context, Result, bail};
use bugler_images::{Bmap, LocalImage, LocalOptions, SparseReader};
use bugler_model::ImageName;
use indicatif::ProgressBar;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest block map that is read, in bytes.
const MAX_BMAP: u64 = 64 << 20;

const BAR: &str = "{wide_bar} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";

pub(super) fn run(session: &Session, args: &AddImage) -> Result<()> {
    let name: ImageName = args.name.parse()?;
    let url = format!("images/{name}?note={}", encode(&args.note));
    if args.file == Path::new("-") {
        if args.bmap.is_some() || !args.backing.is_empty() {
            bail!("--bmap and --backing are for an image in a file, not for one from a pipe");
        }
        return send(session, &url, None, &mut io::stdin().lock());
    }
    let bmap = block_map(args)?;
    let options = LocalOptions {
        backing: &args.backing,
        bmap: bmap.as_ref(),
    };
    match LocalImage::open(&args.file, options)? {
        LocalImage::AsIs { mut file, length } => {
            if !args.backing.is_empty() {
                bail!(
                    "{} is no qcow2 image: leave out --backing",
                    args.file.display()
                );
            }
            send(session, &url, length, &mut file)
        }
        LocalImage::Sparse(stream) => send_sparse(session, &url, stream),
    }
}

fn send(session: &Session, url: &str, length: Option<u64>, input: &mut dyn Read) -> Result<()> {
    let bar = bar(length, BAR);
    let result = session
        .client
        .put_stream(url, length, &mut bar.wrap_read(input));
    bar.finish_and_clear();
    shown(session, result?)
}

fn send_sparse(session: &Session, url: &str, stream: SparseReader) -> Result<()> {
    let failure = stream.failure();
    let bar = bar(Some(stream.disk_size()), BAR);
    let mut stream = Watched {
        stream,
        bar: bar.clone(),
    };
    let result = session.client.put_stream(url, None, &mut stream);
    bar.finish_and_clear();
    // What failed here is why the upload was cut off, whatever the server says to that.
    match failure.take() {
        Some(error) => Err(error.into()),
        None => shown(session, result?),
    }
}

/// A stream of which it is shown how much of the disk it has passed.
struct Watched {
    stream: SparseReader,
    bar: ProgressBar,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer);
        self.bar.set_position(self.stream.disk_bytes());
        read
    }
}

/// The block map that was named, or that stands beside the image.
fn block_map(args: &AddImage) -> Result<Option<Bmap>> {
    let path = match &args.bmap {
        Some(path) => path.clone(),
        None if args.no_bmap => return Ok(None),
        None => match beside(&args.file).into_iter().find(|path| path.is_file()) {
            Some(path) => path,
            None => return Ok(None),
        },
    };
    let read = || -> Result<Bmap> {
        let mut text = Vec::new();
        File::open(&path)?
            .take(MAX_BMAP + 1)
            .read_to_end(&mut text)?;
        Ok(Bmap::parse(&text)?)
    };
    let bmap = read().with_context(|| {
        let way_out = match &args.bmap {
            Some(_) => "",
            None => " (it stands beside the image; --no-bmap leaves it aside)",
        };
        format!("could not read the block map {}{way_out}", path.display())
    })?;
    let unchecked = bmap.mapped_bytes() - bmap.verified_bytes();
    eprintln!(
        "using the block map {}: {} of {} bytes have content{}",
        path.display(),
        bmap.mapped_bytes(),
        bmap.image_size(),
        match unchecked {
            0 => String::new(),
            some => format!("; it has no checksums for {some} of them, which are not checked"),
        }
    );
    Ok(Some(bmap))
}

/// Where bmaptool puts the block map of an image, and looks for it: `disk.img.xz.bmap`,
/// `disk.img.bmap`, `disk.bmap`.
fn beside(image: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut base = image.to_path_buf();
    loop {
        let mut name = base.clone().into_os_string();
        name.push(".bmap");
        found.push(name.into());
        if base.extension().is_none() || !base.set_extension("") {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_map_is_looked_for_where_bmaptool_puts_it() {
        let found = beside(Path::new("a.b/disk.img.xz"));
        let names: Vec<_> = found.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(
            names,
            ["a.b/disk.img.xz.bmap", "a.b/disk.img.bmap", "a.b/disk.bmap"]
        );
    }
}
