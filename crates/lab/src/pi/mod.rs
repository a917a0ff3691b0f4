//! A simulator of the Raspberry Pi's boot ROM and boot loader, which no emulator has.
//!
//! It sends the bytes that were recorded of these boards, follows the order in which they ask for
//! their files, has their quirks, and gives back what it got:
//!
//! | Module | What |
//! |---|---|
//! | `board` | which board: addresses, serial number, names of its files |
//! | [`dhcp`] | DISCOVER and REQUEST byte for byte; what a board takes from the replies |
//! | [`config_txt`] | `config.txt`, as far as it chooses files |
//! | [`course`] | the requests in their order, over anything that has files |
//! | [`tftp`] | the boards' TFTP: probes, "Early terminate", block numbers that run out |
//! | [`rom`] | all of it on a host of the lab: raw frames, then UDP |
//!
//! Sources: the documentation of Raspberry Pi ("Network booting", "Bootloader configuration"), packets
//! and server logs in issues of raspberrypi/firmware and raspberrypi/rpi-eeprom. What is not recorded
//! there is marked "assumed" where it stands.

mod board;
pub mod config_txt;
pub mod course;
pub mod dhcp;
pub mod rom;
pub mod tftp;

pub use board::{Board, Pi};
