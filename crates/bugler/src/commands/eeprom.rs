//! `bugler eeprom`.

use super::Session;
use crate::cli::Eeprom;
use crate::client::encode;
use crate::output;
use anyhow::{Context, Result, ensure};
use bugler_boot::pi::eeprom::{Config, Image, SelfUpdate};
use bugler_protocol::operator::EepromUpdate;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// More than any image has.
const LARGEST: u64 = 8 << 20;

/// One property, for `--json`.
#[derive(Serialize)]
struct Property {
    key: String,
    value: String,
    /// The boards or states that it holds for; absent: it always holds.
    filter: Option<String>,
    words: Option<String>,
}

/// A configuration, for `--json`.
#[derive(Serialize)]
struct Shown {
    settings: Vec<Property>,
    remarks: Vec<String>,
    /// The files that were made.
    files: Vec<PathBuf>,
}

pub(super) fn run(session: &Session, command: Eeprom) -> Result<()> {
    match command {
        Eeprom::Show { file } => {
            let bytes = read(&file)?;
            let config = if [Image::SIZE_2711, Image::SIZE_2712].contains(&bytes.len()) {
                Image::parse(bytes)
                    .and_then(|image| image.config())
                    .map_err(anyhow::Error::new)
            } else {
                Config::parse(&bytes).map_err(anyhow::Error::new)
            };
            show(
                session,
                &config.with_context(|| could_not_use(&file))?,
                vec![],
            )
        }
        Eeprom::Set {
            image: file,
            settings,
            network_first,
            into,
        } => {
            let image = Image::parse(read(&file)?);
            let mut image = image.with_context(|| could_not_use(&file))?;
            let mut config = image.config().with_context(|| could_not_use(&file))?;
            change(&mut config, &settings, network_first)?;
            image
                .set_config(&config)
                .with_context(|| could_not_use(&file))?;
            let seconds =
                u64::try_from(output::now().0 / 1000).context("this host's clock is wrong")?;
            let files = write(&SelfUpdate::new(&image, seconds), &into)?;
            show(session, &config, files)
        }
        Eeprom::Offer {
            device,
            image: file,
            settings,
            network_first,
        } => {
            let image = Image::parse(read(&file)?);
            let mut image = image.with_context(|| could_not_use(&file))?;
            if network_first || !settings.is_empty() {
                let mut config = image.config().with_context(|| could_not_use(&file))?;
                change(&mut config, &settings, network_first)?;
                image
                    .set_config(&config)
                    .with_context(|| could_not_use(&file))?;
            }
            let bytes = image.as_bytes();
            let length = Some(bytes.len() as u64);
            let update = session.client.put_stream(
                &path(&device),
                length,
                &mut std::io::Cursor::new(bytes),
            )?;
            offered(session, &update)
        }
        Eeprom::Offered { device } => offered(session, &session.client.get(&path(&device))?),
        Eeprom::Withdraw { device } => {
            session.client.delete(&path(&device))?;
            if !session.json {
                println!("no boot loader update waits for {device} any more");
            }
            Ok(())
        }
    }
}

fn path(device: &str) -> String {
    format!("devices/{}/eeprom", encode(device))
}

/// Shows what waits for a device.
fn offered(session: &Session, update: &EepromUpdate) -> Result<()> {
    if session.json {
        return output::json(update);
    }
    println!(
        "A boot loader update of {} bytes waits for {} since {}. It is given when the device next boots from \
         the network.",
        update.bytes, update.device, update.made
    );
    for setting in &update.settings {
        println!("{setting}");
    }
    for remark in &update.remarks {
        println!("note: {remark}");
    }
    Ok(())
}

fn could_not_use(file: &Path) -> String {
    format!("could not use {}", file.display())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let what = || format!("could not read {}", file.display());
    let size = fs::metadata(file).with_context(what)?.len();
    ensure!(
        size <= LARGEST,
        "{} has {size} bytes, more than any boot loader image: take a pieeprom.bin",
        file.display()
    );
    fs::read(file).with_context(what)
}

fn change(config: &mut Config, settings: &[String], network_first: bool) -> Result<()> {
    ensure!(
        network_first || !settings.is_empty(),
        "there is nothing to change: say KEY=VALUE, such as BOOT_ORDER=0xf12, or --network-first"
    );
    for setting in settings {
        let (key, value) = setting.split_once('=').with_context(|| {
            format!("{setting:?} is no setting: it should be KEY=VALUE, such as BOOT_ORDER=0xf12")
        })?;
        config.set(key, value)?;
    }
    if network_first {
        let order = config.boot_order()?.with_network_first()?;
        config.set("BOOT_ORDER", &order.to_string())?;
    }
    Ok(())
}

/// Writes the files of an update, the signature last: a board asks for it first.
fn write(update: &SelfUpdate, into: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(into).with_context(|| format!("could not make {}", into.display()))?;
    let mut files = vec![];
    for name in ["pieeprom.upd", "pieeprom.sig"] {
        let path = into.join(name);
        let part = into.join(format!(".{name}.part"));
        let bytes = update.file(name).unwrap_or_default();
        fs::write(&part, bytes)
            .and_then(|()| fs::rename(&part, &path))
            .with_context(|| format!("could not write {}", path.display()))?;
        files.push(path);
    }
    Ok(files)
}

fn show(session: &Session, config: &Config, files: Vec<PathBuf>) -> Result<()> {
    let settings = config.settings();
    if session.json {
        return output::json(&Shown {
            settings: settings
                .into_iter()
                .map(|setting| Property {
                    key: setting.key,
                    value: setting.value,
                    filter: setting.filter,
                    words: setting.words,
                })
                .collect(),
            remarks: config.check(),
            files,
        });
    }
    let dash = || "-".to_owned();
    output::table(
        &["PROPERTY", "VALUE", "HOLDS FOR", "MEANING"],
        settings.into_iter().map(|setting| {
            vec![
                setting.key,
                setting.value,
                setting.filter.unwrap_or_else(|| "all".into()),
                setting.words.unwrap_or_else(dash),
            ]
        }),
    )?;
    for remark in config.check() {
        println!("note: {remark}");
    }
    for file in files {
        println!("wrote {}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_made_or_refused_with_a_reason() {
        let mut config = Config::parse(b"BOOT_UART=0\n").unwrap();
        change(&mut config, &["BOOT_UART=1".into()], true).unwrap();
        assert_eq!(config.to_string(), "BOOT_UART=1\nBOOT_ORDER=0xf412\n");
        for (settings, says) in [
            (vec![], "nothing to change"),
            (vec!["BOOT_ORDER".to_owned()], "is no setting"),
            (vec!["BOOT_ORDER=0xf9".to_owned()], "the digit 9"),
        ] {
            let error = change(&mut config, &settings, false)
                .unwrap_err()
                .to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
