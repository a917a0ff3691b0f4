//! Cipher suites 3 and 17 of IPMI 2.0 (sections 13.28 to 13.33) and the authentication codes of IPMI
//! 1.5 (section 22.17.1).

use crate::ipmi::packet::{Algorithms, AuthType, Datagram, PayloadType, Random, V20, trailer};
use aes::Aes128;
use aes::cipher::{Array, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of RMCP before the wrapper: they are not authenticated.
const RMCP_HEADER: usize = 4;
/// The block of AES, in bytes.
const BLOCK: usize = 16;

/// A cipher suite that authenticates, protects and encrypts (table 22-20).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suite {
    /// HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128. Every IPMI 2.0 BMC must have it.
    Three,
    /// HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
    Seventeen,
}

impl Suite {
    /// Every one, the better first.
    pub const ALL: [Self; 2] = [Self::Seventeen, Self::Three];

    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Seventeen => 17,
        }
    }

    /// The suite of a number, where it is one of these.
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.number() == number)
    }

    /// What it is made of (tables 13-17 to 13-19).
    pub fn algorithms(self) -> Algorithms {
        match self {
            Self::Three => Algorithms([1, 1, 1]),
            Self::Seventeen => Algorithms([3, 4, 1]),
        }
    }

    /// How long the authentication code of a packet and the integrity check value of RAKP 4 are, in
    /// bytes.
    fn code_length(self) -> usize {
        match self {
            Self::Three => 12,
            Self::Seventeen => 16,
        }
    }

    fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        fn of<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
            let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
            for part in parts {
                mac.update(part);
            }
            Zeroizing::new(mac.finalize().into_bytes().to_vec())
        }
        match self {
            Self::Three => of::<Hmac<Sha1>>(key, parts),
            Self::Seventeen => of::<Hmac<Sha256>>(key, parts),
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// What both sides know when the keys are made (section 13.20 on).
#[derive(Debug, Clone)]
pub struct Handshake<'a> {
    /// The suite that was agreed on.
    pub suite: Suite,
    /// The console's number for the session.
    pub console: u32,
    /// The BMC's.
    pub bmc: u32,
    /// The console's random number.
    pub console_random: Random,
    /// The BMC's.
    pub bmc_random: Random,
    /// The BMC's GUID.
    pub guid: Random,
    /// The role byte of RAKP 1, all of it.
    pub role: u8,
    /// The user's name.
    pub user: &'a [u8],
}

impl Handshake<'_> {
    fn named(&self) -> [u8; 2] {
        [self.role, self.user.len() as u8]
    }

    /// The BMC's proof that it knows the password (section 13.21).
    pub fn bmc_proof(&self, password: &[u8]) -> Zeroizing<Vec<u8>> {
        self.suite.hmac(
            password,
            &[
                &self.console.to_le_bytes(),
                &self.bmc.to_le_bytes(),
                &self.console_random,
                &self.bmc_random,
                &self.guid,
                &self.named(),
                self.user,
            ],
        )
    }

    /// The console's proof (section 13.22).
    pub fn console_proof(&self, password: &[u8]) -> Zeroizing<Vec<u8>> {
        self.suite.hmac(
            password,
            &[
                &self.bmc_random,
                &self.console.to_le_bytes(),
                &self.named(),
                self.user,
            ],
        )
    }

    /// The session's integrity key. `key` is the group key, or the password where there is none
    /// (section 13.31).
    pub fn integrity_key(&self, key: &[u8]) -> Zeroizing<Vec<u8>> {
        self.suite.hmac(
            key,
            &[
                &self.console_random,
                &self.bmc_random,
                &self.named(),
                self.user,
            ],
        )
    }

    /// The BMC's proof that it has the same integrity key (section 13.23).
    pub fn check_value(&self, integrity_key: &[u8]) -> Vec<u8> {
        let code = self.suite.hmac(
            integrity_key,
            &[&self.console_random, &self.bmc.to_le_bytes(), &self.guid],
        );
        code[..self.suite.code_length()].to_vec()
    }
}

/// Whether two codes are the same, in a time that does not tell where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// The keys of a session's packets.
pub struct Keys {
    suite: Suite,
    integrity: Zeroizing<Vec<u8>>,
    encryption: Zeroizing<[u8; BLOCK]>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys(suite {}, ..)", self.suite)
    }
}

impl Keys {
    /// Out of the integrity key (section 13.32): K1 signs, the first 16 bytes of K2 encrypt.
    pub fn new(suite: Suite, integrity_key: &[u8]) -> Self {
        let constant = |byte: u8| suite.hmac(integrity_key, &[&[byte; 20]]);
        let mut encryption = Zeroizing::new([0; BLOCK]);
        encryption.copy_from_slice(&constant(2)[..BLOCK]);
        Self {
            suite,
            integrity: constant(1),
            encryption,
        }
    }

    /// A whole datagram, encrypted and signed. `iv` must be another one each time.
    pub fn wrap(
        &self,
        kind: PayloadType,
        session: u32,
        sequence: u32,
        data: &[u8],
        iv: [u8; BLOCK],
    ) -> Vec<u8> {
        let payload = self.encrypt(data, iv);
        let mut datagram = Datagram::V20(V20 {
            kind,
            encrypted: true,
            authenticated: true,
            session,
            sequence,
            payload: &payload,
            trailer: &trailer(payload.len()),
        })
        .to_bytes();
        let code = self.sign(&datagram[RMCP_HEADER..]);
        datagram.extend_from_slice(&code);
        datagram
    }

    /// The payload of a packet, in clear; None unless it is encrypted and signed with these keys.
    /// `datagram` is what `packet` was decoded from.
    pub fn unwrap(&self, datagram: &[u8], packet: &V20<'_>) -> Option<Vec<u8>> {
        if !packet.authenticated || !packet.encrypted {
            return None;
        }
        let split = datagram.len().checked_sub(self.suite.code_length())?;
        // What is not at least a padding length and a next header is no trailer.
        if packet.trailer.len() < self.suite.code_length() + 2 {
            return None;
        }
        let (signed, code) = datagram.split_at(split);
        same(&self.sign(signed.get(RMCP_HEADER..)?), code)
            .then(|| self.decrypt(packet.payload))
            .flatten()
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.suite.hmac(&self.integrity, &[bytes])[..self.suite.code_length()].to_vec()
    }

    /// AES-CBC-128 with the padding of table 13-20: 1, 2, 3, ..., and their number.
    fn encrypt(&self, data: &[u8], iv: [u8; BLOCK]) -> Vec<u8> {
        let padding = (BLOCK - (data.len() + 1) % BLOCK) % BLOCK;
        let mut out = Vec::with_capacity(2 * BLOCK + data.len() + padding);
        out.extend_from_slice(&iv);
        out.extend_from_slice(data);
        out.extend(1..=padding as u8);
        out.push(padding as u8);
        let mut cipher =
            cbc::Encryptor::<Aes128>::new(&Array::from(*self.encryption), &Array::from(iv));
        for block in out[BLOCK..].chunks_exact_mut(BLOCK) {
            if let Ok(block) = <&mut Array<u8, _>>::try_from(block) {
                cipher.encrypt_block(block);
            }
        }
        out
    }

    fn decrypt(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let (iv, data) = payload.split_first_chunk::<BLOCK>()?;
        if data.is_empty() || data.len() % BLOCK != 0 {
            return None;
        }
        let mut out = data.to_vec();
        let mut cipher =
            cbc::Decryptor::<Aes128>::new(&Array::from(*self.encryption), &Array::from(*iv));
        for block in out.chunks_exact_mut(BLOCK) {
            if let Ok(block) = <&mut Array<u8, _>>::try_from(block) {
                cipher.decrypt_block(block);
            }
        }
        // Only the number counts: the bytes of the padding are not the same on every BMC.
        let padding = usize::from(*out.last()?);
        let keep = out.len().checked_sub(padding + 1)?;
        out.truncate(keep);
        Some(out)
    }
}

/// The authentication code of an IPMI 1.5 packet, with a password of at most 16 bytes (section
/// 22.17.1). None for the types that are not spoken.
pub fn v15_code(
    auth: AuthType,
    password: &[u8],
    session: u32,
    sequence: u32,
    message: &[u8],
) -> Option<[u8; 16]> {
    let mut padded = Zeroizing::new([0; 16]);
    let length = password.len().min(padded.len());
    padded[..length].copy_from_slice(&password[..length]);
    match auth {
        AuthType::Md5 => {
            let mut md5 = md5::Md5::new();
            md5.update(*padded);
            md5.update(session.to_le_bytes());
            md5.update(message);
            md5.update(sequence.to_le_bytes());
            md5.update(*padded);
            Some(md5.finalize().into())
        }
        AuthType::Password => Some(*padded),
        AuthType::None | AuthType::Md2 | AuthType::Oem => None,
    }
}

/// Numbers that nobody can foretell, out of a seed that nobody knows: SHA-256 over the seed and a
/// count. A machine has one, so that it needs no source of chance of its own.
pub struct Nonces {
    seed: Zeroizing<[u8; 32]>,
    count: u64,
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonces(..)")
    }
}

impl Nonces {
    /// From a seed, which must be used for nothing else.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            seed: Zeroizing::new(seed),
            count: 0,
        }
    }

    /// The next 16 bytes.
    pub fn bytes(&mut self) -> Random {
        let mut hash = Sha256::new();
        hash.update(*self.seed);
        hash.update(self.count.to_le_bytes());
        self.count = self.count.wrapping_add(1);
        let mut out = [0; 16];
        out.copy_from_slice(&hash.finalize()[..16]);
        out
    }

    /// The next number that is not 0.
    pub fn number(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.bytes();
        u32::from_le_bytes([a, b, c, d]).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(suite: Suite) -> Keys {
        Keys::new(suite, &[7; 20])
    }

    proptest! {
        #[test]
        fn what_is_wrapped_is_unwrapped(
            data in prop::collection::vec(any::<u8>(), 0..300),
            iv: [u8; 16],
            seventeen: bool,
            flip: prop::sample::Index,
            bit in 0..8u8,
        ) {
            let suite = if seventeen { Suite::Seventeen } else { Suite::Three };
            let mut bytes = keys(suite).wrap(PayloadType::Sol, 5, 9, &data, iv);
            {
                let Ok(Datagram::V20(packet)) = Datagram::decode(&bytes) else {
                    panic!("not read: {bytes:02x?}");
                };
                prop_assert_eq!((packet.session, packet.sequence), (5, 9));
                prop_assert_eq!((bytes.len() - 4 - suite.code_length()) % 4, 0);
                prop_assert_eq!(keys(suite).unwrap(&bytes, &packet), Some(data));
            }
            // One bit, anywhere behind the RMCP header.
            let place = 4 + flip.index(bytes.len() - 4);
            bytes[place] ^= 1 << bit;
            if let Ok(Datagram::V20(packet)) = Datagram::decode(&bytes) {
                prop_assert_eq!(keys(suite).unwrap(&bytes, &packet), None);
            }
        }

        #[test]
        fn any_payload_is_opened_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = keys(Suite::Three).decrypt(&bytes);
        }
    }

    #[test]
    fn the_padding_is_that_of_the_specification() {
        let keys = keys(Suite::Three);
        for length in 0..40 {
            let sealed = keys.encrypt(&vec![0xaa; length], [3; 16]);
            assert_eq!(sealed.len() % 16, 0, "{length}");
            assert_eq!(sealed.len(), 16 + (length + 1).div_ceil(16) * 16);
        }
    }

    #[test]
    fn nonces_differ() {
        let mut nonces = Nonces::new([0; 32]);
        let drawn: std::collections::HashSet<_> = (0..100).map(|_| nonces.bytes()).collect();
        assert_eq!(drawn.len(), 100);
    }
}
