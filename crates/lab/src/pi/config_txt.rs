//! `config.txt`, as far as it chooses files.

use super::Board;

/// What a board does by its `config.txt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `arm_64bit`: the 4 and 5 are 64-bit by default.
    pub arm_64bit: bool,
    /// `kernel`
    pub kernel: Option<String>,
    /// `initramfs NAME followkernel`
    pub initramfs: Option<String>,
    /// `device_tree`
    pub device_tree: Option<String>,
    /// `cmdline`
    pub cmdline: String,
    /// `dtoverlay`: names without parameters, in order.
    pub overlays: Vec<String>,
    /// `boot_ramdisk`: everything is in `boot.img`.
    pub boot_ramdisk: bool,
}

impl Config {
    /// Reads the text as `board` does: filters, comments, and of each line 98 bytes.
    #[must_use]
    pub fn read(board: Board, text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut config = Self {
            arm_64bit: !board.has_rom(),
            kernel: None,
            initramfs: None,
            device_tree: None,
            cmdline: "cmdline.txt".into(),
            overlays: vec![],
            boot_ramdisk: false,
        };
        let mut holds = true;
        for line in text.lines() {
            let line: String = line.trim().chars().take(98).collect();
            if let Some(filter) = line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
            {
                holds = board.filters().contains(&filter);
                continue;
            }
            if !holds || line.starts_with('#') {
                continue;
            }
            if let Some(names) = line.strip_prefix("initramfs ") {
                config.initramfs = names.split_whitespace().next().map(str::to_owned);
            }
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            match key {
                "arm_64bit" => config.arm_64bit = value != "0",
                "kernel" => config.kernel = Some(value.to_owned()),
                "device_tree" => config.device_tree = Some(value.to_owned()),
                "cmdline" => value.clone_into(&mut config.cmdline),
                "boot_ramdisk" => config.boot_ramdisk = value == "1",
                "dtoverlay" => {
                    let name = value.split([',', ':']).next().unwrap_or_default();
                    config
                        .overlays
                        .extend((!name.is_empty()).then(|| name.to_owned()));
                }
                _ => {}
            }
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_boot::pi::{BootFiles, config_txt};

    #[test]
    fn a_board_does_what_the_server_rendered() {
        let theirs = "kernel=other.img\ndtoverlay=vc4-kms-v3d,noaudio\n[pi5]\ndtoverlay=five\n[none]\n\
                      initramfs no.img followkernel\n";
        let files = BootFiles {
            initramfs: Some("initrd"),
            ..BootFiles::new("vmlinuz")
        };
        let text = config_txt(&files, Some(theirs)).unwrap();
        for board in Board::ALL {
            let config = Config::read(board, text.as_bytes());
            assert_eq!(config.kernel.as_deref(), Some("vmlinuz"), "{board}");
            assert_eq!(config.initramfs.as_deref(), Some("initrd"));
            assert!(config.arm_64bit && !config.boot_ramdisk);
            let overlays = if board == Board::Pi5 { 2 } else { 1 };
            assert_eq!(
                config.overlays.len(),
                overlays,
                "{board}: {:?}",
                config.overlays
            );
            assert_eq!(config.overlays[0], "vc4-kms-v3d");
        }
        let empty = Config::read(Board::Pi3B, b"");
        assert!(!empty.arm_64bit && empty.kernel.is_none());
    }
}
