//! The index of a kernel's modules, and the walk through it.

use crate::{glob, module_name, normalize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// Most bytes that are read of one file. The largest of a distribution's kernel, `modules.alias`,
/// has about 1.5 MB.
pub const MAX_FILE: u64 = 16 << 20;

/// Longest modalias or pattern, in bytes. The kernel's own are under 300.
const MAX_ALIAS: usize = 1024;

/// Most names that all of `modules.softdep` may ask for. Each can cost a look through every
/// alias; a distribution's kernel has under 200.
const MAX_SOFTDEPS: usize = 2048;

/// Why the index of a kernel's modules could not be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not read {}; it is made by `depmod`, which has to run over this folder first",
    path.display()
)]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What came back.
    #[source]
    pub source: io::Error,
}

/// The texts of the index files. One that does not exist is empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Texts<'a> {
    /// `modules.dep`
    pub dep: &'a str,
    /// `modules.alias`
    pub alias: &'a str,
    /// `modules.softdep`
    pub softdep: &'a str,
    /// `modules.builtin`
    pub builtin: &'a str,
}

/// One module that is a file of its own.
#[derive(Clone, Debug, Default)]
struct Module {
    /// Its file, seen from the modules folder.
    path: String,
    /// What it needs, in the order of its line: what is to be loaded first stands last.
    needs: Vec<String>,
}

/// The modules of one kernel: their files, what they need, and which hardware they are for.
#[derive(Clone, Debug, Default)]
pub struct Modules {
    dir: PathBuf,
    modules: BTreeMap<String, Module>,
    /// Pattern and module, in the order of the file.
    aliases: Vec<(String, String)>,
    /// Modules or aliases that a module wants to be loaded before it.
    softdeps: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Reads the index files of `dir`, the folder `/lib/modules/<version>`.
    ///
    /// # Errors
    ///
    /// When `modules.dep` is missing, or one of the files is there and cannot be read. Bytes that
    /// are not UTF-8 and lines that make no sense are no errors.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let dep = read(&dir.join("modules.dep"))?;
        let alias = read_if_there(&dir.join("modules.alias"))?;
        let softdep = read_if_there(&dir.join("modules.softdep"))?;
        let builtin = read_if_there(&dir.join("modules.builtin"))?;
        let texts = Texts {
            dep: &dep,
            alias: &alias,
            softdep: &softdep,
            builtin: &builtin,
        };
        Ok(Self::from_text(dir, &texts))
    }

    /// Reads the texts of index files. `dir` is put before every path that is given out; it is
    /// not looked at.
    #[must_use]
    pub fn from_text(dir: &Path, texts: &Texts<'_>) -> Self {
        Self {
            dir: dir.to_path_buf(),
            modules: parse_dep(texts.dep),
            aliases: parse_alias(texts.alias),
            softdeps: parse_softdep(texts.softdep),
            builtin: texts
                .builtin
                .lines()
                .filter_map(|line| module_name(line.trim()))
                .collect(),
        }
    }

    /// The names of all modules that are files, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// The file of the module `name`; `None` when it is built in or unknown.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.dir.join(&self.modules.get(&normalize(name))?.path))
    }

    /// Whether `name` is part of the kernel image, so that nothing has to be loaded for it.
    #[must_use]
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&normalize(name))
    }

    /// The modules that claim `alias`, in the order of `modules.alias`, each once. The name of a
    /// module stands for that module alone. What is not there as a file is left out.
    #[must_use]
    pub fn resolve_alias(&self, alias: &str) -> Vec<String> {
        if alias.len() > MAX_ALIAS {
            return Vec::new();
        }
        let name = normalize(alias);
        if self.modules.contains_key(&name) {
            return vec![name];
        }
        if self.builtin.contains(&name) {
            return Vec::new();
        }
        let mut found: Vec<String> = Vec::new();
        for (pattern, module) in &self.aliases {
            if self.modules.contains_key(module)
                && !found.contains(module)
                && glob::matches(pattern, alias)
            {
                found.push(module.clone());
            }
        }
        found
    }

    /// The files to load, in this order, to have all modules of `names`: what a module needs
    /// stands before it, and each stands once. Unknown names are left out. Where modules need one
    /// another in a circle, the circle is cut where it was entered.
    #[must_use]
    pub fn order<I>(&self, names: I) -> Vec<PathBuf>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let names = self.closure(names);
        names.iter().filter_map(|name| self.path(name)).collect()
    }

    /// As [`Modules::order`], but gives the names.
    #[must_use]
    pub fn closure<I>(&self, names: I) -> Vec<String>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut ordered = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            self.visit(normalize(name.as_ref()), &mut seen, &mut ordered);
        }
        ordered
    }

    /// Appends `root` to `ordered` after everything that it needs. Depth first on a stack of its
    /// own, so that a long chain in a strange file cannot exhaust the thread's.
    fn visit(&self, root: String, seen: &mut BTreeSet<String>, ordered: &mut Vec<String>) {
        let mut stack = Vec::new();
        if self.modules.contains_key(&root) && seen.insert(root.clone()) {
            let needs = self.needs(&root).into_iter();
            stack.push((root, needs));
        }
        while let Some((_, needs)) = stack.last_mut() {
            match needs.next() {
                Some(next) => {
                    if self.modules.contains_key(&next) && seen.insert(next.clone()) {
                        let needs = self.needs(&next).into_iter();
                        stack.push((next, needs));
                    }
                }
                None => ordered.extend(stack.pop().map(|(name, _)| name)),
            }
        }
    }

    /// What to load before `name`: hard dependencies from the last to the first, then soft ones, as
    /// modprobe does.
    fn needs(&self, name: &str) -> Vec<String> {
        let hard = self
            .modules
            .get(name)
            .into_iter()
            .flat_map(|module| module.needs.iter().rev());
        let soft = self.softdeps.get(name).into_iter().flatten();
        hard.cloned()
            .chain(soft.flat_map(|name| self.resolve_alias(name)))
            .collect()
    }
}

/// Reads lines such as `kernel/a.ko.xz: kernel/b.ko.xz kernel/c.ko.xz`.
fn parse_dep(text: &str) -> BTreeMap<String, Module> {
    let mut modules = BTreeMap::new();
    for line in text.lines() {
        let Some((path, needs)) = line.split_once(':') else {
            continue;
        };
        let path = path.trim();
        let Some(name) = module_name(path).filter(|_| is_inside(path)) else {
            continue;
        };
        let needs = needs
            .split_ascii_whitespace()
            .filter_map(module_name)
            .collect();
        modules.entry(name).or_insert_with(|| Module {
            path: path.to_owned(),
            needs,
        });
    }
    modules
}

/// Whether a path stays below the folder that it is joined to.
fn is_inside(path: &str) -> bool {
    Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
}

/// Reads lines such as `alias virtio:d00000001v* virtio_net`.
fn parse_alias(text: &str) -> Vec<(String, String)> {
    let mut aliases = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some("alias"), Some(pattern), Some(module)) =
            (words.next(), words.next(), words.next())
            && pattern.len() <= MAX_ALIAS
        {
            aliases.push((pattern.to_owned(), normalize(module)));
        }
    }
    aliases
}

/// Reads lines such as `softdep btrfs pre: crc32c xxhash post: foo`; only what stands after
/// `pre:` counts.
fn parse_softdep(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut softdeps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut left = MAX_SOFTDEPS;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("softdep"), Some(module)) = (words.next(), words.next()) else {
            continue;
        };
        let mut before = false;
        for word in words {
            match word {
                "pre:" => before = true,
                "post:" => before = false,
                name if before && left > 0 => {
                    left -= 1;
                    softdeps
                        .entry(normalize(module))
                        .or_default()
                        .push(name.to_owned());
                }
                _ => {}
            }
        }
    }
    softdeps
}

/// Reads at most [`MAX_FILE`] bytes of a file.
fn read(path: &Path) -> Result<String, LoadError> {
    let failed = |source| LoadError {
        path: path.to_path_buf(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(failed)?
        .take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_if_there(path: &Path) -> Result<String, LoadError> {
    match read(path) {
        Err(LoadError { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(String::new())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/net_failover.ko.xz kernel/net/core/failover.ko.xz kernel/drivers/virtio/virtio-ring.ko.xz
kernel/net/core/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/drivers/virtio/virtio-ring.ko.xz:
kernel/lib/libcrc32c.ko.xz:
kernel/arch/x86/crypto/crc32c-intel.ko.xz:
kernel/fs/ext4/ext4.ko.xz: kernel/lib/libcrc32c.ko.xz
../../../etc/evil.ko: kernel/lib/libcrc32c.ko.xz
/etc/evil2.ko:
not a module: x
garbage
";
    const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias virtio:d00000001v* virtio_net
alias virtio:d00000001v*  virtio-net
alias virtio:d0000000* not_there
alias crc32c crc32c-intel
alias
alias half
";
    const SOFTDEP: &str = "softdep ext4 pre: crc32c post: virtio_net\nsoftdep\nsoftdep x\n";

    fn modules() -> Modules {
        let texts = Texts {
            dep: DEP,
            alias: ALIAS,
            softdep: SOFTDEP,
            builtin: "kernel/fs/nls/nls-base.ko\n\n???\n",
        };
        Modules::from_text(Path::new("/m"), &texts)
    }

    #[test]
    fn needed_modules_come_first_and_once() {
        let found = modules().resolve_alias("virtio:d00000001v00001AF4");
        assert_eq!(found, ["virtio_net"]);
        let paths = modules().order(&found);
        let expected = [
            "/m/kernel/drivers/virtio/virtio-ring.ko.xz",
            "/m/kernel/net/core/failover.ko.xz",
            "/m/kernel/net/core/net_failover.ko.xz",
            "/m/kernel/drivers/net/virtio_net.ko.xz",
        ];
        assert_eq!(paths, expected.map(PathBuf::from));
        assert_eq!(
            modules()
                .order(["virtio-net", "failover", "virtio_net"])
                .len(),
            4
        );
    }

    #[test]
    fn soft_dependencies_are_loaded_before_by_alias_too() {
        assert_eq!(
            modules().closure(["ext4"]),
            ["libcrc32c", "crc32c_intel", "ext4"]
        );
    }

    #[test]
    fn builtin_and_unknown_modules_need_no_loading() {
        let modules = modules();
        assert!(modules.is_builtin("nls-base") && modules.is_builtin("nls_base"));
        assert!(modules.resolve_alias("nls_base").is_empty());
        assert!(modules.order(["nls_base", "nonsense"]).is_empty());
        assert!(modules.resolve_alias("pci:v1").is_empty());
    }

    #[test]
    fn paths_out_of_the_folder_are_no_modules() {
        assert!(modules().path("evil").is_none() && modules().path("evil2").is_none());
        assert_eq!(modules().names().count(), 7);
    }

    #[test]
    fn a_circle_is_cut() {
        let dep = "a.ko: b.ko\nb.ko: c.ko\nc.ko: a.ko c.ko\n";
        let modules = Modules::from_text(
            Path::new(""),
            &Texts {
                dep,
                ..Texts::default()
            },
        );
        assert_eq!(modules.closure(["a"]), ["c", "b", "a"]);
        assert_eq!(modules.closure(["b", "c", "a"]), ["a", "c", "b"]);
    }

    #[test]
    fn a_chain_of_any_length_is_walked() {
        let dep: String = (0..50_000)
            .map(|n| format!("m{n}.ko: m{}.ko\n", n + 1))
            .collect();
        let modules = Modules::from_text(
            Path::new(""),
            &Texts {
                dep: &dep,
                ..Texts::default()
            },
        );
        assert_eq!(modules.order(["m0"]).len(), 50_000);
    }

    #[test]
    fn a_folder_without_an_index_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = Modules::load(dir.path()).unwrap_err();
        assert_eq!(error.path, dir.path().join("modules.dep"));
        std::fs::write(dir.path().join("modules.dep"), DEP).unwrap();
        std::fs::write(
            dir.path().join("modules.alias"),
            b"alias \xff\xfe x\nalias v virtio_net",
        )
        .unwrap();
        let modules = Modules::load(dir.path()).unwrap();
        assert_eq!(modules.resolve_alias("v"), ["virtio_net"]);
        assert!(modules.path("virtio_net").unwrap().starts_with(dir.path()));
    }
}
