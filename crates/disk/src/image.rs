//! An image of the chunk store as a base.

use crate::{BaseId, BaseRead};
use bugler_images::CachedImage;
use std::io;

impl BaseRead for CachedImage {
    fn id(&self) -> BaseId {
        BaseId(self.name().0)
    }

    fn extent(&self, offset: u64, length: u64) -> (u64, bool) {
        CachedImage::extent(self, offset, length)
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        CachedImage::read_now(self, offset, buf)
    }
}
