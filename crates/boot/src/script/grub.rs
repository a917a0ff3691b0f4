//! GRUB configurations.
//!
//! Files are named with their device, so that it does not matter by which protocol GRUB itself came.
//! GRUB's shell does not expand what is in single quotes. It knows no `&&` and no `||`. A configuration
//! that is fetched again runs inside the one before, 100 deep at most: behind that the machine reboots,
//! which begins anew.

use super::{Linux, Run, Target, only_ipxe, plain};
use std::fmt::Write;

pub(super) fn render(target: Target<'_>, run: &Run) -> String {
    let mut config = String::new();
    // Writing to a String cannot fail.
    let _ = match run {
        Run::Linux(linux) => boot(&mut config, target, linux),
        Run::Local { why } => local(&mut config, why),
        Run::Menu { .. } => menu(&mut config, target, run),
        Run::Sanboot { uri } => {
            return render(
                target,
                &Run::Wait {
                    why: only_ipxe(uri),
                },
            );
        }
        Run::Wait { why } => writeln!(
            config,
            "echo 'Bugler: {}'\nsleep 3\nconfigfile {}\nreboot",
            plain(why),
            own_file(target)
        ),
        Run::Raw(text) => writeln!(config, "{}", text.trim_end()),
    };
    config
}

fn own_file(target: Target<'_>) -> String {
    file(target, &format!("{}grub.cfg", target.folder()))
}

/// A file as GRUB names it: with the device that has it.
fn file(target: Target<'_>, path: &str) -> String {
    match path.strip_prefix("http://") {
        Some(url) => {
            let (host, path) = url.split_once('/').unwrap_or((url, ""));
            format!("(http,{host})/{path}")
        }
        None => format!("(tftp,{})/{path}", target.tftp_host()),
    }
}

/// Puts a word of the kernel's command line where GRUB's shell takes it as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn boot(config: &mut String, target: Target<'_>, linux: &Linux) -> std::fmt::Result {
    writeln!(
        config,
        "echo 'Bugler: {} boots {}'",
        plain(target.label),
        plain(&linux.kernel)
    )?;
    write!(config, "if linux {}", file(target, &linux.kernel))?;
    for word in linux.cmdline.split_ascii_whitespace() {
        write!(config, " {}", quoted(word))?;
    }
    if linux.initrd.is_empty() {
        writeln!(config, "; then\n  boot\nfi")?;
    } else {
        write!(config, "; then\n  if initrd")?;
        for initrd in &linux.initrd {
            write!(config, " {}", file(target, initrd))?;
        }
        writeln!(config, "; then\n    boot\n  fi\nfi")?;
    }
    writeln!(
        config,
        "echo 'Bugler: could not fetch what to boot, trying again in 3 s'\nsleep 3\nconfigfile {}\n\
         reboot",
        own_file(target)
    )
}

/// Starts the loader that is on a local EFI system partition; where there is none, gives control back
/// to the firmware.
fn local(config: &mut String, why: &str) -> std::fmt::Result {
    writeln!(
        config,
        "echo 'Bugler: booting the local disk: {}'",
        plain(why)
    )?;
    for name in ["BOOTX64.EFI", "BOOTAA64.EFI", "BOOTIA32.EFI"] {
        writeln!(
            config,
            "if search --no-floppy --file --set=disk /EFI/BOOT/{name}; then\n  \
             if chainloader ($disk)/EFI/BOOT/{name}; then\n    boot\n  fi\nfi"
        )?;
    }
    writeln!(config, "exit")
}

fn menu(config: &mut String, target: Target<'_>, run: &Run) -> std::fmt::Result {
    let Run::Menu {
        title,
        entries,
        default,
        timeout,
    } = run
    else {
        return Ok(());
    };
    writeln!(config, "echo '{}'\nset default={default}", plain(title))?;
    match timeout {
        0 => writeln!(config, "set timeout=-1")?,
        seconds => writeln!(config, "set timeout={seconds}")?,
    }
    for entry in entries {
        let path = format!("profile/{}/grub.cfg", entry.profile);
        writeln!(
            config,
            "menuentry '{}' {{\n  configfile {}\n}}",
            plain(&entry.label),
            file(target, &path)
        )?;
    }
    Ok(())
}
