//! `bugler profile`.

use super::{Session, input};
use crate::cli;
use crate::output;
use anyhow::{Context, Result};
use bugler_model::{
    Boots, DEFAULT_OVERLAY_SIZE, Diskless, DisklessStart, ExportProtocol, MenuEntry, Profile,
    ProfileName, text,
};
use bugler_protocol::operator::SetProfile;

/// How long a menu waits, in seconds, where nobody says: as in the API.
const TIMEOUT: u32 = 10;

pub(super) fn run(session: &Session, command: cli::Profile) -> Result<()> {
    match command {
        cli::Profile::List => list(session),
        cli::Profile::Show { profile } => {
            let profile: Profile = session.client.get(&path(&profile))?;
            if session.json {
                return output::json(&profile);
            }
            show(&profile);
            Ok(())
        }
        cli::Profile::Set(args) => {
            let path = path(&args.profile);
            let set = profile(*args)?;
            let profile: Profile = session.client.put(&path, &set)?;
            if session.json {
                return output::json(&profile);
            }
            println!("{}: boots {}", profile.name, words(&profile.boots));
            Ok(())
        }
        cli::Profile::Remove { profile } => session.client.delete(&path(&profile)),
    }
}

/// A name has nothing that a URL would take for more.
fn path(name: &ProfileName) -> String {
    format!("profiles/{name}")
}

/// The profile that a command line describes.
fn profile(args: cli::SetProfile) -> Result<SetProfile> {
    if let Some(file) = &args.file {
        let text = input::text(file)?;
        return serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not a profile as `bugler profile show --json` prints one",
                file.display()
            )
        });
    }
    let script = |file: &Option<std::path::PathBuf>| file.as_deref().map(input::text).transpose();
    let boots = if let Some(kernel) = args.linux {
        Boots::Linux {
            kernel,
            initrd: args.initrd,
            cmdline: args.cmdline.unwrap_or_default(),
        }
    } else if let Some(image) = args.diskless.diskless.clone() {
        let chosen = args.diskless;
        Boots::Diskless(Diskless {
            image,
            over: chosen.over.map(Into::into).unwrap_or_default(),
            overlay: chosen.overlay.map(Into::into).unwrap_or_default(),
            overlay_size: chosen.overlay_size.unwrap_or(DEFAULT_OVERLAY_SIZE),
            durable: !chosen.no_durable_writes,
            start: chosen.start.map(Into::into).unwrap_or_default(),
            aoe_address: chosen.aoe_address.unwrap_or_default(),
            cmdline: args.cmdline.unwrap_or_default(),
        })
    } else if let Some(title) = args.menu {
        let entry = |(label, profile)| MenuEntry { label, profile };
        Boots::Menu {
            title,
            entries: args.entries.into_iter().map(entry).collect(),
            default: args.default,
            timeout: args.timeout.unwrap_or(TIMEOUT),
        }
    } else if args.local {
        Boots::Local
    } else if args.agent {
        Boots::Agent
    } else {
        Boots::Script {
            ipxe: script(&args.script_ipxe)?,
            pxelinux: script(&args.script_pxelinux)?,
            grub: script(&args.script_grub)?,
        }
    };
    Ok(SetProfile {
        name: None,
        boots,
        loader: args.loader.into(),
        note: args.note,
    })
}

fn list(session: &Session) -> Result<()> {
    let profiles: Vec<Profile> = session.client.get("profiles")?;
    if session.json {
        return output::json(&profiles);
    }
    output::table(
        &["NAME", "BOOTS", "LOADER", "NOTE"],
        profiles.iter().map(|profile| {
            vec![
                profile.name.to_string(),
                words(&profile.boots),
                profile.loader.to_string(),
                profile.note.clone().unwrap_or_default(),
            ]
        }),
    )
}

/// What a profile boots, in a few words.
pub(super) fn words(boots: &Boots) -> String {
    match boots {
        Boots::Local => "the local disk".into(),
        Boots::Agent => "the agent".into(),
        Boots::Linux { kernel, .. } => format!("the kernel {kernel}"),
        Boots::Diskless(diskless) => format!("{} over {}", diskless.image, diskless.over),
        Boots::Script {
            ipxe,
            pxelinux,
            grub,
        } => {
            let all = [("iPXE", ipxe), ("PXELINUX", pxelinux), ("GRUB", grub)];
            let there = all.into_iter().filter(|(_, script)| script.is_some());
            let names: Vec<&str> = there.map(|(name, _)| name).collect();
            format!("a script for {}", names.join(", "))
        }
        Boots::Menu { title, entries, .. } => format!("the menu {title:?} of {}", entries.len()),
    }
}

fn show(profile: &Profile) {
    let line = |key: &str, value: &str| println!("{key:>12}  {}", text::clean(value));
    line("name", profile.name.as_str());
    line("boots", &words(&profile.boots));
    line("loader", &profile.loader.to_string());
    if let Some(note) = &profile.note {
        line("note", note);
    }
    match &profile.boots {
        Boots::Local | Boots::Agent => {}
        Boots::Linux {
            kernel,
            initrd,
            cmdline,
        } => {
            line("kernel", kernel);
            for file in initrd {
                line("initramfs", file);
            }
            line("command line", cmdline);
        }
        Boots::Diskless(diskless) => {
            line("image", &diskless.image.to_string());
            line("started by", &diskless.start.to_string());
            let most = text::bytes(diskless.overlay_size);
            line("layer", &format!("{}, at most {most}", diskless.overlay));
            if diskless.over == ExportProtocol::Aoe {
                line("AoE address", &diskless.aoe_address.to_string());
            }
            if !diskless.durable {
                line("writes", "acknowledged before they are on disk");
            }
            if !diskless.cmdline.is_empty() && diskless.start != DisklessStart::Sanboot {
                line("command line", &diskless.cmdline);
            }
        }
        Boots::Script {
            ipxe,
            pxelinux,
            grub,
        } => {
            for (language, script) in [("iPXE", ipxe), ("PXELINUX", pxelinux), ("GRUB", grub)] {
                for (number, text) in script.iter().flat_map(|script| script.lines()).enumerate() {
                    line(if number == 0 { language } else { "" }, text);
                }
            }
        }
        Boots::Menu {
            entries,
            default,
            timeout,
            ..
        } => {
            for (number, entry) in entries.iter().enumerate() {
                let taken = match default {
                    Some(default) => entry.profile == *default,
                    None => number == 0,
                };
                let when = match (taken, timeout) {
                    (false, _) => String::new(),
                    (true, 0) => "  (the first choice; waits for ever)".into(),
                    (true, seconds) => format!("  (taken after {seconds} s)"),
                };
                line(
                    "entry",
                    &format!("{} = {}{when}", entry.label, entry.profile),
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "profile/tests.rs"]
mod tests;
