//! What a machine without a disk is told.

use super::{Asking, broken, new_token};
use crate::boot::{BootService, TreeError};
use crate::clients::Expected;
use crate::clock;
use bugler_boot::{Linux, Root, Run, agent_cmdline, fill_line, root_cmdline};
use bugler_diskless::{PrepareError, Ready, Start, StartError};
use bugler_model::{
    Device, Diskless, DisklessStart, ExportProtocol, Firmware, MacAddr, Profile, SessionId,
    Timestamp,
};
use bugler_pifiles::Source;
use bugler_store::TokenHash;
use std::path::PathBuf;

/// What starts a machine, as paths of the boot tree.
fn files_of(start: &Start) -> Linux {
    let folder = format!("diskless/{}/{}", start.arch, start.version);
    Linux {
        kernel: format!("{folder}/vmlinuz"),
        initrd: vec![format!("{folder}/initrd")],
        cmdline: String::new(),
    }
}

impl BootService {
    /// Gives the device its root, and says how it gets there.
    pub(super) async fn diskless(
        &self,
        asking: &Asking<'_>,
        device: &Device,
        profile: &Profile,
        wanted: &Diskless,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Run, TreeError> {
        let Some(roots) = &self.places.diskless else {
            return Ok(self.mistake(asking.mac, profile, "this server has no diskless machines"));
        };
        let values = super::Values::new(device, asking.mac, asking.address, asking.server);
        let more = match fill_line("cmdline", &wanted.cmdline, &values) {
            Ok(more) => more,
            Err(error) => return Ok(self.mistake(asking.mac, profile, &error.to_string())),
        };
        if let Err(why) = roots.serve(wanted.over).await {
            let why = format!("roots over {} are not served: {why}", wanted.over);
            return Ok(self.mistake(asking.mac, profile, &why));
        }
        // A Raspberry Pi asks for its files one by one; its arguments begin the boot.
        if asking.server == "http://" {
            return self.parts_of(asking.mac, device, profile, wanted).await;
        }
        let token = new_token();
        let ready = roots.service.prepare(device.id, wanted, &token, now).await;
        let ready = match ready {
            Ok(ready) => ready,
            Err(PrepareError::Start(StartError::NotYet(kernel))) => {
                let why = format!("the initramfs for the kernel {kernel} is being made");
                return Ok(Run::Wait { why });
            }
            Err(error) => {
                return Ok(self.mistake(asking.mac, profile, &clock::chain(&error)));
            }
        };
        // The agent tells with it that it has the root.
        let hash = TokenHash(*blake3::hash(token.as_bytes()).as_bytes());
        self.store
            .set_boot_token(session, hash)
            .await
            .map_err(broken)?;
        Ok(self.start_of(asking, device, wanted, &ready, &token, &more))
    }

    /// The files that start a device, without a boot that begins.
    async fn parts_of(
        &self,
        mac: MacAddr,
        device: &Device,
        profile: &Profile,
        wanted: &Diskless,
    ) -> Result<Run, TreeError> {
        let Some(roots) = &self.places.diskless else {
            return Ok(self.mistake(mac, profile, "this server has no diskless machines"));
        };
        match roots.service.start_of(device.id, wanted).await {
            Ok(Some(start)) => Ok(Run::Linux(files_of(&start))),
            Ok(None) => {
                let why = "a Raspberry Pi does not start a boot sector: let the agent start it";
                Ok(self.mistake(mac, profile, why))
            }
            // A board that is told that a file is not there goes on without it.
            Err(PrepareError::Start(error @ StartError::NotYet(_))) => {
                Err(TreeError::Later(error.to_string()))
            }
            Err(error) => Ok(self.mistake(mac, profile, &clock::chain(&error))),
        }
    }

    /// The boot files in the image of a Raspberry Pi that runs from it.
    pub(super) async fn image_files(
        &self,
        device: Option<&Device>,
        wanted: &Diskless,
    ) -> Result<Option<Source>, TreeError> {
        let Some(roots) = &self.places.diskless else {
            return Ok(None);
        };
        let source = roots
            .service
            .boot_files(device.map(|device| device.id), wanted)
            .await;
        source.map_err(|error| TreeError::Broken(clock::chain(&error)))
    }

    fn start_of(
        &self,
        asking: &Asking<'_>,
        device: &Device,
        wanted: &Diskless,
        ready: &Ready,
        token: &str,
        more: &str,
    ) -> Run {
        let (Some(start), Some(root)) = (&ready.start, &ready.root) else {
            return Run::Sanboot {
                uri: format!("aoe:{}", ready.export.aoe_address),
            };
        };
        let label = device.label();
        let target = asking.target(&label, Firmware::IpxeBios);
        let roots = self.places.diskless.as_ref();
        let (nbd, nfs) = roots.map_or((0, 0), |roots| (roots.nbd_port, roots.nfs_port));
        let place = Root {
            over: ready.export.over,
            port: match ready.export.over {
                ExportProtocol::Nbd => nbd,
                ExportProtocol::Nfs => nfs,
                ExportProtocol::Aoe => 0,
            },
            name: token,
            aoe: ready.export.aoe_address,
            part: root.part,
            kind: root.kind,
        };
        let key = self.places.key();
        let agent = agent_cmdline(target, token, key.as_deref(), more);
        let mut cmdline = root_cmdline(target, &place, &agent);
        if wanted.start == DisklessStart::Image {
            // Initramfs of distributions look for a root by themselves otherwise.
            cmdline = format!("boot=bugler root=/dev/bugler-root {cmdline}");
        }
        let linux = Linux {
            cmdline,
            ..files_of(start)
        };
        let expected = Expected {
            kernel: linux.kernel.clone(),
            initrd: linux.initrd.clone(),
            last: linux.initrd.last().unwrap_or(&linux.kernel).clone(),
        };
        self.clients.expect(asking.mac, Some(expected));
        Run::Linux(linux)
    }

    /// A file that diskless machines are started with.
    pub(crate) fn diskless_file(
        &self,
        arch: &str,
        version: &str,
        file: &str,
    ) -> Result<PathBuf, TreeError> {
        let missing = || TreeError::NotFound("this server has no diskless machines".into());
        let roots = self.places.diskless.as_ref().ok_or_else(missing)?;
        let folder = roots.service.starts().dir();
        Ok(folder.join(arch).join(version).join(file))
    }
}
