//! What one client did and what it was answered, in the order of time.

use bugler_boot::ClientFacts;
use bugler_model::{Arch, Firmware, MacAddr, Timestamp};
use serde::Serialize;
use std::net::Ipv4Addr;
use uuid::Uuid;

/// Who watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A recording of the wire: what is not in it was not on that wire.
    Recording,
    /// The server: it knows what it was asked and what it answered, and nothing of other servers'
    /// answers.
    Server,
}

/// One client's story.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeline {
    /// Who watched.
    pub source: Source,
    /// The client.
    pub client: Client,
    /// What happened, in order.
    pub steps: Vec<Step>,
    /// Until when somebody watched.
    pub until: Timestamp,
}

/// The client, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Client {
    /// What people call it.
    pub name: Option<String>,
    /// Its interfaces; the one it boots from first.
    pub macs: Vec<MacAddr>,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// What it said of itself, each different answer once, in order.
    pub facts: Vec<Who>,
}

/// What a request tells of the program that sent it: see [`ClientFacts`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Who {
    /// The program; `None` is one that did not ask to boot.
    pub firmware: Option<Firmware>,
    /// What its architecture is known as.
    pub arch: Option<Arch>,
    /// Every number that it gave for its architecture (option 93).
    pub archs: Vec<u16>,
    /// Option 60.
    pub vendor_class: Option<String>,
    /// Option 97.
    pub uuid: Option<Uuid>,
}

impl From<&ClientFacts> for Who {
    fn from(facts: &ClientFacts) -> Self {
        Self {
            firmware: facts.firmware,
            arch: facts.arch,
            archs: facts.archs.clone(),
            vendor_class: facts.vendor_class.clone(),
            uuid: facts.uuid,
        }
    }
}

impl Who {
    /// Whether this is firmware or a boot loader that wants to be given something.
    #[must_use]
    pub fn boots(&self) -> bool {
        self.firmware.is_some()
    }

    /// Whether it is iPXE.
    #[must_use]
    pub fn is_ipxe(&self) -> bool {
        self.firmware.is_some_and(Firmware::is_ipxe)
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// When; where it took time, when it began.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum What {
    /// A boot began here, as whoever watched knows.
    Began {
        /// Its number, where it has one.
        session: Option<String>,
    },
    /// The client sent a DHCP message.
    Asked {
        /// Which.
        message: Asking,
        /// What it told of itself.
        who: Who,
        /// Seconds since it began to ask, as it says; 0 where that is not known.
        secs: u16,
        /// The port it asked: 67 or 4011.
        port: u16,
        /// The server that it chose (option 54).
        server: Option<Ipv4Addr>,
        /// The address that it wants or has.
        address: Option<Ipv4Addr>,
    },
    /// A server answered by DHCP.
    Answered {
        /// How.
        message: Answer,
        /// Who.
        server: Ipv4Addr,
        /// The address that is offered or given; `None` is a proxy.
        address: Option<Ipv4Addr>,
        /// What is to be booted.
        boot: Option<Boot>,
        /// Option 60 of the answer, which says whom it is for.
        class: Option<String>,
        /// What the server said in words (option 56).
        text: Option<String>,
    },
    /// This server decided what the client gets.
    Decided {
        /// What; `None` is nothing.
        boot: Option<String>,
        /// Why.
        why: String,
    },
    /// A file was fetched, or not.
    Fetched(Fetch),
    /// Its agent was heard, and for the first time in this boot.
    Agent,
    /// Its agent has registered.
    Registered,
    /// It was told to boot its disk.
    Local,
    /// It has everything that its profile boots.
    Started,
    /// It could not reach a port.
    Blocked {
        /// Whose.
        server: Ipv4Addr,
        /// Which.
        port: u16,
        /// How that showed.
        said: String,
    },
    /// Anything else worth a line.
    Note {
        /// The line.
        text: String,
    },
}

/// A DHCP message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Asking {
    /// Who gives addresses?
    Discover,
    /// I take this one; on port 4011: what do I boot?
    Request,
    /// I have an address and want the rest.
    Inform,
    /// Somebody has this address already.
    Decline,
    /// I need it no longer.
    Release,
}

/// A DHCP message of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// You could have this.
    Offer,
    /// It is yours.
    Ack,
    /// It is not for you.
    Nak,
}

/// What an answer says is to be booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// A path or URL (option 67, else `file`).
    pub file: String,
    /// Where (option 66, else `siaddr`).
    pub server: Option<String>,
}

/// A file that was asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fetch {
    /// By which protocol.
    pub by: Protocol,
    /// Its path, as it was asked for.
    pub path: String,
    /// What it is, judged by its name.
    pub role: Role,
    /// From whom.
    pub server: Option<Ipv4Addr>,
    /// How much of it arrived, in bytes.
    pub bytes: u64,
    /// How long it took, or has taken, in milliseconds.
    pub took_ms: u64,
    /// Blocks or segments that were sent more than once.
    pub resent: u32,
    /// Bytes of one block (TFTP).
    pub block: Option<u16>,
    /// Whether its packets were fragmented.
    pub fragmented: bool,
    /// How it ended.
    pub end: End,
}

impl Fetch {
    /// When it ended, if it began `at`.
    #[must_use]
    pub fn ended(&self, at: Timestamp) -> Timestamp {
        at.plus_millis(i64::try_from(self.took_ms).unwrap_or(i64::MAX))
    }

    /// Whether all of it arrived.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.end == End::Whole
    }
}

/// By which protocol a file is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TFTP.
    Tftp,
    /// HTTP.
    Http,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Tftp => "TFTP",
            Self::Http => "HTTP",
        })
    }
}

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how", content = "said")]
pub enum End {
    /// All of it arrived.
    Whole,
    /// It was not over when nobody watched any longer, or it stopped without a word.
    Open,
    /// Nobody answered.
    Unanswered,
    /// The server has no such file; what it said.
    Missing(String),
    /// The server would not or could not; what it said.
    Refused(String),
    /// The client ended it; what it said.
    Aborted(String),
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Not known.
    Other,
    /// A boot loader.
    Loader,
    /// A boot loader's script or configuration.
    Script,
    /// A kernel.
    Kernel,
    /// An initramfs.
    Initramfs,
}

impl Role {
    /// What a file is for, by its path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let path = path.replace('\\', "/").to_ascii_lowercase();
        // A URL's query and host are no part of the name.
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
        let ends = |words: &[&str]| words.iter().any(|word| name.ends_with(word));
        if path.contains("pxelinux.cfg/")
            || path.contains("/boot/ipxe/")
            || path.strip_prefix('/').unwrap_or(path).starts_with("ipxe/")
            || starts(&["grub.cfg", "config.txt", "cmdline.txt", "boot.scr"])
            || ends(&[".ipxe", ".cfg", ".scr", ".scr.uimg"])
        {
            Self::Script
        } else if starts(&["initrd", "initramfs"]) || ends(&[".cpio", ".cpio.gz", ".initrd"]) {
            Self::Initramfs
        } else if ends(&[".efi", ".kpxe", ".kkpxe", ".pxe", ".kpxe.0", ".c32"])
            || starts(&[
                "pxelinux.0",
                "lpxelinux.0",
                "shimx64",
                "grubx64",
                "start4.elf",
                "start.elf",
            ])
            || starts(&["bootcode.bin", "nbp", "ipxe", "undionly", "snponly"])
        {
            Self::Loader
        } else if starts(&[
            "vmlinuz", "vmlinux", "bzimage", "kernel", "linux", "image", "zimage",
        ]) {
            Self::Kernel
        } else {
            Self::Other
        }
    }

    /// As people say it: `the kernel`.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Other => "a file",
            Self::Loader => "the boot loader",
            Self::Script => "the boot script",
            Self::Kernel => "the kernel",
            Self::Initramfs => "the initramfs",
        }
    }
}

/// Whether a file may be missing without harm: boot loaders look for it among others.
///
/// iPXE, PXELINUX, U-Boot and GRUB walk through lists of names, shim looks for revocations, and a
/// Raspberry Pi asks for files of other models.
#[must_use]
pub fn is_probe(path: &str) -> bool {
    let path = path.replace('\\', "/");
    let name = path.rsplit('/').next().unwrap_or_default();
    path.contains("pxelinux.cfg/")
        || path.contains("x86_64-efi/")
        || path.contains("arm64-efi/")
        || name.starts_with("grub.cfg-")
        || name.starts_with("revocations_")
        || name.starts_with("shim_certificate")
        || name.starts_with("boot.scr")
        || name.starts_with("recovery")
        || name.starts_with("pieeprom")
        || name.starts_with("bootcfg")
        || name.starts_with("armstub")
        || [
            "autoexec.ipxe",
            "bootsig.bin",
            "dt-blob.bin",
            "autoboot.txt",
            "vl805.sig",
            "ldlinux.e64",
            "ldlinux.c32",
        ]
        .contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_are_known_by_their_names() {
        for (path, role) in [
            ("undionly.kpxe", Role::Loader),
            ("EFI\\Boot\\bootx64.efi", Role::Loader),
            ("lpxelinux.0", Role::Loader),
            ("/boot/ipxe/52:54:00:00:00:01", Role::Script),
            ("ipxe/52:54:00:00:00:01", Role::Script),
            ("ipxe.efi", Role::Loader),
            ("menu.ipxe?mac=1", Role::Script),
            ("pxelinux.cfg/01-52-54-00-00-00-01", Role::Script),
            ("grub/grub.cfg-01-52", Role::Script),
            ("/boot/bootenv/x86_64/v1/vmlinuz", Role::Kernel),
            ("/boot/bootenv/x86_64/v1/initrd", Role::Initramfs),
            ("debian/linux", Role::Kernel),
            ("initrd.img-6.1", Role::Initramfs),
            ("kernel8.img", Role::Kernel),
            ("abcd1234/config.txt", Role::Script),
            ("/agent/v1/task", Role::Other),
        ] {
            assert_eq!(Role::of(path), role, "{path}");
        }
    }

    #[test]
    fn what_loaders_look_for_in_passing_is_no_failure() {
        for path in [
            "pxelinux.cfg/default",
            "grub/x86_64-efi/command.lst",
            "a1b2c3d4/recovery.elf",
        ] {
            assert!(is_probe(path), "{path}");
        }
        assert!(!is_probe("vmlinuz") && !is_probe("grub/grub.cfg"));
    }

    proptest! {
        #[test]
        fn any_path_is_something(path in ".{0,60}") {
            let _ = (Role::of(&path), is_probe(&path));
        }
    }
}
