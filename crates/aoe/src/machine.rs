//! What a frame asks of whom: pure decisions. The disk is not touched here; what is to be done with it
//! comes out as [`Action`]s, so that the caller can do many together.
//!
//! Two rules come from clients. The Linux driver only logs an error in the AoE header and asks again
//! for three minutes, so whatever a disk fails is told in the ATA status. And a command that was sent
//! again cannot be told from a new one, so every command can be done twice, and the caller does the
//! writes of a target in the order in which they came.

use crate::keep::State;
use crate::packet::{
    ATA_HEADER, Address, Ata, Config, ConfigCommand, Directive, Directives, ErrorCode, HEADER,
    Header, MOST_MASKS, MOST_RESERVED, MacList, Mask, Message, Reserve, SECTOR, ata,
    directive_bytes, mac_bytes,
};
use crate::target::{Seen, Target, Targets};
use bugler_disk::DeviceError;
use bugler_model::MacAddr;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// Version of the firmware, as told to clients.
const FIRMWARE: u16 = 1;
/// Status of a command that was done: DRDY.
const DONE: u8 = 0x40;
/// Status bits of one that was not: ERR, and DF for a fault of the disk.
const ERR: u8 = 0x01;
const DF: u8 = 0x20;
/// How many unknown machines are remembered, so that each is said once.
const REMEMBERED: usize = 4096;

/// What a command came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Our address there.
    pub mac: MacAddr,
    /// Most sectors in one frame.
    pub sectors: u8,
    /// How many commands a client may have outstanding; at least 2, for the Linux driver hangs
    /// otherwise.
    pub buffers: u16,
}

/// What to do for a frame.
#[derive(Debug)]
pub enum Action<'a> {
    /// Send this frame.
    Reply(Vec<u8>),
    /// Read, and send the answer with the data.
    Read {
        /// From which.
        target: Arc<Target>,
        /// First byte.
        offset: u64,
        /// Bytes, a multiple of 512.
        length: usize,
        /// The answer.
        answer: Answer,
    },
    /// Write, after all earlier writes to this target, and send the answer.
    Write {
        /// To which.
        target: Arc<Target>,
        /// First byte.
        offset: u64,
        /// The data, whole sectors.
        data: &'a [u8],
        /// The answer.
        answer: Answer,
    },
    /// Make earlier writes to this target durable, and send the answer.
    Flush {
        /// Which.
        target: Arc<Target>,
        /// The answer.
        answer: Answer,
    },
    /// Have [`Change::make`] change what clients set, which may wait for a disk, and send what it
    /// returns.
    Change(Box<Change>),
}

/// Why nothing is done for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// It is no command of AoE, or it ends too early.
    Malformed,
    /// It is for a target that this machine does not have, or for none in particular and not one that
    /// may be.
    NotForUs,
    /// The machine is not known.
    Unknown {
        /// Its address.
        mac: MacAddr,
        /// Whether it is the first frame from there.
        first: bool,
    },
    /// The target's MAC mask leaves this machine out.
    Masked,
}

/// Why a disk did not do a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// ABRT: it does not do this.
    Aborted,
    /// IDNF: there is no such sector.
    NotFound,
    /// UNC: the data cannot be read.
    Unreadable,
    /// ABRT and DF: the data could not be written.
    Unwritten,
}

impl Failure {
    /// Of a read.
    #[must_use]
    pub fn of_read(error: &DeviceError) -> Self {
        match error {
            DeviceError::OutOfRange { .. } => Self::NotFound,
            _ => Self::Unreadable,
        }
    }

    /// Of a write or a flush.
    #[must_use]
    pub fn of_write(error: &DeviceError) -> Self {
        match error {
            DeviceError::OutOfRange { .. } => Self::NotFound,
            DeviceError::ReadOnly => Self::Aborted,
            _ => Self::Unwritten,
        }
    }

    /// Status and error register.
    fn registers(self) -> (u8, u8) {
        match self {
            Self::Aborted => (DONE | ERR, 0x04),
            Self::NotFound => (DONE | ERR, 0x10),
            Self::Unreadable => (DONE | ERR, 0x40),
            Self::Unwritten => (DONE | DF | ERR, 0x04),
        }
    }
}

/// The headers of the answer to an ATA command, which lacks only its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer([u8; ATA_HEADER]);

impl Answer {
    fn new(header: &Header, ata: &Ata<'_>) -> Self {
        let mut bytes = [0; ATA_HEADER];
        let (head, registers) = bytes.split_at_mut(HEADER);
        head.copy_from_slice(&header.encode());
        let [a, b, c, d, e, f] = ata.lba;
        registers.copy_from_slice(&[ata.flags, 0, ata.count, DONE, a, b, c, d, e, f, 0, 0]);
        Self(bytes)
    }

    /// The bytes before the data, for a command that was done.
    #[must_use]
    pub fn done(&self) -> &[u8; ATA_HEADER] {
        &self.0
    }

    /// The whole frame for one that was not.
    #[must_use]
    pub fn failed(&self, failure: Failure) -> [u8; ATA_HEADER] {
        let mut bytes = self.0;
        let (status, error) = failure.registers();
        if let [_, place, _, command, ..] = &mut bytes[HEADER..] {
            *place = error;
            *command = status;
        }
        bytes
    }

    /// With another sector count in it, which is where some commands have their result.
    fn with_count(mut self, value: u8) -> Self {
        if let [_, _, count, ..] = &mut self.0[HEADER..] {
            *count = value;
        }
        self
    }
}

/// Decides for every frame.
pub struct Machine {
    targets: Arc<dyn Targets>,
    found: Option<(MacAddr, Option<Seen>)>,
    unknown: HashSet<MacAddr>,
}

impl Machine {
    /// Of these targets.
    #[must_use]
    pub fn new(targets: Arc<dyn Targets>) -> Self {
        Self {
            targets,
            found: None,
            unknown: HashSet::new(),
        }
    }

    /// Tells that time has passed: who sees what is asked again.
    pub fn refresh(&mut self) {
        self.found = None;
    }

    /// Adds what to do for this frame to `actions`.
    ///
    /// # Errors
    /// [`Ignored`] where that is nothing.
    pub fn handle<'a>(
        &mut self,
        link: &Link,
        frame: &'a [u8],
        now: Instant,
        actions: &mut Vec<Action<'a>>,
    ) -> Result<(), Ignored> {
        let Ok((header, rest)) = Header::decode(frame) else {
            return Err(Ignored::Malformed);
        };
        if header.response {
            return Err(Ignored::NotForUs);
        }
        let targets = self.targets_of(header.source)?;
        let message = match header.is_known_version() {
            true => Some(Message::decode(header.command, rest)),
            false => None,
        };
        let mut outcome = Err(Ignored::NotForUs);
        for target in targets.iter() {
            if !header.target.takes(target.address()) {
                continue;
            }
            let context = Context {
                link,
                target,
                answer: header.answer(link.mac, target.address().into()),
                from: header.source,
            };
            let (masked, reserved) = target.look(header.source, now, |state| {
                let is_in = |list: &[MacAddr]| list.is_empty() || list.contains(&header.source);
                (!is_in(&state.mask), !is_in(&state.reserved))
            });
            let action = match &message {
                _ if masked => {
                    if outcome.is_err() {
                        outcome = Err(Ignored::Masked);
                    }
                    continue;
                }
                None => context.error(ErrorCode::UnsupportedVersion),
                Some(Err(_)) => return Err(Ignored::Malformed),
                Some(Ok(Message::Config(config))) => match context.config(config) {
                    Some(action) => action,
                    None => continue,
                },
                // A disk is not written by whoever means all disks.
                Some(Ok(_)) if header.target.is_wild() => continue,
                Some(Ok(Message::Ata(_))) if reserved => context.error(ErrorCode::Reserved),
                Some(Ok(Message::Ata(ata))) => context.ata(ata),
                Some(Ok(Message::Mask(mask))) => context.mask(mask),
                Some(Ok(Message::Reserve(reserve))) => context.reserve(reserve),
                Some(Ok(Message::Other(_))) => context.error(ErrorCode::UnknownCommand),
            };
            actions.push(action);
            outcome = Ok(());
        }
        outcome
    }

    fn targets_of(&mut self, mac: MacAddr) -> Result<Seen, Ignored> {
        let found = match &self.found {
            Some((last, found)) if *last == mac => found.clone(),
            _ => {
                let found = self.targets.targets_for(mac);
                self.found = Some((mac, found.clone()));
                found
            }
        };
        found.ok_or_else(|| {
            let first = self.unknown.len() < REMEMBERED && self.unknown.insert(mac);
            Ignored::Unknown { mac, first }
        })
    }
}

/// One command to one target.
struct Context<'c> {
    link: &'c Link,
    target: &'c Arc<Target>,
    /// The header of the answer.
    answer: Header,
    from: MacAddr,
}

impl Context<'_> {
    fn error<'a>(&self, code: ErrorCode) -> Action<'a> {
        Action::Reply(error_frame(&self.answer, code))
    }

    fn ata<'a>(&self, ata: &Ata<'a>) -> Action<'a> {
        let answer = Answer::new(&self.answer, ata);
        let target = self.target.clone();
        match ata.command {
            ata::READ | ata::READ_EXT => match self.range(ata) {
                Ok((offset, length)) => Action::Read {
                    target,
                    offset,
                    length,
                    answer,
                },
                Err(failure) => Action::Reply(answer.failed(failure).to_vec()),
            },
            ata::WRITE | ata::WRITE_EXT => {
                let written = self.range(ata).and_then(|(offset, length)| {
                    let data = ata.data.get(..length).ok_or(Failure::Aborted)?;
                    Ok((offset, data))
                });
                match written {
                    Ok((offset, data)) => Action::Write {
                        target,
                        offset,
                        data,
                        answer,
                    },
                    Err(failure) => Action::Reply(answer.failed(failure).to_vec()),
                }
            }
            ata::FLUSH | ata::FLUSH_EXT => Action::Flush { target, answer },
            ata::IDENTIFY => {
                let mut frame = answer.done().to_vec();
                frame.extend_from_slice(target.identify());
                Action::Reply(frame)
            }
            // Active or idle.
            ata::CHECK_POWER => Action::Reply(answer.with_count(0xff).done().to_vec()),
            _ => Action::Reply(answer.failed(Failure::Aborted).to_vec()),
        }
    }

    /// First byte and number of bytes.
    fn range(&self, ata: &Ata<'_>) -> Result<(u64, usize), Failure> {
        if ata.count == 0 || ata.count > self.link.sectors {
            return Err(Failure::Aborted);
        }
        let sectors = self.target.device().size() / SECTOR as u64;
        let first = ata.sector();
        // 48 bits and 8 bits: no sum of these is beyond 64.
        if first + u64::from(ata.count) > sectors {
            return Err(Failure::NotFound);
        }
        Ok((first * SECTOR as u64, usize::from(ata.count) * SECTOR))
    }

    fn config<'a>(&self, config: &Config<'_>) -> Option<Action<'a>> {
        let present = |fits: &dyn Fn(&[u8]) -> bool| {
            let state = self.target.state();
            let frame = || config_frame(&self.answer, self.link, config.command, &state.config);
            fits(&state.config).then(|| Action::Reply(frame()))
        };
        match config.command {
            ConfigCommand::Read => present(&|_| true),
            ConfigCommand::Test => present(&|string| string == config.string),
            ConfigCommand::Prefix => present(&|string| string.starts_with(config.string)),
            ConfigCommand::Set | ConfigCommand::Force => Some(self.change(What::Config {
                command: config.command,
                string: config.string.to_vec(),
            })),
            ConfigCommand::Other(_) => Some(self.error(ErrorCode::BadArgument)),
        }
    }

    fn mask<'a>(&self, mask: &Mask<'_>) -> Action<'a> {
        match mask.command {
            0 => Action::Reply(mask_frame(&self.answer, 0, 0, &self.target.state().mask)),
            1 => self.change(What::Mask(mask.directives.iter().collect())),
            _ => self.error(ErrorCode::BadArgument),
        }
    }

    fn reserve<'a>(&self, reserve: &Reserve<'_>) -> Action<'a> {
        match reserve.command {
            0 => Action::Reply(reserve_frame(
                &self.answer,
                0,
                &self.target.state().reserved,
            )),
            command @ (1 | 2) => self.change(What::Reserve {
                command,
                macs: reserve.macs.iter().collect(),
            }),
            _ => self.error(ErrorCode::BadArgument),
        }
    }

    fn change<'a>(&self, what: What) -> Action<'a> {
        Action::Change(Box::new(Change {
            target: self.target.clone(),
            link: *self.link,
            answer: self.answer,
            from: self.from,
            what,
        }))
    }
}

/// A change of what clients set on a target.
#[derive(Debug)]
pub struct Change {
    target: Arc<Target>,
    link: Link,
    answer: Header,
    from: MacAddr,
    what: What,
}

#[derive(Debug)]
enum What {
    Config {
        command: ConfigCommand,
        string: Vec<u8>,
    },
    Mask(Vec<Directive>),
    Reserve {
        command: u8,
        macs: Vec<MacAddr>,
    },
}

impl Change {
    /// Makes the change and returns the answer. It waits until the change is kept; one that could not be
    /// is not made, `unkept` is told, and the client hears that the target is unavailable.
    pub fn make(&self, unkept: impl FnOnce(&Address, crate::KeepError)) -> Vec<u8> {
        let address = self.target.address();
        let made = self.target.change(
            |state| self.apply(state),
            |error| {
                unkept(&address, error);
                ErrorCode::Unavailable
            },
        );
        match (made, &self.what) {
            (Err(code), _) => error_frame(&self.answer, code),
            (Ok((state, _)), What::Config { command, .. }) => {
                config_frame(&self.answer, &self.link, *command, &state.config)
            }
            (Ok((state, error)), What::Mask(_)) => mask_frame(&self.answer, 1, error, &state.mask),
            (Ok((state, _)), What::Reserve { command, .. }) => {
                reserve_frame(&self.answer, *command, &state.reserved)
            }
        }
    }

    /// The state afterwards, and the error of a MAC mask.
    fn apply(&self, state: &State) -> Result<(State, u8), ErrorCode> {
        let mut new = state.clone();
        let reserved = !state.reserved.is_empty() && !state.reserved.contains(&self.from);
        let forced = matches!(self.what, What::Reserve { command: 2, .. });
        if reserved && !forced {
            return Err(ErrorCode::Reserved);
        }
        match &self.what {
            What::Config { command, string } => {
                let other = !state.config.is_empty() && state.config != *string;
                if *command == ConfigCommand::Set && other {
                    return Err(ErrorCode::ConfigPresent);
                }
                new.config.clone_from(string);
            }
            What::Mask(directives) => {
                if let Err(error) = edit(&mut new.mask, directives) {
                    return Ok((state.clone(), error));
                }
            }
            What::Reserve { macs, .. } => {
                if macs.len() > MOST_RESERVED {
                    return Err(ErrorCode::BadArgument);
                }
                new.reserved.clone_from(macs);
            }
        }
        Ok((new, 0))
    }
}

/// Edits a MAC mask. An error is that of AoEr11 section 3.3.
fn edit(mask: &mut Vec<MacAddr>, directives: &[Directive]) -> Result<(), u8> {
    for directive in directives {
        match directive.command {
            0 => {}
            1 if mask.contains(&directive.mac) => {}
            1 if mask.len() >= MOST_MASKS => return Err(3),
            1 => mask.push(directive.mac),
            2 => mask.retain(|mac| *mac != directive.mac),
            _ => return Err(2),
        }
    }
    Ok(())
}

fn error_frame(answer: &Header, code: ErrorCode) -> Vec<u8> {
    let header = Header {
        error: code as u8,
        ..*answer
    };
    header.encode().to_vec()
}

fn config_frame(answer: &Header, link: &Link, command: ConfigCommand, string: &[u8]) -> Vec<u8> {
    let config = Config {
        buffers: link.buffers.max(2),
        firmware: FIRMWARE,
        sectors: link.sectors,
        command,
        string,
    };
    encoded(answer, &Message::Config(config))
}

fn mask_frame(answer: &Header, command: u8, error: u8, mask: &[MacAddr]) -> Vec<u8> {
    let bytes = directive_bytes(mask.iter().map(|&mac| Directive { command: 0, mac }));
    let directives = Directives::from(&bytes[..]);
    encoded(
        answer,
        &Message::Mask(Mask {
            command,
            error,
            directives,
        }),
    )
}

fn reserve_frame(answer: &Header, command: u8, macs: &[MacAddr]) -> Vec<u8> {
    let bytes = mac_bytes(macs);
    let macs = MacList::from(&bytes[..]);
    encoded(answer, &Message::Reserve(Reserve { command, macs }))
}

fn encoded(answer: &Header, message: &Message<'_>) -> Vec<u8> {
    let mut frame = vec![];
    message.encode(answer, &mut frame);
    frame
}

#[cfg(test)]
#[path = "machine_tests.rs"]
pub(crate) mod tests;
