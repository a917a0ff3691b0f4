//! Shelves and slots (AoEr11 section 2).

use std::fmt;
use std::str::FromStr;

const ANY_SHELF: u16 = 0xffff;
const ANY_SLOT: u8 = 0xff;

/// Where a target is: shelf (major) and slot (minor). Written `e7.3`; the default is e0.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    shelf: u16,
    slot: u8,
}

/// Why a text or a pair of numbers is no address of a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no address of an AoE target: it should look like e7.3, with a shelf from 0 to 65534 other \
     than 4095 and a slot from 0 to 254"
)]
pub struct AddressError(String);

impl Address {
    /// The target with this shelf and slot.
    ///
    /// # Errors
    /// [`AddressError`] for shelf 65535 and slot 255, which mean all of them, and for shelf 4095, which
    /// the Linux driver takes for that as well.
    pub fn new(shelf: u16, slot: u8) -> Result<Self, AddressError> {
        if shelf == ANY_SHELF || shelf == 0xfff || slot == ANY_SLOT {
            return Err(AddressError(format!("e{shelf}.{slot}")));
        }
        Ok(Self { shelf, slot })
    }

    /// Its shelf.
    #[must_use]
    pub fn shelf(self) -> u16 {
        self.shelf
    }

    /// Its slot.
    #[must_use]
    pub fn slot(self) -> u8 {
        self.slot
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.shelf, self.slot)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(format!("{text:?}"));
        let numbers = text.strip_prefix('e').unwrap_or(text);
        let (shelf, slot) = numbers.split_once('.').ok_or_else(error)?;
        let shelf = shelf.parse().map_err(|_| error())?;
        let slot = slot.parse().map_err(|_| error())?;
        Self::new(shelf, slot).map_err(|_| error())
    }
}

/// Whom a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Shelf, or 65535 for every one.
    pub shelf: u16,
    /// Slot, or 255 for every one.
    pub slot: u8,
}

impl Selector {
    /// Every target.
    pub const ALL: Self = Self {
        shelf: ANY_SHELF,
        slot: ANY_SLOT,
    };

    /// Whether the target is meant.
    #[must_use]
    pub fn takes(self, address: Address) -> bool {
        (self.shelf == ANY_SHELF || self.shelf == address.shelf)
            && (self.slot == ANY_SLOT || self.slot == address.slot)
    }

    /// Whether it can mean more than one.
    #[must_use]
    pub fn is_wild(self) -> bool {
        self.shelf == ANY_SHELF || self.slot == ANY_SLOT
    }
}

impl From<Address> for Selector {
    fn from(address: Address) -> Self {
        Self {
            shelf: address.shelf,
            slot: address.slot,
        }
    }
}
