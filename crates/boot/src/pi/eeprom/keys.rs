//! The properties of the boot loader's configuration that are known, and what their values may be.
//!
//! Raspberry Pi documentation, "Raspberry Pi bootloader configuration".

use super::BootOrder;
use bugler_model::MacAddr;
use std::net::Ipv4Addr;

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 0 or 1.
    Flag,
    /// A whole number of this range.
    Number(i64, i64),
    /// `BOOT_ORDER`.
    Order,
    /// A number in hexadecimal, or decimal.
    Hex,
    /// An IPv4 address.
    Address,
    /// A MAC address.
    Mac,
    /// Text of at most so many bytes.
    Text(usize),
}

/// The longest number of milliseconds that makes sense: a day.
const DAY_MS: i64 = 86_400_000;

/// Name, what it may be, what it does.
pub(super) const KEYS: [(&str, Kind, &str); 47] = [
    (
        "BOOT_UART",
        Kind::Flag,
        "messages of the boot loader on the serial console",
    ),
    (
        "UART_BAUD",
        Kind::Number(9600, 921_600),
        "baud rate of these messages",
    ),
    (
        "WAKE_ON_GPIO",
        Kind::Number(0, 2),
        "what wakes it after a halt",
    ),
    (
        "POWER_OFF_ON_HALT",
        Kind::Flag,
        "switches the power off at a halt",
    ),
    (
        "WAIT_FOR_POWER_BUTTON",
        Kind::Flag,
        "waits for its button when power comes back",
    ),
    ("BOOT_ORDER", Kind::Order, "tries"),
    (
        "BOOT_WATCHDOG_TIMEOUT",
        Kind::Number(0, 86_400),
        "seconds until a boot that hangs is reset",
    ),
    (
        "BOOT_WATCHDOG_PARTITION",
        Kind::Number(0, 63),
        "partition after such a reset",
    ),
    (
        "MAX_RESTARTS",
        Kind::Number(-1, 1 << 31),
        "how often the order starts again; -1 for ever",
    ),
    (
        "REBOOT_ON_FATAL_ERROR",
        Kind::Flag,
        "resets itself after a fatal error",
    ),
    (
        "SD_BOOT_MAX_RETRIES",
        Kind::Number(-1, 1 << 31),
        "further tries of the SD card; -1 for ever",
    ),
    (
        "SD_OVERCURRENT_CHECK",
        Kind::Flag,
        "stops at an SD card with a short circuit",
    ),
    ("SD_QUIRKS", Kind::Hex, "workarounds for SD cards"),
    (
        "NET_BOOT_MAX_RETRIES",
        Kind::Number(-1, 1 << 31),
        "further tries of the network; -1 for ever",
    ),
    (
        "DHCP_TIMEOUT",
        Kind::Number(5000, DAY_MS),
        "ms for all of DHCP",
    ),
    (
        "DHCP_REQ_TIMEOUT",
        Kind::Number(500, DAY_MS),
        "ms until a DHCP message is sent again",
    ),
    (
        "TFTP_FILE_TIMEOUT",
        Kind::Number(5000, DAY_MS),
        "ms for one file over TFTP",
    ),
    ("TFTP_IP", Kind::Address, "TFTP server, whatever DHCP says"),
    (
        "TFTP_PREFIX",
        Kind::Number(0, 2),
        "folder: 0 serial number, 1 TFTP_PREFIX_STR, 2 MAC address",
    ),
    (
        "TFTP_PREFIX_STR",
        Kind::Text(32),
        "the folder for TFTP_PREFIX=1",
    ),
    (
        "PXE_OPTION43",
        Kind::Text(32),
        "text that it looks for in option 43",
    ),
    (
        "DHCP_OPTION97",
        Kind::Hex,
        "first bytes of option 97; 0 sends the serial number four times",
    ),
    (
        "MAC_ADDRESS",
        Kind::Mac,
        "its MAC address, instead of its own",
    ),
    (
        "MAC_ADDRESS_OTP",
        Kind::Text(8),
        "where its MAC address is kept",
    ),
    (
        "CLIENT_IP",
        Kind::Address,
        "its address; with TFTP_IP and SUBNET there is no DHCP",
    ),
    ("SUBNET", Kind::Address, "its subnet mask"),
    ("GATEWAY", Kind::Address, "its gateway"),
    (
        "DISABLE_HDMI",
        Kind::Number(0, 255),
        "no messages on the screen",
    ),
    (
        "HDMI_DELAY",
        Kind::Number(0, 86_400),
        "seconds until messages show on the screen",
    ),
    (
        "ENABLE_SELF_UPDATE",
        Kind::Flag,
        "takes updates from where it boots",
    ),
    ("FREEZE_VERSION", Kind::Flag, "takes no updates at all"),
    ("HTTP_HOST", Kind::Text(255), "server of the HTTP boot"),
    ("HTTP_PORT", Kind::Number(1, 65535), "its port"),
    ("HTTP_PATH", Kind::Text(255), "folder on it"),
    (
        "HTTP_CACERT_HASH",
        Kind::Text(64),
        "SHA-256 of its certificate authority",
    ),
    (
        "IMAGER_REPO_URL",
        Kind::Text(255),
        "list of images for the network installer",
    ),
    ("NET_INSTALL_ENABLED", Kind::Flag, "network installer"),
    (
        "NET_INSTALL_AT_POWER_ON",
        Kind::Flag,
        "shows the network installer at power-on",
    ),
    (
        "NET_INSTALL_KEYBOARD_WAIT",
        Kind::Number(0, DAY_MS),
        "ms in which a key starts it",
    ),
    (
        "NETCONSOLE",
        Kind::Text(32),
        "messages of the boot loader over the network",
    ),
    ("PARTITION", Kind::Number(0, 255), "boot partition"),
    (
        "PARTITION_WALK",
        Kind::Flag,
        "looks for another boot partition when that fails",
    ),
    ("PCIE_PROBE", Kind::Flag, "looks for devices on PCIe"),
    (
        "PSU_MAX_CURRENT",
        Kind::Number(0, 10_000),
        "mA that the power supply gives",
    ),
    (
        "USB_MSD_DISCOVER_TIMEOUT",
        Kind::Number(5000, DAY_MS),
        "ms in which a USB disk has to show",
    ),
    (
        "USB_MSD_PWR_OFF_TIME",
        Kind::Number(0, 5000),
        "ms without USB power at a reboot",
    ),
    (
        "VL805",
        Kind::Flag,
        "loads the firmware of a USB controller",
    ),
];

/// What is known of a property.
pub(super) fn find(key: &str) -> Option<&'static (&'static str, Kind, &'static str)> {
    KEYS.iter().find(|known| known.0 == key)
}

impl Kind {
    /// Why a value is not one of this kind; `None` where it is. Empty means the boot loader's own
    /// default, for every kind.
    pub(super) fn problem(self, value: &str) -> Option<String> {
        if value.is_empty() {
            return None;
        }
        match self {
            Self::Flag => (!matches!(value, "0" | "1")).then(|| "it should be 0 or 1".into()),
            Self::Number(min, max) => {
                let number = number(value);
                let fits = number.is_some_and(|number| (min..=max).contains(&number));
                (!fits).then(|| format!("it should be a number from {min} to {max}"))
            }
            Self::Order => value
                .parse::<BootOrder>()
                .err()
                .map(|error| error.to_string()),
            Self::Hex => number(value)
                .is_none_or(|number| !(0..=u32::MAX.into()).contains(&number))
                .then(|| "it should be a number such as 0x1f".into()),
            Self::Address => value
                .parse::<Ipv4Addr>()
                .is_err()
                .then(|| "it should be an IPv4 address such as 192.168.1.99".into()),
            Self::Mac => value
                .parse::<MacAddr>()
                .is_err()
                .then(|| "it should be a MAC address such as dc:a6:32:01:36:c2".into()),
            Self::Text(max) => (value.len() > max)
                .then(|| format!("it has {} bytes and should have at most {max}", value.len())),
        }
    }
}

fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => i64::from(u32::from_str_radix(digits, 16).ok()?).into(),
        None => text.parse().ok(),
    }
}
