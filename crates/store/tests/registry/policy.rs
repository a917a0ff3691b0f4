//! Profiles and rules.

use crate::common::{Registry, at, mac, seen, told};
use bugler_model::{
    Boots, Conditions, DevicePatch, EfiStart, Loader, MenuEntry, Profile, ProfileName, Quirks, Rule,
};
use bugler_store::{Store, StoreError};

fn name(text: &str) -> ProfileName {
    text.parse().unwrap()
}

fn linux(text: &str) -> Profile {
    Profile {
        name: name(text),
        boots: Boots::Linux {
            kernel: "linux".into(),
            initrd: vec![],
            cmdline: "quiet".into(),
        },
        loader: Loader::Auto,
        note: None,
    }
}

fn menu(text: &str, entries: &[&str]) -> Profile {
    let entry = |profile: &&str| MenuEntry {
        label: profile.to_string(),
        profile: name(profile),
    };
    Profile {
        boots: Boots::Menu {
            title: "Boot".into(),
            entries: entries.iter().map(entry).collect(),
            default: None,
            timeout: 5,
        },
        ..linux(text)
    }
}

fn rule(profile: &str) -> Rule {
    Rule {
        when: Conditions::default(),
        profile: name(profile),
    }
}

fn refusal(result: Result<(), StoreError>) -> String {
    match result {
        Err(StoreError::Conflict(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn profiles_and_rules_survive_a_restart_in_their_order() {
    let mut registry = Registry::new();
    registry.set_profile(linux("b"), at(1)).await.unwrap();
    registry.set_profile(linux("a"), at(1)).await.unwrap();
    let rules = vec![rule("b"), rule("a"), rule("local")];
    registry.set_rules(rules.clone(), at(2)).await.unwrap();
    registry.restart();
    let policy = registry.boot_policy();
    assert_eq!(policy.profiles, [linux("a"), linux("b")]);
    assert_eq!(policy.rules, rules);
    let changed = Profile {
        note: Some("new".into()),
        ..linux("a")
    };
    registry.set_profile(changed.clone(), at(3)).await.unwrap();
    assert_eq!(registry.boot_policy().profiles[0], changed);
}

#[tokio::test]
async fn what_is_in_use_is_not_removed() {
    let registry = Registry::new();
    for text in ["own", "next", "ruled", "listed", "free"] {
        registry.set_profile(linux(text), at(1)).await.unwrap();
    }
    registry
        .set_profile(menu("menu", &["listed", "agent"]), at(1))
        .await
        .unwrap();
    registry
        .set_rules(vec![rule("ruled")], at(1))
        .await
        .unwrap();
    let device = seen(&registry, mac(1), None).await;
    let patch = DevicePatch {
        profile: Some("own".into()),
        next: Some("next".into()),
        ..DevicePatch::default()
    };
    registry
        .patch_device(device.id, patch, at(2))
        .await
        .unwrap();
    for (text, why) in [
        ("own", "boots the profile own"),
        ("next", "boots the profile next"),
        ("ruled", "rule 1 gives"),
        ("listed", "the menu menu has an entry"),
        ("agent", "always there"),
    ] {
        let refused = refusal(registry.remove_profile(name(text), at(3)).await);
        assert!(refused.contains(why), "{refused}");
    }
    registry.remove_profile(name("free"), at(3)).await.unwrap();
    let gone = registry.remove_profile(name("free"), at(3)).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let registry = Registry::new();
    registry.set_profile(linux("a"), at(1)).await.unwrap();
    registry
        .set_profile(menu("m", &["a"]), at(1))
        .await
        .unwrap();
    for (profile, why) in [
        (linux("agent"), "always there"),
        (menu("n", &["gone"]), "does not exist"),
        (menu("n", &["m"]), "is a menu itself"),
        (menu("n", &["n"]), "is a menu itself"),
        (menu("a", &["local"]), "cannot become a menu"),
    ] {
        let refused = refusal(registry.set_profile(profile, at(2)).await);
        assert!(refused.contains(why), "{refused}");
    }
    let refused = refusal(registry.set_rules(vec![rule("a"), rule("x")], at(2)).await);
    assert!(refused.contains("rule 2"), "{refused}");
    assert_eq!(registry.boot_policy().rules, []);
    let device = seen(&registry, mac(1), None).await;
    for text in ["gone", "No Name"] {
        let patch = DevicePatch {
            next: Some(text.into()),
            ..DevicePatch::default()
        };
        let patched = registry.patch_device(device.id, patch, at(2)).await;
        assert!(
            matches!(patched, Err(StoreError::Conflict(_))),
            "{patched:?}"
        );
    }
}

#[tokio::test]
async fn what_was_asked_for_once_ends_with_its_outcome_and_tries_are_counted() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await;
    let patch = DevicePatch {
        next: Some("local".into()),
        ..DevicePatch::default()
    };
    registry
        .patch_device(device.id, patch.clone(), at(2))
        .await
        .unwrap();
    for n in 0..3 {
        registry
            .begin_session(device.id, None, at(3 + n))
            .await
            .unwrap();
    }
    registry.restart();
    let known = registry.device(device.id).await.unwrap();
    assert_eq!((known.tries, known.next.clone()), (3, Some(name("local"))));
    registry.end_next(device.id, at(9)).await.unwrap();
    let known = registry.device(device.id).await.unwrap();
    assert_eq!((known.tries, known.next.clone()), (0, None));
    // An outcome ends the count where nothing was asked for once, too.
    registry
        .begin_session(device.id, None, at(10))
        .await
        .unwrap();
    registry.end_next(device.id, at(10)).await.unwrap();
    assert_eq!(registry.device(device.id).await.unwrap().tries, 0);
    // An operator's word begins the count anew.
    registry
        .begin_session(device.id, None, at(10))
        .await
        .unwrap();
    let known = registry
        .patch_device(device.id, patch, at(11))
        .await
        .unwrap();
    assert_eq!(known.tries, 0);
}

#[tokio::test]
async fn what_was_learned_of_a_firmware_is_kept_and_said_once() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await;
    let quirks = Quirks {
        efi: EfiStart::OwnDriver,
        ..Quirks::default()
    };
    for _ in 0..2 {
        registry
            .learn_quirks(device.id, quirks, "nothing followed".into(), at(2))
            .await
            .unwrap();
    }
    registry.restart();
    assert_eq!(registry.device(device.id).await.unwrap().quirks, quirks);
    let said = told(&registry, bugler_model::EventKind::Boot).await;
    let said = said.iter().filter(|text| text.contains("nothing followed"));
    assert_eq!(said.count(), 1);
}

#[tokio::test]
async fn of_two_who_change_the_same_rules_the_second_is_told() {
    let registry = Registry::new();
    let first = vec![rule("local")];
    registry
        .replace_rules(vec![], first.clone(), at(1))
        .await
        .unwrap();
    let second = registry
        .replace_rules(vec![], vec![rule("agent")], at(2))
        .await;
    assert!(
        matches!(second, Err(StoreError::RulesChanged)),
        "{second:?}"
    );
    assert_eq!(registry.boot_policy().rules, first);
    // Wrong rules are refused as ever, and leave what is there.
    let wrong = registry
        .replace_rules(first.clone(), vec![rule("gone")], at(3))
        .await;
    assert!(refusal(wrong).contains("gone"));
    assert_eq!(registry.boot_policy().rules, first);
    registry.replace_rules(first, vec![], at(4)).await.unwrap();
    assert_eq!(registry.boot_policy().rules, []);
}
