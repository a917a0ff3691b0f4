//! One port for everything, as NAT and firewalls need it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::mtu::inside;
use crate::site::{Site, content};
use bugler_tftp::Event;
use bugler_tftp::client::{Settings, fetch};
use bugler_tftp::packet::{Mode, Options, Packet, Request};

fn single() -> Site {
    Site::with(|config| config.single_port = true)
}

fn settings(windowsize: Option<u16>) -> Settings {
    let options = Options {
        blksize: Some(1468),
        windowsize,
        ..Options::default()
    };
    Settings {
        options,
        ..Settings::default()
    }
}

#[test]
fn many_clients_at_once_each_get_their_file() {
    let site = single();
    for n in 0..16usize {
        site.write(&format!("f{n}"), &content(200_000 + n));
    }
    std::thread::scope(|scope| {
        for n in 0..16usize {
            let address = site.address();
            scope.spawn(move || {
                let windowsize = [None, Some(4), Some(16)][n % 3];
                let got = fetch(address, &format!("f{n}"), &settings(windowsize), 1 << 20).unwrap();
                assert!(got == content(200_000 + n), "f{n}");
            });
        }
    });
    let mut finished = 0;
    while finished < 16 {
        finished += u32::from(matches!(site.journal.next().1, Event::Finished { .. }));
    }
    site.stop();
}

/// A client that hears every answer, and keeps to the port that they come from.
struct Client {
    socket: UdpSocket,
    /// What came last.
    last: (u16, u8),
}

impl Client {
    fn new() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        Self {
            socket,
            last: (0, 0),
        }
    }

    fn ask(&self, site: &Site, name: &str) {
        let request = Request {
            filename: name.as_bytes(),
            mode: Mode::Octet,
            options: Options::default(),
        };
        self.send(site, &Packet::ReadRequest(request));
    }

    fn send(&self, site: &Site, packet: &Packet<'_>) {
        let bytes = packet.to_bytes();
        self.socket.send_to(&bytes, site.address()).unwrap();
    }

    /// The block number and the first byte of the next DATA from the server's port. One that is sent
    /// again, because the ACK was late, is passed over.
    fn data(&mut self, site: &Site) -> (u16, u8) {
        loop {
            let mut buffer = [0; 600];
            let (length, from) = self.socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, site.address().into());
            let data = match Packet::decode(&buffer[..length]).unwrap() {
                Packet::Data { block, data } => (block, data[0]),
                other => panic!("{other:?}"),
            };
            if data != self.last {
                self.last = data;
                return data;
            }
        }
    }
}

#[test]
fn a_client_that_asks_for_something_else_from_the_same_port_gets_that() {
    let site = single();
    site.write("one", &[1; 2000]);
    site.write("two", &[2; 2000]);
    let mut client = Client::new();
    client.ask(&site, "one");
    assert_eq!(client.data(&site), (1, 1));
    client.send(&site, &Packet::Ack { block: 1 });
    assert_eq!(client.data(&site), (2, 1));
    // The same request again, delivered late: the transfer goes on.
    client.ask(&site, "one");
    client.send(&site, &Packet::Ack { block: 2 });
    assert_eq!(client.data(&site), (3, 1));
    client.ask(&site, "two");
    assert_eq!(client.data(&site), (1, 2));
    let told: Vec<Event> = (0..3).map(|_| site.journal.next().1).collect();
    assert!(matches!(told[1], Event::Aborted { .. }), "{told:?}");
    site.stop();
}

#[test]
fn errors_come_from_the_port_as_well() {
    let site = single();
    let client = Client::new();
    client.ask(&site, "nothing");
    let mut buffer = [0; 600];
    let (length, from) = client.socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from, site.address().into());
    let packet = Packet::decode(&buffer[..length]).unwrap();
    assert!(matches!(packet, Packet::Error { .. }), "{packet:?}");
    // An ACK from nowhere is answered with nothing.
    client.send(&site, &Packet::Ack { block: 7 });
    client
        .socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(client.socket.recv_from(&mut buffer).is_err());
    site.stop();
}

/// Lets only what goes to port 69 or comes from it through.
fn firewall() {
    for line in [
        "add table ip only69",
        "add chain ip only69 out { type filter hook output priority 0 ; policy drop ; }",
        "add rule ip only69 out udp dport 69 accept",
        "add rule ip only69 out udp sport 69 accept",
    ] {
        let output = Command::new("nft")
            .args(line.split(' '))
            .output()
            .expect("nft (nftables) is needed by this test");
        assert!(output.status.success(), "{line}: {output:?}");
    }
}

#[test]
fn real_clients_get_through_a_firewall_that_lets_one_port_through() {
    if !inside(
        "single",
        "real_clients_get_through_a_firewall_that_lets_one_port_through",
    ) {
        return;
    }
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());
    firewall();
    let expected = content(300_001);
    for (single_port, passes) in [(false, false), (true, true)] {
        let site = Site::with(|config| {
            config.listen = vec![SocketAddrV4::new(Ipv4Addr::LOCALHOST, 69).into()];
            config.single_port = single_port;
        });
        site.write("f", &expected);
        let hpa = ["-m", "octet", "127.0.0.1", "-c", "get", "f", "out"];
        let atftp = |window| {
            let mut arguments = vec!["--get", "-r", "f", "-l", "out"];
            arguments.extend(["--option", "timeout 1", "--option", "blksize 1468"]);
            if window {
                arguments.extend(["--option", "windowsize 16"]);
            }
            arguments.push("127.0.0.1");
            arguments
        };
        let clients = [
            ("tftp", hpa.to_vec()),
            ("atftp", atftp(false)),
            ("atftp", atftp(true)),
        ];
        for (program, arguments) in clients {
            let dir = tempfile::tempdir().unwrap();
            // Those that get nothing would try for long.
            let limit = if passes { "60" } else { "3" };
            let output = Command::new("timeout")
                .args([limit, program])
                .args(&arguments)
                .current_dir(dir.path())
                .output()
                .unwrap_or_else(|error| panic!("{program} is needed by this test: {error}"));
            let got = fs::read(dir.path().join("out")).unwrap_or_default();
            assert_eq!(
                got == expected,
                passes,
                "{program} {arguments:?} with single_port {single_port}: {output:?}"
            );
        }
        site.stop();
    }
}
