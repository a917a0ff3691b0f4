//! What the kernel command line says of a root filesystem over the network.

use bugler_protocol::agent::{
    CMDLINE_INIT, CMDLINE_MTU, CMDLINE_ROOT, CMDLINE_ROOT_FLAGS, CMDLINE_ROOT_PART,
    CMDLINE_ROOT_TYPE, CMDLINE_TLS,
};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

/// The port of NBD (IANA).
const NBD_PORT: u16 = 10809;
/// The port of NFS (RFC 1813 section 2.1).
const NFS_PORT: u16 = 2049;
/// Highest number of a partition that the kernel gives a network block device.
const MAX_PART: u32 = 255;
/// Smallest and largest MTU in bytes: RFC 791, and the largest that network cards have.
const MTU: std::ops::RangeInclusive<u32> = 576..=16_110;
/// Shelf and slot that stand for all of them, and so for none (`aoe` specification, revision 11).
const EVERY_SHELF: u16 = 0xfff;
const EVERY_SLOT: u8 = 0xff;

/// The arguments, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    root: Option<String>,
    part: Option<String>,
    kind: Option<String>,
    flags: Option<String>,
    init: Option<String>,
    tls: Option<String>,
    mtu: Option<String>,
    writable: Option<bool>,
}

/// What the arguments mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where the root is.
    pub root: Root,
    /// The partition that holds it, from 1; 0 for the whole device.
    pub part: u32,
    /// The kernel's name of the kind of filesystem. Unused for NFS.
    pub kind: String,
    /// Options for mounting it, separated by commas.
    pub flags: String,
    /// Whether it is mounted for writing: what `rw` and `ro` say. Where they say nothing a block device
    /// is left to the system, which checks it first, and NFS has nothing to check.
    pub writable: bool,
    /// The first program of its system.
    pub init: String,
    /// Whether the server offers TLS.
    pub tls: bool,
    /// The MTU to set, in bytes.
    pub mtu: Option<u32>,
}

/// A root filesystem, or the block device with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// An export of an NBD server.
    Nbd {
        /// The server.
        server: SocketAddrV4,
        /// The name of the export. It may hold a secret.
        export: String,
    },
    /// A target of ATA over Ethernet.
    Aoe {
        /// Shelf, also called major address.
        shelf: u16,
        /// Slot, also called minor address.
        slot: u8,
    },
    /// A folder of an NFSv3 server. MOUNT answers on the same port.
    Nfs {
        /// The server.
        server: SocketAddrV4,
        /// The folder, from `/`.
        path: String,
    },
}

impl fmt::Display for Root {
    /// Without the name of an export: the rest is no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nbd { server, .. } => write!(f, "the NBD export of {server}"),
            Self::Aoe { shelf, slot } => write!(f, "the AoE target e{shelf}.{slot}"),
            Self::Nfs { server, path } => write!(f, "{path} of the NFS server {server}"),
        }
    }
}

/// An argument that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value}: {why}")]
pub struct ArgumentError {
    name: &'static str,
    value: String,
    why: &'static str,
}

impl Arguments {
    /// Takes note of one word of the command line, where it is about the root.
    pub(crate) fn take(&mut self, key: &str, value: &str) {
        let place = match key {
            CMDLINE_ROOT => &mut self.root,
            CMDLINE_ROOT_PART => &mut self.part,
            CMDLINE_ROOT_TYPE => &mut self.kind,
            CMDLINE_ROOT_FLAGS => &mut self.flags,
            CMDLINE_INIT => &mut self.init,
            CMDLINE_TLS => &mut self.tls,
            CMDLINE_MTU => &mut self.mtu,
            "rw" => return self.writable = Some(true),
            "ro" => return self.writable = Some(false),
            _ => return,
        };
        *place = (!value.is_empty()).then(|| value.to_owned());
    }

    /// What they mean; `None` where the machine is not to run without a disk.
    ///
    /// # Errors
    /// [`ArgumentError`] where one makes no sense.
    pub fn plan(&self) -> Result<Option<Plan>, ArgumentError> {
        let Some(text) = &self.root else {
            return Ok(None);
        };
        let wrong = |name, value: &str, why| ArgumentError {
            name,
            value: value.to_owned(),
            why,
        };
        let root = read_root(text).map_err(|why| wrong(CMDLINE_ROOT, text, why))?;
        let part = match self.part.as_deref() {
            None => 0,
            Some(text) => text
                .parse()
                .ok()
                .filter(|part| *part <= MAX_PART)
                .ok_or_else(|| wrong(CMDLINE_ROOT_PART, text, "a partition is a number to 255"))?,
        };
        let mtu = match self.mtu.as_deref() {
            None => None,
            Some(text) => {
                let mtu = text.parse().ok().filter(|mtu| MTU.contains(mtu));
                let why = "an MTU is a number from 576 to 16110";
                Some(mtu.ok_or_else(|| wrong(CMDLINE_MTU, text, why))?)
            }
        };
        let init = self.init.clone().unwrap_or_else(|| "/sbin/init".into());
        if !init.starts_with('/') {
            return Err(wrong(CMDLINE_INIT, &init, "a program is named from / on"));
        }
        Ok(Some(Plan {
            writable: self.writable.unwrap_or(matches!(root, Root::Nfs { .. })),
            root,
            part,
            kind: self.kind.clone().unwrap_or_else(|| "ext4".into()),
            flags: self.flags.clone().unwrap_or_default(),
            init,
            tls: self.tls.is_some(),
            mtu,
        }))
    }
}

fn read_root(text: &str) -> Result<Root, &'static str> {
    if let Some(rest) = text.strip_prefix("nbd://") {
        let why = "it should look like nbd://10.0.0.1:10809/NAME, with an IPv4 address";
        let (server, export) = rest.split_once('/').ok_or(why)?;
        let server = address(server, NBD_PORT).ok_or(why)?;
        let export = export.to_owned();
        return Ok(Root::Nbd { server, export });
    }
    if let Some(rest) = text.strip_prefix("aoe:") {
        let why = "it should look like aoe:e1.2, with a shelf below 4095 and a slot below 255";
        let (shelf, slot) = rest
            .strip_prefix('e')
            .and_then(|rest| rest.split_once('.'))
            .ok_or(why)?;
        let shelf = shelf.parse().ok().filter(|shelf| *shelf < EVERY_SHELF);
        let slot = slot.parse().ok().filter(|slot| *slot < EVERY_SLOT);
        let (shelf, slot) = shelf.zip(slot).ok_or(why)?;
        return Ok(Root::Aoe { shelf, slot });
    }
    if let Some(rest) = text.strip_prefix("nfs://") {
        let why = "it should look like nfs://10.0.0.1:2049/PATH, with an IPv4 address";
        let (server, path) = rest.split_once('/').ok_or(why)?;
        let server = address(server, NFS_PORT).ok_or(why)?;
        let path = format!("/{path}");
        return Ok(Root::Nfs { server, path });
    }
    Err("it should begin with nbd://, aoe: or nfs://")
}

fn address(text: &str, port: u16) -> Option<SocketAddrV4> {
    let plain = || text.parse::<Ipv4Addr>().ok();
    text.parse()
        .ok()
        .or_else(|| Some(SocketAddrV4::new(plain()?, port)))
        .filter(|server| server.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::Cmdline;

    fn plan(text: &str) -> Result<Option<Plan>, String> {
        let plan = Cmdline::parse(text).diskless.plan();
        plan.map_err(|error| error.to_string())
    }

    #[test]
    fn a_root_is_found_with_all_that_belongs_to_it() {
        assert_eq!(plan("root=/dev/sda1 rw"), Ok(None));
        let text = "bugler.root=nbd://10.0.0.1:10810/d3/t0k.en bugler.root-part=3 \
                    bugler.root-type=xfs bugler.root-flags=noatime,nouuid bugler.init=/lib/init \
                    bugler.tls=ab bugler.mtu=9000 rw";
        let expected = Plan {
            root: Root::Nbd {
                server: "10.0.0.1:10810".parse().unwrap(),
                export: "d3/t0k.en".into(),
            },
            part: 3,
            kind: "xfs".into(),
            flags: "noatime,nouuid".into(),
            writable: true,
            init: "/lib/init".into(),
            tls: true,
            mtu: Some(9000),
        };
        assert_eq!(plan(text), Ok(Some(expected)));
    }

    #[test]
    fn what_is_not_said_has_a_meaning() {
        let nbd = plan("bugler.root=nbd://10.0.0.1/x").unwrap().unwrap();
        assert_eq!(
            (nbd.part, nbd.kind.as_str(), nbd.writable),
            (0, "ext4", false)
        );
        assert_eq!(nbd.init, "/sbin/init");
        assert_eq!(nbd.root.to_string(), "the NBD export of 10.0.0.1:10809");
        let nfs = plan("bugler.root=nfs://10.0.0.1/srv/d3").unwrap().unwrap();
        assert!(nfs.writable);
        assert_eq!(
            nfs.root.to_string(),
            "/srv/d3 of the NFS server 10.0.0.1:2049"
        );
        assert!(
            !plan("ro bugler.root=nfs://10.0.0.1/")
                .unwrap()
                .unwrap()
                .writable
        );
        let aoe = plan("bugler.root=aoe:e1.2").unwrap().unwrap().root;
        assert_eq!(aoe, Root::Aoe { shelf: 1, slot: 2 });
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let cases = [
            ("iscsi:x", "should begin with"),
            ("nbd://server/x", "with an IPv4 address"),
            ("nbd://10.0.0.1", "should look like nbd://"),
            ("nbd://10.0.0.1:0/x", "should look like nbd://"),
            ("aoe:e4095.0", "shelf below 4095"),
            ("aoe:e1.255", "slot below 255"),
            ("aoe:1.2", "should look like aoe:e1.2"),
            ("nfs://10.0.0.1", "should look like nfs://"),
            ("aoe:e1.2 bugler.root-part=x", "root-part=x: a partition"),
            (
                "aoe:e1.2 bugler.root-part=256",
                "root-part=256: a partition",
            ),
            ("aoe:e1.2 bugler.mtu=100", "mtu=100: an MTU"),
            ("aoe:e1.2 bugler.init=init", "init=init: a program"),
        ];
        for (text, said) in cases {
            let error = plan(&format!("bugler.root={text}")).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
