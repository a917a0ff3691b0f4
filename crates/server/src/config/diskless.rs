//! How machines run without a disk.

use super::ConfigError;
use bugler_model::text::parse_bytes;
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};

/// Least cache, in bytes: what two machines that boot side by side read ahead.
const LEAST_CACHE: u64 = 16 << 20;

/// How machines run without a disk. Nothing listens before a profile needs it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Diskless {
    /// Where machines reach their roots over NBD. The port is the one that IANA has for it.
    pub nbd_listen: SocketAddr,
    /// Where machines reach their roots over NFSv3 (NFS and MOUNT alike).
    pub nfs_listen: SocketAddr,
    /// Most bytes of unpacked images that are kept in memory, such as `256Mi`.
    pub cache: String,
}

impl Default for Diskless {
    fn default() -> Self {
        Self {
            nbd_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 10_809)),
            nfs_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 2049)),
            cache: "256Mi".into(),
        }
    }
}

impl Diskless {
    /// The size of the cache as a number.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] where it cannot be meant.
    pub fn cache(&self) -> Result<u64, ConfigError> {
        let wrong = |why: String| ConfigError::Wrong(format!("[diskless] cache: {why}"));
        match parse_bytes(&self.cache) {
            Ok(cache) if cache < LEAST_CACHE => Err(wrong(format!(
                "{} is too little for machines to boot from: give at least 16Mi",
                self.cache
            ))),
            Ok(cache) => Ok(cache),
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_a_size_that_helps() {
        assert_eq!(Diskless::default().cache().unwrap(), 256 << 20);
        for (cache, why) in [("1M", "at least 16Mi"), ("much", "not a number of bytes")] {
            let wrong = Diskless {
                cache: cache.into(),
                ..Diskless::default()
            };
            let text = wrong.cache().unwrap_err().to_string();
            assert!(text.contains(why), "{text}");
        }
    }
}
