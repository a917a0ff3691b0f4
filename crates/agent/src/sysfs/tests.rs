use super::*;
use bugler_model::{Disk, Nic, Transport};
use std::os::unix::fs::symlink;

/// A tree of files; a value that begins with `->` is a link.
fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Sysfs) {
    let dir = tempfile::tempdir().unwrap();
    for (path, value) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match value.strip_prefix("->") {
            Some(target) => symlink(target, path).unwrap(),
            None => fs::write(path, value).unwrap(),
        }
    }
    let sysfs = Sysfs::at(dir.path());
    (dir, sysfs)
}

/// As a q35 machine of QEMU shows itself, with more disks than most have.
const QEMU: &[(&str, &str)] = &[
    (
        "sys/class/dmi/id/product_uuid",
        "66ffad1e-e719-ad84-9831-b8aeed7d5f80\n",
    ),
    (
        "sys/class/dmi/id/product_serial",
        "To be filled by O.E.M.\n",
    ),
    ("sys/class/dmi/id/board_serial", "  B-77 \n"),
    ("sys/class/dmi/id/sys_vendor", "QEMU\n"),
    (
        "sys/class/dmi/id/product_name",
        "Standard PC (Q35 + ICH9, 2009)\n",
    ),
    (
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: QEMU TCG CPU\n\nprocessor\t: 1\nmodel name\t: QEMU TCG CPU\n",
    ),
    (
        "proc/meminfo",
        "MemTotal:         489532 kB\nMemFree: 1 kB\n",
    ),
    ("proc/uptime", "12.34 20.00\n"),
    (
        "sys/block/vda",
        "->../devices/pci0000:00/0000:00:03.0/virtio1/block/vda",
    ),
    (
        "sys/devices/pci0000:00/0000:00:03.0/virtio1/block/vda/size",
        "4194304\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:03.0/virtio1/block/vda/serial",
        "disk-one\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:03.0/virtio1/block/vda/removable",
        "0\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:03.0/virtio1/block/vda/ro",
        "0\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:03.0/virtio1/block/vda/queue/logical_block_size",
        "512\n",
    ),
    (
        "sys/block/sda",
        "->../devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/size",
        "8\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/ro",
        "1\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/device/model",
        "QEMU HARDDISK   \n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/device/vpd_pg80",
        "\0\u{1}\0\u{1}x",
    ),
    (
        "sys/block/sdb",
        "->../devices/pci0000:00/0000:00:1d.7/usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0/block/sdb",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1d.7/usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0/block/sdb/size",
        "16\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1d.7/usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0/block/sdb/device/vpd_pg80",
        "\0\u{80}\0\u{8}  AB-12 \n",
    ),
    (
        "sys/block/nvme0n1",
        "->../devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1",
    ),
    (
        "sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1/size",
        "1024\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1/queue/logical_block_size",
        "4096\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1/device/serial",
        "S1\n",
    ),
    ("sys/block/mmcblk0/size", "32\n"),
    ("sys/block/mmcblk0/device/name", "SD32G\n"),
    ("sys/block/mmcblk0boot0/size", "32\n"),
    ("sys/block/sr0/size", "99\n"),
    ("sys/block/loop0/size", "99\n"),
    ("sys/block/sdc/size", "0\n"),
    ("sys/block/nvme1c0n1/size", "9\n"),
    ("sys/block/nvme1c0n1/hidden", "1\n"),
    ("sys/class/net/lo/address", "00:00:00:00:00:00\n"),
    ("sys/class/net/lo/type", "772\n"),
    ("sys/class/net/br0/address", "52:54:00:00:00:09\n"),
    ("sys/class/net/br0/type", "1\n"),
    ("sys/class/net/eth0/address", "52:54:00:00:00:01\n"),
    ("sys/class/net/eth0/type", "1\n"),
    ("sys/class/net/eth0/ifindex", "2\n"),
    ("sys/class/net/eth0/carrier", "0\n"),
    ("sys/class/net/eth0/speed", "-1\n"),
    (
        "sys/class/net/eth0/device/driver",
        "->../../../bus/virtio/drivers/virtio_net",
    ),
    ("sys/class/net/eth1/address", "52:54:00:00:00:02\n"),
    ("sys/class/net/eth1/type", "1\n"),
    ("sys/class/net/eth1/carrier", "1\n"),
    ("sys/class/net/eth1/speed", "1000\n"),
    ("sys/class/net/eth1/device/vendor", "0x8086\n"),
    ("sys/class/net/wlan0/address", "52:54:00:00:00:03\n"),
    ("sys/class/net/wlan0/type", "1\n"),
    ("sys/class/net/wlan0/device/vendor", "0x8086\n"),
    ("sys/class/net/wlan0/phy80211/name", "phy0\n"),
];

#[test]
fn a_machine_is_described() {
    let (_dir, sysfs) = tree(QEMU);
    let inventory = sysfs.inventory();
    assert_eq!(
        inventory.uuid,
        Uuid::try_parse("66ffad1ee719ad849831b8aeed7d5f80").ok()
    );
    assert_eq!(
        inventory.serial.as_deref(),
        Some("B-77"),
        "the filler is passed over"
    );
    assert_eq!(inventory.vendor.as_deref(), Some("QEMU"));
    assert_eq!(
        inventory.model.as_deref(),
        Some("Standard PC (Q35 + ICH9, 2009)")
    );
    assert_eq!(
        (inventory.cpu.model.as_str(), inventory.cpu.threads),
        ("QEMU TCG CPU", 2)
    );
    assert_eq!(inventory.memory, 489_532 * 1024);
    assert_eq!(sysfs.uptime_ms(), 12_340);
}

#[test]
fn disks_are_found_with_what_they_say_of_themselves() {
    let (_dir, sysfs) = tree(QEMU);
    let disk = |path: &str, size| Disk {
        path: path.into(),
        size,
        sector_size: 512,
        ..Disk::default()
    };
    let expected = [
        Disk {
            model: Some("SD32G".into()),
            transport: Transport::Mmc,
            ..disk("/dev/mmcblk0", 32 * 512)
        },
        Disk {
            serial: Some("S1".into()),
            sector_size: 4096,
            transport: Transport::Nvme,
            ..disk("/dev/nvme0n1", 1024 * 512)
        },
        Disk {
            model: Some("QEMU HARDDISK".into()),
            transport: Transport::Scsi,
            read_only: true,
            ..disk("/dev/sda", 8 * 512)
        },
        Disk {
            transport: Transport::Usb,
            removable: true,
            ..disk("/dev/sdb", 16 * 512)
        },
        Disk {
            serial: Some("disk-one".into()),
            transport: Transport::Virtio,
            ..disk("/dev/vda", 4_194_304 * 512)
        },
    ];
    assert_eq!(sysfs.disks(), expected);
}

#[test]
fn a_scsi_serial_number_is_read_from_its_page() {
    let (dir, sysfs) = tree(&[("sys/block/sda/size", "8\n")]);
    let page = dir.path().join("sys/block/sda/device/vpd_pg80");
    fs::create_dir_all(page.parent().unwrap()).unwrap();
    let cases: [(&[u8], Option<&str>); 6] = [
        (b"\0\x80\0\x08  AB-12 ", Some("AB-12")),
        (b"\0\x80\xff\xffAB", Some("AB")),
        (b"\0\x80\0\x02AB-12", Some("AB")),
        (b"\0\x83\0\x02AB", None),
        (b"\0\x80\0", None),
        (b"\0\x80\0\x03\0\xff ", None),
    ];
    for (bytes, expected) in cases {
        fs::write(&page, bytes).unwrap();
        assert_eq!(sysfs.disks()[0].serial.as_deref(), expected, "{bytes:?}");
    }
}

#[test]
fn only_wired_interfaces_count_and_the_one_booted_from_is_first() {
    let (_dir, sysfs) = tree(QEMU);
    let mac = |last| MacAddr([0x52, 0x54, 0, 0, 0, last]);
    let eth0 = Nic {
        name: "eth0".into(),
        mac: mac(1),
        link: false,
        speed: None,
        driver: Some("virtio_net".into()),
    };
    let eth1 = Nic {
        name: "eth1".into(),
        mac: mac(2),
        link: true,
        speed: Some(1000),
        driver: None,
    };
    assert_eq!(sysfs.nics(), [eth0.clone(), eth1.clone()]);
    assert_eq!(sysfs.boot_order(Some(mac(1))), [eth0.clone(), eth1.clone()]);
    assert_eq!(
        sysfs.boot_order(None),
        [eth1.clone(), eth0.clone()],
        "a link comes first"
    );
    assert_eq!(sysfs.boot_order(Some(mac(9))), [eth1, eth0]);
    assert_eq!(sysfs.interface_index("eth0"), Some(2));
}

#[test]
fn fillers_are_no_names() {
    for text in [
        "To Be Filled By O.E.M.",
        "Default string",
        "System Serial Number",
        "None",
        "0",
        "00000000",
        "0123456789",
        "....",
        "xxxxxxxx",
        " N/A ",
        "Not Specified",
        "FFFFFFFF",
    ] {
        assert!(is_filler(text), "{text:?}");
    }
    for text in ["QEMU", "B-77", "Dell Inc.", "10", "OEM-4711"] {
        assert!(!is_filler(text), "{text:?}");
    }
    assert_eq!(parse_uuid("00000000-0000-0000-0000-000000000000"), None);
    assert_eq!(parse_uuid("ffffffff-ffff-ffff-ffff-ffffffffffff"), None);
    assert_eq!(parse_uuid("Not Settable"), None);
}

#[test]
fn names_stand_in_the_order_of_the_kernel() {
    let mut names = [
        "sdaa", "nvme10n1", "sdb", "nvme2n1", "sda", "vdb", "eth10", "eth9", "vda",
    ];
    names.sort_by_cached_key(|name| natural_key(name));
    let expected = [
        "eth9", "eth10", "nvme2n1", "nvme10n1", "sda", "sdb", "sdaa", "vda", "vdb",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_board_without_smbios_is_described_by_its_device_tree() {
    let (_dir, sysfs) = tree(&[
        ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
        ("proc/device-tree/serial-number", "10000000abcdef01\0"),
        (
            "proc/cpuinfo",
            "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\n\
             processor\t: 1\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n",
        ),
    ]);
    let inventory = sysfs.inventory();
    assert_eq!(
        inventory.model.as_deref(),
        Some("Raspberry Pi 4 Model B Rev 1.4")
    );
    assert_eq!(inventory.serial.as_deref(), Some("10000000abcdef01"));
    assert_eq!(inventory.cpu.model, "Arm Cortex-A72");
    assert_eq!(inventory.cpu.threads, 2);
    let (_dir, sysfs) = tree(&[(
        "proc/cpuinfo",
        "processor\t: 0\nCPU implementer\t: 0x51\nCPU part\t: 0xd08\n",
    )]);
    assert_eq!(
        sysfs.inventory().cpu.model,
        "0xd08",
        "another maker's number"
    );
}

#[test]
fn an_empty_machine_is_no_error() {
    let (_dir, sysfs) = tree(&[]);
    assert_eq!(sysfs.inventory(), Inventory::default());
    assert_eq!(sysfs.uptime_ms(), 0);
}
