//! What each machine gets of its own: templates filled in when the task is made.

use crate::state::AppState;
use crate::token;
use bugler_boot::Values;
use bugler_model::{Device, Identity, Image, MacAddr, Seed};
use bugler_protocol::operator::{IdentityOrder, SeedOrder};
use serde::Serialize;

/// Longest host name that Linux takes (HOST_NAME_MAX, sethostname(2)), in characters.
const LONGEST_HOSTNAME: usize = 64;

/// What a template knows beyond what those of boot profiles know.
#[derive(Serialize)]
struct Known {
    #[serde(flatten)]
    base: Values,
    /// Every MAC address of the machine; the one it last booted from first.
    macs: Vec<String>,
    /// The image: `debian-12@3`.
    image: String,
    /// Where the operating system calls when it is up for the first time. Not there where the server
    /// does not know by which address the machine reaches it.
    #[serde(skip_serializing_if = "Option::is_none")]
    phone_home_url: Option<String>,
    /// The machine's new name, in templates of the seed: what the template of the name made, else
    /// the device's name.
    hostname: String,
    /// An instance-id of this deploy, for cloud-init.
    instance_id: String,
}

/// What one machine gets.
#[derive(Debug, Default)]
pub(super) struct Personal {
    pub(super) identity: Option<Identity>,
    /// The token of the call home, where something calls.
    pub(super) phone_home: Option<String>,
}

/// Fills in the templates for a device.
///
/// # Errors
/// Which template is wrong, where, and why; or what it made that cannot be.
pub(super) fn personal(
    state: &AppState,
    device: &Device,
    image: &Image,
    order: Option<&IdentityOrder>,
) -> Result<Personal, String> {
    let Some(order) = order else {
        return Ok(Personal::default());
    };
    let server = state.device_plane(device);
    let token = token::new_token();
    let mac = device.macs.first().copied().unwrap_or(MacAddr([0; 6]));
    let base = Values::new(
        device,
        mac,
        device.address,
        server.as_deref().unwrap_or_default(),
    );
    let mut known = Known {
        macs: device.macs.iter().map(ToString::to_string).collect(),
        image: image.label(),
        phone_home_url: server.map(|server| format!("{server}/phone-home/{token}")),
        hostname: base.device.name.clone(),
        instance_id: format!("bugler-{}-{}", device.id, state.now().0),
        base,
    };
    let hostname = match &order.hostname {
        Some(template) => Some(hostname(template, &known)?),
        None => None,
    };
    if let Some(hostname) = &hostname {
        known.hostname.clone_from(hostname);
    }
    let seed = match &order.seed {
        Some(order) => Some(seed(order, &known)?),
        None => None,
    };
    let calls = seed.as_ref().is_some_and(|seed| {
        let texts = [&seed.user_data, &seed.meta_data];
        texts.iter().any(|text| text.contains(&token))
    });
    Ok(Personal {
        identity: Some(order.with(hostname, seed)),
        phone_home: calls.then_some(token),
    })
}

fn fill(what: &str, template: &str, known: &Known) -> Result<String, String> {
    let filled = bugler_boot::fill(what, template, known);
    filled.map_err(|error| {
        let unreachable = known.phone_home_url.is_none() && template.contains("phone_home_url");
        let hint = if unreachable {
            ": the server does not know by which of its addresses the machine reaches it; let the \
             machine boot from the network once"
        } else {
            ""
        };
        format!("{error}{hint}")
    })
}

/// A host name as RFC 1123 section 2.1 has it.
fn hostname(template: &str, known: &Known) -> Result<String, String> {
    let made = fill("hostname", template, known)?;
    let name = made.trim();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if name.len() <= LONGEST_HOSTNAME && name.split('.').all(label) {
        return Ok(name.to_owned());
    }
    let shown: String = name.chars().take(80).collect();
    Err(format!(
        "the template of hostname makes {shown:?}, which is no host name: use letters, digits, '-' \
         and '.', at most {LONGEST_HOSTNAME} characters (a device without a name of its own has its \
         id for one)"
    ))
}

fn seed(order: &SeedOrder, known: &Known) -> Result<Seed, String> {
    let meta_data = match &order.meta_data {
        Some(template) => fill("meta-data", template, known)?,
        None => format!(
            "instance-id: {}\nlocal-hostname: {}\n",
            known.instance_id, known.hostname
        ),
    };
    if !meta_data.contains("instance-id") {
        return Err(
            "the template of meta-data makes no instance-id, without which cloud-init takes the \
             seed for none: add a line `instance-id: {{ instance_id }}`"
                .into(),
        );
    }
    let filled = |what, template: &Option<String>| {
        let template = template.as_deref();
        template.map(|text| fill(what, text, known)).transpose()
    };
    Ok(Seed {
        user_data: filled("user-data", &order.user_data)?.unwrap_or_default(),
        meta_data,
        network_config: filled("network-config", &order.network_config)?,
    })
}
