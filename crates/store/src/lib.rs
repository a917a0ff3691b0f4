//! The registry: what Bugler knows of devices, leases, tasks, boot sessions, events and images.
//!
//! [`Store`] is a trait of *operations* ("claim the next task of this device"), never of tables:
//! what must happen together happens in one call, and an implementation may keep its rows as it
//! likes. [`SqliteStore`] is the implementation that needs nothing installed.
//!
//! An operation that returned `Ok` is durable (invariant 5). The exceptions say so:
//! [`Store::touch`], [`Store::publish`], and the progress in [`Store::report_task`].

mod error;
mod leaselog;
mod sqlite;
mod types;

pub use error::{ResolveError, StoreError};
#[doc(hidden)]
pub use leaselog::fuzz as fuzz_lease_file;
pub use sqlite::SqliteStore;
pub use types::{
    AgentAuth, Claim, EventFilter, KnownExport, Observed, Registration, Sighting, TaskFilter,
    TaskReport, TokenHash,
};

use bugler_model::{
    BootPolicy, BootSession, Device, DeviceId, DevicePatch, Event, Export, ExportId, Firmware,
    Image, ImageId, ImageState, Lease, MacAddr, NewEvent, NewExport, NewImage, NewTask, Outcome,
    PowerEntry, PowerRole, Presence, Profile, ProfileName, Quirks, Rule, SessionId, Stage, Task,
    TaskId, Timestamp,
};
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::broadcast;
use uuid::Uuid;

/// The registry, as operations.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    // ---- devices -------------------------------------------------------------------------

    /// The device that such a client is, if it is known: by MAC address first, then by UUID. A MAC
    /// address does not count where its device is known by its agent to have another UUID than the
    /// client told: interfaces are borrowed.
    ///
    /// Answers from memory, without waiting: DHCP and TFTP ask it for every packet.
    fn find_client(&self, mac: MacAddr, uuid: Option<Uuid>) -> Option<Arc<Device>>;

    /// Records that a client asked to boot: makes the device where it is not known, and keeps what
    /// the client told of itself. A sighting that names no firmware leaves the presence as it is.
    ///
    /// A UUID that many boards share (all zero, a vendor's filler) identifies nobody, here and
    /// everywhere else. A client that has the UUID, but none of the interfaces, of a device whose
    /// agent runs now is a new device. Of the devices that only packets told of, which no agent or operator has
    /// had to do with, the 10,000 latest are kept, and of a device's MAC addresses the 32 latest.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for a MAC address that can be no machine's own.
    async fn observe(&self, seen: Sighting, now: Timestamp) -> Result<Observed, StoreError>;

    /// Records what an agent found. All of its MAC addresses become this device's; devices that
    /// had been made for another interface of the same machine (same UUID, or one of the MAC
    /// addresses) and never had an agent are merged into it. Sets presence to `Agent` and closes
    /// the boot session as `Registered`; a `Netboot::Once` becomes `Off`.
    ///
    /// Where another device that has had an agent has the same UUID, this machine is that device,
    /// booted from an interface that was not known to be its own: it is the one that registers, and
    /// the one returned. The exception is a device whose agent runs now and found none of these
    /// interfaces: then two machines have one UUID, and they stay two devices.
    ///
    /// Where an agent of this device has reported another UUID, this is another machine that has
    /// borrowed its interface: a new device is made and returned, which gets none of its tasks.
    ///
    /// A device has one open task: of two that are merged, the younger one is cancelled.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where there is no such device, or the session is not its own.
    async fn register(
        &self,
        registration: Registration,
        now: Timestamp,
    ) -> Result<Arc<Device>, StoreError>;

    /// Every device, by id.
    async fn devices(&self) -> Result<Vec<Arc<Device>>, StoreError>;

    /// One device.
    async fn device(&self, id: DeviceId) -> Result<Arc<Device>, StoreError>;

    /// The one device that a person means: by id, name, MAC address or UUID, or by an unambiguous
    /// start of one. A whole match wins over a start. An id is only ever taken whole (`d1` never
    /// means `d12`), and a MAC address or UUID by four hex digits at least.
    async fn resolve_device(&self, text: &str) -> Result<Arc<Device>, ResolveError>;

    /// Changes a device as an operator asked.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where another device has the name, where it could be taken for an
    /// id, MAC address or UUID, and for a name or tag of more than 64 characters.
    async fn patch_device(
        &self,
        id: DeviceId,
        patch: DevicePatch,
        now: Timestamp,
    ) -> Result<Arc<Device>, StoreError>;

    /// Forgets a device with its sessions and ended tasks.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] while it has open tasks, or a layer that is kept.
    async fn remove_device(&self, id: DeviceId, now: Timestamp) -> Result<(), StoreError>;

    /// Records what was last heard from a device.
    async fn set_presence(
        &self,
        id: DeviceId,
        presence: Presence,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Notes that a device was heard from just now. Kept in memory, written now and then: what a
    /// crash loses is at most a minute of "last seen".
    fn touch(&self, id: DeviceId, address: Option<Ipv4Addr>, now: Timestamp);

    // ---- what devices boot -------------------------------------------------------------------

    /// Every profile and rule. Answers from memory: it is asked for every packet.
    fn boot_policy(&self) -> Arc<BootPolicy>;

    /// Makes a profile, or changes it. Its templates are the caller's to check.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for a name that is always there, and for a menu with an entry that
    /// does not exist or is a menu.
    async fn set_profile(&self, profile: Profile, now: Timestamp) -> Result<(), StoreError>;

    /// Removes a profile.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] while a device, a rule or a menu uses it.
    async fn remove_profile(&self, name: ProfileName, now: Timestamp) -> Result<(), StoreError>;

    /// Replaces the rules, all or none.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where one gives a profile that does not exist.
    async fn set_rules(&self, rules: Vec<Rule>, now: Timestamp) -> Result<(), StoreError>;

    /// Replaces the rules as [`set_rules`](Self::set_rules) does, if they are still `known`: so that
    /// of two people who change the same list at once, the second does not undo what the first did.
    ///
    /// # Errors
    /// [`StoreError::RulesChanged`] where they are others by now; else as for `set_rules`.
    async fn replace_rules(
        &self,
        known: Vec<Rule>,
        rules: Vec<Rule>,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Keeps what was learned of a device's firmware, and says why where that is new.
    async fn learn_quirks(
        &self,
        device: DeviceId,
        quirks: Quirks,
        why: String,
        now: Timestamp,
    ) -> Result<Arc<Device>, StoreError>;

    /// The boot that was asked for once has had its outcome: [`Device::next`] is over.
    async fn end_next(&self, device: DeviceId, now: Timestamp) -> Result<(), StoreError>;

    // ---- boot sessions and tokens ----------------------------------------------------------

    /// Begins a boot session; an open one of the same device is closed as `Superseded`.
    async fn begin_session(
        &self,
        device: DeviceId,
        firmware: Option<Firmware>,
        now: Timestamp,
    ) -> Result<SessionId, StoreError>;

    /// The device's open session, if it has one. Answers from memory.
    fn open_session(&self, device: DeviceId) -> Option<Arc<BootSession>>;

    /// Records that a session reached a stage; the first time counts, later ones change nothing.
    async fn reach_stage(
        &self,
        session: SessionId,
        stage: Stage,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Closes a session. The first outcome stands.
    async fn end_session(
        &self,
        session: SessionId,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// A device's sessions, latest first, at most `limit`. The latest 50 are kept.
    async fn sessions(
        &self,
        device: DeviceId,
        limit: usize,
    ) -> Result<Vec<BootSession>, StoreError>;

    /// Keeps the hash of the token that was made for this boot. The session's earlier boot token,
    /// if any, stays good: a firmware may fetch its script twice. The latest 16 are kept.
    async fn set_boot_token(&self, session: SessionId, token: TokenHash) -> Result<(), StoreError>;

    /// Whose boot this token was made for; `None` for one that is unknown, or older than the
    /// device's three latest sessions.
    async fn boot_token(
        &self,
        token: TokenHash,
    ) -> Result<Option<(DeviceId, SessionId)>, StoreError>;

    /// Keeps the hash of the token by which this device's operating system will call home. The
    /// latest 16 of a device are kept.
    async fn expect_phone_home(
        &self,
        device: DeviceId,
        token: TokenHash,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// An operating system called home: the device is up. The first call ends the device's latest
    /// boot session as `Up`, unless that one ended with its agent, and is told as an event; a later
    /// one with the same token changes nothing. Returns whose token it is; `None` where it was never
    /// given.
    async fn phone_home(
        &self,
        token: TokenHash,
        now: Timestamp,
    ) -> Result<Option<DeviceId>, StoreError>;

    /// Whose agent this is; `None` for a token that was never given or was replaced by a later
    /// registration of the same device. Answers from memory: every chunk request asks it. Survives
    /// a restart of the server.
    fn agent_token(&self, token: TokenHash) -> Option<AgentAuth>;

    // ---- leases ----------------------------------------------------------------------------

    /// Every lease.
    async fn leases(&self) -> Result<Vec<Lease>, StoreError>;

    /// Writes leases, each replacing what its address had. Durable when it returns; calls that
    /// arrive together are committed together.
    ///
    /// Events say who has an address now; a renewal is none. They are written behind the leases,
    /// without waiting: a crash can take them back, and where thousands of addresses change hands
    /// within seconds only their number is told.
    async fn commit_leases(&self, leases: Vec<Lease>) -> Result<(), StoreError>;

    // ---- tasks -----------------------------------------------------------------------------

    /// Makes tasks, all or none.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where a device has an open task already; it names the task. Also
    /// where the image of a deploy is damaged, and [`StoreError::NotFound`] where it is gone.
    async fn create_tasks(
        &self,
        tasks: Vec<NewTask>,
        now: Timestamp,
    ) -> Result<Vec<Task>, StoreError>;

    /// The device's open task, oldest first, now `Claimed`, with `attempts` one higher. One that
    /// an earlier boot of the agent had claimed is handed out again: that is how it resumes.
    async fn claim_task(
        &self,
        device: DeviceId,
        now: Timestamp,
    ) -> Result<Option<Task>, StoreError>;

    /// As [`Store::claim_task`], but a deploy or capture that is still queued is handed out only
    /// where fewer than `at_once` of them are at work, and no older one waits whose agent is there.
    /// Those at work whose device is lost do not count. A task that is held back says so in its
    /// message; one that was claimed before is handed out again whatever the number.
    async fn claim_in_turn(
        &self,
        device: DeviceId,
        at_once: u32,
        now: Timestamp,
    ) -> Result<Claim, StoreError>;

    /// An agent's report on its task. Applied only while the task is open; the task as it then
    /// stands is returned either way, so that the agent learns of a cancel.
    ///
    /// In the same transaction: a deploy that begins to run sets the device's network boot `On`
    /// (a half-written disk is not booted from), and one that is done sets it `Off` (from then on
    /// the device boots its disk). Progress alone is not a kept event; a change of state is.
    /// Progress alone is seen by everybody at once, and written within a few seconds: a crash can
    /// take back the number, never a change of state.
    ///
    /// The first report on a deploy that names a disk makes it the task's rule,
    /// [`DiskRule::Named`](bugler_model::DiskRule::Named), and is durable with it; no later one
    /// changes it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a task that is not this device's;
    /// [`StoreError::Conflict`] for a step that the state machine does not have, and for a disk
    /// whose name is empty or longer than 256 characters.
    async fn report_task(&self, report: TaskReport, now: Timestamp) -> Result<Task, StoreError>;

    /// Ends a task as `Cancelled`, whatever it was doing; its agent stops at its next report.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where it has ended already.
    async fn cancel_task(&self, id: TaskId, by: &str, now: Timestamp) -> Result<Task, StoreError>;

    /// One task.
    async fn task(&self, id: TaskId) -> Result<Task, StoreError>;

    /// The device's open task, if it has one: the one that [`Store::claim_task`] hands out.
    async fn open_task(&self, device: DeviceId) -> Result<Option<Task>, StoreError>;

    /// Tasks that pass the filter, latest first. The latest 10,000 that have ended are kept.
    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<Task>, StoreError>;

    // ---- images ----------------------------------------------------------------------------

    /// Enters a finished image as the next version of its name.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the name is written like an id.
    async fn add_image(&self, image: NewImage, now: Timestamp) -> Result<Image, StoreError>;

    /// Enters what a capture took, as [`Store::add_image`] does, and ties it to the capture's task.
    /// Where that task has made an image already, that one is returned and nothing is entered.
    ///
    /// # Errors
    /// Those of [`Store::add_image`]; [`StoreError::NotFound`] where there is no such task,
    /// [`StoreError::Conflict`] where it is no open capture.
    async fn add_captured(
        &self,
        task: TaskId,
        image: NewImage,
        now: Timestamp,
    ) -> Result<Image, StoreError>;

    /// The image that a capture's task has made, if it has and the image is still there.
    async fn captured(&self, task: TaskId) -> Result<Option<Image>, StoreError>;

    /// Every version of every image: by name, the latest version first.
    async fn images(&self) -> Result<Vec<Image>, StoreError>;

    /// The image with this id (`i7`), this name and version (`debian-12@3`), or the latest version of
    /// this name.
    async fn image(&self, text: &str) -> Result<Image, StoreError>;

    /// Forgets an image. Its chunks stay until the chunk store's next `gc`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] while an open task or an export needs it.
    async fn remove_image(&self, id: ImageId, now: Timestamp) -> Result<(), StoreError>;

    /// Forgets several images, or none of them.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] while an open task needs one, [`StoreError::NotFound`] where one is
    /// not there.
    async fn remove_images(&self, ids: Vec<ImageId>, now: Timestamp) -> Result<(), StoreError>;

    /// Replaces what people say of an image.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn set_image_note(
        &self,
        id: ImageId,
        note: String,
        now: Timestamp,
    ) -> Result<Image, StoreError>;

    /// Records whether an image is whole.
    async fn set_image_state(
        &self,
        id: ImageId,
        state: ImageState,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    // ---- what diskless devices run from ----------------------------------------------------

    /// Gives a device the version of an image that it runs from now on: the export of an earlier
    /// boot where there is one, else a new one. `token` is that of this boot, and replaces the one
    /// before.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where there is no such device or image.
    async fn begin_export(
        &self,
        new: NewExport,
        token: TokenHash,
        now: Timestamp,
    ) -> Result<Export, StoreError>;

    /// Every export: by device, the one that it booted last first.
    async fn exports(&self) -> Result<Vec<KnownExport>, StoreError>;

    /// Forgets an export. Its layer is the caller's to remove.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn remove_export(&self, id: ExportId, now: Timestamp) -> Result<(), StoreError>;

    // ---- what switches devices ---------------------------------------------------------------

    /// The drivers of one device, or of all: by device, the role that is used first at the front.
    async fn power_entries(&self, device: Option<DeviceId>) -> Result<Vec<PowerEntry>, StoreError>;

    /// Gives a device a driver, in the place of the one with the same role.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where there is no such device.
    async fn set_power(&self, entry: PowerEntry, now: Timestamp) -> Result<(), StoreError>;

    /// Takes the driver of a role from a device.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where it has none.
    async fn remove_power(
        &self,
        device: DeviceId,
        role: PowerRole,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Keeps how sessions with this driver were had. Where it is another driver by now, nothing
    /// happens.
    async fn learn_power(&self, entry: PowerEntry) -> Result<(), StoreError>;

    // ---- events ----------------------------------------------------------------------------

    /// Keeps an event and sends it to all who listen. Its text is made one line of at most 1,000
    /// characters; the latest 100,000 events are kept.
    async fn append_event(&self, event: NewEvent, now: Timestamp) -> Result<Event, StoreError>;

    /// Sends an event to all who listen, without keeping it.
    fn publish(&self, event: Event);

    /// Kept events that pass the filter, oldest first.
    async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError>;

    /// Listens to events from now on. Every change that an operation above makes arrives here. A
    /// listener that is too slow is told how many it missed.
    fn subscribe(&self) -> broadcast::Receiver<Arc<Event>>;
}
