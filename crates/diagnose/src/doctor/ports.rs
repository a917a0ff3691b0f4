//! Ports: whether the server could take them, and who has those that it could not.

use super::{Check, Dhcp, Level, Subject};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

/// The name under which the server runs.
const OURS: &str = "bugler";

/// A process that holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    pid: u32,
    name: String,
}

impl Owner {
    /// Whether it is this program, which is also what the server is.
    fn is_server(&self) -> bool {
        self.name == OURS
    }
}

pub(super) fn check(subject: &Subject) -> Vec<Check> {
    let mut checks = vec![];
    for wanted in &subject.interfaces {
        let dhcp = wanted.dhcp != Dhcp::Off;
        let ports = [
            (67, "DHCP", dhcp),
            (4011, "the PXE boot server", dhcp),
            (69, "TFTP", subject.tftp),
        ];
        for (port, purpose, needed) in ports {
            if needed {
                let result = bind_udp(&wanted.name, port);
                let subject = format!("{} UDP {port}", wanted.name);
                checks.push(judge(subject, "udp", port, purpose, result, None));
            }
        }
    }
    for (address, purpose, option) in [
        (
            subject.device_listen,
            "machines (boot files, the agent)",
            "--device-listen",
        ),
        (
            subject.operator_listen,
            "operators (dashboard, API)",
            "--operator-listen",
        ),
    ] {
        let result = TcpListener::bind(address).map(drop);
        let subject = format!("TCP {}", address.port());
        checks.push(judge(
            subject,
            "tcp",
            address.port(),
            purpose,
            result,
            Some((address, option)),
        ));
    }
    checks
}

/// Takes a port as the server does, and gives it back.
fn bind_udp(interface: &str, port: u16) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())
}

fn judge(
    subject: String,
    protocol: &str,
    port: u16,
    purpose: &str,
    result: io::Result<()>,
    listen: Option<(SocketAddr, &str)>,
) -> Check {
    let shown = subject.clone();
    let error = match result {
        Ok(()) => return Check::ok("port", subject, format!("{shown} is free, for {purpose}")),
        Err(error) => error,
    };
    let elsewhere = listen
        .map(|(_, option)| format!(", or choose another with {option}"))
        .unwrap_or_default();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owners = owners(Path::new("/proc"), protocol, port);
            if owners.iter().any(Owner::is_server) {
                return Check::ok(
                    "port",
                    subject,
                    format!("{shown} is held by the server itself"),
                );
            }
            let names: Vec<String> = owners
                .iter()
                .map(|owner| format!("{} (process {})", owner.name, owner.pid))
                .collect();
            let by = match names.as_slice() {
                [] => "a process that this user may not see".to_owned(),
                names => names.join(" and "),
            };
            Check::new(
                Level::Problem,
                "port",
                subject,
                format!("{shown}, for {purpose}, is in use by {by}"),
            )
            .remedy(match owners.first() {
                Some(owner) => format!("stop {}{elsewhere}", owner.name),
                None => format!("run this as root to see whose it is; stop it{elsewhere}"),
            })
        }
        io::ErrorKind::PermissionDenied => Check::new(
            Level::Problem,
            "port",
            subject,
            format!("this user may not take {shown}, for {purpose}"),
        )
        .remedy("run the server as root, or with the capability CAP_NET_BIND_SERVICE"),
        io::ErrorKind::AddrNotAvailable => {
            let address = listen
                .map(|(address, _)| address.ip().to_string())
                .unwrap_or_default();
            Check::new(
                Level::Problem,
                "port",
                subject,
                format!("{address} is no address of this host"),
            )
            .remedy(format!("listen on one that it has{elsewhere}"))
        }
        // The interface is missing, which is told elsewhere.
        _ if error.raw_os_error() == Some(libc::ENODEV) => Check::new(
            Level::Note,
            "port",
            subject,
            format!("{shown} was not tried: there is no such interface"),
        ),
        _ => Check::new(
            Level::Problem,
            "port",
            subject,
            format!("{shown}, for {purpose}, cannot be taken: {error}"),
        )
        .remedy("see what the kernel says: `dmesg | tail`"),
    }
}

/// Which processes hold a port, as far as this user may see.
fn owners(proc: &Path, protocol: &str, port: u16) -> Vec<Owner> {
    let mut inodes: HashMap<u64, ()> = HashMap::new();
    for table in [protocol.to_owned(), format!("{protocol}6")] {
        let text = fs::read_to_string(proc.join("self/net").join(table)).unwrap_or_default();
        inodes.extend(
            holders(&text, protocol == "tcp", port)
                .into_iter()
                .map(|n| (n, ())),
        );
    }
    if inodes.is_empty() {
        return vec![];
    }
    let mut owners = vec![];
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let holds = fs::read_dir(entry.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .filter_map(|link| socket_inode(link.to_str()?))
            .any(|inode| inodes.contains_key(&inode));
        if holds {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            owners.push(Owner {
                pid,
                name: bugler_model::text::clean(name.trim()),
            });
        }
    }
    owners.sort_by_key(|owner| owner.pid);
    owners
}

/// `socket:[12345]` -> 12345.
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// The inodes of the sockets in a table of /proc/net that have this port (proc_pid_net(5)).
fn holders(table: &str, listening: bool, port: u16) -> Vec<u64> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, hex) = fields.get(1)?.rsplit_once(':')?;
            let here = u16::from_str_radix(hex, 16).ok()?;
            // 0A is LISTEN.
            let counts = !listening || *fields.get(3)? == "0A";
            (here == port && counts).then(|| fields.get(9)?.parse().ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:2121 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n\
             1: 0100007F:2121 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n\
             short\n";
        assert_eq!(holders(table, true, 0x2121), [4711]);
        assert_eq!(holders(table, false, 0x2121), [4711, 4712]);
        assert!(holders(table, true, 80).is_empty());
        assert_eq!(socket_inode("socket:[4711]"), Some(4711));
        assert_eq!(socket_inode("/dev/null"), None);
    }

    #[test]
    fn who_holds_a_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let check = judge(
            "TCP x".into(),
            "tcp",
            address.port(),
            "a test",
            TcpListener::bind(address).map(drop),
            Some((address, "--x-listen")),
        );
        assert_eq!(check.level, Level::Problem);
        assert!(
            check.text.contains(&std::process::id().to_string()),
            "{}",
            check.text
        );
        assert!(check.remedy.unwrap().contains("--x-listen"));
        let owners = owners(Path::new("/proc"), "tcp", address.port());
        assert_eq!(owners.len(), 1);
        assert!(!owners[0].is_server());
    }
}
