//! Images: what it takes to add, capture and deploy one, beside what others do with the same bytes.

mod add;
mod capture;
mod deploy;
mod disk;
mod stand;
mod versions;

use anyhow::Result;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// One part of it; without a name, everything.
    #[command(subcommand)]
    pub what: Option<What>,
    /// How many rounds; medians of them are shown.
    #[arg(long, default_value_t = 5, global = true)]
    pub rounds: usize,
}

/// A part of it.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum What {
    /// `bugler image add`, beside zstd.
    Add,
    /// A disk captured by an agent, beside partclone and dd with zstd.
    Capture,
    /// A deploy, beside partclone and bmaptool; then again after 1 % of the files were changed.
    Deploy,
    /// What a second version of a Debian system costs in the store.
    Versions,
}

/// Builds the disks that are measured with.
///
/// # Errors
/// When they cannot be built.
pub fn prepare(options: Option<&Options>, say: &dyn Fn(&str)) -> Result<()> {
    let what = options.and_then(|options| options.what.as_ref());
    if matches!(what, None | Some(What::Versions)) {
        versions::prepare(say)?;
    }
    if !matches!(what, Some(What::Versions)) {
        disk::ensure(say)?;
    }
    Ok(())
}

/// Measures, and prints what was found. To be called inside of
/// [`enter`](crate::enclosure::enter), after [`prepare`].
///
/// # Errors
/// When something does not start or does not work.
pub fn run(options: &Options) -> Result<()> {
    match options.what {
        Some(What::Add) => add::run(options.rounds),
        Some(What::Capture) => capture::run(options.rounds),
        Some(What::Deploy) => deploy::run(options.rounds),
        Some(What::Versions) => versions::run(),
        None => {
            add::run(options.rounds)?;
            capture::run(options.rounds)?;
            deploy::run(options.rounds)?;
            versions::run()
        }
    }
}
