use super::*;
use crate::{MOST_TRIES, weigh};
use bugler_model::{
    Conditions, DeviceId, Inventory, MacAddr, Netboot, Presence, Quirks, Rule, Timestamp,
};

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

fn facts(firmware: Firmware, arch: Arch) -> ClientFacts {
    ClientFacts::of_script_request(MAC, firmware, Some(arch))
}

fn device(netboot: Netboot, open_tasks: u32) -> Device {
    Device {
        id: DeviceId(1),
        name: None,
        tags: vec![],
        uuid: None,
        macs: vec![MAC],
        arch: None,
        firmware: None,
        netboot,
        profile: None,
        next: None,
        secure_boot: false,
        quirks: Quirks::default(),
        tries: 0,
        presence: Presence::Booting,
        address: None,
        inventory: None,
        deployed: None,
        created: Timestamp(0),
        seen: Timestamp(0),
        open_tasks,
    }
}

fn linux(name: &str, loader: Loader) -> Profile {
    Profile {
        name: name.parse().unwrap(),
        boots: Boots::Linux {
            kernel: "linux".into(),
            initrd: vec![],
            cmdline: String::new(),
        },
        loader,
        note: None,
    }
}

fn ask(facts: &ClientFacts, device: Option<&Device>, policy: &BootPolicy) -> BootPlan {
    let loaders: Vec<&'static str> = crate::loaders().collect();
    plan(&Question {
        facts,
        device,
        policy,
        from: Some(Ipv4Addr::new(10, 0, 0, 7)),
        loaders: &loaders,
        unanswered: 0,
    })
}

fn simply(facts: &ClientFacts, device: Option<&Device>) -> BootPlan {
    ask(facts, device, &BootPolicy::default())
}

#[test]
fn an_unknown_machine_gets_the_loader_of_its_firmware() {
    let tftp = |path: &str| BootAction::Tftp(path.into());
    let http = |path: &str| BootAction::Http(path.into());
    for (firmware, arch, action) in [
        (Firmware::BiosPxe, Arch::X86, tftp("undionly.kpxe")),
        (Firmware::UefiPxe, Arch::X86_64, tftp("snponly.efi")),
        (Firmware::UefiPxe, Arch::Aarch64, tftp("grubaa64.efi")),
        (Firmware::UefiPxe, Arch::X86, tftp("grubia32.efi")),
        (Firmware::UefiHttp, Arch::X86_64, http("snponly.efi")),
        (Firmware::UefiHttp, Arch::Aarch64, http("grubaa64.efi")),
        (Firmware::UefiHttp, Arch::X86, http("grubia32.efi")),
        (
            Firmware::IpxeBios,
            Arch::X86,
            http("ipxe/52:54:00:12:34:56"),
        ),
        (
            Firmware::IpxeUefi,
            Arch::X86_64,
            http("ipxe/52:54:00:12:34:56"),
        ),
        (
            Firmware::IpxeUefi,
            Arch::Aarch64,
            http("ipxe/52:54:00:12:34:56"),
        ),
        (Firmware::UBoot, Arch::Aarch64, tftp("boot.scr.uimg")),
        (
            Firmware::RaspberryPi,
            Arch::Aarch64,
            BootAction::RaspberryPi,
        ),
    ] {
        let plan = simply(&facts(firmware, arch), None);
        assert_eq!(
            (plan.goal, plan.action),
            (Goal::Agent, action),
            "{firmware}"
        );
    }
}

#[test]
fn a_device_whose_network_boot_is_off_gets_nothing_from_any_firmware() {
    let off = device(Netboot::Off, 0);
    for (firmware, arch) in [
        (Firmware::BiosPxe, Arch::X86),
        (Firmware::UefiPxe, Arch::X86_64),
        (Firmware::IpxeBios, Arch::X86),
        (Firmware::RaspberryPi, Arch::Aarch64),
    ] {
        let plan = simply(&facts(firmware, arch), Some(&off));
        assert_eq!((plan.goal, plan.action), (Goal::Local, BootAction::Silent));
    }
}

#[test]
fn an_open_task_or_once_brings_the_agent_back() {
    let pxe = facts(Firmware::BiosPxe, Arch::X86);
    for device in [device(Netboot::Off, 1), device(Netboot::Once, 0)] {
        assert_eq!(simply(&pxe, Some(&device)).goal, Goal::Agent);
    }
}

#[test]
fn the_next_boot_goes_before_everything_but_a_task() {
    let pxe = facts(Firmware::BiosPxe, Arch::X86);
    let policy = BootPolicy {
        profiles: vec![linux("installer", Loader::Auto)],
        rules: vec![],
    };
    let mut device = device(Netboot::Off, 0);
    device.next = Some("installer".parse().unwrap());
    let plan = ask(&pxe, Some(&device), &policy);
    assert_eq!(plan.goal, Goal::Profile);
    assert_eq!(plan.profile.unwrap().as_str(), "installer");
    device.open_tasks = 1;
    assert_eq!(ask(&pxe, Some(&device), &policy).goal, Goal::Agent);
    // Gone from the registry: said, and nothing is booted by mistake.
    device.open_tasks = 0;
    let plan = simply(&pxe, Some(&device));
    assert_eq!((plan.goal, &plan.action), (Goal::None, &BootAction::Silent));
    assert!(plan.why.contains("no profile installer"), "{}", plan.why);
}

#[test]
fn a_boot_that_never_has_an_outcome_is_not_begun_for_ever() {
    let pxe = facts(Firmware::BiosPxe, Arch::X86);
    let mut device = device(Netboot::Once, 0);
    device.tries = MOST_TRIES - 1;
    assert_eq!(simply(&pxe, Some(&device)).goal, Goal::Agent);
    device.tries = MOST_TRIES;
    let plan = simply(&pxe, Some(&device));
    assert_eq!(plan.goal, Goal::Local);
    assert!(plan.why.contains("none had an outcome"), "{}", plan.why);
    // A task goes on: its disk may be half written.
    device.open_tasks = 1;
    assert_eq!(simply(&pxe, Some(&device)).goal, Goal::Agent);
}

#[test]
fn what_is_booted_every_time_goes_on_when_it_has_no_outcome_and_is_said() {
    let pxe = facts(Firmware::BiosPxe, Arch::X86);
    let policy = BootPolicy {
        profiles: vec![linux("thin", Loader::Auto)],
        rules: vec![Rule {
            when: Conditions::default(),
            profile: "thin".parse().unwrap(),
        }],
    };
    let mut device = device(Netboot::On, 0);
    device.tries = MOST_TRIES - 1;
    assert_eq!(ask(&pxe, Some(&device), &policy).why, "it meets rule 1");
    device.tries = MOST_TRIES;
    let plan = ask(&pxe, Some(&device), &policy);
    assert_eq!(plan.goal, Goal::Profile);
    let said = "it meets rule 1, although it began 8 boots of late and none had an outcome";
    assert_eq!(plan.why, said);
    // Its own profile as well; its disk is no loop.
    device.profile = Some("thin".parse().unwrap());
    let plan = ask(&pxe, Some(&device), &policy);
    assert!(plan.why.contains("none had an outcome"), "{}", plan.why);
    device.profile = Some("local".parse().unwrap());
    let plan = ask(&pxe, Some(&device), &policy);
    assert_eq!(plan.why, "its profile is the local disk");
}

#[test]
fn the_first_rule_that_is_met_counts_and_the_devices_own_profile_before_it() {
    let pxe = facts(Firmware::BiosPxe, Arch::X86);
    let rule = |when: Conditions, profile: &str| Rule {
        when,
        profile: profile.parse().unwrap(),
    };
    let serial = |pattern: &str| Conditions {
        serial: Some(pattern.into()),
        ..Conditions::default()
    };
    let subnet = |text: &str| Conditions {
        subnet: Some(text.parse().unwrap()),
        ..Conditions::default()
    };
    let policy = BootPolicy {
        profiles: vec![linux("a", Loader::Auto), linux("b", Loader::Auto)],
        rules: vec![
            rule(serial("XY*"), "a"),
            rule(subnet("10.9.0.0/16"), "a"),
            rule(subnet("10.0.0.0/8"), "b"),
            rule(Conditions::default(), "local"),
        ],
    };
    let mut device = device(Netboot::On, 0);
    let name = |plan: BootPlan| plan.profile.map(|name| name.to_string());
    let plan = ask(&pxe, Some(&device), &policy);
    assert_eq!(plan.why, "it meets rule 3");
    assert_eq!(name(plan).as_deref(), Some("b"));
    device.inventory = Some(Inventory {
        serial: Some("xy-77".into()),
        ..Inventory::default()
    });
    assert_eq!(
        name(ask(&pxe, Some(&device), &policy)).as_deref(),
        Some("a")
    );
    device.profile = Some("agent".parse().unwrap());
    assert_eq!(
        name(ask(&pxe, Some(&device), &policy)).as_deref(),
        Some("agent")
    );
    let loaders: Vec<&'static str> = crate::loaders().collect();
    let verdicts = weigh(&Question {
        facts: &pxe,
        device: Some(&device),
        policy: &policy,
        from: None,
        loaders: &loaders,
        unanswered: 0,
    });
    let unmet: Vec<Option<&str>> = verdicts.iter().map(|v| v.unmet.as_deref()).collect();
    assert_eq!(
        unmet,
        [
            None,
            Some("it does not ask from 10.9.0.0/16"),
            Some("it does not ask from 10.0.0.0/8"),
            None
        ]
    );
}

#[test]
fn a_profile_picks_its_loader_and_what_cannot_run_it_is_told_why() {
    let mut policy = BootPolicy::default();
    let mut device = device(Netboot::On, 0);
    device.profile = Some("p".parse().unwrap());
    let with = |policy: &mut BootPolicy, loader| policy.profiles = vec![linux("p", loader)];
    for (loader, firmware, arch, path) in [
        (Loader::Pxelinux, Firmware::BiosPxe, Arch::X86, "pxelinux.0"),
        (
            Loader::Pxelinux,
            Firmware::IpxeBios,
            Arch::X86,
            "pxelinux.0",
        ),
        (
            Loader::Lpxelinux,
            Firmware::BiosPxe,
            Arch::X86,
            "lpxelinux.0",
        ),
        (Loader::Grub, Firmware::UefiPxe, Arch::X86_64, "grubx64.efi"),
    ] {
        with(&mut policy, loader);
        let plan = ask(&facts(firmware, arch), Some(&device), &policy);
        assert_eq!(plan.action, BootAction::Tftp(path.into()));
        let codes: Vec<u8> = plan.options.iter().map(|(code, _)| *code).collect();
        if loader == Loader::Grub {
            assert!(codes.is_empty());
        } else {
            assert_eq!(codes, [209, 210]);
            let config = OptionText::Plain("pxelinux.cfg/01-52-54-00-12-34-56".into());
            assert_eq!(plan.options[0].1, config);
        }
    }
    with(&mut policy, Loader::Grub);
    let plan = ask(&facts(Firmware::BiosPxe, Arch::X86), Some(&device), &policy);
    assert_eq!(plan.action, BootAction::Silent);
    assert!(
        plan.why.contains("does not run on BIOS PXE"),
        "{}",
        plan.why
    );
}

#[test]
fn a_device_that_starts_signed_programs_alone_is_offered_no_other() {
    let mut device = device(Netboot::On, 0);
    device.secure_boot = true;
    let pxe = facts(Firmware::UefiPxe, Arch::X86_64);
    let http = facts(Firmware::UefiHttp, Arch::X86_64);
    assert_eq!(
        simply(&pxe, Some(&device)).action,
        BootAction::Tftp("shimx64.efi".into())
    );
    // Signed GRUB finds nothing there, and would keep the machine at its prompt.
    let plan = simply(&http, Some(&device));
    assert_eq!(plan.action, BootAction::Silent);
    assert!(plan.why.contains("boot by PXE"), "{}", plan.why);
    device.profile = Some("p".parse().unwrap());
    let policy = BootPolicy {
        profiles: vec![linux("p", Loader::Ipxe)],
        rules: vec![],
    };
    let plan = ask(&pxe, Some(&device), &policy);
    assert_eq!(plan.action, BootAction::Silent);
    assert!(plan.why.contains("signed programs alone"), "{}", plan.why);
}

#[test]
fn a_loader_that_the_server_does_not_have_is_said() {
    let pxe = facts(Firmware::UefiPxe, Arch::Aarch64);
    let plan = plan(&Question {
        facts: &pxe,
        device: None,
        policy: &BootPolicy::default(),
        from: None,
        loaders: &["undionly.kpxe"],
        unanswered: 0,
    });
    assert_eq!((plan.goal, plan.action), (Goal::None, BootAction::Silent));
    assert!(plan.why.contains("grubaa64.efi"), "{}", plan.why);
    assert!(plan.why.contains("grub-efi-arm64-bin"), "{}", plan.why);
}

#[test]
fn who_keeps_asking_is_answered_in_another_shape() {
    let pxe = facts(Firmware::UefiPxe, Arch::X86_64);
    let policy = BootPolicy::default();
    let loaders: Vec<&'static str> = crate::loaders().collect();
    let shape = |device: Option<&Device>, unanswered| {
        plan(&Question {
            facts: &pxe,
            device,
            policy: &policy,
            from: None,
            loaders: &loaders,
            unanswered,
        })
        .shape
    };
    let shapes: Vec<OfferShape> = [0, 2, 3, 6, 9].map(|n| shape(None, n)).to_vec();
    assert_eq!(
        shapes,
        [
            OfferShape::Standard,
            OfferShape::Standard,
            OfferShape::Direct,
            OfferShape::BootServer,
            OfferShape::Standard
        ]
    );
    let mut device = device(Netboot::On, 0);
    device.quirks.offer = OfferShape::BootServer;
    assert_eq!(shape(Some(&device), 0), OfferShape::BootServer);
    assert_eq!(shape(Some(&device), 3), OfferShape::Standard);
}

#[test]
fn what_led_to_nothing_is_followed_by_the_next() {
    let mut device = device(Netboot::On, 0);
    for name in ["snponly.efi", "ipxe.efi", "shimx64.efi", "snponly.efi"] {
        assert_eq!(
            simply(&facts(Firmware::UefiPxe, Arch::X86_64), Some(&device)).action,
            BootAction::Tftp(name.into())
        );
        device.quirks.efi = device.quirks.efi.next();
    }
}

#[test]
fn an_architecture_without_a_loader_is_answered_with_nothing_and_said() {
    let plan = simply(&facts(Firmware::UefiPxe, Arch::Arm), None);
    assert_eq!((plan.goal, plan.action), (Goal::None, BootAction::Silent));
    assert!(plan.why.contains("no loader"), "{}", plan.why);
}

#[test]
fn an_operating_system_that_wants_an_address_is_not_booted() {
    let mut os = facts(Firmware::BiosPxe, Arch::X86);
    os.firmware = None;
    assert_eq!(simply(&os, None).action, BootAction::Silent);
}
