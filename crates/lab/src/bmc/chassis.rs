//! What the machine behind the BMC is made to do.

use bugler_bmc::ipmi::packet::{Completion, NetFn};
use std::collections::BTreeMap;

/// When the BMC falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Before it does what a Chassis Control asks for.
    Before,
    /// After it, before it answers.
    After,
}

/// The machine and its boot options.
#[derive(Debug, Default)]
pub struct Chassis {
    /// It has power.
    pub on: bool,
    /// Every Chassis Control that was carried out, in order.
    pub controls: Vec<u8>,
    /// The system boot options, by parameter, as they were written; in the order of the writes.
    pub written: Vec<Vec<u8>>,
    options: BTreeMap<u8, Vec<u8>>,
}

impl Chassis {
    /// Carries a command out; None for one that it does not know.
    pub(super) fn command(&mut self, command: u8, data: &[u8]) -> Option<(Completion, Vec<u8>)> {
        let refused = |completion| Some((completion, Vec::new()));
        match (command, data) {
            (0x01, _) => Some((Completion::OK, vec![u8::from(self.on), 0, 0])),
            (0x02, [control, ..]) => {
                match control & 0x0f {
                    0 | 5 => self.on = false,
                    1 => self.on = true,
                    2..=4 if !self.on => return refused(Completion::STATE),
                    2..=4 => {}
                    _ => return refused(Completion::INVALID_FIELD),
                }
                self.controls.push(control & 0x0f);
                Some((Completion::OK, Vec::new()))
            }
            (0x08, [parameter, value @ ..]) => {
                self.written.push(data.to_vec());
                self.options.insert(parameter & 0x7f, value.to_vec());
                Some((Completion::OK, Vec::new()))
            }
            (0x09, [parameter, ..]) => {
                let parameter = parameter & 0x7f;
                let mut answer = vec![0x01, parameter];
                match (self.options.get(&parameter), parameter) {
                    (Some(value), _) => answer.extend_from_slice(value),
                    (None, 5) => answer.extend_from_slice(&[0; 5]),
                    (None, _) => answer.push(0),
                }
                Some((Completion::OK, answer))
            }
            (0x02 | 0x08 | 0x09, _) => refused(Completion::BAD_LENGTH),
            _ => None,
        }
    }
}

/// Whether a request is one that switches the machine.
pub(super) fn switches(netfn: NetFn, command: u8) -> bool {
    netfn == NetFn::CHASSIS && command == 0x02
}
