//! Secrets at rest: encrypted in the registry, with a key in a file of its own.
//!
//! XChaCha20-Poly1305 (RFC 8439, with the longer nonce of draft-irtf-cfrg-xchacha), whose nonces may be
//! random. What a secret is for is authenticated with it: who can write the registry, and not read the
//! key, cannot have a password sent to a BMC of their own.

use bugler_model::PowerDriver;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Name of the file in the state directory.
const FILE: &str = "power-key";
const FIRST_LINE: &str = "# The key of the passwords in the registry. Keep it to yourself.";
/// Bytes of a nonce.
const NONCE: usize = 24;

/// What went wrong with the key of the secrets.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The operating system refused.
    #[error("could not {doing} {}, the key of the passwords of BMCs", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// Others can read the key.
    #[error(
        "{} can be read by others (mode {mode:03o}): `chmod 600` it, and change the passwords of the BMCs \
         if somebody may have read it", path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file cannot be understood.
    #[error(
        "{} is damaged: put it back from a backup, or move it away for a new key and give each device its \
         power driver again", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// There is no randomness.
    #[error("could not get random bytes: {0}")]
    Random(getrandom::Error),
    /// Something was not encrypted with this key, or not for this driver.
    #[error(
        "its secrets do not belong to this driver and the key in {}: give the device its power driver again \
         (`bugler device power`), or put the key back from a backup", path.display()
    )]
    Foreign {
        /// The file of the key.
        path: PathBuf,
    },
}

/// What a driver needs and nobody else may know.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// The password of an IPMI user.
    pub password: Option<Zeroizing<String>>,
    /// The group key of a BMC.
    pub group_key: Option<Zeroizing<String>>,
    /// The token of a webhook.
    pub token: Option<Zeroizing<String>>,
    /// The address of a webhook, where that has something secret in it.
    pub url: Option<Zeroizing<String>>,
}

/// The same as it is encrypted.
#[derive(Serialize, Deserialize)]
struct Written<'a> {
    password: Option<Cow<'a, str>>,
    group_key: Option<Cow<'a, str>>,
    token: Option<Cow<'a, str>>,
    url: Option<Cow<'a, str>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Secrets {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.password.is_none()
            && self.group_key.is_none()
            && self.token.is_none()
            && self.url.is_none()
    }
}

/// Encrypts and decrypts secrets.
pub(crate) struct Vault {
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// Reads the key of this state directory; makes it where there is none.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, VaultError> {
        let path = state_dir.join(FILE);
        let key = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path)?,
            read => {
                let text = Zeroizing::new(read.map_err(io_error("read", &path))?);
                let meta = fs::metadata(&path).map_err(io_error("look at", &path))?;
                let mode = meta.mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(VaultError::Open { path, mode });
                }
                let key = parse(&text);
                key.ok_or_else(|| VaultError::Damaged { path: path.clone() })?
            }
        };
        Ok(Self { path, key })
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.key).into())
    }

    /// Encrypts: the nonce, then what was encrypted. `None` where there is nothing to keep.
    pub(crate) fn seal(
        &self,
        driver: &PowerDriver,
        secrets: &Secrets,
    ) -> Result<Option<Vec<u8>>, VaultError> {
        if secrets.is_empty() {
            return Ok(None);
        }
        let mut sealed = vec![0; NONCE];
        getrandom::fill(&mut sealed).map_err(VaultError::Random)?;
        let written = Written {
            password: text(&secrets.password),
            group_key: text(&secrets.group_key),
            token: text(&secrets.token),
            url: text(&secrets.url),
        };
        let plain = Zeroizing::new(serde_json::to_vec(&written).unwrap_or_default());
        let payload = Payload {
            msg: &plain,
            aad: &purpose(driver),
        };
        let body = nonce(&sealed)
            .and_then(|nonce| self.cipher().encrypt(&nonce, payload).ok())
            .ok_or_else(|| self.foreign())?;
        sealed.extend_from_slice(&body);
        Ok(Some(sealed))
    }

    /// Decrypts.
    pub(crate) fn open_sealed(
        &self,
        driver: &PowerDriver,
        sealed: Option<&[u8]>,
    ) -> Result<Secrets, VaultError> {
        let Some(sealed) = sealed else {
            return Ok(Secrets::default());
        };
        let (head, msg) = sealed
            .split_at_checked(NONCE)
            .ok_or_else(|| self.foreign())?;
        let aad = &purpose(driver);
        let plain = nonce(head)
            .and_then(|nonce| self.cipher().decrypt(&nonce, Payload { msg, aad }).ok())
            .ok_or_else(|| self.foreign())?;
        let plain = Zeroizing::new(plain);
        let written: Written<'_> = serde_json::from_slice(&plain).map_err(|_| self.foreign())?;
        let own = |text: Option<Cow<'_, str>>| text.map(|text| text.into_owned().into());
        Ok(Secrets {
            password: own(written.password),
            group_key: own(written.group_key),
            token: own(written.token),
            url: own(written.url),
        })
    }

    fn foreign(&self) -> VaultError {
        VaultError::Foreign {
            path: self.path.clone(),
        }
    }
}

fn text(secret: &Option<Zeroizing<String>>) -> Option<Cow<'_, str>> {
    secret.as_ref().map(|text| Cow::Borrowed(text.as_str()))
}

fn nonce(bytes: &[u8]) -> Option<XNonce> {
    <[u8; NONCE]>::try_from(bytes).ok().map(XNonce::from)
}

/// What a secret is for.
fn purpose(driver: &PowerDriver) -> Vec<u8> {
    let mut purpose = b"bugler power 1 ".to_vec();
    purpose.extend(serde_json::to_vec(driver).unwrap_or_default());
    purpose
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VaultError {
    let path = path.to_path_buf();
    move |source| VaultError::Io {
        doing,
        path,
        source,
    }
}

fn parse(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(lines.next()?, &mut *key).ok()?;
    lines.next().is_none().then_some(key)
}

/// Makes a key, and returns it once it is on disk.
fn make(path: &Path) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).map_err(VaultError::Random)?;
    let text = Zeroizing::new(hex::encode(*key));
    // Under another name first: a file with the final name is a whole one.
    let partial = path.with_extension("partial");
    let write = || -> io::Result<()> {
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)?;
        writeln!(file, "{FIRST_LINE}\n{}", *text)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(io_error("write", path))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn driver(address: &str) -> PowerDriver {
        PowerDriver::Ipmi {
            address: address.into(),
            user: "admin".into(),
            allow_v15: false,
        }
    }

    fn secrets() -> Secrets {
        Secrets {
            password: Some("hunter2".to_owned().into()),
            ..Secrets::default()
        }
    }

    #[test]
    fn what_is_sealed_is_read_with_the_same_key_alone() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let vault = Vault::open(one.path()).unwrap();
        let sealed = vault.seal(&driver("a"), &secrets()).unwrap().unwrap();
        let twice = vault.seal(&driver("a"), &secrets()).unwrap().unwrap();
        assert_ne!(sealed, twice, "each has a nonce of its own");
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        // A restarted server.
        let again = Vault::open(one.path()).unwrap();
        assert!(again.open_sealed(&driver("a"), Some(&sealed)).unwrap() == secrets());
        assert!(again.open_sealed(&driver("a"), None).unwrap().is_empty());
        let foreign = Vault::open(other.path()).unwrap();
        let error = foreign
            .open_sealed(&driver("a"), Some(&sealed))
            .unwrap_err();
        assert!(error.to_string().contains("power-key"), "{error}");
    }

    #[test]
    fn a_secret_is_for_one_driver_and_a_changed_byte_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(folder.path()).unwrap();
        let sealed = vault.seal(&driver("a"), &secrets()).unwrap().unwrap();
        assert!(vault.open_sealed(&driver("b"), Some(&sealed)).is_err());
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert!(vault.open_sealed(&driver("a"), Some(&changed)).is_err());
            assert!(
                vault
                    .open_sealed(&driver("a"), Some(&sealed[..place]))
                    .is_err()
            );
        }
    }

    #[test]
    fn the_key_is_for_its_owner_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        Vault::open(folder.path()).unwrap();
        let path = folder.path().join(FILE);
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        mode(0o640);
        let error = Vault::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        mode(0o600);
        for damaged in [
            "",
            "abc",
            &"0".repeat(62),
            &format!("{0}\n{0}", "0".repeat(64)),
        ] {
            fs::write(&path, damaged).unwrap();
            let error = Vault::open(folder.path()).unwrap_err();
            assert!(matches!(error, VaultError::Damaged { .. }), "{damaged}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", secrets()), "Secrets(..)");
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(folder.path()).unwrap();
        let printed = format!("{vault:?}");
        assert!(!printed.contains(&hex::encode(*vault.key)), "{printed}");
    }
}
