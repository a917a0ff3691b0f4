//! Machines that keep asking: what the server tries, what it keeps, and what it says.

use crate::testing::Site;
use bugler_boot::{BootPlan, ClientFacts, MOST_TRIES};
use bugler_dhcp::{
    Advisor, Ask, CLIENT_PORT, Identity, Ingress, Machine, MessageType, Mode, Network, Now, Op,
    Output, Packet, Pool, SERVER_PORT, Subnet, code,
};
use bugler_model::{Boots, Conditions, Loader, MacAddr, OfferShape, Profile, Rule, Timestamp};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// The server behind a DHCP machine that owns the addresses.
struct Owner {
    site: Site,
    machine: Machine,
    up: Duration,
}

struct Plug(Arc<crate::boot::BootService>);

impl Advisor for Plug {
    fn advise(&self, facts: &ClientFacts, ask: Ask<'_>) -> BootPlan {
        let message = match ask.message {
            MessageType::Discover => "DISCOVER",
            _ => "REQUEST",
        };
        self.0.advise(facts, message, ask.from)
    }
}

impl Owner {
    fn new() -> Self {
        let mut subnet = Subnet::new(Network {
            address: SERVER,
            prefix: 24,
        });
        subnet.pools = vec![Pool {
            first: Ipv4Addr::new(192, 0, 2, 100),
            last: Ipv4Addr::new(192, 0, 2, 110),
        }];
        let identity = Identity {
            interface: "eth1".into(),
            address: SERVER,
            mtu: 1500,
            http_port: 8480,
        };
        Self {
            site: Site::new(),
            machine: Machine::new(identity, Mode::Full, vec![subnet], vec![]).unwrap(),
            up: Duration::ZERO,
        }
    }

    /// What a DISCOVER of UEFI's PXE is offered.
    fn offer(&mut self) -> Packet {
        let mut discover = Packet::new(Op::Request, 7, MAC);
        for (code, value) in [
            (code::MESSAGE_TYPE, &[MessageType::Discover as u8][..]),
            (code::VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003016"),
            (code::CLIENT_ARCH, &[0, 7]),
        ] {
            discover.options.push(code, value);
        }
        let ingress = Ingress {
            port: SERVER_PORT,
            source: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT),
            destination: Ipv4Addr::BROADCAST,
        };
        let plug = Plug(self.site.boot.clone());
        let mut out = vec![];
        let now = |up| Now { wall: NOW, up };
        self.machine
            .handle(now(self.up), ingress, &discover, &plug, &mut out);
        for _ in 0..4 {
            for output in out.drain(..) {
                if let Output::Send(transmit) = output {
                    return transmit.packet;
                }
            }
            // Until nobody has claimed the address.
            self.up += Duration::from_secs(1);
            self.machine.on_deadline(now(self.up), &mut out);
        }
        panic!("it was offered nothing");
    }

    /// The shape of the next offer, read from its bytes.
    fn shape(&mut self) -> OfferShape {
        let offer = self.offer();
        match (offer.options.get(code::VENDOR), offer.file_name()) {
            (Some([6, 1, 8, 255]), b"snponly.efi") => OfferShape::Standard,
            (None, b"snponly.efi") => OfferShape::Direct,
            (None, b"") => OfferShape::BootServer,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn in_full_mode_the_shape_goes_round_and_what_was_taken_is_kept() {
    use OfferShape::{BootServer, Direct, Standard};
    let mut owner = Owner::new();
    let shapes: Vec<OfferShape> = (0..10).map(|_| owner.shape()).collect();
    assert_eq!(shapes[..3], [Standard; 3]);
    assert_eq!(shapes[3..6], [Direct; 3]);
    assert_eq!(shapes[6..9], [BootServer; 3]);
    assert_eq!(shapes[9], Standard);
    // Two rounds of another firmware: it takes the full offer, and is offered that from then on.
    let mut owner = Owner::new();
    while owner.shape() != Direct {}
    let peer = Ipv4Addr::new(192, 0, 2, 100);
    owner.site.boot.learn_address(peer, MAC);
    owner
        .site
        .boot
        .open(IpAddr::V4(peer), None, "snponly.efi")
        .await
        .unwrap();
    let devices = owner.site.devices().await;
    assert_eq!(devices[0].quirks.offer, Direct);
    assert_eq!(owner.shape(), Direct);
    let told = owner.site.told().await;
    assert!(
        told.iter()
            .any(|text| text.contains("it is offered that way from now on")),
        "{told:#?}"
    );
}

/// A machine by a rule, whose firmware loads iPXE and then begins again.
#[tokio::test]
async fn a_device_that_goes_round_with_a_rules_profile_is_noticed_once_and_goes_on() {
    let mut site = Site::new();
    let thin = Profile {
        name: "thin".parse().unwrap(),
        boots: Boots::Linux {
            kernel: "linux".into(),
            initrd: vec![],
            cmdline: String::new(),
        },
        loader: Loader::Auto,
        note: None,
    };
    site.store.set_profile(thin, NOW).await.unwrap();
    let rule = Rule {
        when: Conditions::default(),
        profile: "thin".parse().unwrap(),
    };
    site.store.set_rules(vec![rule], NOW).await.unwrap();
    let facts = ClientFacts::from_options(MAC, |code| match code {
        60 => Some(b"PXEClient:Arch:00007:UNDI:003016"),
        93 => Some(&[0, 7]),
        _ => None,
    });
    let peer = Ipv4Addr::new(192, 0, 2, 100);
    site.boot.learn_address(peer, MAC);
    let noticed = |told: &[String]| {
        let rounds = told.iter().filter(|text| text.contains("it goes round"));
        rounds.count()
    };
    for boot in 1..=2 * MOST_TRIES {
        let plan = site.boot.advise(&facts, "DISCOVER", SERVER);
        assert_eq!(plan.profile.unwrap().as_str(), "thin");
        assert_eq!(
            plan.why.contains("none had an outcome"),
            boot > MOST_TRIES,
            "{boot}: {}",
            plan.why
        );
        let loader = site.boot.open(IpAddr::V4(peer), None, "snponly.efi").await;
        assert!(loader.is_ok());
        let told = site.told().await;
        assert_eq!(noticed(&told), usize::from(boot >= MOST_TRIES), "{boot}");
        if boot == MOST_TRIES {
            let said = "has begun 8 boots of thin, and none had an outcome";
            assert!(told.iter().any(|text| text.contains(said)), "{told:#?}");
        }
    }
    let device = site.devices().await.remove(0);
    let plan = site.boot.explain(&device);
    assert!(plan.why.contains("none had an outcome"), "{}", plan.why);
    // One that gets there ends the loop.
    site.store.end_next(device.id, NOW).await.unwrap();
    let plan = site.boot.advise(&facts, "DISCOVER", SERVER);
    assert_eq!(plan.why, "it meets rule 1");
}
