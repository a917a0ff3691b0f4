//! A server that is told any bytes, for tests and for libFuzzer.

use crate::export::once;
use crate::handle::ExportId;
use crate::kinds::{Credential, Kind, Status, Time};
use crate::layer::{Layer, LayerOptions};
use crate::mount::{self, MountCall};
use crate::packet::Call;
use crate::rpc::{self, RpcCall};
use crate::tree::{Listing, Node, Tree, TreeFault};
use crate::xdr::Writer;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Calls of one input, at most.
const CALLS: usize = 40;
/// The key of handles and the export, so that an input can hold handles that are taken.
const KEY: [u8; 32] = [7; 32];
const EXPORT: ExportId = ExportId([1; 16]);

/// Answers the calls in a stream of records, as they stand on a connection, over a small tree; then
/// looks at all that is there, closes the layer, opens it again and looks again.
///
/// # Panics
/// Where what is read is not written the same, or the layer contradicts itself.
pub fn fuzz_call(bytes: &[u8]) {
    let mut rest = bytes;
    let mut served: Option<Served> = None;
    for at in 0..CALLS {
        let Some((mark, more)) = rest.split_first_chunk() else {
            break;
        };
        let length = (u32::from_be_bytes(*mark) & 0xffff) as usize;
        let message = more.get(..length).unwrap_or(more);
        rest = more.get(length..).unwrap_or_default();
        let Ok(call) = RpcCall::decode(message) else {
            continue;
        };
        if call.credential != Credential::nobody() {
            let again = call.encode();
            assert_eq!(RpcCall::decode(&again).as_ref(), Ok(&call));
        }
        let _ = MountCall::decode(call.procedure, call.arguments);
        let mut out = Writer::new();
        let _ = mount::port_mapper(call.procedure, call.arguments, 1, &mut out);
        let _ = rpc::decode_reply(message);
        let Ok(Some(nfs)) = Call::decode(call.procedure, call.arguments) else {
            continue;
        };
        let (procedure, arguments) = nfs.encode();
        assert_eq!(procedure, call.procedure);
        assert_eq!(Call::decode(procedure, &arguments), Ok(Some(nfs.clone())));
        // A clock that goes back now and then.
        let now = Time::from_nanoseconds(1_700_000_000_000_000_000 - (at as i64 % 3));
        let served = served.get_or_insert_with(Served::new);
        let answer = once(&mut served.layer, &call.credential, &nfs, message, now);
        assert!(nfs == Call::Null || answer.len() >= 4, "a status at least");
    }
    if let Some(served) = served {
        served.look_twice();
    }
}

/// The calls of a client that uses all there is, as an input of [`fuzz_call`].
#[cfg(test)]
fn input(calls: &[Call<'_>], user: u32) -> Vec<u8> {
    let mut all = vec![];
    for (at, call) in calls.iter().enumerate() {
        let (procedure, arguments) = call.encode();
        let message = RpcCall {
            xid: at as u32,
            program: rpc::NFS,
            version: 3,
            procedure,
            credential: Credential {
                user,
                group: user,
                groups: vec![],
            },
            arguments: &arguments,
        }
        .encode();
        all.extend((1 << 31 | message.len() as u32).to_be_bytes());
        all.extend(message);
    }
    all
}

struct Served {
    folder: PathBuf,
    layer: Layer,
}

impl Served {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bugler-nfs-fuzz-{}-{next}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let layer = open(&folder);
        Self { folder, layer }
    }

    fn look_twice(self) {
        let Self { folder, mut layer } = self;
        let (first, taken) = (look(&mut layer), layer.taken());
        drop(layer);
        let mut layer = open(&folder);
        assert_eq!(look(&mut layer), first, "it is found again");
        assert_eq!(layer.taken(), taken, "and takes as much");
        drop(layer);
        let _ = std::fs::remove_dir_all(&folder);
    }
}

fn open(folder: &std::path::Path) -> Layer {
    let options = LayerOptions {
        export: EXPORT,
        base: "fuzz".into(),
        quota: Some(4 << 20),
        durable: false,
    };
    let layer = Layer::open(folder, Arc::new(Few), &options);
    let mut layer = layer.expect("a layer in the folder for temporary files");
    layer.set_key(KEY);
    layer
}

/// All files with their names and attributes.
fn look(layer: &mut Layer) -> Vec<String> {
    let (mut seen, mut open) = (vec![], vec![layer.root()]);
    let root = Credential::root();
    while let Some(folder) = open.pop() {
        let mut names = vec![];
        let listed = layer.list(&root, folder, 2, &mut |found| {
            names.push((found.name.to_vec(), found.id));
            true
        });
        listed.expect("a folder that is there");
        for (name, id) in names {
            let found = layer.attributes(id).expect("a file that has a name");
            assert_eq!(layer.lookup(&root, folder, &name), Ok(id));
            seen.push(format!("{folder:x} {name:?} {found:?}"));
            match found.kind {
                Kind::Folder => open.push(id),
                Kind::Symlink => drop(layer.read_link(id).expect("a link")),
                Kind::File => {
                    let read = layer.read(&root, id, 0, 1 << 16);
                    let length = read.expect("a file").0.len() as u64;
                    assert_eq!(length, found.size.min(1 << 16));
                }
                _ => assert_eq!(layer.read(&root, id, 0, 1), Err(Status::Invalid)),
            }
        }
    }
    seen
}

/// A tree: `a` is a file of 5000 bytes with a second name `b/c`, `b` a folder, `l` a symbolic link.
struct Few;

impl Tree for Few {
    fn root(&self) -> u64 {
        1
    }

    fn node(&self, number: u64) -> Result<Option<Node>, TreeFault> {
        let (kind, links, size) = match number {
            1 => (Kind::Folder, 3, 4096),
            2 => (Kind::File, 2, 5000),
            3 => (Kind::Folder, 2, 4096),
            4 => (Kind::Symlink, 1, 1),
            _ => return Ok(None),
        };
        Ok(Some(Node {
            kind,
            mode: 0o755,
            links,
            user: 0,
            group: 0,
            size,
            device: (0, 0),
            modified: Time::default(),
        }))
    }

    fn list(&self, folder: u64) -> Result<Listing, TreeFault> {
        let name = |name: &[u8], number| (name.into(), number);
        Ok(match folder {
            1 => [name(b"a", 2), name(b"b", 3), name(b"l", 4)].into(),
            _ => [name(b"c", 2)].into(),
        })
    }

    fn parent(&self, _: u64) -> Result<u64, TreeFault> {
        Ok(1)
    }

    fn target(&self, _: u64) -> Result<Vec<u8>, TreeFault> {
        Ok(b"a".to_vec())
    }

    fn read(&self, _: u64, offset: u64, count: usize) -> Result<Vec<u8>, TreeFault> {
        let left = 5000_u64.saturating_sub(offset);
        Ok(vec![b'x'; (count as u64).min(left) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle;
    use crate::kinds::{SetAttributes, SetTime, Stability};
    use crate::packet::{How, Place, Special};
    use proptest::prelude::*;
    use std::path::Path;

    /// The variable with which the kept inputs are written anew.
    const WRITE: &str = "BUGLER_WRITE_CORPUS";

    /// What a client does that uses everything.
    fn inputs() -> Vec<(&'static str, Vec<u8>)> {
        let of = |id| handle::encode(EXPORT, id, &KEY);
        let (root, file, folder, link) = (of(2), of(4), of(6), of(8));
        let new = [3, 5, 7].map(of);
        let at = |folder, name| Place { folder, name };
        let set = SetAttributes {
            mode: Some(0o755),
            user: Some(3),
            group: Some(4),
            size: Some(100),
            accessed: SetTime::Now,
            modified: SetTime::To(Time::from_nanoseconds(1)),
        };
        let none = SetAttributes::default();
        let read = [
            Call::Null,
            Call::GetAttributes { file: &root },
            Call::Lookup(at(&root, b"a")),
            Call::Access {
                file: &folder,
                mask: 63,
            },
            Call::ReadLink { file: &link },
            Call::Read {
                file: &file,
                offset: 4000,
                count: 3000,
            },
            Call::ReadFolder {
                folder: &root,
                cookie: 0,
                count: 300,
            },
            Call::ReadFolderPlus {
                folder: &root,
                cookie: 3,
                names: 500,
                count: 1000,
            },
            Call::Space { root: &root },
            Call::Limits { root: &root },
            Call::PathLimits { file: &root },
            Call::Commit {
                file: &file,
                offset: 0,
                count: 0,
            },
        ];
        let made = [
            Call::Create(at(&root, b"new"), How::Guarded(set)),
            Call::Create(at(&root, b"new"), How::Unchecked(none)),
            Call::Create(at(&folder, b"once"), How::Exclusive([5; 8])),
            Call::Write {
                file: &new[0],
                offset: 50,
                stability: Stability::Unstable,
                data: b"some bytes",
            },
            Call::MakeFolder(at(&root, b"folder"), set),
            Call::Symlink(at(&new[2], b"link"), none, b"../new"),
            Call::MakeNode(
                at(&new[2], b"null"),
                Special::Device(Kind::CharDevice, 1, 3),
                set,
            ),
            Call::MakeNode(at(&new[2], b"pipe"), Special::Plain(Kind::Fifo), none),
            Call::MakeNode(at(&new[2], b"file"), Special::Other(Kind::File), none),
            Call::Link {
                file: &new[0],
                to: at(&new[2], b"second"),
            },
            Call::Rename {
                from: at(&root, b"new"),
                to: at(&folder, b"c"),
            },
        ];
        let changed = [
            Call::Write {
                file: &file,
                offset: 4990,
                stability: Stability::File,
                data: &[9; 30],
            },
            Call::SetAttributes {
                file: &file,
                set,
                guard: None,
            },
            Call::SetAttributes {
                file: &file,
                set: none,
                guard: Some(Time::default()),
            },
            Call::Rename {
                from: at(&root, b"b"),
                to: at(&root, b"moved"),
            },
            Call::Remove(at(&folder, b"c")),
            Call::RemoveFolder(at(&root, b"moved")),
            Call::Remove(at(&root, b"a")),
            Call::Remove(at(&root, b"l")),
            Call::MakeFolder(at(&root, b"b"), none),
        ];
        vec![
            ("read", input(&read, 0)),
            ("made", input(&made, 0)),
            ("changed", input(&changed, 0)),
            ("by-a-user", input(&made, 1000)),
        ]
    }

    #[test]
    fn the_kept_inputs_are_what_a_client_says() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/nfs_call");
        for (name, bytes) in inputs() {
            let path = corpus.join(name);
            if std::env::var_os(WRITE).is_some() {
                std::fs::create_dir_all(&corpus).unwrap();
                std::fs::write(&path, &bytes).unwrap();
            }
            let kept = std::fs::read(&path).unwrap_or_default();
            assert!(kept == bytes, "{name}: set {WRITE}=1 to write it");
            fuzz_call(&bytes);
        }
    }

    #[test]
    fn those_inputs_reach_the_layer() {
        let mut went_well = 0;
        for (_, bytes) in inputs() {
            let mut served = Served::new();
            let mut rest = &bytes[..];
            while let Some((mark, more)) = rest.split_first_chunk() {
                let length = (u32::from_be_bytes(*mark) & 0xffff) as usize;
                let call = RpcCall::decode(&more[..length]).unwrap();
                rest = &more[length..];
                let nfs = Call::decode(call.procedure, call.arguments).unwrap();
                let (nfs, who) = (nfs.unwrap(), &call.credential);
                let answer = once(
                    &mut served.layer,
                    who,
                    &nfs,
                    &more[..length],
                    Time::default(),
                );
                went_well += u32::from(answer.get(..4) == Some(&[0; 4]));
            }
            served.look_twice();
        }
        assert_eq!(went_well, 11 + 10 + 8);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            fuzz_call(&bytes);
        }

        #[test]
        fn changed_calls_are_answered(
            pick in 0..4_usize,
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        ) {
            let (_, mut bytes) = inputs().swap_remove(pick);
            for (place, byte) in edits {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            fuzz_call(&bytes);
        }
    }
}
