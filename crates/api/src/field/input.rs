//! What a shell client sends: form fields, JSON or a query.

use bugler_model::MacAddr;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Most fields that are looked at.
const MAX_FIELDS: usize = 64;

/// Why a client's input cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It begins like JSON, but is none, or not an object of plain values.
    #[error("the body is neither a form nor a JSON object of plain values: {0}")]
    Json(String),
    /// More fields than anybody needs.
    #[error("the body has more than {MAX_FIELDS} fields")]
    TooMany,
    /// A field that must be there is not.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field does not hold what it should.
    #[error("the field {name} is {value:?}, which is not {wanted}")]
    Wrong {
        /// Its name.
        name: &'static str,
        /// Its first 80 characters.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
}

/// The fields of a request, by lower-case name. Where one is there twice, the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Reads a body: a JSON object where it begins like one, whatever its content type says, since
    /// shell clients rarely set it; else `application/x-www-form-urlencoded`.
    ///
    /// # Errors
    /// [`FieldError::Json`], [`FieldError::TooMany`].
    pub fn parse(body: &[u8]) -> Result<Self, FieldError> {
        let body = body.trim_ascii();
        if body.starts_with(b"{") {
            Self::json(body)
        } else {
            Self::form(body)
        }
    }

    /// Reads a form body, or the query of a URL.
    ///
    /// # Errors
    /// [`FieldError::TooMany`].
    pub fn form(body: &[u8]) -> Result<Self, FieldError> {
        Self::collect(form_urlencoded::parse(body).map(|(name, value)| (name.into(), value.into())))
    }

    fn json(body: &[u8]) -> Result<Self, FieldError> {
        use serde_json::{Map, Value};
        let object: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| FieldError::Json(error.to_string()))?;
        let plain = |(name, value): (String, Value)| match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some((name, text))),
            Value::Bool(_) | Value::Number(_) => Ok(Some((name, value.to_string()))),
            Value::Array(_) | Value::Object(_) => Err(FieldError::Json(format!(
                "the field {name:.80} is a list or an object"
            ))),
        };
        let fields: Vec<_> = object.into_iter().map(plain).collect::<Result<_, _>>()?;
        Self::collect(fields.into_iter().flatten())
    }

    fn collect(fields: impl Iterator<Item = (String, String)>) -> Result<Self, FieldError> {
        let mut map = BTreeMap::new();
        for (name, value) in fields {
            map.insert(name.to_ascii_lowercase(), value);
            if map.len() > MAX_FIELDS {
                return Err(FieldError::TooMany);
            }
        }
        Ok(Self(map))
    }

    /// The first of these fields that is there and not empty.
    #[must_use]
    pub fn get(&self, names: &[&str]) -> Option<&str> {
        names
            .iter()
            .filter_map(|name| self.0.get(*name))
            .map(|value| value.trim())
            .find(|value| !value.is_empty())
    }

    /// The field `mac` or `mac_address`.
    ///
    /// # Errors
    /// Where it is missing, or not the address of one interface.
    pub fn mac(&self) -> Result<MacAddr, FieldError> {
        let text = self.get(&["mac", "mac_address", "macaddress"]);
        let text = text.ok_or(FieldError::Missing("mac"))?;
        let mac = text.parse().ok().filter(MacAddr::is_unicast);
        mac.ok_or_else(|| wrong("mac", text, "a MAC address such as 52:54:00:12:34:56"))
    }

    /// The field `ip` or `ip_address`, where it is there.
    ///
    /// # Errors
    /// Where it is not the IPv4 address of a host.
    pub fn ip(&self) -> Result<Option<Ipv4Addr>, FieldError> {
        let Some(text) = self.get(&["ip", "ip_address", "ipaddress"]) else {
            return Ok(None);
        };
        let host = |ip: &Ipv4Addr| {
            !(ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() || ip.is_loopback())
        };
        let ip = text.parse().ok().filter(host);
        ip.map(Some)
            .ok_or_else(|| wrong("ip", text, "the IPv4 address of a host"))
    }

    /// The field `status`: whether it says that the action succeeded.
    ///
    /// # Errors
    /// Where it is missing or says neither.
    pub fn succeeded(&self) -> Result<bool, FieldError> {
        let text = self
            .get(&["status", "result"])
            .ok_or(FieldError::Missing("status"))?;
        match text.to_ascii_lowercase().as_str() {
            "ok" | "success" | "done" | "0" | "true" => Ok(true),
            "error" | "failed" | "failure" | "fail" | "1" | "false" => Ok(false),
            _ => Err(wrong("status", text, "`ok` or `error`")),
        }
    }
}

fn wrong(name: &'static str, value: &str, wanted: &'static str) -> FieldError {
    FieldError::Wrong {
        name,
        value: value.chars().take(80).collect(),
        wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms_and_json_say_the_same() {
        let form = Fields::parse(b"MAC=52%3A54%3A00%3a12%3A34%3a56&ip=10.0.0.7&status=ok").unwrap();
        let json = Fields::parse(
            br#" {"mac_address": "52-54-00-12-34-56", "ip_address": "10.0.0.7", "status": true} "#,
        )
        .unwrap();
        for fields in [form, json] {
            assert_eq!(fields.mac().unwrap().to_string(), "52:54:00:12:34:56");
            assert_eq!(fields.ip().unwrap(), Some(Ipv4Addr::new(10, 0, 0, 7)));
            assert_eq!(fields.succeeded(), Ok(true));
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = |body: &str| Fields::parse(body.as_bytes()).unwrap().mac().unwrap_err();
        assert_eq!(error(""), FieldError::Missing("mac"));
        assert_eq!(error("mac="), FieldError::Missing("mac"));
        assert!(
            error("mac=zz").to_string().contains("52:54:00"),
            "{}",
            error("mac=zz")
        );
        assert!(error("mac=ff:ff:ff:ff:ff:ff").to_string().contains("ff:ff"));
        let fields = Fields::parse(b"ip=127.0.0.1&status=maybe").unwrap();
        assert!(fields.ip().is_err() && fields.succeeded().is_err());
        assert!(Fields::parse(b"{\"mac\": [1]}").is_err());
        assert!(Fields::parse(b"{\"mac\": ").is_err());
        let many: String = (0..100).map(|n| format!("f{n}=1&")).collect();
        assert_eq!(Fields::parse(many.as_bytes()), Err(FieldError::TooMany));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body: Vec<u8>) {
            if let Ok(fields) = Fields::parse(&body) {
                let _ = (fields.mac(), fields.ip(), fields.succeeded());
            }
        }

        #[test]
        fn any_text_value_survives_both_spellings(value in "\\PC{1,40}") {
            let form: String =
                form_urlencoded::Serializer::new(String::new()).append_pair("x", &value).finish();
            let json = serde_json::json!({ "x": value }).to_string();
            let (form, json) = (Fields::parse(form.as_bytes()), Fields::parse(json.as_bytes()));
            prop_assert_eq!(&form, &json);
            let fields = form.unwrap();
            prop_assert_eq!(fields.get(&["x"]).unwrap_or_default(), value.trim());
        }

        #[test]
        fn nested_json_is_refused_not_followed(depth in 1usize..5000) {
            let body = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
            prop_assert!(Fields::parse(body.as_bytes()).is_err());
        }
    }
}
