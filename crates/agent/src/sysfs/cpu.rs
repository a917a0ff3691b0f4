//! Processors.

use super::{MAX_TEXT, Sysfs};
use bugler_model::Cpu;
use std::fs;

/// Arm's number among those who design processors (Arm Architecture Reference Manual, MIDR_EL1).
const ARM: &str = "0x41";

/// The kernel tells Arm's processors by number (MIDR_EL1, PartNum). Those that servers and boards
/// have; another one is shown as its number.
const PARTS: [(&str, &str); 16] = [
    ("0xd03", "Cortex-A53"),
    ("0xd04", "Cortex-A35"),
    ("0xd05", "Cortex-A55"),
    ("0xd07", "Cortex-A57"),
    ("0xd08", "Cortex-A72"),
    ("0xd09", "Cortex-A73"),
    ("0xd0a", "Cortex-A75"),
    ("0xd0b", "Cortex-A76"),
    ("0xd0c", "Neoverse N1"),
    ("0xd0d", "Cortex-A77"),
    ("0xd40", "Neoverse V1"),
    ("0xd41", "Cortex-A78"),
    ("0xd44", "Cortex-X1"),
    ("0xd49", "Neoverse N2"),
    ("0xd4a", "Neoverse E1"),
    ("0xd4f", "Neoverse V2"),
];

impl Sysfs {
    /// The processors: `model name` on x86, elsewhere what there is.
    pub(super) fn cpu(&self) -> Cpu {
        let text = fs::read_to_string(self.path("proc/cpuinfo")).unwrap_or_default();
        let fields = |name: &'static str| {
            let lines = text.lines().filter_map(|line| line.split_once(':'));
            lines
                .filter(move |(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim())
        };
        let named = ["model name", "Model", "Hardware"]
            .into_iter()
            .find_map(|name| fields(name).next().map(str::to_owned));
        let model = named.or_else(|| {
            let part = fields("CPU part").next()?;
            let name = PARTS.iter().find(|(number, _)| *number == part);
            let is_arms = fields("CPU implementer").next() == Some(ARM);
            Some(match name.filter(|_| is_arms) {
                Some((_, name)) => format!("Arm {name}"),
                None => part.to_owned(),
            })
        });
        Cpu {
            model: model.unwrap_or_default().chars().take(MAX_TEXT).collect(),
            threads: u32::try_from(fields("processor").count()).unwrap_or(u32::MAX),
        }
    }
}
