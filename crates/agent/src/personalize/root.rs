//! Which partition is the root filesystem of the image's system.

use super::{PersonalizeError, Place, kernel_name};
use crate::mounted::{Mounted, Purpose};
use bugler_fsread::{Content, Part};
use std::io;

/// Where distributions put their root filesystem in a btrfs: at the top, or in these subvolumes.
const SUBVOLUMES: [&str; 4] = ["", "@", "root", "@rootfs"];

/// The root filesystem: its partition, and the subvolume of it, empty for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) part: Part,
    subvolume: &'static str,
}

impl Root {
    /// Mounts it.
    pub(super) fn mount(
        &self,
        place: Place<'_>,
        purpose: Purpose,
    ) -> Result<Mounted, PersonalizeError> {
        let kind = kernel_name(self.part.content).unwrap_or_default();
        let options = subvolume(self.subvolume);
        place
            .mount(&self.part, kind, &options, purpose)
            .map_err(|source| PersonalizeError::Filesystem {
                action: "mount",
                kind: self.part.content.to_string(),
                part: place.name(&self.part),
                source,
            })
    }
}

fn subvolume(name: &'static str) -> Vec<(&'static str, &'static str)> {
    match name {
        "" => Vec::new(),
        name => vec![("subvol", name)],
    }
}

/// Looks for it among the partitions of a disk.
pub(super) fn find(place: Place<'_>, parts: &[Part]) -> Result<Root, PersonalizeError> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    for part in parts {
        let said = match look(place, part) {
            Ok(Some(subvolume)) => {
                let part = part.clone();
                found.push(Root { part, subvolume });
                continue;
            }
            Ok(None) => format!("{} is none ({})", place.name(part), part.content),
            Err(error) => format!(
                "{} cannot be mounted and looked into ({}): {error}",
                place.name(part),
                part.content
            ),
        };
        others.push(said);
    }
    let disk = place.disk.into();
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(PersonalizeError::NoRoot {
            disk,
            why: if others.is_empty() {
                "there is none".into()
            } else {
                others.join("; ")
            },
        }),
        _ => {
            let names = found.iter().map(|root| place.name(&root.part));
            let parts = names.collect::<Vec<_>>().join(", ");
            Err(PersonalizeError::SeveralRoots { disk, parts })
        }
    }
}

/// Whether a partition is one, and in which subvolume.
fn look(place: Place<'_>, part: &Part) -> io::Result<Option<&'static str>> {
    let (kind, subvolumes) = match (kernel_name(part.content), part.content) {
        (None, _) | (_, Content::Fat { .. }) => return Ok(None),
        (Some(kind), Content::Btrfs) => (kind, SUBVOLUMES.as_slice()),
        (Some(kind), _) => (kind, &SUBVOLUMES[..1]),
    };
    for &name in subvolumes {
        let mut options = subvolume(name);
        // Only a look: nothing is repaired by it.
        match part.content {
            Content::Ext { .. } => options.push(("noload", "")),
            Content::Xfs => options.push(("norecovery", "")),
            _ => {}
        }
        match place.mount(part, kind, &options, Purpose::Read) {
            Ok(mounted) if is_root(&mounted)? => return Ok(Some(name)),
            Ok(_) => {}
            // There is no such subvolume.
            Err(_) if !name.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn is_root(mounted: &Mounted) -> io::Result<bool> {
    if !mounted.is_folder("etc")? || !mounted.is_folder("usr")? {
        return Ok(false);
    }
    for mark in ["etc/os-release", "usr/lib/os-release", "etc/hostname"] {
        if mounted.is_file(mark)? {
            return Ok(true);
        }
    }
    Ok(false)
}
