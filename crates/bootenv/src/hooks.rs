//! What makes the initramfs of a distribution attach a root over the network, without a change to it.

use crate::cpio::Tree;
use crate::error::{Error, Result};
use crate::initramfs;
use std::path::Path;

/// The boot script; the agent lies beside it.
const SCRIPT: &str = include_str!("../hooks/initramfs-tools/scripts/bugler");

/// An archive to be put behind an initramfs that initramfs-tools has made (Debian, Ubuntu, Raspberry Pi
/// OS), which then knows `boot=bugler`: the boot script and the agent. The initramfs has to have drivers
/// for the network card and the block device, as one with `MODULES=most` has, which is Debian's own
/// choice.
///
/// Zero bytes up to a multiple of four have to stand before it: [`append`] does that.
///
/// # Errors
/// When the agent cannot be read or is no static program.
pub fn hook_archive(agent: &Path) -> Result<Vec<u8>> {
    let binary = initramfs::read_binary(agent, "the agent")?;
    let mut tree = Tree::default();
    // Nothing outside of this folder: `/sbin` of an initramfs may be a link, which a folder of the same
    // name would take the place of.
    tree.file("scripts/bugler", 0o644, SCRIPT);
    tree.file("scripts/bugler-agent", 0o755, binary.content);
    initramfs::archive(&tree).map_err(Error::io("make an archive of", agent))
}

/// Puts an archive behind an initramfs, so that the kernel unpacks both
/// (`Documentation/driver-api/early-userspace/buffer-format.rst`).
pub fn append(initramfs: &mut Vec<u8>, archive: &[u8]) {
    initramfs.resize(initramfs.len().next_multiple_of(4), 0);
    initramfs.extend_from_slice(archive);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_begins_at_a_multiple_of_four() {
        let mut initramfs = b"12345".to_vec();
        append(&mut initramfs, b"070701");
        assert_eq!(initramfs, b"12345\x00\x00\x00070701");
        append(&mut initramfs, b"");
        assert_eq!(initramfs.len() % 4, 0);
    }

    #[test]
    fn the_agent_has_to_be_a_static_program() {
        let error = hook_archive(Path::new("/etc/passwd")).unwrap_err();
        assert!(error.to_string().contains("not an ELF program"), "{error}");
    }

    #[test]
    fn the_hooks_are_scripts_that_a_shell_reads() {
        let hooks = concat!(env!("CARGO_MANIFEST_DIR"), "/hooks");
        let scripts = [
            "initramfs-tools/hooks/bugler",
            "initramfs-tools/scripts/bugler",
            "dracut/95bugler/module-setup.sh",
            "dracut/95bugler/parse-bugler.sh",
            "dracut/95bugler/attach-bugler.sh",
            "dracut/95bugler/mount-bugler.sh",
        ];
        for script in scripts {
            let path = format!("{hooks}/{script}");
            let read = std::process::Command::new("sh")
                .args(["-n", &path])
                .status();
            assert!(read.unwrap().success(), "{script}");
        }
    }
}
