//! Signatures of manifests: what is signed, and how it stands in headers.
//!
//! This crate has no cryptography: the server signs, the agent verifies, both by RFC 8032
//! (Ed25519). Here are the bytes that they agree on, and the texts of
//! [`SIGNATURE_HEADER`](crate::agent::SIGNATURE_HEADER) and
//! [`SUCCESSION_HEADER`](crate::agent::SUCCESSION_HEADER).

use crate::agent::{SIGNED_PREFIX, SUCCESSION_PREFIX};
use crate::manifest::ChunkHash;
use std::fmt;
use std::str::FromStr;

/// Most changes of keys in one [`Succession`].
pub const MAX_KEY_CHANGES: usize = 32;

/// A server's public key: 32 bytes, 64 lower-case hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A signature: 64 bytes, 128 lower-case hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

/// The value of [`SIGNATURE_HEADER`](crate::agent::SIGNATURE_HEADER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestSignature {
    /// Whose signature it is.
    pub key: PublicKey,
    /// Over [`manifest_message`].
    pub signature: Signature,
}

/// One change of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The key that was in use before.
    pub old: PublicKey,
    /// The key that took its place.
    pub new: PublicKey,
    /// The old key's signature over [`key_message`] of the new one.
    pub signature: Signature,
}

/// The value of [`SUCCESSION_HEADER`](crate::agent::SUCCESSION_HEADER): changes of keys, oldest
/// first, at most [`MAX_KEY_CHANGES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Succession(pub Vec<KeyChange>);

/// Why a text is not a key, a signature or a list of changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureTextError {
    /// Something that should be hex digits.
    #[error("{what} should be {expected} lower-case hex digits; this has {found} characters")]
    Hex {
        /// What it should be.
        what: &'static str,
        /// How many digits.
        expected: usize,
        /// How many characters there are.
        found: usize,
    },
    /// The wrong number of parts.
    #[error("it should be {expected}, with colons between")]
    Parts {
        /// The parts.
        expected: &'static str,
    },
    /// Too many changes.
    #[error("it lists more than {MAX_KEY_CHANGES} changes of keys")]
    TooLong,
}

/// What a manifest's signature is over.
#[must_use]
pub fn manifest_message(manifest: &ChunkHash) -> Vec<u8> {
    [SIGNED_PREFIX, &manifest.0].concat()
}

/// What a new key's signature by the old one is over.
#[must_use]
pub fn key_message(new: &PublicKey) -> Vec<u8> {
    [SUCCESSION_PREFIX, &new.0].concat()
}

fn hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], SignatureTextError> {
    let wrong = || SignatureTextError::Hex {
        what,
        expected: 2 * N,
        found: text.chars().count(),
    };
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return Err(wrong());
    }
    let mut bytes = [0; N];
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(high).ok_or_else(wrong)? << 4 | digit(low).ok_or_else(wrong)?;
    }
    Ok(bytes)
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

impl FromStr for PublicKey {
    type Err = SignatureTextError;
    fn from_str(text: &str) -> Result<Self, SignatureTextError> {
        hex("a public key", text).map(Self)
    }
}

impl FromStr for Signature {
    type Err = SignatureTextError;
    fn from_str(text: &str) -> Result<Self, SignatureTextError> {
        hex("a signature", text).map(Self)
    }
}

impl FromStr for ManifestSignature {
    type Err = SignatureTextError;
    fn from_str(text: &str) -> Result<Self, SignatureTextError> {
        let (key, signature) = text.split_once(':').ok_or(SignatureTextError::Parts {
            expected: "a public key and a signature",
        })?;
        Ok(Self {
            key: key.parse()?,
            signature: signature.parse()?,
        })
    }
}

impl FromStr for KeyChange {
    type Err = SignatureTextError;
    fn from_str(text: &str) -> Result<Self, SignatureTextError> {
        let mut parts = text.split(':');
        let (Some(old), Some(new), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SignatureTextError::Parts {
                expected: "an old key, a new key and a signature",
            });
        };
        Ok(Self {
            old: old.parse()?,
            new: new.parse()?,
            signature: signature.parse()?,
        })
    }
}

impl FromStr for Succession {
    type Err = SignatureTextError;
    fn from_str(text: &str) -> Result<Self, SignatureTextError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        // One more than is allowed is enough to know.
        let parts: Vec<_> = text.split(',').take(MAX_KEY_CHANGES + 1).collect();
        if parts.len() > MAX_KEY_CHANGES {
            return Err(SignatureTextError::TooLong);
        }
        let changes = parts.into_iter().map(|part| part.trim().parse());
        changes.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl fmt::Display for ManifestSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key, self.signature)
    }
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.old, self.new, self.signature)
    }
}

impl fmt::Display for Succession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (change, position) in self.0.iter().zip(0..) {
            let comma = if position > 0 { "," } else { "" };
            write!(f, "{comma}{change}")?;
        }
        Ok(())
    }
}

/// Reads any bytes as both headers, and checks that what was read is written as it was. For fuzzing.
///
/// # Panics
/// Where it is not.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(read) = text.parse::<ManifestSignature>() {
        assert_eq!(read.to_string(), text);
    }
    if let Ok(read) = text.parse::<Succession>() {
        assert!(read.0.len() <= MAX_KEY_CHANGES);
        assert_eq!(read.to_string().parse(), Ok(read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_texts_are_frozen() {
        let (key, signature) = (PublicKey([0xab; 32]), Signature([0x01; 64]));
        let text = format!("{}:{}", "ab".repeat(32), "01".repeat(64));
        assert_eq!(ManifestSignature { key, signature }.to_string(), text);
        let change = KeyChange {
            old: key,
            new: PublicKey([2; 32]),
            signature,
        };
        let text = format!(
            "{}:{}:{}",
            "ab".repeat(32),
            "02".repeat(32),
            "01".repeat(64)
        );
        assert_eq!(
            Succession(vec![change, change]).to_string(),
            format!("{text},{text}")
        );
        assert_eq!(
            manifest_message(&ChunkHash([7; 32])),
            [&b"bugler manifest 1\n"[..], &[7; 32]].concat()
        );
        assert_eq!(
            key_message(&key),
            [&b"bugler key 1\n"[..], &[0xab; 32]].concat()
        );
    }

    #[test]
    fn wrong_texts_say_what_is_wrong() {
        let (key, signature) = ("ab".repeat(32), "01".repeat(64));
        for (text, expected) in [
            (String::new(), "a public key and a signature"),
            (key.clone(), "a public key and a signature"),
            (
                format!("{}:{signature}", key.to_uppercase()),
                "64 lower-case hex digits",
            ),
            (format!("{key}0:{signature}"), "this has 65 characters"),
            (format!("{key}:{signature}:x"), "a signature should be 128"),
        ] {
            let error = text.parse::<ManifestSignature>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let change = format!("{key}:{key}:{signature}");
        let list = |n: usize| vec![change.clone(); n].join(",");
        assert_eq!("".parse(), Ok(Succession::default()));
        assert_eq!(list(32).parse::<Succession>().map(|s| s.0.len()), Ok(32));
        assert_eq!(
            list(33).parse::<Succession>(),
            Err(SignatureTextError::TooLong)
        );
        assert!(format!("{change},").parse::<Succession>().is_err());
        assert!(format!("{change}:1").parse::<Succession>().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            fuzz(&bytes);
        }

        #[test]
        fn near_texts_are_read_or_refused(text in "([0-9a-f]{62,65}[:,]){0,3}[0-9a-fG]{0,130}") {
            fuzz(text.as_bytes());
        }

        #[test]
        fn what_is_written_is_read(keys in prop::collection::vec(any::<([u8; 32], [u8; 32], [u8; 32])>(), 0..5)) {
            let changes = keys.into_iter().map(|(old, new, half)| KeyChange {
                old: PublicKey(old),
                new: PublicKey(new),
                signature: Signature([half, half].concat().try_into().unwrap()),
            });
            let succession = Succession(changes.collect());
            prop_assert_eq!(succession.to_string().parse(), Ok(succession.clone()));
        }
    }
}
