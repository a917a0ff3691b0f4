//! Whether a manifest is one that this machine's server has signed.
//!
//! The key stands on the kernel command line (`bugler.key=`), so it comes from where the agent
//! itself came from. What is checked against it is where the image comes from: a store that was
//! tampered with, or something between, does not have the key. An agent that was started without a
//! key (by hand, or by an older server) checks nothing, and says so: a key that came with the
//! manifest would prove nothing.

use bugler_protocol::agent::{CMDLINE_KEY, SIGNATURE_HEADER, SUCCESSION_HEADER};
use bugler_protocol::manifest::ChunkHash;
use bugler_protocol::signature::{
    KeyChange, ManifestSignature, PublicKey, Signature, SignatureTextError, Succession,
    key_message, manifest_message,
};
use ed25519_dalek::VerifyingKey;

/// A manifest as it came, with what stood in its headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedManifest {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// [`SIGNATURE_HEADER`].
    pub signature: Option<String>,
    /// [`SUCCESSION_HEADER`].
    pub succession: Option<String>,
}

/// Why a manifest is not taken. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error(
        "the server sent manifest {manifest} without a signature; this machine was started with \
         the key {expected} and takes only what is signed by it. Something between changes \
         answers, or the server is older than the one that started this machine: boot it again"
    )]
    Missing {
        /// Which manifest.
        manifest: ChunkHash,
        /// The key that this machine was started with.
        expected: PublicKey,
    },
    /// A header cannot be read.
    #[error("the {header} of manifest {manifest} cannot be read; deploy again")]
    Text {
        /// Which header.
        header: &'static str,
        /// Which manifest.
        manifest: ChunkHash,
        /// What is wrong with it.
        #[source]
        source: SignatureTextError,
    },
    /// Signed by a key that nothing leads to.
    #[error(
        "manifest {manifest} is signed by the key {found}; this machine was started with \
         {expected}, and the changes of keys that the server tells ({why}) do not lead from the \
         one to the other. If that server is the right one, boot this machine again by it: \
         `bugler key show` there tells its key"
    )]
    OtherKey {
        /// Which manifest.
        manifest: ChunkHash,
        /// The key that this machine was started with.
        expected: PublicKey,
        /// The key that has signed.
        found: PublicKey,
        /// Where the changes of keys end.
        why: String,
    },
    /// The signature is not one of this manifest by that key.
    #[error(
        "the signature of manifest {manifest} is not one by the key {key}: the image's manifest \
         was changed, or the signature was; check the image with `bugler image verify`"
    )]
    Wrong {
        /// Which manifest.
        manifest: ChunkHash,
        /// The key that should have signed.
        key: PublicKey,
    },
}

/// Checks that `manifest` was signed by the key `expected`, or by one that took its place. Gives the
/// key that has signed, where that is another.
///
/// # Errors
/// [`SignatureError`].
pub fn check(
    expected: PublicKey,
    manifest: ChunkHash,
    signed: &SignedManifest,
) -> Result<Option<PublicKey>, SignatureError> {
    let Some(text) = &signed.signature else {
        return Err(SignatureError::Missing { manifest, expected });
    };
    let unreadable = |header| {
        move |source| SignatureError::Text {
            header,
            manifest,
            source,
        }
    };
    let ManifestSignature { key, signature } =
        text.parse().map_err(unreadable(SIGNATURE_HEADER))?;
    if key != expected {
        let text = signed.succession.as_deref().unwrap_or_default();
        let succession: Succession = text.parse().map_err(unreadable(SUCCESSION_HEADER))?;
        follow(expected, key, &succession).map_err(|why| SignatureError::OtherKey {
            manifest,
            expected,
            found: key,
            why,
        })?;
    }
    if !is_by(&key, &manifest_message(&manifest), &signature) {
        return Err(SignatureError::Wrong { manifest, key });
    }
    Ok((key != expected).then_some(key))
}

/// What to log where nothing can be checked.
#[must_use]
pub fn unchecked_line() -> String {
    format!(
        "the signature of the image's manifest is not checked: this agent was started without \
         {CMDLINE_KEY}="
    )
}

/// Follows the changes from one key to the other. Changes before the one that begins at `from`
/// happened before this machine was started.
fn follow(from: PublicKey, to: PublicKey, succession: &Succession) -> Result<(), String> {
    let mut changes = succession.0.iter().skip_while(|change| change.old != from);
    let mut current = from;
    while current != to {
        let Some(KeyChange {
            old,
            new,
            signature,
        }) = changes.next()
        else {
            let count = succession.0.len();
            return Err(format!("{count} of them, which end at {current}"));
        };
        if *old != current {
            return Err(format!("one is from {old}, where {current} was in use"));
        }
        if !is_by(old, &key_message(new), signature) {
            return Err(format!("{old} has not signed {new}"));
        }
        current = *new;
    }
    Ok(())
}

/// Whether this is a signature by that key. Strict: a key of small order signs nothing, and a
/// signature has one form (RFC 8032, 5.1.7).
fn is_by(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    VerifyingKey::from_bytes(&key.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn public(key: &SigningKey) -> PublicKey {
        PublicKey(key.verifying_key().to_bytes())
    }

    fn sign(key: &SigningKey, message: &[u8]) -> Signature {
        Signature(key.sign(message).to_bytes())
    }

    fn change(old: &SigningKey, new: &SigningKey) -> KeyChange {
        KeyChange {
            old: public(old),
            new: public(new),
            signature: sign(old, &key_message(&public(new))),
        }
    }

    fn signed(by: &SigningKey, manifest: ChunkHash, changes: Vec<KeyChange>) -> SignedManifest {
        let signature = ManifestSignature {
            key: public(by),
            signature: sign(by, &manifest_message(&manifest)),
        };
        SignedManifest {
            bytes: Vec::new(),
            signature: Some(signature.to_string()),
            succession: (!changes.is_empty()).then(|| Succession(changes).to_string()),
        }
    }

    const MANIFEST: ChunkHash = ChunkHash([9; 32]);

    #[test]
    fn its_own_key_and_those_that_took_its_place_are_taken() {
        let keys: Vec<_> = (1..=4).map(key).collect();
        let all: Vec<_> = keys
            .windows(2)
            .map(|pair| change(&pair[0], &pair[1]))
            .collect();
        let own = signed(&keys[0], MANIFEST, vec![]);
        assert_eq!(check(public(&keys[0]), MANIFEST, &own), Ok(None));
        for (started_with, expected) in [(0, Some(3)), (1, Some(3)), (2, Some(3)), (3, None)] {
            let now = signed(&keys[3], MANIFEST, all.clone());
            let found = check(public(&keys[started_with]), MANIFEST, &now);
            let expected = expected.map(|at: usize| public(&keys[at]));
            assert_eq!(found, Ok(expected), "{started_with}");
        }
        // An image signed before the latest change, by a server that tells all changes.
        let earlier = signed(&keys[1], MANIFEST, all);
        assert_eq!(
            check(public(&keys[0]), MANIFEST, &earlier),
            Ok(Some(public(&keys[1])))
        );
    }

    #[test]
    fn everything_else_is_refused_with_what_was_found() {
        let (mine, other, third) = (key(1), key(2), key(3));
        let expected = public(&mine);
        let text = |signed: &SignedManifest| {
            let error = check(expected, MANIFEST, signed).unwrap_err();
            error.to_string()
        };
        assert!(text(&SignedManifest::default()).contains("without a signature"));

        let wrong_key = text(&signed(&other, MANIFEST, vec![]));
        assert!(
            wrong_key.contains(&public(&other).to_string()),
            "{wrong_key}"
        );
        assert!(wrong_key.contains(&expected.to_string()), "{wrong_key}");
        assert!(wrong_key.contains("bugler key show"), "{wrong_key}");

        let altered = signed(&mine, ChunkHash([8; 32]), vec![]);
        assert!(text(&altered).contains("was changed"), "{}", text(&altered));

        // Claims to be by the expected key.
        let forged = ManifestSignature {
            key: expected,
            signature: sign(&other, &manifest_message(&MANIFEST)),
        };
        let forged = SignedManifest {
            signature: Some(forged.to_string()),
            ..SignedManifest::default()
        };
        assert!(text(&forged).contains("not one by the key"));

        let garbled = SignedManifest {
            signature: Some("ab:cd".into()),
            ..SignedManifest::default()
        };
        assert!(text(&garbled).contains("bugler-signature"));

        // A change that the old key has not signed.
        let mut usurped = change(&mine, &other);
        usurped.signature = sign(&other, &key_message(&public(&other)));
        let usurped = text(&signed(&other, MANIFEST, vec![usurped]));
        assert!(usurped.contains("has not signed"), "{usurped}");

        // A link is missing, or they are in the wrong order.
        let broken = vec![change(&other, &third)];
        assert!(text(&signed(&third, MANIFEST, broken)).contains("1 of them, which end at"));
        let gap = vec![change(&mine, &other), change(&key(4), &third)];
        assert!(text(&signed(&third, MANIFEST, gap)).contains("where"));
        let backwards = vec![change(&other, &third), change(&mine, &other)];
        assert!(text(&signed(&third, MANIFEST, backwards)).contains("which end at"));

        let mut long = signed(&other, MANIFEST, vec![]);
        let one = change(&mine, &other).to_string();
        long.succession = Some(vec![one; 33].join(","));
        assert!(text(&long).contains("bugler-key-succession"));
    }

    proptest! {
        /// A bit that is flipped anywhere makes the manifest one to refuse.
        #[test]
        fn one_changed_bit_is_enough(at in 0usize..64 + 32, bit in 0u32..8) {
            let (first, second) = (key(1), key(2));
            let good = signed(&second, MANIFEST, vec![change(&first, &second)]);
            prop_assert!(check(public(&first), MANIFEST, &good).is_ok());
            let mut signature: ManifestSignature =
                good.signature.as_deref().unwrap().parse().unwrap();
            match at.checked_sub(64) {
                None => signature.signature.0[at] ^= 1 << bit,
                Some(at) => signature.key.0[at] ^= 1 << bit,
            }
            let bad = SignedManifest { signature: Some(signature.to_string()), ..good.clone() };
            prop_assert!(check(public(&first), MANIFEST, &bad).is_err());
            let mut manifest = MANIFEST;
            manifest.0[at % 32] ^= 1 << bit;
            prop_assert!(check(public(&first), manifest, &good).is_err());
        }

        #[test]
        fn any_headers_are_refused_without_a_panic(signature in ".{0,200}", succession in ".{0,300}") {
            let signed = SignedManifest {
                bytes: Vec::new(),
                signature: Some(signature),
                succession: Some(succession),
            };
            prop_assert!(check(public(&key(1)), MANIFEST, &signed).is_err());
        }
    }
}
