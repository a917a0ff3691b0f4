//! The server and clients behind real relays, which are routers as well.
//!
//! Each test runs itself again in a network namespace that it makes; see `support/namespace.rs`.

#[path = "support/namespace.rs"]
mod namespace;

use bugler_boot::{BootAction, BootPlan, ClientFacts, Goal};
use bugler_dhcp::{
    Advisor, Ask, Config, Handle, Interface, LeaseLog, Network, Notice, Notify, Policy, Pool,
    Server, Subnet,
};
use bugler_model::{Lease, LeaseState};
use namespace::Peer;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct World {
    leases: Mutex<Vec<Lease>>,
    notices: Mutex<Vec<Notice>>,
    changed: tokio::sync::Notify,
}

impl World {
    /// What was stored, once the last of it is a release.
    async fn until_released(&self) -> Vec<Lease> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let leases = self.leases.lock().unwrap().clone();
                if leases.last().map(|lease| lease.state) == Some(LeaseState::Released) {
                    return leases;
                }
                changed.await;
            }
        };
        let limit = std::time::Duration::from_secs(120);
        tokio::time::timeout(limit, wait)
            .await
            .expect("the release arrives")
    }
}

#[async_trait::async_trait]
impl LeaseLog for World {
    async fn commit(&self, leases: Vec<Lease>) -> Result<(), String> {
        self.leases.lock().unwrap().extend(leases);
        self.changed.notify_waiters();
        Ok(())
    }
}

impl Notify for World {
    fn notify(&self, notice: Notice) {
        self.notices.lock().unwrap().push(notice);
    }
}

impl Advisor for World {
    fn advise(&self, _: &ClientFacts, _: Ask<'_>) -> BootPlan {
        BootPlan::new(Goal::Agent, BootAction::Tftp("snponly.efi".into()), "")
    }
}

/// Serves 10.77.0.0/24, the link, and 10.88.0.0/24 behind a relay.
async fn start(world: &Arc<World>) -> Handle {
    let interface = Interface::find("br0").await.unwrap();
    let mut link = Subnet::new(interface.network);
    link.pools = vec![Pool {
        first: [10, 77, 0, 100].into(),
        last: [10, 77, 0, 110].into(),
    }];
    let mut remote = Subnet::new(Network {
        address: [10, 88, 0, 0].into(),
        prefix: 24,
    });
    remote.pools = vec![Pool {
        first: [10, 88, 0, 100].into(),
        last: [10, 88, 0, 110].into(),
    }];
    remote.router = Some([10, 88, 0, 1].into());
    let config = Config {
        interface,
        policy: Policy::Full,
        subnets: vec![link, remote],
        http_port: 8480,
        leases: vec![],
    };
    Server::start(config, world.clone(), world.clone(), world.clone()).unwrap()
}

fn value<'a>(lease: &'a [(String, String)], name: &str) -> Option<&'a str> {
    lease
        .iter()
        .find(|(other, _)| other == name)
        .map(|(_, value)| value.as_str())
}

/// A client behind `relay`, which is started on the router 10.77.0.2 / 10.88.0.1, gets a lease of its
/// subnet, renews it without the relay, and releases it.
fn behind(name: &str, relay: impl Fn(&Peer) -> namespace::Running) {
    namespace::run(name, |network| {
        let router = network.peer();
        router.ip("address add 10.77.0.2/24 dev eth0");
        let client = network.peer_behind(&router);
        router.ip("address add 10.88.0.1/24 dev lan0");
        router.forward();
        namespace::ip("route add 10.88.0.0/24 via 10.77.0.2");
        let running = relay(&router);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let world = Arc::new(World::default());
            let server = start(&world).await;
            let clients = move || {
                let boots = ["-V", "PXEClient:Arch:00007:UNDI:003016"];
                let lease = client.udhcpc(&boots).unwrap();
                assert_eq!(value(&lease, "serverid"), Some("10.77.0.1"));
                assert_eq!(value(&lease, "router"), Some("10.88.0.1"));
                assert_eq!(value(&lease, "boot_file"), Some("snponly.efi"));
                assert_eq!(value(&lease, "lease"), Some("120"));
                let mut daemon = client.udhcpc_daemon(&[]);
                daemon.wait_for("bound");
                daemon.renew();
                daemon.release();
                value(&lease, "ip").unwrap().to_owned()
            };
            let address = tokio::task::spawn_blocking(clients).await.unwrap();
            assert!(address.starts_with("10.88.0.1"), "{address}");
            let leases = world.until_released().await;
            // dhcrelay hears what the client sends to the server itself, and passes it on once more.
            assert!(leases.len() >= 4, "{leases:?}");
            for lease in leases {
                assert_eq!(lease.address.to_string(), address);
            }
            let notices = world.notices.lock().unwrap().clone();
            assert!(notices.is_empty(), "{notices:?}");
            server.stop().await;
        });
        drop(running);
    });
}

const DHCRELAY: [&str; 7] = ["-4", "-d", "--no-pid", "-a", "-id", "lan0", "-iu"];

#[test]
fn a_client_behind_dhcrelay_gets_an_address_of_its_subnet() {
    behind(
        "a_client_behind_dhcrelay_gets_an_address_of_its_subnet",
        |router| {
            let arguments = [&DHCRELAY[..], &["eth0", "10.77.0.1"]].concat();
            router.daemon("dhcrelay", &arguments, "Sending on   Socket/fallback")
        },
    );
}

/// With -U the relay's address is that of its upper side, and option 82 says where the client is.
#[test]
fn a_client_whose_relay_selects_the_link_gets_an_address_of_that_link() {
    behind(
        "a_client_whose_relay_selects_the_link_gets_an_address_of_that_link",
        |router| {
            let arguments = [&DHCRELAY[..], &["eth0", "-U", "eth0", "10.77.0.1"]].concat();
            router.daemon("dhcrelay", &arguments, "Sending on   Socket/fallback")
        },
    );
}

#[test]
fn a_client_behind_dnsmasq_as_a_relay_gets_an_address_of_its_subnet() {
    behind(
        "a_client_behind_dnsmasq_as_a_relay_gets_an_address_of_its_subnet",
        |router| {
            let arguments = [
                "--no-daemon",
                "--conf-file=/dev/null",
                "--port=0",
                "--user=root",
                "--group=root",
                "--pid-file=",
                "--dhcp-relay=10.88.0.1,10.77.0.1",
            ];
            router.daemon("dnsmasq", &arguments, "DHCP relay from 10.88.0.1")
        },
    );
}
