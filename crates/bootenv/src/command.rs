//! Runs the few programs of the distribution that are needed.

use crate::error::{Error, Result};
use std::path::Path;
use std::process::{Command, Stdio};

/// Where administrators' programs are; not in an ordinary user's PATH on Debian.
const ADMIN_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Most characters of a failed program's messages that an error repeats.
const MAX_OUTPUT: usize = 600;

/// A program, the package that it comes with, and what to do when it fails.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) advice: &'static str,
}

/// Runs `program` in the folder `dir` and returns what it wrote to standard output.
pub(crate) fn run(program: Program, args: &[&str], dir: &Path) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program.name)
        .args(args)
        .current_dir(dir)
        .env("PATH", format!("{path}:{ADMIN_PATH}"))
        // The messages are parsed, and errors are to be in the language of this program.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start {
            program: program.name,
            package: program.package,
            source,
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    let skipped = text.chars().count().saturating_sub(MAX_OUTPUT);
    Err(Error::Command {
        command: format!("{} {}", program.name, args.join(" ")),
        status: output.status.to_string(),
        output: text.chars().skip(skipped).collect(),
        advice: program.advice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Program = Program {
        name: "sh",
        package: "dash",
        advice: "Try again.",
    };

    #[test]
    fn what_a_program_says_is_returned_or_reported() {
        assert_eq!(
            run(SHELL, &["-c", "echo $LC_ALL"], Path::new("/")).unwrap(),
            "C\n"
        );
        let error = run(SHELL, &["-c", "echo no space >&2; exit 3"], Path::new("/")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c echo no space >&2; exit 3` failed with exit status: 3: no space. Try again."
        );
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let missing = Program {
            name: "bugler-no-such-program",
            package: "kmod",
            advice: "",
        };
        let error = run(missing, &[], Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("Debian package kmod"), "{error}");
    }
}
