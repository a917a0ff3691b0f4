//! What devices boot: profiles as they are set, and what one device would boot now.

use bugler_model::{
    Boots, DeviceId, Firmware, Loader, MacAddr, Netboot, OfferShape, Profile, ProfileName, Quirks,
    Timestamp,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;

/// `PUT /api/v1/profiles/{name}`: a [`Profile`] whose name may be left out, since the path has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetProfile {
    /// The same name as in the path, where it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ProfileName>,
    /// What it boots.
    pub boots: Boots,
    /// The boot loader that a device is given for it.
    #[serde(default)]
    pub loader: Loader,
    /// The operator's note, at most 1,000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl SetProfile {
    /// The profile of this name.
    #[must_use]
    pub fn named(self, name: ProfileName) -> Profile {
        Profile {
            name,
            boots: self.boots,
            loader: self.loader,
            note: self.note,
        }
    }
}

/// What a device is meant to end up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PlanGoal {
    /// Nothing can be given.
    None,
    /// Its local disk.
    Local,
    /// The boot environment with the agent.
    Agent,
    /// What another profile says.
    Profile,
}

/// How the next request of a device is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PlanAction {
    /// No boot options: the firmware goes on to its next boot device.
    Silent,
    /// A file over TFTP.
    Tftp {
        /// Its path in the boot tree.
        path: String,
    },
    /// A file over HTTP.
    Http {
        /// Its path in the boot tree: under `/boot/` of the device plane.
        path: String,
    },
    /// What the boot ROM of a Raspberry Pi looks for; it knows its files by heart.
    RaspberryPi,
}

impl fmt::Display for PlanAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str(
                "an answer without boot options: its firmware goes on to its next boot device",
            ),
            Self::Tftp { path } => write!(f, "{path} by TFTP"),
            Self::Http { path } => write!(f, "{path} by HTTP"),
            Self::RaspberryPi => f.write_str(
                "the Raspberry Pi's boot menu, and its files by TFTP under the names that it asks for",
            ),
        }
    }
}

/// What became of one rule for a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RuleVerdict {
    /// The rule's place, from 1.
    pub number: usize,
    /// The profile that it gives.
    pub profile: ProfileName,
    /// The first condition that the device does not meet, in words; `None`: it meets them all.
    pub unmet: Option<String>,
}

/// `/api/v1/devices/{device}/eeprom`: the boot loader update that waits for a Raspberry Pi.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EepromUpdate {
    /// The device.
    pub device: DeviceId,
    /// The length of the image in bytes: 512 KiB for a 4 or CM4, 2 MiB for a 5.
    pub bytes: u64,
    /// When it was offered. The board takes it where its last update is older.
    pub made: Timestamp,
    /// The configuration in it, a property each, with its meaning where that is known.
    pub settings: Vec<String>,
    /// What stands out in that configuration.
    pub remarks: Vec<String>,
}

/// `GET /api/v1/devices/{device}/plan`: what a device would boot if it asked now, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlanView {
    /// The device.
    pub device: DeviceId,
    /// The interface that it is taken to boot from: the one that it last booted from.
    pub mac: Option<MacAddr>,
    /// The firmware that it is taken to ask with: the one that first asked in its latest boot.
    pub firmware: Option<Firmware>,
    /// Whether its request was heard since the server started; else this is made from what the
    /// registry knows, which is less (no vendor class, no list of architectures).
    pub heard: bool,
    /// The address that rules about networks look at: the one that it last used.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub from: Option<Ipv4Addr>,
    /// What it is meant to end up in.
    pub goal: PlanGoal,
    /// The profile that says so.
    pub profile: Option<ProfileName>,
    /// What that profile boots.
    pub boots: Option<Boots>,
    /// Why: one sentence.
    pub why: String,
    /// How its request would be answered.
    pub action: PlanAction,
    /// The same in words.
    pub answer: String,
    /// How the answer is shaped.
    pub shape: OfferShape,
    /// How many times its firmware has asked without taking what it was offered.
    pub unanswered: u32,
    /// Every rule in order. They count where the device has no profile of its own, and nothing
    /// waits for it; then the first that it meets does.
    pub rules: Vec<RuleVerdict>,
    /// Its network boot.
    pub netboot: Netboot,
    /// Whether its firmware starts signed programs alone.
    pub secure_boot: bool,
    /// What was learned of its firmware.
    pub quirks: Quirks,
    /// How many boots it began since one had an outcome or an operator changed what it boots.
    pub tries: u32,
    /// At so many tries a boot that was asked for once is given up.
    pub most_tries: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_needs_no_name_in_its_body() {
        let set: SetProfile = serde_json::from_str(
            r#"{"boots": {"kind": "linux", "kernel": "thin/vmlinuz"}, "loader": "grub"}"#,
        )
        .unwrap();
        let profile = set.named("thin".parse().unwrap());
        assert_eq!(
            (profile.name.as_str(), profile.loader),
            ("thin", Loader::Grub)
        );
        let wrong = r#"{"boots": {"kind": "agent"}, "lodaer": "grub"}"#;
        assert!(serde_json::from_str::<SetProfile>(wrong).is_err());
    }

    #[test]
    fn an_action_is_said_in_words() {
        let action = PlanAction::Tftp {
            path: "snponly.efi".into(),
        };
        assert_eq!(action.to_string(), "snponly.efi by TFTP");
        assert_eq!(
            serde_json::to_string(&action).unwrap(),
            r#"{"kind":"tftp","path":"snponly.efi"}"#
        );
    }
}
