//! What stands in the initramfs.

use crate::cpio::{Node, Tree};
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::{decompress, elf, select};
use bugler_kmod::{Modules, module_name};
use bugler_model::Arch;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};

/// Largest agent or busybox, module or firmware file.
const MAX_FILE: u64 = 128 << 20;

/// Level of zstd. Every machine that boots fetches and unpacks the result; it is made once.
const ZSTD_LEVEL: i32 = 19;

/// What the rescue shell on the console offers by name: busybox under the names of its tools.
/// Others are to be had as `busybox NAME`. The kernel itself starts `/sbin/modprobe` when it
/// wants a module, for example for a network card's PHY.
const APPLETS: &[&str] = &[
    "bin/ash",
    "bin/awk",
    "bin/cat",
    "bin/chmod",
    "bin/clear",
    "bin/cp",
    "bin/date",
    "bin/dd",
    "bin/df",
    "bin/dmesg",
    "bin/du",
    "bin/echo",
    "bin/env",
    "bin/find",
    "bin/free",
    "bin/grep",
    "bin/gunzip",
    "bin/head",
    "bin/hexdump",
    "bin/ip",
    "bin/kill",
    "bin/less",
    "bin/ln",
    "bin/ls",
    "bin/mkdir",
    "bin/more",
    "bin/mount",
    "bin/mv",
    "bin/nc",
    "bin/ping",
    "bin/ps",
    "bin/rm",
    "bin/sed",
    "bin/sh",
    "bin/sleep",
    "bin/sort",
    "bin/stty",
    "bin/sync",
    "bin/tail",
    "bin/tar",
    "bin/top",
    "bin/udhcpc",
    "bin/umount",
    "bin/uname",
    "bin/uptime",
    "bin/vi",
    "bin/wc",
    "bin/wget",
    "bin/xargs",
    "bin/xxd",
    "bin/zcat",
    "sbin/blockdev",
    "sbin/fdisk",
    "sbin/halt",
    "sbin/ifconfig",
    "sbin/insmod",
    "sbin/losetup",
    "sbin/lsmod",
    "sbin/modinfo",
    "sbin/modprobe",
    "sbin/poweroff",
    "sbin/reboot",
    "sbin/rmmod",
    "sbin/route",
];

/// A program that is put in whole.
pub(crate) struct Binary {
    pub(crate) content: Vec<u8>,
    pub(crate) arch: Option<Arch>,
}

/// Reads a program and makes sure that it can run where there are no libraries.
pub(crate) fn read_binary(path: &Path, role: &'static str) -> Result<Binary> {
    let content = File::open(path)
        .and_then(|file| decompress::read_plain(file, MAX_FILE))
        .map_err(Error::io("read", path))?;
    let program = elf::program(&content)
        .ok_or_else(|| Error::unfit(path, role, "it is not an ELF program"))?;
    if !program.is_static {
        let problem = "it needs a dynamic loader and libraries, and the initramfs has none; give \
                       a statically linked one";
        return Err(Error::unfit(path, role, problem));
    }
    Ok(Binary {
        content,
        arch: program.arch,
    })
}

/// The initramfs without modules: the agent as `/init`, folders, device files for the time before
/// devtmpfs is mounted, and the rescue shell when there is a busybox.
pub(crate) fn base(agent: &[u8], busybox: Option<&[u8]>) -> Tree {
    let mut tree = Tree::default();
    tree.file("init", 0o755, agent);
    for folder in ["proc", "sys", "run", "mnt", "var"] {
        tree.add(folder, Node::Directory { mode: 0o755 });
    }
    tree.add("root", Node::Directory { mode: 0o700 });
    tree.add("tmp", Node::Directory { mode: 0o1777 });
    tree.add(
        "dev/console",
        Node::CharacterDevice {
            mode: 0o600,
            major: 5,
            minor: 1,
        },
    );
    tree.add(
        "dev/null",
        Node::CharacterDevice {
            mode: 0o666,
            major: 1,
            minor: 3,
        },
    );
    tree.file("etc/passwd", 0o644, *b"root:x:0:0:root:/root:/bin/sh\n");
    tree.file("etc/group", 0o644, *b"root:x:0:\n");
    tree.file("etc/hosts", 0o644, *b"127.0.0.1 localhost\n::1 localhost\n");
    if let Some(busybox) = busybox {
        tree.file("bin/busybox", 0o755, busybox);
        for applet in APPLETS {
            tree.add(
                applet,
                Node::Symlink {
                    target: "/bin/busybox".to_owned(),
                },
            );
        }
    }
    tree
}

/// What [`add_modules`] put in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Added {
    pub(crate) modules: usize,
    pub(crate) module_bytes: u64,
    pub(crate) firmware: usize,
}

/// Adds the chosen modules of `kernel` with all that they need, their index, and, when there is a
/// firmware folder, the firmware files that they name.
pub(crate) fn add_modules(
    tree: &mut Tree,
    kernel: &Kernel,
    extra: &[String],
    firmware: Option<&Path>,
) -> Result<Added> {
    let index = Modules::load(&kernel.modules)?;
    for name in extra {
        if index.path(name).is_none() && !index.is_builtin(name) {
            let problem = format!("it has no module {name}, which was asked for");
            return Err(Error::unfit(&kernel.modules, "the modules folder", problem));
        }
    }
    let is_wanted = |name: &&str| {
        index.path(name).is_some_and(|path| {
            let path = path.strip_prefix(&kernel.modules).unwrap_or(&path);
            select::is_wanted(&path.to_string_lossy(), kernel.arch)
        })
    };
    let wanted = index
        .names()
        .filter(is_wanted)
        .chain(extra.iter().map(String::as_str));
    let chosen: BTreeSet<String> = index.closure(wanted).into_iter().collect();
    let mut added = Added {
        modules: chosen.len(),
        ..Added::default()
    };
    let mut firmware_names = BTreeSet::new();
    let folder = format!("lib/modules/{}", kernel.version);
    for name in &chosen {
        let Some(path) = index.path(name) else {
            continue;
        };
        let content = File::open(&path)
            .and_then(|file| decompress::read_all(file, MAX_FILE))
            .map_err(Error::io("read the module", &path))?;
        added.module_bytes += u64::try_from(content.len()).unwrap_or(u64::MAX);
        firmware_names.extend(elf::firmware(&content));
        let path = path
            .strip_prefix(&kernel.modules)
            .unwrap_or(&path)
            .to_string_lossy();
        tree.file(&format!("{folder}/{}", plain_path(&path)), 0o644, content);
    }
    for (file, line_is_kept) in INDEX_FILES {
        let path = kernel.modules.join(file);
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let lines = text.lines().filter(|line| line_is_kept(line, &chosen));
        let lines = lines.map(|line| {
            line.split(' ')
                .map(plain_path)
                .collect::<Vec<_>>()
                .join(" ")
        });
        let text: String = lines.map(|line| line + "\n").collect();
        tree.file(&format!("{folder}/{file}"), 0o644, text);
    }
    if let Some(from) = firmware {
        for name in firmware_names {
            added.firmware += usize::from(add_firmware(tree, from, &name)?);
        }
    }
    Ok(added)
}

/// Whether a line of an index file says something of the chosen modules.
type LineFilter = fn(&str, &BTreeSet<String>) -> bool;

/// The index files that go in, and which of their lines.
const INDEX_FILES: [(&str, LineFilter); 4] = [
    ("modules.dep", |line, chosen| {
        let path = line.split(':').next().unwrap_or_default();
        module_name(path).is_some_and(|name| chosen.contains(&name))
    }),
    ("modules.alias", |line, chosen| {
        word_is_chosen(line, "alias", 2, chosen)
    }),
    ("modules.softdep", |line, chosen| {
        word_is_chosen(line, "softdep", 1, chosen)
    }),
    ("modules.builtin", |_, _| true),
];

/// Whether the line begins with `keyword` and the word `index` is the name of a chosen module.
fn word_is_chosen(line: &str, keyword: &str, index: usize, chosen: &BTreeSet<String>) -> bool {
    let words: Vec<&str> = line.split_ascii_whitespace().take(index + 1).collect();
    words.first() == Some(&keyword)
        && words
            .get(index)
            .is_some_and(|name| chosen.contains(&bugler_kmod::normalize(name)))
}

/// A module's path once it is decompressed. A word of `modules.dep` may end with a colon.
fn plain_path(path: &str) -> String {
    let (stem, colon) = path
        .strip_suffix(':')
        .map_or((path, ""), |stem| (stem, ":"));
    for suffix in [".xz", ".zst", ".gz"] {
        if let Some(stem) = stem
            .strip_suffix(suffix)
            .filter(|stem| stem.ends_with(".ko"))
        {
            return format!("{stem}{colon}");
        }
    }
    path.to_owned()
}

/// Adds one firmware file, compressed or not, when `from` has it.
fn add_firmware(tree: &mut Tree, from: &Path, name: &str) -> Result<bool> {
    let is_inside = Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !is_inside {
        return Ok(false);
    }
    for suffix in ["", ".zst", ".xz"] {
        let path = from.join(format!("{name}{suffix}"));
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::io("read the firmware", &path))?,
        };
        // One without a suffix goes in as it is, even if it looks compressed: the device wants it so.
        let read = if suffix.is_empty() {
            decompress::read_plain
        } else {
            decompress::read_all
        };
        let content = read(file, MAX_FILE);
        let content = content.map_err(Error::io("read the firmware", &path))?;
        tree.file(&format!("lib/firmware/{name}"), 0o644, content);
        return Ok(true);
    }
    Ok(false)
}

/// The archive of a tree.
pub(crate) fn archive(tree: &Tree) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tree.write(&mut bytes)?;
    Ok(bytes)
}

/// Compresses an archive to one zstd frame, on one thread and with a fixed level, so that the same
/// bytes come out each time. The window stays below the 128 MiB that the kernel allows.
pub(crate) fn compress(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(u64::try_from(archive.len()).ok())?;
    io::Write::write_all(&mut encoder, archive)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen() -> BTreeSet<String> {
        ["virtio_net".to_owned()].into()
    }

    #[test]
    fn compressed_modules_get_plain_names() {
        assert_eq!(plain_path("kernel/a.ko.xz:"), "kernel/a.ko:");
        assert_eq!(plain_path("kernel/a.ko.zst"), "kernel/a.ko");
        assert_eq!(plain_path("kernel/a.ko"), "kernel/a.ko");
        assert_eq!(plain_path("alias.xz"), "alias.xz");
    }

    #[test]
    fn the_index_keeps_what_is_about_chosen_modules() {
        let [dep, alias, softdep, _] = INDEX_FILES.map(|(_, keeps)| keeps);
        assert!(dep("kernel/virtio-net.ko.xz: kernel/x.ko.xz", &chosen()));
        assert!(!dep("kernel/x.ko.xz: kernel/virtio-net.ko.xz", &chosen()));
        assert!(alias("alias virtio:d1v* virtio_net", &chosen()));
        assert!(!alias("alias virtio_net other", &chosen()));
        assert!(!alias("# virtio_net virtio_net virtio_net", &chosen()));
        assert!(softdep("softdep virtio-net pre: x", &chosen()));
        assert!(!softdep("softdep x pre: virtio_net", &chosen()));
    }

    #[test]
    fn firmware_is_found_and_never_outside_of_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("firmware");
        fs::create_dir_all(from.join("rtl_nic")).unwrap();
        fs::write(from.join("rtl_nic/a.fw"), "plain").unwrap();
        fs::write(
            from.join("b.fw.zst"),
            zstd::encode_all(&b"packed"[..], 1).unwrap(),
        )
        .unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let mut tree = Tree::default();
        assert!(add_firmware(&mut tree, &from, "rtl_nic/a.fw").unwrap());
        assert!(add_firmware(&mut tree, &from, "b.fw").unwrap());
        for name in ["missing.fw", "../secret", "/etc/hostname", ""] {
            assert!(!add_firmware(&mut tree, &from, name).unwrap(), "{name}");
        }
        let mut expected = Tree::default();
        expected.file("lib/firmware/rtl_nic/a.fw", 0o644, *b"plain");
        expected.file("lib/firmware/b.fw", 0o644, *b"packed");
        assert_eq!(archive(&tree).unwrap(), archive(&expected).unwrap());
    }

    #[test]
    fn only_static_programs_are_taken() {
        let own = std::env::current_exe().unwrap();
        let error = read_binary(&own, "the agent")
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("statically linked"), "{error}");
        let script = tempfile::NamedTempFile::new().unwrap();
        let error = read_binary(script.path(), "the agent")
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("not an ELF program"), "{error}");
    }

    #[test]
    fn an_archive_is_compressed_to_one_frame_of_its_content() {
        let bytes = archive(&base(b"agent", Some(b"busybox"))).unwrap();
        let packed = compress(&bytes).unwrap();
        assert_eq!(zstd::decode_all(&packed[..]).unwrap(), bytes);
        assert_eq!(compress(&bytes).unwrap(), packed);
    }
}
