//! The boot EEPROM of a 4, CM4 or 5: its configuration, the image that is written to it, and the
//! files with which the boot loader updates itself over the network.
//!
//! | Module | What |
//! |---|---|
//! | `order` | `BOOT_ORDER`: what is tried, in words |
//! | `config` | the whole configuration: read, shown, edited, checked |
//! | `image` | `pieeprom.bin`: finds the configuration in it, and puts another one there |
//! | `update` | `pieeprom.upd` and `pieeprom.sig` |

mod config;
mod image;
mod keys;
mod order;
mod update;

pub use config::{Config, ConfigError, MAX_CONFIG, Setting};
pub use image::{Image, ImageError, Section};
pub use order::{BootMode, BootOrder, OrderError};
pub use update::{SelfUpdate, Signature, SignatureError};

/// Functions over any bytes, for fuzzing.
pub fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(order) = text.parse::<BootOrder>() {
        assert_eq!(order.to_string().parse(), Ok(order));
    }
    let _ = text.parse::<Signature>();
    if let Ok(mut config) = Config::parse(bytes) {
        let _ = (config.settings(), config.check());
        if config.set("BOOT_ORDER", "0xf12").is_ok() {
            assert_eq!(config.get("BOOT_ORDER"), Some("0xf12"));
            let again = Config::parse(config.to_string().as_bytes()).expect("what was written");
            assert_eq!(again, config);
        }
    }
    // Any bytes at the beginning of an image of each size.
    for size in [Image::SIZE_2711, Image::SIZE_2712] {
        let mut image = vec![0xff; size];
        for (to, from) in image.iter_mut().zip(bytes) {
            *to = *from;
        }
        let Ok(mut image) = Image::parse(image) else {
            continue;
        };
        let _ = image.is_signed();
        if let Ok(mut config) = image.config()
            && config.set("BOOT_ORDER", "0xf12").is_ok()
            && image.set_config(&config).is_ok()
        {
            let again = Image::parse(image.as_bytes().to_vec()).expect("what was written");
            assert_eq!(again.config().as_ref(), Ok(&config));
        }
    }
}
