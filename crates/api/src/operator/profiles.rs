//! Profiles: what devices boot.

use super::words::{printable, shown};
use crate::error::ApiError;
use crate::extract::{Body, Segment};
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bugler_model::{
    Boots, Diskless, DisklessStart, ExportProtocol, Loader, MenuEntry, Profile, ProfileName,
};
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::operator::SetProfile;
use std::sync::Arc;

/// Most entries of a menu: what a person can choose from.
const MAX_ENTRIES: usize = 64;
/// Longest title, or label of an entry, in characters: a line of a text screen.
const MAX_LABEL: usize = 80;
/// Longest wait of a menu, in seconds.
const MAX_TIMEOUT: u32 = 3600;
/// Longest note, in characters.
const MAX_NOTE: usize = 1000;
/// What a machine's own layer may take, in bytes.
const MIN_OVERLAY: u64 = 1 << 20;
const MAX_OVERLAY: u64 = 16 << 40;
/// Most initramfs files, and the longest template of a file's name, in bytes.
const MAX_INITRD: usize = 16;
const MAX_FILE: usize = 2048;
/// Longest template of a command line, in bytes: kernels take 2,047 at most, and the rest is room for
/// what decides between words.
const MAX_CMDLINE: usize = 4096;

/// Every profile: first the two that are always there, then the others by name.
#[utoipa::path(get, path = "/profiles", operation_id = "list_profiles", tag = "profiles", responses((status = 200, body = Vec<Profile>)))]
pub(super) async fn list(State(state): State<Arc<AppState>>) -> Json<Vec<Profile>> {
    let policy = state.store.boot_policy();
    let always = [Profile::agent(), Profile::local()];
    Json(always.into_iter().chain(policy.profiles.clone()).collect())
}

/// One profile, by its name.
#[utoipa::path(
    get, path = "/profiles/{profile}", operation_id = "show_profile", tag = "profiles",
    params(("profile" = String, Path)),
    responses((status = 200, body = Profile), (status = 404, body = ErrorBody, description = "there is no such profile")),
)]
pub(super) async fn show(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
) -> Result<Json<Profile>, ApiError> {
    let name = named(&text)?;
    let profile = state.store.boot_policy().profile(&name);
    profile.map(Json).ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no profile {name}: `bugler profile list` shows those that there are"
        ))
    })
}

/// Makes a profile, or changes it. Its templates are tried out first.
#[utoipa::path(
    put, path = "/profiles/{profile}", operation_id = "set_profile", tag = "profiles",
    params(("profile" = String, Path)),
    request_body = SetProfile,
    responses(
        (status = 200, body = Profile),
        (status = 400, body = ErrorBody, description = "it cannot be booted; for a template the text says in which line, and why"),
        (status = 409, body = ErrorBody, description = "it is one that is always there, or a menu with an entry that does not exist or is a menu"),
    ),
)]
pub(super) async fn put(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
    Body(set): Body<SetProfile>,
) -> Result<Json<Profile>, ApiError> {
    let name = named(&text)?;
    if let Some(other) = set.name.as_ref().filter(|other| **other != name) {
        return Err(ApiError::bad_request(format!(
            "the profile is called {name} in the path and {other} in the body: leave the second out"
        )));
    }
    let profile = set.named(name);
    check(&profile).map_err(|why| {
        ApiError::bad_request(format!(
            "could not save the profile {}: {why}",
            profile.name
        ))
    })?;
    state
        .store
        .set_profile(profile.clone(), state.now())
        .await?;
    Ok(Json(profile))
}

/// Removes a profile that nothing uses.
#[utoipa::path(
    delete, path = "/profiles/{profile}", operation_id = "remove_profile", tag = "profiles",
    params(("profile" = String, Path)),
    responses(
        (status = 204),
        (status = 404, body = ErrorBody, description = "there is no such profile"),
        (status = 409, body = ErrorBody, description = "a device, a rule or a menu uses it; the text says which"),
    ),
)]
pub(super) async fn remove(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
) -> Result<StatusCode, ApiError> {
    state
        .store
        .remove_profile(named(&text)?, state.now())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn named(text: &str) -> Result<ProfileName, ApiError> {
    text.parse()
        .map_err(|error: bugler_model::ProfileNameError| ApiError::bad_request(error.to_string()))
}

/// Whether it can be booted, as far as can be told without the machine.
fn check(profile: &Profile) -> Result<(), String> {
    if let Some(note) = &profile.note {
        let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        if note.chars().count() > MAX_NOTE || note.contains(odd) {
            return Err(format!(
                "its note has more than {MAX_NOTE} characters, or some that cannot be printed"
            ));
        }
    }
    match &profile.boots {
        Boots::Local | Boots::Agent => {}
        Boots::Linux {
            kernel,
            initrd,
            cmdline,
        } => check_linux(kernel, initrd, cmdline)?,
        Boots::Diskless(diskless) => check_diskless(profile.loader, diskless)?,
        Boots::Script {
            ipxe,
            pxelinux,
            grub,
        } => check_scripts(
            profile.loader,
            [("ipxe", ipxe), ("pxelinux", pxelinux), ("grub", grub)],
        )?,
        Boots::Menu {
            title,
            entries,
            default,
            timeout,
        } => check_menu(title, entries, default.as_ref(), *timeout)?,
    }
    bugler_boot::check(profile).map_err(|error| error.to_string())
}

fn check_diskless(loader: Loader, diskless: &Diskless) -> Result<(), String> {
    if !(MIN_OVERLAY..=MAX_OVERLAY).contains(&diskless.overlay_size) {
        return Err(format!(
            "its layer may take {} bytes: give it from 1 MiB to 16 TiB",
            diskless.overlay_size
        ));
    }
    if diskless.cmdline.len() > MAX_CMDLINE {
        return Err(format!(
            "the template of cmdline has {} bytes: {MAX_CMDLINE} are the most",
            diskless.cmdline.len()
        ));
    }
    if diskless.start == DisklessStart::Sanboot {
        if diskless.over != ExportProtocol::Aoe {
            return Err(format!(
                "iPXE starts from a disk over aoe alone here, not over {}",
                diskless.over
            ));
        }
        if !matches!(loader, Loader::Auto | Loader::Ipxe) {
            return Err(format!("it is started by iPXE, and its loader is {loader}"));
        }
    }
    Ok(())
}

fn check_linux(kernel: &str, initrd: &[String], cmdline: &str) -> Result<(), String> {
    if initrd.len() > MAX_INITRD {
        return Err(format!(
            "it has {} initramfs files: {MAX_INITRD} are the most",
            initrd.len()
        ));
    }
    let files = initrd.iter().map(|file| ("initrd", file.as_str()));
    for (what, file) in files.chain([("kernel", kernel)]) {
        if file.len() > MAX_FILE {
            return Err(format!(
                "the template of {what} has {} bytes: {MAX_FILE} are the most",
                file.len()
            ));
        }
    }
    if cmdline.len() > MAX_CMDLINE {
        return Err(format!(
            "the template of cmdline has {} bytes: {MAX_CMDLINE} are the most, and a kernel reads \
             2,047 at most",
            cmdline.len()
        ));
    }
    Ok(())
}

fn check_scripts(loader: Loader, scripts: [(&str, &Option<String>); 3]) -> Result<(), String> {
    for (language, script) in scripts {
        if script.as_ref().is_some_and(|text| text.trim().is_empty()) {
            return Err(format!("its script in the language of {language} is empty"));
        }
    }
    let has = |language| {
        let mut those = scripts.iter().filter(|(_, script)| script.is_some());
        those.any(|(other, _)| *other == language)
    };
    let wanted = match loader {
        Loader::Auto if scripts.iter().all(|(_, script)| script.is_none()) => {
            return Err("it has no script: give one for ipxe, pxelinux or grub".into());
        }
        Loader::Auto => return Ok(()),
        Loader::Ipxe => "ipxe",
        Loader::Pxelinux | Loader::Lpxelinux => "pxelinux",
        Loader::Grub => "grub",
    };
    if has(wanted) {
        return Ok(());
    }
    Err(format!(
        "its loader is {loader}, and it has no script in the language of {wanted}: give one, or \
         choose another loader"
    ))
}

fn check_menu(
    title: &str,
    entries: &[MenuEntry],
    default: Option<&ProfileName>,
    timeout: u32,
) -> Result<(), String> {
    if !(1..=MAX_ENTRIES).contains(&entries.len()) {
        return Err(format!(
            "its menu has {} entries: 1 to {MAX_ENTRIES} can be shown",
            entries.len()
        ));
    }
    let labels = entries.iter().map(|entry| ("label", entry.label.as_str()));
    for (what, text) in labels.chain([("title", title)]) {
        if !printable(text, MAX_LABEL) {
            return Err(format!(
                "{} is not a good {what} of a menu: use 1 to {MAX_LABEL} characters that can be \
                 printed",
                shown(text)
            ));
        }
    }
    if timeout > MAX_TIMEOUT {
        return Err(format!(
            "its menu waits {timeout} s: {MAX_TIMEOUT} are the most, and 0 waits for ever"
        ));
    }
    match default {
        Some(default) if !entries.iter().any(|entry| entry.profile == *default) => Err(format!(
            "its default {default} is no entry of the menu: add one, or choose another default"
        )),
        _ => Ok(()),
    }
}
