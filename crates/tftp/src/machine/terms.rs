//! What client and server agree on before the first block (RFC 2347).

use crate::packet::{DEFAULT_BLKSIZE, MAX_BLKSIZE, MIN_BLKSIZE, Options};

/// What the server is willing to agree to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest block, in bytes.
    pub blksize: u16,
    /// The largest window, in blocks.
    pub windowsize: u16,
    /// The largest window, in bytes of data: it bounds the memory of a transfer.
    pub window_bytes: u32,
}

impl Limits {
    /// The largest block whose datagram fits one IPv4 packet of `mtu` bytes, without fragments: they
    /// vanish behind some switches and tunnels. 20 bytes of IP header, 8 of UDP, 4 of TFTP.
    pub fn blksize_for_mtu(mtu: u32) -> u16 {
        u16::try_from(mtu.saturating_sub(32))
            .unwrap_or(MAX_BLKSIZE)
            .clamp(MIN_BLKSIZE, MAX_BLKSIZE)
    }
}

/// What was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of data a block.
    pub blksize: u16,
    /// Blocks before an ACK.
    pub windowsize: u16,
    /// The options to acknowledge; where there is none, the first answer is DATA.
    pub oack: Options,
}

impl Terms {
    /// Answers the options of a read request for a file of `size` bytes, as they are sent (a
    /// netascii transfer counts its line ends). Only what was asked is answered.
    pub fn agree(asked: &Options, size: u64, limits: &Limits) -> Self {
        let blksize = asked
            .blksize
            .map(|wish| wish.min(limits.blksize).max(MIN_BLKSIZE));
        let block = blksize.unwrap_or(DEFAULT_BLKSIZE);
        let window_bytes = u16::try_from(limits.window_bytes / u32::from(block));
        let most = limits
            .windowsize
            .min(window_bytes.unwrap_or(u16::MAX))
            .max(1);
        let windowsize = asked.windowsize.map(|wish| wish.clamp(1, most));
        Self {
            blksize: block,
            windowsize: windowsize.unwrap_or(1),
            oack: Options {
                blksize,
                tsize: asked.tsize.map(|_| size),
                timeout: asked.timeout,
                windowsize,
            },
        }
    }

    /// Whether the first answer is an OACK.
    pub fn has_oack(&self) -> bool {
        !self.oack.is_empty()
    }

    /// How many blocks `size` bytes take: the last is shorter than the others and may be empty
    /// (RFC 1350 section 6).
    pub fn blocks(&self, size: u64) -> u64 {
        size / u64::from(self.blksize.max(1)) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        blksize: 1468,
        windowsize: 64,
        window_bytes: 65536,
    };

    #[test]
    fn only_what_was_asked_is_answered() {
        let terms = Terms::agree(&Options::default(), 1000, &LIMITS);
        assert_eq!((terms.blksize, terms.windowsize), (512, 1));
        assert!(!terms.has_oack());

        let asked = Options {
            tsize: Some(0),
            ..Options::default()
        };
        let terms = Terms::agree(&asked, 1000, &LIMITS);
        assert_eq!(
            terms.oack,
            Options {
                tsize: Some(1000),
                ..Options::default()
            }
        );
    }

    #[test]
    fn wishes_are_cut_to_the_limits() {
        let asked = Options {
            blksize: Some(65464),
            windowsize: Some(65535),
            timeout: Some(9),
            tsize: None,
        };
        let terms = Terms::agree(&asked, 0, &LIMITS);
        assert_eq!((terms.blksize, terms.windowsize), (1468, 44));
        assert_eq!(terms.oack.timeout, Some(9));
        assert_eq!(terms.oack.blksize, Some(1468));
        assert_eq!(terms.oack.windowsize, Some(44));

        let jumbo = Limits {
            blksize: MAX_BLKSIZE,
            windowsize: 64,
            window_bytes: 1000,
        };
        assert_eq!(Terms::agree(&asked, 0, &jumbo).windowsize, 1);
    }

    #[test]
    fn a_block_fits_the_mtu() {
        assert_eq!(Limits::blksize_for_mtu(1500), 1468);
        assert_eq!(Limits::blksize_for_mtu(65536), MAX_BLKSIZE);
        assert_eq!(Limits::blksize_for_mtu(u32::MAX), MAX_BLKSIZE);
        assert_eq!(Limits::blksize_for_mtu(0), MIN_BLKSIZE);
    }

    #[test]
    fn a_full_last_block_is_followed_by_an_empty_one() {
        let terms = Terms::agree(&Options::default(), 0, &LIMITS);
        assert_eq!(terms.blocks(0), 1);
        assert_eq!(terms.blocks(511), 1);
        assert_eq!(terms.blocks(512), 2);
        assert_eq!(terms.blocks(513), 2);
    }
}
