//! Devices switched by a real BMC (`ipmi_sim`) and by programs.

mod support;

use bugler_model::{BootDevice, Event, EventKind, PowerAction, PowerDriver, PowerRole, PowerState};
use bugler_power::{PowerError, Secrets, What};
use bugler_protocol::operator::{PowerVerdict, SetBoot};
use bugler_store::{EventFilter, Store};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;
use support::{Bmc, PASSWORD, Site};
use tokio::sync::broadcast::Receiver;
use tokio_util::sync::CancellationToken;

/// Waits for an event.
async fn told(events: &mut Receiver<Arc<Event>>, wanted: &str) {
    loop {
        let event = events.recv().await.unwrap();
        if event.text.starts_with(wanted) {
            return;
        }
        assert!(!event.text.contains("was not brought"), "{}", event.text);
    }
}

fn switch(action: PowerAction) -> What {
    What {
        action: Some(action),
        ..What::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_switches_its_machine_and_is_known_after_a_restart() {
    let bmc = Bmc::start();
    let mut site = Site::new();
    let device = site.device(1).await;
    site.ipmi(&device, &bmc, PASSWORD).await;
    let asked = site.order(&[&device], switch(PowerAction::Status)).await;
    assert_eq!(asked[0].state, PowerState::Off, "{asked:?}");

    let pxe = What {
        boot: Some(SetBoot {
            device: BootDevice::Pxe,
            persistent: false,
        }),
        ..switch(PowerAction::On)
    };
    let on = site.order(&[&device], pxe).await;
    assert_eq!(on[0].verdict, PowerVerdict::Done, "{on:?}");
    let again = site.order(&[&device], switch(PowerAction::On)).await;
    assert_eq!(again[0].text, "it was on already");
    let reset = site.order(&[&device], switch(PowerAction::Reset)).await;
    assert_eq!(reset[0].verdict, PowerVerdict::Done, "{reset:?}");
    assert_eq!(bmc.done(), ["boot pxe", "power 1", "reset"]);

    let view = site.power.view(&device).await.unwrap();
    assert_eq!(view.state, PowerState::On);
    assert_eq!(view.drivers[0].known.as_deref(), Some("suite 3"));
    site.power.settle().await;
    site.restart();
    let off = site.order(&[&device], switch(PowerAction::Off)).await;
    assert_eq!(off[0].verdict, PowerVerdict::Done, "{off:?}");
    assert_eq!(bmc.done().last().map(String::as_str), Some("power 0"));
    site.power.settle().await;

    // The password is nowhere but in the key's reach.
    let events = site.store.events(EventFilter::default()).await.unwrap();
    assert!(events.iter().any(|event| event.kind == EventKind::Power));
    for event in &events {
        assert!(!event.text.contains(PASSWORD), "{}", event.text);
    }
    let shown = serde_json::to_string(&site.power.views().await.unwrap()).unwrap();
    assert!(!shown.contains(PASSWORD), "{shown}");
    site.store.close().await;
    for file in std::fs::read_dir(site.dir.path()).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            let bytes = std::fs::read(file.path()).unwrap();
            let is_there = bytes
                .windows(PASSWORD.len())
                .any(|part| part == PASSWORD.as_bytes());
            assert!(!is_there, "{:?}", file.path());
        }
    }
    let key = std::fs::metadata(site.dir.path().join("power-key")).unwrap();
    assert_eq!(key.mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_one_clear_line_and_the_right_one_helps_at_once() {
    let bmc = Bmc::start();
    let site = Site::new();
    let device = site.device(1).await;
    site.ipmi(&device, &bmc, "wrong").await;
    let failed = site.order(&[&device], switch(PowerAction::On)).await;
    assert_eq!(failed[0].verdict, PowerVerdict::Failed);
    assert!(failed[0].text.contains("password is wrong"), "{failed:?}");
    assert!(!failed[0].text.contains("\"wrong\""), "{failed:?}");
    let view = site.power.view(&device).await.unwrap();
    assert_eq!(view.problem.as_deref(), Some(failed[0].text.as_str()));
    site.ipmi(&device, &bmc, PASSWORD).await;
    let on = site.order(&[&device], switch(PowerAction::On)).await;
    assert_eq!(on[0].verdict, PowerVerdict::Done, "{on:?}");
    assert_eq!(site.power.view(&device).await.unwrap().problem, None);
    assert_eq!(bmc.done(), ["power 1"]);
    site.power.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_brought_into_its_agent_by_one_time_pxe() {
    let bmc = Bmc::start();
    let site = Site::new();
    let device = site.device(1).await;
    site.ipmi(&device, &bmc, PASSWORD).await;
    let way = site.power.way_into_agent(&device).await.unwrap().unwrap();
    assert!(way.contains("boot from the network once"), "{way}");
    let mut events = site.store.subscribe();
    site.power.into_agent(device.clone(), false);
    told(&mut events, "d1: power on: ").await;
    // It was off.
    assert_eq!(bmc.done(), ["boot pxe", "power 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_runs_is_reset_or_shut_down_first() {
    let bmc = Bmc::start();
    let site = Site::new();
    let device = site.device(1).await;
    site.ipmi(&device, &bmc, PASSWORD).await;
    bmc.set_power(true);
    let mut events = site.store.subscribe();
    site.power.into_agent(device.clone(), false);
    told(&mut events, "d1: power reset: ").await;
    assert_eq!(bmc.done(), ["boot pxe", "reset"]);
    site.power.into_agent(device.clone(), true);
    told(&mut events, "d1: power on: ").await;
    let done = bmc.done();
    assert_eq!(done[2..], ["soft", "boot pxe", "power 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_is_found_out_by_itself_and_a_change_is_told() {
    let bmc = Bmc::start();
    let site = Site::new();
    let device = site.device(1).await;
    site.ipmi(&device, &bmc, PASSWORD).await;
    let mut events = site.store.subscribe();
    let stop = CancellationToken::new();
    let polling = tokio::spawn(
        site.power
            .clone()
            .poll(Duration::from_millis(200), stop.clone()),
    );
    told(&mut events, "d1 is off").await;
    bmc.set_power(true);
    told(&mut events, "d1 is on").await;
    stop.cancel();
    polling.await.unwrap();
    site.power.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_devices_are_switched_each_with_its_own_result() {
    let site = Site::new();
    let program = site.program(
        "switch",
        "#!/bin/sh\n\
         [ \"$1\" = 3 ] && { echo \"the socket 3 is broken\" >&2; exit 1; }\n\
         [ \"$2\" = status ] && { cat \"$0.$1\" 2>/dev/null || echo off; exit 0; }\n\
         echo \"$2\" > \"$0.$1\"\n",
    );
    let mut devices = Vec::new();
    for number in 1..=4_u8 {
        let device = site.device(number).await;
        if number < 4 {
            let driver = PowerDriver::Command {
                program: "switch".into(),
                arguments: vec![number.to_string(), "{action}".into()],
                status: true,
                boot: false,
                timeout_s: 60,
            };
            site.power
                .set(&device, PowerRole::Power, driver, Secrets::default())
                .await
                .unwrap();
        }
        devices.push(device);
    }
    let all: Vec<&Arc<_>> = devices.iter().collect();
    let results = site.order(&all, switch(PowerAction::On)).await;
    let verdicts: Vec<_> = results.iter().map(|one| one.verdict).collect();
    use PowerVerdict::{Done, Failed};
    assert_eq!(verdicts, [Done, Done, Failed, Failed], "{results:?}");
    assert!(results[2].text.contains("the socket 3 is broken"));
    assert!(results[3].text.contains("bugler device power d4"));
    let states = site.order(&all[..2], switch(PowerAction::Status)).await;
    assert!(states.iter().all(|one| one.state == PowerState::On));
    assert!(program.with_extension("1").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_driver_cannot_the_other_does() {
    let site = Site::new();
    site.program("pdu", "#!/bin/sh\necho \"$1\" >> \"$0.done\"\n");
    let device = site.device(1).await;
    let set = async |role, driver| {
        site.power
            .set(&device, role, driver, Secrets::default())
            .await
            .unwrap();
    };
    set(PowerRole::Power, PowerDriver::Manual {}).await;
    let told = site.order(&[&device], switch(PowerAction::Off)).await;
    assert_eq!(told[0].verdict, PowerVerdict::Told);
    assert!(told[0].text.contains("hold the power button of d1"));
    let pdu = PowerDriver::Command {
        program: "pdu".into(),
        arguments: vec!["{action}".into()],
        status: false,
        boot: false,
        timeout_s: 60,
    };
    set(PowerRole::Hard, pdu).await;
    // A person cannot send an NMI; and hard power is what was asked for.
    let nmi = site.order(&[&device], switch(PowerAction::Diag)).await;
    assert_eq!(nmi[0].verdict, PowerVerdict::Done, "{nmi:?}");
    let hard = What {
        hard: true,
        ..switch(PowerAction::Cycle)
    };
    let cut = site.order(&[&device], hard).await;
    assert_eq!(cut[0].verdict, PowerVerdict::Done, "{cut:?}");
    let done = site.dir.path().join("commands/pdu.done");
    assert_eq!(std::fs::read_to_string(done).unwrap(), "diag\ncycle\n");
}

#[tokio::test]
async fn who_does_not_wait_for_the_results_gives_up_what_has_not_begun() {
    let site = Site::new();
    site.program("slow", "#!/bin/sh\necho \"$1\" >> \"$0.done\"\n");
    let mut devices = Vec::new();
    for number in 1..=3 {
        let device = site.device(number).await;
        let driver = PowerDriver::Command {
            program: "slow".into(),
            arguments: vec![device.id.to_string()],
            status: false,
            boot: false,
            timeout_s: 60,
        };
        site.power
            .set(&device, PowerRole::Power, driver, Secrets::default())
            .await
            .unwrap();
        devices.push(device);
    }
    let order = bugler_power::Order {
        what: switch(PowerAction::On),
        // Longer than any test takes: the second never begins by itself.
        every: Duration::from_secs(3600),
        at_once: 1,
        timeout: Duration::from_secs(60),
    };
    let mut results = site.power.order(devices, order).unwrap();
    assert_eq!(results.recv().await.unwrap().label, "d1");
    drop(results);
    site.power.settle().await;
    let done = site.dir.path().join("commands/slow.done");
    assert_eq!(std::fs::read_to_string(done).unwrap(), "d1\n");
}

#[tokio::test]
async fn a_driver_that_cannot_be_meant_is_not_kept() {
    let site = Site::new();
    let device = site.device(1).await;
    let driver = PowerDriver::Command {
        program: "../../bin/sh".into(),
        arguments: Vec::new(),
        status: false,
        boot: false,
        timeout_s: 30,
    };
    let refused = site
        .power
        .set(&device, PowerRole::Power, driver, Secrets::default())
        .await;
    assert!(
        matches!(refused, Err(PowerError::Invalid(_))),
        "{refused:?}"
    );
    assert!(site.power.views().await.unwrap().is_empty());
}
