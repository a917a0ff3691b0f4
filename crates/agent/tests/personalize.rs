//! Growth and identity on real partition tables and filesystems, on loop devices: needs root, and a kernel
//! with loop devices and ext4. Where those are missing every test says that it is skipped.

use bugler_agent::log::Log;
use bugler_agent::personalize::{PersonalizeError, run};
use bugler_agent::stop::Stop;
use bugler_model::{Identity, Seed};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Runs a program; what it wrote.
fn tool(name: &str, arguments: &[&str]) -> Result<String, String> {
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new(name)
        .args(arguments)
        .env("PATH", path)
        .output();
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{name} {arguments:?}: {text}{errors}"))
}

/// A file as a block device with partitions.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Option<Self> {
        let options = ["--partscan", "--show", "--find", file.to_str().unwrap()];
        match tool("losetup", &options) {
            Ok(device) => Some(Self(device.trim().to_owned())),
            Err(error) => {
                eprintln!("skipped: no loop device: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = tool("losetup", &["--detach", &self.0]) {
            eprintln!("{error}");
        }
    }
}

/// A folder with a disk in it.
struct Bench {
    dir: TempDir,
    disk: PathBuf,
}

impl Bench {
    /// `script` is sfdisk's.
    fn new(size: u64, script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::File::create(&disk).unwrap().set_len(size).unwrap();
        let input = dir.path().join("script");
        fs::write(&input, script).unwrap();
        let shell = "sfdisk --quiet --no-reread \"$0\" <\"$1\"";
        let arguments = ["-c", shell, disk.to_str().unwrap(), input.to_str().unwrap()];
        tool("sh", &arguments).unwrap();
        Self { dir, disk }
    }

    /// An ext filesystem of `size` bytes at byte `start`, with what is in the folder `tree`.
    fn ext(&self, kind: &str, start: u64, size: u64, tree: &Path) {
        let offset = format!("offset={start}");
        let blocks = format!("{}k", size / 1024);
        let (disk, tree) = (self.disk.to_str().unwrap(), tree.to_str().unwrap());
        let arguments = [
            "-q", "-F", "-t", kind, "-E", &offset, "-d", tree, disk, &blocks,
        ];
        tool("mke2fs", &arguments).unwrap();
    }

    fn run(&self, grow: bool, identity: Option<&Identity>) -> Option<(Outcome, Vec<String>)> {
        let device = Loop::new(&self.disk)?;
        let log = Log::stderr();
        let result = run(device.path(), 512, grow, identity, &log, &Stop::new());
        Some((result, log.take(100)))
    }

    /// A filesystem on its own, checked by e2fsck, and what is in it.
    fn files(&self, start: u64, size: u64) -> PathBuf {
        let part = self.dir.path().join("part");
        let mut all = fs::read(&self.disk).unwrap();
        all.drain(..start as usize);
        all.truncate(size as usize);
        fs::write(&part, all).unwrap();
        tool("e2fsck", &["-f", "-n", part.to_str().unwrap()]).unwrap();
        let out = self.dir.path().join("out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir(&out).unwrap();
        let dump = format!("rdump / {}", out.display());
        tool("debugfs", &["-R", &dump, part.to_str().unwrap()]).unwrap();
        out
    }

    /// Blocks of the filesystem that `files` has cut out, in bytes.
    fn size_of_filesystem(&self) -> u64 {
        let part = self.dir.path().join("part");
        let text = tool("dumpe2fs", &["-h", part.to_str().unwrap()]).unwrap();
        let number = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        number("Block count:") * number("Block size:")
    }

    /// Start and size of a partition in bytes, as sfdisk sees it.
    fn partition(&self, number: usize) -> (u64, u64) {
        let text = tool("sfdisk", &["--dump", self.disk.to_str().unwrap()]).unwrap();
        let name = format!("{}{number} :", self.disk.display());
        let line = text.lines().find(|line| line.starts_with(&name)).unwrap();
        let field = |name: &str| -> u64 {
            let rest = line.split_once(name).unwrap().1;
            rest.split(',').next().unwrap().trim().parse().unwrap()
        };
        (field("start=") * 512, field("size=") * 512)
    }
}

type Outcome = Result<(), PersonalizeError>;

/// Whether the kernel lets this process grow a filesystem that is mounted: CAP_SYS_RESOURCE, which root
/// in a container may lack. Says so where it does not.
fn may_resize(result: &Outcome) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    if capabilities >> 24 & 1 == 1 {
        return true;
    }
    let error = result.as_ref().unwrap_err().to_string();
    assert!(error.contains("has grown, but its ext"), "{error}");
    eprintln!("skipped: growing the filesystem needs CAP_SYS_RESOURCE; the partition was grown");
    false
}

/// The root filesystem of a small system.
fn system() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, content: &str, mode: u32| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    put("etc/hostname", "lab\n", 0o644);
    put("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 lab\n", 0o644);
    put(
        "etc/machine-id",
        "0123456789abcdef0123456789abcdef\n",
        0o444,
    );
    put(
        "var/lib/dbus/machine-id",
        "0123456789abcdef0123456789abcdef\n",
        0o644,
    );
    put("etc/fstab", "UUID=x / ext4 rw 0 1\n", 0o644);
    put("etc/ssh/sshd_config", "", 0o644);
    put("etc/ssh/moduli", "old", 0o644);
    for kind in ["rsa", "ecdsa", "ed25519"] {
        put(&format!("etc/ssh/ssh_host_{kind}_key"), "old", 0o600);
        put(&format!("etc/ssh/ssh_host_{kind}_key.pub"), "old", 0o644);
    }
    put("usr/lib/os-release", "ID=test\n", 0o644);
    symlink("../usr/lib/os-release", dir.path().join("etc/os-release")).unwrap();
    put("data", &"0123456789".repeat(100_000), 0o644);
    dir
}

fn identity() -> Identity {
    Identity {
        hostname: Some("rack1-07.example.org".into()),
        machine_id: true,
        ssh_host_keys: true,
        gpt_guids: false,
        seed: Some(Seed {
            user_data: "#cloud-config\n".into(),
            meta_data: "instance-id: t5\n".into(),
            network_config: None,
        }),
    }
}

#[test]
fn the_last_partition_of_a_gpt_and_its_ext_filesystem_grow() {
    let tree = system();
    for kind in ["ext2", "ext3", "ext4"] {
        let script = "label: gpt\nstart=1MiB, size=1MiB, type=uefi\nstart=2MiB, size=30MiB\n";
        let bench = Bench::new(200 * MIB, script);
        bench.ext(kind, 2 * MIB, 30 * MIB, tree.path());
        let Some((result, log)) = bench.run(true, None) else {
            return;
        };
        let (start, size) = bench.partition(2);
        assert_eq!((start, start + size), (2 * MIB, 200 * MIB - 33 * 512));
        let verified = tool("sgdisk", &["-v", bench.disk.to_str().unwrap()]).unwrap();
        assert!(verified.contains("No problems found"), "{verified}");
        bench.files(start, size);
        if !may_resize(&result) {
            continue;
        }
        result.unwrap();
        let out = bench.files(start, size);
        assert!(fs::read(out.join("data")).unwrap() == fs::read(tree.path().join("data")).unwrap());
        let grown = bench.size_of_filesystem();
        assert!(grown <= size && size - grown < 4096, "{grown} of {size}");
        println!("{kind}: {}", log.join("; "));

        // Once more: there is nothing to do, and it is no error.
        let (result, log) = bench.run(true, None).unwrap();
        result.unwrap();
        assert!(log[0].contains("already"), "{log:?}");
    }
}

#[test]
fn the_last_partition_of_an_mbr_grows_also_where_it_is_logical() {
    let tree = system();
    let primary = "label: dos\nstart=1MiB, size=2MiB, type=c\nstart=3MiB, size=20MiB, type=83\n";
    let logical = "label: dos\nstart=1MiB, size=2MiB, type=83\nstart=3MiB, size=40MiB, type=f\n\
                   start=4MiB, size=4MiB, type=83\nstart=10MiB, size=20MiB, type=83\n";
    for (script, number, start) in [(primary, 2, 3 * MIB), (logical, 6, 10 * MIB)] {
        let bench = Bench::new(120 * MIB, script);
        bench.ext("ext4", start, 20 * MIB, tree.path());
        let Some((result, _)) = bench.run(true, None) else {
            return;
        };
        assert_eq!(bench.partition(number), (start, 120 * MIB - start));
        let checked = tool("sfdisk", &["--verify", bench.disk.to_str().unwrap()]).unwrap();
        println!("{checked}");
        bench.files(start, 120 * MIB - start);
        if !may_resize(&result) {
            continue;
        }
        result.unwrap();
        assert_eq!(bench.size_of_filesystem(), 120 * MIB - start);
    }
}

#[test]
fn what_is_not_known_is_left_and_its_partition_grows() {
    let bench = Bench::new(20 * MIB, "label: gpt\nstart=1MiB, size=10MiB\n");
    let mut disk = fs::read(&bench.disk).unwrap();
    disk[MIB as usize + 4086..][..10].copy_from_slice(b"SWAPSPACE2");
    disk[MIB as usize + 1024] = 1;
    fs::write(&bench.disk, &disk).unwrap();
    let Some((result, log)) = bench.run(true, None) else {
        return;
    };
    result.unwrap();
    assert!(
        log.iter().any(|line| line.contains("is left as it is")),
        "{log:?}"
    );
    assert_eq!(bench.partition(1), (MIB, 19 * MIB - 33 * 512));
    let after = fs::read(&bench.disk).unwrap();
    assert!(after[MIB as usize..11 * MIB as usize] == disk[MIB as usize..11 * MIB as usize]);
}

const ROOT: &str = "label: gpt\nstart=1MiB, size=40MiB\n";

#[test]
fn two_machines_of_one_image_get_different_identities() {
    let tree = system();
    let mut ids = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for _ in 0..2 {
        let bench = Bench::new(42 * MIB, ROOT);
        bench.ext("ext4", MIB, 40 * MIB, tree.path());
        // Twice: as after an attempt that was interrupted at its end.
        for _ in 0..2 {
            let Some((result, log)) = bench.run(false, Some(&identity())) else {
                return;
            };
            result.unwrap();
            println!("{}", log.join("; "));
        }
        let out = bench.files(MIB, 40 * MIB);
        let read = |path: &str| fs::read_to_string(out.join(path)).unwrap();
        let mode = |path: &str| fs::metadata(out.join(path)).unwrap().mode() & 0o7777;
        assert_eq!(read("etc/hostname"), "rack1-07.example.org\n");
        assert_eq!(
            read("etc/hosts"),
            "127.0.0.1 localhost\n127.0.1.1\track1-07.example.org rack1-07\n"
        );
        let id = read("etc/machine-id");
        assert_eq!((id.len(), id.chars().nth(12)), (33, Some('4')), "{id}");
        assert_eq!(read("var/lib/dbus/machine-id"), id);
        ids.insert(id);
        keys.insert(read("etc/ssh/ssh_host_ed25519_key.pub"));
        assert_eq!(mode("etc/ssh/ssh_host_ed25519_key"), 0o600);
        assert_eq!(mode("etc/ssh/ssh_host_ed25519_key.pub"), 0o644);
        let key = out.join("etc/ssh/ssh_host_ed25519_key");
        let public = tool("ssh-keygen", &["-y", "-f", key.to_str().unwrap()]).unwrap();
        assert_eq!(
            public.trim(),
            read("etc/ssh/ssh_host_ed25519_key.pub").trim()
        );
        let left: BTreeSet<String> = fs::read_dir(out.join("etc/ssh"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let expected = [
            "moduli",
            "ssh_host_ed25519_key",
            "ssh_host_ed25519_key.pub",
            "sshd_config",
        ];
        assert_eq!(
            left.iter().map(String::as_str).collect::<Vec<_>>(),
            expected
        );
        let seed = "var/lib/cloud/seed/nocloud";
        assert_eq!(read(&format!("{seed}/user-data")), "#cloud-config\n");
        assert_eq!(read(&format!("{seed}/meta-data")), "instance-id: t5\n");
        assert_eq!(mode(&format!("{seed}/meta-data")), 0o600);
        assert!(!out.join(seed).join("network-config").exists());
        assert!(fs::read(out.join("data")).unwrap() == fs::read(tree.path().join("data")).unwrap());
    }
    assert_eq!((ids.len(), keys.len()), (2, 2));
}

#[test]
fn links_of_the_image_lead_nowhere_else() {
    let tree = system();
    let outside = tempfile::tempdir().unwrap();
    let inside = tree.path().join(outside.path().strip_prefix("/").unwrap());
    fs::create_dir_all(&inside).unwrap();
    fs::remove_file(tree.path().join("etc/hostname")).unwrap();
    fs::remove_file(tree.path().join("etc/hosts")).unwrap();
    // Absolute, and by more steps up than there are.
    symlink(
        outside.path().join("name"),
        tree.path().join("etc/hostname"),
    )
    .unwrap();
    let up = format!("../../../../..{}", outside.path().join("hosts").display());
    symlink(up, tree.path().join("etc/hosts")).unwrap();
    let bench = Bench::new(42 * MIB, ROOT);
    bench.ext("ext4", MIB, 40 * MIB, tree.path());
    let only_name = Identity {
        hostname: Some("n1".into()),
        ..Identity::default()
    };
    let Some((result, _)) = bench.run(false, Some(&only_name)) else {
        return;
    };
    result.unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    let out = bench.files(MIB, 40 * MIB);
    let inside = out.join(outside.path().strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(inside.join("name")).unwrap(), "n1\n");
    assert!(
        fs::read_to_string(inside.join("hosts"))
            .unwrap()
            .contains("127.0.1.1\tn1")
    );
    assert!(out.join("etc/hostname").is_symlink());
}

#[test]
fn what_cannot_be_told_is_refused_and_nothing_is_changed() {
    let tree = system();
    let empty = tempfile::tempdir().unwrap();
    let mount_var = system();
    fs::write(
        mount_var.path().join("etc/fstab"),
        "UUID=x /var ext4 rw 0 1\n",
    )
    .unwrap();
    let only_rsa = system();
    fs::create_dir(only_rsa.path().join("etc/ssh/sshd_config.d")).unwrap();
    fs::write(
        only_rsa.path().join("etc/ssh/sshd_config.d/keys.conf"),
        "HostKey /etc/ssh/ssh_host_rsa_key\n",
    )
    .unwrap();
    let two = "label: gpt\nstart=1MiB, size=20MiB\nstart=21MiB, size=20MiB\n";
    for (first, second, expected) in [
        (
            only_rsa.path(),
            empty.path(),
            "told to use /etc/ssh/ssh_host_rsa_key",
        ),
        (tree.path(), tree.path(), "several partitions"),
        (empty.path(), empty.path(), "no partition of"),
        (
            mount_var.path(),
            empty.path(),
            "mounts another filesystem at /var",
        ),
    ] {
        let bench = Bench::new(42 * MIB, two);
        bench.ext("ext4", MIB, 20 * MIB, first);
        bench.ext("ext4", 21 * MIB, 20 * MIB, second);
        let before = files_of(&bench.files(MIB, 20 * MIB));
        let Some((result, _)) = bench.run(false, Some(&identity())) else {
            return;
        };
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        println!("{error}");
        assert_eq!(files_of(&bench.files(MIB, 20 * MIB)), before);
    }
    let bad_name = Identity {
        hostname: Some("a\nb".into()),
        ..Identity::default()
    };
    let bench = Bench::new(42 * MIB, two);
    let error = bench.run(false, Some(&bad_name)).unwrap().0.unwrap_err();
    assert!(matches!(error, PersonalizeError::Refused { .. }), "{error}");
}

/// Names and contents of everything below a folder.
fn files_of(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                let content = if path.is_symlink() {
                    Vec::new()
                } else {
                    fs::read(&path).unwrap()
                };
                found.push((path, content));
            }
        }
    }
    found.sort();
    found
}

/// The GUIDs of the disk and of its first partition.
fn guids(disk: &Path) -> (String, String) {
    let text = tool("sfdisk", &["--dump", disk.to_str().unwrap()]).unwrap();
    let disk = text.split_once("label-id: ").unwrap().1;
    let part = text.split_once("uuid=").unwrap().1;
    let word = |text: &str| {
        text.split(|c: char| c != '-' && !c.is_ascii_hexdigit())
            .next()
            .unwrap()
            .to_owned()
    };
    (word(disk), word(part))
}

#[test]
fn new_guids_go_into_everything_that_names_them() {
    let guid = "0FC63DAF-8483-4772-8E79-3D69D8477DE5";
    let script = format!("label: gpt\nstart=1MiB, size=40MiB, uuid={guid}\n");
    let new_guids = Identity {
        gpt_guids: true,
        ..Identity::default()
    };
    let tree = system();
    let lower = guid.to_lowercase();
    fs::write(
        tree.path().join("etc/fstab"),
        format!("PARTUUID={lower} / ext4 rw 0 1\n"),
    )
    .unwrap();
    fs::create_dir_all(tree.path().join("boot/grub")).unwrap();
    let config = tree.path().join("boot/grub/grub.cfg");
    fs::write(&config, format!("linux /vmlinuz root=PARTUUID={guid} ro\n")).unwrap();
    let bench = Bench::new(42 * MIB, &script);
    bench.ext("ext4", MIB, 40 * MIB, tree.path());
    let (old_disk, old_part) = guids(&bench.disk);
    assert_eq!(old_part, guid);
    let Some((result, log)) = bench.run(false, Some(&new_guids)) else {
        return;
    };
    result.unwrap();
    println!("{}", log.join("; "));
    let (new_disk, new_part) = guids(&bench.disk);
    assert!(new_disk != old_disk && new_part != old_part);
    let verified = tool("sgdisk", &["-v", bench.disk.to_str().unwrap()]).unwrap();
    assert!(verified.contains("No problems found"), "{verified}");
    let out = bench.files(MIB, 40 * MIB);
    let fstab = fs::read_to_string(out.join("etc/fstab")).unwrap();
    assert_eq!(
        fstab,
        format!("PARTUUID={} / ext4 rw 0 1\n", new_part.to_lowercase())
    );
    let grub = fs::read_to_string(out.join("boot/grub/grub.cfg")).unwrap();
    assert_eq!(
        grub,
        format!(
            "linux /vmlinuz root=PARTUUID={} ro\n",
            new_part.to_uppercase()
        )
    );

    // Where one stands in something that is no text, none is changed.
    fs::write(tree.path().join("boot/blob"), format!("\0{lower}\0")).unwrap();
    let bench = Bench::new(42 * MIB, &script);
    bench.ext("ext4", MIB, 40 * MIB, tree.path());
    let before = guids(&bench.disk);
    let error = bench
        .run(false, Some(&new_guids))
        .unwrap()
        .0
        .unwrap_err()
        .to_string();
    assert!(error.contains("/boot/blob of partition 1"), "{error}");
    assert_eq!(guids(&bench.disk), before);
    let fstab = fs::read_to_string(bench.files(MIB, 40 * MIB).join("etc/fstab")).unwrap();
    assert!(fstab.contains(&lower));
}
