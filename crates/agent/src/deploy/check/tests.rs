use super::*;
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

fn disk(path: &str, size: u64) -> Disk {
    Disk {
        path: path.into(),
        size,
        sector_size: 512,
        transport: Transport::Scsi,
        ..Disk::default()
    }
}

fn named_disk(path: &str, size: u64, model: &str, serial: &str) -> Disk {
    Disk {
        model: Some(model.into()),
        serial: Some(serial.into()),
        ..disk(path, size)
    }
}

fn needs(size: u64) -> Needs {
    Needs {
        size,
        sector_size: 512,
    }
}

#[test]
fn equal_disks_are_told_apart_by_serial_number_then_path() {
    let auto = |disks: &[Disk]| {
        let chosen = choose(&DiskRule::Auto, disks, needs(GIB));
        chosen.unwrap().path.clone()
    };
    let mut disks = vec![
        disk("/dev/sda", 4 * GIB),
        named_disk("/dev/sdb", 4 * GIB, "Fast", "B2"),
        named_disk("/dev/sdc", 4 * GIB, "Fast", "A1"),
        disk("/dev/sdd", 4 * GIB),
    ];
    assert_eq!(auto(&disks), "/dev/sdc");
    disks.reverse();
    assert_eq!(auto(&disks), "/dev/sdc", "whatever the kernel's order");
    disks.retain(|disk| disk.serial.is_none());
    assert_eq!(auto(&disks), "/dev/sda");
}

#[test]
fn a_serial_number_is_stronger_than_a_path_and_a_model() {
    let disks = [
        named_disk("/dev/sda", 4 * GIB, "S1", "X"),
        named_disk("/dev/sdb", 4 * GIB, "Fast", "S1"),
        named_disk("/dev/sdc", 4 * GIB, "Fast", "/dev/sda"),
        named_disk("/dev/sdd", 4 * GIB, "Fast", "twice"),
        named_disk("/dev/sde", 4 * GIB, "Fast", "twice"),
    ];
    let named = |name: &str| choose(&DiskRule::Named(name.into()), &disks, needs(GIB));
    assert_eq!(named("S1").unwrap().path, "/dev/sdb");
    assert_eq!(named("/dev/sda").unwrap().path, "/dev/sdc");
    let error = named("twice").unwrap_err();
    assert!(matches!(error, ChoiceError::Ambiguous { .. }), "{error:?}");
}

#[test]
fn what_a_later_disk_could_change_is_told_from_what_it_could_not() {
    let mut bare = disk("/dev/sdb", 4 * GIB);
    bare.serial = Some(" ".into());
    let disks = [named_disk("/dev/sda", 4 * GIB, "Fast", " A1 "), bare];
    assert_eq!(disks.each_ref().map(lasting_name), ["A1", "/dev/sdb"]);
    for disk in &disks {
        let rule = DiskRule::Named(lasting_name(disk).into());
        assert_eq!(choose(&rule, &disks, needs(GIB)), Ok(disk));
        assert!(!depends_on_all(&rule, &disks));
    }
    assert!(!depends_on_all(&DiskRule::Named("/dev/sda".into()), &disks));
    for rule in [DiskRule::Auto, DiskRule::Named("Fast".into())] {
        assert!(depends_on_all(&rule, &disks));
    }
}

#[test]
fn auto_takes_the_smallest_disk_that_fits() {
    let usb = Disk {
        transport: Transport::Usb,
        ..disk("/dev/sdd", 3 * GIB)
    };
    let card = Disk {
        removable: true,
        ..disk("/dev/mmcblk0", 3 * GIB)
    };
    let locked = Disk {
        read_only: true,
        ..disk("/dev/sde", 3 * GIB)
    };
    let big_sectors = Disk {
        sector_size: 4096,
        ..disk("/dev/nvme0n1", 3 * GIB)
    };
    let disks = [
        disk("/dev/sda", GIB),
        usb,
        card,
        locked,
        big_sectors,
        disk("/dev/sdb", 8 * GIB),
        disk("/dev/sdc", 4 * GIB),
        disk("/dev/sdf", 4 * GIB),
    ];
    let chosen = choose(&DiskRule::Auto, &disks, needs(2 * GIB)).unwrap();
    assert_eq!(chosen.path, "/dev/sdc");
    let exact = choose(&DiskRule::Auto, &disks, needs(8 * GIB)).unwrap();
    assert_eq!(exact.path, "/dev/sdb", "a disk of exactly the size fits");

    let error = choose(&DiskRule::Auto, &disks, needs(8 * GIB + 512)).unwrap_err();
    let text = error.to_string();
    for part in [
        "/dev/sda: it has 1073741824 bytes, the image needs 8589935104 (7516193280 more)",
        "/dev/sdd: it is removable or on USB",
        "/dev/mmcblk0: it is removable or on USB",
        "/dev/sde: it is read-only",
        "/dev/nvme0n1: its sectors are 4096 bytes, the image's are 512",
        "nothing was written",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn a_machine_without_disks_is_told_so() {
    for rule in [DiskRule::Auto, DiskRule::Named("/dev/sda".into())] {
        assert_eq!(choose(&rule, &[], needs(1)), Err(ChoiceError::NoDisk));
    }
}

#[test]
fn a_name_is_a_path_a_serial_number_or_a_model() {
    let disks = [
        named_disk("/dev/sda", 4 * GIB, "Fast", "A1"),
        named_disk("/dev/sdb", 4 * GIB, "Fast", "B2"),
        Disk {
            removable: true,
            transport: Transport::Usb,
            ..named_disk("/dev/sdc", 4 * GIB, "Stick", "C3")
        },
    ];
    let cases = [
        ("/dev/sdb", "/dev/sdb"),
        ("B2", "/dev/sdb"),
        (" A1 ", "/dev/sda"),
        ("Stick", "/dev/sdc"),
    ];
    for (name, path) in cases {
        let rule = DiskRule::Named(name.into());
        assert_eq!(choose(&rule, &disks, needs(GIB)).unwrap().path, path);
    }
    let both = choose(&DiskRule::Named("Fast".into()), &disks, needs(GIB)).unwrap_err();
    assert_eq!(
        both.to_string(),
        "\"Fast\" is the name of several disks: /dev/sda (Fast, A1); /dev/sdb (Fast, B2); name \
         one by its path or serial number; nothing was written"
    );
    let none = choose(&DiskRule::Named("sda".into()), &disks, needs(GIB)).unwrap_err();
    assert!(
        none.to_string()
            .contains("it has /dev/sda (Fast, A1); /dev/sdb")
    );
}

#[test]
fn a_named_disk_must_still_fit() {
    let disks = [
        disk("/dev/sda", GIB),
        Disk {
            sector_size: 4096,
            ..disk("/dev/sdb", 4 * GIB)
        },
        Disk {
            read_only: true,
            ..disk("/dev/sdc", 4 * GIB)
        },
    ];
    let cases = [
        (
            "/dev/sda",
            Unfit::TooSmall {
                disk: GIB,
                image: 2 * GIB,
            },
        ),
        (
            "/dev/sdb",
            Unfit::SectorSize {
                disk: 4096,
                image: 512,
            },
        ),
        ("/dev/sdc", Unfit::ReadOnly),
    ];
    for (name, why) in cases {
        let expected = ChoiceError::Unfit {
            disk: name.into(),
            why,
        };
        let rule = DiskRule::Named(name.into());
        assert_eq!(choose(&rule, &disks, needs(2 * GIB)), Err(expected));
    }
}

fn any_disk() -> impl Strategy<Value = Disk> {
    let sector = prop_oneof![Just(512u32), Just(4096)];
    (
        0u64..6,
        sector,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        "[ab]",
    )
        .prop_map(
            |(size, sector_size, usb, removable, read_only, serial)| Disk {
                sector_size,
                removable,
                read_only,
                serial: Some(serial),
                transport: if usb { Transport::Usb } else { Transport::Nvme },
                ..disk("/dev/x", size)
            },
        )
}

proptest! {
    /// Whatever is attached: what is chosen takes the image, and is only removable by name.
    #[test]
    fn what_is_chosen_always_fits(
        disks in proptest::collection::vec(any_disk(), 0..6),
        size in 1u64..6,
        by_name: bool,
    ) {
        let rule = if by_name { DiskRule::Named("a".into()) } else { DiskRule::Auto };
        if let Ok(disk) = choose(&rule, &disks, needs(size)) {
            prop_assert!(disk.size >= size && disk.sector_size == 512 && !disk.read_only);
            if by_name {
                let same = disks.iter().filter(|d| d.serial.as_deref() == Some("a"));
                prop_assert_eq!(same.count(), 1);
            } else {
                prop_assert!(!disk.removable && disk.transport != Transport::Usb);
            }
        }
    }
}
