//! NVMe's own erase: Format NVM (NVM Express base specification 2.0, section 5.14; NVM command set
//! specification 1.0).

use crate::blkdev::passthrough::nvme_admin;
use std::fs::File;
use std::io;

/// Opcodes of admin commands.
const IDENTIFY: u8 = 0x06;
const FORMAT: u8 = 0x80;

/// What Identify is asked about: CNS.
const NAMESPACE: u32 = 0x00;
const CONTROLLER: u32 = 0x01;

/// Size of what Identify answers, in bytes.
const PAGE: usize = 4096;

const IDENTIFY_TIMEOUT_MS: u32 = 30_000;
/// A controller of flash forgets its key, or marks blocks; one that writes needs hours.
const FORMAT_TIMEOUT_MS: u32 = 4 * 3600 * 1000;

/// A format that leaves everything as it is but the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    namespace: u32,
    cdw10: u32,
}

impl Format {
    /// What the disk is to be told so that its namespace keeps its sectors.
    ///
    /// # Errors
    /// Why it cannot be formatted.
    pub fn of(disk: &File, namespace: Option<u32>) -> Result<Self, String> {
        let namespace = namespace.ok_or("the kernel does not tell its namespace")?;
        let controller = identify(disk, CONTROLLER, 0)?;
        let page = identify(disk, NAMESPACE, namespace)?;
        Self::plan(&controller, &page, namespace)
    }

    /// From the pages that Identify answers.
    ///
    /// # Errors
    /// Why it cannot be formatted.
    pub fn plan(controller: &[u8], page: &[u8], namespace: u32) -> Result<Self, String> {
        // OACS, bit 1: Format NVM is there.
        if byte(controller, 256) & 0x02 == 0 {
            return Err("its controller has no Format NVM".into());
        }
        // FNA: bit 1, an erase erases every namespace; bit 0, a format formats every namespace.
        let all = byte(controller, 524) & 0x03 != 0;
        let namespaces = u32::from_le_bytes([
            byte(controller, 516),
            byte(controller, 517),
            byte(controller, 518),
            byte(controller, 519),
        ]);
        if all && namespaces > 1 {
            return Err(
                "its controller formats all of its namespaces together, and it may have several"
                    .into(),
            );
        }
        let (flbas, dps) = (byte(page, 26), byte(page, 29));
        let cdw10 = u32::from(flbas & 0x0f)
            // MSETTINGS: metadata at the end of a sector, as it is.
            | u32::from(flbas >> 4 & 1) << 4
            | u32::from(dps & 0x07) << 5
            | u32::from(dps >> 3 & 1) << 8
            // SES 001b: user data erase.
            | 1 << 9
            // LBAFU: the upper bits of the number of the format.
            | u32::from(flbas >> 5 & 0x03) << 12;
        Ok(Self { namespace, cdw10 })
    }

    /// Dword 10 of the command.
    #[must_use]
    pub fn cdw10(self) -> u32 {
        self.cdw10
    }

    /// It is not told how long this takes.
    pub(super) fn minutes(self) -> Option<u32> {
        None
    }

    pub(super) fn run(self, disk: &File) -> io::Result<()> {
        nvme_admin(
            disk,
            FORMAT,
            self.namespace,
            self.cdw10,
            &mut [],
            FORMAT_TIMEOUT_MS,
        )
    }
}

/// Whether what is deallocated reads as zero (DLFEAT, bits 0 to 2).
pub(super) fn discards_to_zero(disk: &File, namespace: Option<u32>) -> Result<bool, String> {
    let namespace = namespace.ok_or("the kernel does not tell its namespace")?;
    let page = identify(disk, NAMESPACE, namespace)?;
    Ok(byte(&page, 33) & 0x07 == 1)
}

fn identify(disk: &File, cns: u32, namespace: u32) -> Result<Vec<u8>, String> {
    let mut page = vec![0; PAGE];
    nvme_admin(
        disk,
        IDENTIFY,
        namespace,
        cns,
        &mut page,
        IDENTIFY_TIMEOUT_MS,
    )
    .map_err(|error| format!("it does not answer Identify: {error}"))?;
    Ok(page)
}

fn byte(page: &[u8], at: usize) -> u8 {
    page.get(at).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> (Vec<u8>, Vec<u8>) {
        let (mut controller, namespace) = (vec![0; PAGE], vec![0; PAGE]);
        controller[256] = 0x02;
        controller[516] = 1;
        (controller, namespace)
    }

    #[test]
    fn the_format_of_sectors_is_kept() {
        let (controller, mut namespace) = pages();
        let format = Format::plan(&controller, &namespace, 1).unwrap();
        assert_eq!(format.cdw10(), 0x200);
        // Format 35 (0x23), metadata in the sector, protection of type 2 in the first bytes.
        namespace[26] = 0x53;
        namespace[29] = 0x0a;
        let format = Format::plan(&controller, &namespace, 1).unwrap();
        assert_eq!(format.cdw10(), 0x2000 | 0x200 | 0x100 | 0x40 | 0x10 | 3);
    }

    #[test]
    fn what_would_hit_others_is_refused() {
        let (mut controller, namespace) = pages();
        controller[524] = 0x02;
        assert!(Format::plan(&controller, &namespace, 1).is_ok());
        controller[516] = 2;
        assert!(Format::plan(&controller, &namespace, 1).is_err());
        controller[524] = 0;
        assert!(Format::plan(&controller, &namespace, 1).is_ok());
        controller[256] = 0;
        assert!(Format::plan(&controller, &namespace, 1).is_err());
        assert!(Format::plan(&[], &[], 1).is_err());
    }
}
