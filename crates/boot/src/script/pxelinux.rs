//! PXELINUX configurations, which U-Boot's `pxe` command reads as well.
//!
//! Paths are relative: PXELINUX puts option 210 before them (RFC 5071 section 5), which is the root of
//! the tree over TFTP, or its URL for `lpxelinux.0`.

use super::{Linux, Run, Target, only_ipxe, plain};
use std::fmt::Write;

pub(super) fn render(target: Target<'_>, run: &Run) -> String {
    let mut config = String::new();
    // Writing to a String cannot fail.
    let _ = match run {
        Run::Linux(linux) => linux_entry(&mut config, target, linux),
        Run::Local { why } => writeln!(
            config,
            "SAY Bugler: booting the local disk: {}\nDEFAULT bugler\nPROMPT 0\nLABEL bugler\n  LOCALBOOT 0",
            plain(why)
        ),
        Run::Menu { .. } => menu(&mut config, run),
        Run::Sanboot { uri } => {
            return render(
                target,
                &Run::Wait {
                    why: only_ipxe(uri),
                },
            );
        }
        // Loaded anew, PXELINUX asks again. Only at a prompt does it wait: 30 tenths of a second.
        Run::Wait { why } => writeln!(
            config,
            "SAY Bugler: {}\nDEFAULT bugler\nPROMPT 1\nTIMEOUT 30\nLABEL bugler\n  \
             KERNEL pxelinux.0",
            plain(why)
        ),
        Run::Raw(text) => writeln!(config, "{}", text.trim_end()),
    };
    config
}

fn linux_entry(config: &mut String, target: Target<'_>, linux: &Linux) -> std::fmt::Result {
    writeln!(
        config,
        "SAY Bugler: {} boots {}\nDEFAULT bugler\nPROMPT 0\nLABEL bugler\n  KERNEL {}",
        plain(target.label),
        plain(&linux.kernel),
        linux.kernel
    )?;
    if !linux.initrd.is_empty() {
        writeln!(config, "  INITRD {}", linux.initrd.join(","))?;
    }
    // 1: ip=client:server:gateway:mask; 2: BOOTIF=, which names the interface that booted.
    writeln!(config, "  APPEND {}\n  IPAPPEND 3", linux.cmdline)
}

fn menu(config: &mut String, run: &Run) -> std::fmt::Result {
    let Run::Menu {
        title,
        entries,
        default,
        timeout,
    } = run
    else {
        return Ok(());
    };
    writeln!(config, "UI menu.c32\nPROMPT 0\nMENU TITLE {}", plain(title))?;
    if *timeout > 0 {
        // In tenths of a second; 35996 is the most.
        writeln!(config, "TIMEOUT {}", timeout.saturating_mul(10).min(35_996))?;
    }
    writeln!(config, "DEFAULT e{default}")?;
    for (n, entry) in entries.iter().enumerate() {
        writeln!(
            config,
            "LABEL e{n}\n  MENU LABEL {}\n  CONFIG profile/{}/pxelinux.cfg/default",
            plain(&entry.label),
            entry.profile
        )?;
    }
    Ok(())
}
