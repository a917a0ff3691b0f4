//! From a kernel and an agent to a boot environment.

use crate::cpio::Tree;
use crate::error::{Error, Result};
use crate::initramfs::{self, Binary};
use crate::kernel::{self, KernelSource};
use crate::manifest::{self, BootEnv, Sizes, Sources};
use crate::shell;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// What the names of unfinished work begin with.
const WORK_PREFIX: &str = ".build-";

/// What to build from, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// The kernel and its modules.
    pub kernel: KernelSource,
    /// The agent: a static program for the kernel's processor, which becomes `/init`.
    pub agent: PathBuf,
    /// A static busybox for the rescue shell, or the Debian package with one; `None` leaves the
    /// shell out. See [`find_busybox`](crate::find_busybox) and
    /// [`fetch_busybox`](crate::fetch_busybox).
    pub busybox: Option<PathBuf>,
    /// A folder such as `/lib/firmware`: files in it that the chosen modules name are put in.
    /// `None` puts no firmware in.
    pub firmware: Option<PathBuf>,
    /// Names of modules to put in beyond those for network and disks.
    pub extra_modules: Vec<String>,
    /// The folder of boot environments. It needs about 600 MB while a package is unpacked.
    pub out: PathBuf,
}

/// Builds a boot environment and makes it the current one of its architecture. `progress` gets a
/// line, without its end, when something starts that takes a while. Two builds into one folder
/// wait for each other. The same kernel, agent, busybox and firmware give the same bytes.
///
/// # Errors
///
/// When something that it is built from is missing or unfit, or `out` cannot be written. What was
/// in `out` before is untouched then.
pub fn build(options: &BuildOptions, progress: &mut dyn FnMut(&str)) -> Result<BootEnv> {
    let agent = initramfs::read_binary(&options.agent, "the agent")?;
    fs::create_dir_all(&options.out).map_err(Error::io("create", &options.out))?;
    let _lock = lock(&options.out, progress)?;
    let work = workplace(&options.out)?;
    let busybox = match &options.busybox {
        Some(path) => Some(shell::read(path, work.path())?),
        None => None,
    };
    let kernel = kernel::prepare(&options.kernel, work.path(), progress)?;
    for (binary, path, role) in [
        (Some(&agent), Some(&options.agent), "the agent"),
        (busybox.as_ref(), options.busybox.as_ref(), "busybox"),
    ] {
        if let (Some(binary), Some(path)) = (binary, path)
            && binary.arch != Some(kernel.arch)
        {
            let problem = format!(
                "it is not for the processor of the kernel {}, which is {:?}",
                kernel.version, kernel.arch
            );
            return Err(Error::unfit(path, role, problem));
        }
    }

    let content = |binary: &Binary| blake3::hash(&binary.content).to_hex().to_string();
    let shell = busybox.as_ref().map(|busybox| busybox.content.as_slice());
    let mut tree = initramfs::base(&agent.content, shell);
    progress(&format!("choosing modules of {}", kernel.version));
    let added = initramfs::add_modules(
        &mut tree,
        &kernel,
        &options.extra_modules,
        options.firmware.as_deref(),
    )?;

    let pack = |tree: &Tree| {
        initramfs::archive(tree).map_err(Error::io("make the initramfs in", &options.out))
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(blake3::hash(&kernel.vmlinuz).as_bytes());
    hasher.update(&pack(&tree)?);
    for (name, tree) in &kernel.device_trees {
        hasher.update(name.as_bytes());
        hasher.update(blake3::hash(tree).as_bytes());
    }
    let stamp: String = hasher.finalize().to_hex().chars().take(8).collect();
    let version = format!("{}+{stamp}", kernel.version);
    let release = format!("BUGLER_BOOTENV={version}\n");

    let compress = |archive: &[u8]| {
        initramfs::compress(archive).map_err(Error::io("compress the initramfs in", &options.out))
    };
    let base = |shell| {
        let mut tree = initramfs::base(&agent.content, shell);
        tree.file("etc/bugler-release", 0o644, release.as_bytes());
        compress(&pack(&tree)?).map(|bytes| size(&bytes))
    };
    tree.file("etc/bugler-release", 0o644, release.as_bytes());
    let archive = pack(&tree)?;
    progress(&format!(
        "compressing {} modules and the agent, {} MB",
        added.modules,
        archive.len() / 1_000_000
    ));
    let initrd = compress(&archive)?;
    let bootenv = BootEnv {
        version,
        arch: kernel.arch,
        kernel_version: kernel.version,
        sources: Sources {
            kernel: kernel.origin,
            kernel_hash: blake3::hash(&kernel.vmlinuz).to_hex().to_string(),
            agent_hash: content(&agent),
            busybox_hash: busybox.as_ref().map(content),
        },
        module_count: added.modules,
        firmware_count: added.firmware,
        device_trees: kernel
            .device_trees
            .iter()
            .map(|(name, tree)| (name.clone(), size(tree)))
            .collect(),
        sizes: Sizes {
            vmlinuz: size(&kernel.vmlinuz),
            initrd: size(&initrd),
            initrd_unpacked: size(&archive),
            modules_unpacked: added.module_bytes,
            base: base(shell)?,
            base_without_busybox: base(None)?,
        },
        dir: PathBuf::new(),
    };
    manifest::publish(
        bootenv,
        [&kernel.vmlinuz, &initrd],
        &kernel.device_trees,
        &options.out,
        work.path(),
    )
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Waits until no other build works in `out`. The lock ends with the file that is returned, or
/// with the process.
fn lock(out: &Path, progress: &mut dyn FnMut(&str)) -> Result<File> {
    let path = out.join(".lock");
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            progress("waiting for another build of a boot environment");
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
    }
    file.lock().map_err(Error::io("lock", &path))?;
    Ok(file)
}

/// Makes a folder to work in, and removes those of builds that were killed. On the file system of
/// the result, so that it can be renamed into place.
fn workplace(out: &Path) -> Result<tempfile::TempDir> {
    for entry in fs::read_dir(out).map_err(Error::io("list", out))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(WORK_PREFIX) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(Error::io("remove the unfinished", &path))?;
        }
    }
    tempfile::Builder::new()
        .prefix(WORK_PREFIX)
        .tempdir_in(out)
        .map_err(Error::io("create a folder to work in, in", out))
}
