//! Puts together what a loader is told: the plan, the device's profile and a token become a script.

mod diskless;
mod pi;

use crate::boot::{BootService, TreeError};
use crate::clients::Expected;
use crate::clock;
use crate::timeline::{Seen, session_for};
use bugler_boot::{
    Asker, BootPlan, ClientFacts, Dialect, Entry, Goal, Linux, Run, Target, Values, agent_cmdline,
    fill, fill_line, render,
};
use bugler_model::{
    Arch, Boots, Device, EventKind, Firmware, MacAddr, Outcome, Presence, Profile, ProfileName,
    SessionId, Stage, Timestamp,
};
use bugler_store::{Sighting, StoreError, TokenHash};
use std::net::{IpAddr, Ipv4Addr};

/// Who asks for a script, and how.
struct Asking<'a> {
    mac: MacAddr,
    address: Option<Ipv4Addr>,
    dialect: Dialect,
    server: &'a str,
    picked: Option<&'a ProfileName>,
}

fn broken(error: StoreError) -> TreeError {
    TreeError::Broken(clock::chain(&error))
}

impl BootService {
    /// The script of a client in its loader's language.
    pub(crate) async fn script(
        &self,
        peer: IpAddr,
        host: Option<&str>,
        dialect: Dialect,
        asker: &Asker,
        picked: Option<ProfileName>,
    ) -> Result<Vec<u8>, TreeError> {
        let mac = self.who(peer, asker)?;
        let host = host.filter(|host| safe_host(host)).ok_or_else(|| {
            TreeError::Broken("the request did not say by which address it reached us".into())
        })?;
        let server = format!("http://{host}");
        let address = match peer.to_canonical() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let asking = Asking {
            mac,
            address,
            dialect,
            server: &server,
            picked: picked.as_ref(),
        };
        // A script of U-Boot's only sends it on to its configuration.
        if dialect == Dialect::UBoot {
            let label = self
                .store
                .find_client(mac, None)
                .map_or_else(|| mac.to_string(), |device| device.label());
            let target = asking.target(&label, Firmware::UBoot);
            let nothing = Run::Wait { why: String::new() };
            return Ok(render(dialect, target, &nothing));
        }
        self.render_for(&asking).await
    }

    /// Which interface asks.
    fn who(&self, peer: IpAddr, asker: &Asker) -> Result<MacAddr, TreeError> {
        let known = self.clients.mac_of(peer);
        let Asker::Mac(mac) = asker else {
            return known.ok_or_else(|| {
                TreeError::NotFound(format!(
                    "{peer} asked for its configuration, and no DHCP request told whose address that \
                     is"
                ))
            });
        };
        if self.clients.may_act_for(peer, *mac) {
            return Ok(*mac);
        }
        let text = format!("{peer} asked for the script of {mac}, which is not its interface");
        self.note(EventKind::Boot, Some(*mac), text.clone());
        Err(TreeError::NotFound(text))
    }

    async fn render_for(&self, asking: &Asking<'_>) -> Result<Vec<u8>, TreeError> {
        let now = clock::now();
        let mac = asking.mac;
        // A path names the interface at most, which may be borrowed; DHCP told the machine's UUID.
        let uuid = self.clients.facts(mac).and_then(|facts| facts.uuid);
        let known = self.store.find_client(mac, uuid);
        let facts = self.script_facts(asking, known.as_deref());
        let firmware = facts.firmware.unwrap_or(Firmware::IpxeBios);
        if let Some(address) = asking.address {
            self.clients.learn_address(address, mac);
        }
        let sighting = Sighting {
            mac,
            uuid: facts.uuid,
            arch: facts.arch,
            firmware: known.and_then(|device| device.firmware).or(facts.firmware),
        };
        let observed = self.store.observe(sighting, now).await.map_err(broken)?;
        let device = observed.device;
        let plan = self.decide(&facts, Some(&device), asking.address);
        let session = session_for(&*self.store, &device, facts.firmware, now)
            .await
            .map_err(broken)?;
        if let Some(address) = asking.address
            && plan.goal != Goal::Local
        {
            self.recorder.see(Seen::Fetching {
                mac,
                stage: Stage::Script,
                address,
                at: now,
            });
        }
        let run = match self.profile(&plan, asking.picked)? {
            Ok(profile) => {
                self.run(asking, &device, &profile, &plan.why, session, now)
                    .await?
            }
            Err(why) => Run::Wait { why },
        };
        if let Run::Local { .. } = &run {
            self.sent_to_disk(&device, session, now).await?;
        }
        let label = device.label();
        Ok(render(
            asking.dialect,
            asking.target(&label, firmware),
            &run,
        ))
    }

    /// The profile that the plan means, or the one that was picked from its menu; else why there is
    /// none.
    fn profile(
        &self,
        plan: &BootPlan,
        picked: Option<&ProfileName>,
    ) -> Result<Result<Profile, String>, TreeError> {
        let policy = self.store.boot_policy();
        if plan.goal == Goal::None {
            return Ok(Err(plan.why.clone()));
        }
        let Some(planned) = plan.profile.as_ref().and_then(|name| policy.profile(name)) else {
            return Ok(Err(plan.why.clone()));
        };
        let Some(picked) = picked else {
            return Ok(Ok(planned));
        };
        let offered = match &planned.boots {
            Boots::Menu { entries, .. } => entries.iter().any(|entry| entry.profile == *picked),
            _ => false,
        };
        match policy.profile(picked) {
            Some(profile) if offered => Ok(Ok(profile)),
            _ => Err(TreeError::NotFound(format!(
                "{picked} is no entry of the menu that this device boots"
            ))),
        }
    }

    async fn run(
        &self,
        asking: &Asking<'_>,
        device: &Device,
        profile: &Profile,
        why: &str,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Run, TreeError> {
        let values = || Values::new(device, asking.mac, asking.address, asking.server);
        match &profile.boots {
            Boots::Local => Ok(Run::Local { why: why.into() }),
            Boots::Agent => self.agent(asking, device, session).await,
            Boots::Linux {
                kernel,
                initrd,
                cmdline,
            } => {
                let filled = || {
                    let values = values();
                    let file = |what: &str, template: &String| {
                        fill_line(what, template, &values).map(|path| in_tree(&path))
                    };
                    Ok(Linux {
                        kernel: file("kernel", kernel)?,
                        initrd: initrd
                            .iter()
                            .map(|template| file("initrd", template))
                            .collect::<Result<_, _>>()?,
                        cmdline: fill_line("cmdline", cmdline, &values)?,
                    })
                };
                let filled: Result<Linux, bugler_boot::TemplateError> = filled();
                match filled {
                    Ok(linux) => {
                        let expected = Expected {
                            kernel: linux.kernel.clone(),
                            initrd: linux.initrd.clone(),
                            last: linux.initrd.last().unwrap_or(&linux.kernel).clone(),
                        };
                        self.clients.expect(asking.mac, Some(expected));
                        Ok(Run::Linux(linux))
                    }
                    Err(error) => Ok(self.mistake(asking.mac, profile, &error.to_string())),
                }
            }
            Boots::Diskless(wanted) => {
                self.diskless(asking, device, profile, wanted, session, now)
                    .await
            }
            Boots::Script {
                ipxe,
                pxelinux,
                grub,
            } => {
                let (language, script) = match asking.dialect {
                    Dialect::Ipxe => ("ipxe", ipxe),
                    Dialect::Grub => ("grub", grub),
                    Dialect::Pxelinux | Dialect::UBoot => ("pxelinux", pxelinux),
                };
                let Some(template) = script else {
                    let why = format!("it has no script in the language of {language}");
                    return Ok(self.mistake(asking.mac, profile, &why));
                };
                match fill(language, template, &values()) {
                    Ok(text) => {
                        let mac = asking.mac;
                        self.recorder.see(Seen::Started { mac, at: now });
                        Ok(Run::Raw(text))
                    }
                    Err(error) => Ok(self.mistake(asking.mac, profile, &error.to_string())),
                }
            }
            Boots::Menu {
                title,
                entries,
                default,
                timeout,
            } => {
                let wanted =
                    |entry: &bugler_model::MenuEntry| Some(&entry.profile) == default.as_ref();
                Ok(Run::Menu {
                    title: title.clone(),
                    default: entries.iter().position(wanted).unwrap_or(0),
                    timeout: *timeout,
                    entries: entries
                        .iter()
                        .map(|entry| Entry {
                            label: entry.label.clone(),
                            profile: entry.profile.clone(),
                        })
                        .collect(),
                })
            }
        }
    }

    /// A profile that cannot be booted: the operator is told, and the machine asks again.
    fn mistake(&self, mac: MacAddr, profile: &Profile, why: &str) -> Run {
        let why = format!("the profile {} cannot be booted: {why}", profile.name);
        self.note(EventKind::Boot, Some(mac), why.clone());
        Run::Wait { why }
    }

    async fn agent(
        &self,
        asking: &Asking<'_>,
        device: &Device,
        session: SessionId,
    ) -> Result<Run, TreeError> {
        // A 32-bit UEFI, and a BIOS, boot the 64-bit kernel.
        let arch = match self.clients.facts(asking.mac).and_then(|facts| facts.arch) {
            Some(Arch::Aarch64) => Arch::Aarch64,
            None if device.arch == Some(Arch::Aarch64) => Arch::Aarch64,
            _ => Arch::X86_64,
        };
        let Some(version) = self.bootenv(arch) else {
            let why = format!("there is no boot environment for {arch} yet: waiting for one");
            self.note(EventKind::Boot, Some(asking.mac), why.clone());
            return Ok(Run::Wait { why });
        };
        let token = new_token();
        let hash = TokenHash(*blake3::hash(token.as_bytes()).as_bytes());
        self.store
            .set_boot_token(session, hash)
            .await
            .map_err(broken)?;
        let folder = format!("bootenv/{}/{version}", folder_of(arch));
        let label = device.label();
        let target = asking.target(&label, Firmware::IpxeBios);
        Ok(Run::Linux(Linux {
            kernel: format!("{folder}/vmlinuz"),
            initrd: vec![format!("{folder}/initrd")],
            cmdline: agent_cmdline(
                target,
                &token,
                self.places.key().as_deref(),
                self.places.cmdline(arch),
            ),
        }))
    }

    async fn sent_to_disk(
        &self,
        device: &Device,
        session: SessionId,
        now: Timestamp,
    ) -> Result<(), TreeError> {
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
            .map_err(broken)
    }

    /// Who asks for a script: the loader, on the firmware that the client last told of.
    fn script_facts(&self, asking: &Asking<'_>, device: Option<&Device>) -> ClientFacts {
        let heard = self.clients.facts(asking.mac);
        let told = heard
            .as_ref()
            .and_then(|facts| facts.firmware)
            .or_else(|| device.and_then(|device| device.firmware));
        let uefi = told.is_some_and(Firmware::is_uefi);
        let arch = heard
            .as_ref()
            .and_then(|facts| facts.arch)
            .or_else(|| device.and_then(|device| device.arch));
        let firmware = match asking.dialect {
            Dialect::Ipxe if uefi => Firmware::IpxeUefi,
            Dialect::Ipxe => Firmware::IpxeBios,
            Dialect::Grub => Firmware::UefiPxe,
            Dialect::UBoot => Firmware::UBoot,
            Dialect::Pxelinux if told == Some(Firmware::UBoot) => Firmware::UBoot,
            Dialect::Pxelinux => Firmware::BiosPxe,
        };
        let default = if uefi { Arch::X86_64 } else { Arch::X86 };
        let mut facts =
            ClientFacts::of_script_request(asking.mac, firmware, arch.or(Some(default)));
        facts.uuid = heard.and_then(|facts| facts.uuid);
        facts
    }
}

impl Asking<'_> {
    fn target<'a>(&'a self, label: &'a str, firmware: Firmware) -> Target<'a> {
        Target {
            label,
            mac: self.mac,
            firmware,
            server: self.server,
            picked: self.picked,
        }
    }
}

/// A file of a profile as a path of the boot tree; URLs stay as they are.
fn in_tree(path: &str) -> String {
    if path.starts_with("http://") || path.starts_with("https://") {
        path.to_owned()
    } else {
        format!("files/{path}")
    }
}

/// The folder of an architecture's boot environments.
fn folder_of(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => "aarch64",
        _ => "x86_64",
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
fn new_token() -> String {
    let mut bytes = [0; 32];
    // The kernel's generator does not fail once the machine has booted.
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_header_cannot_write_a_script() {
        assert!(safe_host("10.0.0.1:8480") && safe_host("boot.lab") && safe_host("[fe80::1]:80"));
        for bad in ["", "a b", "a\nshell", "${x}", "a/b", &"a".repeat(256)] {
            assert!(!safe_host(bad), "{bad:?}");
        }
    }

    #[test]
    fn files_are_in_the_tree_and_urls_are_not() {
        assert_eq!(in_tree("debian/linux"), "files/debian/linux");
        assert_eq!(in_tree("http://a.example/linux"), "http://a.example/linux");
    }
}
