//! The one decision.

use crate::ClientFacts;
use bugler_model::{Arch, Device, Firmware, Netboot, Profile};

/// How a reply carries the decision to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootAction {
    /// No boot options at all: the firmware goes on to its next boot device.
    Silent,
    /// This path of the boot tree, over TFTP.
    Tftp(String),
    /// This path of the boot tree, as an absolute HTTP URL.
    Http(String),
}

/// What the device is meant to end up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nothing was asked, or nothing can be given.
    None,
    /// Its local disk.
    Local,
    /// The boot environment with the agent.
    Agent,
}

/// What a device boots now, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootPlan {
    /// What it is meant to end up in.
    pub goal: Goal,
    /// What to answer this request with.
    pub action: BootAction,
    /// Why, for people: one sentence.
    pub why: String,
}

/// Decides what a client boots.
///
/// `device` is what the registry knows of it; an unknown machine gets the agent, which records it
/// and waits (invariant 4: nothing on it is changed).
#[must_use]
pub fn plan(facts: &ClientFacts, device: Option<&Device>) -> BootPlan {
    let Some(firmware) = facts.firmware else {
        return silent(Goal::None, "it did not ask to boot");
    };
    let (goal, why) = goal(device);
    if goal == Goal::Local {
        return silent(goal, why);
    }
    let loader = match (firmware, facts.arch) {
        (Firmware::IpxeBios, Some(Arch::X86)) | (Firmware::IpxeUefi, Some(Arch::X86_64)) => {
            BootAction::Http(format!("ipxe/{}", facts.mac))
        }
        (Firmware::BiosPxe, Some(Arch::X86)) => BootAction::Tftp("undionly.kpxe".into()),
        (Firmware::UefiPxe, Some(Arch::X86_64)) => BootAction::Tftp("snponly.efi".into()),
        (Firmware::UefiHttp, Some(Arch::X86_64)) => BootAction::Http("snponly.efi".into()),
        _ => {
            let values: Vec<String> = facts.archs.iter().map(u16::to_string).collect();
            let why = format!(
                "{firmware} with architecture {} has no loader here; x86-64 PCs (0, 7, 9, 16) have",
                if values.is_empty() {
                    "unknown".into()
                } else {
                    values.join("+")
                },
            );
            return silent(Goal::None, why);
        }
    };
    BootPlan {
        goal,
        action: loader,
        why,
    }
}

fn goal(device: Option<&Device>) -> (Goal, String) {
    let Some(device) = device else {
        return (
            Goal::Agent,
            "nobody knows this machine: its agent registers it and waits".into(),
        );
    };
    if device.open_tasks > 0 {
        return (Goal::Agent, "a task waits for its agent".into());
    }
    match (device.netboot, device.profile) {
        (Netboot::Once, _) => (Goal::Agent, "its network boot is on for once".into()),
        (Netboot::Off, _) => (Goal::Local, "its network boot is off".into()),
        (Netboot::On, Profile::Local) => (Goal::Local, "its profile is the local disk".into()),
        (Netboot::On, Profile::Agent) => (Goal::Agent, "its profile is the agent".into()),
    }
}

fn silent(goal: Goal, why: impl Into<String>) -> BootPlan {
    BootPlan {
        goal,
        action: BootAction::Silent,
        why: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::{DeviceId, MacAddr, Presence, Timestamp};

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    fn facts(firmware: Firmware, arch: Arch) -> ClientFacts {
        ClientFacts::of_script_request(MAC, firmware, Some(arch))
    }

    fn device(netboot: Netboot, open_tasks: u32) -> Device {
        Device {
            id: DeviceId(1),
            name: None,
            tags: vec![],
            uuid: None,
            macs: vec![MAC],
            arch: None,
            firmware: None,
            netboot,
            profile: Profile::Agent,
            presence: Presence::Booting,
            address: None,
            inventory: None,
            created: Timestamp(0),
            seen: Timestamp(0),
            open_tasks,
        }
    }

    #[test]
    fn an_unknown_machine_gets_the_loader_of_its_firmware() {
        for (firmware, arch, action) in [
            (
                Firmware::BiosPxe,
                Arch::X86,
                BootAction::Tftp("undionly.kpxe".into()),
            ),
            (
                Firmware::UefiPxe,
                Arch::X86_64,
                BootAction::Tftp("snponly.efi".into()),
            ),
            (
                Firmware::UefiHttp,
                Arch::X86_64,
                BootAction::Http("snponly.efi".into()),
            ),
            (
                Firmware::IpxeBios,
                Arch::X86,
                BootAction::Http("ipxe/52:54:00:12:34:56".into()),
            ),
            (
                Firmware::IpxeUefi,
                Arch::X86_64,
                BootAction::Http("ipxe/52:54:00:12:34:56".into()),
            ),
        ] {
            let plan = plan(&facts(firmware, arch), None);
            assert_eq!(
                (plan.goal, plan.action),
                (Goal::Agent, action),
                "{firmware}"
            );
        }
    }

    #[test]
    fn a_device_whose_network_boot_is_off_gets_nothing_from_any_firmware() {
        let off = device(Netboot::Off, 0);
        for (firmware, arch) in [
            (Firmware::BiosPxe, Arch::X86),
            (Firmware::UefiPxe, Arch::X86_64),
            (Firmware::IpxeBios, Arch::X86),
        ] {
            let plan = plan(&facts(firmware, arch), Some(&off));
            assert_eq!((plan.goal, plan.action), (Goal::Local, BootAction::Silent));
        }
    }

    #[test]
    fn an_open_task_or_once_brings_the_agent_back() {
        let pxe = facts(Firmware::BiosPxe, Arch::X86);
        assert_eq!(plan(&pxe, Some(&device(Netboot::Off, 1))).goal, Goal::Agent);
        assert_eq!(
            plan(&pxe, Some(&device(Netboot::Once, 0))).goal,
            Goal::Agent
        );
    }

    #[test]
    fn an_architecture_without_a_loader_is_answered_with_nothing_and_said() {
        let plan = plan(&facts(Firmware::UefiPxe, Arch::Aarch64), None);
        assert_eq!((plan.goal, plan.action), (Goal::None, BootAction::Silent));
        assert!(plan.why.contains("no loader"), "{}", plan.why);
    }

    #[test]
    fn an_operating_system_that_wants_an_address_is_not_booted() {
        let mut os = facts(Firmware::BiosPxe, Arch::X86);
        os.firmware = None;
        assert_eq!(plan(&os, None).action, BootAction::Silent);
    }
}
