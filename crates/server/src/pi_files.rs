//! The sources of files for Raspberry Pis, as they are configured.

use crate::config::Config;
use anyhow::{Context, Result};
use bugler_images::ChunkStore;
use bugler_pifiles::{Disk, OpenDisk, Source};
use bugler_store::Store;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Where Debian's package `raspi-firmware` puts the boot loader's stages on the server itself.
const FIRMWARE: &str = "/usr/lib/raspi-firmware";

/// The sources, the first that has a file counts: the operator's folder, Debian's packages, the boot
/// partition of an image, and what is installed here.
///
/// # Errors
/// Where one that is configured cannot be used.
pub(crate) async fn sources(
    config: &Config,
    store: &dyn Store,
    images: &Arc<ChunkStore>,
) -> Result<Vec<Source>> {
    let wanted = &config.raspberry_pi;
    let folder = wanted.folder.clone();
    let mut sources = vec![Source::folder(
        folder.unwrap_or_else(|| config.boot_files().join("pi")),
    )];
    if let Some(debian) = &wanted.debian {
        let source = Source::debian(debian.clone());
        sources.push(source.context("could not use `debian` of [raspberry-pi]")?);
    }
    if let Some(name) = &wanted.image {
        let image = store.image(name).await.with_context(|| {
            format!(
                "could not use the image {name}, which [raspberry-pi] names: `bugler image list`"
            )
        })?;
        let manifest = image
            .manifest
            .parse()
            .map_err(|error| anyhow::anyhow!("the image {name} has no usable name: {error}"))?;
        let images = images.clone();
        let open: OpenDisk = Box::new(move || {
            let reader = images.open_raw(&manifest).map_err(io::Error::other)?;
            Ok(Box::new(reader) as Box<dyn Disk>)
        });
        let name = name.clone();
        let source = tokio::task::spawn_blocking(move || Source::image(&name, open)).await?;
        sources.push(source.context("could not use `image` of [raspberry-pi]")?);
    }
    if Path::new(FIRMWARE).is_dir() {
        sources.push(Source::folder(FIRMWARE.into()));
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_boot::pi::Request;
    use bugler_images::AddOptions;
    use bugler_model::{NewImage, Timestamp};
    use bugler_pifiles::Found;
    use bugler_store::SqliteStore;
    use std::fs::{self, File};
    use std::process::Command;

    fn run(program: &str, arguments: &[&str]) {
        let status = Command::new(program)
            .args(arguments)
            .stdout(io::stderr())
            .status();
        assert!(status.unwrap().success(), "{program} {arguments:?}");
    }

    #[tokio::test]
    async fn the_operators_folder_comes_before_the_image_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let mut config = Config {
            state_dir: dir.path().into(),
            ..Config::default()
        };
        fs::create_dir_all(config.boot_files().join("pi")).unwrap();
        fs::write(config.boot_files().join("pi/config.txt"), "mine").unwrap();

        let volume = path("volume");
        File::create(&volume).unwrap().set_len(8 << 20).unwrap();
        run("mkfs.fat", &["-F", "12", &volume]);
        fs::write(path("content"), "of the image").unwrap();
        for name in ["config.txt", "start4.elf"] {
            run(
                "mcopy",
                &["-i", &volume, &path("content"), &format!("::{name}")],
            );
        }
        let store = SqliteStore::open(path("registry.sqlite")).unwrap();
        let images = Arc::new(ChunkStore::open(path("images")).unwrap());
        config.raspberry_pi.image = Some("raspios".into());
        let error = sources(&config, &store, &images).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("could not use the image raspios"),
            "{error}"
        );

        let file = File::open(&volume).unwrap();
        let added = images.add(file, AddOptions::default()).unwrap();
        let image = NewImage {
            name: "raspios".parse().unwrap(),
            note: String::new(),
            origin: None,
            manifest: added.manifest.to_string(),
            size: added.disk_size,
            used: added.used_bytes,
            stored: 1,
            sector_size: added.sector_size,
        };
        store.add_image(image, Timestamp(0)).await.unwrap();
        let sources = sources(&config, &store, &images).await.unwrap();
        let find = |path: &str| {
            let request = Request::parse(path).unwrap();
            let mut found = sources
                .iter()
                .filter_map(|source| source.find(&request).unwrap());
            found.next()
        };
        let mine = config.boot_files().join("pi/config.txt");
        assert_eq!(find("91cdf03d/config.txt"), Some(Found::File(mine, 4)));
        assert_eq!(
            find("start4.elf"),
            Some(Found::Bytes(b"of the image".to_vec()))
        );
        assert_eq!(find("91cdf03d/kernel8.img"), None);
    }
}
