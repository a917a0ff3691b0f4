//! An identity of its own: files of the root filesystem, and the GUIDs of the partition table.

use super::root::Root;
use super::{PersonalizeError, Place, guids, keys, root, text};
use crate::disk::{Access, Target};
use crate::mounted::{Found, Mounted, Purpose};
use bugler_fsread::{SurveyOptions, survey};
use bugler_model::{Identity, Seed};
use rustix::fs::FileType;
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// Largest text that is changed, in bytes.
pub(super) const MAX_TEXT: u64 = 1 << 20;

/// Where cloud-init looks for a seed of its data source NoCloud.
const SEED: &str = "var/lib/cloud/seed/nocloud";

/// The host key that is made, and its public half. One of Ed25519 is enough: OpenSSH's programs know it
/// since version 6.5 (2014), and prefer it. Those of RSA and ECDSA are removed all the same, because
/// every machine of the image has them.
const HOST_KEY: [&str; 2] = ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"];

/// Random bytes of the kernel, once it has enough of them to start with.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

/// Gives the machine what `identity` asks for.
pub(super) fn run(place: Place<'_>, identity: &Identity) -> Result<(), PersonalizeError> {
    if let Some(name) = identity
        .hostname
        .as_deref()
        .filter(|n| !text::is_hostname(n))
    {
        return Err(PersonalizeError::Refused {
            what: "its host name",
            why: format!("{name:?} is none (letters, digits and hyphens, in labels of up to 63)"),
        });
    }
    let target = Target::open(place.disk, Access::Read)?;
    let found =
        survey(&target, place.sector_size, &SurveyOptions::default()).map_err(|source| {
            PersonalizeError::Survey {
                disk: place.disk.into(),
                source,
            }
        })?;
    drop(target);
    let has_files = identity.hostname.is_some()
        || identity.machine_id
        || identity.ssh_host_keys
        || identity.seed.is_some();
    let root = match has_files || identity.gpt_guids {
        true => root::find(place, &found.parts)?,
        false => return Ok(()),
    };
    // What cannot be done is found out before anything is changed.
    let guids = match identity.gpt_guids {
        true => Some(guids::plan(place, &found, &root)?),
        false => None,
    };
    if has_files {
        let mut files = Files::open(place, &root)?;
        if identity.seed.is_some() {
            files.has_seed_folder()?;
        }
        if identity.ssh_host_keys {
            files.takes_host_key()?;
        }
        if let Some(name) = &identity.hostname {
            files.hostname(name)?;
        }
        if identity.machine_id {
            files.machine_id()?;
        }
        if identity.ssh_host_keys {
            files.ssh_host_keys(identity.hostname.as_deref())?;
        }
        if let Some(seed) = &identity.seed {
            files.seed(seed)?;
        }
        files.finish(&root)?;
    }
    place.check_halt()?;
    match guids {
        Some(guids) => guids.apply(place),
        None => Ok(()),
    }
}

/// A mounted filesystem of the image, and what was written into it.
pub(super) struct Files<'a> {
    place: Place<'a>,
    mounted: Mounted,
    part: String,
    written: Vec<(String, Vec<u8>)>,
}

impl<'a> Files<'a> {
    fn open(place: Place<'a>, root: &Root) -> Result<Self, PersonalizeError> {
        let mounted = root.mount(place, Purpose::Write)?;
        Ok(Self::new(place, mounted, place.name(&root.part)))
    }

    pub(super) fn new(place: Place<'a>, mounted: Mounted, part: String) -> Self {
        Self {
            place,
            mounted,
            part,
            written: Vec::new(),
        }
    }

    fn failed(
        &self,
        action: &'static str,
        path: &str,
    ) -> impl FnOnce(io::Error) -> PersonalizeError {
        let (path, part) = (path.to_owned(), self.part.clone());
        move |source| PersonalizeError::File {
            action,
            path,
            part,
            source,
        }
    }

    fn say(&self, line: impl AsRef<str>) {
        self.place
            .log
            .line(format!("{}: {}", self.part, line.as_ref()));
    }

    fn read(&self, path: &str) -> Result<Option<Found>, PersonalizeError> {
        self.mounted
            .read(path, MAX_TEXT)
            .map_err(self.failed("read", path))
    }

    fn read_text(&self, path: &str) -> Result<Option<(String, u32)>, PersonalizeError> {
        let found = self.read(path)?;
        Ok(found.map(|f| (String::from_utf8_lossy(&f.content).into_owned(), f.mode)))
    }

    pub(super) fn write(
        &mut self,
        path: &str,
        content: &[u8],
        mode: u32,
    ) -> Result<(), PersonalizeError> {
        self.mounted
            .write(path, content, mode)
            .map_err(self.failed("write", path))?;
        self.written.push((path.to_owned(), content.to_vec()));
        Ok(())
    }

    fn hostname(&mut self, name: &str) -> Result<(), PersonalizeError> {
        let old = self.read_text("etc/hostname")?;
        let old_name = old.as_ref().and_then(|(text, _)| {
            let mut lines = text.lines().map(str::trim);
            lines.find(|line| !line.is_empty() && !line.starts_with('#'))
        });
        let (hosts, mode) = self
            .read_text("etc/hosts")?
            .unwrap_or((String::new(), 0o644));
        let hosts = text::hosts(&hosts, old_name, name);
        self.write("etc/hostname", format!("{name}\n").as_bytes(), 0o644)?;
        self.write("etc/hosts", hosts.as_bytes(), mode)?;
        self.say(format!("its host name is {name}"));
        Ok(())
    }

    /// machine-id(5): 32 hexadecimal digits, as of a random UUID (version 4, variant 1).
    fn machine_id(&mut self) -> Result<(), PersonalizeError> {
        let bytes = random().map_err(self.failed("make up a number for", "etc/machine-id"))?;
        let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let line = format!("{}\n", id.simple());
        self.write("etc/machine-id", line.as_bytes(), 0o444)?;
        // Mostly a link to the other. As a file of its own it would be the old one.
        let bus = "var/lib/dbus/machine-id";
        let is_own = self.mounted.is_plain_file(bus);
        if is_own.map_err(self.failed("look at", bus))? {
            self.write(bus, line.as_bytes(), 0o644)?;
        }
        self.say("it has a new machine-id");
        Ok(())
    }

    /// Refuses where the SSH server would not start, because its configuration names host keys and not
    /// the one that is made. (One that is named and not there is no error to it, if there is another.)
    fn takes_host_key(&self) -> Result<(), PersonalizeError> {
        let folder = "etc/ssh/sshd_config.d";
        let more = self.mounted.list(folder);
        let more = more.map_err(self.failed("look at", folder))?;
        let more = more
            .iter()
            .filter(|(name, kind)| *kind != FileType::Directory && name.ends_with(".conf"))
            .map(|(name, _)| format!("{folder}/{name}"));
        let mut named = Vec::new();
        for path in std::iter::once("etc/ssh/sshd_config".to_owned()).chain(more) {
            if let Some((config, _)) = self.read_text(&path)? {
                named.extend(text::host_keys(&config).map(str::to_owned));
            }
        }
        let own = format!("/etc/ssh/{}", HOST_KEY[0]);
        if named.is_empty() || named.contains(&own) {
            return Ok(());
        }
        Err(PersonalizeError::Refused {
            what: "SSH host keys of its own",
            why: format!(
                "its SSH server is told to use {}, and a key of Ed25519 alone is made; name {own} in \
                 the image's etc/ssh/sshd_config, or deploy without new host keys",
                named.join(" and ")
            ),
        })
    }

    fn ssh_host_keys(&mut self, name: Option<&str>) -> Result<(), PersonalizeError> {
        let folder = "etc/ssh";
        let found = self.mounted.list(folder);
        let found = found.map_err(self.failed("look at", folder))?;
        let is_key = |name: &str| {
            let kind = name.strip_prefix("ssh_host_");
            kind.is_some_and(|kind| {
                ["_key", "_key.pub", "_key-cert.pub"]
                    .iter()
                    .any(|end| kind.ends_with(end))
            })
        };
        let old: Vec<&str> = found
            .iter()
            .filter(|(name, kind)| *kind != FileType::Directory && is_key(name))
            .map(|(name, _)| name.as_str())
            .collect();
        let has_server = self.mounted.is_file("etc/ssh/sshd_config");
        let has_server = has_server.map_err(self.failed("look at", "etc/ssh/sshd_config"))?;
        if old.is_empty() && !has_server {
            self.say("it has no SSH server, and gets no host keys");
            return Ok(());
        }
        let random = || -> io::Result<([u8; 32], [u8; 4])> { Ok((random()?, random()?)) };
        let (seed, check) = random().map_err(self.failed("make up a key for", folder))?;
        let comment = format!("root@{}", name.unwrap_or("localhost"));
        let key = keys::ed25519(&seed, u32::from_be_bytes(check), &comment);
        let new = HOST_KEY;
        // The new one comes before the old ones go: the server starts with either.
        for (name, content, mode) in [(new[0], &key.private, 0o600), (new[1], &key.public, 0o644)] {
            self.write(&format!("{folder}/{name}"), content.as_bytes(), mode)?;
        }
        let mut removed = Vec::new();
        for name in old.into_iter().filter(|name| !new.contains(name)) {
            self.mounted
                .remove(folder, name)
                .map_err(self.failed("remove", &format!("{folder}/{name}")))?;
            if name.ends_with("_key") {
                removed.push(name);
            }
        }
        self.say("it has a new SSH host key (Ed25519)");
        if !removed.is_empty() {
            let removed = removed.join(", ");
            self.say(format!(
                "{removed} of the image are removed; clients of OpenSSH 6.5 and later know Ed25519"
            ));
        }
        Ok(())
    }

    /// Refuses where what is written would be hidden when the system runs.
    fn has_seed_folder(&self) -> Result<(), PersonalizeError> {
        let fstab = self.read_text("etc/fstab")?;
        let fstab = fstab.map(|(text, _)| text).unwrap_or_default();
        match text::mounted_at(&fstab, &format!("/{SEED}")) {
            None => Ok(()),
            Some(over) => Err(PersonalizeError::Refused {
                what: "a seed for cloud-init",
                why: format!(
                    "its /etc/fstab mounts another filesystem at {over}, which would hide it"
                ),
            }),
        }
    }

    fn seed(&mut self, seed: &Seed) -> Result<(), PersonalizeError> {
        self.mounted
            .make_folders(SEED)
            .map_err(self.failed("make the folder", SEED))?;
        let network = seed.network_config.as_deref();
        for (name, content) in [
            ("user-data", Some(seed.user_data.as_str())),
            ("meta-data", Some(seed.meta_data.as_str())),
            ("network-config", network),
        ] {
            let path = format!("{SEED}/{name}");
            let is_there = self.mounted.is_plain_file(&path);
            match content {
                Some(content) => self.write(&path, content.as_bytes(), 0o600)?,
                None if is_there.map_err(self.failed("look at", &path))? => self
                    .mounted
                    .remove(SEED, name)
                    .map_err(self.failed("remove", &path))?,
                None => {}
            }
        }
        self.say("it has a seed for cloud-init");
        let program = self.mounted.is_file("usr/bin/cloud-init");
        if !program.map_err(self.failed("look at", "usr/bin/cloud-init"))? {
            self.say("there is no usr/bin/cloud-init that would read the seed");
        }
        Ok(())
    }

    /// Has everything written to the disk, and gives what was written.
    pub(super) fn close(self) -> Result<Vec<(String, Vec<u8>)>, PersonalizeError> {
        self.mounted.sync().map_err(self.failed("flush", ""))?;
        Ok(self.written)
    }

    /// Closes the filesystem and reads from the disk what was written into it.
    fn finish(self, root: &Root) -> Result<(), PersonalizeError> {
        let place = self.place;
        let written = self.close()?;
        let mounted = root.mount(place, Purpose::Read)?;
        check(&mounted, &place.name(&root.part), written)
    }
}

/// Reads what was written, after the filesystem has been mounted anew.
pub(super) fn check(
    mounted: &Mounted,
    part: &str,
    written: Vec<(String, Vec<u8>)>,
) -> Result<(), PersonalizeError> {
    for (path, content) in written {
        let limit = content.len() as u64;
        let part = part.to_owned();
        match mounted.read(&path, limit) {
            Ok(Some(found)) if found.content == content => {}
            Ok(_) => return Err(PersonalizeError::NotHeld { path, part }),
            Err(source) => {
                return Err(PersonalizeError::File {
                    action: "read again",
                    path,
                    part,
                    source,
                });
            }
        }
    }
    Ok(())
}
