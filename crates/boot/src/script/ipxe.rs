//! iPXE scripts.

use super::{Linux, Run, Target, plain};
use std::fmt::Write;

pub(super) fn render(target: Target<'_>, run: &Run) -> String {
    let mut script = String::from("#!ipxe\n");
    // Writing to a String cannot fail.
    let _ = match run {
        Run::Linux(linux) => boot(&mut script, target, linux),
        Run::Sanboot { uri } => sanboot(&mut script, target, uri),
        Run::Local { why } => local(&mut script, target, why),
        Run::Menu { .. } => menu(&mut script, target, run),
        Run::Wait { why } => writeln!(
            script,
            "echo Bugler: {}\nsleep 3\nchain {}",
            plain(why),
            own_url(target)
        ),
        Run::Raw(text) if text.starts_with("#!ipxe") => return format!("{}\n", text.trim_end()),
        Run::Raw(text) => writeln!(script, "{}", text.trim_end()),
    };
    script
}

fn own_url(target: Target<'_>) -> String {
    target.url(&format!("{}ipxe/{}", target.folder(), target.mac))
}

/// A transfer that fails is tried again for ever with a pause: the machine has nothing better to do,
/// and the server may only be restarting.
fn boot(script: &mut String, target: Target<'_>, linux: &Linux) -> std::fmt::Result {
    writeln!(
        script,
        "echo Bugler: {} boots {}",
        plain(target.label),
        plain(&linux.kernel)
    )?;
    writeln!(script, ":again\nimgfree")?;
    // A kernel that is started as an EFI program finds its initramfs by these names.
    let names: Vec<String> = match linux.initrd.len() {
        1 => vec!["initrd".into()],
        n => (0..n).map(|n| format!("initrd{n}")).collect(),
    };
    write!(script, "kernel {}", target.url(&linux.kernel))?;
    for name in &names {
        write!(script, " initrd={name}")?;
    }
    writeln!(script, " {} || goto failed", linux.cmdline)?;
    for (name, file) in names.iter().zip(&linux.initrd) {
        writeln!(
            script,
            "initrd --name {name} {} || goto failed",
            target.url(file)
        )?;
    }
    writeln!(
        script,
        "boot || goto failed\n:failed\n\
         echo Bugler: could not fetch what to boot from {}, trying again in 3 s\n\
         sleep 3\ngoto again",
        target.server
    )
}

/// The disk stays attached, so that the system that starts from it finds it in the boot firmware table
/// (aBFT).
fn sanboot(script: &mut String, target: Target<'_>, uri: &str) -> std::fmt::Result {
    writeln!(
        script,
        "echo Bugler: {} boots from {}\n:again\nsanboot --keep {uri} || goto failed\n:failed\n\
         echo Bugler: could not boot from {}, trying again in 3 s\nsleep 3\ngoto again",
        plain(target.label),
        plain(uri),
        plain(uri)
    )
}

/// On UEFI, and for iPXE in ROM, `exit` returns to the firmware, which goes on to its next boot
/// device. A BIOS that has network boot alone in its order would stop there, so on BIOS the first
/// disk is booted with `sanboot` first.
fn local(script: &mut String, target: Target<'_>, why: &str) -> std::fmt::Result {
    writeln!(
        script,
        "echo Bugler: booting the local disk: {}",
        plain(why)
    )?;
    script.push_str(if target.firmware.is_uefi() {
        "exit 0\n"
    } else {
        "sanboot --no-describe --drive 0x80 || exit 0\n"
    });
    Ok(())
}

fn menu(script: &mut String, target: Target<'_>, run: &Run) -> std::fmt::Result {
    let Run::Menu {
        title,
        entries,
        default,
        timeout,
    } = run
    else {
        return Ok(());
    };
    writeln!(script, ":menu\nmenu {}", plain(title))?;
    for (n, entry) in entries.iter().enumerate() {
        writeln!(script, "item e{n} {}", plain(&entry.label))?;
    }
    write!(script, "choose --default e{default} ")?;
    if *timeout > 0 {
        write!(script, "--timeout {} ", timeout.saturating_mul(1000))?;
    }
    writeln!(script, "picked || goto menu\ngoto ${{picked}}")?;
    for (n, entry) in entries.iter().enumerate() {
        let path = format!("profile/{}/ipxe/{}", entry.profile, target.mac);
        writeln!(script, ":e{n}\nchain {} || goto menu", target.url(&path))?;
    }
    Ok(())
}
