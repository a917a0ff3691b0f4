//! Writes the archive that the kernel unpacks as its first root: cpio in the "newc" format, as
//! the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst` defines it.
//!
//! Everything that could differ between two builds is fixed: owner 0, time 0, inode numbers
//! counted from 1, entries sorted by name.

use std::collections::BTreeMap;
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// One thing in the initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Symlink { target: String },
    CharacterDevice { mode: u32, major: u32, minor: u32 },
}

/// The files of an initramfs by their paths, which have no leading slash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// Adds a node, and the folders above it that are not there yet.
    pub(crate) fn add(&mut self, path: &str, node: Node) {
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default();
            self.nodes
                .entry(parent.to_owned())
                .or_insert(Node::Directory { mode: 0o755 });
        }
        self.nodes.insert(path.to_owned(), node);
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.add(
            path,
            Node::File {
                mode,
                content: content.into(),
            },
        );
    }

    /// Writes the archive. The sort order of the paths puts a folder before what is in it.
    ///
    /// # Errors
    ///
    /// When `out` fails, or a file is 4 GiB or larger: the format has no room for its size.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (inode, (path, node)) in (1_u32..).zip(&self.nodes) {
            let (mode, links, device, content) = match node {
                Node::Directory { mode } => (DIRECTORY | mode, 2, (0, 0), &[][..]),
                Node::File { mode, content } => (REGULAR | mode, 1, (0, 0), content.as_slice()),
                Node::Symlink { target } => (SYMLINK | 0o777, 1, (0, 0), target.as_bytes()),
                Node::CharacterDevice { mode, major, minor } => {
                    (CHARACTER_DEVICE | mode, 1, (*major, *minor), &[][..])
                }
            };
            entry(out, path, [inode, mode, links], device, content)?;
        }
        entry(out, TRAILER, [0, 0, 1], (0, 0), &[])
    }
}

/// Writes a header, a name and a content, each padded to four bytes.
fn entry(
    out: &mut impl Write,
    name: &str,
    [inode, mode, links]: [u32; 3],
    (major, minor): (u32, u32),
    content: &[u8],
) -> io::Result<()> {
    let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} is too large"));
    let size = u32::try_from(content.len()).map_err(too_large)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
    // Inode, mode, owner, group, links, time, size, device of the file system (2), device that a
    // node stands for (2), size of the name, checksum (unused by this format).
    let fields = [
        inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
    ];
    let mut header = String::from("070701");
    for field in fields {
        header += &format!("{field:08X}");
    }
    out.write_all(header.as_bytes())?;
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    out.write_all(padding(header.len() + name.len() + 1))?;
    out.write_all(content)?;
    out.write_all(padding(content.len()))
}

/// The zero bytes that fill `length` up to a multiple of four.
fn padding(length: usize) -> &'static [u8] {
    [&[][..], &[0; 3], &[0; 2], &[0; 1]]
        .get(length % 4)
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.file("lib/modules/6.1/a.ko", 0o644, *b"12345");
        tree.file("init", 0o755, *b"#!");
        tree.add(
            "bin/sh",
            Node::Symlink {
                target: "busybox".into(),
            },
        );
        tree.add(
            "dev/console",
            Node::CharacterDevice {
                mode: 0o600,
                major: 5,
                minor: 1,
            },
        );
        tree.add("tmp", Node::Directory { mode: 0o1777 });
        tree
    }

    fn archive(tree: &Tree) -> Vec<u8> {
        let mut bytes = Vec::new();
        tree.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_real_cpio_reads_it() {
        let mut cpio = Command::new("cpio")
            .args(["-itv", "--numeric-uid-gid", "--quiet"])
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this test needs the Debian package cpio");
        cpio.stdin
            .take()
            .unwrap()
            .write_all(&archive(&sample()))
            .unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let listed = String::from_utf8(output.stdout).unwrap();
        let expected = "\
drwxr-xr-x   2 0        0               0 Jan  1  1970 bin
lrwxrwxrwx   1 0        0               7 Jan  1  1970 bin/sh -> busybox
drwxr-xr-x   2 0        0               0 Jan  1  1970 dev
crw-------   1 0        0          5,   1 Jan  1  1970 dev/console
-rwxr-xr-x   1 0        0               2 Jan  1  1970 init
drwxr-xr-x   2 0        0               0 Jan  1  1970 lib
drwxr-xr-x   2 0        0               0 Jan  1  1970 lib/modules
drwxr-xr-x   2 0        0               0 Jan  1  1970 lib/modules/6.1
-rw-r--r--   1 0        0               5 Jan  1  1970 lib/modules/6.1/a.ko
drwxrwxrwt   2 0        0               0 Jan  1  1970 tmp
";
        assert_eq!(listed, expected);
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let mut other = Tree::default();
        for (path, node) in sample().nodes.into_iter().rev() {
            other.add(&path, node);
        }
        assert_eq!(archive(&other), archive(&sample()));
    }

    #[test]
    fn headers_and_contents_are_aligned() {
        let bytes = archive(&sample());
        assert_eq!(bytes.len() % 4, 0);
        let headers: Vec<usize> = (0..bytes.len() - 6)
            .filter(|&at| &bytes[at..at + 6] == b"070701")
            .collect();
        assert_eq!(headers.len(), 11);
        assert!(headers.iter().all(|at| at % 4 == 0));
    }
}
