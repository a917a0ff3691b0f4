//! What can go wrong while a boot environment is built.

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no new boot environment. What was there before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be used.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried, for example "read".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// A file is not what it has to be.
    #[error("{} cannot be used as {role}: {problem}", path.display())]
    Unfit {
        /// The file or folder.
        path: PathBuf,
        /// What it was to be, for example "the agent".
        role: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The modules of a kernel have no index.
    #[error(transparent)]
    Index(#[from] bugler_kmod::LoadError),
    /// No kernel was found.
    #[error(
        "there is no kernel to build a boot environment from: {tried}. Give a Debian kernel \
         package, or a vmlinuz and its modules folder"
    )]
    NoKernel {
        /// What was tried and what came back.
        tried: String,
    },
    /// A program that is needed could not be started.
    #[error("could not start {program}; it comes with the Debian package {package}")]
    Start {
        /// The program.
        program: &'static str,
        /// What to install.
        package: &'static str,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// A program that is needed failed.
    #[error("`{command}` failed with {status}: {output}. {advice}")]
    Command {
        /// The program with its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it wrote to standard error.
        output: String,
        /// What to do next.
        advice: &'static str,
    },
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err` on an operation with a path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn unfit(path: &Path, role: &'static str, problem: impl Into<String>) -> Self {
        Self::Unfit {
            path: path.to_path_buf(),
            role,
            problem: problem.into(),
        }
    }
}
