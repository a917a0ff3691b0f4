//! New GUIDs for the disk and its partitions (UEFI specification 2.10, section 5.3; RFC 9562), and for
//! what names partitions by them.
//!
//! Boot loaders, kernel command lines and tables of filesystems can say `PARTUUID=`. Every filesystem of
//! the disk is looked through where such texts are. Where a GUID stands in a text, the text is changed;
//! where it stands in something else, or where there is something that cannot be looked into, nothing is
//! changed, and the error says what it is.

use super::identity::{Files, MAX_TEXT, check, random};
use super::root::Root;
use super::table::Table;
use super::{PersonalizeError, Place, kernel_name, text};
use crate::deploy::reread_partitions;
use crate::disk::{Access, Target};
use crate::log::chain;
use crate::mounted::{Mounted, Purpose};
use bugler_fsread::{Content, Part, ReadAt, Survey};
use rustix::fs::FileType;

/// Texts of a root filesystem that name partitions.
const FILES: [&str; 5] = [
    "etc/fstab",
    "etc/crypttab",
    "etc/default/grub",
    "etc/kernel/cmdline",
    "etc/resume",
];

/// Folders of a root filesystem that are looked through, with all that is in them. Filesystems that are
/// mounted below it are looked through on their own, from their top.
const FOLDERS: [&str; 4] = [
    "boot",
    "etc/default/grub.d",
    "etc/initramfs-tools/conf.d",
    "etc/systemd/system",
];

/// Folders of other filesystems: what is at the top of `/boot`, and of an EFI system partition.
const BOOT_FOLDERS: [&str; 7] = ["", "boot", "loader", "grub", "grub2", "extlinux", "EFI"];

/// Largest program of EFI that is looked into, in bytes: it can hold a kernel and its command line.
const MAX_PROGRAM: u64 = 256 << 20;

/// Largest partition without a filesystem that is looked into, in bytes: that of a boot loader.
const MAX_BARE: u64 = 64 << 20;

const MAX_DEPTH: usize = 8;

/// A GUID as a table has it, and as texts have it.
struct Guid {
    old: [u8; 16],
    old_text: String,
    new: [u8; 16],
    new_text: String,
}

impl Guid {
    fn new(old: [u8; 16]) -> std::io::Result<Self> {
        let new = uuid::Builder::from_random_bytes(random()?).into_uuid();
        // The first three fields are little-endian in a table.
        Ok(Self {
            old,
            old_text: uuid::Uuid::from_bytes_le(old).to_string(),
            new: new.to_bytes_le(),
            new_text: new.to_string(),
        })
    }
}

/// What is to change.
pub(super) struct Plan {
    disk: Guid,
    /// With the place of the entry in the array.
    parts: Vec<(usize, Guid)>,
    edits: Vec<Edit>,
}

/// A text of one filesystem.
struct Edit {
    part: Part,
    path: String,
    content: Vec<u8>,
    mode: u32,
}

fn refused(why: String) -> PersonalizeError {
    PersonalizeError::Refused {
        what: "new GUIDs",
        why,
    }
}

/// Looks at everything, and changes nothing.
pub(super) fn plan(
    place: Place<'_>,
    survey: &Survey,
    root: &Root,
) -> Result<Plan, PersonalizeError> {
    if survey.table != bugler_fsread::Table::Gpt {
        return Err(refused(format!(
            "{} has no GPT ({})",
            place.disk.display(),
            survey.table
        )));
    }
    let target = Target::open(place.disk, Access::Read)?;
    let table = Table::read(place, &target)?;
    let make = |old| Guid::new(old).map_err(|error| refused(error.to_string()));
    let mut parts = Vec::new();
    for at in table.used() {
        let old = table.entries.get(at + 16..).and_then(<[u8]>::first_chunk);
        parts.push((at, make(old.copied().unwrap_or_default())?));
    }
    let mut plan = Plan {
        disk: make(table.guid())?,
        parts,
        edits: Vec::new(),
    };
    for part in &survey.parts {
        plan.look(place, &target, part, root)?;
    }
    Ok(plan)
}

impl Plan {
    fn texts(&self) -> Vec<(String, String)> {
        let all = self.parts.iter().map(|(_, guid)| guid).chain([&self.disk]);
        all.map(|guid| (guid.old_text.clone(), guid.new_text.clone()))
            .collect()
    }

    /// Whether bytes that are no text name one of the GUIDs.
    fn is_named_in(&self, content: &[u8]) -> bool {
        let mut all = self.parts.iter().map(|(_, guid)| guid).chain([&self.disk]);
        text::replace_guids(content, &self.texts()).is_some()
            || all.any(|guid| text::names_hidden(content, &guid.old_text, &guid.old))
    }

    fn look(
        &mut self,
        place: Place<'_>,
        target: &Target,
        part: &Part,
        root: &Root,
    ) -> Result<(), PersonalizeError> {
        let name = place.name(part);
        let Some(kind) = kernel_name(part.content) else {
            return match part.content {
                Content::Swap | Content::ExtJournal | Content::Empty => Ok(()),
                Content::Unknown if part.size <= MAX_BARE => self.look_bare(target, part, &name),
                content => Err(refused(format!(
                    "{name} ({content}) cannot be looked into, and what is in it may name partitions \
                     by their GUIDs"
                ))),
            };
        };
        let mounted = place
            .mount(part, kind, &[], Purpose::Read)
            .map_err(|error| {
                let content = part.content;
                refused(format!(
                    "{name} ({content}) may name partitions by their GUIDs, and cannot be mounted: {error}"
                ))
            })?;
        let is_root = part.start == root.part.start;
        let mut search = Search {
            plan: self,
            mounted: &mounted,
            part,
            name,
        };
        let looked = if is_root {
            search.look_at_root()
        } else {
            search.look_at_other()
        };
        looked.map_err(|error| match error {
            Looked::Refused(error) => error,
            Looked::Io(error) => {
                let name = place.name(part);
                refused(format!(
                    "{name} cannot be looked through: {}",
                    chain(&error)
                ))
            }
        })
    }

    /// A boot loader, perhaps.
    fn look_bare(&self, target: &Target, part: &Part, name: &str) -> Result<(), PersonalizeError> {
        let mut content = vec![0; usize::try_from(part.size).unwrap_or(0)];
        ReadAt::read_at(target, part.start, &mut content)
            .map_err(|error| refused(format!("{name} cannot be read: {error}")))?;
        if self.is_named_in(&content) {
            return Err(refused(format!(
                "{name} holds something that names a partition by its GUID, and no filesystem"
            )));
        }
        Ok(())
    }

    /// Changes the texts, then the table.
    pub(super) fn apply(self, place: Place<'_>) -> Result<(), PersonalizeError> {
        let mut starts: Vec<u64> = self.edits.iter().map(|edit| edit.part.start).collect();
        starts.dedup();
        for start in starts {
            let edits = self.edits.iter().filter(|edit| edit.part.start == start);
            let edits: Vec<&Edit> = edits.collect();
            let Some(first) = edits.first() else { continue };
            let (part, name) = (&first.part, place.name(&first.part));
            let kind = kernel_name(part.content).unwrap_or_default();
            let mount = |purpose| {
                place.mount(part, kind, &[], purpose).map_err(|source| {
                    PersonalizeError::Filesystem {
                        action: "mount",
                        kind: kind.into(),
                        part: name.clone(),
                        source,
                    }
                })
            };
            let mut files = Files::new(place, mount(Purpose::Write)?, name.clone());
            for edit in edits {
                files.write(&edit.path, &edit.content, edit.mode)?;
                place.log.line(format!(
                    "{name}: /{} names partitions by their new GUIDs",
                    edit.path
                ));
            }
            let written = files.close()?;
            check(&mount(Purpose::Read)?, &name, written)?;
        }
        let target = Target::open(place.disk, Access::Write)?;
        let table = Table::read(place, &target)?;
        let mut entries = table.entries.clone();
        for (at, guid) in &self.parts {
            let field = entries.get_mut(at + 16..at + 32);
            match field {
                Some(field) if *field == guid.old => field.copy_from_slice(&guid.new),
                _ => {
                    return Err(PersonalizeError::Table {
                        disk: place.disk.into(),
                        why: "it has changed meanwhile".into(),
                    });
                }
            }
        }
        table.write(place, &target, &entries, self.disk.new)?;
        let is_block = target.is_block();
        drop(target);
        if is_block {
            reread_partitions(place.disk, place.log);
        }
        place.log.line(format!(
            "{} and its {} partitions have new GUIDs; the disk's is {}",
            place.disk.display(),
            self.parts.len(),
            self.disk.new_text
        ));
        Ok(())
    }
}

enum Looked {
    Refused(PersonalizeError),
    Io(std::io::Error),
}

impl From<std::io::Error> for Looked {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

struct Search<'a> {
    plan: &'a mut Plan,
    mounted: &'a Mounted,
    part: &'a Part,
    name: String,
}

impl Search<'_> {
    fn look_at_root(&mut self) -> Result<(), Looked> {
        for path in FILES {
            self.file(path)?;
        }
        for path in FOLDERS {
            self.folder(path, MAX_DEPTH)?;
        }
        Ok(())
    }

    fn look_at_other(&mut self) -> Result<(), Looked> {
        // All of an EFI system partition; of a filesystem of data, only what a boot loader reads.
        if matches!(self.part.content, Content::Fat { .. }) {
            return self.folder("", MAX_DEPTH);
        }
        for path in BOOT_FOLDERS {
            self.folder(path, if path.is_empty() { 0 } else { MAX_DEPTH })?;
        }
        Ok(())
    }

    fn folder(&mut self, path: &str, depth: usize) -> Result<(), Looked> {
        for (name, kind) in self.mounted.list(path)? {
            let inner = if path.is_empty() {
                name
            } else {
                format!("{path}/{name}")
            };
            match kind {
                FileType::Directory if depth > 0 => self.folder(&inner, depth - 1)?,
                FileType::RegularFile => self.file(&inner)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &str) -> Result<(), Looked> {
        if !self.mounted.is_file(path)? {
            return Ok(());
        }
        let is_program = path.to_ascii_lowercase().ends_with(".efi");
        let limit = if is_program { MAX_PROGRAM } else { MAX_TEXT };
        // Kernels and initial filesystems are packed: nothing is to be found in them.
        if self.mounted.size_of(path)? > limit {
            return Ok(());
        }
        let Some(found) = self.mounted.read(path, limit)? else {
            return Ok(());
        };
        let is_text = !is_program
            && std::str::from_utf8(&found.content).is_ok_and(|text| !text.contains('\0'));
        if is_text {
            if let Some(content) = text::replace_guids(&found.content, &self.plan.texts()) {
                self.plan.edits.push(Edit {
                    part: self.part.clone(),
                    path: path.to_owned(),
                    content,
                    mode: found.mode,
                });
            }
        } else if self.plan.is_named_in(&found.content) {
            return Err(Looked::Refused(refused(format!(
                "/{path} of {} names a partition by its GUID, and is no text that could be changed",
                self.name
            ))));
        }
        Ok(())
    }
}
