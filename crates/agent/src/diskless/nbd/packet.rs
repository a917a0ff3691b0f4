//! The client's side of NBD's fixed newstyle negotiation (the NBD project's `doc/proto.md`), as far as
//! the kernel's driver can use what comes out of it: no TLS, no structured replies, one export by
//! `NBD_OPT_GO`. All numbers are big-endian.

/// First word of a server.
const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// What a server of the newstyle says next, and a client before each option.
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// The client's flag of the same meaning.
const CLIENT_FIXED_NEWSTYLE: u32 = 1;

const OPT_GO: u32 = 7;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
/// Set in the type of a reply that is an error.
const REP_ERROR: u32 = 1 << 31;

/// Length of a server's greeting.
pub(crate) const GREETING_LEN: usize = 18;
/// Length of the header of a reply to an option.
pub(crate) const REPLY_LEN: usize = 20;
/// Longest data of a reply that is read; a server has 4,096 bytes at most for each of its strings.
pub(crate) const MAX_DATA: u32 = 64 << 10;
/// Longest name of an export in bytes.
pub(crate) const MAX_NAME: usize = 4096;

/// What a server said that a client cannot go on with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NegotiationError {
    #[error("it does not begin as an NBD server does; is another service on that port?")]
    NotNbd,
    #[error("it speaks the old handshake alone; only the fixed newstyle is spoken here")]
    OldStyle,
    #[error("its answer makes no sense ({0})")]
    Nonsense(&'static str),
    #[error("it refuses the export: {reason}{}", said(.text))]
    Refused {
        reason: &'static str,
        /// What it says itself.
        text: String,
    },
}

fn said(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(" ({text})")
    }
}

/// What a client learns of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    /// In bytes.
    pub(crate) size: u64,
    /// Transmission flags, as the kernel wants them as well.
    pub(crate) flags: u16,
    /// Smallest unit that may be read or written, in bytes.
    pub(crate) min_block: u32,
}

/// Reads the greeting and returns what the client answers.
pub(crate) fn greet(bytes: &[u8; GREETING_LEN]) -> Result<[u8; 4], NegotiationError> {
    let [magic, option] = [0, 8].map(|at| u64_at(bytes, at));
    if magic != Some(NBD_MAGIC) {
        return Err(NegotiationError::NotNbd);
    }
    let flags = u16::from_be_bytes([bytes[16], bytes[17]]);
    if option != Some(OPTION_MAGIC) || flags & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(NegotiationError::OldStyle);
    }
    Ok(CLIENT_FIXED_NEWSTYLE.to_be_bytes())
}

/// `NBD_OPT_GO` for the export `name`, of which at most [`MAX_NAME`] bytes are sent. Block sizes are
/// asked for, so that a server that insists on its own tells them.
pub(crate) fn go(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let name = name.get(..MAX_NAME).unwrap_or(name);
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name);
    data.extend_from_slice(&1u16.to_be_bytes());
    data.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
    let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
    message.extend_from_slice(&OPT_GO.to_be_bytes());
    message.extend_from_slice(&(data.len() as u32).to_be_bytes());
    message.extend_from_slice(&data);
    message
}

/// The header of a reply: its type and the length of its data, at most [`MAX_DATA`].
pub(crate) fn reply(bytes: &[u8; REPLY_LEN]) -> Result<(u32, u32), NegotiationError> {
    if u64_at(bytes, 0) != Some(REPLY_MAGIC) || u32_at(bytes, 8) != Some(OPT_GO) {
        return Err(NegotiationError::Nonsense("no reply to what was asked"));
    }
    match (u32_at(bytes, 12), u32_at(bytes, 16)) {
        (Some(kind), Some(len)) if len <= MAX_DATA => Ok((kind, len)),
        _ => Err(NegotiationError::Nonsense("a reply that is too long")),
    }
}

/// Collects the replies to `NBD_OPT_GO`.
#[derive(Debug, Default)]
pub(crate) struct Going {
    export: Option<(u64, u16)>,
    min_block: Option<u32>,
}

impl Going {
    /// Takes a reply; what is known of the export where it was the last one.
    pub(crate) fn take(
        &mut self,
        kind: u32,
        data: &[u8],
    ) -> Result<Option<Export>, NegotiationError> {
        match kind {
            REP_ACK => {
                let lacking = NegotiationError::Nonsense("an export without a size");
                let (size, flags) = self.export.ok_or(lacking)?;
                Ok(Some(Export {
                    size,
                    flags,
                    min_block: self.min_block.unwrap_or(1),
                }))
            }
            REP_INFO => {
                self.inform(data)?;
                Ok(None)
            }
            kind if kind & REP_ERROR != 0 => Err(NegotiationError::Refused {
                reason: reason(kind),
                text: readable(data),
            }),
            _ => Err(NegotiationError::Nonsense("a reply of an unknown type")),
        }
    }

    fn inform(&mut self, data: &[u8]) -> Result<(), NegotiationError> {
        let short = NegotiationError::Nonsense("information that is too short");
        let (kind, rest) = data.split_first_chunk().ok_or(short.clone())?;
        match u16::from_be_bytes(*kind) {
            INFO_EXPORT => {
                let (size, flags) = rest.split_first_chunk().ok_or(short.clone())?;
                let flags = flags.first_chunk().ok_or(short)?;
                self.export = Some((u64::from_be_bytes(*size), u16::from_be_bytes(*flags)));
            }
            INFO_BLOCK_SIZE => {
                let min = u32_at(rest, 0).ok_or(short)?;
                if !min.is_power_of_two() {
                    return Err(NegotiationError::Nonsense("a block size that is none"));
                }
                self.min_block = Some(min);
            }
            // Others were not asked for, and a server may send them all the same.
            _ => {}
        }
        Ok(())
    }
}

fn reason(kind: u32) -> &'static str {
    match kind & !REP_ERROR {
        1 => "it does not know NBD_OPT_GO",
        2 => "its policy forbids it",
        3 => "it calls the request invalid",
        4 => "its platform cannot",
        5 => "it wants TLS, which the kernel's NBD client cannot",
        6 => "it has no such export for this machine",
        7 => "it is shutting down",
        8 => "it wants its block sizes to be used",
        9 => "it calls the request too big",
        _ => "an error without a known number",
    }
}

/// A text of a server, as it can be shown.
fn readable(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(200).map(clean).collect()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads any bytes as what a server says. For fuzzing: it must not panic on anything.
pub(crate) fn fuzz(bytes: &[u8]) {
    let Some((greeting, mut rest)) = bytes.split_first_chunk() else {
        return;
    };
    drop(greet(greeting));
    let mut going = Going::default();
    while let Some((header, after)) = rest.split_first_chunk() {
        let Ok((kind, len)) = reply(header) else {
            return;
        };
        let Some((data, after)) = after.split_at_checked(len as usize) else {
            return;
        };
        if !matches!(going.take(kind, data), Ok(None)) {
            return;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting(flags: u16) -> [u8; GREETING_LEN] {
        let mut bytes = *b"NBDMAGICIHAVEOPT\0\0";
        bytes[16..].copy_from_slice(&flags.to_be_bytes());
        bytes
    }

    #[test]
    fn a_server_of_the_newstyle_is_answered() {
        assert_eq!(greet(&greeting(3)), Ok([0, 0, 0, 1]));
        assert_eq!(greet(&greeting(0)), Err(NegotiationError::OldStyle));
        let old = *b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0";
        assert_eq!(greet(&old), Err(NegotiationError::OldStyle));
        let other = *b"SSH-2.0-OpenSSH_9.";
        assert_eq!(greet(&other), Err(NegotiationError::NotNbd));
    }

    #[test]
    fn an_option_is_laid_out_as_the_specification_says() {
        let expected = b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x02d3\0\x01\0\x03";
        assert_eq!(go("d3"), expected);
        assert_eq!(go(&"x".repeat(9000)).len(), 16 + 4 + MAX_NAME + 4);
    }

    #[test]
    fn replies_make_an_export() {
        let mut header = REPLY_MAGIC.to_be_bytes().to_vec();
        for word in [OPT_GO, REP_INFO, 12] {
            header.extend_from_slice(&word.to_be_bytes());
        }
        let header: [u8; REPLY_LEN] = header.try_into().unwrap();
        assert_eq!(reply(&header), Ok((REP_INFO, 12)));

        let mut going = Going::default();
        let size = [&[0, 0][..], &(1u64 << 30).to_be_bytes(), &[1, 13]].concat();
        assert_eq!(going.take(REP_INFO, &size), Ok(None));
        let blocks = [0, 3, 0, 0, 16, 0, 0, 0, 16, 0, 2, 0, 0, 0];
        assert_eq!(going.take(REP_INFO, &blocks), Ok(None));
        assert_eq!(going.take(REP_INFO, &[0, 2, b'x']), Ok(None));
        let expected = Export {
            size: 1 << 30,
            flags: 0x010d,
            min_block: 4096,
        };
        assert_eq!(going.take(REP_ACK, &[]), Ok(Some(expected)));
        assert!(Going::default().take(REP_ACK, &[]).is_err());
    }

    #[test]
    fn a_refusal_is_told_in_words() {
        let refused = Going::default()
            .take(REP_ERROR | 6, b"no\x07 such")
            .unwrap_err();
        assert_eq!(
            refused.to_string(),
            "it refuses the export: it has no such export for this machine (no  such)"
        );
        let tls = Going::default().take(REP_ERROR | 5, b"").unwrap_err();
        assert!(
            tls.to_string()
                .ends_with("it wants TLS, which the kernel's NBD client cannot")
        );
    }

    proptest! {
        #[test]
        fn any_server_is_survived(
            flags: u16,
            replies in proptest::collection::vec((any::<bool>(), 0u32..10, proptest::collection::vec(any::<u8>(), 0..40)), 0..6),
        ) {
            let mut bytes = greeting(flags).to_vec();
            for (is_error, kind, data) in replies {
                let kind = if is_error { kind | REP_ERROR } else { kind };
                bytes.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
                for word in [OPT_GO, kind, data.len() as u32] {
                    bytes.extend_from_slice(&word.to_be_bytes());
                }
                bytes.extend_from_slice(&data);
            }
            fuzz(&bytes);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            fuzz(&bytes);
        }
    }
}
