//! Disks as sparse files, made and aged by the tools that everybody uses.

#![allow(dead_code, reason = "every test takes what it needs")]

use bugler_fsread::{ReadAt, Survey, SurveyOptions, survey};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a tool, which must succeed, and gives what it printed.
pub(crate) fn run(tool: &str, args: &[&str]) -> String {
    let (ok, text) = run_status(tool, args);
    assert!(ok, "{tool} {args:?}:\n{text}");
    text
}

/// Runs a tool: whether it succeeded, and what it printed.
pub(crate) fn run_status(tool: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(tool)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{tool} does not start ({error}): run scripts/setup"));
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        text += &String::from_utf8_lossy(&output.stderr);
    }
    (output.status.success(), text)
}

/// Counts what is read.
struct Counting<'a>(&'a File, Cell<u64>);

impl ReadAt for Counting<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.1.set(self.1.get() + buf.len() as u64);
        ReadAt::read_at(self.0, offset, buf)
    }

    fn size(&self) -> u64 {
        self.0.size()
    }
}

/// Gives a tool its commands as its input.
pub(crate) fn run_with_input(tool: &str, args: &[&str], input: &str) {
    let mut child = Command::new(tool)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{tool} does not start ({error}): run scripts/setup"));
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(input.as_bytes()).unwrap();
    drop(pipe);
    assert!(child.wait().unwrap().success(), "{tool} {args:?}: {input}");
}

/// A file that is a disk.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
    pub(crate) path: String,
}

impl Disk {
    /// Of `size` bytes, all zero.
    pub(crate) fn new(size: u64) -> Self {
        // In memory where that is: the tools flush after every step.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.unwrap();
        let path = folder.path().join("disk").to_str().unwrap().to_owned();
        File::create(&path).unwrap().set_len(size).unwrap();
        Self { folder, path }
    }

    pub(crate) fn file(&self) -> File {
        File::options()
            .read(true)
            .write(true)
            .open(&self.path)
            .unwrap()
    }

    pub(crate) fn size(&self) -> u64 {
        self.file().metadata().unwrap().len()
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.file().write_all_at(bytes, at).unwrap();
    }

    /// Copies another disk into this one.
    pub(crate) fn put(&self, at: u64, other: &Self) {
        let (from, to) = (other.file(), self.file());
        let mut bytes = vec![0; 1 << 20];
        let mut done = 0;
        while done < other.size() {
            let length = (other.size() - done).min(bytes.len() as u64) as usize;
            from.read_exact_at(&mut bytes[..length], done).unwrap();
            if bytes[..length].iter().any(|&byte| byte != 0) {
                to.write_all_at(&bytes[..length], at + done).unwrap();
            }
            done += length as u64;
        }
    }

    /// A copy of some bytes as a disk.
    pub(crate) fn part(&self, at: u64, size: u64) -> Self {
        let part = Self::new(size);
        let mut bytes = vec![0; size as usize];
        self.file().read_exact_at(&mut bytes, at).unwrap();
        part.write(0, &bytes);
        part
    }

    /// The survey of it, with sectors of 512 bytes.
    pub(crate) fn survey(&self) -> Survey {
        survey(&self.file(), 512, &SurveyOptions::default()).unwrap()
    }

    /// How many bytes a survey reads.
    pub(crate) fn bytes_read(&self) -> u64 {
        let file = self.file();
        let counting = Counting(&file, Cell::new(0));
        survey(&counting, 512, &SurveyOptions::default()).unwrap();
        counting.1.get()
    }

    /// A disk full of `fill` on which the used ranges of this one were put back.
    pub(crate) fn restored(&self, fill: u8) -> Self {
        let back = Self::new(self.size());
        let (from, to) = (self.file(), back.file());
        let piece = vec![fill; 1 << 20];
        let mut at = 0;
        while fill != 0 && at < self.size() {
            let length = (self.size() - at).min(piece.len() as u64);
            to.write_all_at(&piece[..length as usize], at).unwrap();
            at += length;
        }
        for range in self.survey().used.as_slice() {
            let mut at = range.start;
            while at < range.end {
                let mut bytes = vec![0; (range.end - at).min(1 << 20) as usize];
                from.read_exact_at(&mut bytes, at).unwrap();
                to.write_all_at(&bytes, at).unwrap();
                at += bytes.len() as u64;
            }
        }
        back
    }

    /// Gives debugfs these commands, to write.
    pub(crate) fn debugfs(&self, commands: &str) -> String {
        let script = self.folder.path().join("commands");
        File::create(&script)
            .unwrap()
            .write_all(commands.as_bytes())
            .unwrap();
        run(
            "debugfs",
            &["-w", "-f", script.to_str().unwrap(), &self.path],
        )
    }

    /// Writes and deletes files, with debugfs: holes are left everywhere.
    pub(crate) fn age_with_debugfs(&self) {
        let mut commands =
            String::from("mkdir /folder\nmkdir /folder/inner\nsymlink /link folder/3\n");
        for number in 0..24_u32 {
            let name = self.folder.path().join(format!("f{number}"));
            std::fs::write(&name, content(number)).unwrap();
            let folder = if number % 3 == 0 { "/folder" } else { "" };
            commands += &format!("write {} {folder}/{number}\n", name.display());
        }
        for number in (0..24).step_by(2) {
            let folder = if number % 3 == 0 { "/folder" } else { "" };
            commands += &format!("rm {folder}/{number}\n");
        }
        for number in 24..30_u32 {
            let name = self.folder.path().join(format!("f{number}"));
            std::fs::write(&name, content(number)).unwrap();
            commands += &format!("write {} /folder/inner/{number}\n", name.display());
        }
        self.debugfs(&commands);
        // It does not keep every counter of quotas.
        run_status("e2fsck", &["-f", "-y", &self.path]);
    }

    /// Mounts it in a mount namespace of its own, where nobody else can hold on to it, runs a shell
    /// script in it, and does something before it is unmounted; `false` where it cannot be mounted.
    pub(crate) fn while_mounted(&self, script: &str, work: impl FnOnce()) -> bool {
        const WRAPPED: &str = r#"mount -o loop "$0" "$1" || exit 42
            cd "$1"; eval "$3"; cd /; echo ready; read line; umount "$1""#;
        let folder = self.folder.path().join("mounted");
        std::fs::create_dir_all(&folder).unwrap();
        let mut shell = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", WRAPPED])
            .args([&self.path, folder.to_str().unwrap()])
            .args([self.folder.path().to_str().unwrap(), script])
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = io::BufReader::new(shell.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let mounted = line == "ready\n";
        if mounted {
            work();
        }
        drop(shell.stdin.take());
        let status = shell.wait().unwrap();
        assert_eq!(status.success(), mounted, "{status}");
        mounted
    }

    /// Mounts it, writes and deletes files; `false` where it cannot be mounted. Small filesystems get
    /// full, which ages them as well.
    pub(crate) fn age_by_mounting(&self) -> bool {
        let source = self.folder.path().join("source");
        std::fs::create_dir(&source).unwrap();
        for number in 0..40 {
            std::fs::write(source.join(number.to_string()), content(number)).unwrap();
        }
        const SCRIPT: &str = r#"for round in 0 1 2; do
            mkdir folder$round; cp -r "$2/source/." folder$round/
            (cd folder$round; rm -f $(seq $round 3 39) $(seq 2 5 39))
            for place in 1 2 3 4; do
                truncate -s +70001 folder$round/sparse; printf some >> folder$round/sparse
            done
            ln folder$round/sparse folder$round/again
            ln -s sparse folder$round/link
            sync -f folder$round
        done"#;
        self.while_mounted(SCRIPT, || {})
    }

    /// Every file of an ext filesystem by its path, as debugfs gives them: its kind, its mode and its
    /// content.
    pub(crate) fn files(&self) -> BTreeMap<String, (String, u32, Vec<u8>)> {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().to_str().unwrap();
        run("debugfs", &["-R", &format!("rdump / {path}"), &self.path]);
        let mut files = BTreeMap::new();
        collect(out.path(), out.path(), &mut files);
        assert!(!files.is_empty());
        files
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, (String, u32, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let meta = path.symlink_metadata().unwrap();
        let kind = format!("{:?}", meta.file_type());
        let mode = meta.permissions().mode();
        let content = if meta.is_symlink() {
            std::fs::read_link(&path)
                .unwrap()
                .display()
                .to_string()
                .into_bytes()
        } else if meta.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            collect(root, &path, files);
            Vec::new()
        };
        files.insert(name, (kind, mode, content));
    }
}

/// Bytes of a file that no other has: from nothing to some hundred KiB.
pub(crate) fn content(number: u32) -> Vec<u8> {
    let mut state = u64::from(number) * 2_654_435_761 + 1;
    let length = (state >> 3) as usize
        % if number.is_multiple_of(5) {
            300_000
        } else {
            20_000
        };
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    })
    .take(length)
    .collect()
}
