//! Gets the boot files of a Raspberry Pi out of the source that the operator chose.
//!
//! ```text
//! bugler_boot::pi::Request --candidates()--> names --> Source: a folder
//!                                                            | Debian's packages, unpacked
//!                                                            | an image: partition --> its files
//! ```
//!
//! What a path means and which names to try is decided in `bugler_boot::pi`; here are the files. A disk
//! image is whatever can be read and sought in: a file, or an image of the chunk store. FAT itself is read
//! by `bugler_fsread`.

mod partition;
mod source;

pub use partition::{boot_partition, fuzz};
pub use source::{Disk, Found, MAX_FILE, OpenDisk, Source, SourceError};
