//! What is answered without waiting: devices, open sessions, agent tokens and open tasks.
//!
//! Only the writer changes it, after the commit, with what the commit made true; so it never says
//! what a crash could take back. The exceptions are "last seen" ([`Memory::touch`]) and progress
//! ([`Memory::progress`]), which run ahead of the disk and are written when the writer flushes.

use super::identity::{swapped, which};
use crate::{AgentAuth, TokenHash};
use bugler_model::{
    BootPolicy, BootSession, Device, DeviceId, Event, MacAddr, Progress, Task, TaskId, TaskState,
    Timestamp,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use uuid::Uuid;

/// One thing that a commit made true.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// A device is new or has changed.
    Device(Arc<Device>),
    /// A device is gone.
    DeviceGone(DeviceId),
    /// The device's open session is now this one, or there is none.
    OpenSession(DeviceId, Option<Arc<BootSession>>),
    /// The device's agent has this token now.
    AgentToken(TokenHash, AgentAuth),
    /// A task is new or has changed.
    Task(Box<Task>),
    /// Operators said something else about what devices boot.
    Policy(Arc<BootPolicy>),
    /// Tell all who listen.
    Event(Arc<Event>),
}

/// When a device was last heard from, and from where, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touch {
    pub(super) seen: Timestamp,
    pub(super) address: Option<Ipv4Addr>,
}

/// What runs ahead of the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    pub(super) touches: Vec<(DeviceId, Touch)>,
    pub(super) tasks: Vec<Task>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    devices: BTreeMap<DeviceId, Arc<Device>>,
    by_mac: HashMap<MacAddr, DeviceId>,
    by_uuid: HashMap<Uuid, DeviceId>,
    sessions: HashMap<DeviceId, Arc<BootSession>>,
    tokens: HashMap<TokenHash, AgentAuth>,
    token_of: HashMap<DeviceId, TokenHash>,
    open_tasks: HashMap<TaskId, Task>,
    policy: Arc<BootPolicy>,
    /// Touches that are not written yet.
    touches: HashMap<DeviceId, Touch>,
    /// Open tasks whose progress is not written yet.
    progressed: HashSet<TaskId>,
}

/// What became of a report that might be progress alone.
pub(super) enum Progressed {
    /// It was. The task as it stands, and whether a flush must be asked for.
    Noted(Box<Task>, bool),
    /// It is more than that: the writer decides.
    No,
}

impl Memory {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn device(&self, id: DeviceId) -> Option<Arc<Device>> {
        self.read().devices.get(&id).cloned()
    }

    pub(super) fn devices(&self) -> Vec<Arc<Device>> {
        self.read().devices.values().cloned().collect()
    }

    /// The device that such a client is; see [`which`].
    pub(super) fn client(&self, mac: MacAddr, uuid: Option<Uuid>) -> Option<Arc<Device>> {
        let state = self.read();
        let device = |id: &DeviceId| state.devices.get(id).map(Arc::as_ref);
        let by_mac = state.by_mac.get(&mac).and_then(device);
        let by_uuid = uuid
            .and_then(|uuid| state.device_with_uuid(uuid))
            .and_then(|id| device(&id));
        let id = which(by_mac, by_uuid, uuid)?.id;
        state.devices.get(&id).cloned()
    }

    /// The device with this UUID, in whichever byte order.
    pub(super) fn device_with_uuid(&self, uuid: Uuid) -> Option<DeviceId> {
        self.read().device_with_uuid(uuid)
    }

    pub(super) fn open_session(&self, device: DeviceId) -> Option<Arc<BootSession>> {
        self.read().sessions.get(&device).cloned()
    }

    pub(super) fn policy(&self) -> Arc<BootPolicy> {
        self.read().policy.clone()
    }

    pub(super) fn agent(&self, token: TokenHash) -> Option<AgentAuth> {
        self.read().tokens.get(&token).copied()
    }

    pub(super) fn open_task(&self, id: TaskId) -> Option<Task> {
        self.read().open_tasks.get(&id).cloned()
    }

    /// Puts what runs ahead of the disk over a device that was read from it.
    pub(super) fn overlay_device(&self, device: &mut Device) {
        self.read().overlay_device(device);
    }

    /// Puts what runs ahead of the disk over a task that was read from it.
    pub(super) fn overlay_task(&self, task: &mut Task) {
        self.read().overlay_task(task);
    }

    /// Notes a touch; true where the first one since the last flush, which must be asked for.
    pub(super) fn touch(&self, id: DeviceId, address: Option<Ipv4Addr>, now: Timestamp) -> bool {
        let mut guard = self.write();
        let state = &mut *guard;
        let Some(device) = state.devices.get_mut(&id) else {
            return false;
        };
        let idle = state.touches.is_empty();
        let touch = state
            .touches
            .entry(id)
            .or_insert(Touch { seen: now, address });
        touch.seen = touch.seen.max(now);
        touch.address = address.or(touch.address);
        let touch = *touch;
        touch.put_over(Arc::make_mut(device));
        idle
    }

    /// Notes progress on an open task that stays in its state.
    pub(super) fn progress(
        &self,
        device: DeviceId,
        id: TaskId,
        state: TaskState,
        progress: Progress,
        now: Timestamp,
    ) -> Progressed {
        let mut guard = self.write();
        let known = &mut *guard;
        let Some(task) = known.open_tasks.get_mut(&id) else {
            return Progressed::No;
        };
        if task.device != device || task.state != state {
            return Progressed::No;
        }
        task.progress = progress;
        task.updated = task.updated.max(now);
        let idle = known.progressed.is_empty();
        known.progressed.insert(id);
        Progressed::Noted(Box::new(task.clone()), idle)
    }

    /// What is not written yet.
    pub(super) fn pending(&self) -> Pending {
        let state = self.read();
        Pending {
            touches: state
                .touches
                .iter()
                .map(|(id, touch)| (*id, *touch))
                .collect(),
            tasks: state
                .progressed
                .iter()
                .filter_map(|id| state.open_tasks.get(id).cloned())
                .collect(),
        }
    }

    /// Forgets that `written` was pending, where it has not changed since; true where something
    /// still is.
    pub(super) fn settle(&self, written: &Pending) -> bool {
        let mut guard = self.write();
        let state = &mut *guard;
        for (id, touch) in &written.touches {
            if state.touches.get(id) == Some(touch) {
                state.touches.remove(id);
            }
        }
        for task in &written.tasks {
            if state.open_tasks.get(&task.id).is_none_or(|now| now == task) {
                state.progressed.remove(&task.id);
            }
        }
        !state.touches.is_empty() || !state.progressed.is_empty()
    }

    /// Makes true what a commit made true, in its order.
    pub(super) fn apply(&self, effects: &[Effect]) {
        let mut state = self.write();
        for effect in effects {
            state.apply(effect);
        }
    }
}

impl Touch {
    fn put_over(self, device: &mut Device) {
        device.seen = device.seen.max(self.seen);
        device.address = self.address.or(device.address);
    }
}

impl State {
    fn device_with_uuid(&self, uuid: Uuid) -> Option<DeviceId> {
        let other = || self.by_uuid.get(&swapped(uuid));
        self.by_uuid.get(&uuid).or_else(other).copied()
    }

    fn overlay_device(&self, device: &mut Device) {
        if let Some(touch) = self.touches.get(&device.id) {
            touch.put_over(device);
        }
    }

    fn overlay_task(&self, task: &mut Task) {
        if let Some(known) = self.ahead_of(task)
            && known.updated >= task.updated
        {
            task.progress = known.progress;
            task.updated = known.updated;
        }
    }

    /// The same task with progress that is not written yet, where nothing but progress lies
    /// between the two.
    fn ahead_of(&self, task: &Task) -> Option<&Task> {
        let known = self.open_tasks.get(&task.id)?;
        (self.progressed.contains(&task.id) && known.state == task.state).then_some(known)
    }

    fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Device(device) => self.put_device(device),
            Effect::DeviceGone(id) => self.drop_device(*id),
            Effect::OpenSession(device, Some(session)) => {
                self.sessions.insert(*device, session.clone());
            }
            Effect::OpenSession(device, None) => {
                self.sessions.remove(device);
            }
            Effect::AgentToken(token, auth) => {
                if let Some(old) = self.token_of.insert(auth.device, *token) {
                    self.tokens.remove(&old);
                }
                self.tokens.insert(*token, *auth);
            }
            Effect::Task(task) if task.state.is_open() => {
                let mut task = task.clone();
                // What the operation saw is in it; a report may have come since.
                if let Some(known) = self.ahead_of(&task)
                    && known.updated > task.updated
                {
                    task.progress = known.progress;
                    task.updated = known.updated;
                }
                self.open_tasks.insert(task.id, *task);
            }
            Effect::Task(task) => {
                self.open_tasks.remove(&task.id);
                self.progressed.remove(&task.id);
            }
            Effect::Policy(policy) => self.policy = policy.clone(),
            Effect::Event(_) => {}
        }
    }

    fn put_device(&mut self, device: &Arc<Device>) {
        self.unindex(device.id);
        for mac in &device.macs {
            self.by_mac.insert(*mac, device.id);
        }
        if let Some(uuid) = device.uuid {
            self.by_uuid.insert(uuid, device.id);
        }
        let mut device = device.clone();
        if self.touches.contains_key(&device.id) {
            self.overlay_device(Arc::make_mut(&mut device));
        }
        self.devices.insert(device.id, device);
    }

    fn drop_device(&mut self, id: DeviceId) {
        self.unindex(id);
        self.devices.remove(&id);
        self.sessions.remove(&id);
        self.touches.remove(&id);
        if let Some(token) = self.token_of.remove(&id) {
            self.tokens.remove(&token);
        }
    }

    /// Takes a device out of the indexes, as far as they still name it: what it had may be another
    /// device's by now.
    fn unindex(&mut self, id: DeviceId) {
        let Some(old) = self.devices.get(&id) else {
            return;
        };
        for mac in &old.macs {
            if self.by_mac.get(mac) == Some(&id) {
                self.by_mac.remove(mac);
            }
        }
        if let Some(uuid) = old.uuid
            && self.by_uuid.get(&uuid) == Some(&id)
        {
            self.by_uuid.remove(&uuid);
        }
    }
}
