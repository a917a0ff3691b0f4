//! `bugler capture-packets`.

use super::Session;
use crate::cli;
use crate::client::encode;
use anyhow::{Context, Result, bail};
use bugler_model::{Device, text};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

pub(super) fn run(session: &Session, args: &cli::CapturePackets) -> Result<()> {
    let name = encode(&args.device);
    let device: Device = session.client.get(&format!("devices/{name}"))?;
    let duration = args
        .duration
        .map(|seconds| format!("?duration={seconds}"))
        .unwrap_or_default();
    let to_pipe = args.output.as_deref() == Some(Path::new("-"));
    let path = match &args.output {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{}.pcapng", device.id)),
    };
    // Before the capture: a file that cannot be made is better known at once.
    let mut out: Box<dyn Write> = if to_pipe {
        Box::new(std::io::stdout().lock())
    } else {
        Box::new(File::create_new(&path).with_context(|| {
            format!(
                "could not create {} (a file that exists is not overwritten)",
                path.display()
            )
        })?)
    };
    let result = copy(session, &device, &duration, &mut out);
    if result.is_err() && !to_pipe && std::fs::metadata(&path).is_ok_and(|meta| meta.len() == 0) {
        // Nothing came: an empty file helps nobody.
        let _ = std::fs::remove_file(&path);
    }
    let written = result?;
    eprintln!("bugler: {} written", text::bytes(written));
    Ok(())
}

fn copy(session: &Session, device: &Device, duration: &str, out: &mut dyn Write) -> Result<u64> {
    let url = format!("devices/{}/packets{duration}", device.id);
    let mut response = session.client.stream(&url)?;
    eprintln!(
        "bugler: recording the boot traffic of {}; Ctrl-C ends it",
        text::clean(&device.label())
    );
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 64 << 10];
    let mut written = 0;
    loop {
        let length = match body.read(&mut buffer) {
            Ok(0) => return Ok(written),
            Ok(length) => length,
            Err(error) => bail!("the server stopped after {}: {error}", text::bytes(written)),
        };
        // Each piece at once: whatever ends this leaves a file that can be read.
        out.write_all(buffer.get(..length).unwrap_or_default())?;
        out.flush()?;
        written += length as u64;
    }
}
