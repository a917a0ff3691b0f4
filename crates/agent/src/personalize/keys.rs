//! SSH host keys in OpenSSH's own format (PROTOCOL.key of OpenSSH; RFC 8709 for Ed25519).

use ed25519_dalek::SigningKey;

/// A host key as two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostKey {
    /// `ssh_host_ed25519_key`.
    pub(super) private: String,
    /// `ssh_host_ed25519_key.pub`.
    pub(super) public: String,
}

/// Columns of the private key's text.
const COLUMNS: usize = 70;

const KIND: &[u8] = b"ssh-ed25519";

/// An Ed25519 host key from 32 random bytes. `check` is any number: it tells a program that decrypts a
/// key whether the passphrase was right. `comment` is for people.
pub(super) fn ed25519(seed: &[u8; 32], check: u32, comment: &str) -> HostKey {
    let key = SigningKey::from_bytes(seed);
    let public = key.verifying_key().to_bytes();
    let mut blob = Vec::new();
    put(&mut blob, KIND);
    put(&mut blob, &public);

    let mut section = Vec::new();
    section.extend(check.to_be_bytes());
    section.extend(check.to_be_bytes());
    put(&mut section, KIND);
    put(&mut section, &public);
    put(&mut section, &[seed.as_slice(), &public].concat());
    put(&mut section, comment.as_bytes());
    // Padding of 1, 2, 3 and so on, up to the block of no cipher.
    for byte in 1u8.. {
        if section.len().is_multiple_of(8) {
            break;
        }
        section.push(byte);
    }

    let mut file = b"openssh-key-v1\0".to_vec();
    // Cipher, key derivation and its options: none.
    put(&mut file, b"none");
    put(&mut file, b"none");
    put(&mut file, b"");
    file.extend(1u32.to_be_bytes());
    put(&mut file, &blob);
    put(&mut file, &section);
    let text = base64(&file);
    let mut private = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(COLUMNS) {
        private.push_str(&String::from_utf8_lossy(line));
        private.push('\n');
    }
    private.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    HostKey {
        private,
        public: format!("ssh-ed25519 {} {comment}\n", base64(&blob)),
    }
}

/// A string of RFC 4251, section 5.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    // Never longer than a few hundred bytes.
    to.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend(bytes);
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(padded);
        for at in 0..4 {
            if at > group.len() {
                text.push('=');
            } else {
                let index = bits >> (18 - 6 * at) & 0x3f;
                text.push(char::from(LETTERS[index as usize]));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    #[test]
    fn base64_as_in_the_rfc() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn openssh_reads_the_private_key_and_finds_the_same_public_one() {
        for length in 0..9 {
            let key = ed25519(&[length; 32], 7, &"c".repeat(length.into()));
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(key.private.as_bytes()).unwrap();
            file.as_file()
                .set_permissions(std::fs::Permissions::from_mode(0o600))
                .unwrap();
            let found = Command::new("ssh-keygen")
                .args(["-y", "-f"])
                .arg(file.path())
                .output();
            let Ok(found) = found else {
                eprintln!("skipped: there is no ssh-keygen");
                return;
            };
            assert!(found.status.success(), "{found:?}");
            let found = String::from_utf8(found.stdout).unwrap();
            assert_eq!(found.trim(), key.public.trim());
        }
    }
}
