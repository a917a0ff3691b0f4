//! Templates that operators write: scripts, command lines, paths.
//!
//! A name that means nothing is an error, and a template is tried when it is saved, so that a machine
//! is not what finds the mistake.

use bugler_model::{Boots, Device, MacAddr, Profile};
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use std::net::Ipv4Addr;

/// Longest template, in bytes.
const LONGEST: usize = 64 << 10;
/// Longest text that a template may make, in bytes.
const LONGEST_OUTPUT: usize = 256 << 10;
/// How much work a template may be, in steps of its engine: a loop that would not end is cut off.
const FUEL: u64 = 200_000;

/// A template, or what it made, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the template of {what} is wrong{}: {reason}", line.map_or(String::new(), |n| format!(" in line {n}")))]
pub struct TemplateError {
    /// Which template: `cmdline`, `ipxe`, ...
    pub what: String,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

/// What a template knows.
#[derive(Clone, Debug, Serialize)]
pub struct Values {
    /// The machine.
    pub device: DeviceValues,
    /// The interface that boots: `52:54:00:12:34:56`.
    pub mac: String,
    /// The same as loaders write it: `01-52-54-00-12-34-56`.
    pub bootif: String,
    /// The address that the machine asks from; empty where it is not known.
    pub address: String,
    /// Base URL of the device plane: `http://10.0.0.1:8480`.
    pub server: String,
    /// The server's address.
    pub host: String,
    /// Base URL of the operator's files.
    pub files: String,
}

/// What a template knows of the machine. Texts that the machine told have no character that a loader
/// or a kernel would take for more than text.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceValues {
    /// Its id: `d7`.
    pub id: String,
    /// Its name; where it has none, its id.
    pub name: String,
    /// Its UUID, or nothing.
    pub uuid: String,
    /// Its serial number, or nothing.
    pub serial: String,
    /// Its vendor, or nothing.
    pub vendor: String,
    /// Its model, or nothing.
    pub model: String,
    /// Its architecture, or nothing.
    pub arch: String,
    /// Its tags.
    pub tags: Vec<String>,
}

impl Values {
    /// What there is to say of a machine that boots.
    #[must_use]
    pub fn new(device: &Device, mac: MacAddr, address: Option<Ipv4Addr>, server: &str) -> Self {
        let inventory = device.inventory.as_ref();
        let told = |text: Option<&String>| text.map(|text| harmless(text)).unwrap_or_default();
        let host = server.strip_prefix("http://").unwrap_or(server);
        Self {
            device: DeviceValues {
                id: device.id.to_string(),
                name: harmless(&device.label()),
                uuid: device.uuid.map(|uuid| uuid.to_string()).unwrap_or_default(),
                serial: told(inventory.and_then(|i| i.serial.as_ref())),
                vendor: told(inventory.and_then(|i| i.vendor.as_ref())),
                model: told(inventory.and_then(|i| i.model.as_ref())),
                arch: device.arch.map(|arch| arch.to_string()).unwrap_or_default(),
                tags: device.tags.iter().map(|tag| harmless(tag)).collect(),
            },
            mac: mac.to_string(),
            bootif: mac.bootif(),
            address: address.map(|a| a.to_string()).unwrap_or_default(),
            server: server.to_owned(),
            host: host
                .rsplit_once(':')
                .map_or(host, |(host, _)| host)
                .to_owned(),
            files: format!("{server}/boot/files"),
        }
    }

    /// Values for trying a template out.
    fn sample() -> Self {
        Self {
            device: DeviceValues {
                id: "d1".into(),
                name: "node-1".into(),
                uuid: "1eadff66-19e7-84ad-9831-b8aeed7d5f80".into(),
                serial: "S1".into(),
                vendor: "Vendor".into(),
                model: "Model".into(),
                arch: "x86-64".into(),
                tags: vec!["rack1".into()],
            },
            mac: "52:54:00:12:34:56".into(),
            bootif: "01-52-54-00-12-34-56".into(),
            address: "10.0.0.100".into(),
            server: "http://10.0.0.1:8480".into(),
            host: "10.0.0.1".into(),
            files: "http://10.0.0.1:8480/boot/files".into(),
        }
    }
}

fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".,:-_()/+@".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// Fills a template in.
///
/// # Errors
/// [`TemplateError`]: it is not a template, a name in it means nothing, or it makes too much.
pub fn fill(what: &str, template: &str, values: &impl Serialize) -> Result<String, TemplateError> {
    let wrong = |line, reason: String| TemplateError {
        what: what.to_owned(),
        line,
        reason,
    };
    if template.len() > LONGEST {
        return Err(wrong(None, format!("it is longer than {LONGEST} bytes")));
    }
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(FUEL));
    engine
        .render_str(template, minijinja::value::Serde(values))
        .map_err(|error| {
            let reason = error
                .detail()
                .map_or_else(|| error.kind().to_string(), str::to_owned);
            wrong(error.line(), reason)
        })
        .and_then(|text| {
            if text.len() > LONGEST_OUTPUT {
                let reason = format!("it makes more than {LONGEST_OUTPUT} bytes");
                return Err(wrong(None, reason));
            }
            Ok(text)
        })
}

/// Fills in a template that has to be one line.
///
/// # Errors
/// As [`fill`], and where a line ends in the middle of it.
pub fn fill_line(
    what: &str,
    template: &str,
    values: &impl Serialize,
) -> Result<String, TemplateError> {
    let text = fill(what, template, values)?;
    let line = text.trim();
    if line.contains(|c: char| c.is_control()) {
        return Err(TemplateError {
            what: what.to_owned(),
            line: None,
            reason: "it makes more than one line".to_owned(),
        });
    }
    Ok(line.to_owned())
}

/// Tries every template of a profile out.
///
/// # Errors
/// The first that is wrong.
pub fn check(profile: &Profile) -> Result<(), TemplateError> {
    let values = Values::sample();
    match &profile.boots {
        Boots::Local | Boots::Agent | Boots::Menu { .. } => Ok(()),
        Boots::Linux {
            kernel,
            initrd,
            cmdline,
        } => {
            let file = |what: &str, template: &String| {
                let path = fill_line(what, template, &values)?;
                check_file(what, &path)
            };
            file("kernel", kernel)?;
            for template in initrd {
                file("initrd", template)?;
            }
            fill_line("cmdline", cmdline, &values).map(drop)
        }
        Boots::Diskless(diskless) => fill_line("cmdline", &diskless.cmdline, &values).map(drop),
        Boots::Script {
            ipxe,
            pxelinux,
            grub,
        } => {
            let scripts = [("ipxe", ipxe), ("pxelinux", pxelinux), ("grub", grub)];
            for (what, script) in scripts {
                if let Some(template) = script {
                    fill(what, template, &values)?;
                }
            }
            Ok(())
        }
    }
}

/// A file is an HTTP URL, or a path under the operator's folder.
fn check_file(what: &str, path: &str) -> Result<(), TemplateError> {
    let wrong = |reason: &str| {
        Err(TemplateError {
            what: what.to_owned(),
            line: None,
            reason: format!("{reason}: {path:?}"),
        })
    };
    if path.is_empty() {
        return wrong("it names no file");
    }
    if path.contains(char::is_whitespace) {
        return wrong("a file's name has no blanks here, because loaders end it there");
    }
    if path.starts_with("http://") || path.starts_with("https://") {
        return Ok(());
    }
    if crate::parse_path(&format!("files/{path}")).is_none() {
        return wrong(
            "it is neither an http:// URL nor a path under the folder of boot files (letters, \
             digits and . _ + - : ~, no part with a dot first)",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn linux(kernel: &str, cmdline: &str) -> Profile {
        Profile {
            name: "x".parse().unwrap(),
            boots: Boots::Linux {
                kernel: kernel.into(),
                initrd: vec!["debian/initrd.gz".into()],
                cmdline: cmdline.into(),
            },
            loader: bugler_model::Loader::Auto,
            note: None,
        }
    }

    #[test]
    fn a_command_line_is_filled_in() {
        let template = "ip=dhcp hostname={{ device.name }} BOOTIF={{ bootif }}\n";
        assert_eq!(
            fill_line("cmdline", template, &Values::sample()).unwrap(),
            "ip=dhcp hostname=node-1 BOOTIF=01-52-54-00-12-34-56"
        );
        check(&linux("debian/linux", template)).unwrap();
        check(&linux("{{ device.arch }}/linux", template)).unwrap();
        check(&linux("http://mirror.example/linux", template)).unwrap();
    }

    #[test]
    fn a_broken_template_is_refused_with_its_line() {
        let script = |text: &str| Profile {
            boots: Boots::Script {
                ipxe: Some(text.into()),
                pxelinux: None,
                grub: None,
            },
            ..linux("x", "")
        };
        let error = check(&script("#!ipxe\n\nkernel {{ device.nmae }}\n")).unwrap_err();
        assert_eq!((error.what.as_str(), error.line), ("ipxe", Some(3)));
        let error = check(&script("#!ipxe\n{% if mac %}\n")).unwrap_err();
        assert!(error.line.is_some(), "{error}");
        // A loop that would run for minutes.
        let error = check(&script(
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
        ))
        .unwrap_err();
        assert!(error.reason.contains("fuel"), "{error}");
        assert!(check(&linux("../etc/shadow", "")).is_err());
        assert!(check(&linux("a b", "")).is_err());
        assert!(check(&linux("x", "a\nb")).is_err());
    }

    #[test]
    fn what_a_machine_told_of_itself_is_only_text() {
        assert_eq!(harmless("a b\n${x}'\"&&;|"), "a_b___x_______");
        assert_eq!(harmless("PowerEdge-R640"), "PowerEdge-R640");
    }

    proptest! {
        #[test]
        fn any_template_ends(template in "(\\{\\{|\\}\\}|\\{%|%\\}|[a-z0-9 .+*()\\[\\]'|]){0,60}") {
            let _ = fill("x", &template, &Values::sample());
        }
    }
}
