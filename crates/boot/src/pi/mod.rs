//! Raspberry Pi: who asks, what it is answered, which files it wants, and its boot EEPROM.
//!
//! ```text
//! DISCOVER --> Identity (model, serial number) --> menu(), reply_options()
//!                        |
//! TFTP path --> Request (prefix, kind of file) --> candidates() --> bytes of the chosen source
//!                        |                    \--> config_txt(), cmdline_txt(), rendered
//!                        \--> missing_is_normal(), is_early_terminate(): what is no failure
//!
//! eeprom: the boot loader's own configuration, the image that holds it, and its self-update
//! ```
//!
//! The boot ROMs speak PXE's options and TFTP, but not PXE: there is no boot file name, no port 4011,
//! and the client itself knows the names of its files. Everything here is a pure function.

mod dhcp;
pub mod eeprom;
mod identity;
mod render;
mod request;
mod revision;
mod source;

pub use dhcp::{MENU, REPLY_DELAY, menu, reply_options};
pub use identity::{Evidence, Family, Identity, OUIS};
pub use render::{
    AgentCmdline, BootFiles, MAX_CMDLINE, MAX_LINE, RenderError, cmdline_txt, config_txt,
    merged_cmdline,
};
pub use request::{File, Prefix, Request, is_early_terminate};
pub use revision::Revision;
pub use source::{Layout, candidates, largest_file, size_warning};

/// Functions over any bytes, for fuzzing.
pub fn fuzz(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first_chunk::<6>() else {
        return;
    };
    let mac = bugler_model::MacAddr(*head);
    if let Some(identity) = Identity::of(mac, Some(rest)) {
        let _ = (identity.prefixes(), identity.describe());
    }
    let text = String::from_utf8_lossy(bytes);
    if let Some(request) = Request::parse(&text) {
        let layout = Layout::Debian {
            kernel: "6.1.0-37-arm64".into(),
        };
        for layout in [Layout::Folder, layout] {
            for name in candidates(&request, &layout) {
                let leaves = name.split('/').any(|part| part.is_empty() || part == "..");
                assert!(!leaves, "{name:?}");
            }
        }
    }
    let files = BootFiles::new("kernel8.img");
    if let Ok(config) = config_txt(&files, Some(&text)) {
        assert!(config.ends_with('\n'));
    }
}
