//! Recorded conversations: `cases/<name>/` holds what the server was told (`setup`), the packets
//! of a client in the order of their names (`*.hex`), and what is read of each, what is planned for
//! it, and everything that the server does (`expected.txt`). `cases/README.md` lists them.
//!
//! After a change that is meant to change answers, `BUGLER_REGENERATE=1 cargo test -p bugler-dhcp
//! --test cases` writes `expected.txt` anew; review the difference.

use bugler_boot::{BootAction, BootPlan, ClientFacts, Question, plan};
use bugler_dhcp::{
    Advisor, Ask, Destination, Identity, Ingress, Machine, Mode, Network, Now, Output, Packet,
    Pool, Reservation, Subnet, Transmit,
};
use bugler_model::{BootPolicy, MacAddr, Timestamp};
use std::collections::HashMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

/// The real plan for a machine that nobody knows, or for one that boots its disk.
struct Plans {
    nothing: bool,
}

impl Advisor for Plans {
    fn advise(&self, facts: &ClientFacts, ask: Ask<'_>) -> BootPlan {
        let loaders: Vec<&'static str> = bugler_boot::loaders().collect();
        let mut plan = plan(&Question {
            facts,
            device: None,
            policy: &BootPolicy::default(),
            from: Some(ask.from),
            loaders: &loaders,
            unanswered: 0,
        });
        if self.nothing {
            plan.action = BootAction::Silent;
        }
        plan
    }
}

struct Case {
    machine: Machine,
    plans: Plans,
    now: Now,
    /// Who uses which address unknown to the server.
    users: HashMap<Ipv4Addr, MacAddr>,
    text: String,
}

impl Case {
    /// Reads `setup`: a line for each thing that the server is told.
    fn new(setup: &str) -> Self {
        let network = |address: &str| {
            let (address, prefix) = address.split_once('/').unwrap();
            Network {
                address: address.parse().unwrap(),
                prefix: prefix.parse().unwrap(),
            }
        };
        let pool = |pool: &str| {
            let (first, last) = pool.split_once('-').unwrap();
            Pool {
                first: first.parse().unwrap(),
                last: last.parse().unwrap(),
            }
        };
        let mut link = Subnet::new(network("10.77.0.1/24"));
        let (mut mode, mut relayed, mut users) = (None, vec![], HashMap::new());
        let mut plans = Plans { nothing: false };
        for line in setup.lines().filter(|line| !line.starts_with('#')) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                // Where the packets were recorded, and so named the server.
                ["server", address] => link.network = network(address),
                ["mode", "full"] => mode = Some(Mode::Full),
                ["mode", "proxy"] => mode = Some(Mode::Proxy),
                ["pool", range] => link.pools.push(pool(range)),
                ["boot", "nothing"] => plans.nothing = true,
                ["reserve", "uuid", uuid, address, hostname] => {
                    link.reservations.push(Reservation {
                        mac: None,
                        uuid: Some(uuid.parse().unwrap()),
                        address: address.parse().unwrap(),
                        hostname: Some(hostname.into()),
                    })
                }
                ["subnet", address, range] => {
                    let mut subnet = Subnet::new(network(address));
                    subnet.pools.push(pool(range));
                    relayed.push(subnet);
                }
                ["uses", address, mac] => {
                    users.insert(address.parse().unwrap(), mac.parse().unwrap());
                }
                _ => panic!("{line:?} in setup"),
            }
        }
        let server = link.network.address;
        link.router = Some(server);
        link.dns = vec![server];
        let identity = Identity {
            interface: "eth1".into(),
            address: server,
            mtu: 1500,
            http_port: 8480,
        };
        let subnets = [vec![link], relayed].concat();
        Self {
            machine: Machine::new(identity, mode.unwrap(), subnets, vec![]).unwrap(),
            plans,
            now: Now {
                wall: Timestamp(1_800_000_000_000),
                up: Duration::ZERO,
            },
            users,
            text: String::new(),
        }
    }

    /// Feeds one packet, then waits for what comes of it.
    fn step(&mut self, name: &str, file: &str) {
        let (mut ingress, mut bytes) = (None, vec![]);
        for line in file.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["#", "from", source, "to", destination] => {
                    let to: SocketAddrV4 = destination.parse().unwrap();
                    let source = source.parse().unwrap();
                    ingress = Some(Ingress {
                        port: to.port(),
                        source,
                        destination: *to.ip(),
                    });
                }
                ["#", "wait", millis, "ms"] => {
                    self.pass(Duration::from_millis(millis.parse().unwrap()))
                }
                ["#", ..] => {}
                ref pairs => bytes.extend(
                    pairs
                        .iter()
                        .map(|pair| u8::from_str_radix(pair, 16).unwrap()),
                ),
            }
        }
        let ingress = ingress.unwrap();
        let packet = match Packet::decode(&bytes) {
            Ok(packet) => packet,
            Err(error) => {
                writeln!(self.text, "> {name}: refused: {error}").unwrap();
                return;
            }
        };
        let kind = packet
            .message_type()
            .map_or("no message type", |kind| kind.name());
        writeln!(
            self.text,
            "> {name}: {kind} from {} to port {}",
            ingress.source, ingress.port
        )
        .unwrap();
        self.show_plan(&packet);
        let mut out = vec![];
        self.machine
            .handle(self.now, ingress, &packet, &self.plans, &mut out);
        self.show(out);
        // The time that a probe takes.
        self.pass(Duration::from_millis(500));
    }

    /// What is read of a boot client, and what it is to boot.
    fn show_plan(&mut self, packet: &Packet) {
        let Some(mac) = packet.mac() else { return };
        let facts = ClientFacts::from_options(mac, |code| packet.options.get(code));
        if facts.firmware.is_none() {
            return;
        }
        let ask = Ask {
            message: packet.message_type().unwrap(),
            interface: "eth1",
            server: Ipv4Addr::UNSPECIFIED,
            port: 67,
            from: Ipv4Addr::UNSPECIFIED,
        };
        let plan = self.plans.advise(&facts, ask);
        let mut lines = vec![("is", facts.describe())];
        lines.extend(facts.pi.map(|pi| ("board", pi.describe())));
        lines.extend(facts.uuid.map(|uuid| ("UUID", uuid.to_string())));
        let action = match plan.action {
            BootAction::Silent => "nothing".into(),
            BootAction::Tftp(path) => format!("{path} over TFTP"),
            BootAction::Http(path) => format!("{path} over HTTP"),
            BootAction::RaspberryPi => "the Raspberry Pi boot menu".into(),
        };
        lines.push(("plan", format!("{action}, because {}", plan.why)));
        for (name, value) in lines {
            writeln!(self.text, "{:>8}  {name}: {value}", "").unwrap();
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.up + time;
        while let Some(due) = self.machine.next_deadline().filter(|due| *due <= end) {
            self.to(due);
            let mut out = vec![];
            self.machine.on_deadline(self.now, &mut out);
            self.show(out);
        }
        self.to(end);
    }

    fn to(&mut self, up: Duration) {
        let passed = i64::try_from((up - self.now.up).as_millis()).unwrap();
        self.now = Now {
            wall: self.now.wall.plus_millis(passed),
            up,
        };
    }

    fn show(&mut self, out: Vec<Output>) {
        let mut more = vec![];
        for output in out {
            write!(self.text, "{:>8} ms ", self.now.up.as_millis()).unwrap();
            match output {
                Output::Send(transmit) => self.show_reply(&transmit),
                Output::Probe { address } => {
                    writeln!(self.text, "ARP: who has {address}?").unwrap();
                    if let Some(&mac) = self.users.get(&address) {
                        writeln!(self.text, "{:>12}{address} is at {mac}", "").unwrap();
                        self.machine
                            .probe_answered(self.now, address, mac, &mut more);
                    }
                }
                Output::Commit { lease, then } => {
                    let lasts = lease.expires.millis_since(self.now.wall) / 1000;
                    let (address, mac, state) = (lease.address, lease.mac, lease.state);
                    let name = lease
                        .hostname
                        .map(|name| format!(", {name:?}"))
                        .unwrap_or_default();
                    writeln!(
                        self.text,
                        "store: {address} {state:?} {mac} for {lasts} s{name}"
                    )
                    .unwrap();
                    if let Some(transmit) = then {
                        write!(self.text, "{:>12}then ", "").unwrap();
                        self.show_reply(&transmit);
                    }
                }
                Output::Report(notice) => {
                    writeln!(self.text, "report {:?}: {}", notice.kind, notice.text).unwrap();
                }
                Output::Search(_) => panic!("a machine does not search"),
            }
        }
        if !more.is_empty() {
            self.show(more);
        }
    }

    fn show_reply(&mut self, transmit: &Transmit) {
        let encoded = transmit.packet.encode(transmit.limit);
        assert!(encoded.left_out.is_empty(), "{:?}", encoded.left_out);
        // What is shown is what a client reads from the wire.
        let packet = Packet::decode(&encoded.bytes).unwrap();
        let to = match transmit.to {
            Destination::Broadcast => "255.255.255.255:68".into(),
            Destination::Link { ip, mac } => format!("{ip}:68 at {mac}"),
            Destination::Udp(to) => to.to_string(),
        };
        let kind = packet.message_type().unwrap();
        writeln!(
            self.text,
            "< {kind} from {} to {to}, {} bytes",
            transmit.from,
            encoded.bytes.len()
        )
        .unwrap();
        let mut line =
            |name: &str, value: String| writeln!(self.text, "{:>14}{name} {value}", "").unwrap();
        line(
            "xid",
            format!("{:08x}, flags {:04x}", packet.xid, packet.flags),
        );
        for (name, address) in [
            ("ciaddr", packet.ciaddr),
            ("yiaddr", packet.yiaddr),
            ("siaddr", packet.siaddr),
            ("giaddr", packet.giaddr),
        ] {
            if !address.is_unspecified() {
                line(name, address.to_string());
            }
        }
        if !packet.file_name().is_empty() {
            line(
                "file",
                format!("{:?}", String::from_utf8_lossy(packet.file_name())),
            );
        }
        for (code, value) in packet.options.iter() {
            line(&format!("option {code}:"), shown(code, value));
        }
    }
}

/// An option's value as a person reads it.
fn shown(code: u8, value: &[u8]) -> String {
    match (code, value) {
        (1 | 3 | 6 | 28 | 42 | 54, _) if value.len().is_multiple_of(4) => {
            let address =
                |octets: &[u8]| Ipv4Addr::from(*octets.first_chunk::<4>().unwrap()).to_string();
            value.chunks(4).map(address).collect::<Vec<_>>().join(" ")
        }
        (51 | 58 | 59, &[a, b, c, d]) => format!("{} s", u32::from_be_bytes([a, b, c, d])),
        (53, &[kind]) => kind.to_string(),
        (12 | 15 | 56 | 60 | 66 | 67, _) => format!("{:?}", String::from_utf8_lossy(value)),
        _ => value
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn play(folder: &Path) -> String {
    let read = |name: &Path| std::fs::read_to_string(name).unwrap();
    let mut case = Case::new(&read(&folder.join("setup")));
    let mut steps: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hex"))
        .collect();
    steps.sort();
    assert!(!steps.is_empty(), "{} has no packets", folder.display());
    for step in steps {
        case.step(step.file_stem().unwrap().to_str().unwrap(), &read(&step));
    }
    // An offer to a Raspberry Pi 3B is held back for a second.
    case.pass(Duration::from_secs(2));
    case.text
}

#[test]
fn every_recorded_case_is_answered_as_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders: Vec<_> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    assert!(folders.len() >= 39, "only {} cases", folders.len());
    let listed = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut wrong = vec![];
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(
            listed.contains(&format!("`{name}`")),
            "README.md does not list {name}"
        );
        let file = folder.join("expected.txt");
        let happened = play(&folder);
        if std::env::var_os("BUGLER_REGENERATE").is_some() {
            std::fs::write(&file, happened).unwrap();
        } else if std::fs::read_to_string(&file).unwrap_or_default() != happened {
            wrong.push(format!("{}:\n{happened}", file.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "other answers than expected:\n{}",
        wrong.join("\n")
    );
}
