//! Prints what of a disk, or of a file that is one, an image would carry.
//!
//!     cargo run -p bugler-fsread --example survey -- DISK [SECTOR-SIZE] [ranges]

use bugler_fsread::{ReadAt, SurveyOptions, Window, survey};
use std::io::{Seek, SeekFrom};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("give the path of a disk")?;
    let sector: u32 = args.next().map_or(Ok(512), |text| text.parse())?;
    let mut file = std::fs::File::open(&path)?;
    // A block device has its size at its end only.
    let size = file.seek(SeekFrom::End(0))?;
    let disk = Window::new(&file, 0, size);
    let begun = Instant::now();
    let survey = survey(&disk, sector, &SurveyOptions::default())?;
    let took = begun.elapsed();
    println!(
        "{path}: {}, {} of {} bytes in {} ranges, {took:.1?}",
        survey.table,
        survey.used.bytes(),
        disk.size(),
        survey.used.as_slice().len()
    );
    for part in &survey.parts {
        println!(
            "{:3} {:>14} {:>14} {:>14} {} {}: {}",
            part.number,
            part.start,
            part.size,
            part.used,
            part.name.as_deref().unwrap_or("-"),
            part.content,
            part.reading
        );
    }
    for note in &survey.notes {
        println!("note: {note}");
    }
    if args.next().is_some() {
        for range in survey.used.as_slice() {
            println!("{} {}", range.start, range.end);
        }
    }
    Ok(())
}
