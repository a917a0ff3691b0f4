//! What a BMC sends.

use bugler_bmc::ipmi::commands;
use bugler_bmc::ipmi::machine::{Config, Pacing, Session};
use bugler_bmc::ipmi::packet::{
    Datagram, Message, OpenReply, OpenRequest, Rakp1, Rakp2, Rakp3, Rakp4, Reply, SolPacket,
};
use bugler_bmc::{Credentials, Secret};
use std::time::Duration;

/// The seed of the session that is fuzzed, and the password: with both, the kept inputs are answers that
/// fit.
const SEED: [u8; 32] = [1; 32];
const PASSWORD: &str = "secret";

/// One datagram and what may be inside of it.
pub(crate) fn packet(bytes: &[u8]) {
    if let Ok(datagram) = Datagram::decode(bytes) {
        let written = datagram.to_bytes();
        assert_eq!(Datagram::decode(&written).as_ref(), Ok(&datagram));
        match datagram {
            Datagram::V15(packet) => payload(packet.payload),
            Datagram::V20(packet) => payload(packet.payload),
            Datagram::Ping { .. } | Datagram::Pong { .. } => {}
        }
    }
    payload(bytes);
}

fn payload(bytes: &[u8]) {
    let _ = OpenRequest::decode(bytes);
    let _ = OpenReply::decode(bytes);
    let _ = Rakp1::decode(bytes);
    let _ = Rakp2::decode(bytes);
    let _ = Rakp3::decode(bytes);
    let _ = Rakp4::decode(bytes);
    let _ = Message::decode(bytes);
    let _ = SolPacket::decode(bytes);
    if let Ok(reply) = Reply::decode(bytes) {
        let _ = commands::AuthCapabilities::read(reply.data);
        let _ = commands::BootFlags::read(reply.data);
        let _ = commands::DeviceId::read(reply.data);
        let _ = commands::SolActivated::read(reply.data);
        let _ = commands::suite_numbers(reply.data);
    }
}

/// A session with a console. The input is a list of datagrams: the time since the last one in units of
/// 20 ms, the length, the bytes.
pub(crate) fn session(mut bytes: &[u8]) {
    let Ok(credentials) = Credentials::new("admin", Secret::new(PASSWORD)) else {
        return;
    };
    let config = Config {
        allow_v15: true,
        ..Config::new(credentials)
    };
    let mut now = Duration::ZERO;
    let mut session = Session::new(config, SEED, now);
    session.request(commands::chassis_status(), now);
    session.open_console(true, Pacing::default(), now);
    while let Some(([wait, length], rest)) = bytes.split_first_chunk::<2>() {
        let (datagram, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        now += Duration::from_millis(20 * u64::from(*wait));
        session.receive(datagram, now);
        session.timeout(now);
        session.write(b"typed", now);
        drain(&mut session);
    }
    session.close(now);
    // Whatever was said: it ends, and soon.
    for _ in 0..200 {
        drain(&mut session);
        let Some(deadline) = session.deadline() else {
            break;
        };
        now = now.max(deadline);
        session.timeout(now);
    }
    assert!(session.is_over(), "the session does not end");
}

fn drain(session: &mut Session) {
    while session.poll_transmit().is_some() {}
    while session.poll_event().is_some() {}
}
