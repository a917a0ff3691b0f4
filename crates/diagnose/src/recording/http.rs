//! HTTP requests of boot loaders and of the agent: what was asked, the status, and how much came.
//!
//! TCP streams are not put together: a request or an answer is read from the segment that it begins
//! in, and bytes are counted by sequence numbers.

use super::{MOST_FLOWS, Place, Watcher, millis, printable};
use crate::timeline::{End, Fetch, Protocol, Role, What};
use bugler_model::Timestamp;
use std::collections::HashMap;
use std::net::SocketAddrV4;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Connections by client and server.
pub(super) type Flows = HashMap<(SocketAddrV4, SocketAddrV4), Flow>;

#[derive(Default)]
pub(super) struct Flow {
    /// When the client first knocked; `None` once it was let in.
    knocked: Option<Timestamp>,
    request: Option<Pending>,
}

struct Pending {
    /// `None`: an agent's request, of which only the answer's status is of interest.
    place: Option<Place>,
    registers: bool,
    /// `HEAD`: the answer has no body.
    head: bool,
    status: Option<u16>,
    /// Bytes of the body that are to come.
    length: Option<u64>,
    /// Sequence number where the body begins.
    body: u32,
    /// The furthest that the server came, from `body` on.
    furthest: u64,
}

pub(super) struct Segment<'a> {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) sequence: u32,
    pub(super) flags: u8,
    pub(super) payload: &'a [u8],
    pub(super) length: usize,
}

pub(super) fn segment(watcher: &mut Watcher, at: Timestamp, segment: Segment<'_>) {
    let up = (segment.from, segment.to);
    let down = (segment.to, segment.from);
    if segment.flags & SYN != 0 && segment.flags & ACK == 0 {
        return knock(watcher, at, up);
    }
    if let Some((target, head)) = request(segment.payload) {
        return asked(watcher, at, up, &target, head);
    }
    if watcher.http.contains_key(&down) {
        from_server(watcher, at, down, &segment);
    } else if watcher.http.contains_key(&up) && segment.flags & (FIN | RST) != 0 {
        hung_up(watcher, at, up, segment.flags & RST != 0);
    }
}

/// The path or URL of a request that begins here, and whether it is only about the head.
fn request(payload: &[u8]) -> Option<(String, bool)> {
    let (rest, head) = [(&b"GET "[..], false), (b"HEAD ", true), (b"POST ", false)]
        .iter()
        .find_map(|(method, head)| Some((payload.strip_prefix(*method)?, *head)))?;
    let end = rest
        .iter()
        .take(2000)
        .position(|&b| b == b' ' || b == b'\r')?;
    let target = rest.get(..end)?;
    (target.starts_with(b"/") || target.starts_with(b"http://")).then(|| (printable(target), head))
}

fn knock(watcher: &mut Watcher, at: Timestamp, up: (SocketAddrV4, SocketAddrV4)) {
    // Only of clients that were seen booting: not every connection on the wire is of interest.
    let mac = watcher.addresses.get(up.0.ip()).copied();
    if !mac.is_some_and(|mac| watcher.logs.contains_key(&mac)) {
        return;
    }
    if watcher.http.len() >= MOST_FLOWS {
        watcher.clipped = true;
        return;
    }
    let flow = watcher.http.entry(up).or_default();
    flow.knocked.get_or_insert(at);
}

fn asked(
    watcher: &mut Watcher,
    at: Timestamp,
    up: (SocketAddrV4, SocketAddrV4),
    target: &str,
    head: bool,
) {
    if let Some(mut old) = watcher.http.remove(&up) {
        // Sent again: the same request is still waiting.
        if let Some(Pending {
            place: Some(place),
            status: None,
            ..
        }) = &old.request
        {
            let place = *place;
            if let Some((fetch, _)) = watcher.fetch(place)
                && fetch.path == target
            {
                fetch.resent += 1;
                watcher.http.insert(up, old);
                return;
            }
        }
        old.knocked = None;
        close(watcher, &old);
    } else if watcher.http.len() >= MOST_FLOWS {
        watcher.clipped = true;
        return;
    }
    let client = watcher.client_at(*up.0.ip());
    let agent = target.starts_with("/agent/v1/");
    let place = if agent {
        let first = watcher
            .log(client)
            .is_some_and(|log| !std::mem::replace(&mut log.agent, true));
        if first {
            watcher.step(client, at, What::Agent);
        }
        None
    } else {
        let fetch = Fetch {
            by: Protocol::Http,
            path: target.to_owned(),
            role: Role::of(target),
            server: Some(*up.1.ip()),
            bytes: 0,
            took_ms: 0,
            resent: 0,
            block: None,
            fragmented: false,
            end: End::Open,
        };
        match watcher.step(client, at, What::Fetched(fetch)) {
            Some(place) => Some(place),
            None => return,
        }
    };
    let request = Pending {
        place,
        registers: target == "/agent/v1/register",
        head,
        status: None,
        length: None,
        body: 0,
        furthest: 0,
    };
    let flow = Flow {
        knocked: None,
        request: Some(request),
    };
    watcher.http.insert(up, flow);
}

/// Status and `Content-Length` of an answer that begins here, and where its body begins.
fn answer(payload: &[u8]) -> Option<(u16, Option<u64>, usize)> {
    let rest = payload.strip_prefix(b"HTTP/1.")?;
    let status: u16 = std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok()?;
    let end = payload.windows(4).position(|w| w == b"\r\n\r\n");
    let head = payload.get(..end.unwrap_or(payload.len()))?;
    let length = head
        .split(|&b| b == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        });
    Some((status, length, end.map_or(payload.len(), |end| end + 4)))
}

fn from_server(
    watcher: &mut Watcher,
    at: Timestamp,
    key: (SocketAddrV4, SocketAddrV4),
    segment: &Segment<'_>,
) {
    let Some(mut flow) = watcher.http.remove(&key) else {
        return;
    };
    flow.knocked = None;
    let Some(pending) = &mut flow.request else {
        if segment.flags & RST != 0 {
            let client = watcher.client_at(*key.0.ip());
            let said = format!(
                "{} refuses connections to its port {}",
                key.1.ip(),
                key.1.port()
            );
            watcher.step(client, at, blocked(key.1, said));
            return;
        }
        watcher.http.insert(key, flow);
        return;
    };
    if pending.status.is_none()
        && let Some((status, length, body)) = answer(segment.payload)
    {
        pending.status = Some(status);
        pending.length = length;
        pending.body = segment
            .sequence
            .wrapping_add(u32::try_from(body).unwrap_or(u32::MAX));
    }
    let mut again = false;
    if pending.status.is_some() && segment.length > 0 {
        let end = segment
            .sequence
            .wrapping_add(u32::try_from(segment.length).unwrap_or(u32::MAX));
        // Sequence numbers wrap: what counts is how far this is from the furthest.
        let reached = pending.body.wrapping_add(pending.furthest as u32);
        let ahead = end.wrapping_sub(reached).cast_signed();
        again = ahead <= 0 && pending.furthest > 0;
        pending.furthest += u64::from(ahead.max(0).unsigned_abs());
    }
    let (status, furthest, length) = (pending.status, pending.furthest, pending.length);
    let registers = pending.registers;
    let over = segment.flags & (FIN | RST) != 0;
    let done = match (status, length) {
        (None, _) => false,
        (Some(_), _) if pending.head => true,
        (Some(_), Some(length)) => furthest >= length,
        (Some(_), None) => segment.flags & FIN != 0,
    };
    if let Some(place) = pending.place
        && let Some((fetch, began)) = watcher.fetch(place)
    {
        fetch.took_ms = millis(began, at);
        fetch.bytes = length.map_or(furthest, |length| furthest.min(length));
        fetch.resent += u32::from(again);
        match status {
            Some(404 | 410) => {
                fetch.end = End::Missing(format!("status {}", status.unwrap_or(404)))
            }
            Some(status @ 400..) => fetch.end = End::Refused(format!("status {status}")),
            Some(_) if done => fetch.end = End::Whole,
            _ if over => fetch.end = End::Refused("the server ended the connection".into()),
            _ => {}
        }
    } else if registers && status.is_some_and(|status| status < 300) {
        let client = watcher.client_at(*key.0.ip());
        watcher.step(client, at, What::Registered);
        flow.request = None;
    }
    if done {
        flow.request = None;
    }
    if !over {
        watcher.http.insert(key, flow);
    }
}

fn hung_up(watcher: &mut Watcher, at: Timestamp, key: (SocketAddrV4, SocketAddrV4), reset: bool) {
    let Some(flow) = watcher.http.remove(&key) else {
        return;
    };
    if let Some(Pending {
        place: Some(place), ..
    }) = flow.request
        && let Some((fetch, began)) = watcher.fetch(place)
        && fetch.end == End::Open
    {
        fetch.took_ms = millis(began, at);
        let how = if reset { "reset" } else { "closed" };
        fetch.end = End::Aborted(format!("the client {how} the connection"));
    }
}

fn close(watcher: &mut Watcher, flow: &Flow) {
    if let Some(Pending {
        place: Some(place),
        status: None,
        ..
    }) = &flow.request
        && let Some((fetch, _)) = watcher.fetch(*place)
        && fetch.end == End::Open
    {
        fetch.end = End::Unanswered;
    }
}

fn blocked(server: SocketAddrV4, said: String) -> What {
    What::Blocked {
        server: *server.ip(),
        port: server.port(),
        said,
    }
}

pub(super) fn finish(watcher: &mut Watcher) {
    let mut flows: Vec<_> = std::mem::take(&mut watcher.http).into_iter().collect();
    flows.sort_by_key(|(key, _)| *key);
    for ((client, server), flow) in flows {
        if let Some(at) = flow.knocked {
            let client = watcher.client_at(*client.ip());
            let said = format!(
                "{} does not answer connections to its port {}",
                server.ip(),
                server.port()
            );
            watcher.step(client, at, blocked(server, said));
        }
        close(watcher, &flow);
    }
}
