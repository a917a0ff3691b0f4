//! Which profile a device boots: what waits for it, then its own, then the rules.

use crate::{ClientFacts, Question};
use bugler_model::{Boots, Conditions, Device, Netboot, Profile, ProfileName, Rule};

/// How many boots may begin without an outcome before that is a loop: a power cut or two are none, a
/// machine that goes round for an afternoon is in one. A boot that was asked for once is not begun
/// again then, and the device is left to its disk. What it boots every time goes on, for a machine
/// without a disk has nothing else, and is said.
pub const MOST_TRIES: u32 = 8;

/// Whether a device goes round with what it boots every time: it has begun [`MOST_TRIES`] boots and none
/// had an outcome. An open task is no loop: its agent was there.
#[must_use]
pub fn goes_round(device: &Device) -> bool {
    device.tries >= MOST_TRIES
        && device.open_tasks == 0
        && device.next.is_none()
        && device.netboot == Netboot::On
}

/// A profile, and why it is the one.
pub(crate) struct Choice {
    pub(crate) profile: Option<Profile>,
    pub(crate) why: String,
}

/// What became of one rule, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The rule's place, from 1.
    pub number: usize,
    /// The profile that it gives.
    pub profile: ProfileName,
    /// The first condition that the device does not meet; `None`: it meets them all.
    pub unmet: Option<String>,
}

/// Holds a device against every rule, in order.
#[must_use]
pub fn weigh(question: &Question<'_>) -> Vec<Verdict> {
    let rules = question.policy.rules.iter().enumerate();
    rules
        .map(|(index, rule)| Verdict {
            number: index + 1,
            profile: rule.profile.clone(),
            unmet: unmet(&rule.when, question),
        })
        .collect()
}

pub(crate) fn choose(question: &Question<'_>) -> Choice {
    let mut choice = chosen(question);
    if let Some(device) = question.device
        && goes_round(device)
        && choice
            .profile
            .as_ref()
            .is_some_and(|profile| profile.boots != Boots::Local)
    {
        choice.why += &format!(
            ", although it began {} boots of late and none had an outcome",
            device.tries
        );
    }
    choice
}

fn chosen(question: &Question<'_>) -> Choice {
    let agent = |why: &str| Choice {
        profile: Some(Profile::agent()),
        why: why.into(),
    };
    let local = |why: String| Choice {
        profile: Some(Profile::local()),
        why,
    };
    let Some(device) = question.device else {
        return match first_rule(question) {
            Some((number, rule)) => named(question, &rule.profile, by_rule(number)),
            None => agent("nobody knows this machine: its agent registers it and waits"),
        };
    };
    if device.open_tasks > 0 {
        return agent("a task waits for its agent");
    }
    let asked_once = device.next.is_some() || device.netboot == Netboot::Once;
    if asked_once && device.tries >= MOST_TRIES {
        return local(format!(
            "it began {} boots that were asked for once, and none had an outcome: no more are made \
             until an operator says again what it boots",
            device.tries
        ));
    }
    if let Some(next) = &device.next {
        return named(question, next, format!("it boots {next} this once"));
    }
    match device.netboot {
        Netboot::Once => return agent("its network boot is on for once"),
        Netboot::Off => return local("its network boot is off".into()),
        Netboot::On => {}
    }
    if let Some(own) = &device.profile {
        let what = match own.as_str() {
            "agent" => "the agent".to_owned(),
            "local" => "the local disk".to_owned(),
            _ => own.to_string(),
        };
        return named(question, own, format!("its profile is {what}"));
    }
    match first_rule(question) {
        Some((number, rule)) => named(question, &rule.profile, by_rule(number)),
        None => agent("it has no profile and meets no rule: its agent waits"),
    }
}

fn by_rule(number: usize) -> String {
    format!("it meets rule {number}")
}

fn first_rule<'a>(question: &Question<'a>) -> Option<(usize, &'a Rule)> {
    let rules = question.policy.rules.iter().enumerate();
    rules
        .map(|(index, rule)| (index + 1, rule))
        .find(|(_, rule)| unmet(&rule.when, question).is_none())
}

fn named(question: &Question<'_>, name: &ProfileName, why: String) -> Choice {
    match question.policy.profile(name) {
        Some(profile) => Choice {
            profile: Some(profile),
            why,
        },
        None => Choice {
            profile: None,
            why: format!("{why}, and there is no profile {name}"),
        },
    }
}

/// The first condition that is not met, in words.
fn unmet(when: &Conditions, question: &Question<'_>) -> Option<String> {
    let Question { facts, device, .. } = question;
    let inventory = device.and_then(|device| device.inventory.as_ref());
    if let Some(tag) = &when.tag
        && !device.is_some_and(|device| device.tags.contains(tag))
    {
        return Some(format!("it does not have the tag {tag}"));
    }
    if let Some(arch) = when.arch
        && known_arch(facts, *device) != Some(arch)
    {
        return Some(format!("its architecture is not {arch}"));
    }
    if let Some(firmware) = when.firmware
        && facts.firmware != Some(firmware)
        && device.and_then(|device| device.firmware) != Some(firmware)
    {
        return Some(format!("its firmware is not {firmware}"));
    }
    let vendors = [
        inventory.and_then(|inventory| inventory.vendor.as_deref()),
        facts.vendor_class.as_deref(),
    ];
    if let Some(pattern) = &when.vendor
        && !vendors.into_iter().flatten().any(|v| matches(pattern, v))
    {
        return Some(format!("its vendor is not {pattern}"));
    }
    let model = inventory.and_then(|inventory| inventory.model.as_deref());
    if let Some(pattern) = &when.model
        && !model.is_some_and(|model| matches(pattern, model))
    {
        return Some(format!("its model is not {pattern}"));
    }
    let serial = inventory.and_then(|inventory| inventory.serial.as_deref());
    if let Some(pattern) = &when.serial
        && !serial.is_some_and(|serial| matches(pattern, serial))
    {
        return Some(format!("its serial number is not {pattern}"));
    }
    if let Some(subnet) = when.subnet
        && !question.from.is_some_and(|from| subnet.contains(from))
    {
        return Some(format!("it does not ask from {subnet}"));
    }
    None
}

/// A BIOS says x86 whatever the processor is: what its agent found counts more.
fn known_arch(facts: &ClientFacts, device: Option<&Device>) -> Option<bugler_model::Arch> {
    facts.arch.or_else(|| device.and_then(|device| device.arch))
}

/// Whether a pattern with `*` and `?` stands for the whole text, without regard to case. Takes time
/// in proportion to the product of the lengths at most.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where the last `*` was, and how much of the text it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || text.get(t) == Some(&c) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else {
                    return false;
                };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern
        .get(p..)
        .unwrap_or_default()
        .iter()
        .all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_stand_for_texts() {
        for (pattern, text, same) in [
            ("dell*", "Dell Inc.", true),
            ("*inc.", "Dell Inc.", true),
            ("*l*i*", "Dell Inc.", true),
            ("d?ll inc.", "Dell Inc.", true),
            ("dell", "Dell Inc.", false),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("a*b", "axxbxx", false),
            ("a*b", "axxbxxb", true),
        ] {
            assert_eq!(matches(pattern, text), same, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn a_text_is_its_own_pattern(text in "[a-zA-Z0-9 ]{0,40}") {
            prop_assert!(matches(&text, &text));
            prop_assert!(matches("*", &text));
            let text = format!("*{text}*");
            let long = format!("xx{}yy", text.trim_matches('*'));
            prop_assert!(matches(&text, &long));
        }

        #[test]
        fn any_pattern_ends(pattern in "[*?ab]{0,60}", text in "[ab]{0,200}") {
            let _ = matches(&pattern, &text);
        }
    }
}
