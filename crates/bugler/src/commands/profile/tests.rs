//! The commands in `profiles.md` are held against the command line, and what they say against what
//! the server demands.

use super::*;
use crate::cli::{Cli, Command};
use clap::Parser;
use std::path::Path;

const DOCUMENT: &str = include_str!("../../../../boot/docs/profiles.md");

/// Every `bugler` command of the document, as a shell takes it apart.
fn commands() -> Vec<Vec<String>> {
    let text = DOCUMENT.replace("\\\n", " ");
    text.lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with("bugler "))
        .map(words_of)
        .collect()
}

/// Words of a command line in which quotes are single ones.
fn words_of(line: &str) -> Vec<String> {
    let mut words = vec![];
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    assert!(!quoted, "{line}");
    words.extend(word);
    words
}

/// Files are named as from the root of the repository.
fn from_root(file: &Path) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(file)
}

#[test]
fn every_command_of_the_document_is_one_and_its_profiles_can_be_booted() {
    let mut made = vec![];
    let mut rules = 0;
    for words in commands() {
        let cli = Cli::try_parse_from(&words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
        match cli.command {
            Command::Profile(cli::Profile::Set(mut args)) => {
                for script in [
                    &mut args.script_ipxe,
                    &mut args.script_pxelinux,
                    &mut args.script_grub,
                ] {
                    *script = script.as_deref().map(from_root);
                }
                let name = args.profile.clone();
                let profile = profile(*args).unwrap().named(name);
                bugler_boot::check(&profile).unwrap_or_else(|e| panic!("{words:?}: {e}"));
                made.push(profile);
            }
            Command::Rule(cli::Rule::Set { file }) => {
                let text = std::fs::read_to_string(from_root(&file)).unwrap();
                rules += crate::commands::rule::read(&text).unwrap().len();
            }
            _ => {}
        }
    }
    let names: Vec<&str> = made.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["debian-installer", "rescue", "memtest", "desk"]);
    assert_eq!(rules, 3);
    let Boots::Linux { cmdline, .. } = &made[0].boots else {
        panic!("{:?}", made[0]);
    };
    assert!(cmdline.contains("url={{ files }}/debian/preseed.cfg"));
}

#[test]
fn the_preseed_file_answers_in_the_form_that_the_installer_reads() {
    let text = include_str!("../../../../boot/docs/examples/debian-preseed.cfg");
    let answers: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.splitn(4, ' ').collect())
        .collect();
    for answer in &answers {
        let [_owner, question, kind, ..] = answer[..] else {
            panic!("{answer:?}");
        };
        let kinds = [
            "string",
            "select",
            "multiselect",
            "boolean",
            "password",
            "note",
        ];
        assert!(
            question.contains('/') && kinds.contains(&kind),
            "{answer:?}"
        );
        if kind == "boolean" {
            assert!(["true", "false"].contains(&answer[3]), "{answer:?}");
        }
    }
    // Without these it would stop and ask, or wait at its end.
    for question in [
        "partman-auto/method",
        "partman/confirm",
        "passwd/username",
        "mirror/http/hostname",
        "grub-installer/bootdev",
        "finish-install/reboot_in_progress",
    ] {
        assert!(
            answers.iter().any(|answer| answer[1] == question),
            "{question}"
        );
    }
}

fn set(line: &str) -> Result<cli::SetProfile, String> {
    let words = words_of(&format!("bugler profile set p {line}"));
    match Cli::try_parse_from(words)
        .map_err(|error| error.to_string())?
        .command
    {
        Command::Profile(cli::Profile::Set(args)) => Ok(*args),
        _ => Err("another command".into()),
    }
}

#[test]
fn a_menu_waits_ten_seconds_unless_told_otherwise() {
    for (line, seconds) in [("", 10), ("--timeout 0", 0), ("--timeout 90", 90)] {
        let args = set(&format!("--menu M --entry 'A = b=agent' {line}")).unwrap();
        let Boots::Menu {
            entries, timeout, ..
        } = profile(args).unwrap().boots
        else {
            panic!("{line}");
        };
        assert_eq!((timeout, entries[0].label.as_str()), (seconds, "A = b"));
    }
}

#[test]
fn a_command_line_that_means_two_things_or_nothing_is_refused() {
    for line in [
        "",
        "--note x",
        "--linux k --local",
        "--local --agent",
        "--linux k --script-ipxe f",
        "--menu M",
        "--menu M --entry agent",
        "--menu M --entry 'A=No Name'",
        "--menu M --entry A=agent --timeout -1",
        "--initrd i --local",
        "--cmdline x --script-grub f",
        "--timeout 5 --agent",
        "--file f --loader grub",
        "--linux k --loader lilo",
    ] {
        assert!(set(line).is_err(), "{line}");
    }
}

#[test]
fn a_profile_is_read_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.json");
    let shown = r#"{"name": "p", "boots": {"kind": "local"}, "loader": "auto", "note": "n"}"#;
    std::fs::write(&file, shown).unwrap();
    let read = profile(set(&format!("--file {}", file.display())).unwrap()).unwrap();
    assert_eq!(
        (read.boots, read.note.as_deref()),
        (Boots::Local, Some("n"))
    );
    std::fs::write(&file, r#"{"boots": {"kind": "lokal"}}"#).unwrap();
    let wrong = profile(set(&format!("--file {}", file.display())).unwrap()).unwrap_err();
    let wrong = format!("{wrong:#}");
    assert!(
        wrong.contains("p.json") && wrong.contains("lokal"),
        "{wrong}"
    );
    std::fs::write(&file, " ".repeat((1 << 20) + 1)).unwrap();
    let wrong = profile(set(&format!("--file {}", file.display())).unwrap()).unwrap_err();
    assert!(format!("{wrong:#}").contains("more than"), "{wrong:#}");
}

#[test]
fn a_diskless_profile_says_no_more_than_it_must() {
    let boots = |line: &str| profile(set(line).unwrap()).unwrap().boots;
    let Boots::Diskless(thin) = boots("--diskless debian-12") else {
        panic!("it is no diskless profile");
    };
    assert_eq!(thin.over, ExportProtocol::Nbd);
    assert_eq!(
        (thin.overlay_size, thin.durable),
        (DEFAULT_OVERLAY_SIZE, true)
    );
    let line = "--diskless debian-12@3 --over aoe --overlay ephemeral --overlay-size 512M \
                --aoe-address e1.2 --no-durable-writes --start sanboot";
    let Boots::Diskless(thin) = boots(line) else {
        panic!("it is no diskless profile");
    };
    assert_eq!(
        words(&Boots::Diskless(thin.clone())),
        "debian-12@3 over aoe"
    );
    assert_eq!((thin.overlay_size, thin.durable), (512_000_000, false));
    assert_eq!(thin.start, DisklessStart::Sanboot);
    for wrong in [
        "--over aoe",
        "--diskless debian-12@0",
        "--diskless a --aoe-address e1.255",
        "--diskless a --menu b --entry c=d",
        "--diskless a --local",
    ] {
        assert!(set(wrong).is_err(), "{wrong}");
    }
}
