//! Measures adding an image to a new store: `add_speed IMAGE FOLDER [RUNS [LEVEL]]`.
//!
//! Each run adds to a folder of its own inside FOLDER and removes it again. `time zstd -3 -T0 IMAGE`
//! is what to compare it with: it reads and packs the same bytes, but makes nothing durable.

use bugler_images::{AddOptions, AddPhase, AddProgress, ChunkStore, DEFAULT_LEVEL, ExportFormat};
use std::{error::Error, fs, io, path::PathBuf, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(image), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: add_speed IMAGE FOLDER [RUNS [LEVEL]]".into());
    };
    let runs: u32 = args.next().map_or(Ok(3), |runs| runs.parse())?;
    let level: i32 = args
        .next()
        .map_or(Ok(DEFAULT_LEVEL), |level| level.parse())?;
    for run in 0..runs {
        let dir = PathBuf::from(&folder).join(format!("run-{run}"));
        let store = ChunkStore::open(&dir)?;
        let (start, cpu_before) = (Instant::now(), cpu_seconds());
        let mut syncing = None;
        let mut progress = |now: &AddProgress| {
            if now.phase == AddPhase::Syncing {
                syncing = Some(start.elapsed());
            }
        };
        let options = AddOptions {
            progress: Some(&mut progress),
            level,
            ..AddOptions::default()
        };
        let added = store.add_file(&image, options)?;
        let (all, cpu) = (start.elapsed(), cpu_seconds() - cpu_before);
        let again = Instant::now();
        store.add_file(&image, AddOptions::default())?;
        let again = again.elapsed();
        let verify = Instant::now();
        store.verify(&added.manifest, |_, _| true)?;
        let verify = verify.elapsed();
        let export = Instant::now();
        store.export(&added.manifest, &mut io::sink(), ExportFormat::Raw)?;
        let export = export.elapsed();
        println!(
            "add {:.2} s (the last {:.2} s of it making durable; processor {cpu:.2} s); again {:.2} s; verify {:.2} s; \
             export {:.2} s; {} MiB used, {} MiB stored",
            all.as_secs_f64(),
            (all - syncing.unwrap_or(all)).as_secs_f64(),
            again.as_secs_f64(),
            verify.as_secs_f64(),
            export.as_secs_f64(),
            added.used_bytes >> 20,
            added.stored_bytes >> 20,
        );
        drop((added, store));
        fs::remove_dir_all(dir)?;
    }
    Ok(())
}

/// Seconds that all processors together have spent on this process.
fn cpu_seconds() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}
