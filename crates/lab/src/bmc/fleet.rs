//! Many BMCs of `ipmi_sim`, each on an address of its own, for measurements.

use anyhow::{Context, Result, bail};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long all of them together may take to start.
const START: Duration = Duration::from_secs(120);
/// The port of every one.
const PORT: u16 = 623;

/// The user of every BMC.
pub const USER: &str = "admin";
/// Its password.
pub const PASSWORD: &str = "secret";

/// The BMCs. They end when dropped.
#[derive(Debug)]
pub struct Fleet {
    children: Vec<Child>,
    /// Where the living ones are.
    pub alive: Vec<SocketAddr>,
    /// Where the dead ones are: what is sent there arrives, and nothing comes back.
    pub dead: Vec<SocketAddr>,
    _silent: Vec<UdpSocket>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// The address of the BMC with this number, at most 200 in one row.
fn address(row: u8, number: usize) -> SocketAddr {
    SocketAddrV4::new(Ipv4Addr::new(127, 0, row, (number + 1) as u8), PORT).into()
}

impl Fleet {
    /// Starts so many living BMCs, whose machines are on, and so many dead ones; at most 200 of each. To
    /// be called inside of a network namespace. Their files are in `dir`.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start(dir: &Path, alive: usize, dead: usize) -> Result<Self> {
        if alive > 200 || dead > 200 {
            bail!("a fleet has 200 BMCs of each kind at most; {alive} and {dead} were asked for");
        }
        let script = dir.join("chassis.sh");
        // The only thing that is asked of them is whether they are on.
        fs::write(&script, "#!/bin/sh\necho power:1\n")
            .with_context(|| format!("cannot write {}", script.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let silent: Vec<UdpSocket> = (0..dead)
            .map(|number| UdpSocket::bind(address(2, number)))
            .collect::<Result<_, _>>()
            .context("cannot open the sockets of dead BMCs")?;
        let mut fleet = Self {
            children: Vec::new(),
            alive: (0..alive).map(|number| address(1, number)).collect(),
            dead: (0..dead).map(|number| address(2, number)).collect(),
            _silent: silent,
        };
        for address in &fleet.alive {
            let child = simulator(&dir.join(address.ip().to_string()), &script, *address)?;
            fleet.children.push(child);
        }
        fleet.wait()?;
        Ok(fleet)
    }

    /// Waits for a pong of each.
    fn wait(&self) -> Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let ping = [6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 1, 0, 0];
        let start = Instant::now();
        let mut buffer = [0; 64];
        for address in &self.alive {
            loop {
                socket.send_to(&ping, address)?;
                match socket.recv_from(&mut buffer) {
                    Ok((_, from)) if from == *address => break,
                    _ if start.elapsed() > START => {
                        bail!("ipmi_sim at {address} has not answered for {START:?}")
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// What `ipmi_sim` is started with in a folder that was [configured](configure).
pub const ARGUMENTS: [&str; 8] = ["-c", "lan.conf", "-f", "sim.emu", "-s", "state", "-d", "-n"];

fn simulator(dir: &Path, script: &Path, address: SocketAddr) -> Result<Child> {
    configure(dir, &script.display().to_string(), address)?;
    Command::new("ipmi_sim")
        .args(ARGUMENTS)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start ipmi_sim of Debian's openipmi: run scripts/setup")
}

/// Writes the configuration of a BMC of `ipmi_sim` into its folder. `chassis` is the program, with its
/// arguments, that is its machine: called with `get power`, `set power 1`, `set reset 1`, ....
///
/// # Errors
/// When the folder cannot be written.
pub fn configure(dir: &Path, chassis: &str, address: SocketAddr) -> Result<()> {
    fs::create_dir_all(dir.join("state"))
        .with_context(|| format!("cannot make {}", dir.display()))?;
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
             chassis_control \"{}\"\n\
             user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n",
            address.ip(),
            address.port(),
            chassis,
        ),
    )?;
    fs::write(
        dir.join("sim.emu"),
        "mc_setbmc 0x20\n\
         mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
         sel_enable 0x20 1000 0x0a\n\
         mc_enable 0x20\n",
    )?;
    Ok(())
}
