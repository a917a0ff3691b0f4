//! What an order comes to, for each device: looked at before any task is made.

mod disks;
mod seed;

use super::versions::check_note;
use crate::error::ApiError;
use crate::state::AppState;
use axum::http::StatusCode;
use bugler_model::{
    Capture, Deploy, Deployed, Device, DeviceId, Image, ImageState, TaskAction, Wipe,
};
use bugler_protocol::operator::{DeployOrder, NewTasks, Order, PlannedTask, Verdict};
use disks::{deploy_disk, least_size, only_disk};
use seed::Personal;
use std::sync::Arc;

/// Least rate that a task may be limited to, in bytes a second: a chunk then takes ten seconds.
const LEAST_RATE: u64 = 100_000;

/// What an order comes to for one device that it is not refused for.
pub(super) struct Planned {
    pub(super) view: PlannedTask,
    /// `None`: the device is left as it is.
    pub(super) action: Option<TaskAction>,
    /// The token of the first boot's call, where something on the disk will make it.
    pub(super) phone_home: Option<String>,
}

/// Why an order is refused for one device.
pub(super) struct Refused {
    device: DeviceId,
    label: String,
    now: Option<String>,
    then: Option<String>,
    status: StatusCode,
    why: String,
}

impl Refused {
    /// As a line of a plan.
    pub(super) fn view(self) -> PlannedTask {
        PlannedTask {
            device: self.device,
            label: self.label,
            verdict: Verdict::Refuse,
            why: self.why,
            now: self.now,
            then: self.then,
            disk: None,
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::new(
            refused.status,
            format!("{}: {}", refused.label, refused.why),
        )
    }
}

/// What an order says of a device: why it is done or not, and how.
struct Said {
    why: String,
    disk: Option<String>,
    action: Option<TaskAction>,
    phone_home: Option<String>,
}

/// A refusal: its status and its text.
type Refusal = (StatusCode, String);

fn conflict(text: String) -> Refusal {
    (StatusCode::CONFLICT, text)
}

/// Looks at an order for each of its devices, by id.
///
/// # Errors
/// Where it can be meant for none of them.
pub(super) async fn plan(
    state: &AppState,
    new: &NewTasks,
) -> Result<Vec<Result<Planned, Refused>>, ApiError> {
    let devices = devices(state, &new.devices, new.tag.as_deref()).await?;
    let goal = Goal::of(state, &new.action).await?;
    Ok(devices
        .iter()
        .map(|device| {
            let (now, then) = (deployed(device), goal.then());
            match goal.say(state, device) {
                Ok(said) => Ok(Planned {
                    view: PlannedTask {
                        device: device.id,
                        label: device.label(),
                        verdict: match said.action {
                            Some(_) => Verdict::Do,
                            None => Verdict::Skip,
                        },
                        why: said.why,
                        now,
                        then,
                        disk: said.disk,
                    },
                    action: said.action,
                    phone_home: said.phone_home,
                }),
                Err((status, why)) => Err(Refused {
                    device: device.id,
                    label: device.label(),
                    now,
                    then,
                    status,
                    why,
                }),
            }
        })
        .collect())
}

/// The devices that an order names, by id, each once.
pub(super) async fn devices(
    state: &AppState,
    named: &[String],
    tag: Option<&str>,
) -> Result<Vec<Arc<Device>>, ApiError> {
    let mut devices: Vec<Arc<Device>> = Vec::new();
    for text in named {
        devices.push(state.store.resolve_device(text).await?);
    }
    if let Some(tag) = tag {
        let all = state.store.devices().await?;
        let tagged = all
            .into_iter()
            .filter(|device| device.tags.iter().any(|own| own == tag));
        let before = devices.len();
        devices.extend(tagged);
        if devices.len() == before {
            return Err(ApiError::not_found(format!(
                "no device has the tag {tag:?}"
            )));
        }
    }
    devices.sort_by_key(|device| device.id);
    devices.dedup_by_key(|device| device.id);
    if devices.is_empty() {
        return Err(ApiError::bad_request("name at least one device, or a tag"));
    }
    Ok(devices)
}

fn deployed(device: &Device) -> Option<String> {
    let label = |deployed: &Deployed| format!("{}@{}", deployed.image, deployed.version);
    device.deployed.as_ref().map(label)
}

/// An order whose nouns were found.
enum Goal<'a> {
    /// With the bytes that a disk must at least have.
    Deploy(Box<Image>, u64, &'a DeployOrder),
    Capture(Capture),
    Wipe(Wipe),
    Reboot,
    PowerOff,
}

impl<'a> Goal<'a> {
    async fn of(state: &AppState, order: &'a Order) -> Result<Self, ApiError> {
        match order {
            Order::Deploy(order) => {
                check_rate(order.limit_rate)?;
                let image = state.store.image(&order.image).await?;
                if image.state == ImageState::Damaged {
                    return Err(ApiError::conflict(format!(
                        "image {} is damaged in the store: remove it and add it again",
                        image.label()
                    )));
                }
                let hash = image
                    .manifest
                    .parse()
                    .map_err(|error| ApiError::conflict(format!("{}: {error}", image.label())))?;
                let images = state.images.clone();
                let read = move || images.manifest(&hash).map(|manifest| least_size(&manifest));
                let least = tokio::task::spawn_blocking(read).await??;
                Ok(Self::Deploy(Box::new(image), least, order))
            }
            Order::Capture(order) => {
                check_rate(order.limit_rate)?;
                let note = check_note(&order.note)?;
                if order.partition == Some(0) {
                    return Err(ApiError::bad_request("partitions are counted from 1"));
                }
                let name = order.image_name.as_str();
                if name.parse::<bugler_model::ImageId>().is_ok() {
                    return Err(ApiError::conflict(format!(
                        "{name:?} looks like an image's id: choose another name"
                    )));
                }
                Ok(Self::Capture(Capture {
                    note,
                    ..order.clone().into()
                }))
            }
            Order::Wipe(order) => Ok(Self::Wipe(order.clone().into())),
            Order::Reboot {} => Ok(Self::Reboot),
            Order::PowerOff {} => Ok(Self::PowerOff),
        }
    }

    /// What would be there afterwards.
    fn then(&self) -> Option<String> {
        match self {
            Self::Deploy(image, ..) => Some(image.label()),
            Self::Capture(capture) => Some(capture.image_name.to_string()),
            Self::Wipe(_) | Self::Reboot | Self::PowerOff => None,
        }
    }

    fn say(&self, state: &AppState, device: &Device) -> Result<Said, Refusal> {
        let plain = |why: &str, action| Said {
            why: why.to_owned(),
            disk: None,
            action: Some(action),
            phone_home: None,
        };
        match self {
            Self::Deploy(image, least, order) => deploy(state, device, image, *least, order),
            Self::Capture(capture) => {
                let disk = only_disk(device, &capture.disk, false).map_err(conflict)?;
                Ok(Said {
                    disk,
                    ..plain(
                        "its disk is read and becomes the next version",
                        TaskAction::Capture(capture.clone()),
                    )
                })
            }
            Self::Wipe(wipe) => {
                let disk = only_disk(device, &wipe.disk, true).map_err(conflict)?;
                Ok(Said {
                    disk,
                    ..plain(
                        "its disk is made forget everything",
                        TaskAction::Wipe(wipe.clone()),
                    )
                })
            }
            Self::Reboot => Ok(plain("it reboots", TaskAction::Reboot)),
            Self::PowerOff => Ok(plain("it powers off", TaskAction::PowerOff)),
        }
    }
}

fn check_rate(rate: Option<u64>) -> Result<(), ApiError> {
    match rate {
        Some(rate) if rate < LEAST_RATE => Err(ApiError::bad_request(format!(
            "a limit of {rate} bytes a second is too low: give at least {LEAST_RATE}"
        ))),
        _ => Ok(()),
    }
}

fn deploy(
    state: &AppState,
    device: &Device,
    image: &Image,
    least: u64,
    order: &DeployOrder,
) -> Result<Said, Refusal> {
    let change = change(device, image);
    if order.upgrade_only
        && let Some(why) = change.why_not(image)
    {
        return Ok(Said {
            why,
            disk: None,
            action: None,
            phone_home: None,
        });
    }
    let (disk, fits) = deploy_disk(device, image, least, &order.disk).map_err(conflict)?;
    let Personal {
        identity,
        phone_home,
    } = seed::personal(state, device, image, order.identity.as_ref())
        .map_err(|text| (StatusCode::BAD_REQUEST, text))?;
    Ok(Said {
        why: format!("{}{fits}", change.text()),
        disk,
        action: Some(TaskAction::Deploy(Deploy {
            disk: order.disk.clone(),
            verify: order.verify,
            compare: order.compare,
            grow: order.grow,
            identity,
            limit_rate: order.limit_rate,
            ..Deploy::of(image)
        })),
        phone_home,
    })
}

/// What a deploy changes, as far as the registry knows.
enum Change<'a> {
    /// Nothing is known to have been deployed.
    First,
    /// Another image was.
    Other(&'a Deployed),
    /// An earlier version was.
    Upgrade(&'a Deployed),
    /// This version was.
    Same,
    /// A later version was.
    Downgrade(&'a Deployed),
}

fn change<'a>(device: &'a Device, image: &Image) -> Change<'a> {
    match &device.deployed {
        None => Change::First,
        Some(deployed) if deployed.image != image.name => Change::Other(deployed),
        Some(deployed) if deployed.version < image.version => Change::Upgrade(deployed),
        Some(deployed) if deployed.version > image.version => Change::Downgrade(deployed),
        Some(_) => Change::Same,
    }
}

impl Change<'_> {
    fn text(&self) -> String {
        match self {
            Self::First => "nothing is known to have been deployed to it before".into(),
            Self::Other(now) => format!("it takes the place of {}@{}", now.image, now.version),
            Self::Upgrade(now) => format!("an upgrade from version {}", now.version),
            Self::Same => "the same version again".into(),
            Self::Downgrade(now) => format!("back from version {}", now.version),
        }
    }

    /// Why a device is left out where only upgrades were asked for; `None` where it is not.
    fn why_not(&self, image: &Image) -> Option<String> {
        let kept = "it is left as it is";
        Some(match self {
            // The image is newer than nothing.
            Self::First | Self::Upgrade(_) => return None,
            Self::Other(now) => format!(
                "{kept}: it has {}@{}, of which {} is no later version; deploy without upgrade-only \
                 to replace it",
                now.image,
                now.version,
                image.label()
            ),
            Self::Same => format!("{kept}: it has {} already", image.label()),
            Self::Downgrade(now) => format!(
                "{kept}: it has version {}, which is later than {}",
                now.version,
                image.label()
            ),
        })
    }
}
