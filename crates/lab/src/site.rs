//! A network with one Bugler server on it, and what an operator does there.
//!
//! The operator uses the command line, as a person would; what a test then looks at comes from the
//! API.

use crate::capture::Capture;
use crate::disk;
use crate::image::{self, Image};
use crate::machine::{Firmware, Machine, Spec};
use crate::net::{Host, Net, address};
use crate::process::Process;
use crate::product::{self, Product};
use crate::run::Run;
use crate::server::Server;
use anyhow::{Context, Result, anyhow, ensure};
use bugler_model::{Device, Task};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// How long a machine may take for one stage of its life. Emulated on a busy computer, the longest
/// takes 40 s.
pub const STAGE: Duration = Duration::from_secs(180);
/// The name under which scenarios add the lab's image.
pub const IMAGE: &str = "debian-12";
/// The addresses that the server gives out where it owns them.
pub const POOL: &str = "10.20.50.100-10.20.50.150";
/// A MiB in bytes.
pub const MIB: u64 = 1 << 20;

/// The network. Machines that are on it have to be dropped first.
#[derive(Debug)]
pub struct Site<'r> {
    run: &'r Run,
    /// The server under test.
    pub server: Server,
    /// The lab's Debian image.
    pub image: Image,
    /// The programs under test.
    pub product: Product,
    _capture: Capture,
    /// The wires.
    pub net: Net,
}

/// A machine with a disk full of rubbish.
#[derive(Debug)]
pub struct Node {
    /// The machine.
    pub machine: Machine,
    /// The file that is its disk.
    pub disk: PathBuf,
}

impl<'r> Site<'r> {
    /// Makes a network on which the server, which is not started yet, is to own the addresses.
    ///
    /// # Errors
    ///
    /// When the network cannot be made, or image and programs are not prepared.
    pub fn full(run: &'r Run) -> Result<Self> {
        Self::new(run, &["--dhcp=full", &format!("--pool={POOL}")])
    }

    /// As [`Site::full`], with other arguments of `bugler serve`.
    ///
    /// # Errors
    ///
    /// As [`Site::full`].
    pub fn new(run: &'r Run, arguments: &[&str]) -> Result<Self> {
        let net = Net::new()?;
        let host = net.add_host("srv", address(1))?;
        Self::on(run, net, host, arguments)
    }

    /// As [`Site::new`], with the server on a host that need not be on the bridge.
    ///
    /// # Errors
    ///
    /// As [`Site::full`].
    pub fn on(run: &'r Run, net: Net, host: Host, arguments: &[&str]) -> Result<Self> {
        let capture = run.capture(&net)?;
        let (image, product) = (image::cached(image::Variant::Small)?, product::cached()?);
        product.furnish(&run.file("state"))?;
        let server = Server::new(run, host, &product.bugler, arguments);
        Ok(Self {
            run,
            server,
            image,
            product,
            _capture: capture,
            net,
        })
    }

    /// The run that it belongs to.
    #[must_use]
    pub fn run(&self) -> &'r Run {
        self.run
    }

    /// See [`Run::say`].
    pub fn say(&self, text: &str) {
        self.run.say(text);
    }

    /// A machine with a poisoned disk of `mib` MiB, which stops, at first, where it would reboot.
    ///
    /// # Errors
    ///
    /// When the disk or the machine cannot be made.
    pub fn node(&self, number: u8, firmware: Firmware, mib: u64) -> Result<Node> {
        let name = format!("n{number}");
        let file = self.run.file(&format!("{name}.raw"));
        disk::poisoned(&file, mib * MIB)?;
        let spec = Spec::new(&name, number, firmware)
            .disk(&file)
            .pause_on_reboot();
        Ok(Node {
            machine: Machine::new(self.run, &self.net, spec)?,
            disk: file,
        })
    }

    /// A command line of the operator on the server's host, such as `bugler device list`.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self
            .server
            .host()
            .command(&self.product.bugler.display().to_string());
        command.arg(format!("--server=http://{}", self.server.operator()));
        command.args(arguments);
        command
    }

    /// Runs an operator's command to its end, whatever that is.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn try_bugler(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::null())
            .output()
            .context("cannot run bugler")
    }

    /// Runs an operator's command and reads the JSON that it prints.
    ///
    /// # Errors
    ///
    /// When it fails, or prints something else.
    pub fn bugler<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let shown = format!("bugler {} --json", arguments.join(" "));
        let output = self.try_bugler(&[arguments, &["--json"]].concat())?;
        ensure!(
            output.status.success(),
            "`{shown}` failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| format!("`{shown}` printed {text:.500}"))
    }

    /// Starts an operator's command that takes a while; what it prints goes to the file `log`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_bugler(&self, arguments: &[&str], log: &str) -> Result<Process> {
        let what = format!("bugler {}", arguments.join(" "));
        Process::start(&what, self.command(arguments), &self.run.file(log))
    }

    /// Adds the lab's image under the name [`IMAGE`]: compressed by zstd, through a pipe.
    ///
    /// # Errors
    ///
    /// When a program fails.
    pub fn add_image(&self) -> Result<bugler_model::Image> {
        let began = self.run.elapsed();
        let disk = File::open(&self.image.disk).context("cannot open the lab's image")?;
        let mut zstd = Command::new("zstd")
            .args(["-q", "-1", "-c"])
            .stdin(disk)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run zstd")?;
        let pipe = zstd.stdout.take().context("zstd has no output")?;
        let output = self
            .command(&["image", "add", IMAGE, "-", "--json"])
            .stdin(pipe)
            .output()
            .context("cannot run bugler image add")?;
        let status = zstd.wait().context("cannot wait for zstd")?;
        ensure!(
            status.success() && output.status.success(),
            "the image was not added (zstd {status}): {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let added: bugler_model::Image = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("image add printed {:?}", output.stdout))?;
        ensure!(
            added.size == self.image.size,
            "the image became {} bytes",
            added.size
        );
        self.run.say(&format!(
            "image {}: {} MiB, of which {} MiB used and {} MiB stored; added in {:.1} s",
            added.name,
            added.size / MIB,
            added.used / MIB,
            added.stored / MIB,
            (self.run.elapsed() - began).as_secs_f64()
        ));
        Ok(added)
    }

    /// Waits until the machine's agent says that it has registered, and returns what the server
    /// knows of it.
    ///
    /// # Errors
    ///
    /// When it does not, or the server knows nothing of it.
    pub fn registered(&self, machine: &Machine) -> Result<Device> {
        machine.wait_for("registered as", STAGE)?;
        self.device(machine)
    }

    /// What the server knows of the machine.
    ///
    /// # Errors
    ///
    /// When it knows nothing.
    pub fn device(&self, machine: &Machine) -> Result<Device> {
        let mac = machine.spec().mac;
        let device = self.server.api().device(mac)?;
        device.ok_or_else(|| anyhow!("the server does not know {} ({mac})", machine.spec().name))
    }

    /// The task `id` as it is now.
    ///
    /// # Errors
    ///
    /// When the server does not say.
    pub fn task(&self, id: impl std::fmt::Display) -> Result<Task> {
        self.server.api().get(&format!("tasks/{id}"))
    }

    /// Orders a deploy of the lab's image to the machine.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub fn deploy(&self, device: &Device) -> Result<Task> {
        let tasks: Vec<Task> = self.bugler(&["deploy", IMAGE, &device.id.to_string()])?;
        tasks
            .into_iter()
            .next()
            .context("bugler deploy made no task")
    }

    /// Proves that the disk holds the lab's image.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn compare(&self, disk: &Path) -> Result<()> {
        let equal = disk::compare(&self.image.disk, disk)?;
        self.run.say(&format!(
            "the disk is equal to the image: {} MiB used, {} MiB zero, BLAKE3 {:.16}…",
            equal.used / MIB,
            equal.zero / MIB,
            equal.hash.to_hex()
        ));
        Ok(())
    }

    /// Waits until the machine says that it is up from the lab's image on its own disk.
    ///
    /// # Errors
    ///
    /// When it does not, or another machine or image says so.
    pub fn up_from_disk(&self, machine: &Machine) -> Result<()> {
        let seen = machine.wait_for("BUGLER-LAB: up from", STAGE)?;
        for part in [
            &format!("machine {}", machine.spec().uuid),
            &format!("image {}", self.image.stamp),
        ] {
            ensure!(
                seen.line.contains(part),
                "another system came up: {}",
                seen.line
            );
        }
        self.run
            .say(&format!("{}: {}", machine.spec().name, seen.line));
        Ok(())
    }
}
