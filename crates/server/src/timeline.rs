//! Writes the timeline of every boot: what was asked, what was answered, which stage it reached.
//!
//! ```text
//! DHCP thread --\
//! TFTP thread ---+--> bounded channel --> Timeline::run --> store (devices, sessions, events)
//! HTTP tasks ---/
//! ```
//!
//! Packet handlers must not wait for the disk, so they only put a [`Seen`] into the channel. A
//! full channel drops it: a boot matters more than its record. What must be on disk before an
//! answer (a lease, a token, a task) does not go this way.

use crate::clock;
use bugler_boot::{BootAction, BootPlan, ClientFacts, Goal, MOST_TRIES, goes_round};
use bugler_model::{
    Arch, BootSession, Device, EfiStart, EventKind, Firmware, MacAddr, NewEvent, OfferShape,
    Outcome, Presence, Quirks, SessionId, Stage, Timestamp,
};
use bugler_store::{Sighting, Store, StoreError};
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Things seen that wait to be written.
const QUEUE: usize = 8192;

/// How long a machine that was sent to its disk may go on asking before that is another boot.
const LOCAL_QUIET_MS: i64 = 60_000;

/// Something that belongs on a timeline.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A boot client asked by DHCP, and was answered by this plan.
    Asked {
        facts: ClientFacts,
        message: &'static str,
        plan: BootPlan,
        at: Timestamp,
    },
    /// A client began to fetch a file of the boot tree.
    Fetching {
        mac: MacAddr,
        stage: Stage,
        address: Ipv4Addr,
        at: Timestamp,
    },
    /// A transfer ended. `stage` is reached by it where it was whole.
    Fetched {
        mac: MacAddr,
        stage: Option<Stage>,
        text: String,
        at: Timestamp,
    },
    /// A ROM took an offer of this shape, after the ordinary one did not help.
    Took {
        mac: MacAddr,
        shape: OfferShape,
        at: Timestamp,
    },
    /// A client has everything that its profile boots.
    Started { mac: MacAddr, at: Timestamp },
    /// Something without a device, or only with a MAC address.
    Note {
        kind: EventKind,
        mac: Option<MacAddr>,
        text: String,
        at: Timestamp,
    },
}

/// Where packet handlers put what they saw.
#[derive(Clone)]
pub(crate) struct Recorder(mpsc::Sender<Seen>);

impl Recorder {
    /// Records it, unless too much waits already.
    pub(crate) fn see(&self, seen: Seen) {
        if self.0.try_send(seen).is_err() {
            tracing::debug!("the timeline is behind: something was not recorded");
        }
    }
}

/// The task that writes.
pub(crate) struct Timeline {
    store: Arc<dyn Store>,
    queue: mpsc::Receiver<Seen>,
}

impl Timeline {
    /// A timeline and where to put things for it.
    pub(crate) fn new(store: Arc<dyn Store>) -> (Recorder, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (Recorder(sender), Self { store, queue })
    }

    /// Writes until every [`Recorder`] is gone.
    pub(crate) async fn run(mut self) {
        while let Some(seen) = self.queue.recv().await {
            if let Err(error) = self.write(seen).await {
                tracing::warn!(error = %clock::chain(&error), "the timeline could not be written");
            }
        }
    }

    /// Writes what waits, for tests.
    #[cfg(test)]
    pub(crate) async fn write_waiting(&mut self) {
        while let Ok(seen) = self.queue.try_recv() {
            self.write(seen).await.unwrap();
        }
    }

    async fn write(&self, seen: Seen) -> Result<(), StoreError> {
        match seen {
            Seen::Asked {
                facts,
                message,
                plan,
                at,
            } => self.asked(&facts, message, &plan, at).await,
            Seen::Fetching {
                mac,
                stage,
                address,
                at,
            } => {
                let Some(device) = self.store.find_client(mac, None) else {
                    return Ok(());
                };
                self.store.touch(device.id, Some(address), at);
                let session = session_for(&*self.store, &device, device.firmware, at).await?;
                self.store.reach_stage(session, stage, at).await
            }
            Seen::Fetched {
                mac,
                stage,
                text,
                at,
            } => {
                let Some(device) = self.store.find_client(mac, None) else {
                    return Ok(());
                };
                let session = self.store.open_session(device.id).map(|session| session.id);
                if let (Some(session), Some(stage)) = (session, stage) {
                    self.store.reach_stage(session, stage, at).await?;
                }
                self.event(&device, session, text, at).await
            }
            Seen::Took { mac, shape, at } => self.took(mac, shape, at).await,
            Seen::Started { mac, at } => self.started(mac, at).await,
            Seen::Note {
                kind,
                mac,
                text,
                at,
            } => {
                let device = mac.and_then(|mac| self.store.find_client(mac, None));
                let mut event = NewEvent::new(kind, text);
                event.device = device.map(|device| device.id);
                self.store.append_event(event, at).await.map(drop)
            }
        }
    }

    async fn asked(
        &self,
        facts: &ClientFacts,
        message: &str,
        plan: &BootPlan,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(firmware) = facts.firmware else {
            return Ok(());
        };
        // Before it is observed, which would take it for a machine that begins to boot.
        if plan.goal == Goal::Local
            && let Some(device) = self.store.find_client(facts.mac, facts.uuid)
            && self.asks_on(&device, at).await?
        {
            self.store.touch(device.id, None, at);
            return Ok(());
        }
        let sighting = Sighting {
            mac: facts.mac,
            uuid: facts.uuid,
            arch: facts.arch,
            firmware: Some(firmware),
        };
        let device = self.store.observe(sighting, at).await?.device;
        let answer = match &plan.action {
            BootAction::Silent => "no boot options".to_owned(),
            BootAction::Tftp(path) => format!("{path} over TFTP"),
            BootAction::Http(path) => format!("{path} over HTTP"),
            BootAction::RaspberryPi => "the Raspberry Pi boot menu".to_owned(),
        };
        let shape = match plan.shape {
            OfferShape::Standard => String::new(),
            shape => format!(" ({shape})"),
        };
        let text = format!(
            "{message} from {}: {answer}{shape}, because {}",
            facts.describe(),
            plan.why
        );
        if plan.goal == Goal::Local {
            return self.sent_to_disk(&device, firmware, text, at).await;
        }
        let open = self.store.open_session(device.id);
        let session = match open {
            Some(session) if !begins_anew(&session, firmware) => {
                if firmware.is_ipxe() && session.firmware.is_some_and(|first| !first.is_ipxe()) {
                    self.store
                        .reach_stage(session.id, Stage::Script, at)
                        .await?;
                }
                session.id
            }
            open => {
                if let Some(session) = open {
                    self.nothing_followed(&device, &session, firmware, at)
                        .await?;
                }
                let session = self
                    .store
                    .begin_session(device.id, Some(firmware), at)
                    .await?;
                self.store.reach_stage(session, Stage::Dhcp, at).await?;
                self.store
                    .set_presence(device.id, Presence::Booting, at)
                    .await?;
                self.say_that_it_goes_round(&device, session, plan, at)
                    .await?;
                session
            }
        };
        self.event(&device, Some(session), text, at).await
    }

    /// Once for each loop: a device that boots something every time and never gets there.
    async fn say_that_it_goes_round(
        &self,
        device: &Device,
        session: SessionId,
        plan: &BootPlan,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let device = self.store.device(device.id).await?;
        if device.tries != MOST_TRIES || !goes_round(&device) {
            return Ok(());
        }
        let what = plan
            .profile
            .as_ref()
            .map_or_else(String::new, |profile| format!(" of {profile}"));
        let text = format!(
            "{} has begun {MOST_TRIES} boots{what}, and none had an outcome: it goes round. `bugler \
             explain {}` says where they stop; `bugler device netboot {} off` sends it to its disk",
            device.label(),
            device.id,
            device.id
        );
        self.event(&device, Some(session), text, at).await
    }

    /// A UEFI that asks again although it was given a loader, and nothing came of it: the next kind is
    /// tried. Each fails on some hardware, and unsigned ones where Secure Boot is on.
    async fn nothing_followed(
        &self,
        device: &Device,
        session: &BootSession,
        firmware: Firmware,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let last = session.stages.iter().map(|(stage, _)| *stage).max();
        let by_ipxe = matches!(firmware, Firmware::UefiPxe | Firmware::UefiHttp)
            && device.arch == Some(Arch::X86_64)
            && !device.secure_boot;
        if last != Some(Stage::Loader) || !by_ipxe {
            return Ok(());
        }
        let had = device.quirks.efi;
        let mut next = had.next();
        // Signed GRUB finds no configuration over HTTP.
        if next == EfiStart::Signed && firmware == Firmware::UefiHttp {
            next = next.next();
        }
        let quirks = Quirks {
            efi: next,
            ..device.quirks
        };
        let why = format!("nothing followed after it fetched {had}: it gets {next} from now on");
        self.store
            .learn_quirks(device.id, quirks, why, at)
            .await
            .map(drop)
    }

    async fn took(&self, mac: MacAddr, shape: OfferShape, at: Timestamp) -> Result<(), StoreError> {
        let Some(device) = self.store.find_client(mac, None) else {
            return Ok(());
        };
        let quirks = Quirks {
            offer: shape,
            ..device.quirks
        };
        let why = format!("its firmware took the {shape}: it is offered that way from now on");
        self.store
            .learn_quirks(device.id, quirks, why, at)
            .await
            .map(drop)
    }

    async fn started(&self, mac: MacAddr, at: Timestamp) -> Result<(), StoreError> {
        let Some(device) = self.store.find_client(mac, None) else {
            return Ok(());
        };
        if let Some(session) = self.store.open_session(device.id) {
            self.store
                .end_session(session.id, Outcome::Started, at)
                .await?;
        }
        self.store
            .set_presence(device.id, Presence::Local, at)
            .await?;
        self.store.end_next(device.id, at).await
    }

    /// Whether a device that was sent to its disk asks again in the same boot.
    async fn asks_on(&self, device: &Device, at: Timestamp) -> Result<bool, StoreError> {
        if self.store.open_session(device.id).is_some() {
            return Ok(false);
        }
        let latest = self.store.sessions(device.id, 1).await?;
        Ok(latest.first().is_some_and(|session| {
            session.outcome == Outcome::Local && at.millis_since(session.started) < LOCAL_QUIET_MS
        }))
    }

    /// A device whose network boot is off asked: that is one boot, however often it asks.
    async fn sent_to_disk(
        &self,
        device: &Device,
        firmware: Firmware,
        text: String,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        // A boot that led to nothing did not go to the disk: the next one does.
        let open = self.store.open_session(device.id);
        let open = open.filter(|session| !begins_anew(session, firmware));
        if let Some(open) = open {
            self.store.reach_stage(open.id, Stage::Local, at).await?;
            self.store.end_session(open.id, Outcome::Local, at).await?;
        } else {
            let session = self
                .store
                .begin_session(device.id, Some(firmware), at)
                .await?;
            self.store.reach_stage(session, Stage::Dhcp, at).await?;
            self.store.reach_stage(session, Stage::Local, at).await?;
            self.store.end_session(session, Outcome::Local, at).await?;
        }
        self.store
            .set_presence(device.id, Presence::Local, at)
            .await?;
        self.event(device, None, text, at).await
    }

    async fn event(
        &self,
        device: &Device,
        session: Option<SessionId>,
        text: String,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut event = NewEvent::new(EventKind::Boot, text).device(device.id);
        event.session = session;
        self.store.append_event(event, at).await.map(drop)
    }
}

/// The device's open session, or a new one.
pub(crate) async fn session_for(
    store: &dyn Store,
    device: &Device,
    firmware: Option<Firmware>,
    at: Timestamp,
) -> Result<SessionId, StoreError> {
    match store.open_session(device.id) {
        Some(session) => Ok(session.id),
        None => store.begin_session(device.id, firmware, at).await,
    }
}

/// Whether a DHCP request of this firmware is a new boot, rather than the next step of the open
/// one.
///
/// Firmware that asks although its loader came is starting over. iPXE that asks after firmware of
/// another kind was given a loader is that loader; iPXE that asks although its script came is
/// starting over as well.
fn begins_anew(session: &BootSession, firmware: Firmware) -> bool {
    let reached = |stage| session.stages.iter().any(|(s, _)| *s >= stage);
    if firmware.is_ipxe() {
        // The loader asks twice: itself, and from `dhcp` in a script.
        reached(Stage::Kernel)
    } else {
        reached(Stage::Loader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::DeviceId;

    fn session(firmware: Firmware, stages: &[Stage]) -> BootSession {
        BootSession {
            id: SessionId(1),
            device: DeviceId(1),
            firmware: Some(firmware),
            started: Timestamp(0),
            stages: stages.iter().map(|&stage| (stage, Timestamp(0))).collect(),
            outcome: Outcome::Open,
        }
    }

    #[test]
    fn a_boot_is_one_session_from_firmware_to_kernel() {
        use Stage::{Dhcp, Initramfs, Kernel, Loader, Script};
        for (first, stages, asks, anew) in [
            (Firmware::BiosPxe, &[Dhcp][..], Firmware::BiosPxe, false),
            (
                Firmware::BiosPxe,
                &[Dhcp, Loader],
                Firmware::IpxeBios,
                false,
            ),
            (
                Firmware::BiosPxe,
                &[Dhcp, Loader, Script],
                Firmware::IpxeBios,
                false,
            ),
            (Firmware::BiosPxe, &[Dhcp, Loader], Firmware::BiosPxe, true),
            (
                Firmware::UefiPxe,
                &[Dhcp, Loader, Script, Kernel, Initramfs],
                Firmware::UefiPxe,
                true,
            ),
            (
                Firmware::IpxeBios,
                &[Dhcp, Script],
                Firmware::IpxeBios,
                false,
            ),
            (
                Firmware::IpxeBios,
                &[Dhcp, Script, Kernel],
                Firmware::IpxeBios,
                true,
            ),
        ] {
            assert_eq!(
                begins_anew(&session(first, stages), asks),
                anew,
                "{stages:?} then {asks}"
            );
        }
    }
}
