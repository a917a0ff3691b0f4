//! The procedures of NFS version 3 (RFC 1813, section 3.3) over a layer: a call and the time in, an
//! answer out.

use crate::kinds::{Attributes, Credential, Status, Time};
use crate::layer::{Found, Layer, New};
use crate::packet::{self, Call, MAX_TRANSFER, Place, Special};
use crate::xdr::{Writer, opaque_length};

/// Most bytes of a listing.
const MAX_LISTING: u32 = 64 << 10;
/// What FSINFO tells: hard links, symbolic links, the same PATHCONF for all files, times can be set.
const PROPERTIES: u32 = 0x01 | 0x02 | 0x08 | 0x10;
/// Bytes of an entry in front of its name: that there is one, number, cookie.
const ENTRY: usize = 4 + 8 + 8;
/// Bytes of `post_op_attr` and of `post_op_fh3` behind it.
const PLUS: usize = 4 + 84 + 4 + 4 + crate::handle::HANDLE;

/// An answer: what follows the beginning that all answers have.
pub type Answer = Vec<u8>;

/// Answers a call. What it changes is durable after [`Layer::settle`]; the answer must not leave
/// before.
pub fn answer(layer: &mut Layer, who: &Credential, call: &Call<'_>, now: Time) -> Answer {
    let mut out = Writer::new();
    let machine = &mut Machine { layer, who, now };
    match call {
        Call::Null => {}
        Call::GetAttributes { file } => {
            let found = machine
                .file(file)
                .and_then(|id| machine.layer.attributes(id));
            out.u32(packet::status_number(&found));
            if let Ok(found) = found {
                packet::put_attributes(&mut out, &found);
            }
        }
        Call::SetAttributes { file, set, guard } => {
            machine.changes_file(&mut out, file, |machine, id| {
                machine
                    .layer
                    .set_attributes(machine.who, id, set, *guard, machine.now)
            });
        }
        Call::Lookup(place) => machine.lookup(&mut out, place),
        Call::Access { file, mask } => {
            let id = machine.file(file);
            let may = id.and_then(|id| machine.layer.access(machine.who, id, *mask));
            machine.of_file(&mut out, id, &may);
            if let Ok(may) = may {
                out.u32(may);
            }
        }
        Call::ReadLink { file } => {
            let id = machine.file(file);
            let target = id.and_then(|id| machine.layer.read_link(id));
            machine.of_file(&mut out, id, &target);
            if let Ok(target) = target {
                out.opaque(&target);
            }
        }
        Call::Read {
            file,
            offset,
            count,
        } => {
            let id = machine.file(file);
            let count = (*count).min(MAX_TRANSFER);
            let read = id.and_then(|id| machine.layer.read(machine.who, id, *offset, count));
            machine.of_file(&mut out, id, &read);
            if let Ok((bytes, is_end)) = read {
                out.u32(bytes.len() as u32).bool(is_end).opaque(&bytes);
            }
        }
        Call::Write {
            file,
            offset,
            stability,
            data,
        } => {
            let written = machine.changes_file(&mut out, file, |machine, id| {
                machine
                    .layer
                    .write(machine.who, id, *offset, data, *stability, machine.now)
            });
            if written {
                out.u32(data.len() as u32).u32(*stability as u32);
                out.raw(&machine.layer.write_verifier());
            }
        }
        Call::Create(place, how) => machine.makes(&mut out, place, |machine, folder| {
            machine
                .layer
                .create(machine.who, folder, place.name, *how, machine.now)
        }),
        Call::MakeFolder(place, set) => machine.makes(&mut out, place, |machine, folder| {
            let new = New::Folder;
            machine
                .layer
                .make(machine.who, folder, place.name, new, set, machine.now)
        }),
        Call::Symlink(place, set, target) => machine.makes(&mut out, place, |machine, folder| {
            let new = New::Symlink(target);
            machine
                .layer
                .make(machine.who, folder, place.name, new, set, machine.now)
        }),
        Call::MakeNode(place, special, set) => machine.makes(&mut out, place, |machine, folder| {
            let new = match *special {
                Special::Device(kind, major, minor) => New::Special(kind, major, minor),
                Special::Plain(kind) => New::Special(kind, 0, 0),
                Special::Other(_) => return Err(Status::BadKind),
            };
            machine
                .layer
                .make(machine.who, folder, place.name, new, set, machine.now)
        }),
        Call::Remove(place) => {
            machine.changes_file(&mut out, place.folder, |machine, folder| {
                machine
                    .layer
                    .remove(machine.who, folder, place.name, machine.now)
            });
        }
        Call::RemoveFolder(place) => {
            machine.changes_file(&mut out, place.folder, |machine, folder| {
                machine
                    .layer
                    .remove_folder(machine.who, folder, place.name, machine.now)
            });
        }
        Call::Rename { from, to } => machine.rename(&mut out, from, to),
        Call::Link { file, to } => machine.link(&mut out, file, to),
        Call::ReadFolder {
            folder,
            cookie,
            count,
        } => machine.list(&mut out, folder, *cookie, (*count, *count), false),
        Call::ReadFolderPlus {
            folder,
            cookie,
            names,
            count,
        } => machine.list(&mut out, folder, *cookie, (*names, *count), true),
        Call::Space { root } => machine.space(&mut out, root),
        Call::Limits { root } => {
            let id = machine.file(root);
            machine.of_file(&mut out, id, &id);
            if id.is_ok() {
                // Reads and writes: most, best, a multiple of; and the same for listings.
                for number in [MAX_TRANSFER, MAX_TRANSFER, 4096] {
                    out.u32(number);
                }
                for number in [MAX_TRANSFER, MAX_TRANSFER, 4096, MAX_LISTING] {
                    out.u32(number);
                }
                // The longest file, the grain of times, and what there is.
                out.u64(crate::layer::MAX_SIZE).u32(0).u32(1);
                out.u32(PROPERTIES);
            }
        }
        Call::PathLimits { file } => {
            let id = machine.file(file);
            machine.of_file(&mut out, id, &id);
            if id.is_ok() {
                // Most names of a file, longest name; longer ones are refused, only root gives files
                // away, names are told apart by case and keep it.
                out.u32(65_000).u32(255);
                out.bool(true).bool(true).bool(false).bool(true);
            }
        }
        Call::Commit { file, .. } => {
            let committed =
                machine.changes_file(&mut out, file, |machine, id| machine.layer.commit(id));
            if committed {
                out.raw(&machine.layer.write_verifier());
            }
        }
    }
    out.into_bytes()
}

/// The answer to a call that ends in this way before anything is done.
#[must_use]
pub fn refuse(call: &Call<'_>, status: Status) -> Answer {
    let mut out = Writer::new();
    if *call == Call::Null {
        return vec![];
    }
    out.u32(status as u32);
    // Attributes before and after, of as many files as the answer speaks of: none are told.
    let flags = match call {
        Call::Null | Call::GetAttributes { .. } => 0,
        Call::Rename { .. } => 4,
        Call::Link { .. } => 3,
        call if call.is_once() => 2,
        Call::Write { .. } | Call::Commit { .. } => 2,
        _ => 1,
    };
    for _ in 0..flags {
        out.bool(false);
    }
    out.into_bytes()
}

struct Machine<'a> {
    layer: &'a mut Layer,
    who: &'a Credential,
    now: Time,
}

impl Machine<'_> {
    fn file(&self, handle: &[u8]) -> Result<u64, Status> {
        self.layer.file_of(handle)
    }

    fn attributes(&self, id: Result<u64, Status>) -> Option<Attributes> {
        id.and_then(|id| self.layer.attributes(id)).ok()
    }

    /// The status, and the attributes of the file, which come in any case.
    fn of_file<T>(&self, out: &mut Writer, id: Result<u64, Status>, result: &Result<T, Status>) {
        out.u32(packet::status_number(result));
        packet::put_after(out, self.attributes(id).as_ref());
    }

    /// Changes a file, or what is in a folder: the status, and attributes before and after. Gives
    /// whether it went well.
    fn changes_file(
        &mut self,
        out: &mut Writer,
        handle: &[u8],
        change: impl FnOnce(&mut Self, u64) -> Result<(), Status>,
    ) -> bool {
        let id = self.file(handle);
        let before = self.attributes(id);
        let changed = id.and_then(|id| change(self, id));
        out.u32(packet::status_number(&changed));
        packet::put_change(out, before.as_ref(), self.attributes(id).as_ref());
        changed.is_ok()
    }

    /// Makes something in a folder.
    fn makes(
        &mut self,
        out: &mut Writer,
        place: &Place<'_>,
        make: impl FnOnce(&mut Self, u64) -> Result<u64, Status>,
    ) {
        let folder = self.file(place.folder);
        let before = self.attributes(folder);
        let made = folder.and_then(|folder| make(self, folder));
        out.u32(packet::status_number(&made));
        if let Ok(id) = made {
            out.bool(true).opaque(&self.layer.handle(id));
            packet::put_after(out, self.attributes(made).as_ref());
        }
        packet::put_change(out, before.as_ref(), self.attributes(folder).as_ref());
    }

    fn lookup(&self, out: &mut Writer, place: &Place<'_>) {
        let folder = self.file(place.folder);
        let found = folder.and_then(|folder| self.layer.lookup(self.who, folder, place.name));
        out.u32(packet::status_number(&found));
        if let Ok(id) = found {
            out.opaque(&self.layer.handle(id));
            packet::put_after(out, self.attributes(found).as_ref());
        }
        packet::put_after(out, self.attributes(folder).as_ref());
    }

    fn rename(&mut self, out: &mut Writer, from: &Place<'_>, to: &Place<'_>) {
        let folders = [self.file(from.folder), self.file(to.folder)];
        let before = folders.map(|folder| self.attributes(folder));
        let renamed = match folders {
            [Ok(one), Ok(other)] => {
                let (from, to) = ((one, from.name), (other, to.name));
                self.layer.rename(self.who, from, to, self.now)
            }
            [Err(status), _] | [_, Err(status)] => Err(status),
        };
        out.u32(packet::status_number(&renamed));
        for (folder, before) in folders.into_iter().zip(before) {
            packet::put_change(out, before.as_ref(), self.attributes(folder).as_ref());
        }
    }

    fn link(&mut self, out: &mut Writer, file: &[u8], to: &Place<'_>) {
        let (file, folder) = (self.file(file), self.file(to.folder));
        let before = self.attributes(folder);
        let linked = file.and_then(|file| {
            let folder = folder?;
            self.layer.link(self.who, file, folder, to.name, self.now)
        });
        out.u32(packet::status_number(&linked));
        packet::put_after(out, self.attributes(file).as_ref());
        packet::put_change(out, before.as_ref(), self.attributes(folder).as_ref());
    }

    fn list(
        &self,
        out: &mut Writer,
        folder: &[u8],
        cookie: u64,
        (names, count): (u32, u32),
        plus: bool,
    ) {
        let id = self.file(folder);
        let (names, count) = (names.min(MAX_LISTING), count.min(MAX_LISTING));
        // The answer counts from its status on: status, attributes, verifier, the end of the list.
        let mut left = (count as usize).saturating_sub(4 + 88 + 8 + 8);
        let mut left_names = names as usize;
        let mut entries = Writer::new();
        let mut is_end = true;
        let listed = id.and_then(|id| {
            self.layer.list(self.who, id, cookie, &mut |found| {
                let name = ENTRY + opaque_length(found.name.len());
                let takes = name + if plus { PLUS } else { 0 };
                if takes > left || name > left_names {
                    is_end = false;
                    return false;
                }
                left -= takes;
                left_names -= name;
                self.entry(&mut entries, &found, plus);
                true
            })
        });
        let listed = match listed {
            Ok(()) if entries.is_empty() && !is_end => Err(Status::TooSmall),
            listed => listed,
        };
        self.of_file(out, id, &listed);
        if listed.is_ok() {
            // Cookies stay good, so there is nothing to verify.
            out.u64(0).raw(&entries.into_bytes());
            out.bool(false).bool(is_end);
        }
    }

    fn entry(&self, out: &mut Writer, found: &Found<'_>, plus: bool) {
        out.bool(true).u64(found.id).opaque(found.name);
        out.u64(found.cookie);
        if plus {
            let attributes = self.layer.attributes(found.id).ok();
            packet::put_after(out, attributes.as_ref());
            out.bool(attributes.is_some());
            if attributes.is_some() {
                out.opaque(&self.layer.handle(found.id));
            }
        }
    }

    fn space(&self, out: &mut Writer, root: &[u8]) {
        let id = self.file(root);
        let space = id.and_then(|_| self.layer.space());
        self.of_file(out, id, &space);
        if let Ok(space) = space {
            out.u64(space.total).u64(space.free).u64(space.free);
            // Files: as many as there is room for rows.
            let files = space.free / 512;
            out.u64(space.total / 512).u64(files).u64(files);
            // Nobody else changes them.
            out.u32(0);
        }
    }
}
