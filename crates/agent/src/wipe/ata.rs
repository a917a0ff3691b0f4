//! ATA's own erase: the security feature set (ACS-4, sections 4.18 and 7.44 to 7.49), through SAT's ATA
//! PASS-THROUGH (16) (SAT-4, section 12.2.3).

use crate::blkdev::passthrough::{Data, scsi};
use std::fs::File;
use std::io;

/// Commands of ATA.
const IDENTIFY: u8 = 0xec;
const SET_PASSWORD: u8 = 0xf1;
const ERASE_PREPARE: u8 = 0xf3;
const ERASE_UNIT: u8 = 0xf4;
const DISABLE_PASSWORD: u8 = 0xf6;

/// The user password while the disk is erased, which also takes it away again. It keeps nothing
/// secret: it is here for whoever finds a disk locked because the power failed meanwhile.
pub const PASSWORD: &[u8; 6] = b"bugler";

const SHORT_MS: u32 = 15_000;
/// Where the disk does not say how long it takes.
const UNKNOWN_MINUTES: u32 = 12 * 60;

/// What a disk says of its security feature set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// A user password is set.
    pub enabled: bool,
    minutes: Option<u32>,
}

impl Security {
    /// Asks a disk.
    ///
    /// # Errors
    /// Why it cannot erase itself now, and what helps.
    pub fn of(disk: &File) -> Result<Self, String> {
        Self::read(&identify(disk)?)
    }

    /// From what IDENTIFY DEVICE answers: words 89 and 128.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn read(page: &[u8; 512]) -> Result<Self, String> {
        let status = word(page, 128);
        if status & 0x01 == 0 {
            return Err("it does not have the security feature set of ATA".into());
        }
        if status & 0x08 != 0 {
            return Err(
                "its security is frozen, as firmware does at power-on; take its power away and \
                 give it back while the machine runs, or wake the machine from sleep"
                    .into(),
            );
        }
        if status & 0x10 != 0 {
            return Err("it has been given too many wrong passwords; switch its power off".into());
        }
        // In steps of two minutes; bit 15 tells of the longer format. 0: not told.
        let time = word(page, 89);
        let (steps, longest) = if time & 0x8000 == 0 {
            (time & 0xff, 0xff)
        } else {
            (time & 0x7fff, 0x7fff)
        };
        Ok(Self {
            enabled: status & 0x02 != 0,
            minutes: match steps {
                0 => None,
                // More than can be said.
                steps if steps == longest => None,
                steps => Some(u32::from(steps) * 2),
            },
        })
    }

    /// How long the disk says that it takes, in minutes.
    #[must_use]
    pub fn minutes(self) -> Option<u32> {
        self.minutes
    }

    /// How long to wait for it, in milliseconds: half as long again, and some more.
    fn timeout_ms(self) -> u32 {
        let minutes = self.minutes.map_or(UNKNOWN_MINUTES, |m| m + m / 2 + 10);
        minutes * 60_000
    }
}

/// Whether what is trimmed reads as zero: DRAT and RZAT of word 69.
pub(super) fn discards_to_zero(page: &[u8; 512]) -> bool {
    word(page, 69) & 0x4020 == 0x4020
}

/// IDENTIFY DEVICE.
///
/// # Errors
/// Why there is no answer.
pub(super) fn identify(disk: &File) -> Result<[u8; 512], String> {
    ask(&mut |command: &[u8; 16], data: Data<'_>, timeout| scsi(disk, command, data, timeout))
}

/// What carries a SCSI command, its data and its time in milliseconds to a disk.
type Send<'a> = dyn FnMut(&[u8; 16], Data<'_>, u32) -> io::Result<()> + 'a;

fn ask(send: &mut Send<'_>) -> Result<[u8; 512], String> {
    let mut page = [0; 512];
    let command = command(IDENTIFY, Transfer::In);
    send(&command, Data::In(&mut page), SHORT_MS)
        .map_err(|error| format!("it does not answer ATA's IDENTIFY DEVICE: {error}"))?;
    Ok(page)
}

/// Erases a disk. Gives the command that failed with what came back.
pub(super) fn erase(disk: &File, security: Security) -> Result<(), (&'static str, io::Error)> {
    let send =
        &mut |command: &[u8; 16], data: Data<'_>, timeout| scsi(disk, command, data, timeout);
    erase_by(send, security)
}

fn erase_by(to: &mut Send<'_>, security: Security) -> Result<(), (&'static str, io::Error)> {
    let mut send = |code, block: Option<&[u8; 512]>, timeout| match block {
        None => to(&command(code, Transfer::None), Data::None, timeout),
        Some(block) => to(&command(code, Transfer::Out), Data::Out(block), timeout),
    };
    let block = password_block();
    if !security.enabled {
        send(SET_PASSWORD, Some(&block), SHORT_MS)
            .map_err(|error| ("SECURITY SET PASSWORD", error))?;
    }
    let prepared =
        send(ERASE_PREPARE, None, SHORT_MS).map_err(|error| ("SECURITY ERASE PREPARE", error));
    let erased = prepared.and_then(|()| {
        send(ERASE_UNIT, Some(&block), security.timeout_ms()).map_err(|error| {
            let what = if security.enabled {
                "SECURITY ERASE UNIT (it had a password before, perhaps another one than \
                 \"bugler\")"
            } else {
                "SECURITY ERASE UNIT"
            };
            (what, error)
        })
    });
    if erased.is_err() && !security.enabled {
        // Or it would be locked at the next power-on. That this fails too changes nothing of the error.
        let _ = send(DISABLE_PASSWORD, Some(&block), SHORT_MS);
    }
    erased
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    None,
    In,
    Out,
}

/// ATA PASS-THROUGH (16) of a 28-bit command that moves one block of 512 bytes, or none.
fn command(code: u8, transfer: Transfer) -> [u8; 16] {
    // Protocol (bits 1 to 4): 3 non-data, 4 PIO in, 5 PIO out. Then T_DIR (0x08), BYT_BLOK (0x04)
    // and T_LENGTH (0x02: the length is in the sector count).
    let (protocol, flags, count) = match transfer {
        Transfer::None => (3, 0x00, 0),
        Transfer::In => (4, 0x0e, 1),
        Transfer::Out => (5, 0x06, 1),
    };
    let mut block = [0; 16];
    block[0] = 0x85;
    block[1] = protocol << 1;
    block[2] = flags;
    block[6] = count;
    block[14] = code;
    block
}

/// What SET PASSWORD, ERASE UNIT and DISABLE PASSWORD are given: word 0 all zero for the user password
/// (of the level "high") and the normal erase, then the password.
fn password_block() -> [u8; 512] {
    let mut block = [0; 512];
    block[2..2 + PASSWORD.len()].copy_from_slice(PASSWORD);
    block
}

fn word(page: &[u8; 512], number: usize) -> u16 {
    u16::from_le_bytes([page[2 * number], page[2 * number + 1]])
}

#[cfg(test)]
mod drive;

#[cfg(test)]
mod tests {
    use super::drive::Drive;
    use super::*;

    #[test]
    fn commands_byte_for_byte() {
        assert_eq!(
            command(IDENTIFY, Transfer::In),
            [0x85, 0x08, 0x0e, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xec, 0]
        );
        assert_eq!(
            command(SET_PASSWORD, Transfer::Out),
            [0x85, 0x0a, 0x06, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xf1, 0]
        );
        assert_eq!(
            command(ERASE_PREPARE, Transfer::None),
            [0x85, 0x06, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf3, 0]
        );
        assert_eq!(command(ERASE_UNIT, Transfer::Out)[14], 0xf4);
        assert_eq!(command(DISABLE_PASSWORD, Transfer::Out)[14], 0xf6);
        let block = password_block();
        assert_eq!(&block[..10], b"\0\0bugler\0\0");
        assert!(block[8..].iter().all(|&byte| byte == 0));
    }

    fn page(words: &[(usize, u16)]) -> [u8; 512] {
        let mut page = [0; 512];
        for &(number, word) in words {
            page[2 * number..2 * number + 2].copy_from_slice(&word.to_le_bytes());
        }
        page
    }

    #[test]
    fn what_a_disk_says_is_understood() {
        let of = |status, time| Security::read(&page(&[(128, status), (89, time)]));
        let plain = of(0x21, 16).unwrap();
        assert_eq!((plain.enabled, plain.minutes()), (false, Some(32)));
        assert_eq!(plain.timeout_ms(), 58 * 60_000);
        assert_eq!(of(0x01, 0).unwrap().minutes(), None);
        assert_eq!(of(0x01, 255).unwrap().minutes(), None);
        assert_eq!(of(0x01, 0x8000 | 300).unwrap().minutes(), Some(600));
        assert_eq!(of(0x01, 0xffff).unwrap().minutes(), None);
        assert!(of(0x07, 16).unwrap().enabled);
        assert!(of(0, 16).unwrap_err().contains("does not have"));
        assert!(of(0x09, 16).unwrap_err().contains("frozen"));
        assert!(of(0x13, 16).unwrap_err().contains("too many"));
        assert!(discards_to_zero(&page(&[(69, 0x4020)])));
        assert!(!discards_to_zero(&page(&[(69, 0x0020)])));
    }

    /// Asks a drive that is not there, and has it erase itself.
    fn wipe(drive: &mut Drive) -> Result<(), String> {
        let mut send = |command: &[u8; 16], data: Data<'_>, _: u32| drive.take(command, data);
        let security = Security::read(&ask(&mut send)?)?;
        erase_by(&mut send, security).map_err(|(what, error)| format!("{what}: {error}"))
    }

    #[test]
    fn a_drive_erases_itself_and_keeps_no_password() {
        let mut drive = Drive::full();
        wipe(&mut drive).unwrap();
        assert!(drive.is_erased() && drive.password().is_none());
        // One that the power left in the middle of an erase, with the agent's own password.
        let mut drive = Drive::full();
        drive.lock_with(PASSWORD);
        wipe(&mut drive).unwrap();
        assert!(drive.is_erased() && drive.password().is_none());
    }

    #[test]
    fn a_drive_that_refuses_is_left_as_it_was() {
        let mut frozen = Drive::full();
        frozen.freeze();
        assert!(wipe(&mut frozen).unwrap_err().contains("frozen"));
        assert_eq!(frozen.taken(), [IDENTIFY]);

        let mut locked = Drive::full();
        locked.lock_with(b"secret");
        let error = wipe(&mut locked).unwrap_err();
        assert!(error.contains("it had a password before"), "{error}");
        assert_eq!(locked.password().unwrap()[..6], *b"secret");

        let mut broken = Drive::full();
        broken.fail_at(ERASE_UNIT);
        let error = wipe(&mut broken).unwrap_err();
        assert!(error.starts_with("SECURITY ERASE UNIT: "), "{error}");
        assert!(broken.password().is_none(), "it would be locked later");
        for drive in [frozen, locked, broken] {
            assert!(!drive.is_erased());
        }
    }
}
