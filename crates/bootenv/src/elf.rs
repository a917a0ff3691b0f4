//! The little of the ELF format that is needed: is a program static, and which firmware files
//! does a module name.
//!
//! Offsets and numbers follow the System V ABI, "Object Files". Only little-endian files are
//! read. A file that is cut or makes no sense gives `None`, never a panic.

use bugler_model::Arch;

/// Program header type of the path of the dynamic loader.
const PT_INTERP: u32 = 3;

/// Most program or section headers that are looked at. A module has about 50 sections.
const MAX_HEADERS: u16 = 4096;

/// An ELF file's facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The processor that it is for; `None` when it is another one than Bugler knows.
    pub(crate) arch: Option<Arch>,
    /// Whether it can run without a dynamic loader and libraries.
    pub(crate) is_static: bool,
}

/// Reads an ELF program.
pub(crate) fn program(file: &[u8]) -> Option<Program> {
    let header = Header::read(file)?;
    let mut is_static = true;
    let table = header.programs;
    for index in 0..table.count.min(MAX_HEADERS) {
        is_static &= u32_at(file, table.entry(index)?)? != PT_INTERP;
    }
    // `e_machine` at offset 18, the same in both classes.
    let arch = match u16_at(file, 18)? {
        3 => Some(Arch::X86),
        40 => Some(Arch::Arm),
        62 => Some(Arch::X86_64),
        183 => Some(Arch::Aarch64),
        _ => None,
    };
    Some(Program { arch, is_static })
}

/// The values of `firmware=` in a module's section `.modinfo`: paths under `/lib/firmware`, some
/// with a `*`.
pub(crate) fn firmware(module: &[u8]) -> Vec<String> {
    let Some(modinfo) = section(module, b".modinfo") else {
        return Vec::new();
    };
    let lines = modinfo.split(|&byte| byte == 0);
    let values = lines.filter_map(|line| line.strip_prefix(b"firmware="));
    values
        .filter_map(|value| String::from_utf8(value.to_vec()).ok())
        .collect()
}

/// The content of the section `name` of a 64-bit file.
fn section<'a>(file: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let header = Header::read(file)?;
    if !header.is_64 {
        return None;
    }
    let content = |at: usize| -> Option<&'a [u8]> {
        let offset = u64_at(file, at.checked_add(24)?)?;
        let size = u64_at(file, at.checked_add(32)?)?;
        let offset = usize::try_from(offset).ok()?;
        file.get(offset..offset.checked_add(usize::try_from(size).ok()?)?)
    };
    let table = header.sections;
    let names = content(table.entry(header.names_index)?)?;
    for index in 0..table.count.min(MAX_HEADERS) {
        let at = table.entry(index)?;
        let name_at = usize::try_from(u32_at(file, at)?).ok()?;
        let rest = names.get(name_at..)?;
        if rest
            .strip_prefix(name)
            .is_some_and(|rest| rest.first() == Some(&0))
        {
            return content(at);
        }
    }
    None
}

/// A table of headers of one size.
#[derive(Clone, Copy)]
struct Table {
    offset: usize,
    entry_size: u16,
    count: u16,
}

impl Table {
    /// Where the header `index` starts.
    fn entry(self, index: u16) -> Option<usize> {
        self.offset
            .checked_add(usize::from(index) * usize::from(self.entry_size))
    }
}

struct Header {
    is_64: bool,
    programs: Table,
    sections: Table,
    /// Which section holds the names of the sections.
    names_index: u16,
}

impl Header {
    fn read(file: &[u8]) -> Option<Self> {
        if file.get(..4)? != b"\x7fELF" || *file.get(5)? != 1 {
            return None;
        }
        let is_64 = match *file.get(4)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let offset = |at32, at64| -> Option<usize> {
            if is_64 {
                usize::try_from(u64_at(file, at64)?).ok()
            } else {
                usize::try_from(u32_at(file, at32)?).ok()
            }
        };
        let half = |at32, at64| u16_at(file, if is_64 { at64 } else { at32 });
        Some(Self {
            is_64,
            programs: Table {
                offset: offset(28, 32)?,
                entry_size: half(42, 54)?,
                count: half(44, 56)?,
            },
            sections: Table {
                offset: offset(32, 40)?,
                entry_size: half(46, 58)?,
                count: half(48, 60)?,
            },
            names_index: half(50, 62)?,
        })
    }
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(crate) fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    bytes_at(file, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    bytes_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Option<u64> {
    bytes_at(file, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A 64-bit file with the sections "", ".shstrtab" and `.modinfo`.
    fn module(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut file = vec![0_u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&62_u16.to_le_bytes());
        let mut headers = vec![0_u8; 64];
        for (name_at, content) in [(1_u32, &names[..]), (11, modinfo)] {
            let mut header = vec![0_u8; 64];
            header[..4].copy_from_slice(&name_at.to_le_bytes());
            header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            headers.extend(header);
            file.extend(content);
        }
        let table = file.len() as u64;
        file[40..48].copy_from_slice(&table.to_le_bytes());
        file[58..60].copy_from_slice(&64_u16.to_le_bytes());
        file[60..62].copy_from_slice(&3_u16.to_le_bytes());
        file[62..64].copy_from_slice(&1_u16.to_le_bytes());
        file.extend(headers);
        file
    }

    #[test]
    fn firmware_names_are_read() {
        let file = module(b"license=GPL\0firmware=tigon/tg3.bin\0firmware=tigon/tg3_tso.bin\0");
        assert_eq!(firmware(&file), ["tigon/tg3.bin", "tigon/tg3_tso.bin"]);
        assert!(firmware(&module(b"license=GPL\0")).is_empty());
    }

    #[test]
    fn this_test_is_a_program_and_a_text_is_not() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let program = super::program(&own).unwrap();
        assert!(program.arch.is_some());
        assert!(!program.is_static);
        assert_eq!(super::program(b"#!/bin/sh\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut file = b"\x7fELF\x02\x01".to_vec();
            file.extend(bytes);
            let _ = program(&file);
            let _ = firmware(&file);
        }

        #[test]
        fn damaged_files_are_survived(at in 0_usize..300, byte in any::<u8>(), cut in 0_usize..400) {
            let mut file = module(b"firmware=a.bin\0");
            if let Some(target) = file.get_mut(at) {
                *target = byte;
            }
            file.truncate(cut);
            let _ = program(&file);
            let _ = firmware(&file);
        }
    }
}
