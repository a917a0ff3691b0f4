//! What a loader is told, in its own language.
//!
//! ```text
//!                    +--> ipxe      (iPXE script)
//! Run --> render() --+--> pxelinux  (PXELINUX, U-Boot's pxe)
//!                    +--> grub      (grub.cfg)
//!                    +--> uboot     (a script image that goes on to pxelinux)
//! ```
//!
//! Loaders have no way to say why something failed but their own console, so every script says what it
//! tries, and tries again what a restarted server will cure.

mod grub;
mod ipxe;
mod pxelinux;
mod uboot;

use crate::Dialect;
use bugler_model::{AoeAddress, ExportProtocol, Firmware, MacAddr, ProfileName};

/// A kernel to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linux {
    /// A path of the boot tree, or an `http://` URL.
    pub kernel: String,
    /// As `kernel`; several are put one behind the other.
    pub initrd: Vec<String>,
    /// Kernel command line, one line.
    pub cmdline: String,
}

/// One line of a menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is shown.
    pub label: String,
    /// What it boots.
    pub profile: ProfileName,
}

/// What a loader is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Start a kernel.
    Linux(Linux),
    /// Go on to the local disk.
    Local {
        /// Why, for people.
        why: String,
    },
    /// Start from the boot sector of a disk that the loader attaches itself: iPXE alone.
    Sanboot {
        /// Where it is, as iPXE writes it: `aoe:e0.0`.
        uri: String,
    },
    /// Let somebody choose.
    Menu {
        /// Its title.
        title: String,
        /// What there is.
        entries: Vec<Entry>,
        /// The place of the entry that is taken by itself.
        default: usize,
        /// After how many seconds; 0: never.
        timeout: u32,
    },
    /// Wait a few seconds and ask again.
    Wait {
        /// What for.
        why: String,
    },
    /// What the operator wrote in this language.
    Raw(String),
}

/// For whom a script is, and where it finds its files.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The machine, as people call it.
    pub label: &'a str,
    /// The interface that boots.
    pub mac: MacAddr,
    /// What asks.
    pub firmware: Firmware,
    /// Base URL of the device plane, without a slash at its end: `http://10.0.0.1:8480`.
    pub server: &'a str,
    /// The profile that a menu was left for.
    pub picked: Option<&'a ProfileName>,
}

impl Target<'_> {
    /// The server's address without its port: where TFTP is.
    fn tftp_host(&self) -> &str {
        let host = self.server.strip_prefix("http://").unwrap_or(self.server);
        host.rsplit_once(':').map_or(host, |(host, _)| host)
    }

    /// The URL of a file over HTTP.
    fn url(&self, file: &str) -> String {
        if file.starts_with("http://") || file.starts_with("https://") {
            file.to_owned()
        } else {
            format!("{}/boot/{file}", self.server)
        }
    }

    /// The folder of this client's scripts: that of the profile that was picked.
    fn folder(&self) -> String {
        match self.picked {
            Some(profile) => format!("profile/{profile}/"),
            None => String::new(),
        }
    }
}

/// Puts it into the loader's language.
#[must_use]
pub fn render(dialect: Dialect, target: Target<'_>, run: &Run) -> Vec<u8> {
    match dialect {
        Dialect::Ipxe => ipxe::render(target, run).into_bytes(),
        Dialect::Pxelinux => pxelinux::render(target, run).into_bytes(),
        Dialect::Grub => grub::render(target, run).into_bytes(),
        Dialect::UBoot => uboot::script(target),
    }
}

/// What the agent is told on its kernel's command line: the server's address and its public key
/// (64 hex digits) where it has one, the token of this boot, the interface, and `more`.
#[must_use]
pub fn agent_cmdline(target: Target<'_>, token: &str, key: Option<&str>, more: &str) -> String {
    let key = key
        .map(|key| format!("bugler.key={key} "))
        .unwrap_or_default();
    format!(
        "bugler.server={} bugler.token={token} {key}BOOTIF={} {more}",
        target.server,
        target.mac.bootif()
    )
    .trim_end()
    .to_owned()
}

/// How a diskless machine finds its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root<'a> {
    /// How it reaches its root.
    pub over: ExportProtocol,
    /// The TCP port of the export; AoE has none.
    pub port: u16,
    /// What the export is called: a secret of this boot.
    pub name: &'a str,
    /// Where AoE shows it.
    pub aoe: AoeAddress,
    /// The partition that holds the root; 0: there is no partition table.
    pub part: u32,
    /// The root's filesystem, as Linux calls it.
    pub kind: &'a str,
}

/// What the agent is told of the root that it brings a machine to, beside `agent_cmdline`'s words, which
/// are `before`.
#[must_use]
pub fn root_cmdline(target: Target<'_>, root: &Root<'_>, before: &str) -> String {
    let host = target.tftp_host();
    let place = match root.over {
        ExportProtocol::Nbd => format!("nbd://{host}:{}/{}", root.port, root.name),
        ExportProtocol::Nfs => format!("nfs://{host}:{}/{}", root.port, root.name),
        ExportProtocol::Aoe => format!("aoe:{}", root.aoe),
    };
    let part = match root.part {
        0 => String::new(),
        part => format!(" bugler.root-part={part}"),
    };
    let kind = match root.over {
        ExportProtocol::Nfs => String::new(),
        _ => format!(" bugler.root-type={}", root.kind),
    };
    format!("bugler.root={place}{part}{kind} {before}")
        .trim_end()
        .to_owned()
}

/// Why another loader waits that is told to start from a disk on the network.
fn only_ipxe(uri: &str) -> String {
    format!("only iPXE boots from {uri}: give the profile the loader ipxe")
}

/// Text that every loader shows as it is: no settings (`${...}`), no line ends, no shell words.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || " .,:-_()/+".contains(c) {
                c
            } else {
                '.'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
