//! A boot environment for 64-bit Arm from Debian's real kernel package, built on whatever machine
//! this is. That it boots is shown by the lab.
//!
//! The packages are fetched with apt once and kept under `target/lab/debs`. On other machines apt
//! knows them after `dpkg --add-architecture arm64` and `apt-get update`, which
//! `scripts/setup --arm64` does.

use bugler_bootenv::{BuildOptions, KernelSource, build, download, latest};
use bugler_model::Arch;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages that `package` of the architecture arm64 stands for.
fn packages(package: &str) -> Vec<PathBuf> {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab/debs");
    let kept = lab.join(format!("{package}-of-arm64"));
    if !kept.exists() {
        fs::create_dir_all(&lab).unwrap();
        let new = tempfile::tempdir_in(&lab).unwrap();
        download(&format!("{package}:arm64"), new.path(), &mut |line| {
            println!("{line}")
        })
        .unwrap();
        // Another test may have been faster.
        if fs::rename(new.path(), &kept).is_err() {
            assert!(kept.exists());
        }
    }
    let entries = fs::read_dir(&kept).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn boards_servers_and_raspberry_pis_find_their_drivers_and_device_trees() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let shell = packages("busybox-static").remove(0);
    // Stands for the agent: a static program for that processor.
    let unpacked = dir.path().join("busybox");
    let status = Command::new("dpkg-deb")
        .arg("--extract")
        .args([&shell, &unpacked])
        .status()
        .unwrap();
    assert!(status.success());
    let out = dir.path().join("bootenv");
    let options = BuildOptions {
        kernel: KernelSource::Debs(packages("linux-image-arm64")),
        agent: unpacked.join("bin/busybox"),
        busybox: Some(shell),
        firmware: None,
        extra_modules: Vec::new(),
        out: out.clone(),
    };
    let built = build(&options, &mut |line| println!("{line}")).unwrap();
    println!("{}", serde_json::to_string_pretty(&built).unwrap());
    assert_eq!(built.arch, Arch::Aarch64);
    assert!(built.dir.starts_with(out.join("aarch64")));
    assert!(built.sources.busybox_hash.is_some());
    assert!(built.sizes.initrd < 20_000_000, "{:?}", built.sizes);
    assert_eq!(latest(&out, Arch::Aarch64).unwrap().as_ref(), Some(&built));
    assert_eq!(latest(&out, Arch::X86_64).unwrap(), None);

    for name in [
        "bcm2837-rpi-3-b.dtb",
        "bcm2837-rpi-3-b-plus.dtb",
        "bcm2711-rpi-4-b.dtb",
        "bcm2711-rpi-cm4-io.dtb",
    ] {
        let tree = fs::read(built.device_tree(name).unwrap()).unwrap();
        // The magic number of a flattened device tree (Devicetree Specification, section 5.2).
        assert!(tree.starts_with(&[0xd0, 0x0d, 0xfe, 0xed]), "{name}");
    }

    let archive = zstd::decode_all(&fs::read(built.initrd()).unwrap()[..]).unwrap();
    let text = String::from_utf8_lossy(&archive);
    let modules: BTreeSet<&str> = text
        .split('\0')
        .filter_map(|word| word.strip_suffix(".ko")?.rsplit('/').next())
        .collect();
    for module in [
        // QEMU and clouds.
        "virtio_net",
        "virtio_blk",
        "virtio_pci",
        "virtio_mmio",
        "ena",
        // Servers.
        "ixgbe",
        "mlx5_core",
        "hns3",
        "nvme",
        "ahci",
        "ahci_xgene",
        "xgene-enet",
        // Boards.
        "stmmac",
        "dwmac-rk",
        "macb",
        "r8169",
        "dw_mmc-rockchip",
        "sdhci-iproc",
        // Raspberry Pis, and QEMU's.
        "bcm2835",
        "bcm2835_wdt",
        "genet",
        "smsc95xx",
        "lan78xx",
        "cdc_ether",
        "dwc2",
        "phy-generic",
    ] {
        assert!(modules.contains(module), "{module}");
    }
    for module in ["drm", "brcmfmac", "snd"] {
        assert!(!modules.contains(module), "{module}");
    }
}
