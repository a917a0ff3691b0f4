//! Serves the boot tree: asks [`bugler_boot::plan`] and hands out what it decided.
//!
//! DHCP, TFTP and HTTP reach it through small adapters at their own sockets; what a client is
//! given is decided here and in `bugler_boot`, nowhere else.

use crate::clients::Clients;
use crate::clock;
use crate::timeline::{Recorder, Seen, session_for};
use bugler_boot::{
    AgentBoot, BootPlan, ClientFacts, Goal, Node, agent_script, local_script, parse_path, plan,
};
use bugler_model::{Device, EventKind, Firmware, MacAddr, Outcome, Presence, Stage};
use bugler_store::{Sighting, Store, TokenHash};
use bytes::Bytes;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

/// Loaders that must be there when the server starts.
const LOADERS: [&str; 2] = ["undionly.kpxe", "snponly.efi"];

/// A loader is a few hundred kilobytes; more than this is another file by the same name.
const LARGEST_LOADER: u64 = 16 << 20;

/// Why a path of the boot tree gives nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// The tree has no such path, or this client may not have it.
    #[error("{0}")]
    NotFound(String),
    /// It should be there.
    #[error("{0}")]
    Broken(String),
}

/// What a path of the boot tree holds.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file that does not change while it exists.
    File(PathBuf),
}

/// The boot tree, and the memory of who asked for it.
pub(crate) struct BootService {
    store: Arc<dyn Store>,
    recorder: Recorder,
    clients: Clients,
    loaders: Vec<(&'static str, Bytes)>,
    bootenvs: PathBuf,
    bootenv: RwLock<Option<String>>,
    cmdline: String,
}

impl BootService {
    /// Reads the loaders.
    ///
    /// # Errors
    /// Where one is missing: machines could not be booted, so that is better known at the start.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        recorder: Recorder,
        loaders: &Path,
        bootenvs: PathBuf,
        cmdline: String,
    ) -> anyhow::Result<Self> {
        let loaders = LOADERS
            .into_iter()
            .map(|name| Ok((name, read_loader(&loaders.join(name))?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            store,
            recorder,
            clients: Clients::default(),
            loaders,
            bootenvs,
            bootenv: RwLock::default(),
            cmdline,
        })
    }

    /// Sets the version of the boot environment that machines get from now on.
    pub(crate) fn set_bootenv(&self, version: String) {
        *self
            .bootenv
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(version);
    }

    /// The version of the boot environment that machines get.
    #[must_use]
    pub(crate) fn bootenv(&self) -> Option<String> {
        self.bootenv
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Decides for a DHCP request, and puts it on the timeline. Does not wait.
    pub(crate) fn advise(&self, facts: &ClientFacts, message: &'static str) -> BootPlan {
        let device = self.store.find_client(facts.mac, facts.uuid);
        let plan = plan(facts, device.as_deref());
        if facts.firmware.is_some() {
            self.clients.learn(facts, clock::now());
            self.recorder.see(Seen::Asked {
                facts: facts.clone(),
                message,
                plan: plan.clone(),
                at: clock::now(),
            });
        }
        plan
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

    /// A path of the tree that needs no rendering.
    fn open_static(&self, peer: IpAddr, path: &str) -> Result<Content, TreeError> {
        let missing = || TreeError::NotFound(format!("the boot tree has no {path:?}"));
        match parse_path(path).ok_or_else(missing)? {
            Node::Loader(name) => {
                let (_, bytes) = self
                    .loaders
                    .iter()
                    .find(|(known, _)| *known == name)
                    .ok_or_else(missing)?;
                self.fetching(peer, Stage::Loader);
                Ok(Content::Bytes(bytes.clone()))
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
                Ok(Content::File(
                    self.bootenvs.join(arch).join(version).join(file),
                ))
            }
            // Rendered by `open`, the only caller.
            Node::Script(_) => Err(missing()),
        }
    }

    /// A path of the tree; `host` is how the client calls the device plane of this server.
    pub(crate) async fn open(
        &self,
        peer: IpAddr,
        host: Option<&str>,
        path: &str,
    ) -> Result<Content, TreeError> {
        match parse_path(path) {
            Some(Node::Script(mac)) => {
                let script = self.script(peer, host, mac).await?;
                Ok(Content::Bytes(script.into_bytes().into()))
            }
            _ => self.open_static(peer, path),
        }
    }

    fn fetching(&self, peer: IpAddr, stage: Stage) {
        let IpAddr::V4(address) = peer.to_canonical() else {
            return;
        };
        if let Some(mac) = self.clients.mac_of(peer) {
            self.recorder.see(Seen::Fetching {
                mac,
                stage,
                address,
                at: clock::now(),
            });
        }
    }

    /// Notes that a transfer of the boot tree ended.
    pub(crate) fn delivered(&self, peer: IpAddr, path: &str, text: String, complete: bool) {
        let Some(mac) = self.clients.mac_of(peer) else {
            return;
        };
        let stage = match parse_path(path) {
            Some(Node::Bootenv { file: "initrd", .. }) if complete => Some(Stage::Start),
            _ => None,
        };
        self.recorder.see(Seen::Fetched {
            mac,
            stage,
            text,
            at: clock::now(),
        });
    }

    async fn script(
        &self,
        peer: IpAddr,
        host: Option<&str>,
        mac: MacAddr,
    ) -> Result<String, TreeError> {
        let broken = |error: bugler_store::StoreError| TreeError::Broken(clock::chain(&error));
        if !self.clients.may_act_for(peer, mac) {
            let text = format!("{peer} asked for the script of {mac}, which is not its interface");
            self.note(EventKind::Boot, Some(mac), text.clone());
            return Err(TreeError::NotFound(text));
        }
        let now = clock::now();
        // The path names the interface alone, which may be borrowed; DHCP told the machine's UUID.
        let uuid = self.clients.facts(mac).and_then(|facts| facts.uuid);
        let known = self.store.find_client(mac, uuid);
        let facts = self.script_facts(mac, known.as_deref());
        if let IpAddr::V4(address) = peer.to_canonical() {
            self.clients.learn_address(address, mac);
        }
        let sighting = Sighting {
            mac,
            uuid: facts.uuid,
            arch: facts.arch,
            firmware: known.and_then(|d| d.firmware).or(facts.firmware),
        };
        let device = self
            .store
            .observe(sighting, now)
            .await
            .map_err(broken)?
            .device;
        let plan = plan(&facts, Some(&device));
        let session = session_for(&*self.store, &device, facts.firmware, now)
            .await
            .map_err(broken)?;
        let firmware = facts.firmware.unwrap_or(Firmware::IpxeBios);
        if plan.goal != Goal::Agent {
            self.store
                .reach_stage(session, Stage::Local, now)
                .await
                .map_err(broken)?;
            self.store
                .end_session(session, Outcome::Local, now)
                .await
                .map_err(broken)?;
            self.store
                .set_presence(device.id, Presence::Local, now)
                .await
                .map_err(broken)?;
            return Ok(local_script(firmware, &plan.why));
        }
        if let IpAddr::V4(address) = peer.to_canonical() {
            self.recorder.see(Seen::Fetching {
                mac,
                stage: Stage::Script,
                address,
                at: now,
            });
        }
        let host = host.filter(|host| safe_host(host)).ok_or_else(|| {
            TreeError::Broken("the request did not say by which address it reached us".into())
        })?;
        let Some(bootenv) = self.bootenv() else {
            let text = "no boot environment has been built yet; the machine asks again".to_owned();
            self.note(EventKind::Boot, Some(mac), text);
            return Ok(format!(
                "#!ipxe\necho Bugler: the boot environment is still being built\nsleep 3\n\
                 chain http://{host}/boot/ipxe/{mac}\n"
            ));
        };
        let token = new_token();
        let hash = TokenHash(*blake3::hash(token.as_bytes()).as_bytes());
        self.store
            .set_boot_token(session, hash)
            .await
            .map_err(broken)?;
        Ok(agent_script(&AgentBoot {
            label: &device.label(),
            mac,
            server: &format!("http://{host}"),
            token: &token,
            bootenv: &bootenv,
            cmdline: &self.cmdline,
        }))
    }

    /// Who fetches a script: iPXE, on the firmware that the client last told of.
    fn script_facts(&self, mac: MacAddr, device: Option<&Device>) -> ClientFacts {
        let heard = self.clients.facts(mac);
        let uefi = heard
            .as_ref()
            .and_then(|facts| facts.firmware)
            .or_else(|| device.and_then(|device| device.firmware))
            .is_some_and(Firmware::is_uefi);
        let arch = heard
            .as_ref()
            .and_then(|f| f.arch)
            .or_else(|| device.and_then(|d| d.arch));
        let firmware = if uefi {
            Firmware::IpxeUefi
        } else {
            Firmware::IpxeBios
        };
        let default = if uefi {
            bugler_model::Arch::X86_64
        } else {
            bugler_model::Arch::X86
        };
        let mut facts = ClientFacts::of_script_request(mac, firmware, arch.or(Some(default)));
        facts.uuid = heard.and_then(|facts| facts.uuid);
        facts
    }
}

/// A `Host` header that may stand in a script: a name or address and a port, nothing else.
fn safe_host(host: &str) -> bool {
    (1..=255).contains(&host.len())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
}

/// 32 random bytes in hex.
pub(crate) fn new_token() -> String {
    let mut bytes = [0; 32];
    // The kernel's generator does not fail once the machine has booted.
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn read_loader(path: &Path) -> anyhow::Result<Bytes> {
    let tell = |why: String| {
        anyhow::anyhow!(
            "the boot loader {} {why}: install Debian's package `ipxe`, or say in which folder the \
             loaders are ([boot] loaders = \"...\" in the configuration file)",
            path.display()
        )
    };
    let meta =
        std::fs::metadata(path).map_err(|error| tell(format!("cannot be read ({error})")))?;
    if !meta.is_file() || meta.len() == 0 || meta.len() > LARGEST_LOADER {
        return Err(tell(format!("is not a boot loader ({} bytes)", meta.len())));
    }
    let bytes = std::fs::read(path).map_err(|error| tell(format!("cannot be read ({error})")))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_loader_says_which_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = read_loader(&dir.path().join("snponly.efi"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("snponly.efi") && error.contains("package `ipxe`"),
            "{error}"
        );
        std::fs::write(dir.path().join("undionly.kpxe"), b"").unwrap();
        assert!(read_loader(&dir.path().join("undionly.kpxe")).is_err());
    }

    #[test]
    fn a_host_header_cannot_write_a_script() {
        assert!(safe_host("10.0.0.1:8480") && safe_host("boot.lab") && safe_host("[fe80::1]:80"));
        for bad in ["", "a b", "a\nshell", "${x}", "a/b", &"a".repeat(256)] {
            assert!(!safe_host(bad), "{bad:?}");
        }
    }
}
