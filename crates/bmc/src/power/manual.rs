//! A person with a finger.

use super::{Action, Boot, Outcome, PowerDriver};
use crate::error::Error;

/// For machines that nothing can switch: says what to press.
#[derive(Debug, Clone)]
pub struct Manual {
    /// What the machine is called, and where it stands.
    pub machine: String,
}

#[async_trait::async_trait]
impl PowerDriver for Manual {
    fn name(&self) -> &'static str {
        "manual"
    }

    async fn power(&self, action: Action) -> Result<Outcome, Error> {
        let machine = &self.machine;
        Ok(Outcome::Told(match action {
            Action::On => format!("press the power button of {machine}"),
            Action::Off => format!("hold the power button of {machine} for 5 s"),
            Action::Soft => format!("shut {machine} down, or press its power button shortly"),
            Action::Cycle => {
                format!("take the power cable of {machine} out, wait 10 s, and put it back")
            }
            Action::Reset => {
                format!("press the reset button of {machine}, or switch it off and on")
            }
            Action::Diag => {
                return Err(Error::Unsupported {
                    driver: "manual",
                    what: "a diagnostic interrupt".to_owned(),
                });
            }
        }))
    }

    async fn set_boot(&self, boot: Boot) -> Result<(), Error> {
        Err(Error::Unsupported {
            driver: "manual",
            what: format!(
                "the boot device {}; choose it in the boot menu of {} (often F12 or F11)",
                boot.device, self.machine
            ),
        })
    }
}
