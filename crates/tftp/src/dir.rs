//! One folder, read-only.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::source::{Content, OpenError, Request, Source};

/// How often a path is resolved anew where the kernel asks for it; each time is over in microseconds.
const OPEN_ATTEMPTS: u32 = 1000;

/// Serves the regular files below one folder.
///
/// The kernel resolves each path with `openat2` and `RESOLVE_BENEATH`: neither `..` nor a symbolic
/// link (an absolute one above all) leads out of the folder, also when links change meanwhile.
#[derive(Debug)]
pub struct DirSource {
    root: OwnedFd,
    path: PathBuf,
}

impl DirSource {
    /// Serves the folder at `path`.
    ///
    /// # Errors
    /// [`Error::Folder`] when it cannot be opened, is no folder, or the kernel (before Linux 5.6) or
    /// its sandbox has no `openat2`.
    pub fn new(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = |hint| {
            move |errno: Errno| Error::Folder {
                path: path.to_owned(),
                hint,
                source: io::Error::from(errno),
            }
        };
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(folder(
            "give a folder that exists and that this program may enter",
        ))?;
        rustix::fs::openat2(&root, ".", flags, Mode::empty(), ResolveFlags::BENEATH).map_err(
            folder("the kernel refuses openat2, which is needed to keep clients inside"),
        )?;
        Ok(Self {
            root,
            path: path.to_owned(),
        })
    }

    fn open_file(&self, path: &str) -> Result<(File, u64), OpenError> {
        // NONBLOCK: a named pipe in the folder must not hang the opener.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut attempts = 0;
        let file = loop {
            attempts += 1;
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // The kernel's answer to a `..` on the way (a link of the tree may have one) when
                // anything on this machine is mounted or renamed at that moment: openat2(2).
                Err(Errno::AGAIN) if attempts < OPEN_ATTEMPTS => std::thread::yield_now(),
                result => break result.map_err(|errno| self.explain(path, errno))?,
            }
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.explain(path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(OpenError::Denied("it is no regular file".into()));
        }
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        // Advice only: a file system that cannot take it reads as well without.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Ok((File::from(file), len))
    }

    fn explain(&self, path: &str, errno: Errno) -> OpenError {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => OpenError::NotFound,
            Errno::XDEV => OpenError::Denied("it lies outside of the folder that is served".into()),
            Errno::LOOP => OpenError::Denied("its symbolic links do not end".into()),
            Errno::ACCESS | Errno::PERM => OpenError::Denied("this program may not read it".into()),
            Errno::ISDIR | Errno::NXIO | Errno::NODEV => {
                OpenError::Denied("it is no regular file".into())
            }
            other => OpenError::Failed(format!(
                "opening {} in {}: {}",
                path.escape_debug(),
                self.path.display(),
                io::Error::from(other)
            )),
        }
    }
}

impl Source for DirSource {
    fn open(&self, request: &Request) -> Result<Content, OpenError> {
        let (file, len) = self.open_file(&request.path)?;
        Ok(Content::File { file, len })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder with a secret beside it, and every way to it that a client might try.
    struct Tree {
        _dir: tempfile::TempDir,
        source: DirSource,
    }

    impl Tree {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            fs::create_dir_all(root.join("sub")).unwrap();
            fs::write(dir.path().join("secret"), "secret").unwrap();
            fs::write(root.join("plain"), "plain").unwrap();
            fs::write(root.join("sub/deep"), "deep").unwrap();
            symlink("plain", root.join("inside")).unwrap();
            symlink("../plain", root.join("sub/up-inside")).unwrap();
            symlink("../secret", root.join("outside")).unwrap();
            symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
            symlink(root.join("plain"), root.join("absolute-inside")).unwrap();
            symlink("..", root.join("parent")).unwrap();
            symlink("/proc/self/fd/0", root.join("magic")).unwrap();
            symlink("loop", root.join("loop")).unwrap();
            rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), Mode::RUSR).unwrap();
            let source = DirSource::new(&root).unwrap();
            Self { _dir: dir, source }
        }

        fn read(&self, path: &str) -> Result<String, OpenError> {
            let (file, len) = self.source.open_file(path)?;
            let text = io::read_to_string(file).unwrap();
            assert_eq!(text.len() as u64, len);
            Ok(text)
        }
    }

    #[test]
    fn files_below_the_folder_are_served() {
        let tree = Tree::new();
        assert_eq!(tree.read("plain").unwrap(), "plain");
        assert_eq!(tree.read("sub/deep").unwrap(), "deep");
        assert_eq!(tree.read("inside").unwrap(), "plain");
        assert_eq!(tree.read("sub/up-inside").unwrap(), "plain");
    }

    #[test]
    fn nothing_outside_of_it_is() {
        let tree = Tree::new();
        for path in [
            "outside",
            "absolute",
            "absolute-inside",
            "parent/secret",
            "../secret",
            "sub/../../secret",
            "/etc/passwd",
            "magic",
            "loop",
        ] {
            let error = tree.read(path).unwrap_err();
            assert!(matches!(error, OpenError::Denied(_)), "{path}: {error:?}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let tree = Tree::new();
        for path in ["pipe", "sub"] {
            assert!(
                matches!(tree.read(path), Err(OpenError::Denied(_))),
                "{path}"
            );
        }
        for path in ["absent", "plain/below", &"x".repeat(300)] {
            assert!(
                matches!(tree.read(path), Err(OpenError::NotFound)),
                "{path}"
            );
        }
    }

    #[test]
    fn a_folder_that_cannot_be_served_says_which_and_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent");
        let error = DirSource::new(&path).unwrap_err();
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        fs::write(&path, "").unwrap();
        assert!(DirSource::new(&path).is_err());
    }
}
