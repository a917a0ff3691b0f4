//! What iPXE would do with a script: enough of its language to follow the scripts of boot servers.
//!
//! Commands are read line by line, without evaluating anything: labels, `echo`, `sleep`, `set`,
//! `imgfree` and whatever else does not name something to boot are passed over, and of `A || B`
//! only A counts, as if it went well.

/// What a script comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// Boot this kernel with these initial ramdisks.
    Boot {
        kernel: String,
        initrds: Vec<String>,
    },
    /// Go on with another script.
    Chain(String),
    /// Go on to the local disk.
    Local,
    /// It does not say what to boot; or not to this reader.
    Unclear,
}

/// Longest script that is looked at, in bytes.
pub(crate) const LONGEST: usize = 64 << 10;

/// Reads a script that was fetched from `base`; names in it may be relative to that.
pub(crate) fn read(text: &str, base: &str) -> Script {
    if !text.starts_with("#!ipxe") {
        return Script::Unclear;
    }
    let mut kernel = None;
    let mut initrds = Vec::new();
    for line in text.lines() {
        let command = line.split("||").next().unwrap_or_default();
        let mut words = command.split_whitespace();
        match words.next() {
            Some("kernel" | "imgselect") => kernel = name(&mut words, base),
            Some("initrd" | "module" | "imgfetch") => initrds.extend(name(&mut words, base)),
            Some("chain" | "imgexec") => {
                return name(&mut words, base).map_or(Script::Unclear, Script::Chain);
            }
            Some("exit" | "sanboot") => return Script::Local,
            Some("boot") => break,
            _ => {}
        }
    }
    match kernel {
        Some(kernel) if kernel.contains("${") => Script::Unclear,
        Some(kernel) => Script::Boot { kernel, initrds },
        None => Script::Unclear,
    }
}

/// The first word that is no option (and no option's value), as a whole name.
fn name<'a>(words: &mut impl Iterator<Item = &'a str>, base: &str) -> Option<String> {
    while let Some(word) = words.next() {
        match word {
            "--name" | "-n" | "--timeout" | "-t" => drop(words.next()),
            option if option.starts_with('-') => {}
            name => return Some(resolve(name, base)),
        }
    }
    None
}

/// A name as it is meant in something that came from `base` (RFC 3986 section 5, of which scripts
/// use little).
pub(crate) fn resolve(name: &str, base: &str) -> String {
    if name.contains("://") {
        return name.to_owned();
    }
    let path_at = base.find("://").map_or(0, |at| {
        let rest = at + 3;
        base.get(rest..)
            .and_then(|rest| rest.find('/'))
            .map_or(base.len(), |slash| rest + slash)
    });
    let (origin, path) = base.split_at(path_at);
    if name.starts_with('/') {
        return format!("{origin}{name}");
    }
    let folder = path
        .rfind('/')
        .map_or("/", |slash| path.get(..=slash).unwrap_or("/"));
    format!("{origin}{folder}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: &str = "http://10.0.0.1:8480/boot/ipxe/52:54:00:00:00:01";

    #[test]
    fn a_script_that_boots_a_kernel() {
        let text = "#!ipxe\necho hello\n:again\nimgfree\n\
                    kernel http://10.0.0.1/vmlinuz a=b initrd=initrd || goto failed\n\
                    initrd --name initrd http://10.0.0.1/initrd || goto failed\n\
                    boot || goto failed\n:failed\nsleep 3\ngoto again\nchain x\n";
        assert_eq!(
            read(text, BASE),
            Script::Boot {
                kernel: "http://10.0.0.1/vmlinuz".into(),
                initrds: vec!["http://10.0.0.1/initrd".into()],
            }
        );
    }

    #[test]
    fn scripts_that_go_elsewhere() {
        assert_eq!(read("#!ipxe\nexit 0\n", BASE), Script::Local);
        assert_eq!(
            read(
                "#!ipxe\nsanboot --no-describe --drive 0x80 || exit 0\n",
                BASE
            ),
            Script::Local
        );
        assert_eq!(
            read("#!ipxe\nchain --timeout 9 other\n", BASE),
            Script::Chain("http://10.0.0.1:8480/boot/ipxe/other".into())
        );
        assert_eq!(read("<html>", BASE), Script::Unclear);
        assert_eq!(
            read("#!ipxe\nkernel ${base}/vmlinuz\nboot\n", BASE),
            Script::Unclear
        );
    }

    #[test]
    fn names_are_resolved_against_where_they_stand() {
        assert_eq!(resolve("/x", BASE), "http://10.0.0.1:8480/x");
        assert_eq!(resolve("y", "http://host"), "http://host/y");
        assert_eq!(resolve("http://a/b", BASE), "http://a/b");
    }

    proptest! {
        #[test]
        fn any_script_is_read(text in "(#!ipxe\n)?[ -~\né]{0,200}", base in "[a-z:/]{0,20}") {
            let _ = read(&text, &base);
        }
    }
}
