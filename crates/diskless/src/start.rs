//! What a diskless machine is started with: a kernel of its image, and an initramfs that brings it to
//! its root.
//!
//! They are kept as boot environments are, `<dir>/<arch>/<version>/{vmlinuz,initrd}`, and shared by all
//! machines that start the same kernel with the same agent. Those that no machine starts any more are
//! removed: they would be made again.

use crate::root::{Kernel, RootError, System};
use crate::uses::Uses;
use bugler_bootenv::{BootEnv, BuildOptions, KernelSource};
use bugler_model::{Arch, DeviceId};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a root needs beside the network and its disks: every way to reach it, and the filesystems that
/// roots are on.
const MODULES: [&str; 8] = [
    "nbd", "aoe", "nfs", "nfsv3", "ext4", "xfs", "vfat", "overlay",
];

/// What the names of unfinished work begin with.
const WORK: &str = ".kernel-";

/// Why machines cannot be started from an image yet.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What is in the image does not do.
    #[error(transparent)]
    Root(#[from] RootError),
    /// It does, and the initramfs could not be made.
    #[error("could not make an initramfs for the kernel {version}: {why}")]
    Build {
        /// The kernel's version.
        version: String,
        /// Why.
        why: String,
    },
    /// It is being made.
    #[error("the initramfs for the kernel {0} is being made: a few seconds more")]
    NotYet(String),
}

/// How to find the agent for an architecture.
pub type FindAgent = Arc<dyn Fn(Arch) -> Result<PathBuf, String> + Send + Sync>;

/// Makes and keeps kernels with their initramfs.
pub struct Starts {
    dir: PathBuf,
    find_agent: FindAgent,
    firmware: Option<PathBuf>,
    busy: Mutex<HashMap<String, Option<String>>>,
    /// Held while one is looked up, so that it is not removed before that is noted.
    uses: Mutex<Uses>,
}

/// A kernel and an initramfs, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The folder of its architecture.
    pub arch: &'static str,
    /// Its version, the name of its folder.
    pub version: String,
    /// The kernel's version.
    pub kernel: String,
}

impl Starts {
    /// Keeps them in `dir`. `firmware` is a folder such as `/lib/firmware`.
    #[must_use]
    pub fn new(dir: PathBuf, find_agent: FindAgent, firmware: Option<PathBuf>) -> Self {
        // What a server that was killed left of its work.
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(WORK) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Self {
            uses: Mutex::new(Uses::open(dir.with_extension("uses"))),
            dir,
            find_agent,
            firmware,
            busy: Mutex::default(),
        }
    }

    /// The folder that they are in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What starts the system with the agent as its initramfs. It is made where there is none yet, which
    /// takes many seconds: then, and while another call makes it, that is the answer. Blocks.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn with_agent(self: &Arc<Self>, system: &System<'_>) -> Result<Start, StartError> {
        let kernel = system.kernel()?;
        {
            let mut uses = self.uses();
            if let Some(env) = self.known(&kernel) {
                let start = start_of(&env);
                uses.asked_for(start.path());
                return Ok(start);
            }
        }
        let key = blake3::hash(&kernel.image).to_hex().to_string();
        {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            match busy.get(&key) {
                Some(None) => return Err(StartError::NotYet(kernel.version)),
                Some(Some(_)) => {
                    // The failure is told once; the next one who asks tries again.
                    let why = busy.remove(&key).flatten().unwrap_or_default();
                    return Err(StartError::Build {
                        version: kernel.version,
                        why,
                    });
                }
                None => busy.insert(key.clone(), None),
            };
        }
        let work = match self.take_out(system, &kernel) {
            Ok(work) => work,
            Err(error) => {
                self.ended(&key, None);
                return Err(error);
            }
        };
        let (own, version) = (self.clone(), kernel.version.clone());
        std::thread::Builder::new()
            .name("diskless-initramfs".into())
            .spawn(move || {
                let built = own.build(&kernel, work.path());
                own.ended(&key, built.err());
            })
            .map_err(|error| StartError::Build {
                version: version.clone(),
                why: error.to_string(),
            })?;
        Err(StartError::NotYet(version))
    }

    /// What starts the system with its own initramfs, with what one of Debian's kind needs to reach its
    /// root put behind it. Blocks.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn with_own(&self, system: &System<'_>) -> Result<Start, StartError> {
        let kernel = system.kernel()?;
        let mut initrd = system.initramfs(&kernel.version)?;
        let failed = |why: String| StartError::Build {
            version: kernel.version.clone(),
            why,
        };
        let arch = bugler_bootenv::arch_of_kernel(&kernel.image)
            .ok_or_else(|| failed("its kernel is neither an x86 nor a 64-bit Arm one".into()))?;
        // One that initramfs-tools has made learns from it how to attach a root; others ignore it.
        let agent = (self.find_agent)(arch).map_err(failed)?;
        let hooks =
            bugler_bootenv::hook_archive(&agent).map_err(|error| failed(error.to_string()))?;
        bugler_bootenv::append(&mut initrd, &hooks);
        let arch = bugler_bootenv::arch_name(arch);
        let mut hasher = blake3::Hasher::new();
        hasher.update(blake3::hash(&kernel.image).as_bytes());
        hasher.update(&initrd);
        let stamp: String = hasher.finalize().to_hex().chars().take(8).collect();
        let version = format!("{}+own-{stamp}", kernel.version);
        let parent = self.dir.join(arch);
        let folder = parent.join(&version);
        let mut uses = self.uses();
        uses.asked_for(format!("{arch}/{version}"));
        if !folder.exists() {
            let write = || -> std::io::Result<()> {
                fs::create_dir_all(&parent)?;
                let work = tempfile::Builder::new()
                    .prefix(WORK)
                    .tempdir_in(&self.dir)?;
                fs::write(work.path().join("vmlinuz"), &kernel.image)?;
                fs::write(work.path().join("initrd"), &initrd)?;
                fs::rename(work.path(), &folder)
            };
            write().map_err(|error| failed(error.to_string()))?;
        }
        Ok(Start {
            arch,
            version,
            kernel: kernel.version,
        })
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device boots with this; `None`: by itself, from its boot sector. Blocks.
    pub(crate) fn boots(&self, device: DeviceId, start: Option<&Start>) {
        if let Err(error) = self.uses().boots(device, start.map(Start::path)) {
            tracing::warn!("what {device} was started with could not be noted: {error}");
        }
    }

    /// Removes what none of `devices`, those that run without a disk, was started with at its latest
    /// boot, and nobody has asked for in the last `grace`. Returns what was removed, as
    /// `<arch>/<version>`. Blocks.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn prune(
        &self,
        devices: &BTreeSet<DeviceId>,
        grace: Duration,
    ) -> std::io::Result<Vec<String>> {
        let mut uses = self.uses();
        let mut removed = Vec::new();
        for path in uses.unused(&self.dir, devices, grace)? {
            // Under another name first: what is removed in part must not be found.
            let gone = tempfile::Builder::new()
                .prefix(WORK)
                .tempdir_in(&self.dir)?;
            fs::rename(&path, gone.path().join("unused"))?;
            let name = path.strip_prefix(&self.dir).unwrap_or(&path);
            removed.push(name.display().to_string());
        }
        Ok(removed)
    }

    fn ended(&self, key: &str, failure: Option<String>) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            Some(why) => {
                tracing::warn!("an initramfs for diskless machines was not made: {why}");
                busy.insert(key.to_owned(), Some(why));
            }
            None => {
                busy.remove(key);
            }
        }
    }

    /// One of this kernel with the agent that machines get now.
    fn known(&self, kernel: &Kernel) -> Option<BootEnv> {
        let hash = blake3::hash(&kernel.image).to_hex().to_string();
        let all = bugler_bootenv::list(&self.dir).ok()?;
        let mut fitting = all
            .into_iter()
            .filter(|env| env.sources.kernel_hash == hash);
        fitting.find(|env| match (self.find_agent)(env.arch) {
            Ok(agent) => fs::read(agent).is_ok_and(|bytes| {
                blake3::hash(&bytes).to_hex().as_str() == env.sources.agent_hash
            }),
            Err(_) => true,
        })
    }

    /// The kernel and its modules as files.
    fn take_out(
        &self,
        system: &System<'_>,
        kernel: &Kernel,
    ) -> Result<tempfile::TempDir, StartError> {
        let failed = |why: String| StartError::Build {
            version: kernel.version.clone(),
            why,
        };
        fs::create_dir_all(&self.dir).map_err(|error| failed(error.to_string()))?;
        let work = tempfile::Builder::new()
            .prefix(WORK)
            .tempdir_in(&self.dir)
            .map_err(|error| failed(error.to_string()))?;
        let image = work.path().join("vmlinuz");
        fs::write(&image, &kernel.image).map_err(|error| failed(error.to_string()))?;
        system.copy_modules(&kernel.version, &work.path().join(&kernel.version))?;
        Ok(work)
    }

    fn build(&self, kernel: &Kernel, work: &Path) -> Result<BootEnv, String> {
        let source = KernelSource::Files {
            vmlinuz: work.join("vmlinuz"),
            modules: work.join(&kernel.version),
        };
        let index = bugler_kmod::Modules::load(&work.join(&kernel.version))
            .map_err(|error| error.to_string())?;
        // One that the kernel does not have is no reason not to try: roots differ.
        let there = |name: &&&str| index.path(name).is_some() || index.is_builtin(name);
        let arch = bugler_bootenv::arch_of_kernel(&kernel.image)
            .ok_or("its kernel is neither an x86 nor a 64-bit Arm one")?;
        let options = BuildOptions {
            kernel: source,
            agent: (self.find_agent)(arch)?,
            busybox: bugler_bootenv::find_busybox(arch),
            firmware: self.firmware.clone(),
            extra_modules: MODULES
                .iter()
                .filter(there)
                .map(|name| (*name).to_owned())
                .collect(),
            out: self.dir.clone(),
        };
        bugler_bootenv::build(&options, &mut |line| tracing::info!("{line}")).map_err(|error| {
            let source = std::error::Error::source(&error);
            source.map_or_else(|| error.to_string(), |why| format!("{error}: {why}"))
        })
    }
}

impl Start {
    /// `<arch>/<version>`
    fn path(&self) -> String {
        format!("{}/{}", self.arch, self.version)
    }
}

fn start_of(env: &BootEnv) -> Start {
    Start {
        arch: bugler_bootenv::arch_name(env.arch),
        version: env.version.clone(),
        kernel: env.kernel_version.clone(),
    }
}
