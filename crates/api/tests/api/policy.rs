//! Profiles, rules and plans: what is kept, and what is refused with a reason.

use crate::lab::{Lab, call, mac};
use axum::body::Body;
use axum::http::Method;
use bugler_model::{Boots, Device, Loader, Profile, Rule};
use bugler_protocol::operator::{PlanAction, PlanView};
use serde_json::{Value, json};

const PROFILES: &str = "/api/v1/profiles";
const RULES: &str = "/api/v1/rules";

fn linux(kernel: &str, cmdline: &str) -> Value {
    json!({"boots": {"kind": "linux", "kernel": kernel, "cmdline": cmdline}})
}

impl Lab {
    async fn set(&self, name: &str, body: &Value) -> crate::lab::Answer {
        let path = format!("{PROFILES}/{name}");
        self.send(Method::PUT, &path, body).await
    }

    /// What a profile is refused with; nothing of it is kept.
    async fn refused(&self, body: &Value, status: u16) -> String {
        let text = self.set("bad", body).await.error(status);
        assert!(text.len() < 600, "{text}");
        self.get(&format!("{PROFILES}/bad")).await.error(404);
        text
    }

    async fn put_rules(&self, rules: &Value) -> crate::lab::Answer {
        self.send(Method::PUT, RULES, rules).await
    }

    async fn remove_profile(&self, name: &str) -> crate::lab::Answer {
        let path = format!("{PROFILES}/{name}");
        call(&self.operator, Method::DELETE, &path, &[], Body::empty()).await
    }
}

fn menu(entries: &[(&str, &str)]) -> Value {
    let entries: Vec<Value> = entries
        .iter()
        .map(|(label, profile)| json!({"label": label, "profile": profile}))
        .collect();
    json!({"boots": {"kind": "menu", "title": "Choose", "entries": entries}})
}

#[tokio::test]
async fn a_profile_is_made_changed_listed_and_removed() {
    let lab = Lab::new().await;
    let body = json!({
        "name": "thin",
        "boots": {
            "kind": "linux",
            "kernel": "thin/vmlinuz",
            "initrd": ["thin/a", "thin/b"],
            "cmdline": "hostname={{ device.name }} BOOTIF={{ bootif }}",
        },
        "loader": "grub",
        "note": "no disk",
    });
    let made: Profile = lab.set("thin", &body).await.json();
    assert_eq!((made.name.as_str(), made.loader), ("thin", Loader::Grub));
    let path = format!("{PROFILES}/thin");
    assert_eq!(lab.get(&path).await.json::<Profile>(), made);
    // What is shown can be set again.
    let again: Profile = lab.send(Method::PUT, &path, &made).await.json();
    assert_eq!(again, made);
    let changed: Profile = lab.set("thin", &linux("other", "")).await.json();
    assert_eq!(changed.loader, Loader::Auto);

    let all: Vec<Profile> = lab.get(PROFILES).await.json();
    let names: Vec<&str> = all.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["agent", "local", "thin"]);
    let local: Profile = lab.get(&format!("{PROFILES}/local")).await.json();
    assert_eq!(local.boots, Boots::Local);

    assert_eq!(lab.remove_profile("thin").await.status.as_u16(), 204);
    lab.remove_profile("thin").await.error(404);
    let gone = lab.get(&path).await.error(404);
    assert!(gone.contains("bugler profile list"), "{gone}");
}

#[tokio::test]
async fn a_broken_template_is_refused_with_its_line_and_the_reason() {
    let lab = Lab::new().await;
    let script = |text: &str| json!({"boots": {"kind": "script", "ipxe": text}});
    for (body, line, why) in [
        (
            script("#!ipxe\n\nkernel {{ device.nmae }}\n"),
            3,
            "undefined",
        ),
        (script("#!ipxe\n{% if mac %}\nboot\n"), 2, "unexpected end"),
        (script("#!ipxe\n{{ mac"), 2, "unexpected end"),
        (script("{{ mac | upcase }}"), 1, "upcase"),
        (
            script("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}"),
            1,
            "fuel",
        ),
        (linux("linux", "quiet host={{ hostname }}"), 1, "undefined"),
        (linux("{{ device.kernel }}", ""), 1, "undefined"),
    ] {
        let text = lab.refused(&body, 400).await;
        assert!(text.contains("could not save the profile bad"), "{text}");
        assert!(text.contains(&format!("in line {line}")), "{text}");
        assert!(text.contains(why), "{why}: {text}");
    }
    for (body, why) in [
        (linux("../../etc/shadow", ""), "the folder of boot files"),
        (linux("a b", ""), "blanks"),
        (linux("", ""), "names no file"),
        (linux("linux", "a\nb"), "more than one line"),
    ] {
        let text = lab.refused(&body, 400).await;
        assert!(text.contains(why), "{why}: {text}");
    }
}

#[tokio::test]
async fn a_profile_that_cannot_be_booted_is_refused() {
    let lab = Lab::new().await;
    let long = "x".repeat(10_000);
    let many = vec!["a"; 17];
    for (body, why) in [
        (linux(&long, ""), "10000 bytes: 2048 are the most"),
        (linux("linux", &long), "a kernel reads 2,047"),
        (
            json!({"boots": {"kind": "linux", "kernel": "k", "initrd": [long]}}),
            "10000 bytes",
        ),
        (
            json!({"boots": {"kind": "linux", "kernel": "k", "initrd": many}}),
            "17 initramfs",
        ),
        (
            json!({"boots": {"kind": "agent"}, "note": long}),
            "more than 1000 characters",
        ),
        (
            json!({"boots": {"kind": "agent"}, "note": "a\u{1b}[2J"}),
            "cannot be printed",
        ),
        (
            json!({"boots": {"kind": "script"}}),
            "give one for ipxe, pxelinux or grub",
        ),
        (
            json!({"boots": {"kind": "script", "grub": " \n"}}),
            "is empty",
        ),
        (
            json!({"boots": {"kind": "script", "ipxe": "#!ipxe"}, "loader": "lpxelinux"}),
            "no script in the language of pxelinux",
        ),
        (
            json!({"name": "other", "boots": {"kind": "agent"}}),
            "in the path and other",
        ),
    ] {
        let text = lab.refused(&body, 400).await;
        assert!(text.contains(why), "{why}: {text}");
    }
    // A long script is good: it is what a loader takes that counts.
    let script =
        json!({"boots": {"kind": "script", "ipxe": format!("#!ipxe\n{}", "echo\n".repeat(2000))}});
    lab.set("long", &script).await.json::<Profile>();
    let huge = json!({"boots": {"kind": "script", "ipxe": "x".repeat(70_000)}});
    assert!(lab.refused(&huge, 400).await.contains("longer than 65536"));
    for (body, why) in [
        (json!({"boots": {"kind": "lunix", "kernel": "k"}}), "lunix"),
        (json!({"boots": {"kind": "linux"}}), "kernel"),
        (
            json!({"boots": {"kind": "agent"}, "loader": "lilo"}),
            "lilo",
        ),
        (json!({"boot": {"kind": "agent"}}), "boot"),
        (json!([]), "invalid"),
    ] {
        let text = lab.refused(&body, 422).await;
        assert!(text.contains(why), "{why}: {text}");
    }
    for (name, status) in [
        ("agent", 409),
        ("local", 409),
        ("No%20Name", 400),
        (&"x".repeat(65), 400),
    ] {
        lab.set(name, &linux("k", "")).await.error(status);
    }
}

#[tokio::test]
async fn menus_offer_what_there_is_and_never_go_round() {
    let lab = Lab::new().await;
    let good = menu(&[("Disk", "local"), ("Agent", "agent")]);
    let made: Profile = lab.set("desk", &good).await.json();
    assert!(matches!(made.boots, Boots::Menu { timeout: 10, .. }));
    let entries: Vec<(String, &str)> = (0..65).map(|n| (n.to_string(), "local")).collect();
    let many: Vec<(&str, &str)> = entries.iter().map(|(l, p)| (l.as_str(), *p)).collect();
    let with = |key: &str, value: Value| {
        let mut body = menu(&[("Disk", "local")]);
        body["boots"][key] = value;
        body
    };
    let long = "x".repeat(10_000);
    for (body, status, why) in [
        (menu(&[]), 400, "0 entries: 1 to 64"),
        (menu(&many), 400, "65 entries"),
        (menu(&[("", "local")]), 400, "not a good label"),
        (menu(&[("a\nb", "local")]), 400, "not a good label"),
        (
            menu(&[(&long, "local")]),
            400,
            "(10000 characters) is not a good label",
        ),
        (with("title", json!(long)), 400, "not a good title"),
        (with("timeout", json!(3601)), 400, "waits 3601 s"),
        (with("default", json!("agent")), 400, "no entry of the menu"),
        (menu(&[("Gone", "gone")]), 409, "gone, which does not exist"),
        (menu(&[("Menu", "desk")]), 409, "is a menu itself"),
        (menu(&[("Me", "bad")]), 409, "is a menu itself"),
    ] {
        let text = lab.refused(&body, status).await;
        assert!(text.contains(why), "{why}: {text}");
    }
    // An entry that becomes a menu would make one loop too.
    lab.set("thin", &linux("k", "")).await.json::<Profile>();
    lab.set("desk", &menu(&[("Thin", "thin")]))
        .await
        .json::<Profile>();
    let round = lab.set("thin", &menu(&[("Desk", "desk")])).await.error(409);
    assert!(round.contains("menu"), "{round}");
    let most: Vec<(&str, &str)> = many[..64].to_vec();
    lab.set("most", &menu(&most)).await.json::<Profile>();
}

#[tokio::test]
async fn rules_are_kept_in_their_order_or_refused_whole() {
    let lab = Lab::new().await;
    lab.set("thin", &linux("k", "")).await.json::<Profile>();
    let rules = json!([
        {"when": {"tag": "thin", "arch": "x86-64", "subnet": "10.1.2.3/16"}, "profile": "thin"},
        {"profile": "local"},
    ]);
    let set: Vec<Rule> = lab.put_rules(&rules).await.json();
    assert_eq!(set[0].when.subnet.unwrap().to_string(), "10.1.0.0/16");
    let long = "x".repeat(10_000);
    for (body, status, why) in [
        (
            json!([{"profile": "local"}, {"profile": "gone"}]),
            409,
            "rule 2 gives the profile gone",
        ),
        (
            json!([{"profile": "local", "when": {"tag": ""}}]),
            400,
            "rule 1: its condition tag",
        ),
        (
            json!([{"profile": "local"}, {"profile": "local", "when": {"vendor": long}}]),
            400,
            "rule 2: its condition vendor",
        ),
        (
            json!([{"profile": "local", "when": {"serial": "a\u{7}"}}]),
            400,
            "its condition serial",
        ),
        (
            json!([{"profile": long}]),
            422,
            "cannot be a profile's name",
        ),
        (
            json!([{"profile": "local", "when": {"subnet": "10.0.0.0/33"}}]),
            422,
            "not an IPv4 network",
        ),
        (
            json!([{"profile": "local", "when": {"arch": "vax"}}]),
            422,
            "vax",
        ),
        (
            json!([{"profile": "local", "when": {"firmware": "bios"}}]),
            422,
            "bios",
        ),
        (
            json!([{"profile": "local", "when": {"tagg": "x"}}]),
            422,
            "tagg",
        ),
        (json!({"rules": []}), 422, "sequence"),
        (
            json!(vec![json!({"profile": "local"}); 1001]),
            409,
            "1001 rules are too many",
        ),
    ] {
        let text = lab.put_rules(&body).await.error(status);
        assert!(text.contains(why) && text.len() < 600, "{why}: {text}");
        assert_eq!(lab.get(RULES).await.json::<Vec<Rule>>(), set);
    }
    let used = lab.remove_profile("thin").await.error(409);
    assert!(used.contains("rule 1"), "{used}");
    assert_eq!(lab.put_rules(&json!([])).await.json::<Vec<Rule>>(), []);
    assert_eq!(lab.remove_profile("thin").await.status.as_u16(), 204);
}

fn etag(answer: &crate::lab::Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

impl Lab {
    async fn put_rules_if(&self, version: &str, rules: &Value) -> crate::lab::Answer {
        let headers = [("content-type", "application/json"), ("if-match", version)];
        let body = Body::from(rules.to_string());
        call(&self.operator, Method::PUT, RULES, &headers, body).await
    }
}

#[tokio::test]
async fn rules_are_replaced_only_where_they_are_still_those_that_were_read() {
    let lab = Lab::new().await;
    let (one, two) = (json!([{"profile": "local"}]), json!([{"profile": "agent"}]));
    let empty = etag(&lab.get(RULES).await);
    assert!(empty.starts_with('"') && empty.ends_with('"'), "{empty}");
    let set = lab.put_rules_if(&empty, &one).await;
    let version = etag(&set);
    assert_eq!(set.status.as_u16(), 200);
    assert_eq!(etag(&lab.get(RULES).await), version);
    assert_ne!(version, empty);
    // Another writer read the empty list too.
    let refused = lab.put_rules_if(&empty, &two).await.error(412);
    assert!(refused.contains("somebody else changed them"), "{refused}");
    assert_eq!(lab.get(RULES).await.json::<Value>()[0]["profile"], "local");
    // RFC 9110 section 13.1.1: any of a list, whatever there is, and never a weak tag.
    let weak = format!("W/{version}");
    lab.put_rules_if(&weak, &two).await.error(412);
    lab.put_rules_if("nonsense", &two).await.error(412);
    let listed = format!("{empty}, {version}");
    assert_eq!(lab.put_rules_if(&listed, &two).await.status.as_u16(), 200);
    assert_eq!(lab.put_rules_if("*", &one).await.status.as_u16(), 200);
    // Whoever sends a whole list does not have to ask.
    assert_eq!(lab.put_rules(&json!([])).await.status.as_u16(), 200);
    assert_eq!(etag(&lab.get(RULES).await), empty);
}

#[tokio::test]
async fn rules_that_many_add_at_once_are_all_there() {
    let lab = std::sync::Arc::new(Lab::new().await);
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let lab = lab.clone();
        writers.spawn(async move {
            loop {
                let answer = lab.get(RULES).await;
                let mut rules: Vec<Value> = answer.json();
                rules.push(json!({"profile": "local", "when": {"tag": format!("writer-{n}")}}));
                let put = lab.put_rules_if(&etag(&answer), &json!(rules)).await;
                match put.status.as_u16() {
                    200 => break,
                    412 => tokio::task::yield_now().await,
                    other => panic!("{other}"),
                }
            }
        });
    }
    writers.join_all().await;
    assert_eq!(lab.get(RULES).await.json::<Vec<Rule>>().len(), 8);
}

#[tokio::test]
async fn a_device_boots_profiles_that_there_are() {
    let lab = Lab::new().await;
    lab.booting(mac(1)).await;
    lab.set("thin", &linux("k", "")).await.json::<Profile>();
    let patch = |body: Value| {
        let lab = &lab;
        async move { lab.send(Method::PATCH, "/api/v1/devices/d1", &body).await }
    };
    let own: Device = patch(json!({"profile": "thin", "next": "local", "secure_boot": true}))
        .await
        .json();
    assert_eq!(own.profile.unwrap().as_str(), "thin");
    assert_eq!(own.next.unwrap().as_str(), "local");
    assert!(own.secure_boot);
    for bad in ["gone", "No Name", &"x".repeat(10_000)] {
        for field in ["profile", "next"] {
            let text = patch(json!({field: bad})).await.error(409);
            assert!(text.len() < 300, "{text}");
        }
    }
    let used = lab.remove_profile("thin").await.error(409);
    assert!(used.contains("bugler device set d1 --profile"), "{used}");
    let none: Device = patch(json!({"profile": "", "next": ""})).await.json();
    assert_eq!((none.profile, none.next), (None, None));
    assert_eq!(lab.remove_profile("thin").await.status.as_u16(), 204);
}

#[tokio::test]
async fn a_plan_is_that_of_the_device_that_was_named() {
    let lab = Lab::new().await;
    lab.booting(mac(1)).await;
    let path = "/api/v1/devices/52:54:00:00:00:01/plan";
    let plan: PlanView = lab.get(path).await.json();
    assert_eq!(
        (plan.device.to_string().as_str(), plan.mac),
        ("d1", Some(mac(1)))
    );
    assert_eq!(plan.action, PlanAction::Silent);
    lab.get("/api/v1/devices/nobody/plan").await.error(404);
    *lab.boot.boots_nothing.lock().unwrap() = true;
    lab.get(path).await.error(503);
}
