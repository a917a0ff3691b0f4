//! The server on a real link, with real clients and a real other server.
//!
//! Each test runs itself again in a network namespace that it makes; see `support/namespace.rs`.

#[path = "support/namespace.rs"]
mod namespace;

use bugler_boot::{BootAction, BootPlan, ClientFacts, Goal};
use bugler_dhcp::{
    Advisor, Ask, Config, CustomOption, Error, Handle, Interface, LeaseLog, MessageType, Mode,
    Notice, NoticeKind, Notify, Op, Packet, Policy, Pool, Server, Subnet, code,
};
use bugler_model::{Lease, LeaseState, MacAddr};
use namespace::Peer;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Everything that the server asks for, and what it told.
#[derive(Default)]
struct World {
    leases: Mutex<Vec<Lease>>,
    notices: Mutex<Vec<Notice>>,
    disk_full: AtomicBool,
    changed: tokio::sync::Notify,
}

#[async_trait::async_trait]
impl LeaseLog for World {
    async fn commit(&self, leases: Vec<Lease>) -> Result<(), String> {
        if self.disk_full.load(Ordering::SeqCst) {
            return Err("no space left on device".into());
        }
        self.leases.lock().unwrap().extend(leases);
        self.changed.notify_waiters();
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
    /// Waits for something that the server does.
    async fn until(&self, happened: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if happened(self) {
                    break;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), wait)
            .await
            .expect("it happens in time");
    }

    fn kinds(&self) -> Vec<NoticeKind> {
        self.notices
            .lock()
            .unwrap()
            .iter()
            .map(|notice| notice.kind)
            .collect()
    }
}

async fn start(
    world: &Arc<World>,
    policy: Policy,
    pool: Option<(u8, u8)>,
) -> Result<Handle, Error> {
    let interface = Interface::find("br0").await?;
    let mut subnet = Subnet::new(interface.network);
    let ip = |last| Ipv4Addr::new(10, 77, 0, last);
    subnet.pools = pool
        .into_iter()
        .map(|(first, last)| Pool {
            first: ip(first),
            last: ip(last),
        })
        .collect();
    subnet.router = Some(SERVER);
    subnet.dns = vec![SERVER];
    let config = Config {
        interface,
        policy,
        subnets: vec![subnet],
        http_port: 8480,
        leases: vec![],
    };
    Server::start(config, world.clone(), world.clone(), world.clone())
}

/// Runs a client, which blocks, while the server runs.
async fn beside<T: Send + 'static>(client: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(client).await.unwrap()
}

fn in_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

fn value<'a>(lease: &'a [(String, String)], name: &str) -> Option<&'a str> {
    lease
        .iter()
        .find(|(other, _)| other == name)
        .map(|(_, value)| value.as_str())
}

#[test]
fn udhcpc_gets_renews_and_releases_a_lease_that_is_stored() {
    namespace::run(
        "udhcpc_gets_renews_and_releases_a_lease_that_is_stored",
        |network| {
            let peer = Arc::new(network.peer());
            in_runtime(async move {
                let world = Arc::new(World::default());
                let server = start(&world, Policy::Full, Some((100, 200))).await.unwrap();
                assert_eq!(server.mode(), Some(Mode::Full));
                let client = peer.clone();
                let lease = beside(move || client.udhcpc(&["-x", "hostname:board-7"]))
                    .await
                    .unwrap();
                assert_eq!(value(&lease, "serverid"), Some("10.77.0.1"));
                assert_eq!(value(&lease, "subnet"), Some("255.255.255.0"));
                assert_eq!(value(&lease, "router"), Some("10.77.0.1"));
                assert_eq!(value(&lease, "lease"), Some("3600"));
                let address: Ipv4Addr = value(&lease, "ip").unwrap().parse().unwrap();
                let stored = world.leases.lock().unwrap().clone();
                assert_eq!(
                    (stored.len(), stored[0].address, stored[0].state),
                    (1, address, LeaseState::Bound)
                );
                assert_eq!(stored[0].hostname.as_deref(), Some("board-7"));
                assert_eq!(stored[0].mac, MacAddr([0x52, 0x54, 0, 0, 0, peer.number]));

                beside(move || {
                    let mut client = peer.udhcpc_daemon(&[]);
                    client.wait_for("bound");
                    client.renew();
                    client.release();
                })
                .await;
                let state = |lease: Option<&Lease>| lease.map(|lease| lease.state);
                let released = Some(LeaseState::Released);
                world
                    .until(|world| state(world.leases.lock().unwrap().last()) == released)
                    .await;
                let stored = world.leases.lock().unwrap().clone();
                // udhcpc opens the socket for the answer to its renewal after it has asked: on a busy
                // host it misses it, and asks again.
                assert!((4..=8).contains(&stored.len()), "{stored:?}");
                let others = &stored[..stored.len() - 1];
                assert!(others.iter().all(|lease| lease.state == LeaseState::Bound));
                assert!(stored.iter().all(|lease| lease.address == address));
                assert_eq!(world.kinds(), []);
                server.stop().await;
            });
        },
    );
}

#[test]
fn an_address_in_use_on_the_link_is_not_offered() {
    namespace::run("an_address_in_use_on_the_link_is_not_offered", |network| {
        let squatter = network.peer();
        squatter.ip("address add 10.77.0.100/24 dev eth0");
        let peer = network.peer();
        in_runtime(async move {
            let world = Arc::new(World::default());
            let server = start(&world, Policy::Full, Some((100, 101))).await.unwrap();
            // Asks for the very address (-r) that is in use.
            let lease = beside(move || peer.udhcpc(&["-r", "10.77.0.100"]))
                .await
                .unwrap();
            assert_eq!(value(&lease, "ip"), Some("10.77.0.101"));
            assert_eq!(world.kinds(), [NoticeKind::AddressInUse]);
            let squatters = MacAddr([0x52, 0x54, 0, 0, 0, squatter.number]);
            assert_eq!(world.notices.lock().unwrap()[0].mac, Some(squatters));
            server.stop().await;
        });
    });
}

#[test]
fn a_lease_that_cannot_be_stored_is_not_acknowledged() {
    namespace::run(
        "a_lease_that_cannot_be_stored_is_not_acknowledged",
        |network| {
            let peer = Arc::new(network.peer());
            in_runtime(async move {
                let world = Arc::new(World::default());
                world.disk_full.store(true, Ordering::SeqCst);
                let server = start(&world, Policy::Full, Some((100, 200))).await.unwrap();
                let client = peer.clone();
                let refused = beside(move || client.udhcpc(&["-t", "4", "-T", "1"])).await;
                assert!(refused.unwrap_err().contains("no lease"));
                let notice = world.notices.lock().unwrap()[0].clone();
                assert_eq!(notice.kind, NoticeKind::CommitFailed);
                assert!(
                    notice.text.contains("no space left on device"),
                    "{}",
                    notice.text
                );
                world.disk_full.store(false, Ordering::SeqCst);
                beside(move || peer.udhcpc(&[])).await.unwrap();
                server.stop().await;
            });
        },
    );
}

/// A PXE client of the test's own.
struct Pxe {
    socket: UdpSocket,
    mac: MacAddr,
}

impl Pxe {
    fn on(peer: &Peer) -> Self {
        Self {
            socket: peer.udp(68),
            mac: MacAddr([0x52, 0x54, 0, 0, 0, peer.number]),
        }
    }

    fn request(&self, kind: MessageType) -> Packet {
        let mut packet = Packet::new(Op::Request, 0x5eed, self.mac);
        packet.set_broadcast();
        packet.options.push(code::MESSAGE_TYPE, &[kind as u8]);
        packet
            .options
            .push(code::VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003016");
        packet.options.push(code::CLIENT_ARCH, &[0, 7]);
        packet
            .options
            .push(code::CLIENT_UUID, &[&[0][..], &[7; 16]].concat());
        packet
    }

    fn send(&self, packet: &Packet, to: (Ipv4Addr, u16)) {
        self.socket.send_to(&packet.encode(0).bytes, to).unwrap();
    }

    /// The next reply from this server.
    fn receive(&self, from: Ipv4Addr) -> Packet {
        let mut buffer = [0; 2048];
        loop {
            let (length, source) = self.socket.recv_from(&mut buffer).expect("a reply in time");
            let packet = Packet::decode(&buffer[..length]).unwrap();
            if source.ip() == from && packet.op == Op::Reply && packet.xid == 0x5eed {
                return packet;
            }
        }
    }
}

#[test]
fn auto_beside_dnsmasq_is_a_proxy_and_leaves_addresses_to_it() {
    namespace::run(
        "auto_beside_dnsmasq_is_a_proxy_and_leaves_addresses_to_it",
        |network| {
            let other = network.peer();
            other.ip("address add 10.77.0.9/24 dev eth0");
            let dnsmasq = other.dnsmasq();
            let peer = Arc::new(network.peer());
            in_runtime(async move {
                let world = Arc::new(World::default());
                let server = start(&world, Policy::Auto, Some((100, 200))).await.unwrap();
                assert_eq!(server.mode(), None);
                assert_eq!(server.decided().await, Some(Mode::Proxy));
                let said = world.notices.lock().unwrap()[0].clone();
                assert_eq!(said.kind, NoticeKind::Mode);
                assert!(
                    said.text.contains("10.77.0.9 (it offered 10.77.0.5"),
                    "{}",
                    said.text
                );

                let client = peer.clone();
                let lease = beside(move || client.udhcpc(&[])).await.unwrap();
                assert_eq!(value(&lease, "serverid"), Some("10.77.0.9"));
                let address: Ipv4Addr = value(&lease, "ip").unwrap().parse().unwrap();

                let client = peer.clone();
                beside(move || {
                    let pxe = Pxe::on(&client);
                    pxe.send(
                        &pxe.request(MessageType::Discover),
                        (Ipv4Addr::BROADCAST, 67),
                    );
                    let offer = pxe.receive(SERVER);
                    assert_eq!(offer.message_type(), Some(MessageType::Offer));
                    assert_eq!(
                        (offer.yiaddr, offer.siaddr),
                        (Ipv4Addr::UNSPECIFIED, SERVER)
                    );
                    let mut request = pxe.request(MessageType::Request);
                    request.ciaddr = address;
                    pxe.send(&request, (SERVER, 4011));
                    let ack = pxe.receive(SERVER);
                    assert_eq!(
                        (ack.message_type(), ack.file_name()),
                        (Some(MessageType::Ack), &b"snponly.efi"[..])
                    );
                })
                .await;
                assert!(world.leases.lock().unwrap().is_empty());
                assert_eq!(world.kinds(), [NoticeKind::Mode]);
                server.stop().await;
                drop(dnsmasq);
            });
        },
    );
}

#[test]
fn auto_alone_with_a_pool_gives_addresses_and_answers_who_asked_meanwhile() {
    namespace::run(
        "auto_alone_with_a_pool_gives_addresses_and_answers_who_asked_meanwhile",
        |network| {
            let peer = network.peer();
            in_runtime(async move {
                let world = Arc::new(World::default());
                let server = start(&world, Policy::Auto, Some((100, 200))).await.unwrap();
                let offer = beside(move || {
                    let pxe = Pxe::on(&peer);
                    // Once, while the search is under way.
                    pxe.send(
                        &pxe.request(MessageType::Discover),
                        (Ipv4Addr::BROADCAST, 67),
                    );
                    pxe.receive(SERVER)
                })
                .await;
                assert_eq!(server.mode(), Some(Mode::Full));
                assert!(!offer.yiaddr.is_unspecified());
                assert_eq!(offer.file_name(), b"snponly.efi");
                assert_eq!(world.kinds(), [NoticeKind::Mode]);
                server.stop().await;
            });
        },
    );
}

#[test]
fn auto_alone_without_a_pool_gives_nothing_and_says_what_to_do() {
    namespace::run(
        "auto_alone_without_a_pool_gives_nothing_and_says_what_to_do",
        |network| {
            let _peer = network.peer();
            in_runtime(async move {
                let world = Arc::new(World::default());
                let server = start(&world, Policy::Auto, None).await.unwrap();
                assert_eq!(server.decided().await, Some(Mode::Proxy));
                let said = world.notices.lock().unwrap()[0].text.clone();
                assert!(
                    said.contains("nobody gives out addresses") && said.contains("--pool"),
                    "{said}"
                );
                server.stop().await;
            });
        },
    );
}

#[test]
fn what_cannot_be_served_is_told_apart() {
    namespace::run("what_cannot_be_served_is_told_apart", |_| {
        in_runtime(async {
            assert!(
                matches!(Interface::find("eth9").await, Err(Error::NoInterface(name)) if name == "eth9")
            );
            assert!(matches!(
                Interface::find("lo").await,
                Err(Error::NotEthernet(_))
            ));
            for (line, expected) in [
                (
                    "link add v0 type veth peer name v1",
                    Error::Down("v0".into()),
                ),
                ("link set v0 up", Error::NoAddress("v0".into())),
            ] {
                let status = std::process::Command::new("ip")
                    .args(line.split(' '))
                    .status()
                    .unwrap();
                assert!(status.success());
                let error = Interface::find("v0").await.unwrap_err();
                assert_eq!(error.to_string(), expected.to_string());
            }
            let world = Arc::new(World::default());
            let first = start(&world, Policy::Full, Some((100, 200))).await.unwrap();
            let second = start(&world, Policy::Full, Some((100, 200))).await;
            assert!(matches!(second, Err(Error::PortInUse { port: 67, .. })));
            first.stop().await;
            // It let go of everything.
            start(&world, Policy::Full, Some((100, 200)))
                .await
                .unwrap()
                .stop()
                .await;
            let outside = start(&world, Policy::Full, Some((100, 99))).await;
            assert!(matches!(outside, Err(Error::Config(_))));
        });
        // Without capabilities; they belong to the thread.
        std::thread::spawn(|| {
            let none = rustix::thread::CapabilitySets {
                effective: rustix::thread::CapabilitySet::empty(),
                permitted: rustix::thread::CapabilitySet::empty(),
                inheritable: rustix::thread::CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, none).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let refused =
                    start(&Arc::new(World::default()), Policy::Full, Some((100, 200))).await;
                assert!(matches!(refused, Err(Error::Permission { .. })));
            });
        })
        .join()
        .unwrap();
    });
}

#[test]
fn an_option_that_does_not_fit_is_reported_once_and_the_rest_is_sent() {
    namespace::run(
        "an_option_that_does_not_fit_is_reported_once_and_the_rest_is_sent",
        |network| {
            let peer = network.peer();
            in_runtime(async move {
                let world = Arc::new(World::default());
                let interface = Interface::find("br0").await.unwrap();
                let mut subnet = Subnet::new(interface.network);
                subnet.pools = vec![Pool {
                    first: [10, 77, 0, 100].into(),
                    last: [10, 77, 0, 200].into(),
                }];
                subnet.options = vec![CustomOption {
                    code: 224,
                    value: vec![7; 300],
                    always: true,
                }];
                let config = Config {
                    interface,
                    policy: Policy::Full,
                    subnets: vec![subnet],
                    http_port: 8480,
                    leases: vec![],
                };
                let server =
                    Server::start(config, world.clone(), world.clone(), world.clone()).unwrap();
                let lease = beside(move || peer.udhcpc(&[])).await.unwrap();
                assert_eq!(value(&lease, "subnet"), Some("255.255.255.0"));
                let notices = world.notices.lock().unwrap().clone();
                assert_eq!(notices.len(), 1, "{notices:?}");
                assert_eq!(notices[0].kind, NoticeKind::LeftOut);
                assert!(
                    notices[0].text.contains("option 224"),
                    "{}",
                    notices[0].text
                );
                server.stop().await;
            });
        },
    );
}

#[test]
fn another_server_that_appears_later_is_reported() {
    namespace::run("another_server_that_appears_later_is_reported", |network| {
        let other = network.peer();
        other.ip("address add 10.77.0.9/24 dev eth0");
        let peer = network.peer();
        in_runtime(async move {
            let world = Arc::new(World::default());
            let server = start(&world, Policy::Full, Some((100, 200))).await.unwrap();
            let dnsmasq = other.dnsmasq();
            let offers = beside(move || {
                let pxe = Pxe::on(&peer);
                pxe.send(
                    &pxe.request(MessageType::Discover),
                    (Ipv4Addr::BROADCAST, 67),
                );
                // dnsmasq pings the address for 3 s before it offers it.
                (
                    pxe.receive(SERVER).yiaddr,
                    pxe.receive([10, 77, 0, 9].into()).yiaddr,
                )
            })
            .await;
            assert_eq!(offers.1.octets()[..3], [10, 77, 0]);
            world.until(|world| !world.kinds().is_empty()).await;
            let notice = world.notices.lock().unwrap()[0].clone();
            assert_eq!(notice.kind, NoticeKind::ForeignServer);
            assert!(
                notice.text.contains("10.77.0.9") && notice.text.contains("--dhcp proxy"),
                "{}",
                notice.text
            );
            server.stop().await;
            drop(dnsmasq);
        });
    });
}
