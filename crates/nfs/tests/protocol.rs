//! Clients over loopback.

mod common;

use bugler_nfs::packet::{Call, How, Place, Special};
use bugler_nfs::rpc;
use bugler_nfs::xdr::{Reader, Writer};
use bugler_nfs::{Credential, Kind, SetAttributes, Stability, Status};
use common::base;
use common::client::Client;
use common::server::{Devices, from_any_port, start};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

struct Served {
    _folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
    devices: Arc<Devices>,
}

fn served(change: impl FnOnce(&mut Devices)) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    base::fill(&tree);
    let mut devices = Devices::new(base::folder_tree(&tree), &folder.path().join("layers"));
    devices.for_all = true;
    change(&mut devices);
    let devices = Arc::new(devices);
    let (runtime, address) = start(devices.clone(), from_any_port());
    Served {
        _folder: folder,
        runtime,
        address,
        devices,
    }
}

fn guarded() -> How {
    How::Guarded(SetAttributes {
        mode: Some(0o644),
        ..SetAttributes::default()
    })
}

#[test]
fn two_devices_share_a_tree_and_do_not_see_each_others_changes() {
    let served = served(|_| {});
    let mut one = Client::connect(served.address).unwrap();
    let mut other = Client::connect(served.address).unwrap();
    let (root, other_root) = (one.mount("/1").unwrap(), other.mount("/2").unwrap());
    assert_eq!(one.mount("/77"), Err(2), "there is no such path");
    let folder = one.lookup(&root, b"a").unwrap();
    let file = one.lookup(&folder, b"b").unwrap();
    assert_eq!(one.read_all(&file).unwrap(), b"content of b");
    one.write(&file, 8, b"ON", Stability::File).unwrap();
    assert_eq!(one.read_all(&file).unwrap(), b"content ONb".replace_at(10));
    let other_folder = other.lookup(&other_root, b"a").unwrap();
    let other_file = other.lookup(&other_folder, b"b").unwrap();
    assert_eq!(other.read_all(&other_file).unwrap(), b"content of b");
    one.remove(&root, b"e").unwrap();
    assert_eq!(one.lookup(&root, b"e"), Err(Status::NoEntry as u32));
    assert!(other.lookup(&other_root, b"e").is_ok());
    // The same file has the same number for both, and for all its names.
    let id = one.attributes(&file).unwrap().id;
    assert_eq!(other.attributes(&other_file).unwrap().id, id);
    let usage = served.devices.export(1).usage();
    assert!(usage.calls > 5 && usage.written == 2 && usage.connections == 1);
    assert!(usage.taken >= 4096);
}

/// The rest of what was there.
trait Rest {
    fn replace_at(&self, at: usize) -> Vec<u8>;
}

impl Rest for [u8; 11] {
    fn replace_at(&self, at: usize) -> Vec<u8> {
        [&self[..at], b" b"].concat()
    }
}

#[test]
fn an_export_is_for_its_device_alone_with_and_without_mount() {
    let served = served(|devices| devices.for_all = false);
    // The test's own address ends in 1.
    let mut client = Client::connect(served.address).unwrap();
    let root = client.mount("/1").unwrap();
    assert_eq!(client.mount("/2"), Err(13), "another's export is refused");
    // Even with the handle of another's file, which it could not have guessed.
    let foreign = served.devices.export(2).root();
    assert_eq!(client.attributes(&foreign), Err(Status::Stale as u32));
    let mut guessed = root.clone();
    guessed[25] ^= 2;
    assert_eq!(client.attributes(&guessed), Err(Status::BadHandle as u32));
    assert_eq!(client.attributes(b"short"), Err(Status::BadHandle as u32));
    assert!(client.attributes(&root).is_ok());
}

#[test]
fn a_call_that_is_sent_again_is_not_done_again() {
    let served = served(|_| {});
    let mut client = Client::connect(served.address).unwrap();
    let root = client.mount("/1").unwrap();
    let place = Place {
        folder: &root,
        name: b"g",
    };
    let message = client.nfs_message(&Call::Remove(place));
    let first = client.ask(&message).unwrap().unwrap();
    let again = client.ask(&message).unwrap().unwrap();
    assert_eq!(first, again);
    assert_eq!(first[..4], [0; 4]);
    // Also by a server that was started anew.
    served
        .devices
        .open
        .lock()
        .unwrap()
        .remove(&1)
        .unwrap()
        .stop();
    assert_eq!(client.ask(&message).unwrap().unwrap(), first);
    assert_eq!(client.remove(&root, b"g"), Err(Status::NoEntry as u32));
}

#[test]
fn exclusive_creation_is_repeated_by_its_maker_alone() {
    let served = served(|_| {});
    let mut client = Client::connect(served.address).unwrap();
    let root = client.mount("/1").unwrap();
    let made = client
        .create(&root, b"lock", How::Exclusive(*b"verifier"))
        .unwrap();
    let again = client.create(&root, b"lock", How::Exclusive(*b"verifier"));
    assert_eq!(again, Ok(made));
    let exists = Err(Status::Exists as u32);
    let other = client.create(&root, b"lock", How::Exclusive(*b"another1"));
    assert_eq!(other, exists);
    assert_eq!(client.create(&root, b"lock", guarded()), exists);
    assert_eq!(
        client.create(&root, b"e", How::Exclusive(*b"verifier")),
        exists
    );
}

#[test]
fn a_listing_goes_on_while_what_it_has_shown_is_removed() {
    let served = served(|_| {});
    let mut client = Client::connect(served.address).unwrap();
    let root = client.mount("/1").unwrap();
    let folder = client.make_folder(&root, b"many").unwrap();
    for number in 0..500 {
        let name = format!("file {number}");
        client.create(&folder, name.as_bytes(), guarded()).unwrap();
    }
    let (mut cookie, mut seen) = (0, vec![]);
    loop {
        let (entries, end) = client.list(&folder, cookie, 1500).unwrap();
        for entry in &entries {
            if entry.name != b"." && entry.name != b".." {
                client.remove(&folder, &entry.name).unwrap();
                seen.push(entry.name.clone());
            }
        }
        if end {
            break;
        }
        cookie = entries.last().unwrap().cookie;
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 500);
    let (left, end) = client.list(&folder, 0, 4096).unwrap();
    assert!(left.len() == 2 && end, "{left:?}");
    // The same in a folder of the shared tree.
    let (entries, _) = client.list(&root, 0, 400).unwrap();
    let last = entries.last().unwrap();
    client.remove(&root, b"e").unwrap();
    let (more, end) = client.list(&root, last.cookie, 8192).unwrap();
    let names: Vec<_> = entries.iter().chain(&more).map(|it| &it.name[..]).collect();
    let want: [&[u8]; 8] = [b".", b"..", b"a", b"empty", b"f", b"g", b"hole", b"many"];
    assert!(end);
    let names: Vec<_> = names.into_iter().filter(|name| *name != b"e").collect();
    assert_eq!(names, want);
    assert_eq!(
        client.list(&root, 0, 100).unwrap_err(),
        Status::TooSmall as u32
    );
}

#[test]
fn the_limit_of_a_layer_is_kept_and_told() {
    let served = served(|devices| devices.quota = Some(3 << 20));
    let mut client = Client::connect(served.address).unwrap();
    let root = client.mount("/1").unwrap();
    let file = client.create(&root, b"large", guarded()).unwrap();
    let block = vec![1; 1 << 18];
    let mut at = 0;
    let refused = loop {
        match client.write(&file, at, &block, Stability::Unstable) {
            Ok(_) => at += block.len() as u64,
            Err(status) => break status,
        }
        assert!(at < 4 << 20);
    };
    assert_eq!(refused, Status::Quota as u32);
    assert!(at >= 2 << 20, "{at} bytes went in");
    // What is there can be written over, removed, and its room used again.
    client.write(&file, 0, &block, Stability::File).unwrap();
    client.remove(&root, b"large").unwrap();
    let file = client.create(&root, b"other", guarded()).unwrap();
    client.write(&file, 0, &block, Stability::File).unwrap();
    let answer = client.insist(&Call::Space { root: &root }).unwrap();
    let mut reader = Reader::new(&answer[88..]);
    assert_eq!(reader.u64("total").unwrap(), 3 << 20);
    let free = reader.u64("free").unwrap();
    assert!(free > 2 << 20 && free < 3 << 20, "{free}");
}

#[test]
fn users_of_a_device_have_the_rights_that_modes_give_them() {
    let served = served(|_| {});
    let mut client = Client::connect(served.address).unwrap();
    let root = client.mount("/1").unwrap();
    let shared = client.make_folder(&root, b"tmp").unwrap();
    let set = |mode| SetAttributes {
        mode: Some(mode),
        ..SetAttributes::default()
    };
    let change = |client: &mut Client, file: &[u8], set| {
        let guard = None;
        client
            .insist(&Call::SetAttributes { file, set, guard })
            .map(drop)
    };
    change(&mut client, &shared, set(0o1777)).unwrap();
    let secret = client.lookup(&root, b"e").unwrap();
    let user = |number| Credential {
        user: number,
        group: number,
        groups: vec![50],
    };
    client.who = user(1000);
    let (denied, not_owner) = (Err(Status::Access as u32), Err(Status::NotOwner as u32));
    assert_eq!(client.read(&secret, 0, 10).map(drop), denied);
    assert_eq!(client.create(&root, b"x", guarded()).map(drop), denied);
    assert_eq!(change(&mut client, &secret, set(0o777)), not_owner);
    let mine = client.create(&shared, b"mine", guarded()).unwrap();
    let found = client.attributes(&mine).unwrap();
    assert_eq!((found.user, found.group), (1000, 1000));
    let give = SetAttributes {
        user: Some(1001),
        ..SetAttributes::default()
    };
    assert_eq!(change(&mut client, &mine, give), not_owner);
    let group = SetAttributes {
        group: Some(50),
        ..SetAttributes::default()
    };
    assert_eq!(change(&mut client, &mine, group), Ok(()));
    assert_eq!(change(&mut client, &mine, set(0o4755)), Ok(()));
    let device = Call::MakeNode(
        Place {
            folder: &shared,
            name: b"sda",
        },
        Special::Device(Kind::BlockDevice, 8, 0),
        set(0o666),
    );
    assert_eq!(client.insist(&device).map(drop), not_owner);
    client.who = user(1001);
    assert_eq!(client.remove(&shared, b"mine"), not_owner, "sticky");
    assert_eq!(
        client.write(&mine, 0, b"x", Stability::File).map(drop),
        denied
    );
    client.who = Credential::root();
    client.insist(&device).unwrap();
    let device = client.lookup(&shared, b"sda").unwrap();
    let found = client.attributes(&device).unwrap();
    assert_eq!((found.kind, found.device), (Kind::BlockDevice, (8, 0)));
    // A change of owner takes setuid away.
    change(&mut client, &mine, give).unwrap();
    assert_eq!(client.attributes(&mine).unwrap().mode, 0o755);
}

#[test]
fn the_port_mapper_and_unknown_programs_are_answered() {
    let served = served(|_| {});
    let mut client = Client::connect(served.address).unwrap();
    let mut asked = Writer::new();
    asked.u32(rpc::MOUNT).u32(3).u32(6).u32(0);
    let answer = client
        .program(rpc::PORTMAP, 2, 3, &asked.into_bytes())
        .unwrap();
    assert_eq!(answer, u32::from(served.address.port()).to_be_bytes());
    // NFS_ACL, which the Linux client asks for.
    assert_eq!(client.program(100_227, 3, 0, b""), Err(1));
    assert_eq!(client.program(rpc::NFS, 4, 0, b""), Err(2));
    let root = client.mount("/1").unwrap();
    let mut unknown = Writer::new();
    unknown.opaque(&root);
    let unknown = unknown.into_bytes();
    assert_eq!(client.program(rpc::NFS, 3, 22, &unknown), Err(3));
    assert_eq!(client.program(rpc::NFS, 3, 1, &[0, 0, 0, 99]), Err(4));
    assert_eq!(client.program(rpc::NFS, 3, 0, b""), Ok(vec![]));
}

#[test]
fn bad_records_end_a_connection_and_harm_no_other() {
    let served = served(|_| {});
    let mut client = Client::connect(served.address).unwrap();
    let root = client.mount("/1").unwrap();
    let bad: [&[u8]; 4] = [
        // Too long; an empty fragment that is not the last; an answer; half a call.
        &[0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 0],
        &[0x80, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 1],
        &[0x80, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2],
    ];
    for bytes in bad {
        let mut stream = TcpStream::connect(served.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.write_all(bytes).unwrap();
        let mut rest = vec![];
        // Closed, or reset: there is no answer.
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
    // Fragments are put together, even where each is short.
    let message = client.nfs_message(&Call::GetAttributes { file: &root });
    let mut stream = TcpStream::connect(served.address).unwrap();
    for (at, part) in message.chunks(7).enumerate() {
        let last = (at + 1) * 7 >= message.len();
        let mark = u32::from(last) << 31 | part.len() as u32;
        stream.write_all(&mark.to_be_bytes()).unwrap();
        stream.write_all(part).unwrap();
    }
    let mut mark = [0; 4];
    stream.read_exact(&mut mark).unwrap();
    assert_eq!(u32::from_be_bytes(mark), 1 << 31 | (24 + 4 + 84));
}

#[test]
fn clients_that_take_no_answers_do_not_stop_the_others() {
    let served = served(|_| {});
    let mut client = Client::connect(served.address).unwrap();
    let root = client.mount("/1").unwrap();
    let hole = client.lookup(&root, b"hole").unwrap();
    let mut greedy: Vec<Client> = (0..4)
        .map(|_| Client::connect_from([127, 0, 0, 9], served.address).unwrap())
        .collect();
    for greedy in &mut greedy {
        let message = greedy.nfs_message(&Call::Read {
            file: &hole,
            offset: 0,
            count: 1 << 18,
        });
        // More than the server takes of one connection: the rest waits in its own buffers.
        for _ in 0..80 {
            greedy.send(&message).unwrap();
        }
    }
    for _ in 0..20 {
        client.attributes(&root).unwrap();
    }
}

#[test]
fn ports_above_1023_are_refused_where_that_is_asked_for() {
    let served = served(|_| {});
    let (_runtime, address) = start(served.devices.clone(), bugler_nfs::ServeOptions::default());
    let mut stream = TcpStream::connect(address).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "closed");
    // From a port below it works; the tests run as root or with that right, else it is not shown.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let low = (900..1000).find(|port| {
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        socket.bind(&from.into()).is_ok()
    });
    if low.is_some() {
        socket.connect(&address.into()).unwrap();
        let mut stream: TcpStream = socket.into();
        let call = rpc::RpcCall {
            xid: 1,
            program: rpc::NFS,
            version: 3,
            procedure: 0,
            credential: Credential::root(),
            arguments: b"",
        }
        .encode();
        let mark = 1 << 31 | call.len() as u32;
        stream.write_all(&mark.to_be_bytes()).unwrap();
        stream.write_all(&call).unwrap();
        let mut answer = [0; 28];
        stream.read_exact(&mut answer).unwrap();
    }
    drop(served.runtime);
}
