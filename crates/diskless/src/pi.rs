//! Boot files of Raspberry Pis: they are in a FAT partition of the image that the board runs.
//!
//! What is read is what the board itself would see, its own layer on top: a boot loader's stage or a
//! setting that it has put there takes effect at its next boot, as its kernel does.

use crate::service::{PrepareError, Service};
use bugler_fsread::ReadAt;
use bugler_model::{DeviceId, Diskless};
use bugler_pifiles::{Disk, OpenDisk, Source, SourceError};
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

impl Service {
    /// The boot partition of the disk that a device sees; `None` where its image has none. A device that
    /// is not known yet sees the image.
    ///
    /// # Errors
    /// Where the image or the layer cannot be read.
    pub async fn boot_files(
        self: &Arc<Self>,
        device: Option<DeviceId>,
        wanted: &Diskless,
    ) -> Result<Option<Source>, PrepareError> {
        let image = self.image_of(wanted).await?;
        let layer = device.and_then(|device| self.old_layer(device, &image, wanted));
        let own = self.clone();
        let find = move || {
            let disk: Arc<dyn ReadAt + Send + Sync> = own.seen(&image, layer.as_ref())?.into();
            let open: OpenDisk = Box::new(move || {
                let source = disk.clone();
                Ok(Box::new(Reader { source, at: 0 }) as Box<dyn Disk>)
            });
            match Source::image(&image.label(), open) {
                Ok(source) => Ok(Some(source)),
                Err(SourceError::NoPartition(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        tokio::task::spawn_blocking(find)
            .await
            .map_err(|error| PrepareError::Ended(error.to_string()))?
    }
}

/// A disk as a stream.
struct Reader {
    source: Arc<dyn ReadAt + Send + Sync>,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.source.size().saturating_sub(self.at);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let Some(part) = buf.get_mut(..length).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        self.source.read_at(self.at, part)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.source.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_read_as_a_stream_to_its_end() {
        let bytes: Vec<u8> = (0..=255).collect();
        let source: Arc<dyn ReadAt + Send + Sync> = Arc::new(bytes.clone());
        let mut reader = Reader { source, at: 0 };
        assert_eq!(reader.seek(SeekFrom::End(-6)).unwrap(), 250);
        let mut buf = [0; 10];
        assert_eq!(reader.read(&mut buf).unwrap(), 6);
        assert_eq!(buf[..6], bytes[250..]);
        assert_eq!(reader.read(&mut buf).unwrap(), 0);
        assert_eq!(reader.seek(SeekFrom::Current(-256)).unwrap(), 0);
        reader.read_exact(&mut buf).unwrap();
        assert_eq!(buf, bytes[..10]);
        assert!(reader.seek(SeekFrom::Current(-11)).is_err());
        assert_eq!(reader.seek(SeekFrom::Start(1000)).unwrap(), 1000);
        assert_eq!(reader.read(&mut buf).unwrap(), 0);
    }
}
