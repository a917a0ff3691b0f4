//! NTFS: which clusters are in use, and whether the volume was closed properly.
//!
//! Microsoft has published no specification; this follows the layout that the Linux kernel
//! (`fs/ntfs3/ntfs.h`) and ntfs-3g (`layout.h`) agree on, versions 1.2 to 3.1.
//!
//! ```text
//! boot sector --> $MFT (record 0) --+--> $Bitmap (6): clusters in use
//!                                   +--> $BadClus (8): those that cannot be read
//!                                   +--> $Volume (3), $LogFile (2), hiberfil.sys in the root (5)
//! ```

mod boot;
mod clean;
mod folder;
mod mft;
mod record;
mod runs;
#[cfg(test)]
mod tests;
mod used;

use crate::usage::Unusable;
use std::fmt;

pub(crate) use used::used;

fn damaged(what: impl fmt::Display) -> Unusable {
    Unusable::Damaged(format!("the NTFS volume is damaged: {what}"))
}
