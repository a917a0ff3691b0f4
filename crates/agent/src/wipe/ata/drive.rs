//! A drive for tests that keeps to the security feature set (ACS-4, section 4.18): what is sent to it is
//! read byte by byte, and refused where a drive has to refuse it.

use crate::blkdev::passthrough::Data;
use std::io;

/// Status of a SCSI command with sense data.
const CHECK_CONDITION: &str = "status 0x02";

/// Where its passwords stand in a block: after word 0.
const PASSWORD: std::ops::Range<usize> = 2..34;

/// A drive with something on it.
#[derive(Debug)]
pub(super) struct Drive {
    password: Option<Vec<u8>>,
    is_locked: bool,
    is_frozen: bool,
    is_prepared: bool,
    is_erased: bool,
    fails_at: Option<u8>,
    taken: Vec<u8>,
}

impl Drive {
    pub(super) fn full() -> Self {
        Self {
            password: None,
            is_locked: false,
            is_frozen: false,
            is_prepared: false,
            is_erased: false,
            fails_at: None,
            taken: Vec::new(),
        }
    }

    /// Has a user password, and has been switched on since it was set.
    pub(super) fn lock_with(&mut self, password: &[u8]) {
        let mut padded = password.to_vec();
        padded.resize(PASSWORD.len(), 0);
        self.password = Some(padded);
        self.is_locked = true;
    }

    /// As firmware leaves it.
    pub(super) fn freeze(&mut self) {
        self.is_frozen = true;
    }

    /// Aborts this command.
    pub(super) fn fail_at(&mut self, command: u8) {
        self.fails_at = Some(command);
    }

    pub(super) fn is_erased(&self) -> bool {
        self.is_erased
    }

    pub(super) fn password(&self) -> Option<&[u8]> {
        self.password.as_deref()
    }

    /// The commands that came.
    pub(super) fn taken(&self) -> &[u8] {
        &self.taken
    }

    /// Takes an ATA PASS-THROUGH (16) (SAT-4, section 12.2.3).
    pub(super) fn take(&mut self, block: &[u8; 16], data: Data<'_>) -> io::Result<()> {
        let abort = |why: &str| Err(io::Error::other(format!("{CHECK_CONDITION}: {why}")));
        let (protocol, count, command) = (block[1] >> 1 & 0x0f, block[6], block[14]);
        // T_LENGTH of the sector count, BYT_BLOK of 512-byte blocks, T_DIR from the device.
        let transfer = block[2] & 0x0f;
        if block[0] != 0x85 {
            return abort("no ATA PASS-THROUGH (16)");
        }
        self.taken.push(command);
        if self.fails_at == Some(command) {
            return abort("aborted");
        }
        // ERASE UNIT is taken only as the command after ERASE PREPARE.
        let is_prepared = std::mem::take(&mut self.is_prepared);
        match (command, protocol, transfer, count, data) {
            (0xec, 4, 0x0e, 1, Data::In(page)) if page.len() == 512 => {
                page.copy_from_slice(&self.identify());
                Ok(())
            }
            _ if self.is_frozen => abort("frozen"),
            (0xf1, 5, 0x06, 1, Data::Out(block)) if block.len() == 512 => {
                if self.is_locked || block[0] & 1 != 0 {
                    return abort("locked, or the master password");
                }
                self.password = Some(block[PASSWORD].to_vec());
                Ok(())
            }
            (0xf3, 3, 0, 0, Data::None) => {
                self.is_prepared = true;
                Ok(())
            }
            (0xf4, 5, 0x06, 1, Data::Out(block)) if block.len() == 512 => {
                if !is_prepared || self.password.as_deref() != Some(&block[PASSWORD]) {
                    return abort("not prepared, or another password");
                }
                self.is_erased = true;
                self.is_locked = false;
                self.password = None;
                Ok(())
            }
            (0xf6, 5, 0x06, 1, Data::Out(block)) if block.len() == 512 => {
                if self.is_locked || self.password.as_deref() != Some(&block[PASSWORD]) {
                    return abort("locked, or another password");
                }
                self.password = None;
                Ok(())
            }
            (command, ..) => abort(&format!("command {command:#04x} with a wrong transfer")),
        }
    }

    /// IDENTIFY DEVICE: word 89, the time in steps of two minutes; word 128, the security status.
    fn identify(&self) -> [u8; 512] {
        let mut page = [0; 512];
        page[2 * 89] = 2;
        page[2 * 128] = 0x01
            | u8::from(self.password.is_some()) << 1
            | u8::from(self.is_locked) << 2
            | u8::from(self.is_frozen) << 3;
        page
    }
}
