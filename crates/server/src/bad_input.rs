//! What machines and people get wrong, played through the boot tree, the timeline and the registry:
//! each is answered safely, recorded, and said.

use crate::adapters::HttpPlug;
use crate::boot::TreeError;
use crate::testing::Site;
use bugler_api::{BootTree, BootTreeError};
use bugler_boot::{BootAction, BootPlan, ClientFacts, Goal};
use bugler_model::{DevicePatch, MacAddr, Netboot, Timestamp};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const LINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const UEFI: &[u8] = b"PXEClient:Arch:00007:UNDI:003016";

fn mac(last: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, last])
}

/// Facts of a packet with these options.
fn facts(mac: MacAddr, options: &[(u8, &[u8])]) -> ClientFacts {
    let options: HashMap<u8, &[u8]> = options.iter().copied().collect();
    ClientFacts::from_options(mac, |code| options.get(&code).copied())
}

/// A UEFI PC with this machine identifier.
fn pc(mac: MacAddr, id: u8) -> ClientFacts {
    facts(
        mac,
        &[
            (60, UEFI),
            (93, &[0, 7]),
            (97, &[&[0, id][..], &[1, 2, 3, 4, 5].repeat(3)].concat()),
        ],
    )
}

impl Site {
    fn discover(&self, facts: &ClientFacts) -> BootPlan {
        self.boot.advise(facts, "DISCOVER", LINK)
    }
}

fn says(events: &[String], part: &str) {
    assert!(
        events.iter().any(|event| event.contains(part)),
        "{part}: {events:#?}"
    );
}

#[tokio::test]
async fn an_unknown_architecture_is_recorded_answered_with_nothing_and_said() {
    for (arch, class) in [
        ([0, 0x1b], &b"PXEClient:Arch:00027:UNDI:003016"[..]),
        ([0x27, 0x10], b"PXEClient:Arch:10000:UNDI:003016"),
        ([0xff, 0xff], b"HTTPClient:Arch:65535:UNDI:003016"),
    ] {
        let mut site = Site::new();
        let number = u16::from_be_bytes(arch).to_string();
        let plan = site.discover(&facts(mac(1), &[(60, class), (93, &arch)]));
        assert_eq!((plan.action, plan.goal), (BootAction::Silent, Goal::None));
        let devices = site.devices().await;
        assert_eq!(
            (devices[0].macs.as_slice(), devices[0].arch),
            (&[mac(1)][..], None)
        );
        let told = site.told().await;
        says(&told, "no boot options, because");
        says(
            &told,
            &format!("the unknown architecture {number} has no loader here"),
        );
    }
}

#[tokio::test]
async fn options_of_any_length_leave_a_device_and_a_sentence() {
    let long = vec![b'A'; 4000];
    let id = vec![0x44; 4000];
    let class = [UEFI, &long].concat();
    for options in [
        vec![
            (60, &class[..]),
            (93, &long),
            (94, &long),
            (97, &id),
            (77, &long),
        ],
        vec![(60, UEFI), (93, &[7]), (94, &[]), (97, &[0]), (55, &[])],
        vec![(60, UEFI), (93, &[]), (97, &[])],
    ] {
        let mut site = Site::new();
        site.discover(&facts(mac(1), &options));
        let told = site.told().await;
        says(&told, "DISCOVER from 52:54:00:00:00:01 (");
        assert!(told.iter().all(|text| text.len() < 600), "{told:#?}");
        assert_eq!(site.devices().await.len(), 1);
    }
}

#[tokio::test]
async fn a_machine_with_another_interface_boots_as_itself() {
    let mut site = Site::new();
    site.discover(&pc(mac(1), 7));
    let device = site.devices().await.remove(0);
    let off = DevicePatch {
        netboot: Some(Netboot::Off),
        ..DevicePatch::default()
    };
    site.store.patch_device(device.id, off, NOW).await.unwrap();
    // The card was replaced; the board, and so its UUID, is the same.
    let plan = site.discover(&pc(mac(2), 7));
    assert_eq!(plan.goal, Goal::Local, "{}", plan.why);
    let devices = site.devices().await;
    assert_eq!((devices.len(), devices[0].id), (1, device.id));
    let mut macs = devices[0].macs.clone();
    macs.sort();
    assert_eq!(macs, [mac(1), mac(2)]);
}

#[tokio::test]
async fn a_renamed_mac_is_the_same_machine_by_its_uuid_and_else_a_new_one() {
    let mut site = Site::new();
    let (before, renamed) = (mac(1), MacAddr([0x02, 0, 0, 0, 0, 9]));
    site.discover(&facts(before, &[(60, UEFI), (93, &[0, 7])]));
    let old = site.devices().await.remove(0);
    let off = DevicePatch {
        netboot: Some(Netboot::Off),
        ..DevicePatch::default()
    };
    site.store.patch_device(old.id, off, NOW).await.unwrap();
    // Without a UUID nothing tells that it is the same: what was said of the old one is not its.
    let plan = site.discover(&facts(renamed, &[(60, UEFI), (93, &[0, 7])]));
    assert_eq!(plan.goal, Goal::Agent);
    let devices = site.devices().await;
    assert_eq!(devices.len(), 2);
    assert_eq!(site.store.device(old.id).await.unwrap().macs, [before]);
    // A machine that tells its UUID stays what it was.
    let told = MacAddr([0x02, 0, 0, 0, 0, 10]);
    site.discover(&pc(mac(3), 9));
    site.discover(&pc(told, 9));
    let devices = site.devices().await;
    assert_eq!(devices.len(), 3);
    assert!(
        devices
            .iter()
            .any(|device| device.macs.len() == 2 && device.macs.contains(&told))
    );
}

#[tokio::test]
async fn two_machines_with_one_uuid_are_both_answered_and_both_addresses_kept() {
    let mut site = Site::new();
    let plans = [pc(mac(1), 7), pc(mac(2), 7), pc(mac(1), 7)].map(|facts| site.discover(&facts));
    for plan in plans {
        assert_eq!(
            plan.action,
            BootAction::Tftp("snponly.efi".into()),
            "{}",
            plan.why
        );
    }
    // Until an agent has looked at both, they are one machine with two interfaces; the registry's
    // tests show how they become two.
    let devices = site.devices().await;
    assert_eq!((devices.len(), devices[0].macs.len()), (1, 2));
}

/// The boot ROM of the 3B sends one constant as its machine identifier, whichever board it is on.
#[tokio::test]
async fn two_raspberry_pis_3b_with_their_one_identifier_are_two_devices() {
    let mut site = Site::new();
    let id = [&[0][..], &[0x44; 16]].concat();
    for last in [1, 2] {
        let mac = MacAddr([0xb8, 0x27, 0xeb, 0, 0, last]);
        let class = b"PXEClient:Arch:00000:UNDI:002001";
        let plan = site.discover(&facts(mac, &[(60, class), (93, &[0, 0]), (97, &id)]));
        assert_eq!(plan.action, BootAction::RaspberryPi);
    }
    assert_eq!(site.devices().await.len(), 2);
}

#[tokio::test]
async fn a_boot_file_that_does_not_exist_is_said_by_http_and_by_tftp() {
    let mut site = Site::new();
    site.discover(&pc(mac(1), 7));
    site.boot.learn_address(PEER, mac(1));
    let client = SocketAddr::from((PEER, 4000));
    let plug = HttpPlug(site.boot.clone());
    let refused = plug
        .open(client, Some("192.0.2.1:8480"), "files/thin/vmlinuz")
        .await;
    match refused {
        Err(BootTreeError::NotFound(text)) => {
            assert!(
                text.contains("there is no thin/vmlinuz in the folder of boot files"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    says(&site.told().await, "HTTP: there is no files/thin/vmlinuz");
    // Nothing outside of the tree, and no line for what loaders look for by habit.
    for path in [
        "files/../registry.sqlite",
        "files/%2e%2e/x",
        "grub/x86_64-efi/command.lst",
    ] {
        let opened = site.boot.open(IpAddr::V4(PEER), None, path).await;
        assert!(matches!(opened, Err(TreeError::NotFound(_))), "{path}");
        assert!(plug.open(client, None, path).await.is_err());
    }
    let told = site.told().await;
    assert!(
        !told.iter().any(|text| text.contains("command.lst")),
        "{told:#?}"
    );
}

#[tokio::test]
async fn an_operating_system_that_wants_an_address_is_no_boot_and_no_event() {
    let mut site = Site::new();
    let plan = site.discover(&facts(mac(1), &[(60, b"MSFT 5.0")]));
    assert_eq!((plan.goal, plan.action), (Goal::None, BootAction::Silent));
    assert!(site.devices().await.is_empty());
}
