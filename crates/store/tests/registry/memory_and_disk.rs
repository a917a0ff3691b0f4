//! What is answered from memory is what the disk says: any sequence of calls leaves a registry that
//! answers the same after a restart. And no interface ever is two machines'.

use crate::common::{Registry, at, mac, reboot, registration, token, uuid};
use bugler_model::{
    BootSession, Device, DeviceId, DevicePatch, Firmware, Netboot, Outcome, Presence, SessionId,
    Stage, TaskId,
};
use bugler_store::{AgentAuth, Sighting, SqliteStore, Store};
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

const MACS: u8 = 6;
const UUIDS: u8 = 4;
const TOKENS: u8 = 32;

#[derive(Clone, Debug)]
enum Call {
    Observe(u8, Option<u8>, Option<Firmware>),
    /// The agent of this device's open session, with a UUID, interfaces and a token.
    Register(u64, Option<u8>, Vec<u8>, u8),
    Patch(u64, Option<u8>, Option<Netboot>),
    Presence(u64, Presence),
    Touch(u64, u8),
    Remove(u64),
    Begin(u64),
    Reach(u64, Stage),
    End(u64, Outcome),
    Ask(u64),
    Claim(u64),
    Cancel(u64),
}

fn call() -> impl Strategy<Value = Call> {
    let device = || 1..=8_u64;
    let uuid = || prop::option::of(0..UUIDS);
    let firmware = prop::option::of(prop::sample::select(vec![
        Firmware::UefiPxe,
        Firmware::IpxeUefi,
        Firmware::BiosPxe,
    ]));
    let netboot = prop::sample::select(vec![
        Netboot::On,
        Netboot::Off,
        Netboot::Once,
        Netboot::Once,
    ]);
    let presence = prop::sample::select(vec![Presence::Agent, Presence::Lost, Presence::Booting]);
    let stage = prop::sample::select(vec![Stage::Dhcp, Stage::Kernel, Stage::Agent]);
    let outcome = prop::sample::select(vec![Outcome::Local, Outcome::Registered, Outcome::Open]);
    prop_oneof![
        6 => (0..MACS, uuid(), firmware).prop_map(|(m, u, f)| Call::Observe(m, u, f)),
        6 => (device(), uuid(), prop::collection::vec(0..MACS, 1..4), 0..TOKENS)
            .prop_map(|(d, u, m, t)| Call::Register(d, u, m, t)),
        4 => device().prop_map(Call::Begin),
        1 => (device(), prop::option::of(0..3_u8), prop::option::of(netboot))
            .prop_map(|(d, n, b)| Call::Patch(d, n, b)),
        1 => (device(), presence).prop_map(|(d, p)| Call::Presence(d, p)),
        1 => (device(), any::<u8>()).prop_map(|(d, a)| Call::Touch(d, a)),
        1 => device().prop_map(Call::Remove),
        1 => (device(), stage).prop_map(|(s, t)| Call::Reach(s, t)),
        1 => (device(), outcome).prop_map(|(s, o)| Call::End(s, o)),
        2 => device().prop_map(Call::Ask),
        1 => device().prop_map(Call::Claim),
        1 => device().prop_map(Call::Cancel),
    ]
}

/// Does a call. That it is refused is as good as that it is done: nothing of it may show.
async fn step(store: &SqliteStore, call: Call, now: i64) {
    let now = at(now);
    match call {
        Call::Observe(m, u, firmware) => {
            let seen = Sighting {
                mac: mac(m),
                uuid: u.map(uuid),
                arch: None,
                firmware,
            };
            let observed = store.observe(seen, now).await.unwrap().device;
            assert_eq!(store.find_client(mac(m), None), Some(observed));
        }
        Call::Register(device, u, macs, t) => {
            let device = DeviceId(device);
            let Some(session) = store.open_session(device) else {
                return;
            };
            let macs: Vec<_> = macs.into_iter().map(mac).collect();
            // A token is made at random: none is ever given twice.
            if store.agent_token(token(t)).is_some() {
                return;
            }
            let what = registration(device, session.id, u.map(uuid), &macs, token(t));
            let agent = store.register(what, now).await.unwrap();
            let auth = AgentAuth {
                device: agent.id,
                session: session.id,
            };
            assert_eq!(store.agent_token(token(t)), Some(auth));
            assert_eq!(agent.macs[0], macs[0]);
            for mac in macs {
                assert_eq!(store.find_client(mac, None).as_ref(), Some(&agent));
            }
        }
        Call::Patch(device, name, netboot) => {
            let name = name.map(|n| {
                if n == 0 {
                    String::new()
                } else {
                    format!("pc-{n}")
                }
            });
            let patch = DevicePatch {
                name,
                netboot,
                ..DevicePatch::default()
            };
            drop(store.patch_device(DeviceId(device), patch, now).await);
        }
        Call::Presence(device, presence) => {
            drop(store.set_presence(DeviceId(device), presence, now).await);
        }
        Call::Touch(device, a) => {
            store.touch(DeviceId(device), Some(Ipv4Addr::new(10, 0, 0, a)), now);
        }
        Call::Remove(device) => drop(store.remove_device(DeviceId(device), now).await),
        Call::Begin(device) => drop(store.begin_session(DeviceId(device), None, now).await),
        Call::Reach(session, stage) => {
            drop(store.reach_stage(SessionId(session), stage, now).await);
        }
        Call::End(session, outcome) => {
            drop(store.end_session(SessionId(session), outcome, now).await);
        }
        Call::Ask(device) => {
            drop(
                store
                    .create_tasks(vec![reboot(DeviceId(device))], now)
                    .await,
            );
        }
        Call::Claim(device) => drop(store.claim_task(DeviceId(device), now).await),
        Call::Cancel(task) => drop(store.cancel_task(TaskId(task), "operator", now).await),
    }
}

/// All that memory answers.
#[derive(Debug, PartialEq)]
struct Answers {
    devices: Vec<Arc<Device>>,
    clients: Vec<Option<DeviceId>>,
    sessions: Vec<Option<Arc<BootSession>>>,
    tokens: Vec<Option<AgentAuth>>,
}

async fn answers(store: &SqliteStore) -> Answers {
    let devices = store.devices().await.unwrap();
    let uuids: Vec<_> = std::iter::once(None)
        .chain((0..UUIDS).map(|n| Some(uuid(n))))
        .collect();
    let clients = (0..=MACS).flat_map(|m| uuids.iter().map(move |u| (mac(m), *u)));
    Answers {
        clients: clients
            .map(|(m, u)| store.find_client(m, u).map(|device| device.id))
            .collect(),
        sessions: devices
            .iter()
            .map(|device| store.open_session(device.id))
            .collect(),
        tokens: (0..TOKENS).map(|n| store.agent_token(token(n))).collect(),
        devices,
    }
}

async fn play(calls: Vec<Call>) -> Result<(), TestCaseError> {
    let mut registry = Registry::new();
    for (now, call) in (10..).zip(calls) {
        step(&registry, call.clone(), now).await;
        let mut macs = HashSet::new();
        let mut uuids = HashSet::new();
        for device in registry.devices().await.unwrap() {
            let label = device.label();
            for mac in &device.macs {
                prop_assert!(
                    macs.insert(*mac),
                    "{} is in {} too, after {:?}",
                    mac,
                    label,
                    call
                );
            }
            if let Some(uuid) = device.uuid {
                prop_assert!(
                    uuids.insert(uuid),
                    "{} is {} too, after {:?}",
                    uuid,
                    label,
                    call
                );
            }
        }
    }
    let before = answers(&registry).await;
    registry.restart();
    prop_assert_eq!(before, answers(&registry).await);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_changes_no_answer(calls in prop::collection::vec(call(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(calls))?;
    }
}
