//! `bugler rule`.

use super::{Session, input};
use crate::cli;
use crate::output;
use anyhow::{Context, Result, bail};
use bugler_model::{Conditions, Rule};
use serde::Deserialize;

const PATH: &str = "rules";

/// How often a change is tried while others change the rules too.
const ATTEMPTS: u32 = 20;

pub(super) fn run(session: &Session, command: cli::Rule) -> Result<()> {
    match command {
        cli::Rule::List => told(session, &session.client.get::<Vec<Rule>>(PATH)?),
        cli::Rule::Set { file } => {
            let text = input::text(&file)?;
            let rules = read(&text)
                .with_context(|| format!("could not read the rules in {}", file.display()))?;
            put(session, &rules)
        }
        cli::Rule::Add(args) => change(session, |rules| {
            let place = args.at.unwrap_or(rules.len() + 1);
            if !(1..=rules.len() + 1).contains(&place) {
                bail!(
                    "there is no place {place}: there are {} rules, so a new one can be 1 to {}",
                    rules.len(),
                    rules.len() + 1
                );
            }
            rules.insert(place - 1, args.clone().rule());
            Ok(())
        }),
        cli::Rule::Remove { number } => change(session, |rules| {
            if !(1..=rules.len()).contains(&number) {
                bail!(
                    "there is no rule {number}: there are {}, see `bugler rule list`",
                    rules.len()
                );
            }
            rules.remove(number - 1);
            Ok(())
        }),
    }
}

/// Changes the rules that are there. Where somebody else was faster, the change is made again in what
/// is there then.
fn change(session: &Session, edit: impl Fn(&mut Vec<Rule>) -> Result<()>) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let (mut rules, version) = session.client.get_version::<Vec<Rule>>(PATH)?;
        edit(&mut rules)?;
        if let Some(rules) =
            session
                .client
                .replace::<Vec<Rule>>(PATH, version.as_deref(), &rules)?
        {
            return told(session, &rules);
        }
    }
    bail!(
        "could not change the rules: {ATTEMPTS} times in a row somebody else changed them first. See \
         what is there with `bugler rule list`, and try again"
    )
}

fn put(session: &Session, rules: &[Rule]) -> Result<()> {
    let rules: Vec<Rule> = session.client.put(PATH, &rules)?;
    told(session, &rules)
}

fn told(session: &Session, rules: &[Rule]) -> Result<()> {
    if session.json {
        return output::json(&rules);
    }
    output::table(
        &["RULE", "PROFILE", "DEVICES"],
        rules.iter().enumerate().map(|(index, rule)| {
            vec![
                (index + 1).to_string(),
                rule.profile.to_string(),
                words(&rule.when),
            ]
        }),
    )
}

/// The conditions, in words.
fn words(when: &Conditions) -> String {
    let conditions: Vec<String> = [
        ("tag", when.tag.clone()),
        ("arch", when.arch.map(|arch| arch.to_string())),
        (
            "firmware",
            when.firmware.map(|firmware| firmware.to_string()),
        ),
        ("vendor", when.vendor.clone()),
        ("model", when.model.clone()),
        ("serial", when.serial.clone()),
        ("subnet", when.subnet.map(|subnet| subnet.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(format!("{name} {}", value?)))
    .collect();
    if conditions.is_empty() {
        "all".into()
    } else {
        conditions.join(", ")
    }
}

/// A file of rules: a table with the one key `rules`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<Rule>,
}

/// Reads rules: JSON, a list or `{"rules": ...}`, or TOML.
pub(super) fn read(text: &str) -> Result<Vec<Rule>> {
    let start: String = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .take(2)
        .collect();
    // A TOML table of an array begins with two brackets, and no JSON list of rules does.
    if start.starts_with('{') {
        let file: File = serde_json::from_str(text)?;
        return Ok(file.rules);
    }
    if start.starts_with('[') && start != "[[" {
        return Ok(serde_json::from_str(text)?);
    }
    let file: File = toml::from_str(text)
        .context("rules are written as [[rules]], or `rules = []` where there shall be none")?;
    Ok(file.rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::{Arch, Firmware};

    #[test]
    fn rules_are_read_from_toml_and_from_json() {
        let toml = r#"
            # Comments are welcome.
            [[rules]]
            profile = "debian-installer"
            when = { tag = "new", arch = "x86-64", firmware = "uefi-pxe", subnet = "10.0.0.0/24" }

            [[rules]]
            profile = "local"
        "#;
        let rules = read(toml).unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].when.arch, Some(Arch::X86_64));
        assert_eq!(rules[0].when.firmware, Some(Firmware::UefiPxe));
        assert_eq!(
            words(&rules[0].when),
            "tag new, arch x86-64, firmware UEFI PXE, subnet 10.0.0.0/24"
        );
        assert_eq!(words(&rules[1].when), "all");
        let json = serde_json::to_string(&rules).unwrap();
        assert_eq!(read(&json).unwrap(), rules);
        assert_eq!(read(&format!("{{\"rules\": {json}}}")).unwrap(), rules);
        assert_eq!(read("rules = []").unwrap(), []);
        assert_eq!(read(" [ ] ").unwrap(), []);
    }

    #[test]
    fn a_wrong_file_removes_no_rule() {
        for (text, why) in [
            ("", "rules"),
            ("[[rule]]\nprofile = \"x\"", "rule"),
            (
                "[[rules]]\nprofile = \"No Name\"",
                "cannot be a profile's name",
            ),
            (
                "[[rules]]\nprofile = \"x\"\nwhen = { tagg = \"y\" }",
                "tagg",
            ),
            (
                "[[rules]]\nprofile = \"x\"\nwhen = { subnet = \"10.0.0.0\" }",
                "not an IPv4 network",
            ),
            (
                "[{\"profile\": \"x\", \"when\": {\"arch\": \"vax\"}}]",
                "vax",
            ),
            ("{\"rules\": 5}", "sequence"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
