//! Against `ipmi_sim`, which is not ours.

mod bench;
mod cases;
mod console;

use bench::Sim;
use bugler_bmc::ipmi::crypto::Suite;
use bugler_bmc::ipmi::machine::{Known, Patience};
use bugler_bmc::ipmi::packet::AuthType;
use bugler_bmc::power::{Action, Boot, Device, Outcome, State};
use bugler_bmc::{Bmc, Credentials, Error, Hub, Options, Secret};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_machine_is_switched() {
    let sim = Sim::start(0);
    let hub = Hub::new().unwrap();
    let bmc = sim.bmc(&hub);
    assert_eq!(bmc.status().await.unwrap(), State::Off);
    assert_eq!(bmc.known(), Some(Known::Suite(Suite::Three)));
    assert_eq!(bmc.power(Action::Off).await.unwrap(), Outcome::Already);
    let error = bmc.power(Action::Reset).await.unwrap_err();
    assert!(matches!(error, Error::MachineOff { .. }), "{error}");
    println!("{error}");
    for action in [Action::On, Action::Reset, Action::Soft, Action::Off] {
        println!("{action}");
        sim.power(action != Action::On);
        assert_eq!(bmc.power(action).await.unwrap(), Outcome::Done, "{action}");
    }
    assert_eq!(
        sim.done(),
        [
            "set power 1",
            "set reset 1",
            "set shutdown 1",
            "set power 0"
        ]
    );
    let id = bmc.device_id().await.unwrap();
    assert_eq!(id.manufacturer, 0x1291);
    assert_eq!(id.ipmi, (2, 0));
    bmc.settled().await;
}

#[tokio::test]
async fn the_boot_device_is_set_and_read_back() {
    let sim = Sim::start(0);
    let hub = Hub::new().unwrap();
    let bmc = sim.bmc(&hub);
    let boot = Boot {
        device: Device::Pxe,
        persistent: false,
        efi: true,
    };
    bmc.set_boot_device(boot).await.unwrap();
    assert_eq!(sim.done(), ["set boot pxe"]);
    // This BMC keeps the device and drops the flags, "valid" among them.
    println!("{:?}", bmc.boot_device().await.unwrap());
}

#[tokio::test]
async fn a_slow_bmc_gets_one_reset_for_one_reset() {
    let sim = Sim::start(3);
    sim.power(true);
    let hub = Hub::new().unwrap();
    let bmc = sim.bmc(&hub);
    let start = Instant::now();
    assert_eq!(bmc.power(Action::Reset).await.unwrap(), Outcome::Done);
    bmc.settled().await;
    println!("{:.1} s: {:?}", start.elapsed().as_secs_f32(), sim.asked());
    assert_eq!(sim.done(), ["set reset 1"]);
}

#[tokio::test]
async fn a_wrong_password_is_told_once_and_not_tried_again() {
    let sim = Sim::start(0);
    let hub = Hub::new().unwrap();
    let bmc = sim.bmc_with(&hub, "wrong", Options::default());
    let error = bmc.status().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no session with the BMC {} as user \"admin\": the password is wrong; it is not tried \
             again until it is changed",
            sim.address
        )
    );
    let again = bmc.power(Action::On).await.unwrap_err();
    assert!(matches!(again, Error::Resting { .. }), "{again}");
    println!("{again}");
    assert!(sim.done().is_empty());
    // The BMC has no session left over: the right password is taken at once.
    assert_eq!(sim.bmc(&hub).status().await.unwrap(), State::Off);
}

#[tokio::test]
async fn an_unknown_user_is_told() {
    let sim = Sim::start(0);
    let hub = Hub::new().unwrap();
    let credentials = Credentials::new("nobody", Secret::new("secret")).unwrap();
    let bmc = Bmc::new(&hub, sim.address, credentials, Options::default());
    let error = bmc.status().await.unwrap_err();
    println!("{error}");
    assert!(error.is_final(), "{error}");
}

#[tokio::test]
async fn a_suite_that_it_lacks_is_told_with_those_that_it_has() {
    let sim = Sim::start(0);
    let hub = Hub::new().unwrap();
    let options = Options {
        suites: vec![Suite::Seventeen],
        ..Options::default()
    };
    let bmc = sim.bmc_with(&hub, "secret", options);
    let error = bmc.status().await.unwrap_err().to_string();
    println!("{error}");
    assert!(error.contains("it offers 0, 1, 2, 3"), "{error}");
    // What worked somewhere else is asked again where it does not work here.
    let bmc = sim.bmc(&hub);
    bmc.set_known(Known::Suite(Suite::Seventeen));
    assert_eq!(bmc.status().await.unwrap(), State::Off);
    assert_eq!(bmc.known(), Some(Known::Suite(Suite::Three)));
}

#[tokio::test]
async fn ipmi_one_five_is_spoken_where_it_is_allowed() {
    let sim = Sim::start(0);
    let hub = Hub::new().unwrap();
    for auth in [AuthType::Md5, AuthType::Password] {
        let options = Options {
            allow_v15: true,
            cool_down: Duration::ZERO,
            ..Options::default()
        };
        let bmc = sim.bmc_with(&hub, "secret", options);
        bmc.set_known(Known::V15(auth));
        sim.power(false);
        assert_eq!(bmc.power(Action::On).await.unwrap(), Outcome::Done);
        assert_eq!(bmc.status().await.unwrap(), State::On);
        assert_eq!(bmc.known(), Some(Known::V15(auth)));
    }
    assert_eq!(sim.done(), ["set power 1", "set power 1"]);
}

#[tokio::test]
async fn a_dead_bmc_is_left_alone_after_a_while() {
    let sim = Sim::start(0);
    let hub = Hub::new().unwrap();
    let options = Options {
        patience: Patience {
            first: Duration::from_millis(100),
            ..Patience::default()
        },
        ..Options::default()
    };
    let bmc = sim.bmc_with(&hub, "secret", options);
    assert_eq!(bmc.status().await.unwrap(), State::Off);
    bmc.settled().await;
    let mut sim = sim;
    sim.kill();
    for _ in 0..3 {
        let error = bmc.status().await.unwrap_err();
        assert!(matches!(error, Error::Session { .. }), "{error}");
        println!("{error}");
    }
    let error = bmc.status().await.unwrap_err();
    assert!(matches!(error, Error::Resting { .. }), "{error}");
    println!("{error}");
    sim.restart();
    bmc.try_again();
    assert_eq!(bmc.status().await.unwrap(), State::Off);
}
