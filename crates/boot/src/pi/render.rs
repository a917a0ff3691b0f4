//! `config.txt` and `cmdline.txt` for one board.

use bugler_model::MacAddr;

/// Longest line of `config.txt` that the boot loader reads, in bytes (Raspberry Pi documentation,
/// "config.txt": what is beyond column 98 is ignored).
pub const MAX_LINE: usize = 98;

/// Longest `cmdline.txt` that is made, in bytes: a kernel for arm64 takes 2048 (`COMMAND_LINE_SIZE`),
/// of which the boot loader uses some hundreds for its own arguments.
pub const MAX_CMDLINE: usize = 1600;

/// Settings of a `config.txt` that would get in the way of ours.
const OUR_SETTINGS: [&str; 13] = [
    "arm_64bit",
    "auto_initramfs",
    "boot_ramdisk",
    "cmdline",
    "enable_uart",
    "initramfs",
    "kernel",
    "kernel_address",
    "kernel_old",
    "os_prefix",
    "ramfsaddr",
    "ramfsfile",
    "upstream_kernel",
];

/// Kernel arguments that would get in the way of the agent. `rdinit` would start something else.
const AGENT_ARGUMENTS: [&str; 3] = ["BOOTIF", "ip", "rdinit"];

/// Kernel arguments that name the root of a system that was on a card, and what starts there: a board
/// whose root comes over the network has another one. `init` of an image that was never started is a
/// program that enlarges the card's root.
const ROOT_ARGUMENTS: [&str; 9] = [
    "init",
    "nfsroot",
    "resume",
    "root",
    "rootdelay",
    "rootflags",
    "rootfstype",
    "rootwait",
    "fsck.repair",
];

/// Why a file cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenderError {
    /// A line would be cut off by the boot loader.
    LongLine(String),
    /// A value would not stay one value in its file.
    Value {
        /// What it is.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// All arguments together, in bytes.
    LongCmdline(usize),
}

impl std::fmt::Display for RenderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LongLine(line) => write!(
                f,
                "the line {line:?} of config.txt has {} bytes and the boot loader reads {MAX_LINE}: \
                 shorten it",
                line.len()
            ),
            Self::Value { what, value } => write!(
                f,
                "{value:?} cannot be {what}: it must not be empty or have white space, quotes or \
                 control characters"
            ),
            Self::LongCmdline(length) => write!(
                f,
                "cmdline.txt would have {length} bytes and may have {MAX_CMDLINE}: leave kernel \
                 arguments out"
            ),
        }
    }
}

impl std::error::Error for RenderError {}

/// What a board is to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFiles<'a> {
    /// Name of the kernel, as the board will ask for it.
    pub kernel: &'a str,
    /// Name of the initramfs.
    pub initramfs: Option<&'a str>,
    /// Whether the kernel is a 64-bit one.
    pub arm_64bit: bool,
    /// Whether the serial console is to work: `enable_uart=1`.
    pub uart: bool,
    /// More lines, as the operator configured them: they come last, and so count.
    pub extra: &'a [&'a str],
}

impl<'a> BootFiles<'a> {
    /// A 64-bit kernel with a serial console and nothing else.
    #[must_use]
    pub fn new(kernel: &'a str) -> Self {
        Self {
            kernel,
            initramfs: None,
            arm_64bit: true,
            uart: true,
            extra: &[],
        }
    }
}

/// Makes `config.txt`.
///
/// `theirs` is the one of the operator's source. It stays as it is, but for the lines that choose
/// another kernel, initramfs or command line (`kernel=`, `initramfs`, `os_prefix=`, …), whatever
/// section they stand in: those become comments. Ours follow in a section `[all]`, so that no
/// filter of theirs (`[pi4]`, `[cm4]`) holds for them. Where a file that theirs includes sets the
/// same again, ours still count: they come later.
///
/// # Errors
/// Where a line of ours would be too long, or a name is not one word.
pub fn config_txt(files: &BootFiles<'_>, theirs: Option<&str>) -> Result<String, RenderError> {
    let mut text = String::new();
    for line in theirs.unwrap_or_default().lines() {
        let line = line.trim_end_matches(['\r', '\0']);
        let setting = line
            .trim_start()
            .split(['=', ' ', '\t'])
            .next()
            .unwrap_or_default();
        if OUR_SETTINGS.contains(&setting) {
            text += "# Bugler: ";
        }
        text += line;
        text.push('\n');
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let mut ours = vec!["[all]".to_owned()];
    ours.push(format!("arm_64bit={}", u8::from(files.arm_64bit)));
    ours.push(format!(
        "kernel={}",
        word("the name of a kernel", files.kernel)?
    ));
    if let Some(initramfs) = files.initramfs {
        let initramfs = word("the name of an initramfs", initramfs)?;
        // This one setting has no equals sign.
        ours.push(format!("initramfs {initramfs} followkernel"));
    }
    if files.uart {
        ours.push("enable_uart=1".to_owned());
    }
    ours.extend(files.extra.iter().map(|line| (*line).to_owned()));
    for line in ours {
        if line.contains(['\n', '\r', '\0']) {
            let what = "a line of config.txt";
            return Err(RenderError::Value { what, value: line });
        }
        if line.len() > MAX_LINE {
            return Err(RenderError::LongLine(line));
        }
        text += &line;
        text.push('\n');
    }
    Ok(text)
}

/// What the kernel of the boot environment is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCmdline<'a> {
    /// The interface that boots. The boot loader passes no `BOOTIF`, so it stands here.
    pub mac: MacAddr,
    /// Base URL of the device plane, without a slash at its end.
    pub server: &'a str,
    /// The token made for this boot.
    pub token: &'a str,
    /// What the kernel itself is to do about its address: `dhcp`, or
    /// `client::gateway:mask::interface:off`; `None` leaves it to the agent.
    pub ip: Option<&'a str>,
    /// More kernel arguments, as the operator configured them: `console=ttyS0,115200`.
    pub extra: &'a str,
}

/// Makes `cmdline.txt` for the boot environment: [`merged_cmdline`] of what the agent needs.
///
/// # Errors
/// Where a value is not one word, or all are too long together.
pub fn cmdline_txt(
    cmdline: &AgentCmdline<'_>,
    theirs: Option<&str>,
) -> Result<String, RenderError> {
    let mut ours = format!(
        "bugler.server={} bugler.token={} BOOTIF={}",
        word("the URL of the server", cmdline.server)?,
        word("a token", cmdline.token)?,
        cmdline.mac.bootif()
    );
    if let Some(ip) = cmdline.ip {
        ours += &format!(" ip={}", word("a value of ip=", ip)?);
    }
    if !cmdline.extra.is_empty() {
        ours += &format!(" {}", cmdline.extra);
    }
    merged_cmdline(&ours, theirs)
}

/// Makes `cmdline.txt`: one line.
///
/// `theirs` is the one of the operator's source, of which the boot loader would read the first
/// line. Its arguments come first, without those that `ours` set as well: of an argument that is there
/// twice the kernel takes the later one, but for `console=`, of which it takes all. Where `ours` start
/// the agent, `ip=`, `BOOTIF=` and `rdinit=` of theirs are left out too, and where they name a root over
/// the network, all that theirs say of a root and of what starts there.
///
/// # Errors
/// Where there is a control character in it, or all arguments are too long together.
pub fn merged_cmdline(ours: &str, theirs: Option<&str>) -> Result<String, RenderError> {
    let key = |argument: &str| argument.split('=').next().unwrap_or_default().to_owned();
    let ours: Vec<&str> = ours.split_ascii_whitespace().collect();
    let mut replaced: Vec<String> = ours.iter().map(|argument| key(argument)).collect();
    replaced.retain(|key| key != "console");
    if replaced.iter().any(|key| key == "bugler.server") {
        replaced.extend(AGENT_ARGUMENTS.map(str::to_owned));
    }
    if replaced.iter().any(|key| key == "bugler.root") {
        replaced.extend(ROOT_ARGUMENTS.map(str::to_owned));
    }
    let first = theirs
        .unwrap_or_default()
        .lines()
        .next()
        .unwrap_or_default();
    let theirs = first.split_ascii_whitespace();
    let kept = theirs.filter(|argument| !replaced.contains(&key(argument)));
    let arguments: Vec<&str> = kept.chain(ours.iter().copied()).collect();
    let mut line = arguments.join(" ");
    if line.chars().any(char::is_control) {
        let what = "a kernel argument";
        return Err(RenderError::Value { what, value: line });
    }
    if line.len() > MAX_CMDLINE {
        return Err(RenderError::LongCmdline(line.len()));
    }
    line.push('\n');
    Ok(line)
}

fn word<'a>(what: &'static str, value: &'a str) -> Result<&'a str, RenderError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '\'';
    if value.is_empty() || value.contains(bad) {
        let value = value.to_owned();
        return Err(RenderError::Value { what, value });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([0xdc, 0xa6, 0x32, 1, 0x36, 0xc2]);

    fn cmdline(extra: &str) -> AgentCmdline<'_> {
        AgentCmdline {
            mac: MAC,
            server: "http://10.0.0.1:8480",
            token: "abc",
            ip: None,
            extra,
        }
    }

    #[test]
    fn without_theirs_there_is_what_is_needed() {
        let files = BootFiles {
            initramfs: Some("initrd"),
            extra: &["dtoverlay=disable-bt"],
            ..BootFiles::new("vmlinuz")
        };
        assert_eq!(
            config_txt(&files, None).unwrap(),
            "[all]\narm_64bit=1\nkernel=vmlinuz\ninitramfs initrd followkernel\nenable_uart=1\n\
             dtoverlay=disable-bt\n"
        );
        assert_eq!(
            cmdline_txt(&cmdline("console=ttyS0,115200"), None).unwrap(),
            "bugler.server=http://10.0.0.1:8480 bugler.token=abc BOOTIF=01-dc-a6-32-01-36-c2 \
             console=ttyS0,115200\n"
        );
    }

    #[test]
    fn theirs_stay_but_for_the_choice_of_the_system() {
        let theirs = "# mine\r\ndtparam=audio=on\n[pi4]\narm_boost=1\nkernel=other.img\n\
                      initramfs initrd.img followkernel\nauto_initramfs=1";
        let config = config_txt(&BootFiles::new("vmlinuz"), Some(theirs)).unwrap();
        assert_eq!(
            config,
            "# mine\ndtparam=audio=on\n[pi4]\narm_boost=1\n# Bugler: kernel=other.img\n\
             # Bugler: initramfs initrd.img followkernel\n# Bugler: auto_initramfs=1\n\n\
             [all]\narm_64bit=1\nkernel=vmlinuz\nenable_uart=1\n"
        );
        let theirs = "console=serial0,115200 root=PARTUUID=1-02 ip=dhcp rdinit=/x BOOTIF=01-00\nno";
        let line = cmdline_txt(
            &AgentCmdline {
                ip: Some("10.0.0.7::10.0.0.1:255.255.255.0::eth0:off"),
                ..cmdline("")
            },
            Some(theirs),
        );
        assert_eq!(
            line.unwrap(),
            "console=serial0,115200 root=PARTUUID=1-02 bugler.server=http://10.0.0.1:8480 \
             bugler.token=abc BOOTIF=01-dc-a6-32-01-36-c2 \
             ip=10.0.0.7::10.0.0.1:255.255.255.0::eth0:off\n"
        );
    }

    #[test]
    fn a_root_over_the_network_takes_the_place_of_the_card() {
        let theirs = "console=serial0,115200 console=tty1 root=PARTUUID=54b3d2ca-02 rootfstype=ext4 \
                      fsck.repair=yes rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot";
        let ours = "bugler.server=http://10.0.0.1:8480 bugler.token=abc \
                    BOOTIF=01-dc-a6-32-01-36-c2 bugler.root=nbd://10.0.0.1:10809/abc \
                    bugler.root-part=2";
        assert_eq!(
            merged_cmdline(ours, Some(theirs)).unwrap(),
            format!("console=serial0,115200 console=tty1 quiet {ours}\n")
        );
        // An image's own initramfs is told of its root in words of its own.
        let ours = format!("boot=bugler root=/dev/bugler-root {ours}");
        assert_eq!(
            merged_cmdline(&ours, Some(theirs)).unwrap(),
            format!("console=serial0,115200 console=tty1 quiet {ours}\n")
        );
    }

    #[test]
    fn what_the_boot_loader_would_read_wrongly_is_refused() {
        let error = config_txt(&BootFiles::new("a b"), None).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("\"a b\" cannot be the name of a kernel")
        );
        let long = "x".repeat(MAX_LINE + 1);
        let files = BootFiles {
            extra: &[&long],
            ..BootFiles::new("k")
        };
        assert_eq!(
            config_txt(&files, None),
            Err(RenderError::LongLine(long.clone()))
        );
        let files = BootFiles {
            extra: &["a\nkernel=evil"],
            ..BootFiles::new("k")
        };
        assert!(config_txt(&files, None).is_err());
        let long = "quiet ".repeat(300);
        let error = cmdline_txt(&cmdline(&long), None).unwrap_err();
        assert!(error.to_string().contains("may have 1600"), "{error}");
        let bad = AgentCmdline {
            token: "a rdinit=/x",
            ..cmdline("")
        };
        assert!(cmdline_txt(&bad, None).is_err());
    }

    proptest! {
        #[test]
        fn whatever_theirs_are_ours_count(theirs in "(?s).{0,200}|(kernel=x|initramfs y|\\[none\\]|\n){0,9}") {
            let config = config_txt(&BootFiles::new("vmlinuz"), Some(&theirs)).unwrap();
            let (_, ours) = config.rsplit_once("[all]\n").unwrap();
            prop_assert_eq!(ours, "arm_64bit=1\nkernel=vmlinuz\nenable_uart=1\n");
            let kernels = config.lines().filter(|line| line.starts_with("kernel=")).count();
            prop_assert_eq!(kernels, 1);
            if let Ok(line) = cmdline_txt(&cmdline("quiet"), Some(&theirs)) {
                prop_assert_eq!(line.lines().count(), 1);
                prop_assert_eq!(line.matches(" BOOTIF=").count(), 1);
            }
        }
    }
}
