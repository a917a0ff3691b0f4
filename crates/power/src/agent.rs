//! Gets a machine from wherever it is into its agent.

use crate::error::{PowerError, chain};
use crate::service::{Done, Power};
use bugler_model::{BootDevice, Device, PowerAction, PowerDriver, PowerState};
use bugler_protocol::operator::{PowerVerdict, SetBoot};
use std::sync::Arc;
use std::time::Duration;

/// How long an operating system may take to shut down.
const SHUTDOWN: Duration = Duration::from_secs(180);
/// The wait between two looks at the power state.
const LOOK: Duration = Duration::from_secs(2);

impl Power {
    /// What will be done to get a device into its agent, in words; `None` where nothing switches it, or
    /// a person has to do it.
    ///
    /// # Errors
    /// Where the registry does not answer.
    pub async fn way_into_agent(&self, device: &Device) -> Result<Option<String>, PowerError> {
        let entries = self.store.power_entries(Some(device.id)).await?;
        let by = entries
            .iter()
            .find(|entry| entry.driver != PowerDriver::Manual {});
        Ok(by.map(|by| {
            let boots = if entries.iter().any(|entry| entry.driver.sets_boot()) {
                "told to boot from the network once, and "
            } else {
                ""
            };
            format!(
                "it is {boots}switched on or reset by {}",
                by.driver.summary()
            )
        }))
    }

    /// What a person is to press where nothing can.
    #[must_use]
    pub fn by_hand(device: &Device) -> String {
        format!(
            "switch {} on, or reset it, and have it boot from the network (often F12 in its firmware)",
            device.label()
        )
    }

    /// Switches a device on or resets it, in the background, so that it boots its agent: by one-time PXE
    /// where its driver can. `gently`: where it runs, its operating system is asked to shut down first,
    /// and nothing is done to a machine that does not. What came of it is told as events.
    pub fn into_agent(self: &Arc<Self>, device: Arc<Device>, gently: bool) {
        let power = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = power.bring(&device, gently).await {
                let text = format!(
                    "it was not brought into its agent: {}. {}",
                    chain(&error),
                    Self::by_hand(&device)
                );
                tracing::warn!("{}: {text}", device.label());
                power.tell(&device, text).await;
            }
        });
    }

    async fn bring(&self, device: &Device, gently: bool) -> Result<Done, PowerError> {
        let mut state = self.ask(device, false).await?;
        if gently && state == PowerState::On {
            self.shut_down(device).await?;
            state = PowerState::Off;
        }
        let entries = self.entries(device, false).await?;
        let wakes = entries
            .first()
            .is_some_and(|first| matches!(first.driver, PowerDriver::Wake { .. }));
        if gently && state == PowerState::Unknown && !wakes {
            return Err(PowerError::Invalid(
                "what switches it cannot tell whether it runs, and its system is not to be cut off"
                    .to_owned(),
            ));
        }
        // Shortly before: controllers forget it after a minute.
        let boot = SetBoot {
            device: BootDevice::Pxe,
            persistent: false,
        };
        match self.set_boot(device, boot).await {
            Ok(()) => {}
            // It boots what its firmware is set to, which on such machines is the network.
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
        let action = match state {
            PowerState::Off => PowerAction::On,
            PowerState::On => PowerAction::Reset,
            PowerState::Unknown if wakes => PowerAction::On,
            PowerState::Unknown => PowerAction::Cycle,
        };
        let done = self.switch(device, action, false).await?;
        if done.verdict == PowerVerdict::Unconfirmed {
            return Err(PowerError::Invalid(done.text));
        }
        Ok(done)
    }

    /// Asks the operating system to switch off, and waits until it has.
    async fn shut_down(&self, device: &Device) -> Result<(), PowerError> {
        self.switch(device, PowerAction::Soft, false).await?;
        let waited = async {
            while self.ask(device, false).await? != PowerState::Off {
                tokio::time::sleep(LOOK).await;
            }
            Ok::<(), PowerError>(())
        };
        tokio::time::timeout(SHUTDOWN, waited)
            .await
            .unwrap_or_else(|_| {
                Err(PowerError::Invalid(format!(
                    "its operating system did not shut down within {} s, and it was left running: shut it \
                     down by hand, or switch it off with `bugler power off {}`",
                    SHUTDOWN.as_secs(),
                    device.label()
                )))
            })
    }
}
