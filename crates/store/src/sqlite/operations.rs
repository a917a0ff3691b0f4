//! The operations of [`Store`], each on its way: to memory, to the writer, to a reader.

use super::identity::identity;
use super::memory::Progressed;
use super::{
    SqliteStore, devices, events, exports, images, patch, policy, power, register, resolve,
    sessions, tasks, turns,
};
use crate::{
    AgentAuth, Claim, EventFilter, KnownExport, Observed, Registration, ResolveError, Sighting,
    Store, StoreError, TaskFilter, TaskReport, TokenHash,
};
use bugler_model::{
    BootPolicy, BootSession, Device, DeviceId, DevicePatch, DiskRule, Event, EventId, Export,
    ExportId, Firmware, Image, ImageId, ImageState, Lease, MacAddr, NewEvent, NewExport, NewImage,
    NewTask, Outcome, PowerEntry, PowerRole, Presence, Profile, ProfileName, Quirks, Rule,
    SessionId, Stage, Task, TaskAction, TaskId, Timestamp,
};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::broadcast;
use uuid::Uuid;

/// Longest that "last seen" is ahead of the disk.
const TOUCH_DELAY: Duration = Duration::from_secs(20);
/// Longest that progress is ahead of the disk.
const PROGRESS_DELAY: Duration = Duration::from_secs(3);

impl SqliteStore {
    /// The observed device, where the sighting tells nothing new but that it is there.
    fn seen_before(&self, seen: &Sighting, now: Timestamp) -> Option<Observed> {
        let uuid = identity(seen.uuid);
        let known = self.memory.client(seen.mac, uuid)?;
        let free = uuid.filter(|uuid| self.memory.device_with_uuid(*uuid).is_none());
        let mut after = Device::clone(&known);
        devices::absorb(&mut after, seen, free, self.limits.macs, now);
        after.seen = known.seen;
        if after != *known {
            return None;
        }
        self.touch(known.id, None, now);
        Some(Observed {
            device: self.memory.device(known.id).unwrap_or(known),
            new: false,
        })
    }

    /// Takes a report that is progress alone, without waiting for the disk.
    fn progress_alone(&self, report: &TaskReport, now: Timestamp) -> Option<Task> {
        let TaskReport {
            device,
            task,
            state,
            progress,
            message,
            disk,
        } = report;
        let names_disk = disk.as_ref().is_some_and(|disk| {
            let known = self.memory.open_task(*task);
            !known.is_some_and(|task| is_for(&task.action, disk))
        });
        if message.is_some() || names_disk {
            return None;
        }
        match self.memory.progress(*device, *task, *state, *progress, now) {
            Progressed::Noted(task, flush) => {
                if flush {
                    self.writer.flush_within(PROGRESS_DELAY);
                }
                let event = events::event(EventId(0), tasks::progress_event(&task), now);
                self.publish(event);
                Some(*task)
            }
            Progressed::No => None,
        }
    }
}

/// Whether it is a deploy to the disk with this very name.
fn is_for(action: &TaskAction, disk: &str) -> bool {
    match action {
        TaskAction::Deploy(deploy) => matches!(&deploy.disk, DiskRule::Named(name) if name == disk),
        TaskAction::Capture(_)
        | TaskAction::Wipe(_)
        | TaskAction::Reboot
        | TaskAction::PowerOff => true,
    }
}

/// The wall clock, for the one operation that is not told the time.
pub(super) fn wall_clock() -> Timestamp {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[async_trait::async_trait]
impl Store for SqliteStore {
    fn find_client(&self, mac: MacAddr, uuid: Option<Uuid>) -> Option<Arc<Device>> {
        self.memory.client(mac, identity(uuid))
    }

    async fn observe(&self, seen: Sighting, now: Timestamp) -> Result<Observed, StoreError> {
        if let Some(observed) = self.seen_before(&seen, now) {
            return Ok(observed);
        }
        self.writer
            .run("record a client", move |tx| {
                devices::observe(tx, &seen, now)
            })
            .await
    }

    async fn register(
        &self,
        registration: Registration,
        now: Timestamp,
    ) -> Result<Arc<Device>, StoreError> {
        self.writer
            .run("register a device", move |tx| {
                register::register(tx, &registration, now)
            })
            .await
    }

    async fn devices(&self) -> Result<Vec<Arc<Device>>, StoreError> {
        Ok(self.memory.devices())
    }

    async fn device(&self, id: DeviceId) -> Result<Arc<Device>, StoreError> {
        self.memory
            .device(id)
            .ok_or_else(|| StoreError::NotFound(format!("device {id}")))
    }

    async fn resolve_device(&self, text: &str) -> Result<Arc<Device>, ResolveError> {
        resolve::resolve(&self.memory.devices(), text)
    }

    async fn patch_device(
        &self,
        id: DeviceId,
        patch: DevicePatch,
        now: Timestamp,
    ) -> Result<Arc<Device>, StoreError> {
        self.writer
            .run("change a device", move |tx| {
                patch::patch(tx, id, &patch, now)
            })
            .await
    }

    async fn remove_device(&self, id: DeviceId, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run("remove a device", move |tx| devices::remove(tx, id, now))
            .await
    }

    async fn set_presence(
        &self,
        id: DeviceId,
        presence: Presence,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if self
            .memory
            .device(id)
            .is_some_and(|device| device.presence == presence)
        {
            if presence != Presence::Lost {
                self.touch(id, None, now);
            }
            return Ok(());
        }
        self.writer
            .run("record a device's presence", move |tx| {
                devices::set_presence(tx, id, presence, now)
            })
            .await
    }

    fn touch(&self, id: DeviceId, address: Option<Ipv4Addr>, now: Timestamp) {
        if self.memory.touch(id, address, now) {
            self.writer.flush_within(TOUCH_DELAY);
        }
    }

    fn boot_policy(&self) -> Arc<BootPolicy> {
        self.memory.policy()
    }

    async fn set_profile(&self, profile: Profile, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run("set a profile", move |tx| {
                policy::set_profile(tx, &profile, now)
            })
            .await
    }

    async fn remove_profile(&self, name: ProfileName, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run("remove a profile", move |tx| {
                policy::remove_profile(tx, &name, now)
            })
            .await
    }

    async fn set_rules(&self, rules: Vec<Rule>, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run("set the rules", move |tx| {
                policy::set_rules(tx, &rules, now)
            })
            .await
    }

    async fn replace_rules(
        &self,
        known: Vec<Rule>,
        rules: Vec<Rule>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.writer
            .run("replace the rules", move |tx| {
                policy::replace_rules(tx, &known, &rules, now)
            })
            .await
    }

    async fn learn_quirks(
        &self,
        device: DeviceId,
        quirks: Quirks,
        why: String,
        now: Timestamp,
    ) -> Result<Arc<Device>, StoreError> {
        self.writer
            .run("learn of a firmware", move |tx| {
                policy::learn_quirks(tx, device, quirks, &why, now)
            })
            .await
    }

    async fn end_next(&self, device: DeviceId, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run("end a boot that was asked for once", move |tx| {
                policy::end_next(tx, device, now)
            })
            .await
    }

    async fn begin_session(
        &self,
        device: DeviceId,
        firmware: Option<Firmware>,
        now: Timestamp,
    ) -> Result<SessionId, StoreError> {
        self.writer
            .run("begin a boot session", move |tx| {
                sessions::begin(tx, device, firmware, now)
            })
            .await
    }

    fn open_session(&self, device: DeviceId) -> Option<Arc<BootSession>> {
        self.memory.open_session(device)
    }

    async fn reach_stage(
        &self,
        session: SessionId,
        stage: Stage,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.writer
            .run("record a stage of a boot", move |tx| {
                sessions::reach_stage(tx, session, stage, now)
            })
            .await
    }

    async fn end_session(
        &self,
        session: SessionId,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.writer
            .run("end a boot session", move |tx| {
                sessions::end(tx, session, outcome, now)
            })
            .await
    }

    async fn sessions(
        &self,
        device: DeviceId,
        limit: usize,
    ) -> Result<Vec<BootSession>, StoreError> {
        self.readers
            .query("list boot sessions", move |sql| {
                sessions::latest(sql, device, limit)
            })
            .await
    }

    async fn set_boot_token(&self, session: SessionId, token: TokenHash) -> Result<(), StoreError> {
        self.writer
            .run("keep a boot token", move |tx| {
                sessions::set_boot_token(tx, session, token)
            })
            .await
    }

    async fn boot_token(
        &self,
        token: TokenHash,
    ) -> Result<Option<(DeviceId, SessionId)>, StoreError> {
        self.readers
            .query("look up a boot token", move |sql| {
                sessions::boot_token(sql, token)
            })
            .await
    }

    async fn expect_phone_home(
        &self,
        device: DeviceId,
        token: TokenHash,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.writer
            .run("keep the token of a call home", move |tx| {
                sessions::expect_phone_home(tx, device, token, now)
            })
            .await
    }

    async fn phone_home(
        &self,
        token: TokenHash,
        now: Timestamp,
    ) -> Result<Option<DeviceId>, StoreError> {
        self.writer
            .run("record a call home", move |tx| {
                sessions::phone_home(tx, token, now)
            })
            .await
    }

    fn agent_token(&self, token: TokenHash) -> Option<AgentAuth> {
        self.memory.agent(token)
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.leases.all().await
    }

    async fn commit_leases(&self, leases: Vec<Lease>) -> Result<(), StoreError> {
        self.leases.commit(leases).await
    }

    async fn create_tasks(
        &self,
        tasks: Vec<NewTask>,
        now: Timestamp,
    ) -> Result<Vec<Task>, StoreError> {
        self.writer
            .run("make tasks", move |tx| tasks::create(tx, tasks, now))
            .await
    }

    async fn claim_task(
        &self,
        device: DeviceId,
        now: Timestamp,
    ) -> Result<Option<Task>, StoreError> {
        if self
            .memory
            .device(device)
            .is_some_and(|device| device.open_tasks == 0)
        {
            return Ok(None);
        }
        self.writer
            .run("claim a task", move |tx| tasks::claim(tx, device, now))
            .await
    }

    async fn claim_in_turn(
        &self,
        device: DeviceId,
        at_once: u32,
        now: Timestamp,
    ) -> Result<Claim, StoreError> {
        if self
            .memory
            .device(device)
            .is_some_and(|device| device.open_tasks == 0)
        {
            return Ok(Claim::Nothing);
        }
        self.writer
            .run("claim a task", move |tx| {
                turns::claim_in_turn(tx, device, at_once, now)
            })
            .await
    }

    async fn report_task(&self, report: TaskReport, now: Timestamp) -> Result<Task, StoreError> {
        if let Some(task) = self.progress_alone(&report, now) {
            return Ok(task);
        }
        self.writer
            .run("record a report on a task", move |tx| {
                tasks::report(tx, &report, now)
            })
            .await
    }

    async fn cancel_task(&self, id: TaskId, by: &str, now: Timestamp) -> Result<Task, StoreError> {
        let by = by.to_owned();
        self.writer
            .run("cancel a task", move |tx| tasks::cancel(tx, id, &by, now))
            .await
    }

    async fn task(&self, id: TaskId) -> Result<Task, StoreError> {
        match self.memory.open_task(id) {
            Some(task) => Ok(task),
            None => {
                self.readers
                    .query("read a task", move |sql| tasks::one(sql, id))
                    .await
            }
        }
    }

    async fn open_task(&self, device: DeviceId) -> Result<Option<Task>, StoreError> {
        let mut task = self
            .readers
            .query("read a device's open task", move |sql| {
                tasks::open_one(sql, device)
            })
            .await?;
        if let Some(task) = &mut task {
            self.memory.overlay_task(task);
        }
        Ok(task)
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<Task>, StoreError> {
        let mut tasks = self
            .readers
            .query("list tasks", move |sql| tasks::filtered(sql, &filter))
            .await?;
        for task in &mut tasks {
            self.memory.overlay_task(task);
        }
        Ok(tasks)
    }

    async fn add_image(&self, image: NewImage, now: Timestamp) -> Result<Image, StoreError> {
        self.writer
            .run("enter an image", move |tx| images::add(tx, image, now))
            .await
    }

    async fn add_captured(
        &self,
        task: TaskId,
        image: NewImage,
        now: Timestamp,
    ) -> Result<Image, StoreError> {
        self.writer
            .run("enter a captured image", move |tx| {
                tasks::add_captured(tx, task, image, now)
            })
            .await
    }

    async fn captured(&self, task: TaskId) -> Result<Option<Image>, StoreError> {
        self.readers
            .query("look for a captured image", move |sql| {
                tasks::captured(sql, task)
            })
            .await
    }

    async fn images(&self) -> Result<Vec<Image>, StoreError> {
        self.readers.query("list images", images::all).await
    }

    async fn image(&self, text: &str) -> Result<Image, StoreError> {
        let text = text.to_owned();
        self.readers
            .query("read an image", move |sql| images::find(sql, &text))
            .await
    }

    async fn remove_image(&self, id: ImageId, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run("remove an image", move |tx| images::remove(tx, id, now))
            .await
    }

    async fn remove_images(&self, ids: Vec<ImageId>, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run("remove images", move |tx| {
                ids.iter().try_for_each(|id| images::remove(tx, *id, now))
            })
            .await
    }

    async fn begin_export(
        &self,
        new: NewExport,
        token: TokenHash,
        now: Timestamp,
    ) -> Result<Export, StoreError> {
        self.writer
            .run("give a device its root", move |tx| {
                exports::begin(tx, &new, token, now)
            })
            .await
    }

    async fn exports(&self) -> Result<Vec<KnownExport>, StoreError> {
        self.readers.query("list exports", exports::all).await
    }

    async fn remove_export(&self, id: ExportId, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run("remove an export", move |tx| exports::remove(tx, id, now))
            .await
    }

    async fn set_image_note(
        &self,
        id: ImageId,
        note: String,
        now: Timestamp,
    ) -> Result<Image, StoreError> {
        self.writer
            .run("change an image's note", move |tx| {
                images::set_note(tx, id, note, now)
            })
            .await
    }

    async fn set_image_state(
        &self,
        id: ImageId,
        state: ImageState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.writer
            .run("record an image's state", move |tx| {
                images::set_state(tx, id, state, now)
            })
            .await
    }

    async fn power_entries(&self, device: Option<DeviceId>) -> Result<Vec<PowerEntry>, StoreError> {
        self.readers
            .query("list what switches devices", move |sql| {
                power::entries(sql, device)
            })
            .await
    }

    async fn set_power(&self, entry: PowerEntry, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run("set what switches a device", move |tx| {
                power::set(tx, &entry, now)
            })
            .await
    }

    async fn remove_power(
        &self,
        device: DeviceId,
        role: PowerRole,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.writer
            .run("remove what switches a device", move |tx| {
                power::remove(tx, device, role, now)
            })
            .await
    }

    async fn learn_power(&self, entry: PowerEntry) -> Result<(), StoreError> {
        self.writer
            .run("keep how a BMC is spoken to", move |tx| {
                power::learn(tx, &entry)
            })
            .await
    }

    async fn append_event(&self, event: NewEvent, now: Timestamp) -> Result<Event, StoreError> {
        self.writer
            .run("keep an event", move |tx| events::append(tx, event, now))
            .await
    }

    fn publish(&self, event: Event) {
        // Nobody may be listening.
        drop(self.events.send(Arc::new(event)));
    }

    async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError> {
        self.readers
            .query("list events", move |sql| events::filtered(sql, &filter))
            .await
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }
}
