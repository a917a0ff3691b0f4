//! Which device a person means.

use crate::ResolveError;
use bugler_model::{Device, DeviceId, MacAddr};
use std::sync::Arc;
use uuid::Uuid;

/// Shortest start of a MAC address or UUID that is looked for, in hex digits.
const SHORTEST_HEX: usize = 4;
/// Most labels that an error names.
const CANDIDATES: usize = 10;

/// See [`crate::Store::resolve_device`].
pub(super) fn resolve(devices: &[Arc<Device>], text: &str) -> Result<Arc<Device>, ResolveError> {
    let text = text.trim();
    let whole = Whole::of(text);
    let mut found: Vec<&Arc<Device>> = devices.iter().filter(|d| whole.is(d)).collect();
    if found.is_empty() {
        let start = Start::of(text);
        found = devices.iter().filter(|d| start.is(d)).collect();
    }
    match found.as_slice() {
        [] => Err(ResolveError::Unknown(text.into())),
        [one] => Ok((*one).clone()),
        many => Err(ResolveError::Ambiguous {
            text: text.into(),
            candidates: many.iter().take(CANDIDATES).map(|d| d.label()).collect(),
        }),
    }
}

/// What a text is when it stands for all of an identity.
struct Whole<'a> {
    name: &'a str,
    id: Option<DeviceId>,
    mac: Option<MacAddr>,
    uuid: Option<Uuid>,
}

impl<'a> Whole<'a> {
    fn of(text: &'a str) -> Self {
        Self {
            name: text,
            id: text.parse().ok(),
            mac: text.parse().ok(),
            uuid: text.parse().ok(),
        }
    }

    fn is(&self, device: &Device) -> bool {
        self.id == Some(device.id)
            || device.name.as_deref() == Some(self.name)
            || self.mac.is_some_and(|mac| device.macs.contains(&mac))
            || (self.uuid.is_some() && self.uuid == device.uuid)
    }
}

/// What a text is when it is the start of an identity.
struct Start<'a> {
    name: &'a str,
    /// Hex digits alone, lower case, where it can be the start of a MAC address or UUID.
    hex: Option<String>,
}

impl<'a> Start<'a> {
    fn of(text: &'a str) -> Self {
        let hex: String = text
            .chars()
            .filter(|c| !matches!(c, ':' | '-'))
            .collect::<String>()
            .to_lowercase();
        // `d1234` is an id, never a start: tomorrow's d1 must not be today's d12, nor a machine
        // whose address happens to begin so.
        let good = hex.len() >= SHORTEST_HEX
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
            && text.parse::<DeviceId>().is_err();
        Self {
            name: text,
            hex: good.then_some(hex),
        }
    }

    fn is(&self, device: &Device) -> bool {
        let hex = self.hex.as_deref();
        (!self.name.is_empty()
            && device
                .name
                .as_ref()
                .is_some_and(|n| n.starts_with(self.name)))
            || hex.is_some_and(|hex| {
                let macs = device
                    .macs
                    .iter()
                    .map(|mac| mac.to_string().replace(':', ""));
                let uuid = device.uuid.map(|uuid| uuid.simple().to_string());
                macs.chain(uuid).any(|own| own.starts_with(hex))
            })
    }
}
