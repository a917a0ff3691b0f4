//! The commands that are used: what is sent, and what the answers mean (IPMI 2.0 chapters 20 to 28).

use crate::ipmi::packet::{AuthType, NetFn, Role};
use crate::power::Device;
use std::fmt;

/// The channel that a request comes in by (section 6.3).
const THIS_CHANNEL: u8 = 0x0e;
/// The payload type of Serial over LAN, and the instance of it that is used.
const SOL: [u8; 2] = [0x01, 0x01];

/// A request to a BMC.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// What the command belongs to.
    pub netfn: NetFn,
    /// The command.
    pub command: u8,
    /// What it takes.
    pub data: Vec<u8>,
    /// Whether it may be carried out twice without harm. If not, it is sent once and then only waited
    /// for.
    pub repeatable: bool,
    /// Its name in the specification.
    pub name: &'static str,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:02x?})", self.name, self.data)
    }
}

impl Request {
    fn new(netfn: NetFn, command: u8, data: &[u8], name: &'static str) -> Self {
        Self {
            netfn,
            command,
            data: data.to_vec(),
            repeatable: true,
            name,
        }
    }
}

/// Get Channel Authentication Capabilities (section 22.13). `rmcp_plus` asks for what is new in IPMI
/// 2.0 too, which some IPMI 1.5 BMCs take for an error.
pub fn auth_capabilities(role: Role, rmcp_plus: bool) -> Request {
    let channel = THIS_CHANNEL | if rmcp_plus { 0x80 } else { 0 };
    Request::new(
        NetFn::APP,
        0x38,
        &[channel, role.value()],
        "Get Channel Authentication Capabilities",
    )
}

/// What came back of [`auth_capabilities`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthCapabilities {
    /// The channel has IPMI 2.0 sessions.
    pub v20: bool,
    /// The channel has IPMI 1.5 sessions.
    pub v15: bool,
    /// Bits of the authentication types of IPMI 1.5.
    types: u8,
}

impl AuthCapabilities {
    /// Reads an answer; None where it ends early.
    pub fn read(data: &[u8]) -> Option<Self> {
        let [_, types, _, extended] = *data.first_chunk::<4>()?;
        // Bit 7: the fourth byte says which sessions there are. Without it, this is IPMI 1.5.
        let tells = types & 0x80 != 0;
        Some(Self {
            v20: tells && extended & 0x02 != 0,
            v15: !tells || extended & 0x01 != 0,
            types: types & 0x3f,
        })
    }

    /// Whether an authentication type of IPMI 1.5 is offered.
    pub fn offers(self, auth: AuthType) -> bool {
        self.types & (1 << auth.value()) != 0
    }

    /// The types that are offered, for people.
    pub fn offered(self) -> String {
        let names: Vec<_> = (0..6)
            .filter_map(AuthType::of)
            .filter(|auth| self.offers(*auth))
            .map(|auth| auth.to_string())
            .collect();
        names.join(", ")
    }
}

/// Get Channel Cipher Suites (section 22.15): the part of the list with this index, 0 to 63.
pub fn cipher_suites(index: u8) -> Request {
    Request::new(
        NetFn::APP,
        0x54,
        &[THIS_CHANNEL, 0x00, 0x80 | (index & 0x3f)],
        "Get Channel Cipher Suites",
    )
}

/// The most bytes of the list in one answer; a part with fewer is the last.
pub const CIPHER_SUITE_PART: usize = 16;

/// The numbers of the suites in a list that was put together from its parts (table 22-19). Suites that
/// a manufacturer made up are left out.
pub fn suite_numbers(records: &[u8]) -> Vec<u8> {
    let mut numbers = Vec::new();
    let mut rest = records;
    while let Some((tag, tail)) = rest.split_first() {
        rest = tail;
        match tag {
            0xc0 => {
                if let Some((number, tail)) = rest.split_first() {
                    numbers.push(*number);
                    rest = tail;
                }
            }
            // Suite number and three bytes of enterprise number.
            0xc1 => rest = rest.get(4..).unwrap_or_default(),
            // An algorithm: what the numbers mean is known.
            _ => {}
        }
    }
    numbers
}

/// Get Session Challenge (section 22.16), of IPMI 1.5.
pub fn session_challenge(auth: AuthType, user: &[u8]) -> Request {
    let mut data = vec![auth.value()];
    data.extend(user.iter().copied().chain([0; 16]).take(16));
    Request::new(NetFn::APP, 0x39, &data, "Get Session Challenge")
}

/// Activate Session (section 22.17), of IPMI 1.5. `sequence` is the number that the BMC's first packet
/// is to have.
pub fn activate_session(
    auth: AuthType,
    role: Role,
    challenge: &[u8; 16],
    sequence: u32,
) -> Request {
    let mut data = vec![auth.value(), role.value()];
    data.extend_from_slice(challenge);
    data.extend_from_slice(&sequence.to_le_bytes());
    Request::new(NetFn::APP, 0x3a, &data, "Activate Session")
}

/// Set Session Privilege Level (section 22.18).
pub fn set_privilege(role: Role) -> Request {
    Request::new(
        NetFn::APP,
        0x3b,
        &[role.value()],
        "Set Session Privilege Level",
    )
}

/// Close Session (section 22.19).
pub fn close_session(session: u32) -> Request {
    Request::new(NetFn::APP, 0x3c, &session.to_le_bytes(), "Close Session")
}

/// Get Device ID (section 20.1): what also keeps a session alive.
pub fn device_id() -> Request {
    Request::new(NetFn::APP, 0x01, &[], "Get Device ID")
}

/// What a BMC says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceId {
    /// The firmware's version, major and minor.
    pub firmware: (u8, u8),
    /// The version of IPMI, major and minor.
    pub ipmi: (u8, u8),
    /// The manufacturer's enterprise number.
    pub manufacturer: u32,
    /// The product, by the manufacturer's count.
    pub product: u16,
}

impl DeviceId {
    /// Reads an answer; None where it ends early.
    pub fn read(data: &[u8]) -> Option<Self> {
        let [_, _, major, minor, ipmi, _, m0, m1, m2, p0, p1] = *data.first_chunk::<11>()?;
        Some(Self {
            // The minor version is decimal, a digit a nibble.
            firmware: (major & 0x7f, (minor >> 4) * 10 + (minor & 0x0f)),
            ipmi: (ipmi & 0x0f, ipmi >> 4),
            manufacturer: u32::from_le_bytes([m0, m1, m2 & 0x0f, 0]),
            product: u16::from_le_bytes([p0, p1]),
        })
    }
}

/// Get Chassis Status (section 28.2).
pub fn chassis_status() -> Request {
    Request::new(NetFn::CHASSIS, 0x01, &[], "Get Chassis Status")
}

/// Whether the machine has power, by an answer to [`chassis_status`]; None where it ends early.
pub fn is_on(data: &[u8]) -> Option<bool> {
    data.first().map(|state| state & 0x01 != 0)
}

/// What Chassis Control does (section 28.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Control {
    /// Power off at once.
    Off = 0,
    /// Power on.
    On = 1,
    /// Off, a second at least, on.
    Cycle = 2,
    /// Hard reset.
    Reset = 3,
    /// A diagnostic interrupt (NMI).
    Diag = 4,
    /// Ask the operating system to shut down, by ACPI.
    Soft = 5,
}

/// Chassis Control (section 28.3). It is not repeatable.
pub fn chassis_control(control: Control) -> Request {
    Request {
        repeatable: false,
        ..Request::new(NetFn::CHASSIS, 0x02, &[control as u8], "Chassis Control")
    }
}

/// Boot flags (table 28-14, parameter 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootFlags {
    /// What to boot.
    pub device: Device,
    /// Each time, and not only the next.
    pub persistent: bool,
    /// As UEFI, and not as BIOS. Where it is left out, some machines take it for BIOS.
    pub efi: bool,
}

impl BootFlags {
    fn selector(self) -> u8 {
        match self.device {
            Device::None => 0,
            Device::Pxe => 1,
            Device::Disk => 2,
            Device::Cdrom => 5,
            Device::Setup => 6,
        }
    }

    /// The five bytes of the parameter.
    pub fn to_bytes(self) -> [u8; 5] {
        let valid = 0x80;
        let flags = valid | u8::from(self.persistent) << 6 | u8::from(self.efi) << 5;
        [flags, self.selector() << 2, 0, 0, 0]
    }

    /// Reads an answer to [`boot_flags`]; None where it ends early, or names a device of no use here.
    /// Flags that are not valid say that nothing is set.
    pub fn read(data: &[u8]) -> Option<Self> {
        // The version of the parameters, and which one it is.
        let [_, _, flags, device] = *data.first_chunk::<4>()?;
        let device = match (flags & 0x80 != 0, device >> 2 & 0x0f) {
            (false, _) | (true, 0) => Device::None,
            (true, 1) => Device::Pxe,
            (true, 2) => Device::Disk,
            (true, 5) => Device::Cdrom,
            (true, 6) => Device::Setup,
            (true, _) => return None,
        };
        Some(Self {
            device,
            persistent: flags & 0x40 != 0,
            efi: flags & 0x20 != 0,
        })
    }
}

/// Get System Boot Options (section 28.13), the boot flags.
pub fn boot_flags() -> Request {
    Request::new(
        NetFn::CHASSIS,
        0x09,
        &[0x05, 0x00, 0x00],
        "Get System Boot Options",
    )
}

/// The requests that set boot flags, in their order (section 28.12), and of each whether the BMC has
/// to take it: the parameters around the flags themselves are optional (table 28-14).
pub fn set_boot_flags(flags: BootFlags) -> Vec<(Request, bool)> {
    let parameter = |number: u8, data: &[u8]| {
        let data: Vec<u8> = [number].iter().chain(data).copied().collect();
        Request::new(NetFn::CHASSIS, 0x08, &data, "Set System Boot Options")
    };
    vec![
        // Set in progress.
        (parameter(0, &[0x01]), false),
        // The firmware has not dealt with the flags that come: its acknowledgement is written over.
        (parameter(4, &[0x01, 0x01]), false),
        (parameter(5, &flags.to_bytes()), true),
        // Commit, complete.
        (parameter(0, &[0x02]), false),
        (parameter(0, &[0x00]), false),
    ]
}

/// Activate Payload (section 24.1) for Serial over LAN: encrypted, authenticated, and with the BMC's
/// alerts kept off the serial line meanwhile.
pub fn activate_sol() -> Request {
    let [kind, instance] = SOL;
    Request::new(
        NetFn::APP,
        0x48,
        &[kind, instance, 0xc6, 0, 0, 0],
        "Activate Payload",
    )
}

/// Completion codes of [`activate_sol`].
pub mod sol_code {
    use crate::ipmi::packet::Completion;
    /// It is active on another session.
    pub const ACTIVE_ELSEWHERE: Completion = Completion(0x80);
    /// It is switched off.
    pub const DISABLED: Completion = Completion(0x81);
    /// As many are active as there can be.
    pub const LIMIT: Completion = Completion(0x82);
    /// It is only to be had without encryption.
    pub const NO_ENCRYPTION: Completion = Completion(0x83);
    /// It is only to be had with encryption.
    pub const NEEDS_ENCRYPTION: Completion = Completion(0x84);
}

/// What came back of [`activate_sol`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SolActivated {
    /// The longest SOL packet that the BMC takes, in bytes, its header included.
    pub to_bmc: u16,
    /// The UDP port for SOL; BMCs also say 0 or a wrong one.
    pub port: u16,
}

impl SolActivated {
    /// Reads an answer; None where it ends early.
    pub fn read(data: &[u8]) -> Option<Self> {
        let [_, _, _, _, i0, i1, _, _, p0, p1] = *data.first_chunk::<10>()?;
        Some(Self {
            to_bmc: u16::from_le_bytes([i0, i1]),
            port: u16::from_le_bytes([p0, p1]),
        })
    }
}

/// Deactivate Payload (section 24.2) for Serial over LAN, whichever session it is active on.
pub fn deactivate_sol() -> Request {
    let [kind, instance] = SOL;
    Request::new(
        NetFn::APP,
        0x49,
        &[kind, instance, 0, 0, 0, 0],
        "Deactivate Payload",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_flags_are_written_and_read_back() {
        for device in Device::ALL {
            for (persistent, efi) in [(false, false), (true, false), (false, true), (true, true)] {
                let flags = BootFlags {
                    device,
                    persistent,
                    efi,
                };
                let mut answer = vec![0x01, 0x05];
                answer.extend_from_slice(&flags.to_bytes());
                assert_eq!(BootFlags::read(&answer), Some(flags));
            }
        }
        let pxe = BootFlags {
            device: Device::Pxe,
            persistent: false,
            efi: true,
        };
        assert_eq!(pxe.to_bytes(), [0xa0, 0x04, 0, 0, 0]);
    }

    #[test]
    fn the_parameters_are_written_in_the_order_of_the_specification() {
        let flags = BootFlags {
            device: Device::Setup,
            persistent: true,
            efi: false,
        };
        let written: Vec<_> = set_boot_flags(flags)
            .into_iter()
            .map(|(request, needed)| (request.data, needed))
            .collect();
        assert_eq!(
            written,
            [
                (vec![0, 1], false),
                (vec![4, 1, 1], false),
                (vec![5, 0xc0, 0x18, 0, 0, 0], true),
                (vec![0, 2], false),
                (vec![0, 0], false),
            ]
        );
    }

    #[test]
    fn suites_are_found_among_algorithms_and_manufacturers_own() {
        let records = [
            0xc0, 0x03, 0x01, 0x41, 0x81, 0xc1, 0x80, 0x11, 0x22, 0x33, 0x01, 0xc0, 0x11, 0x03,
            0x44, 0x81,
        ];
        assert_eq!(suite_numbers(&records), [3, 17]);
        assert_eq!(suite_numbers(&records[..12]), [3]);
        assert_eq!(suite_numbers(&[]), [0u8; 0]);
    }

    #[test]
    fn an_old_bmc_says_nothing_of_version_two() {
        let old = AuthCapabilities::read(&[1, 0x15, 0x04, 0x00, 0, 0, 0, 0]).unwrap();
        assert!(old.v15 && !old.v20);
        assert!(old.offers(AuthType::Md5) && old.offers(AuthType::Password));
        assert_eq!(old.offered(), "none, MD5, password");
        let new = AuthCapabilities::read(&[1, 0x95, 0x04, 0x03, 0, 0, 0, 0]).unwrap();
        assert!(new.v15 && new.v20);
        assert_eq!(AuthCapabilities::read(&[1, 0x95]), None);
    }
}
