//! Narrow networks, in a network namespace of the test's own: the block size fits the interface, and
//! a path that becomes narrower during a transfer does not break it.

use std::env;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::site::{Site, content};
use bugler_tftp::Event;
use bugler_tftp::client::{Settings, fetch};
use bugler_tftp::packet::{Mode, Options, Packet, Request};

const INSIDE: &str = "BUGLER_TFTP_TEST_NAMESPACE";

/// Runs the test named `name` of this module again inside a new network namespace, and gives false;
/// there, gives true.
pub(crate) fn inside(module: &str, name: &str) -> bool {
    let namespace = std::fs::read_link("/proc/self/ns/net").unwrap();
    if let Some(outside) = env::var_os(INSIDE) {
        assert_ne!(
            namespace.as_os_str(),
            outside,
            "this is no namespace of the test's own"
        );
        return true;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{name}"), "--nocapture"])
        .env(INSIDE, namespace)
        .output()
        .expect("unshare (util-linux) is needed by this test");
    assert!(
        output.status.success(),
        "inside of the namespace: {output:?}"
    );
    false
}

fn set_mtu(mtu: u32) {
    let mtu = mtu.to_string();
    let output = Command::new("ip")
        .args(["link", "set", "lo", "up", "mtu", &mtu])
        .output()
        .expect("ip (iproute2) is needed by this test");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_block_size_fits_the_interface() {
    if !inside("mtu", "the_block_size_fits_the_interface") {
        return;
    }
    set_mtu(1400);
    let site = Site::new();
    let expected = content(50_000);
    site.write("f", &expected);
    for windowsize in [None, Some(8)] {
        let options = Options {
            blksize: Some(8192),
            windowsize,
            ..Options::default()
        };
        let settings = Settings {
            options,
            ..Settings::default()
        };
        assert!(fetch(site.address(), "f", &settings, 1 << 20).unwrap() == expected);
        let (_, started) = site.journal.next();
        assert!(
            matches!(started, Event::Started { blksize: 1368, .. }),
            "{started:?}"
        );
        site.journal.next();
    }
}

#[test]
fn a_path_that_becomes_narrower_is_served_in_fragments() {
    if !inside("mtu", "a_path_that_becomes_narrower_is_served_in_fragments") {
        return;
    }
    for windowsize in [1, 4] {
        set_mtu(1500);
        let site = Site::new();
        let expected = content(4 * 1468 - 7);
        site.write("f", &expected);
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        let options = Options {
            blksize: Some(1468),
            windowsize: Some(windowsize),
            ..Options::default()
        };
        let request = Request {
            filename: b"f",
            mode: Mode::Octet,
            options,
        };
        client
            .send_to(&Packet::ReadRequest(request).to_bytes(), site.address())
            .unwrap();
        let mut buffer = [0; 2000];
        let mut hear = || {
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            let std::net::SocketAddr::V4(from) = from else {
                panic!("{from}")
            };
            (buffer[..len].to_vec(), from)
        };
        let (oack, server): (Vec<u8>, SocketAddrV4) = hear();
        assert!(oack.starts_with(b"\0\x06"), "{oack:?}");
        // From here on, no block fits into one packet, and no window into one offloaded send.
        set_mtu(1000);
        let ack = |block| {
            client
                .send_to(&Packet::Ack { block }.to_bytes(), server)
                .unwrap()
        };
        ack(0);
        let mut got = Vec::new();
        let mut next = 1;
        while next <= 4 {
            let (bytes, _) = hear();
            match Packet::decode(&bytes).unwrap() {
                Packet::Data { block, data } if block == next => {
                    got.extend_from_slice(data);
                    if next % windowsize == 0 {
                        ack(next);
                    }
                    next += 1;
                }
                // Sent again before it was acknowledged.
                Packet::Data { .. } | Packet::OptionAck(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(got == expected, "windowsize {windowsize}");
        assert!(matches!(site.journal.next().1, Event::Started { .. }));
        let finished = site.journal.next().1;
        assert!(matches!(finished, Event::Finished { .. }), "{finished:?}");
    }
}
