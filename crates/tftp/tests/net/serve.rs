//! Our own client, and a client by hand.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::site::{Journal, Site, content};
use bugler_tftp::client::swarm::{self, Load};
use bugler_tftp::client::{FetchError, Settings, fetch};
use bugler_tftp::packet::{ErrorCode, Mode, Options, Packet, Request as ReadRequest};
use bugler_tftp::{Config, Content, DirSource, Error, Event, OpenError, Request, Server};

const LOOPBACK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
const LIMIT: usize = 64 << 20;

fn asking(options: Options) -> Settings {
    Settings {
        options,
        ..Settings::default()
    }
}

fn windows(blksize: u16, windowsize: u16) -> Settings {
    asking(Options {
        blksize: Some(blksize),
        windowsize: Some(windowsize),
        tsize: Some(0),
        timeout: Some(2),
    })
}

#[test]
fn files_of_awkward_sizes_arrive_whole_in_every_way() {
    let site = Site::new();
    for size in [
        0,
        1,
        511,
        512,
        513,
        1468,
        16 * 1468,
        16 * 1468 + 1,
        1_000_003,
    ] {
        let expected = content(size);
        let name = format!("f{size}");
        site.write(&name, &expected);
        for settings in [
            Settings::default(),
            asking(Options {
                blksize: Some(1468),
                ..Options::default()
            }),
            windows(1468, 16),
            windows(1468, 64),
            windows(65464, 2),
            windows(8, 40),
        ] {
            if size > 100_000 && settings.options.blksize == Some(8) {
                continue;
            }
            let got = fetch(site.address(), &name, &settings, LIMIT).unwrap();
            assert!(got == expected, "{size} bytes with {:?}", settings.options);
        }
    }
}

#[test]
fn a_transfer_is_reported_from_start_to_end() {
    let site = Site::new();
    site.write("dir/kernel", &content(100_000));
    fetch(site.address(), "//dir\\kernel", &windows(1468, 8), LIMIT).unwrap();
    let (transfer, started) = site.journal.next();
    assert_eq!(transfer.path, "dir/kernel");
    assert_eq!(transfer.local, Ipv4Addr::LOCALHOST);
    assert_eq!(
        started,
        Event::Started {
            size: 100_000,
            blksize: 1468,
            windowsize: 8
        }
    );
    let (again, finished) = site.journal.next();
    assert_eq!(again, transfer);
    assert!(
        matches!(
            finished,
            Event::Finished {
                bytes: 100_000,
                confirmed: true,
                ..
            }
        ),
        "{finished:?}"
    );
}

#[test]
fn the_block_number_goes_around_on_real_sockets() {
    let site = Site::new();
    let expected = content(66_000 * 32 + 5);
    site.write("big", &expected);
    let got = fetch(site.address(), "big", &windows(32, 32), LIMIT).unwrap();
    assert!(got == expected);
}

#[test]
fn netascii_translates_line_ends() {
    let site = Site::new();
    site.write("text", b"one\ntwo\r\n");
    let settings = Settings {
        mode: Mode::Netascii,
        ..Settings::default()
    };
    let got = fetch(site.address(), "text", &settings, LIMIT).unwrap();
    assert_eq!(got, b"one\r\ntwo\r\0\r\n");
}

#[test]
fn what_is_not_served_is_refused_by_the_right_code() {
    let site = Site::new();
    site.write("f", b"x");
    // A request that is sent again is told again.
    let once = Settings {
        timeout: Duration::from_secs(120),
        ..Settings::default()
    };
    for (path, code) in [
        ("absent", ErrorCode::FILE_NOT_FOUND),
        ("../etc/passwd", ErrorCode::ACCESS_VIOLATION),
        ("/../../etc/passwd", ErrorCode::ACCESS_VIOLATION),
        ("a/..\\..\\etc", ErrorCode::ACCESS_VIOLATION),
        ("/", ErrorCode::ACCESS_VIOLATION),
    ] {
        match fetch(site.address(), path, &once, LIMIT) {
            Err(FetchError::Refused { code: got, .. }) => assert_eq!(got, code, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
        let (_, event) = site.journal.next();
        if code == ErrorCode::FILE_NOT_FOUND {
            assert_eq!(event, Event::NotFound);
        } else {
            assert!(matches!(event, Event::Refused { .. }), "{event:?}");
        }
    }
}

#[test]
fn what_is_being_made_is_not_answered_and_served_when_it_is_asked_for_again() {
    let asked = AtomicU32::new(0);
    let source = move |_: &Request| match asked.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Err(OpenError::Later),
        _ => Ok(Content::Bytes(content(10).into())),
    };
    let journal = Journal::default();
    let config = Config {
        listen: vec![LOOPBACK.into()],
        ..Config::default()
    };
    let server = Server::start(config, Arc::new(source), Arc::new(journal.clone())).unwrap();
    let mut client = Hand::new(server.local_addrs()[0]);
    let request = read_request(b"f", Options::default());
    for _ in 0..2 {
        client.say(&request);
        assert_eq!(journal.next().1, Event::Postponed);
    }
    client.say(&request);
    // Nothing came before this: it is the first datagram that is heard.
    assert_eq!(client.hear(), [&[0, 3, 0, 1][..], &content(10)].concat());
    client.say(&[0, 4, 0, 1]);
    assert!(matches!(journal.next().1, Event::Started { .. }));
    assert!(matches!(journal.next().1, Event::Finished { .. }));
}

/// A client by hand: a socket, and what it says and hears.
struct Hand {
    socket: UdpSocket,
    server: SocketAddrV4,
}

impl Hand {
    fn new(server: SocketAddrV4) -> Self {
        let socket = UdpSocket::bind(LOOPBACK).unwrap();
        // Far more than any answer takes; only a test that fails waits for it.
        socket
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        Self { socket, server }
    }

    fn say(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.server).unwrap();
    }

    /// Hears one datagram, and answers go to its sender from now on.
    fn hear(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let (len, from) = self.socket.recv_from(&mut buffer).unwrap();
        let std::net::SocketAddr::V4(from) = from else {
            panic!("{from}")
        };
        self.server = from;
        buffer.truncate(len);
        buffer
    }
}

fn read_request(name: &[u8], options: Options) -> Vec<u8> {
    Packet::ReadRequest(ReadRequest {
        filename: name,
        mode: Mode::Octet,
        options,
    })
    .to_bytes()
}

#[test]
fn writing_is_refused() {
    let site = Site::new();
    let mut client = Hand::new(site.address());
    let request = ReadRequest {
        filename: b"f",
        mode: Mode::Octet,
        options: Options::default(),
    };
    client.say(&Packet::WriteRequest(request).to_bytes());
    let answer = client.hear();
    assert!(
        matches!(
            Packet::decode(&answer),
            Ok(Packet::Error {
                code: ErrorCode::ACCESS_VIOLATION,
                ..
            })
        ),
        "{answer:?}"
    );
    assert!(matches!(site.journal.next().1, Event::Refused { .. }));
    assert!(!site.path("f").exists());
}

#[test]
fn a_rom_that_only_wants_the_size_is_an_abort_and_may_come_back_from_the_same_port() {
    let site = Site::new();
    site.write("f", &content(5000));
    let mut client = Hand::new(site.address());
    client.say(&read_request(
        b"f",
        Options {
            tsize: Some(0),
            ..Options::default()
        },
    ));
    assert_eq!(client.hear(), b"\0\x06tsize\x005000\0");
    client.say(
        &Packet::Error {
            code: ErrorCode::OPTION_REFUSED,
            message: b"",
        }
        .to_bytes(),
    );
    assert!(matches!(site.journal.next().1, Event::Started { .. }));
    let aborted = site.journal.next().1;
    assert!(
        matches!(
            aborted,
            Event::Aborted {
                code: Some(ErrorCode::OPTION_REFUSED),
                bytes: 0,
                ..
            }
        ),
        "{aborted:?}"
    );
    client.server = site.address();
    client.say(&read_request(
        b"f",
        Options {
            blksize: Some(1024),
            ..Options::default()
        },
    ));
    assert_eq!(client.hear(), b"\0\x06blksize\x001024\0");
}

#[test]
fn an_abort_that_is_lost_does_not_stand_in_the_way_of_the_next_request() {
    let site = Site::new();
    site.write("f", &content(5000));
    let mut client = Hand::new(site.address());
    client.say(&read_request(
        b"f",
        Options {
            tsize: Some(0),
            ..Options::default()
        },
    ));
    client.hear();
    client.server = site.address();
    client.say(&read_request(
        b"f",
        Options {
            blksize: Some(1024),
            ..Options::default()
        },
    ));
    // The OACK of the first may have been repeated meanwhile.
    while client.hear() != b"\0\x06blksize\x001024\0" {}
    assert!(matches!(site.journal.next().1, Event::Started { .. }));
    assert!(matches!(
        site.journal.next().1,
        Event::Aborted { code: None, .. }
    ));
}

#[test]
fn an_answer_that_is_lost_comes_again_by_itself_and_the_request_twice_is_one_transfer() {
    let site = Site::new();
    site.write("f", b"hello");
    let mut client = Hand::new(site.address());
    let request = read_request(b"f", Options::default());
    client.say(&request);
    client.say(&request);
    let first = client.hear();
    assert_eq!(first, b"\0\x03\0\x01hello");
    let port = client.server.port();
    // Not acknowledged: it comes again, and from the same port.
    assert_eq!(client.hear(), first);
    assert_eq!(client.server.port(), port);
    client.say(&Packet::Ack { block: 1 }.to_bytes());
    assert!(matches!(site.journal.next().1, Event::Started { .. }));
    let finished = site.journal.next().1;
    assert!(
        matches!(finished, Event::Finished { bytes: 5, retransmitted, .. } if retransmitted >= 1),
        "{finished:?}"
    );
}

#[test]
fn a_client_that_goes_away_is_noticed() {
    let site = Site::new();
    site.write("f", &content(50_000));
    let mut client = Hand::new(site.address());
    client.say(&read_request(b"f", Options::default()));
    client.hear();
    drop(client);
    assert!(matches!(site.journal.next().1, Event::Started { .. }));
    let event = site.journal.next().1;
    assert!(
        matches!(event, Event::Aborted { code: None, .. }),
        "{event:?}"
    );
}

#[test]
fn noise_is_ignored_and_malformed_requests_are_told() {
    let site = Site::new();
    site.write("f", b"hello");
    let mut client = Hand::new(site.address());
    for noise in [
        &b""[..],
        b"\0",
        b"\0\x04\0\x01",
        b"\0\x05\0\0\0",
        b"\0\x09aaaa",
        &[0xff; 3000],
    ] {
        client.say(noise);
    }
    client.say(b"\0\x01f\0mail\0");
    assert!(client.hear().starts_with(b"\0\x05\0\x04"));
    let got = fetch(site.address(), "f", &Settings::default(), LIMIT).unwrap();
    assert_eq!(got, b"hello");
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let everywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let site = Site::listening(everywhere);
    site.write("f", b"hello");
    // All of 127.0.0.0/8 is this machine.
    for last in [1, 7, 77] {
        let address = Ipv4Addr::new(127, 0, 0, last);
        let mut client = Hand::new(SocketAddrV4::new(address, site.address().port()));
        client.say(&read_request(b"f", Options::default()));
        client.hear();
        assert_eq!(*client.server.ip(), address);
        let (transfer, _) = site.journal.next();
        assert_eq!(transfer.local, address);
        client.say(&Packet::Ack { block: 1 }.to_bytes());
        site.journal.next();
    }
}

#[test]
fn a_slow_source_holds_up_nobody_else() {
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let source = move |request: &Request| match request.path.as_str() {
        "slow" => {
            gate.lock().unwrap().recv().unwrap();
            Ok(Content::from(b"slow".to_vec()))
        }
        "panic" => panic!("this source has a bug, on purpose"),
        "broken" => Err(OpenError::Failed("the disk is gone".into())),
        _ => Ok(Content::from(content(200_000))),
    };
    let journal = Journal::default();
    let config = Config {
        listen: vec![LOOPBACK.into()],
        openers: 2,
        ..Config::default()
    };
    let server = Server::start(config, Arc::new(source), Arc::new(journal.clone())).unwrap();
    let address = server.local_addrs()[0];
    let slow =
        std::thread::spawn(move || fetch(address, "slow", &Settings::default(), LIMIT).unwrap());
    for _ in 0..3 {
        let got = fetch(address, "quick", &windows(1468, 4), LIMIT).unwrap();
        assert!(got == content(200_000));
    }
    for path in ["panic", "broken"] {
        match fetch(address, path, &Settings::default(), LIMIT) {
            Err(FetchError::Refused { code, .. }) => assert_eq!(code, ErrorCode::NOT_DEFINED),
            other => panic!("{other:?}"),
        }
    }
    release.send(()).unwrap();
    assert_eq!(slow.join().unwrap(), b"slow");
    server.stop().unwrap();
}

#[test]
fn transfers_beyond_the_limit_wait_for_their_turn() {
    let site = Site::with(|config| config.max_transfers = 2);
    site.write("f", b"hello");
    let mut holders = [Hand::new(site.address()), Hand::new(site.address())];
    for holder in &mut holders {
        holder.say(&read_request(b"f", Options::default()));
        assert_eq!(holder.hear(), b"\0\x03\0\x01hello");
        assert!(matches!(site.journal.next().1, Event::Started { .. }));
    }
    let late = Hand::new(site.address());
    late.say(&read_request(b"f", Options::default()));
    for holder in &holders {
        holder.say(&Packet::Ack { block: 1 }.to_bytes());
        assert!(matches!(site.journal.next().1, Event::Finished { .. }));
    }
    // The third was dropped, not queued: nothing has come for it. Its next try is served.
    late.socket.set_nonblocking(true).unwrap();
    assert_eq!(
        late.socket.recv(&mut [0; 600]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    let got = fetch(site.address(), "f", &Settings::default(), LIMIT).unwrap();
    assert_eq!(got, b"hello");
}

#[test]
fn many_clients_at_once_all_get_their_file() {
    let site = Site::new();
    site.write("f", &content(300_000));
    for windowsize in [None, Some(16)] {
        let options = Options {
            blksize: Some(1468),
            windowsize,
            ..Options::default()
        };
        let load = Load {
            server: site.address(),
            path: "f".into(),
            clients: 100,
            settings: asking(options),
        };
        let report = swarm::run(&load).unwrap();
        assert_eq!((report.finished, report.failed), (100, 0));
        assert_eq!(report.bytes, 100 * 300_000);
        assert_eq!(report.windowsize, windowsize.unwrap_or(1));
    }
}

#[test]
fn stopping_ends_everything_and_says_so() {
    let site = Site::new();
    site.write("f", &content(5000));
    let mut client = Hand::new(site.address());
    client.say(&read_request(b"f", Options::default()));
    client.hear();
    assert!(matches!(site.journal.next().1, Event::Started { .. }));
    let address = site.address();
    let journal = site.journal.clone();
    site.stop();
    assert!(matches!(journal.next().1, Event::Failed { .. }));
    // The port is free again, once the programs that other tests are just starting have closed what they
    // have of this process.
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(error) = UdpSocket::bind(address) {
        assert!(Instant::now() < end, "{address}: {error}");
        std::thread::yield_now();
    }
}

#[test]
fn errors_at_the_start_name_the_address_and_the_remedy() {
    let site = Site::new();
    let start = |listen| {
        let config = Config {
            listen,
            ..Config::default()
        };
        let source = DirSource::new(site.path("")).unwrap();
        Server::start(config, Arc::new(source), Arc::new(())).unwrap_err()
    };
    let taken = start(vec![site.address().into()]).to_string();
    assert!(
        taken.contains(&site.address().to_string()) && taken.contains("ss -ulpn"),
        "{taken}"
    );
    let foreign = start(vec![
        SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 0).into(),
    ])
    .to_string();
    assert!(foreign.contains("192.0.2.1"), "{foreign}");
    let listen = bugler_tftp::Listen {
        address: LOOPBACK,
        interface: Some("nosuchif0".into()),
    };
    let absent = start(vec![listen]).to_string();
    assert!(absent.contains("nosuchif0"), "{absent}");
    assert!(matches!(start(Vec::new()), Error::NothingToListenOn));
}

#[test]
fn an_interface_can_be_named() {
    let listen = bugler_tftp::Listen {
        address: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        interface: Some("lo".into()),
    };
    let site = Site::with(|config| config.listen = vec![listen]);
    site.write("f", b"hello");
    let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, site.address().port());
    assert_eq!(
        fetch(server, "f", &windows(1468, 4), LIMIT).unwrap(),
        b"hello"
    );
}
