//! Identifiers: a letter for the kind and a number, short enough to type.

/// Why a text is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} id: it should look like {letter}12")]
pub struct IdParseError {
    text: String,
    kind: &'static str,
    letter: char,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $letter:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
        #[schema(value_type = String)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&format!("{}{}", $letter, self.0))
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdParseError;
            fn from_str(text: &str) -> Result<Self, IdParseError> {
                text.strip_prefix($letter)
                    .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|digits| digits.parse().ok())
                    .map(Self)
                    .ok_or_else(|| IdParseError { text: text.into(), kind: $kind, letter: $letter })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A device: `d1`, `d2`, ...
    DeviceId, 'd', "device"
);
id!(
    /// A task: `t1`, `t2`, ...
    TaskId, 't', "task"
);
id!(
    /// An image version: `i1`, `i2`, ...
    ImageId, 'i', "image"
);
id!(
    /// A boot session: `b1`, `b2`, ...
    SessionId, 'b', "boot session"
);
id!(
    /// An event: `e1`, `e2`, ...; later events have larger numbers.
    EventId, 'e', "event"
);
id!(
    /// A diskless machine's root: `x1`, `x2`, ...
    ExportId, 'x', "export"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_letter_and_number() {
        assert_eq!("d12".parse(), Ok(DeviceId(12)));
        assert_eq!(DeviceId(12).to_string(), "d12");
        assert_eq!(serde_json::to_string(&TaskId(3)).unwrap(), "\"t3\"");
        assert_eq!(serde_json::from_str::<TaskId>("\"t3\"").unwrap(), TaskId(3));
        for bad in [
            "",
            "d",
            "12",
            "t12",
            "d-1",
            "d+1",
            "d1x",
            "d99999999999999999999",
        ] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?}");
        }
    }
}
