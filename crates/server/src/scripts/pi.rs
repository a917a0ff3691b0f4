//! Serves Raspberry Pis: they ask for files that they know by heart, in a folder of their own.
//!
//! `config.txt` and `cmdline.txt` are rendered; kernel, initramfs and device tree come from what the
//! device boots; all else comes from the sources that the operator chose.

use super::{Asking, broken};
use crate::boot::{BootService, Content, TreeError};
use crate::clients::Expected;
use crate::clock;
use crate::timeline::session_for;
use bugler_boot::pi::{
    self, BootFiles, Family, File, Identity, Layout, Request, candidates, size_warning,
};
use bugler_boot::{BootPlan, ClientFacts, Dialect, Goal, Linux, Node, Run, parse_path};
use bugler_model::{Arch, Boots, Device, Diskless, EventKind, Firmware, MacAddr, Profile, Stage};
use bugler_pifiles::Found;
use bugler_store::Sighting;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

/// What the kernel is called that `config.txt` tells a board to load, and the initramfs.
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd";

/// The block size that all boot loaders of these four years ask for, for warnings.
const BLKSIZE: u16 = 1468;

/// A board that asks, and what is decided for it.
struct Board {
    identity: Identity,
    facts: ClientFacts,
    device: Option<Arc<Device>>,
    address: Option<Ipv4Addr>,
    plan: BootPlan,
}

impl BootService {
    /// A file for a Raspberry Pi.
    pub(crate) async fn pi_file(
        &self,
        peer: IpAddr,
        host: Option<&str>,
        path: &str,
    ) -> Result<Content, TreeError> {
        let missing = || TreeError::NotFound(format!("the boot tree has no {path:?}"));
        let request = Request::parse(path).ok_or_else(missing)?;
        let board = self.board(peer, &request).ok_or_else(missing)?;
        if matches!(board.plan.goal, Goal::None | Goal::Local) {
            return Err(TreeError::NotFound(board.plan.why));
        }
        let mac = board.identity.mac;
        let stage = match (request.file, request.name.as_str()) {
            // After it a 3B asks by DHCP again: a stage here would make that another boot.
            (_, "bootcode.bin") => None,
            (File::Firmware, _) => Some(Stage::Loader),
            (File::Config | File::Cmdline, _) => Some(Stage::Script),
            (_, KERNEL) => Some(Stage::Kernel),
            (_, INITRD) => Some(Stage::Initramfs),
            _ => None,
        };
        let found = self
            .pi_content(&board, &request, path, host)
            .await?
            .ok_or_else(missing)?;
        if let Some(stage) = stage {
            self.fetching(peer, stage);
        }
        let size = match &found {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File(file) => file.metadata().map_or(0, |metadata| metadata.len()),
        };
        if let Some(text) = size_warning(board.identity.family, &request.name, size, BLKSIZE) {
            self.note(EventKind::Boot, Some(mac), text);
        }
        Ok(found)
    }

    /// Whether a file that is not there is one that a board asks for as a matter of course.
    pub(crate) fn pi_misses(&self, peer: IpAddr, path: &str) -> bool {
        let Some(request) = Request::parse(path) else {
            return false;
        };
        let board = self.board(peer, &request);
        board.is_some_and(|board| {
            request.missing_is_normal(board.identity.family, &[KERNEL, INITRD])
                || matches!(board.plan.goal, Goal::None | Goal::Local)
        })
    }

    fn board(&self, peer: IpAddr, request: &Request) -> Option<Board> {
        let mac = self.clients.mac_of(peer)?;
        let heard = self.clients.facts(mac).filter(|facts| facts.pi.is_some());
        let identity = heard.as_ref().and_then(|facts| facts.pi);
        let identity = identity.or_else(|| Identity::of(mac, None))?;
        request.may_be_of(&identity).then_some(())?;
        let facts = heard.unwrap_or_else(|| {
            ClientFacts::of_script_request(mac, Firmware::RaspberryPi, Some(Arch::Aarch64))
        });
        let address = match peer.to_canonical() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let device = self.store.find_client(mac, facts.uuid);
        Some(Board {
            plan: self.decide(&facts, device.as_deref(), address),
            identity,
            facts,
            device,
            address,
        })
    }

    async fn pi_content(
        &self,
        board: &Board,
        request: &Request,
        path: &str,
        host: Option<&str>,
    ) -> Result<Option<Content>, TreeError> {
        match (request.file, request.name.as_str()) {
            (File::Config, _) => {
                let theirs = self.pi_text(board, request).await?;
                let linux = self.pi_linux(board, None).await?;
                let files = BootFiles {
                    initramfs: (!linux.initrd.is_empty()).then_some(INITRD),
                    ..BootFiles::new(KERNEL)
                };
                let text = pi::config_txt(&files, theirs.as_deref());
                self.pi_rendered(board, text).map(Some)
            }
            (File::Cmdline, _) => {
                let theirs = self.pi_text(board, request).await?;
                let host = host.ok_or_else(|| {
                    TreeError::Broken(
                        "the request did not say by which address it reached us".into(),
                    )
                })?;
                let linux = self.pi_linux(board, Some(host)).await?;
                let folder = path.strip_suffix(&request.name).unwrap_or_default();
                // The last file, after which the kernel starts: a 5 takes the initramfs last.
                let takes_initrd_last =
                    board.identity.family == Family::Pi5 && !linux.initrd.is_empty();
                let last = if takes_initrd_last { INITRD } else { KERNEL };
                let file = |name: &str| format!("{}{name}", folder.trim_start_matches('/'));
                let expected = Expected {
                    kernel: file(KERNEL),
                    initrd: vec![file(INITRD)],
                    last: file(last),
                };
                self.clients.expect(board.identity.mac, Some(expected));
                let text = pi::merged_cmdline(&linux.cmdline, theirs.as_deref());
                self.pi_rendered(board, text).map(Some)
            }
            (File::Kernel, KERNEL) => {
                let linux = self.pi_linux(board, None).await?;
                self.pi_part(board, &linux.kernel).map(Some)
            }
            (File::Initramfs, INITRD) => {
                let linux = self.pi_linux(board, None).await?;
                let initrd = linux.initrd.first();
                initrd.map(|initrd| self.pi_part(board, initrd)).transpose()
            }
            // The image's own would look for a root on the card: without ours the board has to stop.
            (File::Kernel | File::Initramfs, _) if self.pi_diskless(board).is_some() => Ok(None),
            (File::DeviceTree, _) => match self.bootenv_tree(request) {
                // With a profile's own kernel the operator's device tree counts.
                Some(tree) if board.plan.goal == Goal::Agent => Ok(Some(Content::File(tree))),
                tree => Ok(self
                    .pi_source(board, request)
                    .await?
                    .or(tree.map(Content::File))),
            },
            (File::SelfUpdate, name) => {
                let waits = match &board.device {
                    Some(device) => self.eeprom_file(device.id, board.identity.family, name),
                    None => Ok(None),
                };
                match waits {
                    Ok(Some(file)) => Ok(Some(file)),
                    Ok(None) => self.pi_source(board, request).await,
                    Err(error) => {
                        self.note(EventKind::Boot, Some(board.identity.mac), error.to_string());
                        Err(error)
                    }
                }
            }
            _ => self.pi_source(board, request).await,
        }
    }

    /// What the board boots: paths of the boot tree, and the kernel's arguments. With `host` a token is
    /// made for this boot; the arguments are there only then.
    async fn pi_linux(&self, board: &Board, host: Option<&str>) -> Result<Linux, TreeError> {
        let wait = |why: String| {
            self.note(EventKind::Boot, Some(board.identity.mac), why.clone());
            Err(TreeError::NotFound(why))
        };
        let profile: Profile = match self.profile(&board.plan, None)? {
            Ok(profile) => profile,
            Err(why) => return wait(why),
        };
        if host.is_none() && profile.boots == Boots::Agent {
            let Some(version) = self.bootenv(Arch::Aarch64) else {
                return wait("there is no boot environment for 64-bit Arm yet".into());
            };
            let folder = format!("bootenv/aarch64/{version}");
            return Ok(Linux {
                kernel: format!("{folder}/vmlinuz"),
                initrd: vec![format!("{folder}/initrd")],
                cmdline: String::new(),
            });
        }
        let now = clock::now();
        let sighting = Sighting {
            mac: board.identity.mac,
            uuid: board.facts.uuid,
            arch: board.facts.arch,
            firmware: board.facts.firmware,
        };
        let device = match &board.device {
            Some(device) => device.clone(),
            None => {
                let observed = self.store.observe(sighting, now).await;
                observed.map_err(broken)?.device
            }
        };
        let session = session_for(&*self.store, &device, board.facts.firmware, now).await;
        let server = format!("http://{}", host.unwrap_or_default());
        let asking = Asking {
            mac: board.identity.mac,
            address: board.address,
            // No language of a loader fits; a profile that is a script has none for this board.
            dialect: Dialect::Pxelinux,
            server: &server,
            picked: None,
        };
        if matches!(profile.boots, Boots::Script { .. } | Boots::Menu { .. }) {
            let name = &profile.name;
            return wait(format!(
                "the profile {name} is a script or a menu, and a Raspberry Pi takes neither: choose \
                 the agent, or a profile with a kernel"
            ));
        }
        let session = session.map_err(broken)?;
        let why = &board.plan.why;
        match self
            .run(&asking, &device, &profile, why, session, now)
            .await?
        {
            Run::Linux(linux) if linux.initrd.len() < 2 => Ok(linux),
            Run::Linux(_) => wait(format!(
                "the profile {} has several initramfs files, and a Raspberry Pi takes one",
                profile.name
            )),
            Run::Wait { why } => Err(TreeError::NotFound(why)),
            _ => wait(format!("the profile {} boots no kernel", profile.name)),
        }
    }

    /// A path of the boot tree as a file.
    fn pi_part(&self, board: &Board, path: &str) -> Result<Content, TreeError> {
        let file = match parse_path(path) {
            Some(Node::Bootenv {
                arch,
                version,
                file,
            }) => self.places.bootenvs.join(arch).join(version).join(file),
            Some(Node::Diskless {
                arch,
                version,
                file,
            }) => self.diskless_file(&arch, &version, file)?,
            Some(Node::File(name)) => self.places.files.join(name),
            _ => {
                let why = format!(
                    "a Raspberry Pi cannot load {path}: put the file into the folder of boot files, {}",
                    self.places.files.display()
                );
                self.note(EventKind::Boot, Some(board.identity.mac), why.clone());
                return Err(TreeError::NotFound(why));
            }
        };
        Ok(Content::File(file))
    }

    /// The device tree of the boot environment's own kernel.
    fn bootenv_tree(&self, request: &Request) -> Option<PathBuf> {
        let version = self.bootenv(Arch::Aarch64)?;
        let folder = self
            .places
            .bootenvs
            .join("aarch64")
            .join(version)
            .join("dtbs");
        let names = candidates(request, &Layout::Folder).into_iter();
        names
            .map(|name| folder.join(name))
            .find(|file| file.is_file())
    }

    /// A text file of the operator's sources.
    async fn pi_text(&self, board: &Board, request: &Request) -> Result<Option<String>, TreeError> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(match self.pi_source(board, request).await? {
            Some(Content::Bytes(bytes)) => Some(text(&bytes)),
            Some(Content::File(path)) => {
                let read = tokio::fs::read(&path).await;
                let bytes = read.map_err(|error| {
                    TreeError::Broken(format!("could not read {}: {error}", path.display()))
                })?;
                Some(text(&bytes))
            }
            None => None,
        })
    }

    /// What a board without a disk runs, where that is what it boots.
    fn pi_diskless(&self, board: &Board) -> Option<Diskless> {
        match self.profile(&board.plan, None) {
            Ok(Ok(Profile {
                boots: Boots::Diskless(wanted),
                ..
            })) => Some(wanted),
            _ => None,
        }
    }

    /// A file of the sources, the first that has it: the operator's own folder, the image that the board
    /// runs where it has no disk, what else the operator chose.
    async fn pi_source(
        &self,
        board: &Board,
        request: &Request,
    ) -> Result<Option<Content>, TreeError> {
        let image = match self.pi_diskless(board) {
            Some(wanted) => self.image_files(board.device.as_deref(), &wanted).await?,
            None => None,
        };
        let (sources, request) = (self.places.pi.clone(), request.clone());
        let find = move || {
            let (first, others) = sources.split_at(sources.len().min(1));
            for source in first.iter().chain(&image).chain(others) {
                if let Some(found) = source.find(&request)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        };
        let found: Result<_, bugler_pifiles::SourceError> = tokio::task::spawn_blocking(find)
            .await
            .map_err(|error| TreeError::Broken(error.to_string()))?;
        Ok(
            match found.map_err(|error| TreeError::Broken(clock::chain(&error)))? {
                Some(Found::File(path, _)) => Some(Content::File(path)),
                Some(Found::Bytes(bytes)) => Some(Content::Bytes(bytes.into())),
                None => None,
            },
        )
    }

    fn pi_rendered(
        &self,
        board: &Board,
        text: Result<String, pi::RenderError>,
    ) -> Result<Content, TreeError> {
        let mac: MacAddr = board.identity.mac;
        match text {
            Ok(text) => Ok(Content::Bytes(text.into())),
            Err(error) => {
                let text = error.to_string();
                self.note(EventKind::Boot, Some(mac), text.clone());
                Err(TreeError::Broken(text))
            }
        }
    }
}
