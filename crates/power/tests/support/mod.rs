//! A BMC of `ipmi_sim` (Debian's openipmi), and a registry with a device.

use bugler_model::{Device, Firmware, MacAddr, PowerDriver, PowerRole, Timestamp};
use bugler_power::{Options, Order, Power, Secrets, What};
use bugler_protocol::operator::PowerResult;
use bugler_store::{Sighting, SqliteStore, Store};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const USER: &str = "admin";
pub(crate) const PASSWORD: &str = "open-sesame";

/// How long a simulator may take to start on a busy computer.
const START: Duration = Duration::from_secs(60);

/// A BMC; its machine is a file that says whether it is on, and a list of what was done to it.
pub(crate) struct Bmc {
    dir: TempDir,
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Bmc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a program, by another process: a child of a test beside this one would hold it open for
/// writing, and nobody could run it meanwhile.
fn install(path: &Path, text: &str) {
    let source = path.with_extension("text");
    fs::write(&source, text).unwrap();
    let mut install = Command::new("install");
    install.arg("-m755").arg(&source).arg(path);
    assert!(install.status().unwrap().success());
}

/// An address of the loopback that no other test of this host uses now: the process and a number are
/// in it.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let port = 6000 + u16::from(number);
    (Ipv4Addr::new(127, 99, high, low.max(1)), port).into()
}

impl Bmc {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = own_address();
        let script = dir.path().join("chassis.sh");
        fs::write(dir.path().join("power"), "0").unwrap();
        fs::write(dir.path().join("done"), "").unwrap();
        // A line of its own for each, and the state in one word.
        install(
            &script,
            "#!/bin/sh\n\
             d=$1; shift\n\
             if [ \"$1\" = get ]; then\n\
               shift\n\
               for w in \"$@\"; do\n\
                 case $w in\n\
                   power) echo \"power:$(cat $d/power)\" ;;\n\
                   boot) echo boot:default ;;\n\
                 esac\n\
               done\n\
               exit 0\n\
             fi\n\
             shift\n\
             while [ $# -gt 0 ]; do\n\
               case $1 in\n\
                 power) echo \"power $2\" >> $d/done; echo \"$2\" > $d/power; shift 2 ;;\n\
                 boot) echo \"boot $2\" >> $d/done; shift 2 ;;\n\
                 shutdown) echo soft >> $d/done; echo 0 > $d/power; shift 2 ;;\n\
                 reset) echo reset >> $d/done; shift 2 ;;\n\
                 *) shift ;;\n\
               esac\n\
             done\n",
        );
        let child = simulator(dir.path(), &script, address);
        let bmc = Self {
            dir,
            child,
            address,
        };
        bmc.wait();
        bmc
    }

    /// Waits for an RMCP pong.
    fn wait(&self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let ping = [6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 1, 0, 0];
        let begun = Instant::now();
        let mut buffer = [0; 64];
        loop {
            assert!(begun.elapsed() < START, "ipmi_sim does not answer");
            // Refused, while nobody listens there yet.
            let _ = socket.send_to(&ping, self.address);
            if socket
                .recv_from(&mut buffer)
                .is_ok_and(|(_, from)| from == self.address)
            {
                return;
            }
        }
    }

    /// What was done to its machine, in order.
    pub(crate) fn done(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("done")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn set_power(&self, on: bool) {
        fs::write(self.dir.path().join("power"), if on { "1" } else { "0" }).unwrap();
    }

    pub(crate) fn driver(&self, user: &str) -> PowerDriver {
        PowerDriver::Ipmi {
            address: self.address.to_string(),
            user: user.into(),
            allow_v15: false,
        }
    }
}

fn simulator(dir: &Path, script: &Path, address: SocketAddr) -> Child {
    fs::create_dir(dir.join("state")).unwrap();
    fs::write(
        dir.join("lan.conf"),
        format!(
            "name \"bmc\"\n\
             set_working_mc 0x20\n\
             startlan 1\n\
             addr {} {}\n\
             priv_limit admin\n\
             allowed_auths_callback none md2 md5 straight\n\
             allowed_auths_user none md2 md5 straight\n\
             allowed_auths_operator none md2 md5 straight\n\
             allowed_auths_admin none md2 md5 straight\n\
             guid a123456789abcdefa123456789abcdef\n\
             endlan\n\
             chassis_control \"{} {}\"\n\
             user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n",
            address.ip(),
            address.port(),
            script.display(),
            dir.display(),
        ),
    )
    .unwrap();
    fs::write(
        dir.join("sim.emu"),
        "mc_setbmc 0x20\n\
         mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
         sel_enable 0x20 1000 0x0a\n\
         mc_enable 0x20\n",
    )
    .unwrap();
    Command::new("ipmi_sim")
        .args(["-c", "lan.conf", "-f", "sim.emu", "-s", "state", "-d", "-n"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ipmi_sim of Debian's openipmi: run scripts/setup")
}

/// A registry, and what switches its devices.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) power: Arc<Power>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(dir.path().join("registry.sqlite")).unwrap());
        fs::create_dir(dir.path().join("commands")).unwrap();
        let power = open(store.clone(), dir.path());
        Self { dir, store, power }
    }

    /// The same after the server was started again.
    pub(crate) fn restart(&mut self) {
        self.power = open(self.store.clone(), self.dir.path());
    }

    /// A device that was seen once.
    pub(crate) async fn device(&self, last: u8) -> Arc<Device> {
        let sighting = Sighting {
            mac: MacAddr([0x52, 0x54, 0, 0, 0, last]),
            uuid: None,
            arch: None,
            firmware: Some(Firmware::UefiPxe),
        };
        let seen = self.store.observe(sighting, Timestamp(1)).await.unwrap();
        seen.device
    }

    /// Puts a program into the folder of those that switch machines.
    pub(crate) fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join("commands").join(name);
        install(&path, text);
        path
    }

    pub(crate) async fn ipmi(&self, device: &Device, bmc: &Bmc, password: &str) {
        let secrets = Secrets {
            password: Some(password.to_owned().into()),
            ..Secrets::default()
        };
        self.power
            .set(device, PowerRole::Power, bmc.driver(USER), secrets)
            .await
            .unwrap();
    }

    /// Carries an order out; the results by label.
    pub(crate) async fn order(&self, devices: &[&Arc<Device>], what: What) -> Vec<PowerResult> {
        let order = Order {
            what,
            every: Duration::ZERO,
            at_once: 8,
            timeout: Duration::from_secs(120),
        };
        let devices = devices.iter().map(|&device| device.clone()).collect();
        let mut receiver = self.power.order(devices, order).unwrap();
        let mut results = Vec::new();
        while let Some(result) = receiver.recv().await {
            results.push(result);
        }
        results.sort_by_key(|result| result.device);
        results
    }
}

fn open(store: Arc<SqliteStore>, dir: &Path) -> Arc<Power> {
    let options = Options {
        state_dir: dir.to_owned(),
        commands: dir.join("commands"),
        clock: Arc::new(|| Timestamp(1_800_000_000_000)),
    };
    Power::open(store, options).unwrap()
}
