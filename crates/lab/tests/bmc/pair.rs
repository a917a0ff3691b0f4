//! A client and a BMC with a network between them, in simulated time.

use bugler_bmc::ipmi::commands::{Control, chassis_control, chassis_status};
use bugler_bmc::ipmi::machine::{Config, Event, Failure, Session};
use bugler_bmc::{Credentials, Secret};
use bugler_lab::bmc::{Faults, Model, Network, Responder};
use std::time::Duration;

pub(crate) struct Pair {
    pub(crate) client: Session,
    pub(crate) bmc: Responder,
    pub(crate) now: Duration,
    pub(crate) events: Vec<Event>,
    /// What reached the client.
    pub(crate) heard: Vec<Vec<u8>>,
    network: Network,
    to_bmc: Vec<(Duration, Vec<u8>)>,
    to_client: Vec<(Duration, Vec<u8>)>,
}

pub(crate) fn config(password: &str) -> Config {
    Config::new(Credentials::new("admin", Secret::new(password)).unwrap())
}

impl Pair {
    pub(crate) fn new(config: Config, model: Model, network: Network) -> Self {
        let now = Duration::ZERO;
        Self {
            client: Session::new(config, [1; 32], now),
            bmc: Responder::new(model, 2),
            now,
            events: Vec::new(),
            heard: Vec::new(),
            network,
            to_bmc: Vec::new(),
            to_client: Vec::new(),
        }
    }

    /// Lets time pass until the client has said something of a kind, or nothing more can happen, or
    /// the limit is reached; tells whether it was said.
    pub(crate) fn until(&mut self, limit: Duration, seen: impl Fn(&Event) -> bool) -> bool {
        let limit = self.now + limit;
        let mut read = self.events.len();
        loop {
            self.exchange();
            if self.events[read..].iter().any(&seen) {
                return true;
            }
            read = self.events.len();
            let next = [self.client.deadline(), self.bmc.deadline()]
                .into_iter()
                .flatten()
                .chain(self.to_bmc.iter().chain(&self.to_client).map(|(at, _)| *at))
                .min();
            match next {
                Some(next) if next <= limit => self.now = self.now.max(next),
                _ => return false,
            }
            self.client.timeout(self.now);
        }
    }

    fn exchange(&mut self) {
        loop {
            while let Some(event) = self.client.poll_event() {
                self.events.push(event);
            }
            let mut moved = false;
            while let Some(bytes) = self.client.poll_transmit() {
                moved = true;
                for after in self.network.carry() {
                    self.to_bmc.push((self.now + after, bytes.clone()));
                }
            }
            for bytes in self.bmc.poll(self.now) {
                moved = true;
                for after in self.network.carry() {
                    self.to_client.push((self.now + after, bytes.clone()));
                }
            }
            for bytes in due(&mut self.to_bmc, self.now) {
                moved = true;
                self.bmc.receive(&bytes, self.now);
            }
            for bytes in due(&mut self.to_client, self.now) {
                moved = true;
                self.client.receive(&bytes, self.now);
                self.heard.push(bytes);
            }
            if !moved {
                return;
            }
        }
    }
}

fn due(queue: &mut Vec<(Duration, Vec<u8>)>, now: Duration) -> Vec<Vec<u8>> {
    let (due, later) = std::mem::take(queue)
        .into_iter()
        .partition(|(at, _)| *at <= now);
    *queue = later;
    let mut due: Vec<(Duration, Vec<u8>)> = due;
    due.sort_by_key(|(at, _)| *at);
    due.into_iter().map(|(_, bytes)| bytes).collect()
}

fn quiet() -> Network {
    Network::new(Faults::default(), 1)
}

const MINUTE: Duration = Duration::from_secs(60);

fn is_up(event: &Event) -> bool {
    matches!(event, Event::Up(_))
}

#[test]
fn every_suite_and_type_switches_a_machine() {
    use bugler_bmc::ipmi::crypto::Suite;
    use bugler_bmc::ipmi::packet::AuthType;
    for (suites, types, lists) in [
        (vec![Suite::Seventeen, Suite::Three], vec![], true),
        (vec![Suite::Seventeen, Suite::Three], vec![], false),
        (vec![Suite::Three], vec![AuthType::Md5], true),
        (vec![Suite::Three], vec![], false),
        (vec![], vec![AuthType::Md5, AuthType::Password], true),
        (vec![], vec![AuthType::Password], true),
    ] {
        let model = Model {
            suites,
            types,
            lists,
            ..Model::default()
        };
        let config = Config {
            allow_v15: true,
            ..config("secret")
        };
        let mut pair = Pair::new(config, model, quiet());
        assert!(pair.until(MINUTE, is_up), "{:?}", pair.events);
        println!("{:?}", pair.events);
        let now = pair.now;
        pair.client.request(chassis_control(Control::On), now);
        pair.client.request(chassis_status(), now);
        assert!(pair.until(MINUTE, |event| matches!(
            event,
            Event::Answered { id: 2, .. }
        )));
        assert!(pair.bmc.chassis.on);
        pair.client.close(now);
        assert!(pair.until(MINUTE, |event| *event == Event::Closed));
        assert_eq!(pair.bmc.sessions(), 0, "the BMC has no session left");
        assert_eq!(pair.now, Duration::ZERO, "nothing was waited for");
    }
}

#[test]
fn ipmi_one_five_is_not_spoken_unasked() {
    let model = Model {
        suites: vec![],
        ..Model::default()
    };
    let mut pair = Pair::new(config("secret"), model, quiet());
    assert!(pair.until(MINUTE, |event| *event == Event::Failed(Failure::OnlyV15)));
}

#[test]
fn a_wrong_password_costs_one_login() {
    for suites in [vec![bugler_bmc::ipmi::crypto::Suite::Three], vec![]] {
        let is_old = suites.is_empty();
        let model = Model {
            suites,
            ..Model::default()
        };
        let config = Config {
            allow_v15: true,
            ..config("wrong")
        };
        let mut pair = Pair::new(config, model, quiet());
        assert!(pair.until(MINUTE, |event| matches!(event, Event::Failed(_))));
        println!("{:?} after {:?}", pair.events, pair.now);
        if is_old {
            // Such a BMC says nothing, so it is asked as often as one that does not hear.
            assert_eq!(pair.events, [Event::Failed(Failure::MaybePassword)]);
            assert!(pair.bmc.refused <= 4);
        } else {
            assert_eq!(pair.events, [Event::Failed(Failure::Password)]);
            pair.until(MINUTE, |_| false);
            assert_eq!((pair.bmc.refused, pair.bmc.sessions()), (1, 0));
            assert_eq!(pair.now, Duration::ZERO);
        }
    }
}

#[test]
fn a_busy_bmc_is_asked_again_and_does_it_once() {
    let model = Model {
        busy: 3,
        ..Model::default()
    };
    let mut pair = Pair::new(config("secret"), model, quiet());
    pair.bmc.chassis.on = true;
    let now = pair.now;
    pair.client.request(chassis_control(Control::Reset), now);
    assert!(pair.until(MINUTE, |event| matches!(event, Event::Answered { .. })));
    assert_eq!(pair.bmc.chassis.controls, [3]);
}

#[test]
fn a_bmc_that_takes_three_seconds_over_everything_is_waited_for() {
    let model = Model {
        delay: Duration::from_secs(3),
        ..Model::default()
    };
    let mut pair = Pair::new(config("secret"), model, quiet());
    pair.bmc.chassis.on = true;
    let now = pair.now;
    pair.client.request(chassis_status(), now);
    pair.client.request(chassis_control(Control::Reset), now);
    let answered = pair.until(3 * MINUTE, |event| {
        matches!(
            event,
            Event::Answered {
                id: 2,
                answer: Some(_)
            }
        )
    });
    println!("{:?} after {:?}", pair.events, pair.now);
    assert!(answered);
    assert_eq!(pair.bmc.chassis.controls, [3]);
}

#[test]
fn garbage_is_called_garbage() {
    let mut pair = Pair::new(config("secret"), Model::default(), quiet());
    for second in 0..40 {
        let now = Duration::from_secs(second);
        pair.client.receive(b"HTTP/1.1 400 Bad Request\r\n", now);
        pair.client.timeout(now);
        while pair.client.poll_transmit().is_some() {}
    }
    let Some(Event::Failed(Failure::Garbage { .. })) = pair.client.poll_event() else {
        panic!("it is not told");
    };
}

#[test]
fn one_datagram_in_ten_may_be_lost() {
    let mut failed = 0;
    for seed in 0..500 {
        let faults = Faults {
            loss: 100,
            ..Faults::default()
        };
        let mut pair = Pair::new(
            config("secret"),
            Model::default(),
            Network::new(faults, seed),
        );
        pair.client.request(chassis_status(), Duration::ZERO);
        let answered = pair.until(3 * MINUTE, |event| matches!(event, Event::Answered { .. }));
        failed += u32::from(!answered);
    }
    println!("{failed} of 500 sessions failed");
    // Each of four questions fails with a chance of 0.19 to the 4th; the exchange in their middle is
    // begun more often than that.
    assert!(failed <= 12, "{failed}");
}
