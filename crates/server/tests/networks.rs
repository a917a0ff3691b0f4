//! `bugler serve` on networks that are built and change: several interfaces, addresses that come and
//! go, a way out.
//!
//! Each test runs itself again in a network namespace that it makes; see the support file of the DHCP
//! tests. It runs the server with a configuration as an operator writes it, and waits for what the
//! server tells in its events.

#[path = "../../dhcp/tests/support/namespace.rs"]
mod namespace;

use bugler_server::config::Config;
use namespace::{Network, Peer, ip};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const OPERATOR: &str = "127.0.0.1:8481";

/// Runs the server in the process that calls it, until that is killed.
const SERVE: &str = "BUGLER_TEST_SERVE";

/// What `toml` says, in a state directory of its own. A boot environment is not built.
fn config(dir: &tempfile::TempDir, toml: &str) -> Config {
    let text = format!(
        "state-dir = {:?}\n[bootenv]\nkernel = \"/nonexistent\"\n{toml}",
        dir.path()
    );
    toml::from_str(&text).unwrap()
}

/// A running server, and the thread of the test that talks to it.
fn serving(toml: &str, test: impl FnOnce(&mut Events) + Send + 'static) {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, toml);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut server = tokio::spawn(bugler_server::run::serve(config, stop.clone()));
        let test = tokio::task::spawn_blocking(|| test(&mut Events::follow()));
        tokio::select! {
            result = &mut server => panic!("the server ended: {result:?}"),
            result = test => result.unwrap(),
        }
        stop.cancel();
        server.await.unwrap().unwrap();
    });
}

/// The server's events, from the first on.
struct Events(BufReader<TcpStream>);

impl Events {
    fn follow() -> Self {
        let mut stream = (0..2400)
            .find_map(|_| {
                let stream = TcpStream::connect(OPERATOR).ok();
                if stream.is_none() {
                    std::thread::sleep(Duration::from_millis(50));
                }
                stream
            })
            .expect("the operator plane listens");
        let timeout = Some(Duration::from_secs(120));
        stream.set_read_timeout(timeout).unwrap();
        let request =
            format!("GET /api/v1/events/stream?after=e0 HTTP/1.1\r\nHost: {OPERATOR}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    /// Waits for an event with this in its text, and returns it.
    fn until(&mut self, part: &str) -> String {
        let mut seen = vec![];
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line);
            // Lines that keep the stream open come without an event as well.
            assert!(
                read.is_ok_and(|length| length > 0) && Instant::now() < end,
                "no event has {part:?}; there were {seen:#?}"
            );
            if line.contains(part) {
                return line;
            }
            if line.starts_with("data:") {
                seen.push(line);
            }
        }
    }
}

/// What the server says that it serves.
fn services() -> String {
    let mut stream = TcpStream::connect(OPERATOR).unwrap();
    let request =
        format!("GET /api/v1/server HTTP/1.1\r\nHost: {OPERATOR}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn value<'a>(lease: &'a [(String, String)], name: &str) -> Option<&'a str> {
    lease
        .iter()
        .find(|(other, _)| other == name)
        .map(|(_, value)| value.as_str())
}

/// Fetches a boot loader by TFTP, and returns its length.
fn tftp(peer: &Peer, server: &str) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let output = peer
        .command("tftp")
        .args(["-m", "octet", server, "-c", "get", "snponly.efi", "out"])
        .current_dir(dir.path())
        .output()
        .expect("tftp (package tftp-hpa) runs");
    assert!(output.status.success(), "{output:?}");
    std::fs::read(dir.path().join("out"))
        .unwrap_or_default()
        .len()
}

fn text_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn each_interface_has_a_mode_of_its_own() {
    namespace::run("each_interface_has_a_mode_of_its_own", |network| {
        for (bridge, net) in [("br1", 1), ("br2", 2), ("br3", 3)] {
            network.segment(bridge, Some(&format!("10.88.{net}.1/24")));
        }
        let other = network.peer();
        other.ip("address add 10.77.0.9/24 dev eth0");
        let dnsmasq = other.dnsmasq();
        let clients = ["br0", "br1", "br2", "br3"].map(|bridge| network.peer_on(bridge));
        let toml = "[tftp]\nsingle-port = true\n\
             [[interface]]\nname = \"br0\"\ndhcp = \"proxy\"\n\
             [[interface]]\nname = \"br1\"\ndhcp = \"full\"\npools = [\"10.88.1.50-10.88.1.60\"]\n\
             [[interface]]\nname = \"br2\"\ndhcp = \"auto\"\npools = [\"10.88.2.50-10.88.2.60\"]\n\
             [[interface]]\nname = \"br3\"\ndhcp = \"off\"\n";
        serving(toml, move |events| {
            events.until("no other DHCP server answered on br2");
            let all = services();
            for line in [
                "br0: DHCP proxy at 10.77.0.1/24",
                "br1: DHCP full at 10.88.1.1/24",
                "br2: DHCP auto at 10.88.2.1/24",
                "br3: DHCP off",
                "br3: TFTP on port 69 alone",
            ] {
                assert!(all.contains(line), "{line} is not in {all}");
            }
            let [proxy, full, auto, off] = clients;
            let by = |peer: &Peer| {
                let lease = peer.udhcpc(&[]).unwrap();
                value(&lease, "serverid").unwrap().to_owned()
            };
            assert_eq!(by(&proxy), "10.77.0.9");
            assert_eq!(by(&full), "10.88.1.1");
            assert_eq!(by(&auto), "10.88.2.1");
            assert!(off.udhcpc(&["-t", "2", "-T", "1"]).is_err());
            // Beside each of them the boot files are served, from the address that was asked.
            off.ip("address add 10.88.3.9/24 dev eth0");
            for (peer, server) in [
                (&proxy, "10.77.0.1"),
                (&full, "10.88.1.1"),
                (&auto, "10.88.2.1"),
                (&off, "10.88.3.1"),
            ] {
                assert!(tftp(peer, server) > 100_000, "{server}");
            }
            drop(dnsmasq);
        });
    });
}

#[test]
fn an_address_that_changes_and_an_interface_that_comes_back_are_served() {
    namespace::run(
        "an_address_that_changes_and_an_interface_that_comes_back_are_served",
        |network| {
            let client = network.peer();
            let toml = "[[interface]]\nname = \"br0\"\ndhcp = \"full\"\npools = [\"10.77.0.100-10.77.0.110\"]\n\
                        [[interface]]\nname = \"br1\"\ndhcp = \"full\"\nwait = true\n\
                        pools = [\"10.88.1.50-10.88.1.60\"]\n";
            // The closure of a server's test outlives the borrow of the network.
            let mut later = std::mem::replace(network, Network::none());
            serving(toml, move |events| {
                events.until(
                    "br1 is not served yet, and waited for: there is no network interface br1",
                );
                assert!(services().contains("br1: not served"));
                let server =
                    |lease: &[(String, String)]| value(lease, "serverid").unwrap().to_owned();
                assert_eq!(server(&client.udhcpc(&[]).unwrap()), "10.77.0.1");

                // As a DHCP client of this host does it.
                ip("address del 10.77.0.1/24 dev br0");
                ip("address add 10.77.0.7/24 dev br0");
                events.until("the address of br0 has changed from 10.77.0.1/24 to 10.77.0.7/24");
                assert_eq!(server(&client.udhcpc(&[]).unwrap()), "10.77.0.7");
                assert!(tftp(&client, "10.77.0.7") > 100_000);

                ip("address del 10.77.0.7/24 dev br0");
                events.until("br0 is no longer served, until that changes");
                ip("link del br0");
                later.segment("br0", Some("10.77.0.1/24"));
                ip("link set port1 master br0");
                events.until("br0 is served as 10.77.0.1/24");
                assert_eq!(server(&client.udhcpc(&[]).unwrap()), "10.77.0.1");
                assert!(tftp(&client, "10.77.0.1") > 100_000);

                later.segment("br1", None);
                ip("address add 10.88.1.1/24 dev br1");
                events.until("br1 is served as 10.88.1.1/24");
                assert!(!services().contains("not served"), "{}", services());
                let late = later.peer_on("br1");
                assert_eq!(server(&late.udhcpc(&[]).unwrap()), "10.88.1.1");
            });
        },
    );
}

#[test]
fn what_cannot_be_served_ends_the_start_and_says_why() {
    namespace::run(
        "what_cannot_be_served_ends_the_start_and_says_why",
        |network| {
            network.segment("br1", None);
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let full = "dhcp = \"full\"\npools = [\"10.77.0.100-10.77.0.110\"]";
            for (toml, why) in [
                (
                    "name = \"br1\"\ndhcp = \"proxy\"".to_owned(),
                    "the interface br1 has no IPv4 address",
                ),
                (
                    format!("name = \"br0\"\n{full}\nnat = \"up9\""),
                    "no network interface up9, through which machines on br0 were to reach",
                ),
                (
                    format!(
                        "name = \"br0\"\n{full}\n[[interface.subnet]]\nnetwork = \"10.0.0.0/8\"\n\
                         router = \"10.0.0.1\"\n"
                    ),
                    "10.77.0.0/24 and 10.0.0.0/8 of one interface overlap",
                ),
            ] {
                let dir = tempfile::tempdir().unwrap();
                let config = config(&dir, &format!("[[interface]]\n{toml}\n"));
                let served = bugler_server::run::serve(config, CancellationToken::new());
                let error = format!("{:#}", runtime.block_on(served).unwrap_err());
                assert!(error.contains(why), "{error}");
            }
        },
    );
}

/// Asks the operator plane; returns its whole answer.
fn ask(method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(OPERATOR).unwrap();
    let length = body.len();
    let request = format!(
        "{method} /api/v1/{path} HTTP/1.1\r\nHost: {OPERATOR}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_device_that_is_given_a_tag_moves_to_the_pool_of_the_tag() {
    namespace::run(
        "a_device_that_is_given_a_tag_moves_to_the_pool_of_the_tag",
        |network| {
            let (client, other) = (network.peer(), network.peer());
            let toml = "[[interface]]\nname = \"br0\"\ndhcp = \"full\"\npools = [\"10.77.0.100-10.77.0.110\"]\n\
                        domain = \"lab.example\"\n\
                        [[interface.tagged]]\ntag = \"rack1\"\npools = [\"10.77.0.50-10.77.0.59\"]\n\
                        domain = \"rack1.example\"\n";
            serving(toml, move |events| {
                events.until("the server has started");
                let told = |peer: &Peer| {
                    // A device is recorded when it boots.
                    let lease = peer.udhcpc(&["-V", "PXEClient:Arch:00007:UNDI:003016"]);
                    let lease = lease.unwrap();
                    let get = |name| value(&lease, name).unwrap_or_default().to_owned();
                    (get("ip"), get("domain"))
                };
                let (address, domain) = told(&client);
                assert!(address.starts_with("10.77.0.1"), "{address}");
                assert_eq!(domain, "lab.example");
                events.until("52:54:00:00:00:01");
                let changed = ask(
                    "PATCH",
                    "devices/52:54:00:00:00:01",
                    "{\"add_tags\": [\"rack1\"]}",
                );
                assert!(changed.starts_with("HTTP/1.1 200"), "{changed}");
                let (address, domain) = told(&client);
                assert!(address.starts_with("10.77.0.5"), "{address}");
                assert_eq!(domain, "rack1.example");
                let (address, domain) = told(&other);
                assert!(address.starts_with("10.77.0.1"), "{address}");
                assert_eq!(domain, "lab.example");
            });
        },
    );
}

const NAT: &str = "[[interface]]\nname = \"br0\"\ndhcp = \"full\"\nnat = \"up0\"\n\
                   pools = [\"10.77.0.100-10.77.0.110\"]\n";

/// A host outside at 192.0.2.2, behind the interface up0 with 192.0.2.1. It knows no way to
/// 10.77.0.0/24.
fn outside(network: &mut Network) -> Peer {
    network.segment("up0", Some("192.0.2.1/24"));
    let outside = network.peer_on("up0");
    outside.ip("address add 192.0.2.2/24 dev eth0");
    outside
}

fn forwarding() -> String {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    text.trim().to_owned()
}

fn nat_table() -> String {
    text_of("nft", &["list", "table", "ip", "bugler"])
}

/// A TCP connection from a client to the host outside; returns what the host sees as its peer.
fn reach(from: &Peer, to: &Peer) -> Option<Ipv4Addr> {
    let listener = to.inside(|| TcpListener::bind("192.0.2.2:0").unwrap());
    let address = listener.local_addr().unwrap();
    let connect = move || TcpStream::connect_timeout(&address, Duration::from_secs(60));
    from.inside(connect).ok()?;
    let (_, peer) = listener.accept().unwrap();
    match peer.ip() {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    }
}

#[test]
fn machines_behind_nat_reach_other_networks_while_the_server_runs() {
    namespace::run(
        "machines_behind_nat_reach_other_networks_while_the_server_runs",
        |network| {
            let (out, client) = (outside(network), network.peer());
            assert_eq!(forwarding(), "0");
            serving(NAT, move |events| {
                events.until("the server has started");
                assert!(
                    services().contains("10.77.0.0/24 reaches other networks through up0 (NAT)")
                );
                let lease = client.udhcpc(&[]).unwrap();
                assert_eq!(value(&lease, "router"), Some("10.77.0.1"));
                let resolvers: Vec<String> = std::fs::read_to_string("/etc/resolv.conf")
                    .unwrap_or_default()
                    .lines()
                    .filter_map(|line| line.strip_prefix("nameserver "))
                    .filter(|name| name.parse::<Ipv4Addr>().is_ok_and(|ip| !ip.is_loopback()))
                    .map(str::to_owned)
                    .collect();
                if !resolvers.is_empty() {
                    assert_eq!(value(&lease, "dns"), Some(&*resolvers.join(" ")));
                }
                assert_eq!(reach(&client, &out), Some([192, 0, 2, 1].into()));
                assert_eq!(forwarding(), "1");
                // Nobody outside gets in by the way that was opened.
                out.ip("route add 10.77.0.0/24 via 192.0.2.1");
                let address = value(&lease, "ip").unwrap().to_owned();
                let listener = client.inside(move || TcpListener::bind((&*address, 0)).unwrap());
                let inside = listener.local_addr().unwrap();
                let connect = move || TcpStream::connect_timeout(&inside, Duration::from_secs(1));
                assert!(out.inside(connect).is_err());
            });
            assert_eq!((forwarding().as_str(), nat_table().as_str()), ("0", ""));
        },
    );
}

#[test]
fn a_host_that_forwarded_before_goes_on() {
    namespace::run("a_host_that_forwarded_before_goes_on", |network| {
        let (out, client) = (outside(network), network.peer());
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1\n").unwrap();
        serving(NAT, move |events| {
            events.until("the server has started");
            client.udhcpc(&[]).unwrap();
            assert_eq!(reach(&client, &out), Some([192, 0, 2, 1].into()));
            assert!(!nat_table().contains("forward"), "{}", nat_table());
        });
        assert_eq!((forwarding().as_str(), nat_table().as_str()), ("1", ""));
    });
}

/// Not a test: the server that the next test kills.
#[test]
fn serve_until_killed() {
    let Some(toml) = std::env::var_os(SERVE) else {
        return;
    };
    serving(toml.to_str().unwrap(), |events| {
        events.until("the server has started");
        println!("started");
        loop {
            std::thread::park();
        }
    });
}

fn server_of_its_own(toml: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "serve_until_killed", "--nocapture"])
        .env(SERVE, toml)
        .stdout(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = lines.any(|line| line.unwrap().contains("started"));
    assert!(started, "the server ended: {:?}", child.wait());
    child
}

#[test]
fn what_a_killed_server_leaves_behind_the_next_one_replaces() {
    namespace::run(
        "what_a_killed_server_leaves_behind_the_next_one_replaces",
        |network| {
            let (out, client) = (outside(network), network.peer());
            let mut killed = server_of_its_own(NAT);
            killed.kill().unwrap();
            killed.wait().unwrap();
            assert_eq!(forwarding(), "1");
            assert!(nat_table().contains("forwarding_was_off"));
            serving(NAT, move |events| {
                events.until("the server has started");
                client.udhcpc(&[]).unwrap();
                assert_eq!(reach(&client, &out), Some([192, 0, 2, 1].into()));
            });
            assert_eq!((forwarding().as_str(), nat_table().as_str()), ("0", ""));

            // One that has no NAT to do takes it away as well.
            let mut killed = server_of_its_own(NAT);
            killed.kill().unwrap();
            killed.wait().unwrap();
            assert_eq!(forwarding(), "1");
            serving("", |events| {
                events.until("the server has started");
                assert_eq!((forwarding().as_str(), nat_table().as_str()), ("0", ""));
            });
        },
    );
}
