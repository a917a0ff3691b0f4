//! What diskless machines wrote.

use clap::Subcommand;

/// A LAYER is its id (x3), or a DEVICE: then what that device booted last is meant.
#[derive(Subcommand)]
pub(crate) enum Overlay {
    /// List the layers: whose they are, what they hold, who is connected.
    List {
        /// Only this device's.
        #[arg(long, value_name = "DEVICE")]
        device: Option<String>,
    },
    /// Forget what a machine wrote. Its next boot begins with an empty layer.
    Reset {
        /// The layer.
        layer: String,
        /// Also while its machine runs on it, which it will not survive.
        #[arg(long)]
        running: bool,
    },
    /// Set how much a layer may take.
    Grow {
        /// The layer.
        layer: String,
        /// The most that it may take: 4G.
        #[arg(value_parser = super::work::bytes)]
        size: u64,
    },
    /// Make a new version of an image from a base and one machine's layer.
    Commit {
        /// The layer.
        layer: String,
        /// The image's name.
        image: String,
        /// A note for people.
        #[arg(long, value_name = "T", default_value = "")]
        note: String,
        /// Also while its machine runs: what it has not written yet is not in it.
        #[arg(long)]
        running: bool,
    },
}
