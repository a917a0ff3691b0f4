//! Board revision codes: which board, how much memory, who made it.

use std::fmt;

/// Set in the codes that say what they mean, since the Raspberry Pi 2.
const NEW_STYLE: u32 = 1 << 23;

/// The codes that were counted up before: code, model, board revision, MB, maker.
const OLD_STYLE: [(u32, &str, &str, u32, &str); 17] = [
    (0x02, "B", "1.0", 256, "Egoman"),
    (0x03, "B", "1.0", 256, "Egoman"),
    (0x04, "B", "2.0", 256, "Sony UK"),
    (0x05, "B", "2.0", 256, "Qisda"),
    (0x06, "B", "2.0", 256, "Egoman"),
    (0x07, "A", "2.0", 256, "Egoman"),
    (0x08, "A", "2.0", 256, "Sony UK"),
    (0x09, "A", "2.0", 256, "Qisda"),
    (0x0d, "B", "2.0", 512, "Egoman"),
    (0x0e, "B", "2.0", 512, "Sony UK"),
    (0x0f, "B", "2.0", 512, "Egoman"),
    (0x10, "B+", "1.2", 512, "Sony UK"),
    (0x11, "CM1", "1.0", 512, "Sony UK"),
    (0x12, "A+", "1.1", 256, "Sony UK"),
    (0x13, "B+", "1.2", 512, "Embest"),
    (0x14, "CM1", "1.0", 512, "Embest"),
    (0x15, "A+", "1.1", 256, "Embest"),
];

/// A board revision code, as `/proc/cpuinfo` and option 97 have it: `c03111`.
///
/// Raspberry Pi documentation, "Revision codes": bits `NOQuuuWuFMMMCCCCPPPPTTTTTTTTRRRR`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Revision(pub u32);

impl Revision {
    /// Whether the code says what it means (bit 23). The codes of the first boards were counted up.
    #[must_use]
    pub fn is_new_style(self) -> bool {
        self.0 & NEW_STYLE != 0
    }

    /// The board type, bits 4 to 11 of a new-style code.
    #[must_use]
    pub fn board_type(self) -> Option<u8> {
        self.is_new_style().then_some((self.0 >> 4) as u8)
    }

    /// The model without "Raspberry Pi": `4B`, `CM4`; `None` for a type that is not known here.
    #[must_use]
    pub fn model(self) -> Option<&'static str> {
        let Some(kind) = self.board_type() else {
            return self.old_style().map(|entry| entry.1);
        };
        Some(match kind {
            0x00 => "A",
            0x01 => "B",
            0x02 => "A+",
            0x03 => "B+",
            0x04 => "2B",
            0x05 => "Alpha",
            0x06 => "CM1",
            0x08 => "3B",
            0x09 => "Zero",
            0x0a => "CM3",
            0x0c => "Zero W",
            0x0d => "3B+",
            0x0e => "3A+",
            0x10 => "CM3+",
            0x11 => "4B",
            0x12 => "Zero 2 W",
            0x13 => "400",
            0x14 => "CM4",
            0x15 => "CM4S",
            0x17 => "5",
            0x18 => "CM5",
            0x19 => "500",
            0x1a => "CM5 Lite",
            0x1b => "CM0",
            _ => return None,
        })
    }

    /// The processor: `BCM2711`; `None` for one that is not known here.
    #[must_use]
    pub fn processor(self) -> Option<&'static str> {
        if !self.is_new_style() {
            return self.old_style().map(|_| "BCM2835");
        }
        Some(match self.0 >> 12 & 0xf {
            0 => "BCM2835",
            1 => "BCM2836",
            2 => "BCM2837",
            3 => "BCM2711",
            4 => "BCM2712",
            _ => return None,
        })
    }

    /// Memory in MB (as the documentation counts: 1 GB is 1024); `None` where the code does not say.
    #[must_use]
    pub fn memory_mb(self) -> Option<u32> {
        if !self.is_new_style() {
            return self.old_style().map(|entry| entry.3);
        }
        match self.0 >> 20 & 0x7 {
            // "Other": the firmware alone knows.
            7 => None,
            size => Some(256 << size),
        }
    }

    /// Who made the board.
    #[must_use]
    pub fn maker(self) -> Option<&'static str> {
        if !self.is_new_style() {
            return self.old_style().map(|entry| entry.4);
        }
        Some(match self.0 >> 16 & 0xf {
            0 => "Sony UK",
            1 => "Egoman",
            2 | 4 => "Embest",
            3 => "Sony Japan",
            5 => "Stadium",
            _ => return None,
        })
    }

    /// The revision of the board: `1.4`.
    #[must_use]
    pub fn board_revision(self) -> Option<String> {
        if !self.is_new_style() {
            return self.old_style().map(|entry| entry.2.to_owned());
        }
        Some(format!("1.{}", self.0 & 0xf))
    }

    fn old_style(self) -> Option<&'static (u32, &'static str, &'static str, u32, &'static str)> {
        // Bits from 24 up say how the board was used, not what it is.
        let code = self.0 & 0xff_ffff;
        OLD_STYLE.iter().find(|entry| entry.0 == code)
    }
}

impl fmt::Display for Revision {
    /// `Raspberry Pi 4B 1.4, 8 GB, Sony UK (d03114)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.model(), self.board_revision()) {
            (Some(model), Some(revision)) => write!(f, "Raspberry Pi {model} {revision}")?,
            _ => f.write_str("Raspberry Pi of an unknown model")?,
        }
        match self.memory_mb() {
            Some(mb) if mb >= 1024 => write!(f, ", {} GB", mb / 1024)?,
            Some(mb) => write!(f, ", {mb} MB")?,
            None => {}
        }
        if let Some(maker) = self.maker() {
            write!(f, ", {maker}")?;
        }
        write!(f, " ({:x})", self.0)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revision({:x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of the table "New-style revision codes in use" in the documentation.
    #[test]
    fn codes_in_use_are_read_as_the_documentation_has_them() {
        for (code, text) in [
            (0xa02082, "Raspberry Pi 3B 1.2, 1 GB, Sony UK (a02082)"),
            (0xa52082, "Raspberry Pi 3B 1.2, 1 GB, Stadium (a52082)"),
            (0xa32082, "Raspberry Pi 3B 1.2, 1 GB, Sony Japan (a32082)"),
            (0xa020d4, "Raspberry Pi 3B+ 1.4, 1 GB, Sony UK (a020d4)"),
            (0x9020e0, "Raspberry Pi 3A+ 1.0, 512 MB, Sony UK (9020e0)"),
            (0xd03114, "Raspberry Pi 4B 1.4, 8 GB, Sony UK (d03114)"),
            (0xc03130, "Raspberry Pi 400 1.0, 4 GB, Sony UK (c03130)"),
            (0xb03140, "Raspberry Pi CM4 1.0, 2 GB, Sony UK (b03140)"),
            (0xe04171, "Raspberry Pi 5 1.1, 16 GB, Sony UK (e04171)"),
            (
                0xc041a0,
                "Raspberry Pi CM5 Lite 1.0, 4 GB, Sony UK (c041a0)",
            ),
            (0xa22042, "Raspberry Pi 2B 1.2, 1 GB, Embest (a22042)"),
            (0x000e, "Raspberry Pi B 2.0, 512 MB, Sony UK (e)"),
            (0x100_0010, "Raspberry Pi B+ 1.2, 512 MB, Sony UK (1000010)"),
        ] {
            assert_eq!(Revision(code).to_string(), text);
        }
        assert_eq!(Revision(0xd03114).processor(), Some("BCM2711"));
        assert_eq!(Revision(0xd04170).processor(), Some("BCM2712"));
    }

    #[test]
    fn a_board_of_tomorrow_is_unknown_and_not_wrong() {
        let code = Revision(0xf05ff0);
        assert_eq!(
            (code.model(), code.processor(), code.memory_mb()),
            (None, None, None)
        );
        assert_eq!(
            code.to_string(),
            "Raspberry Pi of an unknown model, Sony UK (f05ff0)"
        );
    }

    proptest! {
        #[test]
        fn any_code_is_shown(code: u32) {
            prop_assert!(Revision(code).to_string().len() < 80);
        }
    }
}
