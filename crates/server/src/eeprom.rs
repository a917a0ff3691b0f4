//! Boot loader updates that wait for Raspberry Pis: a folder for each device in the state directory,
//! with the two files that its boot loader asks for when it next boots from the network.

use crate::boot::{BootService, Content, TreeError};
use crate::clock;
use bugler_boot::pi::Family;
use bugler_boot::pi::eeprom::{Image, SelfUpdate};
use bugler_model::{DeviceId, Timestamp};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The image, and its hash with the time of the update.
const IMAGE: &str = "pieeprom.upd";
const SIGNATURE: &str = "pieeprom.sig";

/// Whether boards of this family have a flash chip of the image's size. A board that is not known
/// well is believed to be the one that its owner thinks it is.
fn fits(family: Family, size: u64) -> bool {
    match family {
        Family::Pi4 | Family::Cm4 => size == Image::SIZE_2711 as u64,
        Family::Pi5 => size == Image::SIZE_2712 as u64,
        Family::Unknown => true,
        Family::Pi3 | Family::Pi3Plus => false,
    }
}

/// Puts a file there whole, or not at all.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    part.write_all(bytes)?;
    part.as_file().sync_all()?;
    part.persist(path).map(drop).map_err(|error| error.error)
}

impl BootService {
    fn eeprom_folder(&self, device: DeviceId) -> PathBuf {
        self.places.eeproms.join(device.to_string())
    }

    /// Keeps an update for a device, made now, in the place of an earlier one.
    ///
    /// # Errors
    /// Where it cannot be written; the text says where.
    pub(crate) fn offer_eeprom(&self, device: DeviceId, image: &Image) -> Result<(), String> {
        let folder = self.eeprom_folder(device);
        let seconds = u64::try_from(clock::now().0 / 1000).unwrap_or_default();
        let update = SelfUpdate::new(image, seconds);
        // The signature last: it is asked for first, and without it nothing else is.
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(&folder)?;
            match std::fs::remove_file(folder.join(SIGNATURE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            for name in [IMAGE, SIGNATURE] {
                replace(&folder.join(name), update.file(name).unwrap_or_default())?;
            }
            Ok(())
        };
        write().map_err(|error| {
            format!(
                "could not keep the boot loader update in {}: {error}",
                folder.display()
            )
        })
    }

    /// The update that waits for a device, and when it was made.
    ///
    /// # Errors
    /// Where it cannot be read; the text says where.
    pub(crate) fn offered_eeprom(
        &self,
        device: DeviceId,
    ) -> Result<Option<(Vec<u8>, Timestamp)>, String> {
        let folder = self.eeprom_folder(device);
        let read = || -> io::Result<(Vec<u8>, Timestamp)> {
            let made = std::fs::metadata(folder.join(SIGNATURE))?.modified()?;
            let since = made
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            let made = Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
            Ok((std::fs::read(folder.join(IMAGE))?, made))
        };
        match read() {
            Ok(update) => Ok(Some(update)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!(
                "could not read the boot loader update in {}: {error}",
                folder.display()
            )),
        }
    }

    /// Takes an update back; whether there was one.
    ///
    /// # Errors
    /// Where it cannot be removed; the text says where.
    pub(crate) fn withdraw_eeprom(&self, device: DeviceId) -> Result<bool, String> {
        let folder = self.eeprom_folder(device);
        match std::fs::remove_dir_all(&folder) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(format!("could not remove {}: {error}", folder.display())),
        }
    }

    /// A file of the update that waits for a device, for a board of this family.
    ///
    /// # Errors
    /// Where the update is for boards with another flash chip.
    pub(crate) fn eeprom_file(
        &self,
        device: DeviceId,
        family: Family,
        name: &str,
    ) -> Result<Option<Content>, TreeError> {
        if ![IMAGE, SIGNATURE].contains(&name) {
            return Ok(None);
        }
        let folder = self.eeprom_folder(device);
        let Ok(image) = std::fs::metadata(folder.join(IMAGE)) else {
            return Ok(None);
        };
        if !fits(family, image.len()) {
            return Err(TreeError::NotFound(format!(
                "the boot loader update that waits for {device} has {} bytes and is not for a {family}, so it \
                 is not given: offer it the image that its package rpi-eeprom has for this board",
                image.len()
            )));
        }
        let file = folder.join(name);
        Ok(file.is_file().then_some(Content::File(file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Site;
    use bugler_boot::ClientFacts;
    use bugler_boot::pi::eeprom::{Config, Signature};
    use bugler_model::MacAddr;
    use std::net::{IpAddr, Ipv4Addr};

    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// A section of an image: magic, length, content, padded to eight bytes.
    fn section(image: &mut Vec<u8>, magic: u32, content: &[u8]) {
        image.extend(magic.to_be_bytes());
        image.extend((content.len() as u32).to_be_bytes());
        image.extend_from_slice(content);
        image.resize(image.len().next_multiple_of(8), 0xff);
    }

    fn image(size: usize, config: &str) -> Image {
        let mut bytes = vec![];
        section(&mut bytes, 0x55aa_f00f, &[0x11; 4096 - 8 - 8]);
        // The pad up to the block in which a file begins.
        section(&mut bytes, 0x55aa_feef, &[]);
        assert_eq!(bytes.len(), 4096);
        let file = [&b"bootconf.txt\0\0\0\0"[..], config.as_bytes()].concat();
        section(&mut bytes, 0x55aa_f11f, &file);
        let rest = 8192 - bytes.len() - 8;
        section(&mut bytes, 0x55aa_feef, &vec![0xff; rest]);
        bytes.resize(size, 0xff);
        let image = Image::parse(bytes).unwrap();
        assert_eq!(
            image.config().unwrap(),
            Config::parse(config.as_bytes()).unwrap()
        );
        image
    }

    /// A Pi 4 that asks by DHCP and then writes from this address.
    fn pi_4(boot: &BootService, last: u8) -> (MacAddr, IpAddr) {
        let mac = MacAddr([0xdc, 0xa6, 0x32, 0, 0, last]);
        let id = [
            &[0][..],
            b"4iPR\x14\x31\xd0\0",
            &[0x32, 0, 0, last],
            &[last, 0, 0, 0x10],
        ]
        .concat();
        let facts = ClientFacts::from_options(mac, |code| match code {
            60 => Some(b"PXEClient:Arch:00000:UNDI:002001"),
            93 => Some(&[0, 0]),
            97 => Some(&id),
            _ => None,
        });
        assert_eq!(facts.pi.unwrap().family, Family::Pi4);
        boot.advise(&facts, "DISCOVER", SERVER);
        let address = Ipv4Addr::new(192, 0, 2, 100 + last);
        boot.learn_address(address, mac);
        (mac, IpAddr::V4(address))
    }

    async fn asked(boot: &BootService, peer: IpAddr, path: &str) -> Result<Vec<u8>, String> {
        match boot.open(peer, Some("192.0.2.1:8480"), path).await {
            Ok(Content::File(path)) => Ok(std::fs::read(path).unwrap()),
            Ok(Content::Bytes(bytes)) => Ok(bytes.to_vec()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn an_update_is_given_to_its_own_board_alone_until_it_is_taken_back() {
        let mut site = Site::new();
        let boot = site.boot.clone();
        let ((mac, one), (_, other)) = (pi_4(&boot, 1), pi_4(&boot, 2));
        site.timeline.write_waiting().await;
        let device = boot.store.find_client(mac, None).unwrap();
        let folder = "10000001/";
        assert!(
            asked(&boot, one, &format!("{folder}pieeprom.sig"))
                .await
                .is_err()
        );
        assert_eq!(boot.offered_eeprom(device.id), Ok(None));

        let image = image(Image::SIZE_2711, "[all]\nBOOT_ORDER=0xf12\n");
        boot.offer_eeprom(device.id, &image).unwrap();
        for path in ["pieeprom.upd", "10000001/pieeprom.upd"] {
            assert_eq!(asked(&boot, one, path).await.unwrap(), image.as_bytes());
        }
        let text = asked(&boot, one, &format!("{folder}pieeprom.sig"))
            .await
            .unwrap();
        let signature: Signature = String::from_utf8(text).unwrap().parse().unwrap();
        assert!(signature.matches(image.as_bytes()));
        assert!(signature.timestamp.unwrap() > 1_700_000_000);
        let (bytes, made) = boot.offered_eeprom(device.id).unwrap().unwrap();
        assert_eq!(bytes, image.as_bytes());
        assert!((clock::now().millis_since(made)).abs() < 60_000);
        // The other board asks for the same names.
        for path in ["pieeprom.sig", "pieeprom.upd", "10000001/pieeprom.sig"] {
            assert!(asked(&boot, other, path).await.is_err(), "{path}");
        }
        // A later one takes its place.
        let later = super::tests::image(Image::SIZE_2711, "[all]\nBOOT_ORDER=0xf21\n");
        boot.offer_eeprom(device.id, &later).unwrap();
        assert_eq!(
            asked(&boot, one, "pieeprom.upd").await.unwrap(),
            later.as_bytes()
        );
        assert_eq!(boot.withdraw_eeprom(device.id), Ok(true));
        assert_eq!(boot.withdraw_eeprom(device.id), Ok(false));
        assert!(asked(&boot, one, "pieeprom.upd").await.is_err());
    }

    #[tokio::test]
    async fn an_image_for_another_chip_is_not_given() {
        let mut site = Site::new();
        let boot = site.boot.clone();
        let (mac, one) = pi_4(&boot, 1);
        site.timeline.write_waiting().await;
        let device = boot.store.find_client(mac, None).unwrap();
        let image = image(Image::SIZE_2712, "[all]\nBOOT_ORDER=0xf12\n");
        boot.offer_eeprom(device.id, &image).unwrap();
        for path in ["pieeprom.sig", "pieeprom.upd"] {
            let refused = asked(&boot, one, path).await.unwrap_err();
            assert!(refused.contains("is not for a Raspberry Pi 4"), "{refused}");
        }
    }
}
