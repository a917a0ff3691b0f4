//! One driver of one device, made of what the registry has.

use crate::error::PowerError;
use crate::vault::{Secrets, Vault};
use bugler_bmc::ipmi::crypto::Suite;
use bugler_bmc::ipmi::machine::Known;
use bugler_bmc::ipmi::packet::AuthType;
use bugler_bmc::power::webhook::{Webhook, shown};
use bugler_bmc::power::{Command, Manual, PowerDriver as Switch, Wake};
use bugler_bmc::{Bmc, Credentials, Hub, Options, Secret};
use bugler_model::{Device, PowerDriver, PowerEntry};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// The port of IPMI over LAN.
const RMCP_PORT: u16 = 623;
/// The port that packets are sent to which wake machines ("discard").
const WAKE_PORT: u16 = 9;
/// How long a web service may take.
const WEBHOOK_LIMIT: Duration = Duration::from_secs(30);
/// Longest address or argument, in bytes.
const LONGEST: usize = 2048;
/// Most arguments of a program.
const ARGUMENTS: usize = 64;

/// One driver at work.
#[derive(Debug)]
pub(crate) struct Driver {
    /// What it was made of.
    pub(crate) entry: PowerEntry,
    made_for: MadeFor,
    pub(crate) switch: Box<dyn Switch>,
    /// The same, where it is a BMC.
    pub(crate) bmc: Option<Bmc>,
    /// One order after the other.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// What else a driver depends on.
#[derive(Debug, PartialEq, Eq)]
struct MadeFor {
    label: String,
    mac: Option<[u8; 6]>,
    address: Option<SocketAddr>,
}

/// What drivers are made with.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) hub: Hub,
    pub(crate) vault: Vault,
    pub(crate) commands: PathBuf,
}

impl Workshop {
    /// The driver of this entry: the one that was made before, where it is still the right one.
    pub(crate) async fn driver(
        &self,
        entry: &PowerEntry,
        device: &Device,
        before: Option<std::sync::Arc<Driver>>,
    ) -> Result<std::sync::Arc<Driver>, PowerError> {
        let made_for = MadeFor {
            label: device.label(),
            mac: device.macs.first().map(|mac| mac.0),
            address: match &entry.driver {
                PowerDriver::Ipmi { address, .. } => Some(resolve(address).await?),
                _ => None,
            },
        };
        if let Some(before) = before
            && before.is_of(entry)
            && before.fits(&made_for)
        {
            return Ok(before);
        }
        let secrets = self
            .vault
            .open_sealed(&entry.driver, entry.sealed.as_deref())?;
        let (switch, bmc): (Box<dyn Switch>, Option<Bmc>) = match &entry.driver {
            PowerDriver::Ipmi {
                user, allow_v15, ..
            } => {
                let bmc = self.bmc(entry, user, *allow_v15, &secrets, made_for.address)?;
                (Box::new(bmc.clone()), Some(bmc))
            }
            PowerDriver::Wake { mac, broadcast } => {
                let mac = mac.map(|mac| mac.0).or(made_for.mac).ok_or_else(|| {
                    PowerError::NoDriver(format!(
                        "no MAC address of {} is known to wake it by: give it with --wake-mac",
                        made_for.label
                    ))
                })?;
                let to = broadcast.unwrap_or(Ipv4Addr::BROADCAST);
                (Box::new(Wake::new(mac, (to, WAKE_PORT).into())), None)
            }
            PowerDriver::Command {
                program,
                arguments,
                status,
                boot,
                timeout_s,
            } => {
                let path = self.commands.join(program);
                let limit = Duration::from_secs(u64::from(*timeout_s));
                let mut command = Command::new(path.to_string_lossy(), arguments.clone(), limit);
                if *status {
                    command = command.with_status();
                }
                if *boot {
                    command = command.with_boot();
                }
                (Box::new(command), None)
            }
            PowerDriver::Webhook { url } => {
                let url = secrets
                    .url
                    .as_ref()
                    .map_or(url.as_str(), |url| url.as_str());
                let mut hook = Webhook::new(url, WEBHOOK_LIMIT);
                if let Some(token) = &secrets.token {
                    hook = hook.with_token(Secret::new(token.as_bytes()));
                }
                (Box::new(hook), None)
            }
            PowerDriver::Manual {} => {
                let machine = made_for.label.clone();
                (Box::new(Manual { machine }), None)
            }
        };
        Ok(std::sync::Arc::new(Driver {
            entry: entry.clone(),
            made_for,
            switch,
            bmc,
            turn: tokio::sync::Mutex::default(),
        }))
    }

    fn bmc(
        &self,
        entry: &PowerEntry,
        user: &str,
        allow_v15: bool,
        secrets: &Secrets,
        address: Option<SocketAddr>,
    ) -> Result<Bmc, PowerError> {
        let address =
            address.ok_or_else(|| PowerError::Invalid("the BMC has no address".to_owned()))?;
        let options = Options {
            allow_v15,
            ..Options::default()
        };
        let bmc = Bmc::new(&self.hub, address, credentials(user, secrets)?, options);
        if let Some(known) = entry.known.as_deref().and_then(known_of) {
            bmc.set_known(known);
        }
        Ok(bmc)
    }
}

impl Driver {
    /// Whether it was made of what this entry has.
    fn is_of(&self, entry: &PowerEntry) -> bool {
        self.entry.driver == entry.driver && self.entry.sealed == entry.sealed
    }

    /// Whether it is made of the same as another one.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.is_of(&other.entry) && self.fits(&other.made_for)
    }

    fn fits(&self, wanted: &MadeFor) -> bool {
        match &self.entry.driver {
            PowerDriver::Ipmi { .. } => self.made_for.address == wanted.address,
            PowerDriver::Wake { .. } => self.made_for.mac == wanted.mac,
            PowerDriver::Manual {} => self.made_for.label == wanted.label,
            PowerDriver::Command { .. } | PowerDriver::Webhook { .. } => true,
        }
    }
}

fn credentials(user: &str, secrets: &Secrets) -> Result<Credentials, PowerError> {
    let secret = |text: &Option<Zeroizing<String>>| {
        Secret::new(text.as_ref().map_or("", |text| text.as_str()))
    };
    let credentials = Credentials::new(user, secret(&secrets.password))?;
    Ok(match &secrets.group_key {
        Some(_) => credentials.with_group_key(secret(&secrets.group_key))?,
        None => credentials,
    })
}

/// The address that a text names: an address or a host name, with a port or without.
async fn resolve(text: &str) -> Result<SocketAddr, PowerError> {
    if let Some(address) = literal(text) {
        return Ok(address);
    }
    let with_port = match text.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => text.to_owned(),
        _ => format!("{text}:{RMCP_PORT}"),
    };
    let unknown = |why: String| {
        PowerError::Invalid(format!(
            "the BMC {text:?} is not found: {why}: give its address, or see to its name"
        ))
    };
    let mut found = tokio::net::lookup_host(with_port)
        .await
        .map_err(|error| unknown(error.to_string()))?;
    found
        .next()
        .ok_or_else(|| unknown("its name has no address".to_owned()))
}

fn literal(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let ip = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ip = ip.unwrap_or(text).parse().ok()?;
    Some(SocketAddr::new(ip, RMCP_PORT))
}

/// How sessions are had, as the registry keeps it.
pub(crate) fn known_text(known: Known) -> String {
    match known {
        Known::Suite(suite) => format!("suite {}", suite.number()),
        Known::V15(auth) => format!("IPMI 1.5 authentication {}", auth.value()),
    }
}

fn known_of(text: &str) -> Option<Known> {
    if let Some(number) = text.strip_prefix("suite ") {
        return Suite::of(number.parse().ok()?).map(Known::Suite);
    }
    let number = text.strip_prefix("IPMI 1.5 authentication ")?;
    AuthType::of(number.parse().ok()?).map(Known::V15)
}

/// Checks what an operator asked for; returns what the registry may show, and what it has to hide.
pub(crate) fn checked(
    driver: PowerDriver,
    mut secrets: Secrets,
    commands: &Path,
) -> Result<(PowerDriver, Secrets), PowerError> {
    let invalid = |text: String| Err(PowerError::Invalid(text));
    let kind = driver.kind();
    let is_ipmi = matches!(driver, PowerDriver::Ipmi { .. });
    if !is_ipmi && (secrets.password.is_some() || secrets.group_key.is_some()) {
        return invalid(format!("{kind} takes no password and no group key"));
    }
    if secrets.token.is_some() && !matches!(driver, PowerDriver::Webhook { .. }) {
        return invalid(format!("{kind} takes no token"));
    }
    let driver = match driver {
        PowerDriver::Ipmi { address, user, .. }
            if !is_one_word(&address) || user.chars().any(char::is_control) =>
        {
            return invalid(format!(
                "{address:?} and {user:?} are not the address and the user of a BMC: give an address or a \
                 host name, and a name without control characters"
            ));
        }
        PowerDriver::Ipmi { ref user, .. } => {
            if secrets.password.is_none() {
                return invalid(
                    "IPMI needs a password: give it each time the driver is set; it may be empty"
                        .to_owned(),
                );
            }
            credentials(user, &secrets).map_err(|error| PowerError::Invalid(error.to_string()))?;
            driver
        }
        PowerDriver::Wake { mac: Some(mac), .. } if !mac.is_unicast() => {
            return invalid(format!("{mac} is no machine's own address"));
        }
        PowerDriver::Command {
            ref program,
            ref arguments,
            timeout_s,
            ..
        } => {
            check_command(program, arguments, timeout_s, commands)?;
            driver
        }
        PowerDriver::Webhook { url } => {
            if !url.starts_with("http://") || !is_one_word(&url) {
                return invalid(format!(
                    "{:?} is not a webhook's address: give one that begins with http://; https is not \
                     spoken here",
                    shown(&url)
                ));
            }
            let hidden = shown(&url);
            if hidden != url {
                secrets.url = Some(url.into());
            }
            PowerDriver::Webhook { url: hidden }
        }
        PowerDriver::Wake { .. } | PowerDriver::Manual {} => driver,
    };
    Ok((driver, secrets))
}

fn is_one_word(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    !text.is_empty() && text.len() <= LONGEST && !text.chars().any(odd)
}

fn check_command(
    program: &str,
    arguments: &[String],
    timeout_s: u32,
    commands: &Path,
) -> Result<(), PowerError> {
    let invalid = |text: String| Err(PowerError::Invalid(text));
    let shown = commands.display();
    if program.is_empty() || program.contains(['/', '\0']) || program.starts_with('.') {
        return invalid(format!(
            "{program:?} is not the name of a program in {shown}: programs that switch machines are put \
             there by whoever runs the server, and called by their file name"
        ));
    }
    if !commands.join(program).is_file() {
        return invalid(format!(
            "there is no program {program:?} in {shown}: put it there, or name another folder with \
             `commands` in the section [power] of the configuration"
        ));
    }
    if arguments.len() > ARGUMENTS
        || arguments
            .iter()
            .any(|one| one.len() > LONGEST || one.contains('\0'))
    {
        return invalid(format!(
            "a program takes {ARGUMENTS} arguments of {LONGEST} bytes at most"
        ));
    }
    if !(1..=3600).contains(&timeout_s) {
        return invalid("a program may take 1 to 3600 seconds".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Secrets {
        Secrets {
            password: Some(text.to_owned().into()),
            ..Secrets::default()
        }
    }

    fn ipmi(address: &str, user: &str) -> PowerDriver {
        PowerDriver::Ipmi {
            address: address.into(),
            user: user.into(),
            allow_v15: false,
        }
    }

    fn refused(driver: PowerDriver, secrets: Secrets) -> String {
        let folder = tempfile::tempdir().unwrap();
        let error = checked(driver, secrets, folder.path()).unwrap_err();
        assert!(matches!(error, PowerError::Invalid(_)));
        error.to_string()
    }

    #[test]
    fn addresses_have_a_port_by_custom() {
        let read = |text| literal(text).map(|address| address.to_string());
        assert_eq!(read("10.0.9.1").as_deref(), Some("10.0.9.1:623"));
        assert_eq!(read("10.0.9.1:6230").as_deref(), Some("10.0.9.1:6230"));
        assert_eq!(read("fd00::1").as_deref(), Some("[fd00::1]:623"));
        assert_eq!(read("[fd00::1]").as_deref(), Some("[fd00::1]:623"));
        assert_eq!(read("[fd00::1]:9").as_deref(), Some("[fd00::1]:9"));
        assert_eq!(read("bmc1"), None);
    }

    #[test]
    fn what_worked_is_kept_as_a_text_and_read_again() {
        for known in [
            Known::Suite(Suite::Three),
            Known::Suite(Suite::Seventeen),
            Known::V15(AuthType::Md5),
        ] {
            assert_eq!(known_of(&known_text(known)), Some(known));
        }
        for odd in [
            "",
            "suite",
            "suite 4",
            "suite x",
            "IPMI 1.5 authentication 99",
        ] {
            assert_eq!(known_of(odd), None, "{odd}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_no_secret_repeated() {
        let text = refused(ipmi("10.0.9.1", "admin"), Secrets::default());
        assert!(text.contains("needs a password"), "{text}");
        let text = refused(ipmi("10.0.9.1", "admin"), password("hunter2hunter2hunter2"));
        assert!(
            text.contains("21 bytes") && !text.contains("hunter2"),
            "{text}"
        );
        refused(ipmi("", "admin"), password("x"));
        refused(ipmi("a b", "admin"), password("x"));
        refused(PowerDriver::Manual {}, password("x"));
        for program in ["", "../sh", "/bin/sh", ".hidden", "nowhere"] {
            let driver = PowerDriver::Command {
                program: program.into(),
                arguments: Vec::new(),
                status: false,
                boot: false,
                timeout_s: 30,
            };
            refused(driver, Secrets::default());
        }
        let url = "https://me:pw@pdu.lan/3?token=x".to_owned();
        let text = refused(PowerDriver::Webhook { url }, Secrets::default());
        assert!(!text.contains("pw@") && !text.contains("token"), "{text}");
    }

    #[test]
    fn what_is_secret_in_an_address_is_sealed() {
        let url = "http://me:pw@pdu.lan/3?token=x".to_owned();
        let driver = PowerDriver::Webhook { url: url.clone() };
        let (driver, secrets) = checked(driver, Secrets::default(), Path::new("/nowhere")).unwrap();
        let shown = "http://pdu.lan/3".to_owned();
        assert_eq!(driver, PowerDriver::Webhook { url: shown });
        assert_eq!(secrets.url.as_deref(), Some(&url));
    }
}
