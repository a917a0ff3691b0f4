//! TFTP transfers, block by block (RFC 1350, 2347 to 2349, 7440).

use super::{MOST_FLOWS, Place, Watcher, millis, printable};
use crate::timeline::{End, Fetch, Protocol, Role, What};
use bugler_model::Timestamp;
use bugler_tftp::packet::{DATA_HEADER, DEFAULT_BLKSIZE, ErrorCode, Packet, Request};
use std::collections::HashMap;
use std::net::SocketAddrV4;

/// Where TFTP servers listen.
const PORT: u16 = 69;

/// Transfers by the client's address and port: the server's port changes.
pub(super) type Flows = HashMap<SocketAddrV4, Flow>;

pub(super) struct Flow {
    place: Place,
    block_size: u16,
    /// The highest block that came, as it was numbered.
    block: u16,
    heard: bool,
    /// The last block was a short one: what the client acknowledges then is the end.
    complete: bool,
}

pub(super) fn packet(
    watcher: &mut Watcher,
    at: Timestamp,
    (from, to): (SocketAddrV4, SocketAddrV4),
    payload: &[u8],
    fragmented: bool,
) {
    if to.port() == PORT
        && let Ok(Packet::ReadRequest(request)) = Packet::decode(payload)
    {
        return begin(watcher, at, from, to, &request);
    }
    if let Some(flow) = watcher.tftp.get(&to) {
        // Where the network card is to cut it into datagrams, a capture on the server's host has
        // several blocks in one.
        let one = DATA_HEADER + usize::from(flow.block_size);
        let joined = payload.len() > one && payload.starts_with(&[0, 3]) && !fragmented;
        let pieces = payload.chunks(if joined { one } else { usize::MAX });
        for piece in pieces {
            from_server(watcher, at, to, piece, fragmented);
        }
    } else if watcher.tftp.contains_key(&from) {
        from_client(watcher, at, from, payload);
    }
}

fn begin(
    watcher: &mut Watcher,
    at: Timestamp,
    client: SocketAddrV4,
    server: SocketAddrV4,
    request: &Request<'_>,
) {
    let path = printable(request.filename);
    // The same request again from the same port: it was not heard.
    if let Some(flow) = watcher.tftp.get(&client)
        && !flow.heard
    {
        let place = flow.place;
        if let Some((fetch, began)) = watcher.fetch(place)
            && fetch.path == path
        {
            fetch.resent += 1;
            fetch.took_ms = millis(began, at);
            return;
        }
    }
    if let Some(old) = watcher.tftp.remove(&client) {
        close(watcher, &old);
    }
    if watcher.tftp.len() >= MOST_FLOWS {
        watcher.clipped = true;
        return;
    }
    let mac = watcher.client_at(*client.ip());
    let fetch = Fetch {
        by: Protocol::Tftp,
        role: Role::of(&path),
        path,
        server: Some(*server.ip()),
        bytes: 0,
        took_ms: 0,
        resent: 0,
        block: Some(DEFAULT_BLKSIZE),
        fragmented: false,
        end: End::Open,
    };
    if let Some(place) = watcher.step(mac, at, What::Fetched(fetch)) {
        let flow = Flow {
            place,
            block_size: DEFAULT_BLKSIZE,
            block: 0,
            heard: false,
            complete: false,
        };
        watcher.tftp.insert(client, flow);
    }
}

fn from_server(
    watcher: &mut Watcher,
    at: Timestamp,
    client: SocketAddrV4,
    payload: &[u8],
    fragmented: bool,
) {
    let Ok(packet) = Packet::decode(payload) else {
        return;
    };
    let Some(mut flow) = watcher.tftp.remove(&client) else {
        return;
    };
    flow.heard = true;
    let Some((fetch, began)) = watcher.fetch(flow.place) else {
        return;
    };
    fetch.took_ms = millis(began, at);
    fetch.fragmented |= fragmented;
    match packet {
        Packet::OptionAck(options) => {
            if flow.block == 0
                && let Some(size) = options.blksize
            {
                flow.block_size = size;
                fetch.block = Some(size);
            }
        }
        Packet::Data { block, data } => {
            if block == flow.block.wrapping_add(1) && !flow.complete {
                flow.block = block;
                // Of a fragmented block only the beginning is here.
                let length = if fragmented {
                    usize::from(flow.block_size)
                } else {
                    data.len()
                };
                fetch.bytes += length as u64;
                flow.complete = length < usize::from(flow.block_size);
            } else {
                fetch.resent += 1;
            }
        }
        Packet::Error { code, message } => {
            let said = printable(message);
            fetch.end = match code {
                ErrorCode::FILE_NOT_FOUND => End::Missing(said),
                code => End::Refused(format!("{code}: {said}")),
            };
            return;
        }
        _ => {}
    }
    watcher.tftp.insert(client, flow);
}

fn from_client(watcher: &mut Watcher, at: Timestamp, client: SocketAddrV4, payload: &[u8]) {
    let Ok(packet) = Packet::decode(payload) else {
        return;
    };
    let Some(flow) = watcher.tftp.remove(&client) else {
        return;
    };
    let Some((fetch, began)) = watcher.fetch(flow.place) else {
        return;
    };
    match packet {
        Packet::Ack { block } if flow.complete && block == flow.block => {
            fetch.took_ms = millis(began, at);
            fetch.end = End::Whole;
            return;
        }
        Packet::Error { message, .. } => {
            fetch.took_ms = millis(began, at);
            fetch.end = if flow.complete {
                End::Whole
            } else {
                End::Aborted(printable(message))
            };
            return;
        }
        _ => {}
    }
    watcher.tftp.insert(client, flow);
}

/// A transfer that ended without a word.
fn close(watcher: &mut Watcher, flow: &Flow) {
    let (complete, heard) = (flow.complete, flow.heard);
    if let Some((fetch, _)) = watcher.fetch(flow.place)
        && fetch.end == End::Open
    {
        if complete {
            // Only its last acknowledgement is missing.
            fetch.end = End::Whole;
        } else if !heard {
            fetch.end = End::Unanswered;
        }
    }
}

pub(super) fn finish(watcher: &mut Watcher) {
    for (_, flow) in std::mem::take(&mut watcher.tftp) {
        close(watcher, &flow);
    }
}
