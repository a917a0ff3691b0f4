//! Reads Debian packages, deb(5): an `ar` archive whose member `data.tar.*` has the files.
//!
//! Only what is asked for is unpacked; of a kernel's package that is `boot/`, `lib/modules/` and
//! device trees of Raspberry Pis, also where they lie below `usr/`. Only ordinary files are written,
//! under the names that they have in the package, so nothing in a package can point out of the
//! folder that it is unpacked to.

use crate::error::{Error, Result};
use crate::{decompress, device_tree};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

const ROLE: &str = "a Debian package";

/// Most bytes that packages may unpack to; a distribution's kernel has under 1 GB.
pub(crate) const MAX_UNPACKED: u64 = 4 << 30;

/// Most members of a package's outer archive; deb(5) has three, and more that are ignored.
const MAX_MEMBERS: usize = 16;

/// Longest path in a package.
const MAX_PATH: u64 = 4096;

/// Unpacks the kernel and the modules of a package into the folder `to`, as `boot/...` and
/// `lib/modules/...`. Returns how many bytes that were.
///
/// # Errors
///
/// When the package cannot be read, is not one, is damaged or has more than `limit` bytes; when
/// `to` cannot be written.
pub fn unpack(package: &Path, to: &Path, limit: u64) -> Result<u64> {
    unpack_some(package, to, limit, is_of_a_kernel)
}

/// As [`unpack`], for the files of which `is_wanted` says so. It is told their paths without `./`
/// and `usr/`.
pub(crate) fn unpack_some(
    package: &Path,
    to: &Path,
    limit: u64,
    is_wanted: fn(&str) -> bool,
) -> Result<u64> {
    let file = File::open(package).map_err(Error::io("open the package", package))?;
    let unfit = |error: io::Error| Error::unfit(package, ROLE, error.to_string());
    let data = data_member(BufReader::new(file)).map_err(unfit)?;
    // Folders and skipped files count too: a bomb of them must not run on.
    let mut content = decompress::reader(data).map_err(unfit)?.take(limit);
    let mut archive = tar::Archive::new(&mut content);
    let mut long_name: Option<Vec<u8>> = None;
    let mut total = 0;
    // Raw, because this library reads long names of any length into memory.
    for entry in archive.entries().map_err(unfit)?.raw(true) {
        let mut entry = entry.map_err(unfit)?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            let mut name = Vec::new();
            entry
                .by_ref()
                .take(MAX_PATH)
                .read_to_end(&mut name)
                .map_err(unfit)?;
            name.truncate(
                name.iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(name.len()),
            );
            long_name = Some(name);
            continue;
        }
        let name = long_name
            .take()
            .unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let path = plain(&name).filter(|path| kind.is_file() && is_wanted(path));
        let Some(path) = path else {
            continue;
        };
        let path = to.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        let mut out = File::create(&path).map_err(Error::io("create", &path))?;
        total += copy(&mut entry, &mut out, package, &path)?;
    }
    // To the end, where the checksums of the compressed data are.
    io::copy(&mut content, &mut io::sink()).map_err(unfit)?;
    if content.limit() == 0 {
        return Err(Error::unfit(
            package,
            ROLE,
            format!("it has more than {limit} bytes"),
        ));
    }
    Ok(total)
}

/// Copies, and says which of the two sides it was that failed.
fn copy(from: &mut impl Read, to: &mut impl io::Write, package: &Path, path: &Path) -> Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::unfit(package, ROLE, error.to_string())),
        };
        to.write_all(buffer.get(..length).unwrap_or_default())
            .map_err(Error::io("write", path))?;
        total += u64::try_from(length).unwrap_or(u64::MAX);
    }
}

fn is_of_a_kernel(path: &str) -> bool {
    path.starts_with("boot/") || path.starts_with("lib/modules/") || device_tree::is_wanted(path)
}

/// Where a file of a package goes: its path without `./` and `usr/`, when it leads nowhere else.
fn plain(name: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let name = name.strip_prefix("usr/").unwrap_or(name);
    let parts_are_plain = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    (parts_are_plain && !name.contains('\0')).then_some(name)
}

/// Finds the member `data.tar` of the outer archive: ar(5) in the common format, 60 bytes of
/// header and content padded to two bytes.
fn data_member<R: Read>(mut package: R) -> io::Result<io::Take<R>> {
    let bad = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_owned());
    let mut magic = [0; 8];
    package.read_exact(&mut magic)?;
    if &magic != b"!<arch>\n" {
        return Err(bad("it does not begin as an ar archive does"));
    }
    for _ in 0..MAX_MEMBERS {
        let mut header = [0; 60];
        package
            .read_exact(&mut header)
            .map_err(|_| bad("it has no data.tar, or is cut off"))?;
        let [name @ .., _, _, _, _, _, _, _, _, _, _, b'`', b'\n'] = &header else {
            return Err(bad("the header of a member is damaged"));
        };
        let name = name.get(..16).unwrap_or_default().trim_ascii_end();
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let size = header.get(48..58).unwrap_or_default().trim_ascii();
        let size = std::str::from_utf8(size)
            .ok()
            .and_then(|size| size.parse::<u64>().ok());
        let size = size.ok_or_else(|| bad("the size of a member is not a number"))?;
        if matches!(
            name,
            b"data.tar" | b"data.tar.gz" | b"data.tar.xz" | b"data.tar.zst"
        ) {
            return Ok(package.take(size));
        }
        let skip = size.saturating_add(size % 2);
        let skipped = io::copy(&mut package.by_ref().take(skip), &mut io::sink())?;
        if skipped < skip {
            return Err(bad("it is cut off"));
        }
    }
    Err(bad("it has no data.tar compressed by gzip, xz or zstd"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// A package of files with these names, each holding its own name.
    fn package(names: &[&str]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(name.len() as u64);
            header.set_mode(0o644);
            // Written by hand: the library refuses the names that an attacker would choose.
            if name.len() < 100 {
                header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
                header.set_cksum();
                tar.append(&header, name.as_bytes()).unwrap();
            } else {
                tar.append_data(&mut header, name, name.as_bytes()).unwrap();
            }
        }
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "lib/modules/6.1/build", "/etc")
            .unwrap();
        let data = zstd::encode_all(&tar.into_inner().unwrap()[..], 1).unwrap();
        let mut out = b"!<arch>\n".to_vec();
        for (name, content) in [
            ("debian-binary", &b"2.0\n"[..]),
            ("control.tar", b"abc"),
            ("data.tar.zst", &data),
        ] {
            writeln!(
                out,
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`",
                0,
                0,
                0,
                644,
                content.len()
            )
            .unwrap();
            out.extend(content);
            out.extend(vec![b'\n'; content.len() % 2]);
        }
        out
    }

    fn unpack_bytes(bytes: &[u8], limit: u64) -> (Result<u64>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.deb");
        fs::write(&path, bytes).unwrap();
        (unpack(&path, &dir.path().join("to"), limit), dir)
    }

    #[test]
    fn kernel_files_come_out_and_nothing_else() {
        let long = format!("./usr/lib/modules/6.1/kernel/{}.ko", "x".repeat(150));
        let names = [
            "./boot/vmlinuz-6.1",
            "./usr/lib/modules/6.1/a.ko",
            "./etc/passwd",
            &long,
        ];
        let (total, dir) = unpack_bytes(&package(&names), 1 << 20);
        assert_eq!(
            total.unwrap(),
            (names[0].len() + names[1].len() + long.len()) as u64
        );
        let to = dir.path().join("to");
        assert_eq!(
            fs::read_to_string(to.join("boot/vmlinuz-6.1")).unwrap(),
            names[0]
        );
        assert_eq!(
            fs::read_to_string(to.join("lib/modules/6.1/a.ko")).unwrap(),
            names[1]
        );
        assert_eq!(
            fs::read_to_string(to.join(&long["./usr/".len()..])).unwrap(),
            long
        );
        assert!(!to.join("etc").exists() && !to.join("lib/modules/6.1/build").is_symlink());
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let names = [
            "boot/../../escaped",
            "/boot/../../escaped",
            "lib/modules/./../../../escaped",
        ];
        let (total, dir) = unpack_bytes(&package(&names), 1 << 20);
        assert_eq!(total.unwrap(), 0);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "only the package itself"
        );
    }

    #[test]
    fn what_is_no_package_is_said_so() {
        let good = package(&["boot/vmlinuz-6.1"]);
        for (bytes, problem) in [
            (&b"PK\x03\x04 and more"[..], "ar archive"),
            (&good[..100], "cut off"),
            (
                &good[..good.len() - 40],
                "cannot be used as a Debian package",
            ),
        ] {
            let (result, _dir) = unpack_bytes(bytes, 1 << 20);
            let error = result.unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn too_much_content_is_an_error() {
        // The limits fall inside of an entry and between two.
        for limit in [1000, 1024, 1030] {
            let (result, _dir) = unpack_bytes(&package(&["boot/a", "boot/b"]), limit);
            result.unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn damaged_packages_are_survived(
            at in 0_usize..400, garbage in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = package(&["boot/vmlinuz-6.1", "lib/modules/6.1/a.ko"]);
            for (target, byte) in bytes.iter_mut().skip(at).zip(garbage) {
                *target = byte;
            }
            let (_, dir) = unpack_bytes(&bytes, 1 << 20);
            let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
            prop_assert!(names.into_iter().all(|name| name == "x.deb" || name == "to"));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut archive = b"!<arch>\n".to_vec();
            archive.extend(bytes);
            let _ = data_member(&archive[..]);
        }
    }
}
