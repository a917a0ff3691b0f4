use super::*;
use proptest::prelude::*;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const DIALECTS: [Dialect; 3] = [Dialect::Ipxe, Dialect::Pxelinux, Dialect::Grub];

fn target(label: &str) -> Target<'_> {
    Target {
        label,
        mac: MAC,
        firmware: Firmware::IpxeUefi,
        server: "http://10.0.0.1:8480",
        picked: None,
    }
}

fn text(dialect: Dialect, target: Target<'_>, run: &Run) -> String {
    String::from_utf8(render(dialect, target, run)).unwrap()
}

fn agent() -> Run {
    Run::Linux(Linux {
        kernel: "bootenv/x86_64/v1/vmlinuz".into(),
        initrd: vec!["bootenv/x86_64/v1/initrd".into()],
        cmdline: agent_cmdline(target("d1"), "abc", None, "console=ttyS0,115200"),
    })
}

fn menu(timeout: u32) -> Run {
    let entry = |label: &str, profile: &str| Entry {
        label: label.into(),
        profile: profile.parse().unwrap(),
    };
    Run::Menu {
        title: "What to boot".into(),
        entries: vec![entry("Rescue", "agent"), entry("Installer", "debian-12")],
        default: 1,
        timeout,
    }
}

#[test]
fn the_agent_is_told_the_servers_key() {
    let key = "ab".repeat(32);
    let cmdline = agent_cmdline(target("d1"), "abc", Some(&key), "quiet");
    let key = format!(" bugler.token=abc bugler.key={key} BOOTIF=01-");
    assert!(cmdline.contains(&key), "{cmdline}");
    assert!(cmdline.ends_with(" quiet"), "{cmdline}");
}

#[test]
fn the_agent_learns_its_server_its_token_and_its_interface() {
    let cmdline = "bugler.server=http://10.0.0.1:8480 bugler.token=abc \
                   BOOTIF=01-52-54-00-12-34-56 console=ttyS0,115200";
    let ipxe = text(Dialect::Ipxe, target("d1"), &agent());
    assert!(ipxe.starts_with("#!ipxe\n"));
    assert!(ipxe.contains(&format!(
        "kernel http://10.0.0.1:8480/boot/bootenv/x86_64/v1/vmlinuz initrd=initrd {cmdline} || goto \
         failed\ninitrd --name initrd http://10.0.0.1:8480/boot/bootenv/x86_64/v1/initrd || goto failed\n"
    )));
    let pxelinux = text(Dialect::Pxelinux, target("d1"), &agent());
    assert!(pxelinux.contains(&format!(
        "  KERNEL bootenv/x86_64/v1/vmlinuz\n  INITRD bootenv/x86_64/v1/initrd\n  APPEND {cmdline}\n  \
         IPAPPEND 3\n"
    )));
    let grub = text(Dialect::Grub, target("d1"), &agent());
    assert!(grub.contains(
        "if linux (tftp,10.0.0.1)/bootenv/x86_64/v1/vmlinuz 'bugler.server=http://10.0.0.1:8480' \
         'bugler.token=abc' 'BOOTIF=01-52-54-00-12-34-56' 'console=ttyS0,115200'; then\n  if initrd \
         (tftp,10.0.0.1)/bootenv/x86_64/v1/initrd; then\n"
    ));
}

#[test]
fn a_diskless_machine_is_told_its_root() {
    let mut root = Root {
        over: ExportProtocol::Nbd,
        port: 10809,
        name: "s3cret",
        aoe: "e1.2".parse().unwrap(),
        part: 1,
        kind: "ext4",
    };
    let cmdline = |root: &Root<'_>| root_cmdline(target("d1"), root, "bugler.token=abc quiet");
    assert_eq!(
        cmdline(&root),
        "bugler.root=nbd://10.0.0.1:10809/s3cret bugler.root-part=1 bugler.root-type=ext4 \
         bugler.token=abc quiet"
    );
    (root.over, root.part) = (ExportProtocol::Aoe, 0);
    assert_eq!(
        cmdline(&root),
        "bugler.root=aoe:e1.2 bugler.root-type=ext4 bugler.token=abc quiet"
    );
    (root.over, root.port) = (ExportProtocol::Nfs, 2049);
    assert_eq!(
        cmdline(&root),
        "bugler.root=nfs://10.0.0.1:2049/s3cret bugler.token=abc quiet"
    );
}

#[test]
fn a_disk_on_the_network_is_started_by_ipxe_alone() {
    let run = Run::Sanboot {
        uri: "aoe:e0.0".into(),
    };
    let ipxe = text(Dialect::Ipxe, target("d1"), &run);
    assert!(
        ipxe.contains("\nsanboot --keep aoe:e0.0 || goto failed\n"),
        "{ipxe}"
    );
    for other in [Dialect::Pxelinux, Dialect::Grub] {
        let text = text(other, target("d1"), &run);
        assert!(text.contains("only iPXE boots from aoe:e0.0"), "{text}");
    }
}

#[test]
fn several_initramfs_files_are_all_loaded() {
    let run = Run::Linux(Linux {
        kernel: "files/linux".into(),
        initrd: vec!["files/a".into(), "http://10.0.0.9/b".into()],
        cmdline: "quiet 'it'".into(),
    });
    let ipxe = text(Dialect::Ipxe, target("d1"), &run);
    assert!(ipxe.contains("initrd=initrd0 initrd=initrd1 quiet"));
    assert!(ipxe.contains("initrd --name initrd1 http://10.0.0.9/b ||"));
    assert!(
        text(Dialect::Pxelinux, target("d1"), &run).contains("INITRD files/a,http://10.0.0.9/b\n")
    );
    let grub = text(Dialect::Grub, target("d1"), &run);
    assert!(grub.contains("initrd (tftp,10.0.0.1)/files/a (http,10.0.0.9)/b; then"));
    assert!(grub.contains(r"'quiet' ''\''it'\'''"), "{grub}");
}

#[test]
fn a_menu_leads_to_the_profiles_that_it_names() {
    let ipxe = text(Dialect::Ipxe, target("d1"), &menu(5));
    assert!(ipxe.contains("item e1 Installer\n"));
    assert!(ipxe.contains("choose --default e1 --timeout 5000 picked || goto menu\n"));
    assert!(ipxe.contains(
        ":e1\nchain http://10.0.0.1:8480/boot/profile/debian-12/ipxe/52:54:00:12:34:56 || goto menu\n"
    ));
    let pxelinux = text(Dialect::Pxelinux, target("d1"), &menu(5));
    assert!(pxelinux.contains("TIMEOUT 50\nDEFAULT e1\n"));
    assert!(pxelinux.contains("CONFIG profile/debian-12/pxelinux.cfg/default\n"));
    let grub = text(Dialect::Grub, target("d1"), &menu(0));
    assert!(grub.contains("set default=1\nset timeout=-1\n"));
    assert!(grub.contains("configfile (tftp,10.0.0.1)/profile/debian-12/grub.cfg\n"));
    // Where the paths lead, the tree has something.
    for path in [
        "profile/debian-12/ipxe/52:54:00:12:34:56",
        "profile/debian-12/pxelinux.cfg/default",
        "profile/debian-12/grub.cfg",
    ] {
        assert!(crate::parse_path(path).is_some(), "{path}");
    }
}

#[test]
fn a_local_boot_differs_by_firmware() {
    let run = Run::Local { why: "off".into() };
    assert!(text(Dialect::Ipxe, target("d1"), &run).ends_with("\nexit 0\n"));
    let bios = Target {
        firmware: Firmware::IpxeBios,
        ..target("d1")
    };
    assert!(text(Dialect::Ipxe, bios, &run).contains("sanboot --no-describe --drive 0x80"));
    assert!(text(Dialect::Pxelinux, bios, &run).contains("LOCALBOOT 0"));
}

#[test]
fn who_has_to_wait_asks_the_same_again() {
    let run = Run::Wait {
        why: "it is built".into(),
    };
    let picked = "rescue".parse().unwrap();
    let target = Target {
        picked: Some(&picked),
        ..target("d1")
    };
    assert!(
        text(Dialect::Ipxe, target, &run)
            .contains("chain http://10.0.0.1:8480/boot/profile/rescue/ipxe/52:54:00:12:34:56\n")
    );
    assert!(
        text(Dialect::Grub, target, &run)
            .contains("configfile (tftp,10.0.0.1)/profile/rescue/grub.cfg\n")
    );
}

#[test]
fn what_an_operator_wrote_stays_as_it_is() {
    let run = Run::Raw("#!ipxe\necho ${net0/ip}\n".into());
    assert_eq!(
        text(Dialect::Ipxe, target("d1"), &run),
        "#!ipxe\necho ${net0/ip}\n"
    );
    let run = Run::Raw("echo hello".into());
    assert_eq!(
        text(Dialect::Ipxe, target("d1"), &run),
        "#!ipxe\necho hello\n"
    );
}

proptest! {
    #[test]
    fn a_name_cannot_add_commands(label in "\\PC{0,40}|[\\n'${}&|;a]{0,20}") {
        for dialect in DIALECTS {
            let named = text(dialect, target(&label), &agent());
            let plain = text(dialect, target("d1"), &agent());
            prop_assert_eq!(named.lines().count(), plain.lines().count());
            let expands = named.contains("${");
            prop_assert!(!expands, "{}", named);
        }
    }
}
