//! Boot loader updates that wait for Raspberry Pis.

use crate::error::ApiError;
use crate::extract::Segment;
use crate::state::{AppState, BootTreeError};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use bugler_boot::pi::eeprom::Image;
use bugler_model::{Device, EventKind, Firmware, NewEvent};
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::operator::EepromUpdate;
use std::sync::Arc;

/// More than any image has, in bytes.
const LARGEST: usize = 4 << 20;

impl From<BootTreeError> for ApiError {
    fn from(error: BootTreeError) -> Self {
        match error {
            BootTreeError::NotFound(text) => Self::not_found(text),
            BootTreeError::Broken(text) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }
}

fn view(device: &Device, image: &Image, made: bugler_model::Timestamp) -> EepromUpdate {
    let config = image.config().ok();
    let settings = config.iter().flat_map(|config| config.settings());
    EepromUpdate {
        device: device.id,
        bytes: image.as_bytes().len() as u64,
        made,
        settings: settings.map(|setting| setting.to_string()).collect(),
        remarks: config.map(|config| config.check()).unwrap_or_default(),
    }
}

/// The boot loader update that waits for a Raspberry Pi.
#[utoipa::path(
    get, path = "/devices/{device}/eeprom", operation_id = "show_eeprom_update", tag = "devices",
    params(("device" = String, Path)),
    responses(
        (status = 200, body = EepromUpdate),
        (status = 404, body = ErrorBody, description = "no device is called so, or no update waits for it"),
    ),
)]
pub(super) async fn show(
    State(state): State<Arc<AppState>>,
    Segment(device): Segment,
) -> Result<Json<EepromUpdate>, ApiError> {
    let device = state.store.resolve_device(&device).await?;
    let (boot, id) = (state.boot.clone(), device.id);
    let (bytes, made) = tokio::task::spawn_blocking(move || boot.eeprom_update(id)).await??;
    let image = Image::parse(bytes).map_err(|error| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(
                "the boot loader update that waits for {id} is damaged, offer it again: {error}"
            ),
        )
    })?;
    Ok(Json(view(&device, &image, made)))
}

/// Gives a Raspberry Pi a boot loader image, which it writes to its EEPROM when it next boots from the
/// network. The body is the image: `pieeprom.bin`, with the configuration that it shall have.
#[utoipa::path(
    put, path = "/devices/{device}/eeprom", operation_id = "offer_eeprom_update", tag = "devices",
    params(("device" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = EepromUpdate),
        (status = 404, body = ErrorBody, description = "no device is called so"),
        (status = 409, body = ErrorBody, description = "the device is no Raspberry Pi"),
        (status = 413, body = ErrorBody, description = "the body is larger than any image"),
        (status = 422, body = ErrorBody, description = "the body is no boot loader image; the text says why"),
    ),
)]
pub(super) async fn put(
    State(state): State<Arc<AppState>>,
    Segment(device): Segment,
    body: Body,
) -> Result<Json<EepromUpdate>, ApiError> {
    let device = state.store.resolve_device(&device).await?;
    if let Some(firmware) = device.firmware
        && firmware != Firmware::RaspberryPi
    {
        return Err(ApiError::conflict(format!(
            "{} boots with {firmware}: only a Raspberry Pi 4, CM4 or 5 has a boot loader in an EEPROM",
            device.label()
        )));
    }
    let body = axum::body::to_bytes(body, LARGEST).await.map_err(|error| {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("could not read the image: {error}; it has {LARGEST} bytes at most"),
        )
    })?;
    let unusable = |error: &dyn std::fmt::Display| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("could not use the image: {error}"),
        )
    };
    let image = Image::parse(body.to_vec()).map_err(|error| unusable(&error))?;
    image.config().map_err(|error| unusable(&error))?;
    let (boot, id, offered) = (state.boot.clone(), device.id, image.clone());
    tokio::task::spawn_blocking(move || boot.offer_eeprom_update(id, &offered)).await??;
    let text = format!(
        "a boot loader update of {} bytes waits for {}: it is given when the device next boots from the network",
        image.as_bytes().len(),
        device.label()
    );
    note(&state, &device, text).await?;
    Ok(Json(view(&device, &image, state.now())))
}

/// Takes the boot loader update back that waits for a Raspberry Pi.
#[utoipa::path(
    delete, path = "/devices/{device}/eeprom", operation_id = "withdraw_eeprom_update", tag = "devices",
    params(("device" = String, Path)),
    responses(
        (status = 204),
        (status = 404, body = ErrorBody, description = "no device is called so, or no update waits for it"),
    ),
)]
pub(super) async fn remove(
    State(state): State<Arc<AppState>>,
    Segment(device): Segment,
) -> Result<StatusCode, ApiError> {
    let device = state.store.resolve_device(&device).await?;
    let (boot, id) = (state.boot.clone(), device.id);
    tokio::task::spawn_blocking(move || boot.withdraw_eeprom_update(id)).await??;
    let text = format!(
        "the boot loader update for {} was taken back",
        device.label()
    );
    note(&state, &device, text).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn note(state: &AppState, device: &Device, text: String) -> Result<(), ApiError> {
    let mut event = NewEvent::new(EventKind::Device, text);
    event.device = Some(device.id);
    state.store.append_event(event, state.now()).await?;
    Ok(())
}
