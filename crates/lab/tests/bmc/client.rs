//! The whole client against the lab's BMC, on a socket.

use bugler_bmc::ipmi::crypto::Suite;
use bugler_bmc::ipmi::machine::{Known, Patience};
use bugler_bmc::power::{Action, Boot, Device, Outcome, State};
use bugler_bmc::{Bmc, ConsoleEvent, Credentials, Hub, Options, Secret};
use bugler_lab::bmc::{Death, Faults, Model, Network, Server};
use std::time::Duration;

fn start(model: Model, faults: Faults) -> Server {
    Server::start(model, Network::new(faults, 3)).unwrap()
}

/// How long the answer to a request that is sent only once is waited for, by who is to get it, and by who
/// is not to.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(3);

fn bmc(hub: &Hub, server: &Server, once: Duration) -> Bmc {
    let options = Options {
        patience: Patience {
            first: Duration::from_millis(300),
            attempts: 10,
            once,
            ..Patience::default()
        },
        cool_down: Duration::from_millis(50),
        confirm: Duration::from_secs(60),
        ..Options::default()
    };
    let credentials = Credentials::new("admin", Secret::new("secret")).unwrap();
    Bmc::new(hub, server.address(), credentials, options)
}

#[tokio::test]
async fn suite_seventeen_is_used_where_it_is_offered() {
    let server = start(Model::default(), Faults::default());
    let hub = Hub::new().unwrap();
    let bmc = bmc(&hub, &server, LONG);
    assert_eq!(bmc.power(Action::On).await.unwrap(), Outcome::Done);
    assert_eq!(bmc.status().await.unwrap(), State::On);
    assert_eq!(bmc.known(), Some(Known::Suite(Suite::Seventeen)));
    let boot = Boot {
        device: Device::Cdrom,
        persistent: true,
        efi: true,
    };
    bmc.set_boot_device(boot).await.unwrap();
    assert_eq!(bmc.boot_device().await.unwrap(), Some(boot));
    bmc.settled().await;
    assert_eq!(server.responder().sessions(), 0);
}

#[tokio::test]
async fn a_reset_that_the_bmc_died_of_is_not_repeated() {
    for death in [Death::Before, Death::After] {
        let server = start(
            Model {
                death: Some(death),
                ..Model::default()
            },
            Faults::default(),
        );
        server.responder().chassis.on = true;
        let hub = Hub::new().unwrap();
        let bmc = bmc(&hub, &server, SHORT);
        let reset = tokio::spawn({
            let bmc = bmc.clone();
            async move { bmc.power(Action::Reset).await }
        });
        while !server.responder().is_dead() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.responder().revive();
        let outcome = reset.await.unwrap().unwrap();
        println!("{death:?}: {outcome}");
        assert!(matches!(outcome, Outcome::Unconfirmed(_)));
        let resets = server.responder().chassis.controls.clone();
        assert_eq!(
            resets,
            if death == Death::After {
                vec![3]
            } else {
                vec![]
            }
        );
    }
}

#[tokio::test]
async fn a_machine_that_is_seen_to_be_off_after_a_lost_answer_counts_as_off() {
    for death in [Death::Before, Death::After] {
        let server = start(
            Model {
                death: Some(death),
                ..Model::default()
            },
            Faults::default(),
        );
        server.responder().chassis.on = true;
        let hub = Hub::new().unwrap();
        let bmc = bmc(&hub, &server, SHORT);
        let off = tokio::spawn({
            let bmc = bmc.clone();
            async move { bmc.power(Action::Off).await }
        });
        while !server.responder().is_dead() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.responder().revive();
        assert_eq!(off.await.unwrap().unwrap(), Outcome::Done);
        // Seen to be off: not sent again. Seen to be on: sent once more.
        assert_eq!(server.responder().chassis.controls, [0]);
    }
}

#[tokio::test]
async fn a_bad_network_is_put_up_with() {
    let server = start(
        Model::default(),
        Faults {
            loss: 100,
            repeat: 100,
            jitter: Duration::from_millis(20),
        },
    );
    let hub = Hub::new().unwrap();
    let bmc = bmc(&hub, &server, LONG);
    for _ in 0..5 {
        assert_eq!(bmc.status().await.unwrap(), State::Off);
    }
}

#[tokio::test]
async fn a_console_outlives_its_bmc() {
    let server = start(Model::default(), Faults::default());
    let hub = Hub::new().unwrap();
    let bmc = bmc(&hub, &server, LONG);
    let mut console = bmc.sol(false);
    let writer = console.writer();
    let text: Vec<u8> = (0..1000).map(|n| b'a' + (n % 26) as u8).collect();
    writer.write(&text).await.unwrap();
    let mut echo = Vec::new();
    let mut ups = 0;
    let mut revived = false;
    while echo.len() < 1000 || ups < 2 {
        match console.next().await.unwrap() {
            ConsoleEvent::Data(data) => echo.extend(data),
            ConsoleEvent::Up => ups += 1,
            ConsoleEvent::Down { why, .. } => println!("{why}"),
            other => panic!("{other:?}"),
        }
        if echo.len() >= 1000 && !revived {
            // The BMC starts again, and knows nothing of any session.
            revived = true;
            server.responder().revive();
            writer.send_break().await.unwrap();
        }
    }
    assert_eq!(server.responder().typed(), text);
}
