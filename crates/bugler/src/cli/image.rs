//! `bugler image` and `bugler key`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum Image {
    /// Add a disk image: raw, .gz, .xz, .zst, .bz2 or qcow2, told apart by content.
    ///
    /// Of a qcow2 image, and of a raw one with holes, only what its disk has is sent. Where a block
    /// map (bmaptool's .bmap) stands beside a raw or packed image, or is named, only what it names is
    /// read, and its checksums are checked.
    Add(AddImage),
    /// List images: the latest version of each name.
    List {
        /// Every version.
        #[arg(long)]
        all: bool,
    },
    /// Show one version of an image: its sizes, its note, where it was taken from.
    Show {
        /// Name (its latest version), name@version, or id.
        image: String,
    },
    /// Change what is said of a version; an empty text takes it away.
    Note {
        /// Name (its latest version), name@version, or id.
        image: String,
        /// One line.
        text: String,
    },
    /// Write an image's disk to a file, with holes where it is zero.
    Export(ExportImage),
    /// Remove a version of an image. Its chunks stay until `image gc`.
    Remove {
        /// Name@version or id; a name alone where it has one version, or with --all-versions.
        image: String,
        /// Every version of the name.
        #[arg(long)]
        all_versions: bool,
        /// Do not ask before all versions are removed.
        #[arg(long)]
        yes: bool,
    },
    /// Read and hash every chunk of an image, or of all.
    Verify {
        /// Name (its latest version), name@version, or id.
        #[arg(required_unless_present = "all")]
        image: Option<String>,
        /// Every version of every image, each chunk once.
        #[arg(long, conflicts_with = "image")]
        all: bool,
    },
    /// List what is in a folder of an image, or its partitions.
    Ls {
        /// Name (its latest version), name@version, or id.
        image: String,
        /// The folder, or a file. Without it, and without a partition, the partitions are listed.
        path: Option<String>,
        /// Number of the partition: one with FAT or ext. Not needed where there is one alone.
        #[arg(long, short, value_name = "N")]
        partition: Option<u32>,
    },
    /// Write a file of an image to standard output.
    Cat {
        /// Name (its latest version), name@version, or id.
        image: String,
        /// The file.
        path: String,
        /// Number of the partition: one with FAT or ext. Not needed where there is one alone.
        #[arg(long, short, value_name = "N")]
        partition: Option<u32>,
    },
    /// Say what differs between two images: ranges of bytes, and files on FAT and ext.
    ///
    /// Before each file stands + for one that was added, - for one that was removed, ~ for other
    /// content, % for other permissions or another owner; behind it its size before and after.
    Diff {
        /// The older one: name@version, name, or id.
        old: String,
        /// The newer one.
        new: String,
    },
    /// Remove chunks that no image needs.
    Gc {
        /// Only count them.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args)]
pub(crate) struct AddImage {
    /// The image's name. One that is there gets another version.
    pub(crate) name: String,
    /// The file; `-` reads a pipe.
    pub(crate) file: PathBuf,
    /// What to say of this version: one line.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) note: String,
    /// The image's block map. Default: FILE.bmap, or that with FILE's endings taken off.
    #[arg(long, value_name = "FILE")]
    pub(crate) bmap: Option<PathBuf>,
    /// Leave aside a block map that stands beside the image.
    #[arg(long, conflicts_with = "bmap")]
    pub(crate) no_bmap: bool,
    /// A backing file of a qcow2 image, in place of the one that it names; more for those below.
    ///
    /// Without it, backing files are opened only where they stand in the folder of the file that
    /// names them, or below it.
    #[arg(long, value_name = "FILE")]
    pub(crate) backing: Vec<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ExportImage {
    /// Name (its latest version), name@version, or id.
    pub(crate) image: String,
    /// The file; `-` writes to standard output. It must not exist.
    pub(crate) file: PathBuf,
    /// How to write it.
    #[arg(long, value_enum, default_value = "raw")]
    pub(crate) format: ExportFormat,
    /// Write the image's block map as well, beside the file, for bmaptool.
    #[arg(long)]
    pub(crate) bmap: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// The bytes of the disk.
    Raw,
    /// The same, packed with zstd.
    #[value(name = "raw.zst")]
    RawZst,
    /// QEMU's format.
    Qcow2,
    /// The same, packed with zstd, for QEMU 5.1 and later.
    #[value(name = "qcow2-zstd")]
    Qcow2Zstd,
}

impl ExportFormat {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::RawZst => "raw.zst",
            Self::Qcow2 => "qcow2",
            Self::Qcow2Zstd => "qcow2-zstd",
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Key {
    /// Show the public key by which images are signed, and the changes that led to it.
    Show,
    /// Make another key, signed by the present one, which takes its place.
    ///
    /// Machines whose agent runs go on: they follow the change. Machines that boot from now on get
    /// the new key.
    Rotate {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}
