//! The requests of a board in their order, over anything that has files.

use super::config_txt::Config;
use super::{Board, Pi};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

/// Where a board's files come from.
pub trait Files {
    /// Fetches a file as the ROM does: no options. `None`: it is not there.
    ///
    /// # Errors
    /// When the server does not answer, or the transfer fails.
    fn get_plain(&mut self, name: &str) -> Result<Option<Vec<u8>>>;

    /// Asks whether a file is there, and how long it is.
    ///
    /// # Errors
    /// As [`get_plain`](Self::get_plain).
    fn probe(&mut self, name: &str) -> Result<Option<u64>>;

    /// Fetches a file that is there.
    ///
    /// # Errors
    /// As [`get_plain`](Self::get_plain).
    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>>;

    /// `bootcode.bin` begins with DHCP again.
    ///
    /// # Errors
    /// When nobody answers.
    fn dhcp_again(&mut self) -> Result<()>;
}

/// What a board got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The folder below which it found its files, with the slash; empty where it did not.
    pub prefix: String,
    /// Every file by its name without the prefix, as it came the last time.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Every name that was asked for, with the prefix, in order; `!` in front of those that were not
    /// there.
    pub asked: Vec<String>,
    /// The kernel that it would start.
    pub kernel: String,
    /// The device tree for that.
    pub device_tree: String,
    /// The initramfs for that.
    pub initramfs: Option<String>,
    /// The kernel's arguments, without those that the board adds.
    pub cmdline: String,
    /// The boot loader update that it would write to its EEPROM, and restart.
    pub update: Option<Vec<u8>>,
}

impl Fetched {
    /// A file that it got.
    ///
    /// # Errors
    /// When it did not.
    pub fn file(&self, name: &str) -> Result<&[u8]> {
        let file = self.files.get(name);
        file.map(Vec::as_slice)
            .with_context(|| format!("the board did not load {name}"))
    }
}

/// One boot in progress.
struct Course<'a> {
    pi: &'a Pi,
    files: &'a mut dyn Files,
    fetched: Fetched,
}

/// Plays a board's requests until it would start the kernel, or write an update.
///
/// # Errors
/// Where a board would stop: a file that it needs is missing, or a transfer fails.
pub fn boot(pi: &Pi, files: &mut dyn Files) -> Result<Fetched> {
    let mut course = Course {
        pi,
        files,
        fetched: Fetched::default(),
    };
    match pi.board {
        Board::Pi3B | Board::Pi3BPlus => course.rom()?,
        Board::Pi4 => course.pi4()?,
        Board::Pi5 => course.pi5()?,
    }
    Ok(course.fetched)
}

impl Course<'_> {
    /// 3B and 3B+.
    fn rom(&mut self) -> Result<()> {
        let bootcode = self.files.get_plain("bootcode.bin")?;
        self.asked("bootcode.bin", bootcode.is_some());
        let bootcode = bootcode.context("the ROM stops: there is no bootcode.bin")?;
        self.fetched.files.insert("bootcode.bin".into(), bootcode);
        let signature = self.files.get_plain("bootsig.bin")?;
        self.asked("bootsig.bin", signature.is_some());
        self.files.dhcp_again()?;
        if self.look(&format!("{}start.elf", self.pi.prefix()))? {
            self.fetched.prefix = self.pi.prefix();
        }
        self.habit("autoboot.txt")?;
        self.need("config.txt")?;
        self.habit("recovery.elf")?;
        self.firmware()?;
        self.habit("recovery.elf")?;
        let config = self.config()?;
        self.habit("dt-blob.bin")?;
        self.habit("recovery.elf")?;
        self.config()?;
        self.habit("bootcfg.txt")?;
        self.initramfs(&config)?;
        self.device_tree(&config)?;
        self.overlays(&config)?;
        self.cmdline(&config)?;
        self.habit("recovery8.img")?;
        self.habit("recovery7.img")?;
        self.kernel(&config)?;
        let stub = if config.arm_64bit {
            "armstub8.bin"
        } else {
            "armstub8-32.bin"
        };
        self.habit(stub)
    }

    fn pi4(&mut self) -> Result<()> {
        let prefix = self.pi.prefix();
        // The second name only where the first one is missing.
        if self.look(&format!("{prefix}start4.elf"))? || self.look(&format!("{prefix}start.elf"))? {
            self.fetched.prefix = prefix;
        }
        self.need("config.txt")?;
        self.habit("vl805.sig")?;
        if self.self_update()? {
            return Ok(());
        }
        self.habit("recover4.elf")?;
        self.habit("recovery.elf")?;
        self.firmware()?;
        let config = self.config()?;
        self.habit("dt-blob.bin")?;
        self.habit("recovery.elf")?;
        self.config()?;
        self.habit("bootcfg.txt")?;
        self.initramfs(&config)?;
        self.device_tree(&config)?;
        self.overlays(&config)?;
        self.cmdline(&config)?;
        self.habit("recovery8.img")?;
        self.kernel(&config)?;
        self.habit("armstub8-gic.bin")
    }

    /// The order is assumed in parts; `config.txt` deciding about the prefix is, too.
    fn pi5(&mut self) -> Result<()> {
        let prefix = self.pi.prefix();
        if self.look(&format!("{prefix}config.txt"))? {
            self.fetched.prefix = prefix;
        }
        self.need("config.txt")?;
        if self.self_update()? {
            return Ok(());
        }
        let config = self.config()?;
        if config.boot_ramdisk {
            self.need("boot.img")?;
            bail!("the board has loaded boot.img; what is inside is not simulated");
        }
        self.device_tree(&config)?;
        self.overlays(&config)?;
        self.optional("overlays/bcm2712d0.dtbo")?;
        self.cmdline(&config)?;
        self.kernel(&config)?;
        self.initramfs(&config)
    }

    /// A newer boot loader. Returns whether there is one: the board writes it and starts again.
    fn self_update(&mut self) -> Result<bool> {
        if !self.optional("pieeprom.sig")? {
            return Ok(false);
        }
        let signature = String::from_utf8_lossy(self.fetched.file("pieeprom.sig")?).into_owned();
        self.need("pieeprom.upd")?;
        let update = self.fetched.file("pieeprom.upd")?;
        let signature: bugler_boot::pi::eeprom::Signature = signature.parse()?;
        if !signature.matches(update) {
            bail!("the board refuses pieeprom.upd: it has another hash than pieeprom.sig says");
        }
        self.fetched.update = Some(update.to_vec());
        Ok(true)
    }

    fn firmware(&mut self) -> Result<()> {
        if let Some((stage, fixup)) = self.pi.board.firmware() {
            self.need(stage)?;
            self.need(fixup)?;
        }
        Ok(())
    }

    fn config(&mut self) -> Result<Config> {
        self.need("config.txt")?;
        Ok(Config::read(
            self.pi.board,
            self.fetched.file("config.txt")?,
        ))
    }

    fn initramfs(&mut self, config: &Config) -> Result<()> {
        if let Some(name) = &config.initramfs {
            // A board starts without one that is missing; that is never what was wanted here.
            self.need(name)?;
            self.fetched.initramfs = Some(name.clone());
        }
        Ok(())
    }

    fn device_tree(&mut self, config: &Config) -> Result<()> {
        let own: Vec<&str> = config.device_tree.iter().map(String::as_str).collect();
        let names = if own.is_empty() {
            self.pi.board.device_trees()
        } else {
            &own
        };
        self.fetched.device_tree = self.first_of(names, "a device tree")?;
        Ok(())
    }

    fn overlays(&mut self, config: &Config) -> Result<()> {
        self.optional("overlays/overlay_map.dtb")?;
        for name in &config.overlays {
            self.optional(&format!("overlays/{name}.dtbo"))?;
        }
        Ok(())
    }

    fn cmdline(&mut self, config: &Config) -> Result<()> {
        if self.optional(&config.cmdline)? {
            let text = String::from_utf8_lossy(self.fetched.file(&config.cmdline)?);
            self.fetched.cmdline = text.lines().next().unwrap_or_default().to_owned();
        }
        Ok(())
    }

    fn kernel(&mut self, config: &Config) -> Result<()> {
        let own: Vec<&str> = config.kernel.iter().map(String::as_str).collect();
        let names = if own.is_empty() {
            self.pi.board.kernels(config.arm_64bit)
        } else {
            &own
        };
        self.fetched.kernel = self.first_of(names, "a kernel")?;
        Ok(())
    }

    /// Loads the first of several names that is there.
    fn first_of(&mut self, names: &[&str], what: &str) -> Result<String> {
        for name in names {
            if self.optional(name)? {
                return Ok((*name).to_owned());
            }
        }
        bail!(
            "the {} stops: it needs {what}, and there is none of {names:?}",
            self.pi.board
        )
    }

    /// A file that is looked for and not used here.
    fn habit(&mut self, name: &str) -> Result<()> {
        let name = format!("{}{name}", self.fetched.prefix);
        self.look(&name).map(|_| ())
    }

    /// Loads a file without which the board stops.
    fn need(&mut self, name: &str) -> Result<()> {
        if !self.optional(name)? {
            let prefix = &self.fetched.prefix;
            bail!("the {} stops: there is no {prefix}{name}", self.pi.board);
        }
        Ok(())
    }

    /// Asks whether a file is there, and asks again to load it.
    fn optional(&mut self, name: &str) -> Result<bool> {
        let path = format!("{}{name}", self.fetched.prefix);
        let Some(size) = self.files.probe(&path)? else {
            self.asked(&path, false);
            return Ok(false);
        };
        let file = self.files.get(&path)?;
        self.asked(&path, file.is_some());
        let file = file.with_context(|| format!("{path} is gone since it was asked for"))?;
        if file.len() as u64 != size {
            bail!(
                "{path} was announced with {size} bytes and came with {}",
                file.len()
            );
        }
        self.fetched.files.insert(name.to_owned(), file);
        Ok(true)
    }

    fn look(&mut self, path: &str) -> Result<bool> {
        let there = self.files.probe(path)?.is_some();
        self.asked(path, there);
        Ok(there)
    }

    fn asked(&mut self, path: &str, there: bool) {
        let mark = if there { "" } else { "!" };
        self.fetched.asked.push(format!("{mark}{path}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_boot::pi::{BootFiles, Family, Request, config_txt, eeprom::Signature};

    /// Files in memory; `served` are those that there are.
    struct Memory {
        served: BTreeMap<String, Vec<u8>>,
        dhcp: u32,
    }

    impl Files for Memory {
        fn get_plain(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
            Ok(self.served.get(name).cloned())
        }
        fn probe(&mut self, name: &str) -> Result<Option<u64>> {
            Ok(self.served.get(name).map(|file| file.len() as u64))
        }
        fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
            self.get_plain(name)
        }
        fn dhcp_again(&mut self) -> Result<()> {
            self.dhcp += 1;
            Ok(())
        }
    }

    fn memory(prefix: &str, names: &[&str]) -> Memory {
        let files = BootFiles {
            initramfs: Some("initrd"),
            ..BootFiles::new("vmlinuz")
        };
        let config = config_txt(&files, None).unwrap();
        let of = |name: &&str| match *name {
            "config.txt" => config.clone().into_bytes(),
            "cmdline.txt" => b"console=ttyS0 BOOTIF=01\n".to_vec(),
            name => name.as_bytes().to_vec(),
        };
        let served = names.iter().map(|name| {
            let prefix = if *name == "bootcode.bin" { "" } else { prefix };
            (format!("{prefix}{name}"), of(name))
        });
        Memory {
            served: served.collect(),
            dhcp: 0,
        }
    }

    fn wanted(board: Board) -> Vec<&'static str> {
        let mut names = vec!["config.txt", "cmdline.txt", "vmlinuz", "initrd"];
        names.extend(board.device_trees().last());
        if board.has_rom() {
            names.push("bootcode.bin");
        }
        if let Some((stage, fixup)) = board.firmware() {
            names.extend([stage, fixup]);
        }
        names
    }

    #[test]
    fn every_board_boots_with_a_folder_of_its_own_and_without() {
        for board in Board::ALL {
            let pi = Pi::new(board, 1);
            let mut with = memory(&pi.prefix(), &wanted(board));
            let fetched = boot(&pi, &mut with).unwrap();
            assert_eq!(fetched.prefix, pi.prefix(), "{board}");
            assert_eq!(fetched.cmdline, "console=ttyS0 BOOTIF=01");
            assert_eq!(fetched.file("vmlinuz").unwrap(), b"vmlinuz");
            assert_eq!(fetched.initramfs.as_deref(), Some("initrd"));
            assert_eq!(with.dhcp, u32::from(board.has_rom()));
            let fetched = boot(&pi, &mut memory("", &wanted(board))).unwrap();
            assert_eq!(fetched.prefix, "");
            assert_eq!(
                Some(fetched.device_tree.as_str()),
                board.device_trees().last().copied()
            );
        }
    }

    /// The server's own opinion of these requests: every one is known, and every miss is normal.
    #[test]
    fn no_miss_of_a_board_that_boots_worries_the_server() {
        for (board, family) in [
            (Board::Pi3B, Family::Pi3),
            (Board::Pi3BPlus, Family::Pi3Plus),
            (Board::Pi4, Family::Pi4),
            (Board::Pi5, Family::Pi5),
        ] {
            let pi = Pi::new(board, 1);
            for prefix in [pi.prefix(), String::new()] {
                let fetched = boot(&pi, &mut memory(&prefix, &wanted(board))).unwrap();
                for asked in &fetched.asked {
                    let path = asked.trim_start_matches('!');
                    let request = Request::parse(path).unwrap_or_else(|| panic!("{board}: {path}"));
                    let needed = ["vmlinuz", "initrd"];
                    // Names that config.txt says to a board that has another one first.
                    let tried = board.device_trees().contains(&request.name.as_str());
                    let prefix_probe = path == format!("{}config.txt", pi.prefix());
                    if asked.starts_with('!') && !tried && !prefix_probe {
                        assert!(
                            request.missing_is_normal(family, &needed),
                            "{board}: {path}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_recorded_order_of_a_4() {
        let pi = Pi::new(Board::Pi4, 1);
        let fetched = boot(&pi, &mut memory("", &wanted(pi.board))).unwrap();
        let expected = "!91cdf001/start4.elf !91cdf001/start.elf config.txt !vl805.sig !pieeprom.sig \
                        !recover4.elf !recovery.elf start4.elf fixup4.dat config.txt !dt-blob.bin \
                        !recovery.elf config.txt !bootcfg.txt initrd bcm2711-rpi-4-b.dtb \
                        !overlays/overlay_map.dtb cmdline.txt !recovery8.img vmlinuz !armstub8-gic.bin";
        assert_eq!(fetched.asked.join(" "), expected);
    }

    #[test]
    fn a_board_stops_where_a_file_is_missing_and_says_which() {
        for (board, name) in [
            (Board::Pi3B, "bootcode.bin"),
            (Board::Pi3BPlus, "start.elf"),
            (Board::Pi4, "fixup4.dat"),
            (Board::Pi4, "vmlinuz"),
            (Board::Pi5, "bcm2712-rpi-5-b.dtb"),
        ] {
            let mut names = wanted(board);
            names.retain(|wanted| *wanted != name);
            let error = boot(&Pi::new(board, 1), &mut memory("", &names)).unwrap_err();
            assert!(
                error.to_string().contains(name),
                "{board} without {name}: {error}"
            );
        }
    }

    #[test]
    fn a_boot_loader_update_is_taken_when_its_hash_fits() {
        for board in [Board::Pi4, Board::Pi5] {
            let pi = Pi::new(board, 1);
            let mut files = memory("", &wanted(board));
            let signature = Signature::of(b"new", 5).to_string().into_bytes();
            files.served.insert("pieeprom.sig".into(), signature);
            files.served.insert("pieeprom.upd".into(), b"new".to_vec());
            let fetched = boot(&pi, &mut files).unwrap();
            assert_eq!(fetched.update.as_deref(), Some(&b"new"[..]), "{board}");
            assert_eq!(fetched.kernel, "");
            files.served.insert("pieeprom.upd".into(), b"old".to_vec());
            let error = boot(&pi, &mut files).unwrap_err().to_string();
            assert!(error.contains("another hash"), "{error}");
        }
    }
}
