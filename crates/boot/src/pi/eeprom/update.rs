//! The files with which a boot loader updates itself over the network.
//!
//! It asks for `pieeprom.sig` in the folder that it boots from. Where the time in it is later than that
//! of its own last update, it asks for `pieeprom.upd`, checks the hash, writes it and resets itself.
//! `FREEZE_VERSION=1` and `ENABLE_SELF_UPDATE=0` in its configuration keep it from that.

use super::Image;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// Longest signature file that is read, in bytes: hash, time, and 2048 bits in hex.
const MAX_SIGNATURE: usize = 4096;

/// A `.sig` file: `rpi-eeprom-digest` makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// SHA-256 of the file that it belongs to.
    pub sha256: [u8; 32],
    /// When the update was made, in seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// An RSA signature of the hash in lower-case hex, for boards that start only what is signed.
    pub rsa2048: Option<String>,
}

/// Why a text is no signature file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureError(String);

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} does not belong in a .sig file: the first line should be a SHA-256 in hex, the \
             others `ts: <seconds>` or `rsa2048: <hex>`",
            self.0
        )
    }
}

impl std::error::Error for SignatureError {}

impl Signature {
    /// The signature file of these bytes, made at `timestamp` (seconds since the Unix epoch).
    #[must_use]
    pub fn of(bytes: &[u8], timestamp: u64) -> Self {
        Self {
            sha256: Sha256::digest(bytes).into(),
            timestamp: Some(timestamp),
            rsa2048: None,
        }
    }

    /// Whether it belongs to these bytes.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        self.sha256 == hash
    }
}

impl fmt::Display for Signature {
    /// The text of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sha256
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        writeln!(f)?;
        if let Some(timestamp) = self.timestamp {
            writeln!(f, "ts: {timestamp}")?;
        }
        match &self.rsa2048 {
            Some(rsa) => writeln!(f, "rsa2048: {rsa}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let wrong = |line: &str| SignatureError(line.chars().take(80).collect());
        if text.len() > MAX_SIGNATURE {
            return Err(wrong(text));
        }
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        // `sha256sum` writes the file's name behind it.
        let digits = first.split_ascii_whitespace().next().unwrap_or_default();
        let sha256 = hash(digits).ok_or_else(|| wrong(first))?;
        let mut signature = Self {
            sha256,
            timestamp: None,
            rsa2048: None,
        };
        for line in lines.filter(|line| !line.trim().is_empty()) {
            match line.split_once(':').map(|(key, value)| (key, value.trim())) {
                Some(("ts", time)) => {
                    signature.timestamp = Some(time.parse().map_err(|_| wrong(line))?);
                }
                Some(("rsa2048", rsa)) if rsa.bytes().all(|b| b.is_ascii_hexdigit()) => {
                    signature.rsa2048 = Some(rsa.to_owned());
                }
                _ => return Err(wrong(line)),
            }
        }
        Ok(signature)
    }
}

fn hash(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| (*pair.get(at)? as char).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(hash)
}

/// An update that a board is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfUpdate {
    image: Vec<u8>,
    signature: String,
}

impl SelfUpdate {
    /// Offers this image. The board takes it where `timestamp` (seconds since the Unix epoch) is later
    /// than its last update, which `/proc/device-tree/chosen/bootloader/update-timestamp` tells.
    #[must_use]
    pub fn new(image: &Image, timestamp: u64) -> Self {
        Self {
            image: image.as_bytes().to_vec(),
            signature: Signature::of(image.as_bytes(), timestamp).to_string(),
        }
    }

    /// The content of `pieeprom.sig` or `pieeprom.upd`.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        match name {
            "pieeprom.sig" => Some(self.signature.as_bytes()),
            "pieeprom.upd" => Some(&self.image),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pi::eeprom::image::tests::synthetic;
    use proptest::prelude::*;

    #[test]
    fn an_update_is_an_image_and_its_hash() {
        let files = [("bootconf.txt", &b"BOOT_ORDER=0xf41\n"[..])];
        let mut image = Image::parse(synthetic(Image::SIZE_2711, &files)).unwrap();
        let mut config = image.config().unwrap();
        config.set("BOOT_ORDER", "0xf12").unwrap();
        image.set_config(&config).unwrap();
        let update = SelfUpdate::new(&image, 1_763_000_000);
        let text = String::from_utf8(update.file("pieeprom.sig").unwrap().to_vec()).unwrap();
        assert_eq!(text.lines().nth(1), Some("ts: 1763000000"));
        let signature: Signature = text.parse().unwrap();
        let upd = update.file("pieeprom.upd").unwrap();
        assert!(signature.matches(upd) && !signature.matches(&upd[1..]));
        assert!(upd.windows(16).any(|window| window == b"BOOT_ORDER=0xf12"));
        assert_eq!(update.file("vl805.sig"), None);
    }

    #[test]
    fn signature_files_are_those_of_the_tools() {
        // printf abc | sha256sum
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            Signature::of(b"abc", 7).to_string(),
            format!("{abc}\nts: 7\n")
        );
        let read: Signature = format!("{abc}  pieeprom.bin\n").parse().unwrap();
        assert_eq!((read.timestamp, read.matches(b"abc")), (None, true));
        let read: Signature = format!("{abc}\nts: 5\nrsa2048: 00ff\n").parse().unwrap();
        assert_eq!(read.rsa2048.as_deref(), Some("00ff"));
        for text in ["", "abc", &format!("{abc}0"), &format!("{abc}\nts: soon\n")] {
            let error = text.parse::<Signature>().unwrap_err().to_string();
            assert!(error.contains("does not belong"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(hash in "[0-9a-f]{62,65}|.{0,70}", rest in "(\nts: [0-9]{0,22}|\nrsa2048: [0-9a-f]*|\n.*){0,3}") {
            if let Ok(signature) = format!("{hash}{rest}").parse::<Signature>() {
                prop_assert_eq!(signature.to_string().parse(), Ok(signature));
            }
        }
    }
}
