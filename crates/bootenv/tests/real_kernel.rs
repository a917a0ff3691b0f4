//! A boot environment from Debian's real kernel package: what is in it, and that it boots.
//!
//! The package is fetched with apt once and kept under `target/lab/debs`. These tests need the
//! Debian packages busybox-static, cpio, kmod and qemu-system-x86.

use bugler_bootenv::{BootEnv, BuildOptions, KernelSource, build, download, latest, list};
use bugler_kmod::{Modules, module_name};
use bugler_model::Arch;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

const BUSYBOX: &str = "/usr/bin/busybox";

/// The packages of Debian's kernel for 64-bit PCs.
fn packages() -> Vec<PathBuf> {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab/debs");
    let kept = lab.join("linux-image-amd64");
    if !kept.exists() {
        fs::create_dir_all(&lab).unwrap();
        let new = tempfile::tempdir_in(&lab).unwrap();
        download("linux-image-amd64", new.path(), &mut |line| {
            println!("{line}")
        })
        .unwrap();
        // Another test may have been faster.
        if fs::rename(new.path(), &kept).is_err() {
            assert!(kept.exists());
        }
    }
    let mut packages: Vec<PathBuf> = fs::read_dir(&kept)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    packages.sort();
    packages
}

/// Stands for the agent: a static program that every Debian has. What it would do as `/init` is of
/// no interest.
const AGENT: &str = "/sbin/ldconfig";

fn options(kernel: KernelSource, out: &Path) -> BuildOptions {
    BuildOptions {
        kernel,
        agent: AGENT.into(),
        busybox: Some(BUSYBOX.into()),
        firmware: None,
        extra_modules: Vec::new(),
        out: out.into(),
    }
}

/// A built boot environment, and its `lib/modules/<version>` unpacked by the real cpio.
struct Built {
    bootenv: BootEnv,
    archive: Vec<u8>,
    root: PathBuf,
    modules: PathBuf,
    _dir: tempfile::TempDir,
}

/// Built once for all tests of this file.
fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let out = dir.path().join("bootenv");
        let kernel = KernelSource::Debs(packages());
        let bootenv = build(&options(kernel, &out), &mut |line| println!("{line}")).unwrap();
        let initrd = fs::read(bootenv.initrd()).unwrap();
        let archive = zstd::decode_all(&initrd[..]).unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let unpacked = cpio(
            &["-idm", "--quiet", "--no-preserve-owner", "lib/*"],
            &root,
            &archive,
        );
        assert!(
            unpacked.status.success(),
            "{}",
            String::from_utf8_lossy(&unpacked.stderr)
        );
        let modules = root.join("lib/modules").join(&bootenv.kernel_version);
        Built {
            bootenv,
            archive,
            root,
            modules,
            _dir: dir,
        }
    })
}

fn cpio(arguments: &[&str], dir: &Path, input: &[u8]) -> Output {
    let mut cpio = Command::new("cpio")
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs the Debian package cpio");
    let mut stdin = cpio.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        cpio.wait_with_output().unwrap()
    })
}

#[test]
fn the_result_has_what_a_machine_needs_and_is_small() {
    let Built {
        bootenv,
        archive,
        root,
        ..
    } = built();
    println!("{}", serde_json::to_string_pretty(bootenv).unwrap());
    assert_eq!(bootenv.arch, Arch::X86_64);
    let stamp = bootenv
        .version
        .strip_prefix(&bootenv.kernel_version)
        .unwrap();
    assert!(
        stamp.starts_with('+') && stamp.len() == 9,
        "{}",
        bootenv.version
    );

    let listing = String::from_utf8(cpio(&["-t", "--quiet"], root, archive).stdout).unwrap();
    let paths: BTreeSet<&str> = listing.lines().collect();
    for path in [
        "init",
        "bin/busybox",
        "bin/sh",
        "sbin/modprobe",
        "dev/console",
        "etc/bugler-release",
    ] {
        assert!(paths.contains(path), "{path}");
    }
    let modules: BTreeSet<String> = listing.lines().filter_map(module_name).collect();
    assert_eq!(modules.len(), bootenv.module_count);
    for module in [
        "virtio_net",
        "virtio_blk",
        "virtio_scsi",
        "virtio_pci",
        "e1000",
        "e1000e",
        "igb",
        "ixgbe",
        "r8169",
        "realtek",
        "tg3",
        "bnxt_en",
        "mlx5_core",
        "vmxnet3",
        "hv_netvsc",
        "hv_storvsc",
        "ahci",
        "nvme",
        "sd_mod",
        "mpt3sas",
        "megaraid_sas",
        "smartpqi",
        "mptsas",
        "sdhci_pci",
        "mmc_block",
        "usb_storage",
        "uas",
        "xhci_pci",
        "smsc95xx",
        "lan78xx",
        "r8152",
        "vmd",
    ] {
        assert!(modules.contains(module), "{module}");
    }
    for module in ["iwlwifi", "drm", "snd", "qla2xxx", "sr_mod", "mlxsw_core"] {
        assert!(!modules.contains(module), "{module}");
    }
    assert!(bootenv.sizes.initrd < 20_000_000, "{:?}", bootenv.sizes);
    assert!(bootenv.sizes.base < 3 << 20, "{:?}", bootenv.sizes);
    assert!(bootenv.sizes.base_without_busybox < bootenv.sizes.base);

    let out = bootenv.dir.parent().unwrap().parent().unwrap();
    assert_eq!(latest(out, Arch::X86_64).unwrap().as_ref(), Some(bootenv));
    assert_eq!(list(out).unwrap(), std::slice::from_ref(bootenv));
}

/// depmod indexes the modules that were chosen anew; modprobe says what it would load for each.
#[test]
fn the_loading_order_is_that_of_modprobe_for_every_module() {
    let Built {
        bootenv, modules, ..
    } = built();
    let trimmed = Modules::load(modules).unwrap();
    let base = tempfile::tempdir().unwrap();
    let copy = base
        .path()
        .join("lib/modules")
        .join(&bootenv.kernel_version);
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .args([modules, &copy])
        .status()
        .unwrap();
    assert!(copied.success());
    fs::remove_file(copy.join("modules.dep")).unwrap();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let base = base.path().to_str().unwrap();
    let indexed = Command::new("depmod")
        .env("PATH", &path)
        .args(["-b", base, &bootenv.kernel_version])
        .output()
        .expect("this test needs the Debian package kmod");
    assert!(
        indexed.status.success(),
        "{}",
        String::from_utf8_lossy(&indexed.stderr)
    );

    // Among modules that do not need each other, depmod's order depends on what else is there: the
    // order is compared by the new index, and what is loaded at all by the one in the initramfs.
    let index = Modules::load(&copy).unwrap();
    let names: Vec<&str> = trimmed.names().collect();
    assert_eq!(names.len(), bootenv.module_count);
    for name in names {
        let shown = Command::new("modprobe")
            .env("PATH", &path)
            // Without the configuration of this machine, which may add dependencies.
            .args(["-C", "/dev/null", "-d", base, "-S", &bootenv.kernel_version])
            .args(["--show-depends", name])
            .output()
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let paths = shown
            .lines()
            .filter_map(|line| line.strip_prefix("insmod "));
        // modprobe repeats a module that is both a soft and a hard dependency.
        let mut seen = BTreeSet::new();
        let expected: Vec<String> = paths
            .filter_map(|path| module_name(path.trim()))
            .filter(|name| seen.insert(name.clone()))
            .collect();
        assert_eq!(index.closure([name]), expected, "{name}");
        let same: BTreeSet<String> = trimmed.closure([name]).into_iter().collect();
        assert_eq!(same, expected.into_iter().collect(), "{name}");
        for path in trimmed.order([name]) {
            assert!(path.is_file(), "{}", path.display());
        }
    }
}

/// A kernel image and a modules folder with a handful of modules and no index.
fn small_kernel(dir: &Path) -> KernelSource {
    let Built {
        bootenv, modules, ..
    } = built();
    let index = Modules::load(modules).unwrap();
    let folder = dir.join(&bootenv.kernel_version);
    for path in index.order(["virtio_net", "virtio_blk", "virtio_pci", "r8169"]) {
        let to = folder.join(path.strip_prefix(modules).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
    KernelSource::Files {
        vmlinuz: bootenv.vmlinuz(),
        modules: folder,
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = small_kernel(dir.path());
    let [first, second] = ["first", "second"].map(|name| {
        build(
            &options(kernel.clone(), &dir.path().join(name)),
            &mut |_| {},
        )
        .unwrap()
    });
    assert_eq!(first.version, second.version);
    for file in ["vmlinuz", "initrd", "bootenv.json"] {
        let [a, b] = [&first, &second].map(|built| fs::read(built.dir.join(file)).unwrap());
        assert!(a == b, "{file} differs");
    }
    let KernelSource::Files { modules, .. } = &kernel else {
        unreachable!()
    };
    let names = fs::read_dir(modules)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["kernel"],
        "the folder given is left as it was"
    );

    // Without the shell it is another version.
    let mut alone = options(kernel, &dir.path().join("first"));
    alone.busybox = None;
    // One firmware file that r8169 names, and one that nothing names.
    let firmware = dir.path().join("firmware");
    fs::create_dir_all(firmware.join("rtl_nic")).unwrap();
    fs::write(firmware.join("rtl_nic/rtl8168d-1.fw"), "firmware").unwrap();
    fs::write(firmware.join("rtl_nic/unnamed.fw"), "firmware").unwrap();
    alone.firmware = Some(firmware);
    let alone = build(&alone, &mut |_| {}).unwrap();
    assert_eq!(alone.firmware_count, 1);
    assert_ne!(alone.version, first.version);
    assert_eq!(alone.sizes.base, alone.sizes.base_without_busybox);
    assert_eq!(alone.sources.busybox_hash, None);
    let out = dir.path().join("first");
    assert_eq!(list(&out).unwrap().len(), 2);
    assert_eq!(latest(&out, Arch::X86_64).unwrap(), Some(alone));
}

#[test]
fn a_missing_module_or_a_dynamic_agent_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let kernel = small_kernel(dir.path());
    // What a build that was killed leaves is removed by the next one.
    fs::create_dir_all(out.join(".build-killed/root")).unwrap();
    let mut unknown = options(kernel.clone(), &out);
    unknown.extra_modules = vec!["no_such_module".to_owned()];
    let error = build(&unknown, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("no_such_module"), "{error}");
    let mut dynamic = options(kernel, &out);
    dynamic.agent = std::env::current_exe().unwrap();
    let error = build(&dynamic, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("statically linked"), "{error}");
    let names = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), [".lock"]);
}

#[test]
fn a_damaged_package_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let largest = packages()
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len());
    let whole = fs::read(largest.unwrap()).unwrap();
    let middle = whole.len() / 2;
    let mut flipped = whole.clone();
    flipped[middle] ^= 0x10;
    for (name, bytes) in [("cut.deb", &whole[..middle]), ("flipped.deb", &flipped)] {
        let package = dir.path().join(name);
        fs::write(&package, bytes).unwrap();
        let kernel = KernelSource::Debs(vec![package]);
        let error = build(&options(kernel, &dir.path().join("out")), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(list(&dir.path().join("out")).unwrap().is_empty());
    }
}

/// The modaliases of QEMU's virtio network card and disk, and of the virtio devices behind them.
const MODALIASES: [&str; 4] = [
    "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00",
    "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00",
    "virtio:d00000001v00001AF4",
    "virtio:d00000002v00001AF4",
];

/// Boots the real kernel with the real initramfs; only `/init` is put over by a script that loads
/// the modules for [`MODALIASES`] one by one in the order that was computed.
#[test]
fn a_virtual_machine_gets_its_network_and_disk() {
    let Built {
        bootenv, modules, ..
    } = built();
    let index = Modules::load(modules).unwrap();
    let wanted: Vec<String> = MODALIASES
        .iter()
        .flat_map(|alias| index.resolve_alias(alias))
        .collect();
    let order = index.order(&wanted);
    let insmods: String = order
        .iter()
        .map(|path| {
            let path = path.strip_prefix(modules).unwrap().display();
            format!(
                "insmod /lib/modules/{}/{path} || echo FAILED {path}\n",
                bootenv.kernel_version
            )
        })
        .collect();
    let script = format!(
        "#!/bin/sh\n\
         mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\n\
         {insmods}\
         until [ -b /dev/vda ] && [ -e /sys/class/net/eth0 ]; do sleep 1; done\n\
         echo MAC $(cat /sys/class/net/eth0/address)\n\
         echo SECTORS $(cat /sys/block/vda/size)\n\
         echo RELEASE $(cat /etc/bugler-release)\n\
         for f in /sys/bus/pci/devices/*/modalias; do echo ALIAS $(cat $f); done\n\
         $(cat /proc/sys/kernel/modprobe) e1000e && grep -q ^e1000e /proc/modules && echo PROBED\n\
         poweroff -f\n"
    );

    let dir = tempfile::tempdir().unwrap();
    let over = dir.path().join("over");
    fs::create_dir(&over).unwrap();
    fs::write(over.join("init"), script).unwrap();
    let chmod = Command::new("chmod")
        .args(["755", "init"])
        .current_dir(&over)
        .status()
        .unwrap();
    assert!(chmod.success());
    // The kernel unpacks one archive after the other; a later one replaces what is there.
    let mut initrd = fs::read(bootenv.initrd()).unwrap();
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(cpio(&["-o", "-H", "newc", "--quiet"], &over, b"init\n").stdout);
    let initrd_path = dir.path().join("initrd");
    fs::write(&initrd_path, initrd).unwrap();
    let disk = dir.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();

    // `timeout` ends a machine that hangs; one that panics ends by itself.
    let output = Command::new("timeout")
        .args(["300", "qemu-system-x86_64", "-M", "q35", "-accel", "tcg"])
        .args([
            "-m",
            "512",
            "-nographic",
            "-no-reboot",
            "-append",
            "console=ttyS0 panic=-1",
        ])
        .arg("-kernel")
        .arg(bootenv.vmlinuz())
        .arg("-initrd")
        .arg(&initrd_path)
        .args([
            "-drive",
            &format!("file={},format=raw,if=none,id=d", disk.display()),
        ])
        .args([
            "-device",
            "virtio-blk-pci,drive=d",
            "-netdev",
            "user,id=n,restrict=on",
        ])
        .args([
            "-device",
            "virtio-net-pci,netdev=n,mac=52:54:00:00:00:07,romfile=",
        ])
        .stdin(Stdio::null())
        .output()
        .expect("this test needs the Debian package qemu-system-x86");
    let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let complaint = String::from_utf8_lossy(&output.stderr);
    let said = |text: &str| console.lines().any(|line| line.ends_with(text));
    assert!(said("MAC 52:54:00:00:00:07"), "{console}\n{complaint}");
    assert!(said("SECTORS 131072"), "{console}");
    assert!(
        said(&format!("RELEASE BUGLER_BOOTENV={}", bootenv.version)),
        "{console}"
    );
    assert!(said("PROBED"), "{console}");
    assert!(!console.contains("FAILED"), "{console}");
    let own: Vec<&str> = console
        .lines()
        .filter_map(|line| line.split_once("ALIAS "))
        .map(|(_, a)| a)
        .collect();
    let resolved: BTreeSet<String> = own
        .iter()
        .flat_map(|alias| index.resolve_alias(alias))
        .collect();
    assert!(
        resolved.contains("virtio_pci") && resolved.contains("ahci"),
        "{own:?} {resolved:?}"
    );
}
