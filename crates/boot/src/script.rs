//! iPXE scripts.

use bugler_model::{Firmware, MacAddr};
use std::fmt::Write;

/// What the script that boots the agent is made of.
#[derive(Clone, Debug)]
pub struct AgentBoot<'a> {
    /// Who it is for, as people call it.
    pub label: &'a str,
    /// The interface that boots.
    pub mac: MacAddr,
    /// Base URL of the device plane, without a slash at its end: `http://10.0.0.1:8480`.
    pub server: &'a str,
    /// The token made for this boot.
    pub token: &'a str,
    /// Version of the boot environment.
    pub bootenv: &'a str,
    /// More kernel arguments, as the operator configured them, such as `console=ttyS0,115200`.
    pub cmdline: &'a str,
}

/// Boots the kernel and initramfs of the boot environment, over HTTP.
///
/// A transfer that fails is tried again for ever with a pause: the machine has nothing better to
/// do, and the server may only be restarting.
#[must_use]
pub fn agent_script(boot: &AgentBoot<'_>) -> String {
    let AgentBoot {
        label,
        mac,
        server,
        token,
        bootenv,
        cmdline,
    } = boot;
    let base = format!("{server}/boot/bootenv/x86_64/{bootenv}");
    let mut script = String::from("#!ipxe\n");
    // Writing to a String cannot fail.
    let _ = write!(
        script,
        "echo Bugler: {label} boots the agent ({bootenv})\n\
         :again\n\
         imgfree\n\
         kernel {base}/vmlinuz initrd=initrd bugler.server={server} bugler.token={token} \
         BOOTIF={bootif} {cmdline} || goto failed\n\
         initrd --name initrd {base}/initrd || goto failed\n\
         boot || goto failed\n\
         :failed\n\
         echo Bugler: could not fetch the boot environment from {server}, trying again in 3 s\n\
         sleep 3\n\
         goto again\n",
        label = echo_safe(label),
        bootif = mac.bootif(),
    );
    script
}

/// Sends the machine to its local disk.
///
/// On UEFI, and for iPXE in ROM, `exit` returns to the firmware, which goes on to its next boot
/// device. A BIOS that has network boot alone in its order would stop there, so on BIOS the first
/// disk is booted with `sanboot` first.
#[must_use]
pub fn local_script(firmware: Firmware, why: &str) -> String {
    let boot = if firmware.is_uefi() {
        "exit 0\n"
    } else {
        "sanboot --no-describe --drive 0x80 || exit 0\n"
    };
    format!(
        "#!ipxe\necho Bugler: booting the local disk: {}\n{boot}",
        echo_safe(why)
    )
}

/// Text that iPXE's `echo` shows as it is: no settings (`${...}`), no line ends, no shell words.
fn echo_safe(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || " .,:-_()".contains(c) {
                c
            } else {
                '.'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(label: &str) -> String {
        agent_script(&AgentBoot {
            label,
            mac: MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
            server: "http://10.0.0.1:8480",
            token: "abc",
            bootenv: "6.1.0-37-amd64+1a2b3c4d",
            cmdline: "console=ttyS0,115200",
        })
    }

    #[test]
    fn the_agent_script_names_server_token_and_interface() {
        let script = boot("d1");
        assert!(script.starts_with("#!ipxe\n"));
        assert!(script.contains(
            "kernel http://10.0.0.1:8480/boot/bootenv/x86_64/6.1.0-37-amd64+1a2b3c4d/vmlinuz \
             initrd=initrd bugler.server=http://10.0.0.1:8480 bugler.token=abc \
             BOOTIF=01-52-54-00-12-34-56 console=ttyS0,115200 || goto failed\n"
        ));
    }

    #[test]
    fn a_name_cannot_add_commands() {
        let script = boot("x\nshell ${net0/ip} && reboot");
        assert!(!script.contains("\nshell"));
        assert!(!script.contains("${") && !script.contains("&&"));
    }

    #[test]
    fn a_local_boot_differs_by_firmware() {
        assert!(local_script(Firmware::IpxeUefi, "off").ends_with("\nexit 0\n"));
        assert!(
            local_script(Firmware::IpxeBios, "off").contains("sanboot --no-describe --drive 0x80")
        );
    }
}
