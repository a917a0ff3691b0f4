//! `ipmi_sim` on loopback, with a chassis that is a shell script and a serial line that is a TCP port.

use bugler_bmc::{Bmc, Credentials, Hub, Options, Secret};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a simulator may take to answer for the first time.
const START: Duration = Duration::from_secs(120);

pub(crate) struct Sim {
    dir: tempfile::TempDir,
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) serial: Serial,
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sim {
    /// A BMC whose every look at the chassis takes `delay` seconds.
    pub(crate) fn start(delay: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = free_address();
        let serial = Serial::listen();
        let here = dir.path().display();
        fs::write(
            dir.path().join("lan.conf"),
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
                 chassis_control \"/bin/sh {here}/chassis.sh {here}\"\n\
                 sol \"tcp:127.0.0.1:{}\" 115200 history=4000\n\
                 user 2 true \"admin\" \"secret\" admin 10 none md2 md5 straight\n",
                address.ip(),
                address.port(),
                serial.address.port(),
            ),
        )
        .unwrap();
        fs::write(
            dir.path().join("sim.emu"),
            "mc_setbmc 0x20\n\
             mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
             sel_enable 0x20 1000 0x0a\n\
             mc_enable 0x20\n",
        )
        .unwrap();
        let script = dir.path().join("chassis.sh");
        fs::write(
            &script,
            format!(
                "echo \"$2 $3 $4\" >> $1/log\n\
                 sleep {delay}\n\
                 case \"$2 $3\" in\n\
                 'get power') echo power:$(cat $1/power 2>/dev/null || echo 0);;\n\
                 'get boot') echo boot:$(cat $1/boot 2>/dev/null || echo default);;\n\
                 'set power') echo $4 > $1/power;;\n\
                 'set boot') echo $4 > $1/boot;;\n\
                 esac\n"
            ),
        )
        .unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let child = spawn(dir.path().into());
        let sim = Self {
            dir,
            child,
            address,
            serial,
        };
        sim.wait();
        sim
    }

    /// Kills the BMC. The machine behind it stays as it is.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.dir.path().into());
        self.wait();
    }

    /// Waits for the pong.
    fn wait(&self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let ping = [6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 1, 0, 0];
        let start = Instant::now();
        let mut buffer = [0; 64];
        loop {
            socket.send_to(&ping, self.address).unwrap();
            if socket.recv_from(&mut buffer).is_ok() {
                return;
            }
            assert!(
                start.elapsed() < START,
                "ipmi_sim does not answer: {}",
                fs::read_to_string(self.dir.path().join("out")).unwrap_or_default()
            );
        }
    }

    /// What the chassis was asked to do.
    pub(crate) fn done(&self) -> Vec<String> {
        self.asked()
            .into_iter()
            .filter(|line| line.starts_with("set"))
            .collect()
    }

    /// What it was asked at all.
    pub(crate) fn asked(&self) -> Vec<String> {
        fs::read_to_string(self.dir.path().join("log"))
            .unwrap_or_default()
            .lines()
            .map(|line| line.trim().to_owned())
            .collect()
    }

    pub(crate) fn power(&self, on: bool) {
        fs::write(
            self.dir.path().join("power"),
            if on { "1\n" } else { "0\n" },
        )
        .unwrap();
    }

    pub(crate) fn bmc(&self, hub: &Hub) -> Bmc {
        self.bmc_with(hub, "secret", Options::default())
    }

    pub(crate) fn bmc_with(&self, hub: &Hub, password: &str, options: Options) -> Bmc {
        let credentials = Credentials::new("admin", Secret::new(password)).unwrap();
        Bmc::new(hub, self.address, credentials, options)
    }
}

/// An address that no other socket of this computer has or gets by chance, also while nobody listens
/// there: an address of loopback for this process, and a port that the kernel gives to nobody unasked.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(16230);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    (Ipv4Addr::new(127, 64 | a, b, c), port).into()
}

fn spawn(dir: PathBuf) -> Child {
    let out = fs::File::create(dir.join("out")).unwrap();
    Command::new("ipmi_sim")
        .args(["-c", "lan.conf", "-f", "sim.emu", "-s", "state", "-d", "-n"])
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn()
        .expect("ipmi_sim of Debian's openipmi can be started (scripts/setup installs it)")
}

/// The machine's side of its serial line.
pub(crate) struct Serial {
    address: SocketAddr,
    shared: Arc<(Mutex<Line>, Condvar)>,
}

#[derive(Default)]
struct Line {
    heard: Vec<u8>,
    out: Option<std::net::TcpStream>,
}

impl Serial {
    fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared: Arc<(Mutex<Line>, Condvar)> = Arc::default();
        let line = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                line.0.lock().unwrap().out = stream.try_clone().ok();
                line.1.notify_all();
                let line = Arc::clone(&line);
                thread::spawn(move || {
                    let mut stream = stream;
                    let mut buffer = [0; 512];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        let mut shared = line.0.lock().unwrap();
                        shared.heard.extend_from_slice(&buffer[..length]);
                        line.1.notify_all();
                    }
                });
            }
        });
        Self { address, shared }
    }

    /// The machine says this.
    pub(crate) fn say(&self, bytes: &[u8]) {
        let (lock, changed) = &*self.shared;
        let line = lock.lock().unwrap();
        let (line, _) = changed
            .wait_timeout_while(line, START, |line| line.out.is_none())
            .unwrap();
        line.out
            .as_ref()
            .expect("the simulator has opened the serial line")
            .write_all(bytes)
            .unwrap();
    }

    /// What was typed to the machine, as soon as it is `length` bytes.
    pub(crate) fn heard(&self, length: usize) -> Vec<u8> {
        let (lock, changed) = &*self.shared;
        let line = lock.lock().unwrap();
        let (line, _) = changed
            .wait_timeout_while(line, START, |line| line.heard.len() < length)
            .unwrap();
        line.heard.clone()
    }
}
