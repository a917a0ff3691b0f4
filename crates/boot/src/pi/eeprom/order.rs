//! `BOOT_ORDER`: what the boot loader tries, in which order.

use std::fmt;
use std::str::FromStr;

/// One way to boot: one hexadecimal digit of `BOOT_ORDER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BootMode {
    /// 0: SD card; waits for one to be put in.
    SdDetect = 0x0,
    /// 1: SD card, or the eMMC of a compute module.
    Sd = 0x1,
    /// 2: network, by DHCP and TFTP.
    Network = 0x2,
    /// 3: as a USB device of another computer.
    RpiBoot = 0x3,
    /// 4: USB disk.
    Usb = 0x4,
    /// 5: USB disk at the USB 2.0 port of the processor.
    BcmUsb = 0x5,
    /// 6: NVMe disk.
    Nvme = 0x6,
    /// 7: network, by HTTP.
    Http = 0x7,
    /// e: stops, and shows an error.
    Stop = 0xe,
    /// f: starts with the first mode again.
    Restart = 0xf,
}

impl BootMode {
    fn from_digit(digit: u32) -> Option<Self> {
        Some(match digit {
            0x0 => Self::SdDetect,
            0x1 => Self::Sd,
            0x2 => Self::Network,
            0x3 => Self::RpiBoot,
            0x4 => Self::Usb,
            0x5 => Self::BcmUsb,
            0x6 => Self::Nvme,
            0x7 => Self::Http,
            0xe => Self::Stop,
            0xf => Self::Restart,
            _ => return None,
        })
    }

    /// Whether it ends the order: what stands after it is never tried.
    #[must_use]
    pub fn ends(self) -> bool {
        matches!(self, Self::Stop | Self::Restart)
    }
}

impl fmt::Display for BootMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SdDetect => "SD card (waits for one)",
            Self::Sd => "SD card or eMMC",
            Self::Network => "network",
            Self::RpiBoot => "USB device of another computer (rpiboot)",
            Self::Usb => "USB disk",
            Self::BcmUsb => "USB disk at the processor's own port",
            Self::Nvme => "NVMe disk",
            Self::Http => "network by HTTP",
            Self::Stop => "stop",
            Self::Restart => "start again",
        })
    }
}

/// An order of boot modes. **It is read from the right**: `0xf12` tries the network (2), then the SD
/// card (1), then starts again (f).
///
/// Raspberry Pi documentation, "BOOT_ORDER".
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootOrder(u32);

/// Why a text is no boot order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderError {
    /// Not a hexadecimal number of at most eight digits.
    Number(String),
    /// A digit that stands for no boot mode.
    Digit {
        /// The whole text.
        text: String,
        /// The digit.
        digit: char,
    },
    /// A ninth mode would be needed.
    Full(BootOrder),
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(text) => write!(
                f,
                "{text:?} is no boot order: it should be one to eight hexadecimal digits, such as \
                 0xf41, which are read from the right"
            ),
            Self::Digit { text, digit } => write!(
                f,
                "the digit {digit} of the boot order {text} stands for nothing: 0 to 7, e and f do"
            ),
            Self::Full(order) => write!(
                f,
                "the boot order {order} has eight digits already: take one out first"
            ),
        }
    }
}

impl std::error::Error for OrderError {}

impl BootOrder {
    /// What the boot loader does where nothing is configured: SD card or eMMC, USB disk, again.
    pub const DEFAULT: Self = Self(0xf41);
    /// Network first, then SD card or eMMC, again.
    pub const NETWORK_FIRST: Self = Self(0xf12);
    /// SD card or eMMC first, then network, again.
    pub const SD_FIRST: Self = Self(0xf21);

    /// The modes in the order in which they are tried, the ending one included.
    #[must_use]
    pub fn modes(self) -> Vec<BootMode> {
        let mut modes = vec![];
        let mut rest = self.0;
        loop {
            modes.extend(BootMode::from_digit(rest & 0xf));
            rest >>= 4;
            if rest == 0 {
                return modes;
            }
        }
    }

    fn of_modes(modes: &[BootMode]) -> Option<Self> {
        if modes.len() > 8 || modes.is_empty() {
            return None;
        }
        let add = |number, mode: &BootMode| number << 4 | *mode as u32;
        Some(Self(modes.iter().rev().fold(0, add)))
    }

    /// Whether it comes to boot from the network, before it starts again or stops.
    #[must_use]
    pub fn has_network(self) -> bool {
        let modes = self.modes();
        let mut tried = modes.iter().take_while(|mode| !mode.ends());
        tried.any(|mode| *mode == BootMode::Network)
    }

    /// The same order with the network before everything else.
    ///
    /// # Errors
    /// Where all eight digits are used.
    pub fn with_network_first(self) -> Result<Self, OrderError> {
        let mut modes = self.modes();
        modes.retain(|mode| *mode != BootMode::Network);
        modes.insert(0, BootMode::Network);
        Self::of_modes(&modes).ok_or(OrderError::Full(self))
    }

    /// The same order with the network after every disk, before it starts again or stops.
    ///
    /// # Errors
    /// Where all eight digits are used.
    pub fn with_network_last(self) -> Result<Self, OrderError> {
        let mut modes = self.modes();
        modes.retain(|mode| *mode != BootMode::Network);
        let end = modes
            .iter()
            .position(|mode| mode.ends())
            .unwrap_or(modes.len());
        modes.insert(end, BootMode::Network);
        Self::of_modes(&modes).ok_or(OrderError::Full(self))
    }

    /// In words: `network, then SD card or eMMC, then start again`.
    #[must_use]
    pub fn describe(self) -> String {
        let words: Vec<String> = self.modes().iter().map(BootMode::to_string).collect();
        words.join(", then ")
    }
}

impl FromStr for BootOrder {
    type Err = OrderError;

    /// `0xf41`; as in the boot loader the `0x` may be missing.
    fn from_str(text: &str) -> Result<Self, OrderError> {
        let digits = text
            .strip_prefix("0x")
            .or(text.strip_prefix("0X"))
            .unwrap_or(text);
        let number = || OrderError::Number(text.chars().take(40).collect());
        if digits.is_empty() || digits.len() > 8 {
            return Err(number());
        }
        let mut order = 0;
        for digit in digits.chars() {
            let value = digit.to_digit(16).ok_or_else(number)?;
            if BootMode::from_digit(value).is_none() {
                let text = text.to_owned();
                return Err(OrderError::Digit { text, digit });
            }
            order = order << 4 | value;
        }
        Ok(Self(order))
    }
}

impl fmt::Display for BootOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for BootOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootOrder({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(text: &str) -> BootOrder {
        text.parse().unwrap()
    }

    #[test]
    fn it_is_read_from_the_right() {
        for (text, words) in [
            ("0xf41", "SD card or eMMC, then USB disk, then start again"),
            ("0xf12", "network, then SD card or eMMC, then start again"),
            ("0xf21", "SD card or eMMC, then network, then start again"),
            ("0x21", "SD card or eMMC, then network"),
            ("0xf46", "NVMe disk, then USB disk, then start again"),
            ("0xe7", "network by HTTP, then stop"),
            ("0x0", "SD card (waits for one)"),
            (
                "0xf2461",
                "SD card or eMMC, then NVMe disk, then USB disk, then network, then start again",
            ),
        ] {
            assert_eq!(order(text).describe(), words, "{text}");
            assert_eq!(order(text).to_string(), text);
        }
        assert_eq!(order("0x21").modes()[0], BootMode::Sd);
        assert_eq!(BootOrder::NETWORK_FIRST.modes()[0], BootMode::Network);
        assert_eq!(order("F41"), BootOrder::DEFAULT);
    }

    #[test]
    fn the_network_goes_where_it_is_wanted() {
        let first = |text| order(text).with_network_first().unwrap().to_string();
        assert_eq!(first("0xf41"), "0xf412");
        assert_eq!(first("0xf21"), "0xf12");
        assert_eq!(first("0xf12"), "0xf12");
        let last = |text| order(text).with_network_last().unwrap().to_string();
        assert_eq!(last("0xf41"), "0xf241");
        assert_eq!(last("0xf12"), "0xf21");
        assert_eq!(last("0x1"), "0x21");
        assert!(order("0xf12").has_network() && order("0xf21").has_network());
        // What stands after "start again" is never tried.
        assert!(!order("0x2f1").has_network() && !order("0xf41").has_network());
        let full = order("0xf1461461").with_network_first().unwrap_err();
        assert!(full.to_string().contains("eight digits already"));
    }

    #[test]
    fn what_is_no_order_is_said() {
        for text in ["", "0x", "xf41", "0x123456789", "-1", "0xf4 1", "41 "] {
            let error = text.parse::<BootOrder>().unwrap_err().to_string();
            assert!(error.contains("is no boot order"), "{text:?}: {error}");
        }
        let error = "0xf81".parse::<BootOrder>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the digit 8 of the boot order 0xf81 stands for nothing: 0 to 7, e and f do"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(0x)?[0-9a-f]{0,9}|.{0,20}") {
            if let Ok(order) = text.parse::<BootOrder>() {
                prop_assert_eq!(order.to_string().parse(), Ok(order));
                prop_assert!(!order.modes().is_empty());
                if let Ok(first) = order.with_network_first() {
                    prop_assert_eq!(first.modes()[0], BootMode::Network);
                }
            }
        }
    }
}
