//! Switching machines on and off.

use bugler_model::{
    BootDevice, DeviceId, PowerAction, PowerDriver, PowerRole, PowerState, Timestamp,
};
use serde::{Deserialize, Serialize};

/// A text that stands in no log: it is not printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// `PUT /api/v1/devices/{device}/power`: gives a device a driver, in the place of the one with the same
/// role. Its secrets are given with it each time: they are sealed for this very driver, and never told
/// again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetPower {
    /// What it is for.
    #[serde(default)]
    pub role: PowerRole,
    /// How it switches.
    pub driver: PowerDriver,
    /// The password of an IPMI user, which may be empty; 20 bytes at most.
    #[serde(default)]
    pub password: Option<SecretText>,
    /// The group key (Kg) of a BMC that was set up with one; 20 bytes at most.
    #[serde(default)]
    pub group_key: Option<SecretText>,
    /// The token that a webhook is to see, as `Authorization: Bearer`.
    #[serde(default)]
    pub token: Option<SecretText>,
}

/// One driver of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PowerDriverView {
    /// What it is for.
    pub role: PowerRole,
    /// How it switches, without its secrets.
    pub driver: PowerDriver,
    /// Whether it has secrets.
    pub has_secret: bool,
    /// How sessions with it were had when they last were: `suite 17`.
    pub known: Option<String>,
}

/// `GET /api/v1/power`: how a device is switched, and whether it is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PowerView {
    /// Which device.
    pub device: DeviceId,
    /// Its name, or its id where it has none.
    pub label: String,
    /// What switches it, the one that is used first at the front; empty: nothing does.
    pub drivers: Vec<PowerDriverView>,
    /// Whether it was on when it was last asked.
    pub state: PowerState,
    /// When that was; `None`: not since the server started.
    pub at: Option<Timestamp>,
    /// What went wrong last, where nothing has gone right since.
    pub problem: Option<String>,
}

/// What a machine is to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetBoot {
    /// From where.
    pub device: BootDevice,
    /// Each time, and not only the next.
    #[serde(default)]
    pub persistent: bool,
}

/// `POST /api/v1/power`: the same for several devices. The answer has one [`PowerResult`] a line, as they
/// come in; who ends the connection gives up those that have not begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPowerOrder {
    /// What they are to boot; set before they are switched.
    #[serde(default)]
    pub boot: Option<SetBoot>,
    /// How to switch them.
    #[serde(default)]
    pub action: Option<PowerAction>,
    /// Ids, names, MAC addresses or UUIDs, or unambiguous starts of one.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Every device with this tag as well.
    #[serde(default)]
    pub tag: Option<String>,
    /// With the driver for hard power alone.
    #[serde(default)]
    pub hard: bool,
    /// Milliseconds from one device to the next; 0: all at once. An hour at most.
    #[serde(default)]
    pub every_ms: u64,
    /// How many are at work at once, 1 to 256. Default: 64.
    #[serde(default)]
    pub at_once: Option<u32>,
    /// Seconds that each device may take, 1 to 3,600. Default: 120. What had begun by then goes on.
    #[serde(default)]
    pub timeout_s: Option<u32>,
}

/// How it went for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PowerVerdict {
    /// It was accepted, or there was nothing to do.
    Done,
    /// A person was told what to press.
    Told,
    /// It was sent, and nothing tells whether it happened.
    Unconfirmed,
    /// It was not done.
    Failed,
    /// It took too long, and may happen yet.
    Timeout,
}

impl PowerVerdict {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::Done,
        Self::Told,
        Self::Unconfirmed,
        Self::Failed,
        Self::Timeout,
    ];

    /// Whether somebody has to look after it.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Unconfirmed | Self::Failed | Self::Timeout)
    }
}

impl std::fmt::Display for PowerVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Done => "done",
            Self::Told => "told",
            Self::Unconfirmed => "unconfirmed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
        })
    }
}

/// What became of a [`NewPowerOrder`] for one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PowerResult {
    /// Which device.
    pub device: DeviceId,
    /// Its name, or its id where it has none.
    pub label: String,
    /// How it went.
    pub verdict: PowerVerdict,
    /// The same in words.
    pub text: String,
    /// Whether it is on, as far as this told.
    pub state: PowerState,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}
