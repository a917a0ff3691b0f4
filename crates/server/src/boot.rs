//! Serves the boot tree: asks [`bugler_boot::plan`] and hands out what it decided.
//!
//! DHCP, TFTP and HTTP reach it through small adapters at their own sockets; what a client is
//! given is decided here and in `bugler_boot`, nowhere else. What a loader is told is put together
//! in [`crate::scripts`].

use crate::clients::{Clients, Expected};
use crate::clock;
use crate::diskless::Diskless;
use crate::loaders::Loaders;
use crate::timeline::{Recorder, Seen};
use bugler_api::ServerKeys;
use bugler_boot::{
    BootAction, BootPlan, ClientFacts, Goal, Node, Question, Verdict, is_expected_to_miss,
    parse_path, plan, weigh,
};
use bugler_model::{Arch, Device, EventKind, MacAddr, OfferShape, Stage};
use bugler_store::Store;
use bytes::Bytes;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// Why a path of the boot tree gives nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// The tree has no such path, or this client may not have it.
    #[error("{0}")]
    NotFound(String),
    /// It should be there.
    #[error("{0}")]
    Broken(String),
    /// It is being made: who asks again will get it.
    #[error("{0}")]
    Later(String),
}

/// What a path of the boot tree holds.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file that does not change while it exists.
    File(PathBuf),
}

impl Content {
    /// All of it.
    async fn read(&self) -> Result<Bytes, TreeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => match tokio::fs::read(path).await {
                Ok(bytes) => Ok(bytes.into()),
                Err(error) => Err(TreeError::Broken(format!(
                    "could not read {}: {error}",
                    path.display()
                ))),
            },
        }
    }
}

/// Where the boot tree's files are.
pub(crate) struct Places {
    /// The boot loaders.
    pub(crate) loaders: Loaders,
    /// The boot environments: a folder for each architecture, in it one for each version.
    pub(crate) bootenvs: PathBuf,
    /// The operator's own files.
    pub(crate) files: PathBuf,
    /// Files for Raspberry Pis, the first that has one counts.
    pub(crate) pi: Arc<Vec<bugler_pifiles::Source>>,
    /// Boot loader updates that wait for Raspberry Pis: a folder for each device.
    pub(crate) eeproms: PathBuf,
    /// More kernel arguments for the boot environment.
    pub(crate) cmdline: String,
    /// The same for 64-bit Arm.
    pub(crate) cmdline_arm64: String,
    /// Machines that run from the network; `None` in tests that have none.
    pub(crate) diskless: Option<Arc<Diskless>>,
    /// The keys that images are signed by; `None` in tests that start no agent.
    pub(crate) keys: Option<Arc<ServerKeys>>,
}

impl Places {
    /// The public key that agents are started with.
    pub(crate) fn key(&self) -> Option<String> {
        Some(self.keys.as_ref()?.public().to_string())
    }

    /// More kernel arguments for the boot environment of this architecture.
    pub(crate) fn cmdline(&self, arch: Arch) -> &str {
        match arch {
            Arch::Aarch64 => &self.cmdline_arm64,
            _ => &self.cmdline,
        }
    }
}

/// The boot tree, and the memory of who asked for it.
pub(crate) struct BootService {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) recorder: Recorder,
    pub(crate) clients: Clients,
    pub(crate) places: Places,
    bootenvs: RwLock<Vec<(Arch, String)>>,
}

impl BootService {
    pub(crate) fn new(store: Arc<dyn Store>, recorder: Recorder, places: Places) -> Self {
        Self {
            store,
            recorder,
            clients: Clients::default(),
            places,
            bootenvs: RwLock::default(),
        }
    }

    /// Sets the version of the boot environment that machines of this architecture get from now on.
    pub(crate) fn set_bootenv(&self, arch: Arch, version: String) {
        let mut known = self
            .bootenvs
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        known.retain(|(other, _)| *other != arch);
        known.push((arch, version));
    }

    /// The version of the boot environment that machines of this architecture get.
    #[must_use]
    pub(crate) fn bootenv(&self, arch: Arch) -> Option<String> {
        let known = self.bootenvs.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .find(|(other, _)| *other == arch)
            .map(|(_, version)| version.clone())
    }

    /// The one place where the decision is asked for.
    pub(crate) fn decide(
        &self,
        facts: &ClientFacts,
        device: Option<&Device>,
        from: Option<Ipv4Addr>,
    ) -> BootPlan {
        self.ask(facts, device, from, plan)
    }

    /// What becomes of each rule for a client.
    pub(crate) fn weigh(
        &self,
        facts: &ClientFacts,
        device: Option<&Device>,
        from: Option<Ipv4Addr>,
    ) -> Vec<Verdict> {
        self.ask(facts, device, from, weigh)
    }

    fn ask<T>(
        &self,
        facts: &ClientFacts,
        device: Option<&Device>,
        from: Option<Ipv4Addr>,
        answer: impl Fn(&Question<'_>) -> T,
    ) -> T {
        answer(&Question {
            facts,
            device,
            policy: &self.store.boot_policy(),
            from,
            loaders: self.places.loaders.names(),
            unanswered: self.clients.unanswered(facts.mac),
        })
    }

    /// Decides for a DHCP request, and puts it on the timeline. `from` is an address of the network
    /// that it asks from. Does not wait.
    pub(crate) fn advise(
        &self,
        facts: &ClientFacts,
        message: &'static str,
        from: Ipv4Addr,
    ) -> BootPlan {
        let device = self.store.find_client(facts.mac, facts.uuid);
        let plan = self.decide(facts, device.as_deref(), Some(from));
        if facts.firmware.is_some() {
            let now = clock::now();
            self.clients.learn(facts, plan.shape, message, now);
            self.recorder.see(Seen::Asked {
                facts: facts.clone(),
                message,
                plan: plan.clone(),
                at: now,
            });
        }
        plan
    }

    /// The tags of the device that asks.
    pub(crate) fn tags(&self, facts: &ClientFacts) -> Vec<String> {
        let device = self.store.find_client(facts.mac, facts.uuid);
        device.map(|device| device.tags.clone()).unwrap_or_default()
    }

    /// Whether `peer` may act for the interface `mac`.
    pub(crate) fn may_act_for(&self, peer: IpAddr, mac: MacAddr) -> bool {
        self.clients.may_act_for(peer, mac)
    }

    /// Whether iPXE asked by DHCP from this interface a moment ago.
    pub(crate) fn is_ipxe_now(&self, mac: MacAddr) -> bool {
        self.clients.is_ipxe_now(mac, clock::now())
    }

    /// Notes which client uses an address.
    pub(crate) fn learn_address(&self, address: Ipv4Addr, mac: MacAddr) {
        self.clients.learn_address(address, mac);
    }

    /// Says something on the timeline of whoever has this MAC address.
    pub(crate) fn note(&self, kind: EventKind, mac: Option<MacAddr>, text: String) {
        self.recorder.see(Seen::Note {
            kind,
            mac,
            text,
            at: clock::now(),
        });
    }

    /// A path of the tree; `host` is how the client calls the device plane of this server.
    pub(crate) async fn open(
        &self,
        peer: IpAddr,
        host: Option<&str>,
        path: &str,
    ) -> Result<Content, TreeError> {
        let Some(node) = parse_path(path) else {
            return self.pi_file(peer, host, path).await;
        };
        match node {
            Node::Script {
                dialect,
                asker,
                picked,
            } => {
                let script = self.script(peer, host, dialect, &asker, picked).await?;
                Ok(Content::Bytes(script.into()))
            }
            Node::Loader(name) => {
                let loader = self.places.loaders.get(name).ok_or_else(|| {
                    TreeError::NotFound(format!(
                        "the server does not have the loader {name}: install {}",
                        bugler_boot::package_of(name)
                    ))
                })?;
                self.fetching(peer, Stage::Loader);
                let Some((address, mac)) = host.and_then(|host| self.to_tell(peer, host, name))
                else {
                    return Ok(loader.clone());
                };
                let image = loader.read().await?;
                let told = bugler_boot::told_where_to_ask(&image, address, mac);
                Ok(Content::Bytes(told.map_or(image, Bytes::from)))
            }
            Node::Bootenv {
                arch,
                version,
                file,
            } => {
                let stage = if file == "vmlinuz" {
                    Stage::Kernel
                } else {
                    Stage::Initramfs
                };
                self.fetching(peer, stage);
                let folder = self.places.bootenvs.join(arch).join(version);
                Ok(Content::File(folder.join(file)))
            }
            Node::Diskless {
                arch,
                version,
                file,
            } => {
                let stage = if file == "vmlinuz" {
                    Stage::Kernel
                } else {
                    Stage::Initramfs
                };
                self.fetching(peer, stage);
                Ok(Content::File(self.diskless_file(&arch, &version, file)?))
            }
            Node::File(name) => {
                let file = self.places.files.join(&name);
                // Links are followed: the folder and what is in it are the operator's.
                if !file.is_file() {
                    return Err(TreeError::NotFound(format!(
                        "there is no {name} in the folder of boot files, {}",
                        self.places.files.display()
                    )));
                }
                // An installer that runs already fetches files as well.
                let expected = self.expected(peer);
                if let Some(stage) = expected.and_then(|files| files.stage(&path_of(path))) {
                    self.fetching(peer, stage);
                }
                Ok(Content::File(file))
            }
        }
    }

    /// What to tell GRUB where it is the first program, by which address this server is asked and for
    /// which interface: by itself it asks who gave its address, which a proxy did not, and finds
    /// nothing over HTTP. Behind shim it is left as it is signed.
    fn to_tell(&self, peer: IpAddr, host: &str, name: &str) -> Option<(Ipv4Addr, MacAddr)> {
        if !name.starts_with("grub") {
            return None;
        }
        let mac = self.clients.mac_of(peer)?;
        let facts = self.clients.facts(mac)?;
        let device = self.store.find_client(mac, facts.uuid);
        let from = match peer.to_canonical() {
            IpAddr::V4(from) => Some(from),
            IpAddr::V6(_) => None,
        };
        let (BootAction::Tftp(first) | BootAction::Http(first)) =
            self.decide(&facts, device.as_deref(), from).action
        else {
            return None;
        };
        let address = host.rsplit_once(':').map_or(host, |(address, _)| address);
        let address = (first == name).then(|| address.parse().ok())??;
        Some((address, mac))
    }

    fn boots_agent(&self, mac: MacAddr) -> bool {
        let Some(facts) = self.clients.facts(mac) else {
            return false;
        };
        let device = self.store.find_client(mac, facts.uuid);
        self.decide(&facts, device.as_deref(), None).goal == Goal::Agent
    }

    fn expected(&self, peer: IpAddr) -> Option<Expected> {
        self.clients.expected(self.clients.mac_of(peer)?)
    }

    pub(crate) fn fetching(&self, peer: IpAddr, stage: Stage) {
        let IpAddr::V4(address) = peer.to_canonical() else {
            return;
        };
        if let Some(mac) = self.clients.mac_of(peer) {
            let at = clock::now();
            // It took what it was offered: that is how this firmware is to be answered.
            if let Some(shape) = self.clients.answered(mac)
                && shape != OfferShape::Standard
            {
                self.recorder.see(Seen::Took { mac, shape, at });
            }
            self.recorder.see(Seen::Fetching {
                mac,
                stage,
                address,
                at,
            });
        }
    }

    /// Notes that a transfer of the boot tree ended.
    pub(crate) fn delivered(&self, peer: IpAddr, path: &str, text: String, complete: bool) {
        let Some(mac) = self.clients.mac_of(peer) else {
            return;
        };
        let last = self
            .clients
            .expected(mac)
            .is_some_and(|expected| expected.last == path_of(path));
        let stage = match parse_path(path) {
            Some(Node::Bootenv { file: "initrd", .. }) if complete => Some(Stage::Start),
            Some(Node::File(_) | Node::Diskless { .. }) | None if complete && last => {
                Some(Stage::Start)
            }
            None if is_expected_to_miss(path) => return,
            _ => None,
        };
        let at = clock::now();
        self.recorder.see(Seen::Fetched {
            mac,
            stage,
            text,
            at,
        });
        if complete && last {
            self.clients.expect(mac, None);
            // An agent tells of itself.
            if !self.boots_agent(mac) {
                self.recorder.see(Seen::Started { mac, at });
            }
        }
    }
}

/// A path as it is written without a leading slash, and with slashes.
fn path_of(path: &str) -> String {
    path.replace('\\', "/").trim_start_matches('/').to_owned()
}
