//! The keys by which manifests are signed (Ed25519, RFC 8032).
//!
//! There is one secret key at a time, in a file of the state directory that its owner alone can
//! read. It is made at the first start. [`rotate`](ServerKeys::rotate) makes another; the old one
//! signs it and is forgotten, so that agents that were started with the old key follow the change
//! ([`SUCCESSION_HEADER`](bugler_protocol::agent::SUCCESSION_HEADER)) and go on.

use bugler_protocol::manifest::ChunkHash;
use bugler_protocol::signature::{
    KeyChange, MAX_KEY_CHANGES, ManifestSignature, PublicKey, Signature, Succession, key_message,
    manifest_message,
};
use ed25519_dalek::{Signer, SigningKey};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Name of the file in the state directory.
const FILE: &str = "signing-key";

const FIRST_LINE: &str = "# The secret key by which Bugler signs images. Keep it to yourself.";

/// What went wrong with the file of keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operating system refused.
    #[error("could not {doing} {}; images are not served without the key", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// Others can read the secret key.
    #[error(
        "{} can be read by others (mode {mode:03o}): `chmod 600` it, and `bugler key rotate` once \
         the server runs if somebody may have read it", path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file cannot be understood.
    #[error(
        "{} is damaged ({detail}): put it back from a backup, or move it away for a new key; \
         machines that are running agents then have to boot again", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// There is no randomness.
    #[error("could not get random bytes for a key: {0}")]
    Random(getrandom::Error),
}

/// The server's keys.
pub struct ServerKeys {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Clone)]
struct State {
    secret: SigningKey,
    changes: Vec<KeyChange>,
}

impl ServerKeys {
    /// Reads the keys of this state directory; makes the first one where there is none.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(state_dir: &Path) -> Result<Self, KeyError> {
        let path = state_dir.join(FILE);
        let state = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let state = State {
                    secret: new_key()?,
                    changes: Vec::new(),
                };
                write(&path, &state)?;
                state
            }
            read => {
                let text = read.map_err(io_error("read", &path))?;
                let meta = fs::metadata(&path).map_err(io_error("look at", &path))?;
                let mode = meta.mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(KeyError::Open { path, mode });
                }
                parse(&text).map_err(|detail| KeyError::Damaged {
                    path: path.clone(),
                    detail,
                })?
            }
        };
        Ok(Self {
            path,
            state: RwLock::new(state),
        })
    }

    /// The public key, which goes onto the kernel command line of agents.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        public(&self.read().secret)
    }

    /// The changes of keys so far, oldest first: the last [`MAX_KEY_CHANGES`] of them.
    #[must_use]
    pub fn changes(&self) -> Vec<KeyChange> {
        self.read().changes.clone()
    }

    /// The values of both headers for a manifest; of the second where there were changes.
    #[must_use]
    pub fn sign(&self, manifest: &ChunkHash) -> (String, Option<String>) {
        let state = self.read();
        let signature = ManifestSignature {
            key: public(&state.secret),
            signature: sign(&state.secret, &manifest_message(manifest)),
        };
        let succession =
            (!state.changes.is_empty()).then(|| Succession(state.changes.clone()).to_string());
        (signature.to_string(), succession)
    }

    /// Makes another key, which the present one signs and which takes its place. Gives the new
    /// public key, once it is on disk. Agents that were started with a key more than
    /// [`MAX_KEY_CHANGES`] changes ago have to boot again.
    ///
    /// # Errors
    /// [`KeyError`]; the present key stays in use then.
    pub fn rotate(&self) -> Result<PublicKey, KeyError> {
        let secret = new_key()?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let new = public(&secret);
        let mut changes = state.changes.clone();
        changes.push(KeyChange {
            old: public(&state.secret),
            new,
            signature: sign(&state.secret, &key_message(&new)),
        });
        let extra = changes.len().saturating_sub(MAX_KEY_CHANGES);
        changes.drain(..extra);
        let next = State { secret, changes };
        write(&self.path, &next)?;
        *state = next;
        Ok(new)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // Replaced whole: a panic elsewhere leaves it whole.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerKeys")
            .field("public", &self.public())
            .finish_non_exhaustive()
    }
}

fn new_key() -> Result<SigningKey, KeyError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(KeyError::Random)?;
    Ok(SigningKey::from_bytes(&seed))
}

fn public(secret: &SigningKey) -> PublicKey {
    PublicKey(secret.verifying_key().to_bytes())
}

fn sign(secret: &SigningKey, message: &[u8]) -> Signature {
    Signature(secret.sign(message).to_bytes())
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_path_buf();
    move |source| KeyError::Io {
        doing,
        path,
        source,
    }
}

/// The secret key on a line of its own, then the changes.
fn parse(text: &str) -> Result<State, String> {
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err("its first line is another".into());
    }
    // The secret has the form of a public key: 32 bytes in hex.
    let secret: PublicKey = lines
        .next()
        .ok_or("it has no key")?
        .parse()
        .map_err(|_| "its second line is no key")?;
    let secret = SigningKey::from_bytes(&secret.0);
    let changes: Vec<KeyChange> = lines
        .map(|line| line.parse().map_err(|error| format!("{error}")))
        .collect::<Result<_, _>>()?;
    if changes
        .last()
        .is_some_and(|last| last.new != public(&secret))
    {
        return Err("its last change of keys leads to another key".into());
    }
    Ok(State { secret, changes })
}

/// Puts the file in place whole, or leaves what was there.
fn write(path: &Path, state: &State) -> Result<(), KeyError> {
    let mut text = format!("{FIRST_LINE}\n{}\n", PublicKey(state.secret.to_bytes()));
    for change in &state.changes {
        text += &format!("{change}\n");
    }
    let new = path.with_extension("new");
    // Left by a write that was cut off; the state directory has one user.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", &new)(error));
        }
        _ => {}
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    written.map_err(io_error("write", &new))?;
    fs::rename(&new, path).map_err(io_error("put the key in place as", path))?;
    let dir = path.parent().unwrap_or(path);
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(io_error("make durable", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = ServerKeys::open(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = ServerKeys::open(dir.path()).unwrap();
        assert_eq!(first.public(), again.public());
        let manifest = ChunkHash([1; 32]);
        assert_eq!(first.sign(&manifest), again.sign(&manifest));
        assert_eq!(first.sign(&manifest).1, None);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = ServerKeys::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("mode 640") && error.contains("chmod 600"),
            "{error}"
        );
        let other = tempfile::tempdir().unwrap();
        assert_ne!(
            ServerKeys::open(other.path()).unwrap().public(),
            first.public()
        );
    }

    #[test]
    fn changes_lead_from_each_key_to_the_next_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let keys = ServerKeys::open(dir.path()).unwrap();
        let mut seen = vec![keys.public()];
        for _ in 0..MAX_KEY_CHANGES + 3 {
            seen.push(keys.rotate().unwrap());
        }
        let again = ServerKeys::open(dir.path()).unwrap();
        let changes = again.changes();
        assert_eq!(changes, keys.changes());
        assert_eq!(changes.len(), MAX_KEY_CHANGES);
        for (change, pair) in changes.iter().rev().zip(seen.windows(2).rev()) {
            assert_eq!([change.old, change.new], *pair);
            let old = ed25519_dalek::VerifyingKey::from_bytes(&change.old.0).unwrap();
            let signature = ed25519_dalek::Signature::from_bytes(&change.signature.0);
            old.verify_strict(&key_message(&change.new), &signature)
                .unwrap();
        }
        let (_, succession) = again.sign(&ChunkHash([1; 32]));
        assert_eq!(succession.unwrap().parse(), Ok(Succession(changes)));
    }

    #[test]
    fn a_damaged_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let keys = ServerKeys::open(dir.path()).unwrap();
        keys.rotate().unwrap();
        let path = dir.path().join(FILE);
        let good = fs::read_to_string(&path).unwrap();
        let swapped = good.replacen(&keys.public().to_string(), &"ab".repeat(32), 1);
        for bad in ["", "x", &good[..100], &good[..good.len() - 5], &swapped] {
            fs::write(&path, bad).unwrap();
            let error = ServerKeys::open(dir.path()).unwrap_err();
            assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
        // What a write that was cut off has left is in nobody's way.
        fs::write(&path, &good).unwrap();
        fs::write(path.with_extension("new"), "half").unwrap();
        ServerKeys::open(dir.path()).unwrap().rotate().unwrap();
        assert!(!path.with_extension("new").exists());
    }
}
