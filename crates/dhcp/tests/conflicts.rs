//! What a real link shows of trouble: addresses that two machines use, and a bridge that waits for
//! spanning tree.
//!
//! Each test runs itself again in a network namespace that it makes; see `support/namespace.rs`.

#[path = "support/namespace.rs"]
mod namespace;

use bugler_boot::{BootAction, BootPlan, ClientFacts, Goal};
use bugler_dhcp::{
    Advisor, Ask, Config, Handle, Interface, LeaseLog, Notice, NoticeKind, Notify, Policy, Pool,
    Server, Subnet,
};
use bugler_model::{Lease, LeaseState, MacAddr, Timestamp};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SHARED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 105);

#[derive(Default)]
struct World {
    notices: Mutex<Vec<Notice>>,
    changed: tokio::sync::Notify,
}

#[async_trait::async_trait]
impl LeaseLog for World {
    async fn commit(&self, _: Vec<Lease>) -> Result<(), String> {
        Ok(())
    }
}

impl Notify for World {
    fn notify(&self, notice: Notice) {
        self.notices.lock().unwrap().push(notice);
        self.changed.notify_waiters();
    }
}

impl Advisor for World {
    fn advise(&self, _: &ClientFacts, _: Ask<'_>) -> BootPlan {
        BootPlan::new(Goal::Agent, BootAction::Tftp("snponly.efi".into()), "")
    }
}

impl World {
    /// What was told of this kind, once there are so many.
    async fn told(&self, kind: NoticeKind, count: usize) -> Vec<Notice> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let all = self.notices.lock().unwrap().clone();
                let these: Vec<Notice> = all.into_iter().filter(|n| n.kind == kind).collect();
                if these.len() >= count {
                    return these;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(180), wait)
            .await
            .expect("it is told in time")
    }
}

async fn start(world: &Arc<World>, leases: Vec<Lease>) -> Handle {
    let interface = Interface::find("br0").await.unwrap();
    let mut subnet = Subnet::new(interface.network);
    subnet.pools = vec![Pool {
        first: [10, 77, 0, 100].into(),
        last: [10, 77, 0, 200].into(),
    }];
    let config = Config {
        interface,
        policy: Policy::Full,
        subnets: vec![subnet],
        http_port: 8480,
        leases,
    };
    Server::start(config, world.clone(), world.clone(), world.clone()).unwrap()
}

fn in_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

fn mac(peer: &namespace::Peer) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, peer.number])
}

#[test]
fn addresses_that_two_machines_use_are_reported() {
    namespace::run("addresses_that_two_machines_use_are_reported", |network| {
        let [holder, thief, impostor] = [(); 3].map(|()| network.peer());
        holder.ip("address add 10.77.0.105/24 dev eth0");
        thief.ip("address add 10.77.0.105/24 dev eth0");
        // The server's own.
        impostor.ip("address add 10.77.0.1/24 dev eth0");
        in_runtime(async move {
            let world = Arc::new(World::default());
            let lease = Lease {
                address: SHARED,
                mac: mac(&holder),
                client_id: None,
                hostname: None,
                state: LeaseState::Bound,
                expires: Timestamp(i64::MAX),
            };
            let server = start(&world, vec![lease]).await;
            let told = world.told(NoticeKind::DuplicateAddress, 2).await;
            let about = |part: &str| {
                told.iter()
                    .find(|notice| notice.text.contains(part))
                    .unwrap_or_else(|| panic!("nothing about {part}: {told:?}"))
            };
            let own = about("this server's own address on br0");
            assert_eq!(own.mac, Some(mac(&impostor)));
            // Whichever of the two answers first.
            let shared = about("10.77.0.105").text.clone();
            assert!(shared.contains(&mac(&thief).to_string()), "{shared}");
            assert!(shared.contains(&mac(&holder).to_string()), "{shared}");
            server.stop().await;
        });
    });
}

#[test]
fn a_client_behind_a_port_that_waits_for_spanning_tree_is_reported() {
    namespace::run(
        "a_client_behind_a_port_that_waits_for_spanning_tree_is_reported",
        |network| {
            // The bridge's ports forward 12 s after their link is up; usual is 30 s.
            namespace::ip("link set br0 type bridge stp_state 1 forward_delay 600");
            let first = network.peer();
            let mut later = std::mem::replace(network, namespace::Network::none());
            in_runtime(async move {
                let world = Arc::new(World::default());
                let patient = ["-t", "40", "-T", "3"];
                let begin = move || {
                    let mut client = first.udhcpc_daemon(&patient);
                    client.wait_for("deconfig");
                    (first, client)
                };
                let (_first, mut client) = tokio::task::spawn_blocking(begin).await.unwrap();
                let server = start(&world, vec![]).await;
                let bound = move || client.wait_for("bound");
                tokio::task::spawn_blocking(bound).await.unwrap();
                // It began before the server did: nobody can say who did not hear it.
                assert_eq!(world.notices.lock().unwrap().clone(), []);
                let (client, lease) = tokio::task::spawn_blocking(move || {
                    let second = later.peer();
                    let lease = second.udhcpc(&patient);
                    (mac(&second), lease)
                })
                .await
                .unwrap();
                lease.unwrap();
                let told = world.told(NoticeKind::Unheard, 1).await;
                assert_eq!(told[0].mac, Some(client));
                assert!(told[0].text.contains("portfast"), "{}", told[0].text);
                println!("{}", told[0].text);
                server.stop().await;
            });
        },
    );
}
