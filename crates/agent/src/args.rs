//! The command line of `bugler-agent`.

use bugler_model::{Disk, MacAddr, Transport};
use bugler_protocol::signature::PublicKey;
use rustix::fs::{FileType, SeekFrom};
use std::fs::{File, OpenOptions};
use std::path::Path;
use uuid::Uuid;

/// What `--help` prints.
pub const USAGE: &str = "\
Bugler's agent: /init of the boot environment.

bugler-agent run --server URL --boot-token TOKEN --boot-mac MAC --disk FILE[:SERIAL]... [OPTIONS]
    Registers and works as a normal process, with the given files (or block devices) as its
    disks. It writes to nothing else, and never reboots: it says what it would do.
    --once             end after the first task: 0 when it is done, 1 when it is not
    --uuid UUID        SMBIOS UUID to register with
    --sector-size N    logical sector size of files that stand for disks, 512 by default
    --connections N    connections for a deploy, 4 by default
    --key KEY          64 hex digits (`bugler key show`): take no image that this key, or one that
                       took its place, has not signed; without it no signature is checked
bugler-agent attach
    In the initramfs of a distribution that has an address: attaches the block device that
    bugler.root= of the kernel command line names, and prints the device file with the root.
bugler-agent --version
bugler-agent --help

As PID 1 it takes its orders from the kernel command line: bugler.server=URL, bugler.token=TOKEN,
bugler.key=KEY, BOOTIF=01-MAC, and bugler.rescue for a shell on the console. With bugler.root=URL it
attaches that root and starts the system on it.
";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The work of the boot environment, as the child of PID 1.
    Boot,
    /// A shell on the console, as the child of PID 1.
    Shell,
    /// What keeps a root over the network alive, as a child of who attached it.
    Keep,
    /// Attach the block device of a root, for the initramfs of a distribution.
    Attach,
    /// As a normal process.
    Run(Run),
    /// Print [`USAGE`].
    Help,
    /// Print the version.
    Version,
}

/// The arguments of `run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the server is.
    pub server: String,
    /// The token to register with.
    pub boot_token: String,
    /// The interface that it pretends to have booted from.
    pub boot_mac: MacAddr,
    /// Files that stand for disks: `FILE` or `FILE:SERIAL`.
    pub disks: Vec<String>,
    /// Whether to end after one task.
    pub once: bool,
    /// UUID to register with.
    pub uuid: Option<Uuid>,
    /// Logical sector size of files, in bytes.
    pub sector_size: u32,
    /// Connections for a deploy.
    pub connections: usize,
    /// The key that manifests must be signed by.
    pub key: Option<PublicKey>,
}

/// Why the command line cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// Not one of the known words.
    #[error("{0:?} is not an argument of bugler-agent; see bugler-agent --help")]
    Unknown(String),
    /// A value is missing.
    #[error("{0} needs a value; see bugler-agent --help")]
    NoValue(&'static str),
    /// An argument is missing.
    #[error("run needs {0}; see bugler-agent --help")]
    Missing(&'static str),
    /// A value that makes no sense.
    #[error("{value:?} is not a value for {name}: {why}")]
    Value {
        /// The argument.
        name: &'static str,
        /// What it was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Command {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// [`ArgsError`].
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, ArgsError> {
        let mut args = args.into_iter();
        match args.next().as_deref() {
            Some("boot") => Ok(Self::Boot),
            Some("shell") => Ok(Self::Shell),
            Some("keep") => Ok(Self::Keep),
            Some("attach") => Ok(Self::Attach),
            Some("run") => Run::parse(args).map(Self::Run),
            None | Some("--help" | "-h") => Ok(Self::Help),
            Some("--version" | "-V") => Ok(Self::Version),
            Some(other) => Err(ArgsError::Unknown(other.into())),
        }
    }
}

impl Run {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, ArgsError> {
        let (mut server, mut token, mut mac, mut uuid, mut key) = (None, None, None, None, None);
        let (mut disks, mut once, mut sector_size, mut connections) = (Vec::new(), false, 512, 4);
        while let Some(name) = args.next() {
            let mut value = |name| args.next().ok_or(ArgsError::NoValue(name));
            match name.as_str() {
                "--server" => server = Some(value("--server")?),
                "--boot-token" => token = Some(value("--boot-token")?),
                "--boot-mac" => mac = Some(read("--boot-mac", value("--boot-mac")?)?),
                "--uuid" => uuid = Some(read("--uuid", value("--uuid")?)?),
                "--disk" => disks.push(value("--disk")?),
                "--sector-size" => sector_size = read("--sector-size", value("--sector-size")?)?,
                "--connections" => connections = read("--connections", value("--connections")?)?,
                "--key" => key = Some(read("--key", value("--key")?)?),
                "--once" => once = true,
                _ => return Err(ArgsError::Unknown(name)),
            }
        }
        if disks.is_empty() {
            return Err(ArgsError::Missing("--disk"));
        }
        Ok(Self {
            server: server.ok_or(ArgsError::Missing("--server"))?,
            boot_token: token.ok_or(ArgsError::Missing("--boot-token"))?,
            boot_mac: mac.ok_or(ArgsError::Missing("--boot-mac"))?,
            disks,
            once,
            uuid,
            sector_size,
            connections,
            key,
        })
    }
}

fn read<T>(name: &'static str, value: String) -> Result<T, ArgsError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    value.parse().map_err(|error: T::Err| ArgsError::Value {
        name,
        why: error.to_string(),
        value,
    })
}

/// Looks at a file that stands for a disk. A name that is a file as it is has no serial number;
/// else what follows the last colon is one.
///
/// # Errors
/// The file cannot be opened.
pub fn file_disk(argument: &str, sector_size: u32) -> std::io::Result<Disk> {
    let (path, serial) = match argument.rsplit_once(':') {
        Some((path, serial)) if !Path::new(argument).exists() => (path, Some(serial)),
        _ => (argument, None),
    };
    let file = File::open(path)?;
    let is_block =
        FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::BlockDevice;
    let sector_size = if is_block {
        rustix::fs::ioctl_blksszget(&file)?
    } else {
        sector_size
    };
    Ok(Disk {
        path: path.into(),
        model: None,
        serial: serial.map(str::to_owned),
        size: rustix::fs::seek(&file, SeekFrom::End(0))?,
        sector_size,
        transport: Transport::Other,
        removable: false,
        read_only: OpenOptions::new().write(true).open(path).is_err(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, ArgsError> {
        Command::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_full_line_is_read() {
        let line = "run --server http://s --boot-token t --boot-mac 52-54-00-00-00-01 --disk a:S1 \
                    --disk b --once --sector-size 4096 --connections 2 \
                    --key 0707070707070707070707070707070707070707070707070707070707070707 \
                    --uuid 66ffad1e-e719-ad84-9831-b8aeed7d5f80";
        let expected = Run {
            server: "http://s".into(),
            boot_token: "t".into(),
            boot_mac: MacAddr([0x52, 0x54, 0, 0, 0, 1]),
            disks: vec!["a:S1".into(), "b".into()],
            once: true,
            uuid: Uuid::try_parse("66ffad1ee719ad849831b8aeed7d5f80").ok(),
            sector_size: 4096,
            connections: 2,
            key: Some(PublicKey([7; 32])),
        };
        assert_eq!(parse(line), Ok(Command::Run(expected)));
        assert_eq!(parse(""), Ok(Command::Help));
        assert_eq!(parse("-V"), Ok(Command::Version));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("fly", "\"fly\" is not an argument"),
            ("run --fast", "\"--fast\" is not an argument"),
            ("run --disk", "--disk needs a value"),
            (
                "run --disk a --server s --boot-token t",
                "run needs --boot-mac",
            ),
            ("run", "run needs --disk"),
            (
                "run --boot-mac x",
                "\"x\" is not a value for --boot-mac: \"x\" is not a MAC address",
            ),
        ];
        for (line, text) in cases {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_file_stands_for_a_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a:b");
        File::create(&path).unwrap().set_len(4096).unwrap();
        let path = path.to_str().unwrap();
        let disk = file_disk(path, 512).unwrap();
        assert_eq!(
            (disk.path.as_str(), disk.serial, disk.size),
            (path, None, 4096)
        );
        let named = file_disk(&format!("{path}:S-1"), 4096).unwrap();
        assert_eq!(
            (named.path.as_str(), named.serial.as_deref()),
            (path, Some("S-1"))
        );
        assert_eq!((named.sector_size, named.read_only), (4096, false));
        assert!(file_disk("/nonexistent:S", 512).is_err());
    }
}
