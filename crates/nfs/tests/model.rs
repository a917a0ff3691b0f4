//! A layer under any operations, with reopening, against a filesystem in memory.

mod common;

use bugler_nfs::layer::New;
use bugler_nfs::packet::How;
use bugler_nfs::{Credential, Kind, Layer, SetAttributes, Stability, Status, Time, Tree};
use common::base;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A file of the model.
#[derive(Clone, Debug)]
struct Node {
    id: u64,
    kind: Kind,
    mode: u32,
    content: Vec<u8>,
    names: BTreeMap<Vec<u8>, usize>,
    parent: usize,
    links: u32,
}

#[derive(Clone, Debug)]
struct Model {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
enum Op {
    Create(usize, usize, bool),
    Folder(usize, usize),
    Symlink(usize, usize),
    Fifo(usize, usize),
    Link(usize, usize, usize),
    Remove(usize, usize),
    RemoveFolder(usize, usize),
    Rename(usize, usize, usize, usize),
    Write(usize, u64, Vec<u8>, bool),
    Truncate(usize, u64),
    Mode(usize, u32),
    Settle,
    WriteDown,
    Reopen,
}

const NAMES: [&[u8]; 9] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"e",
    b"f",
    b"g",
    b"h",
    b"\xff\xfe not text",
];

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let at = || 0..64_usize;
    let name = || 0..NAMES.len();
    let offset = prop_oneof![0..40_u64, 4000..6000_u64, Just(299_998)];
    let data = prop::collection::vec(any::<u8>(), 0..30);
    let op = prop_oneof![
        4 => (at(), name(), any::<bool>()).prop_map(|(a, b, c)| Op::Create(a, b, c)),
        3 => (at(), name()).prop_map(|(a, b)| Op::Folder(a, b)),
        1 => (at(), name()).prop_map(|(a, b)| Op::Symlink(a, b)),
        1 => (at(), name()).prop_map(|(a, b)| Op::Fifo(a, b)),
        2 => (at(), at(), name()).prop_map(|(a, b, c)| Op::Link(a, b, c)),
        5 => (at(), name()).prop_map(|(a, b)| Op::Remove(a, b)),
        3 => (at(), name()).prop_map(|(a, b)| Op::RemoveFolder(a, b)),
        7 => (at(), name(), at(), name()).prop_map(|(a, b, c, d)| Op::Rename(a, b, c, d)),
        6 => (at(), offset, data, any::<bool>()).prop_map(|(a, b, c, d)| Op::Write(a, b, c, d)),
        3 => (at(), prop_oneof![0..60_u64, 4000..9000_u64]).prop_map(|(a, b)| Op::Truncate(a, b)),
        2 => (at(), 0..0o1000_u32).prop_map(|(a, b)| Op::Mode(a, b)),
        2 => Just(Op::Settle),
        1 => Just(Op::WriteDown),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..60)
}

impl Model {
    /// What a layer shows, taken as right.
    fn of(layer: &mut Layer) -> Self {
        let mut model = Self { nodes: vec![] };
        let mut known = BTreeMap::new();
        model.read(layer, layer.root(), 0, &mut known);
        model
    }

    fn read(
        &mut self,
        layer: &mut Layer,
        id: u64,
        parent: usize,
        known: &mut BTreeMap<u64, usize>,
    ) -> usize {
        if let Some(at) = known.get(&id) {
            return *at;
        }
        let at = self.nodes.len();
        known.insert(id, at);
        let found = layer.attributes(id).unwrap();
        self.nodes.push(Node {
            id,
            kind: found.kind,
            mode: found.mode,
            content: content(layer, id, found.kind),
            names: BTreeMap::new(),
            parent,
            links: found.links,
        });
        if found.kind == Kind::Folder {
            for (name, child) in listing(layer, id) {
                let child = self.read(layer, child, at, known);
                self.nodes[at].names.insert(name, child);
            }
        }
        at
    }

    fn live(&self, want: impl Fn(&Node) -> bool) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|at| self.nodes[*at].links > 0 && want(&self.nodes[*at]))
            .collect()
    }

    fn folder(&self, at: usize) -> usize {
        let folders = self.live(|node| node.kind == Kind::Folder);
        folders[at % folders.len()]
    }

    fn any(&self, at: usize) -> usize {
        let all = self.live(|_| true);
        all[at % all.len()]
    }

    fn named(&self, folder: usize, name: &[u8]) -> Result<usize, Status> {
        let found = self.nodes[folder].names.get(name).copied();
        found.ok_or(Status::NoEntry)
    }

    fn add(&mut self, folder: usize, name: &[u8], kind: Kind, content: &[u8], id: u64) {
        let at = self.nodes.len();
        self.nodes.push(Node {
            id,
            kind,
            mode: 0o640,
            content: content.to_vec(),
            names: BTreeMap::new(),
            parent: folder,
            links: if kind == Kind::Folder { 2 } else { 1 },
        });
        self.nodes[folder].names.insert(name.to_vec(), at);
        if kind == Kind::Folder {
            self.nodes[folder].links += 1;
        }
    }

    fn lose(&mut self, at: usize) {
        match self.nodes[at].kind {
            Kind::Folder => self.nodes[at].links = 0,
            _ => self.nodes[at].links -= 1,
        }
    }

    fn remove(&mut self, folder: usize, name: &[u8]) -> Result<(), Status> {
        let at = self.named(folder, name)?;
        if self.nodes[at].kind == Kind::Folder {
            return Err(Status::IsFolder);
        }
        self.nodes[folder].names.remove(name);
        self.lose(at);
        Ok(())
    }

    fn remove_folder(&mut self, folder: usize, name: &[u8]) -> Result<(), Status> {
        let at = self.named(folder, name)?;
        match &self.nodes[at] {
            node if node.kind != Kind::Folder => return Err(Status::NotFolder),
            node if !node.names.is_empty() => return Err(Status::NotEmpty),
            _ => {}
        }
        self.nodes[folder].names.remove(name);
        self.nodes[folder].links -= 1;
        self.lose(at);
        Ok(())
    }

    fn rename(&mut self, from: (usize, &[u8]), to: (usize, &[u8])) -> Result<(), Status> {
        let at = self.named(from.0, from.1)?;
        let is_folder = self.nodes[at].kind == Kind::Folder;
        let mut above = to.0;
        loop {
            if above == at && is_folder && from.0 != to.0 {
                return Err(Status::Invalid);
            }
            if above == 0 {
                break;
            }
            above = self.nodes[above].parent;
        }
        match self.named(to.0, to.1) {
            Ok(same) if same == at => return Ok(()),
            Ok(other) => match (is_folder, self.nodes[other].kind == Kind::Folder) {
                (true, false) => return Err(Status::NotFolder),
                (false, true) => return Err(Status::IsFolder),
                (true, true) => {
                    if !self.nodes[other].names.is_empty() {
                        return Err(Status::NotEmpty);
                    }
                    self.nodes[to.0].links -= 1;
                    self.lose(other);
                }
                (false, false) => self.lose(other),
            },
            Err(_) => {}
        }
        self.nodes[from.0].names.remove(from.1);
        self.nodes[to.0].names.insert(to.1.to_vec(), at);
        if is_folder {
            self.nodes[from.0].links -= 1;
            self.nodes[to.0].links += 1;
            self.nodes[at].parent = to.0;
        }
        Ok(())
    }

    fn compare(&self, layer: &mut Layer) -> Result<(), TestCaseError> {
        for (at, node) in self.nodes.iter().enumerate() {
            let found = layer.attributes(node.id);
            if node.links == 0 {
                prop_assert_eq!(found, Err(Status::Stale), "file {:x} is gone", node.id);
                continue;
            }
            let found = found.unwrap();
            let have = (found.kind, found.mode, found.links);
            prop_assert_eq!(
                have,
                (node.kind, node.mode, node.links),
                "file {:x}",
                node.id
            );
            if node.kind == Kind::File {
                prop_assert_eq!(found.size, node.content.len() as u64);
            }
            let content = content(layer, node.id, node.kind);
            prop_assert!(content == node.content, "content of {:x}", node.id);
            if node.kind == Kind::Folder {
                let names = node.names.iter();
                let want: Vec<_> = names
                    .map(|(name, child)| (name.clone(), self.nodes[*child].id))
                    .collect();
                let mut have = listing(layer, node.id);
                have.sort();
                prop_assert_eq!(have, want, "folder {:x}", node.id);
                let above = layer.lookup(&root(), node.id, b"..").unwrap();
                prop_assert_eq!(above, self.nodes[node.parent].id, "above {}", at);
            }
        }
        Ok(())
    }
}

fn root() -> Credential {
    Credential::root()
}

fn content(layer: &mut Layer, id: u64, kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Symlink => layer.read_link(id).unwrap(),
        Kind::File => {
            let mut all = vec![];
            loop {
                let (bytes, end) = layer.read(&root(), id, all.len() as u64, 100_000).unwrap();
                all.extend(bytes);
                if end {
                    return all;
                }
            }
        }
        _ => vec![],
    }
}

/// In pieces of 3, as cookies are what can go wrong.
fn listing(layer: &Layer, id: u64) -> Vec<(Vec<u8>, u64)> {
    let (mut all, mut cookie) = (vec![], 2);
    loop {
        let mut left = 3;
        let mut stopped = false;
        layer
            .list(&root(), id, cookie, &mut |found| {
                if left == 0 {
                    stopped = true;
                    return false;
                }
                left -= 1;
                all.push((found.cookie, found.name.to_vec(), found.id));
                true
            })
            .unwrap();
        if !stopped {
            let cookies = all.windows(2).all(|two| two[0].0 < two[1].0);
            assert!(cookies, "cookies rise: {all:?}");
            return all.into_iter().map(|(_, name, id)| (name, id)).collect();
        }
        cookie = all.last().unwrap().0;
    }
}

struct Bench {
    _folder: tempfile::TempDir,
    trees: [Arc<dyn Tree>; 2],
}

fn bench() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        base::fill(&tree);
        let image = folder.path().join("image");
        base::image(&tree, &image);
        Bench {
            trees: [base::folder_tree(&tree), base::image_tree(&image)],
            _folder: folder,
        }
    })
}

fn run(folder: &Path, tree: &Arc<dyn Tree>, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut layer = base::layer(folder, tree.clone());
    let mut model = Model::of(&mut layer);
    let who = root();
    let mut handles: BTreeMap<u64, [u8; 40]> = BTreeMap::new();
    for (step, op) in ops.iter().enumerate() {
        // A clock that stands still now and then.
        let now = Time::from_nanoseconds(1_700_000_000_000_000_000 + (step as i64 / 3));
        let set = SetAttributes {
            mode: Some(0o640),
            ..SetAttributes::default()
        };
        let exists = |model: &Model, folder: usize, name: &[u8]| match model.named(folder, name) {
            Ok(_) => Err(Status::Exists),
            Err(_) => Ok(()),
        };
        match op {
            Op::Create(folder, name, guarded) => {
                let (folder, name) = (model.folder(*folder), NAMES[*name]);
                let how = if *guarded {
                    How::Guarded(set)
                } else {
                    How::Unchecked(set)
                };
                let made = layer.create(&who, model.nodes[folder].id, name, how, now);
                match model.named(folder, name) {
                    Ok(at) if !guarded && model.nodes[at].kind == Kind::File => {
                        prop_assert_eq!(made, Ok(model.nodes[at].id));
                    }
                    Ok(_) => prop_assert_eq!(made, Err(Status::Exists)),
                    Err(_) => model.add(folder, name, Kind::File, b"", made.unwrap()),
                }
            }
            Op::Folder(folder, name) | Op::Symlink(folder, name) | Op::Fifo(folder, name) => {
                let (folder, name) = (model.folder(*folder), NAMES[*name]);
                let (new, kind, content) = match op {
                    Op::Folder(..) => (New::Folder, Kind::Folder, &b""[..]),
                    Op::Symlink(..) => (New::Symlink(b"to"), Kind::Symlink, &b"to"[..]),
                    _ => (New::Special(Kind::Fifo, 0, 0), Kind::Fifo, &b""[..]),
                };
                let made = layer.make(&who, model.nodes[folder].id, name, new, &set, now);
                match exists(&model, folder, name) {
                    Err(status) => prop_assert_eq!(made, Err(status)),
                    Ok(()) => {
                        model.add(folder, name, kind, content, made.unwrap());
                        if kind == Kind::Symlink {
                            model.nodes.last_mut().unwrap().mode = 0o777;
                        }
                    }
                }
            }
            Op::Link(file, folder, name) => {
                let (file, folder) = (model.any(*file), model.folder(*folder));
                let name = NAMES[*name];
                let (id, to) = (model.nodes[file].id, model.nodes[folder].id);
                let linked = layer.link(&who, id, to, name, now);
                let mut want = exists(&model, folder, name);
                if want.is_ok() && model.nodes[file].kind == Kind::Folder {
                    want = Err(Status::IsFolder);
                }
                prop_assert_eq!(linked, want);
                if want.is_ok() {
                    model.nodes[file].links += 1;
                    model.nodes[folder].names.insert(name.to_vec(), file);
                }
            }
            Op::Remove(folder, name) => {
                let (folder, name) = (model.folder(*folder), NAMES[*name]);
                let removed = layer.remove(&who, model.nodes[folder].id, name, now);
                prop_assert_eq!(removed, model.remove(folder, name));
            }
            Op::RemoveFolder(folder, name) => {
                let (folder, name) = (model.folder(*folder), NAMES[*name]);
                let removed = layer.remove_folder(&who, model.nodes[folder].id, name, now);
                prop_assert_eq!(removed, model.remove_folder(folder, name));
            }
            Op::Rename(from, from_name, to, to_name) => {
                let (from, to) = (model.folder(*from), model.folder(*to));
                let (from_name, to_name) = (NAMES[*from_name], NAMES[*to_name]);
                let renamed = layer.rename(
                    &who,
                    (model.nodes[from].id, from_name),
                    (model.nodes[to].id, to_name),
                    now,
                );
                let want = model.rename((from, from_name), (to, to_name));
                prop_assert_eq!(renamed, want);
            }
            Op::Write(file, offset, data, stable) => {
                let at = model.any(*file);
                let node = &mut model.nodes[at];
                let how = if *stable {
                    Stability::File
                } else {
                    Stability::Unstable
                };
                let written = layer.write(&who, node.id, *offset, data, how, now);
                if node.kind != Kind::File {
                    prop_assert_eq!(written, Err(Status::Invalid));
                    continue;
                }
                prop_assert_eq!(written, Ok(()));
                let end = *offset as usize + data.len();
                if !data.is_empty() {
                    node.content.resize(node.content.len().max(end), 0);
                    node.content[*offset as usize..end].copy_from_slice(data);
                }
            }
            Op::Truncate(file, size) => {
                let at = model.any(*file);
                let node = &mut model.nodes[at];
                let set = SetAttributes {
                    size: Some(*size),
                    ..SetAttributes::default()
                };
                let done = layer.set_attributes(&who, node.id, &set, None, now);
                let want = match node.kind {
                    Kind::File => Ok(()),
                    Kind::Folder => Err(Status::IsFolder),
                    _ => Err(Status::Invalid),
                };
                prop_assert_eq!(done, want);
                if want.is_ok() {
                    node.content.resize(*size as usize, 0);
                }
            }
            Op::Mode(file, mode) => {
                let at = model.any(*file);
                let node = &mut model.nodes[at];
                let set = SetAttributes {
                    mode: Some(*mode),
                    ..SetAttributes::default()
                };
                let before = layer.attributes(node.id).unwrap().changed;
                layer
                    .set_attributes(&who, node.id, &set, None, now)
                    .unwrap();
                let after = layer.attributes(node.id).unwrap().changed;
                prop_assert!(after > before, "a change can be told from what was before");
                node.mode = *mode;
            }
            Op::Settle => layer.settle().unwrap(),
            Op::WriteDown => {
                layer.write_down().unwrap();
                prop_assert!(!layer.is_unsettled());
            }
            Op::Reopen => {
                model.compare(&mut layer)?;
                for node in model.nodes.iter().filter(|node| node.links > 0) {
                    handles.insert(node.id, layer.handle(node.id));
                }
                let taken = layer.taken();
                drop(layer);
                layer = base::layer(folder, tree.clone());
                for (id, handle) in &handles {
                    prop_assert_eq!(layer.file_of(handle), Ok(*id));
                }
                prop_assert_eq!(layer.taken(), taken);
            }
        }
    }
    model.compare(&mut layer)?;
    drop(layer);
    let mut layer = base::layer(folder, tree.clone());
    model.compare(&mut layer)
}

proptest! {
    #[test]
    fn a_layer_is_as_a_filesystem_in_memory(ops in ops(), image in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), &bench().trees[usize::from(image)], &ops)?;
    }
}

#[test]
fn both_trees_show_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = bench().trees.clone().map(|tree| {
        let folder = tempfile::tempdir_in(&folder).unwrap();
        let mut layer = base::layer(folder.path(), tree);
        let mut nodes = Model::of(&mut layer).nodes;
        nodes.iter_mut().for_each(|node| node.id = 0);
        nodes
    });
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
    assert_eq!(one.len(), 10);
}
