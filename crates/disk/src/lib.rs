//! A disk of layers: a shared base that is never written, and what one machine wrote on top.
//!
//! ```text
//!  block server ---- BlockDevice ---+--- RawDevice: a file, as it is
//!  (NBD, AoE)                       |
//!                                   +--- Overlay: a sparse file of the blocks that were written
//!                                           |
//!                                        BaseRead ---+--- FileBase: a raw image
//!                                                    +--- CachedImage: chunks of the image store,
//!                                                         unpacked once for all who read them
//! ```
//!
//! Everything here blocks, and may be used by many threads at once.

mod base;
mod device;
mod image;
pub mod overlay;
mod raw;

pub use base::{BaseId, BaseRead, EmptyBase, FileBase};
pub use device::{BlockDevice, DeviceError, Durability, Extent};
pub use overlay::{
    Held, Overlay, OverlayError, OverlayInfo, OverlayOptions, OverlayUsage, fuzz_overlay,
};
pub use raw::RawDevice;
