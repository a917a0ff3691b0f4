//! From a plan to a mounted root.

use super::arguments::{Plan, Root};
use super::keeper::{Duty, Keeper, LeaseDuty, NbdDuty};
use super::nbd::net::NbdError;
use super::{SYSROOT, aoe, device, nbd, nfs};
use crate::boot::dhcp_client::{Identity, Terms};
use crate::log::Log;
use crate::modules;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::io;
use std::net::TcpStream;
use std::path::PathBuf;

/// Parameters of the NBD driver: some devices to begin with (more are made when they are asked for),
/// and partitions on them.
const NBD_PARAMETERS: &str = "nbds_max=4 max_part=31";

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// The server is not there, or refuses.
    #[error("cannot attach the root")]
    Nbd(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kernel did not do what was asked.
    #[error("cannot {what}")]
    Kernel {
        /// What was tried, on what.
        what: String,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// Something is not there.
    #[error("{0}")]
    Missing(String),
}

impl From<NbdError> for AttachError {
    fn from(error: NbdError) -> Self {
        Self::Nbd(Box::new(error))
    }
}

/// For errors of the kernel.
pub(crate) fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> AttachError {
    let what = what.into();
    move |source| AttachError::Kernel { what, source }
}

/// The lease that the keeper goes on with.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) identity: Identity,
    pub(crate) terms: Terms,
}

/// What is needed to attach a root.
pub(crate) struct Attach<'a> {
    pub(crate) plan: &'a Plan,
    /// The interface that it comes over, which is up.
    pub(crate) interface: &'a str,
    /// The lease of its address, where the keeper is to keep it.
    pub(crate) lease: Option<Lease>,
    pub(crate) log: &'a Log,
}

/// An attached and mounted root.
#[derive(Debug)]
pub(crate) struct Attached {
    /// What was mounted.
    pub(crate) source: String,
    backing: Backing,
}

/// What is behind a device.
#[derive(Debug)]
struct Backing {
    nbd: Option<u32>,
    keeper: Option<Keeper>,
}

impl Attached {
    /// Takes it away again.
    pub(crate) fn detach(self, log: &Log) {
        if let Err(error) = unmount(SYSROOT, UnmountFlags::DETACH) {
            log.line(format!("cannot unmount {SYSROOT}: {error}"));
        }
        self.backing.give_up(log);
    }
}

impl Backing {
    fn give_up(self, log: &Log) {
        if let Some(keeper) = self.keeper {
            keeper.end();
        }
        if let Some(index) = self.nbd
            && let Err(error) = nbd::kernel::disconnect(index)
        {
            log.line(format!("cannot give /dev/nbd{index} up: {error}"));
        }
    }
}

impl Attach<'_> {
    /// Attaches the root and mounts it at [`SYSROOT`].
    pub(crate) fn root(&self) -> Result<Attached, AttachError> {
        std::fs::create_dir_all(SYSROOT).map_err(kernel(format!("make {SYSROOT}")))?;
        if let Root::Nfs { server, path } = &self.plan.root {
            modules::for_filesystem("nfs", self.log);
            let source = nfs::source(*server, path);
            self.mount(&source, "nfs", &nfs::options(*server))?;
            let mut backing = Backing {
                nbd: None,
                keeper: None,
            };
            if let Err(error) = self.keep(&mut backing, None) {
                let source = String::new();
                Attached { source, backing }.detach(self.log);
                return Err(error);
            }
            return Ok(Attached { source, backing });
        }
        let (disk, backing) = self.disk()?;
        let mounted = device::partition(&disk, self.plan.part).and_then(|path| {
            modules::for_filesystem(&self.plan.kind, self.log);
            let source = path.to_string_lossy().into_owned();
            self.mount(&source, &self.plan.kind, "")?;
            Ok(source)
        });
        match mounted {
            Ok(source) => Ok(Attached { source, backing }),
            Err(error) => {
                backing.give_up(self.log);
                Err(error)
            }
        }
    }

    /// Attaches the device with the root, without mounting it, and returns its path.
    pub(crate) fn device(&self) -> Result<String, AttachError> {
        let (disk, backing) = self.disk()?;
        match device::partition(&disk, self.plan.part) {
            Ok(path) => Ok(path.to_string_lossy().into_owned()),
            Err(error) => {
                backing.give_up(self.log);
                Err(error)
            }
        }
    }

    /// The whole disk that the root is on.
    fn disk(&self) -> Result<(PathBuf, Backing), AttachError> {
        let mut backing = Backing {
            nbd: None,
            keeper: None,
        };
        let disk = match &self.plan.root {
            Root::Nbd { server, export } => {
                modules::load(&["nbd"], Some(("nbd", NBD_PARAMETERS)), self.log);
                let (socket, found) = nbd::net::connect(*server, export)?;
                let what = format!("make a device of {}", self.plan.root);
                let index = nbd::kernel::connect(&socket, found).map_err(kernel(what))?;
                backing.nbd = Some(index);
                let duty = NbdDuty {
                    server: *server,
                    export: export.clone(),
                    index,
                    size: found.size,
                };
                if let Err(error) = self.keep(&mut backing, Some((duty, socket))) {
                    backing.give_up(self.log);
                    return Err(error);
                }
                PathBuf::from(format!("/dev/nbd{index}"))
            }
            Root::Aoe { shelf, slot } => {
                let disk = aoe::attach(*shelf, *slot, self.interface, self.log)?;
                self.keep(&mut backing, None)?;
                disk
            }
            Root::Nfs { .. } => {
                return Err(AttachError::Missing(format!(
                    "{} is no block device; mount it as NFS",
                    self.plan.root
                )));
            }
        };
        Ok((disk, backing))
    }

    /// Starts the keeper, where there is something to keep.
    fn keep(
        &self,
        backing: &mut Backing,
        nbd: Option<(NbdDuty, TcpStream)>,
    ) -> Result<(), AttachError> {
        let (nbd, socket) = nbd.unzip();
        let lease = self.lease.clone().map(|lease| LeaseDuty {
            interface: self.interface.to_owned(),
            identity: lease.identity,
            terms: lease.terms,
        });
        let duty = Duty { lease, nbd };
        if duty.lease.is_some() || duty.nbd.is_some() {
            let keeper = Keeper::start(&duty, socket);
            backing.keeper = Some(keeper.map_err(kernel("start the keeper of the root"))?);
        }
        Ok(())
    }

    fn mount(&self, source: &str, kind: &str, options: &str) -> Result<(), AttachError> {
        let (mut flags, data) = options_of(options, &self.plan.flags);
        flags.set(MountFlags::RDONLY, !self.plan.writable);
        let mounted = || -> io::Result<()> {
            let data = CString::new(data.as_str())?;
            Ok(mount(source, SYSROOT, kind, flags, data.as_c_str())?)
        };
        mounted().map_err(kernel(format!(
            "mount {source} as {kind} (options {data:?})"
        )))
    }
}

/// Splits options into those of every filesystem, which are flags for mount(2), and those of this one.
/// What comes later counts.
fn options_of(first: &str, second: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    let all = first.split(',').chain(second.split(','));
    for option in all.filter(|option| !option.is_empty()) {
        let (flag, is_on) = match option {
            "defaults" | "auto" | "ro" | "rw" => continue,
            "noatime" => (MountFlags::NOATIME, true),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "relatime" => (MountFlags::RELATIME, true),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "lazytime" => (MountFlags::LAZYTIME, true),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "dirsync" => (MountFlags::DIRSYNC, true),
            "nosuid" => (MountFlags::NOSUID, true),
            "nodev" => (MountFlags::NODEV, true),
            "noexec" => (MountFlags::NOEXEC, true),
            "atime" => (MountFlags::NOATIME, false),
            "suid" => (MountFlags::NOSUID, false),
            "dev" => (MountFlags::NODEV, false),
            "exec" => (MountFlags::NOEXEC, false),
            "async" => (MountFlags::SYNCHRONOUS, false),
            other => {
                data.push(other);
                continue;
            }
        };
        flags.set(flag, is_on);
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_every_filesystem_are_flags() {
        let (flags, data) = options_of("vers=3,hard", "noatime,data=journal,,nodev,dev,ro");
        assert_eq!(flags, MountFlags::NOATIME);
        assert_eq!(data, "vers=3,hard,data=journal");
        assert_eq!(options_of("", ""), (MountFlags::empty(), String::new()));
    }
}
