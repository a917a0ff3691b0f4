//! Names and secrets.

use crate::error::Error;
use std::fmt;
use zeroize::Zeroizing;

/// Something that stands in no log: it is not printed, and its memory is overwritten when it is
/// dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Keeps these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who a BMC is to let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: Secret,
    group_key: Option<Secret>,
}

impl Credentials {
    /// The longest name, in bytes (IPMI 2.0 section 22.28).
    pub const MAX_USER: usize = 16;
    /// The longest password, in bytes (section 22.30); IPMI 1.5 takes 16.
    pub const MAX_PASSWORD: usize = 20;

    /// A name, which may be empty, and a password.
    ///
    /// # Errors
    /// When one of them is longer than IPMI allows.
    pub fn new(user: impl Into<String>, password: Secret) -> Result<Self, Error> {
        let user = user.into();
        if user.len() > Self::MAX_USER {
            return Err(Error::Credentials {
                what: "user name",
                length: user.len(),
                most: Self::MAX_USER,
            });
        }
        if password.expose().len() > Self::MAX_PASSWORD {
            return Err(Error::Credentials {
                what: "password",
                length: password.expose().len(),
                most: Self::MAX_PASSWORD,
            });
        }
        Ok(Self {
            user,
            password,
            group_key: None,
        })
    }

    /// With a group key (Kg), the second secret that some BMCs are set up with (section 13.33).
    ///
    /// # Errors
    /// When it is longer than 20 bytes.
    pub fn with_group_key(mut self, key: Secret) -> Result<Self, Error> {
        if key.expose().len() > Self::MAX_PASSWORD {
            return Err(Error::Credentials {
                what: "group key",
                length: key.expose().len(),
                most: Self::MAX_PASSWORD,
            });
        }
        self.group_key = Some(key);
        Ok(self)
    }

    /// The name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> &Secret {
        &self.password
    }

    /// The group key.
    pub fn group_key(&self) -> Option<&Secret> {
        self.group_key.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials::new("admin", Secret::new("hunter2"))
            .and_then(|c| c.with_group_key(Secret::new("group")))
            .unwrap();
        let printed = format!("{credentials:?} {credentials:#?}");
        assert!(printed.contains("admin"), "{printed}");
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(!printed.contains("group\""), "{printed}");
        assert!(!printed.contains("104"), "bytes in decimal: {printed}");
    }

    #[test]
    fn what_is_too_long_is_refused_without_being_repeated() {
        let error = Credentials::new("admin", Secret::new("123456789012345678901")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the password has 21 bytes and IPMI takes 20 at most: choose a shorter one"
        );
    }
}
