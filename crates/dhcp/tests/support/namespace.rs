//! A network of the test's own: bridges in a network namespace, and peers with an interface each.
//!
//! The test runs itself again inside a new namespace, as root or as an ordinary user, and touches
//! no network of the host.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const INSIDE: &str = "BUGLER_DHCP_TEST_INSIDE";

/// Runs `test` in a network namespace of its own, where loopback and the bridge `br0` with
/// 10.77.0.1/24 are up. `name` is the test's own name.
pub(crate) fn run(name: &str, test: impl FnOnce(&mut Network)) {
    if std::env::var_os(INSIDE).is_some() {
        let mut network = Network { peers: 0 };
        for line in [
            "link set lo up",
            "link add br0 address 52:54:00:77:00:01 type bridge",
            "address add 10.77.0.1/24 dev br0",
            "link set br0 up",
        ] {
            ip(line);
        }
        test(&mut network);
        return;
    }
    let mut unshare = Command::new("unshare");
    unshare.arg("--net");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let status = unshare
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (package util-linux) runs");
    assert!(
        status.success(),
        "{name} failed in its network namespace: {status}"
    );
}

/// Runs `ip` with these words, in the namespace of the test.
pub(crate) fn ip(line: &str) {
    let output = Command::new("ip")
        .args(line.split(' '))
        .output()
        .expect("ip (package iproute2) runs");
    assert!(
        output.status.success(),
        "ip {line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until the bridge passes on what comes from this port. Until the kernel has got round to it, which
/// it does after the link is up, that is lost. With spanning tree it takes as long as that takes.
fn carried(bridge: &str, port: u8) {
    let details = |device: &str| {
        let output = Command::new("ip")
            .args(["-details", "link", "show", "dev", device])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    if details(bridge).contains("stp_state 1") {
        return;
    }
    let end = Instant::now() + Duration::from_secs(120);
    let port = format!("port{port}");
    loop {
        let shown = details(&port);
        if shown.contains("state forwarding") {
            return;
        }
        assert!(Instant::now() < end, "{port} is not up: {shown}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The segment.
pub(crate) struct Network {
    peers: u8,
}

/// A host on the segment, in a namespace of its own, with the interface `eth0`.
pub(crate) struct Peer {
    /// Keeps the namespace; ends when the test's end of its standard input closes.
    holder: Child,
    /// Where the namespace is.
    path: String,
    pub(crate) number: u8,
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

impl Network {
    /// What stays where a test takes the network.
    pub(crate) fn none() -> Self {
        Self { peers: 0 }
    }

    /// Adds a host; its Ethernet address ends with its number, 1 for the first.
    pub(crate) fn peer(&mut self) -> Peer {
        self.peer_on("br0")
    }

    /// Adds a segment: a bridge of this name, with this address where one is given.
    pub(crate) fn segment(&mut self, bridge: &str, address: Option<&str>) {
        ip(&format!("link add {bridge} type bridge"));
        if let Some(address) = address {
            ip(&format!("address add {address} dev {bridge}"));
        }
        ip(&format!("link set {bridge} up"));
    }

    /// Adds a host on another segment.
    pub(crate) fn peer_on(&mut self, bridge: &str) -> Peer {
        let peer = self.host();
        let (number, id) = (peer.number, peer.id());
        ip(&format!(
            "link add port{number} type veth peer name eth0 address 52:54:00:00:00:{number:02x} netns {id}"
        ));
        ip(&format!("link set port{number} master {bridge} up"));
        peer.ip("link set eth0 up");
        carried(bridge, number);
        peer
    }

    /// Adds a host whose `eth0` leads to the interface `lan0` of another, and nowhere else.
    pub(crate) fn peer_behind(&mut self, router: &Peer) -> Peer {
        let peer = self.host();
        let (number, id) = (peer.number, peer.id());
        router.ip(&format!(
            "link add lan0 type veth peer name eth0 address 52:54:00:00:00:{number:02x} netns {id}"
        ));
        router.ip("link set lan0 up");
        peer.ip("link set eth0 up");
        peer
    }

    /// A host without a network.
    fn host(&mut self) -> Peer {
        self.peers += 1;
        let number = self.peers;
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        holder
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        let path = format!("/proc/{}/ns/net", holder.id());
        let peer = Peer {
            holder,
            path,
            number,
        };
        peer.ip("link set lo up");
        peer
    }
}

impl Peer {
    /// The process that keeps its namespace.
    fn id(&self) -> u32 {
        self.holder.id()
    }

    /// Runs `work` on a thread in this host's namespace: sockets that it makes are there.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = std::fs::File::open(&self.path).unwrap();
        let kind = rustix::thread::LinkNameSpaceType::Network;
        let enter = move || {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).unwrap();
            work()
        };
        // A namespace belongs to a thread.
        std::thread::spawn(enter).join().unwrap()
    }

    /// Lets this host pass packets on.
    pub(crate) fn forward(&self) {
        self.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1\n"))
            .unwrap();
    }

    /// Starts a program here that says `ready` on its standard error once it serves.
    pub(crate) fn daemon(&self, program: &str, arguments: &[&str], ready: &str) -> Running {
        let mut child = self
            .command(program)
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} runs: {error}"));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = vec![];
        for line in &mut lines {
            said.push(line.unwrap());
            if said.last().is_some_and(|line| line.contains(ready)) {
                std::thread::spawn(move || lines.for_each(drop));
                return Running(child);
            }
        }
        panic!("{program} ended: {:?}, {said:?}", child.wait());
    }

    /// A command that runs on this host.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path))
            .arg("--")
            .arg(program);
        command
    }

    pub(crate) fn ip(&self, line: &str) {
        let output = self.command("ip").args(line.split(' ')).output().unwrap();
        assert!(
            output.status.success(),
            "ip {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A UDP socket on this host's `eth0`, with a deadline for what is received.
    pub(crate) fn udp(&self, port: u16) -> UdpSocket {
        let namespace = std::fs::File::open(&self.path).unwrap();
        let open = move || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).unwrap();
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
            socket.bind_device(Some(b"eth0")).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.set_reuse_address(true).unwrap();
            let any = std::net::SocketAddr::from(([0, 0, 0, 0], port));
            socket.bind(&any.into()).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(120)))
                .unwrap();
            UdpSocket::from(socket)
        };
        // A namespace belongs to a thread; the socket stays where it was made.
        std::thread::spawn(open).join().unwrap()
    }

    /// Runs udhcpc until it has a lease, and returns the variables that it gives its script.
    pub(crate) fn udhcpc(&self, arguments: &[&str]) -> Result<Vec<(String, String)>, String> {
        let script = Script::new();
        let output = self
            .command("busybox")
            .args([
                "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "15", "-T", "4", "-s",
            ])
            .arg(&*script.0)
            .args(arguments)
            .output()
            .expect("busybox (package busybox-static) runs");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, bound) = text
            .split_once("event=bound\n")
            .unwrap_or_else(|| panic!("no lease in {text}"));
        Ok(bound
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    /// Starts a udhcpc that stays.
    pub(crate) fn udhcpc_daemon(&self, arguments: &[&str]) -> Udhcpc {
        let script = Script::new();
        let mut child = self
            .command("busybox")
            .args(["udhcpc", "-i", "eth0", "-f", "-t", "15", "-T", "4", "-s"])
            .arg(&*script.0)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("busybox (package busybox-static) runs");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Udhcpc {
            running: Running(child),
            lines,
            _script: script,
        }
    }

    /// Starts dnsmasq as the DHCP server of 10.77.0.0/24, with 10.77.0.50 to 60 to give.
    pub(crate) fn dnsmasq(&self) -> Running {
        let mut child = self
            .command("dnsmasq")
            .args([
                "--no-daemon",
                "--conf-file=/dev/null",
                "--port=0",
                "--interface=eth0",
                "--bind-interfaces",
            ])
            .args([
                "--user=root",
                "--group=root",
                "--pid-file=",
                "--dhcp-leasefile=/dev/null",
                "--log-dhcp",
            ])
            .args([
                "--dhcp-range=10.77.0.50,10.77.0.60,1h",
                "--dhcp-authoritative",
            ])
            .stderr(Stdio::piped())
            .spawn()
            .expect("dnsmasq (package dnsmasq-base) runs");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        for line in &mut lines {
            let line = line.unwrap();
            if line.contains("sockets bound") {
                std::thread::spawn(move || lines.for_each(drop));
                return Running(child);
            }
        }
        panic!("dnsmasq ended: {:?}", child.wait());
    }
}

/// What udhcpc runs: prints what happened and its variables, and sets the address.
struct Script(tempfile::TempPath);

impl Script {
    fn new() -> Self {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = "#!/bin/sh\necho event=$1\nenv\ncase $1 in\n\
                    bound|renew) ip address replace $ip/$mask dev $interface\n\
                    [ -z \"$router\" ] || ip route replace default via $router;;\n\
                    deconfig) ip address flush dev $interface;;\nesac\n";
        file.write_all(text.as_bytes()).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        file.as_file().set_permissions(executable).unwrap();
        Self(file.into_temp_path())
    }
}

/// A DHCP client that is running.
pub(crate) struct Udhcpc {
    running: Running,
    lines: BufReader<std::process::ChildStdout>,
    _script: Script,
}

impl Udhcpc {
    /// Waits until its script is called for this event.
    pub(crate) fn wait_for(&mut self, event: &str) {
        let mut line = String::new();
        while line.trim_end() != format!("event={event}") {
            line.clear();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "udhcpc ended");
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.running.0);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Has it renew its lease.
    pub(crate) fn renew(&mut self) {
        self.signal(rustix::process::Signal::USR1);
        self.wait_for("renew");
    }

    /// Has it release its lease.
    pub(crate) fn release(&mut self) {
        self.signal(rustix::process::Signal::USR2);
        self.wait_for("deconfig");
    }
}

/// A program that ends with the test.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
