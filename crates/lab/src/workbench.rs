//! A server, and agents that run as processes with files as their disks: for what has nothing to do
//! with firmware, in seconds and without a virtual machine.

use crate::client::{Client, DEVICE_PORT};
use crate::disk;
use crate::net::{Net, address};
use crate::process::{Process, output_of};
use crate::product::{self, Product};
use crate::run::Run;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use bugler_model::{Image, Task, TaskState};
use bugler_protocol::operator::{CaptureOrder, CreatedTasks, DeployOrder, NewTasks, Order};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a task may take on a busy computer.
pub const TASK: Duration = Duration::from_secs(300);

/// The server and its network. Clients have to be dropped first.
#[derive(Debug)]
pub struct Workbench<'r> {
    /// The run that it belongs to.
    pub run: &'r Run,
    /// The server under test; not started.
    pub server: Server,
    product: Product,
    net: Net,
}

/// A client that the server knows.
#[derive(Debug)]
pub struct Station {
    /// The host with the agent.
    pub client: Client,
    /// The device, by its id.
    pub device: String,
}

impl<'r> Workbench<'r> {
    /// Makes the network and prepares the server, which does no DHCP. `program` is started in place of
    /// the server's own where it is given.
    ///
    /// # Errors
    /// When the network cannot be made, or the programs are not prepared.
    pub fn new(run: &'r Run, program: Option<&Path>, arguments: &[&str]) -> Result<Self> {
        let net = Net::new()?;
        let host = net.add_host("srv", address(1))?;
        let product = product::cached()?;
        product.furnish(&run.file("state"))?;
        let listen = format!("--device-listen={}:{DEVICE_PORT}", address(1));
        let program = program.unwrap_or(&product.bugler);
        let arguments = [&["--dhcp=off", &listen], arguments].concat();
        let server = Server::new(run, host, program, &arguments);
        Ok(Self {
            run,
            server,
            product,
            net,
        })
    }

    /// The programs under test.
    #[must_use]
    pub fn product(&self) -> &Product {
        &self.product
    }

    /// The wires.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The client number `number` (1 to 200), which the server gets to know with a disk of `size` bytes.
    ///
    /// # Errors
    /// When its agent does not register.
    pub fn station(&self, number: u8, size: u64) -> Result<Station> {
        let name = format!("n{number}");
        let client = Client::new(
            self.net.add_host(&name, address(number + 1))?,
            &self.product,
        )?;
        let device = client.introduce(self.run, &self.server, size)?;
        Ok(Station { client, device })
    }

    /// Orders something of one device.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn order(&self, device: &str, action: Order) -> Result<Task> {
        let order = NewTasks {
            action,
            devices: vec![device.to_owned()],
            tag: None,
            leave_power: false,
        };
        let created: CreatedTasks = self.server.api().post("tasks", &order)?;
        let task = created.tasks.into_iter().next();
        task.with_context(|| format!("no task was made; left as it is: {:?}", created.skipped))
    }

    /// Orders a deploy.
    ///
    /// # Errors
    /// As [`Workbench::order`].
    pub fn order_deploy(&self, device: &str, order: DeployOrder) -> Result<Task> {
        self.order(device, Order::Deploy(order))
    }

    /// Orders a capture under `name`, of at most `rate` bytes a second as sent.
    ///
    /// # Errors
    /// As [`Workbench::order`].
    pub fn order_capture(&self, device: &str, name: &str, rate: Option<u64>) -> Result<Task> {
        let order = CaptureOrder {
            image_name: name.parse().context("a name of an image")?,
            note: String::new(),
            disk: bugler_model::DiskRule::Auto,
            partition: None,
            whole: false,
            unclean: bugler_model::Unclean::Refuse,
            limit_rate: rate,
        };
        self.order(device, Order::Capture(order))
    }

    /// Starts an agent for one task, with the file `disk` as its disk; what it prints goes to the file
    /// `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, client: &Client, disk: &Path, log: &str) -> Result<Process> {
        self.start_command(client.agent(disk)?, log)
    }

    /// As [`Workbench::start`], for a command of [`Client::agent_of`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_command(&self, agent: Command, log: &str) -> Result<Process> {
        Process::start("the agent", agent, &self.run.file(log))
    }

    /// The task as it is now.
    ///
    /// # Errors
    /// When the server does not say.
    pub fn task(&self, task: &Task) -> Result<Task> {
        self.server.api().get(&format!("tasks/{}", task.id))
    }

    /// Waits until the task has ended, and its agent with it.
    ///
    /// # Errors
    /// When they do not.
    pub fn ended(&self, task: &Task, agent: &mut Process) -> Result<Task> {
        agent.wait_exit(TASK)?;
        let api = self.server.api();
        api.wait_task_end(&task.id.to_string(), Duration::from_secs(120))
    }

    /// As [`Workbench::ended`], with the task done.
    ///
    /// # Errors
    /// When it is not.
    pub fn done(&self, task: &Task, agent: &mut Process) -> Result<Task> {
        let task = self.ended(task, agent)?;
        ensure!(
            task.state == TaskState::Done,
            "task {} ended as {}: {:?}",
            task.id,
            task.state,
            task.message
        );
        Ok(task)
    }

    /// Captures `disk` with the agent of a station under `name`, in one go.
    ///
    /// # Errors
    /// When the task is not done.
    pub fn capture(&self, station: &Station, disk: &Path, name: &str) -> Result<(Task, Image)> {
        let task = self.order_capture(&station.device, name, None)?;
        let log = format!("{}-capture-{}.log", station.client.host().name(), task.id);
        let mut agent = self.start(&station.client, disk, &log)?;
        let task = self.done(&task, &mut agent)?;
        let image = self.captured(&task)?;
        Ok((task, image))
    }

    /// The image that a capture made.
    ///
    /// # Errors
    /// When it made none.
    pub fn captured(&self, task: &Task) -> Result<Image> {
        self.server.api().get(&format!("tasks/{}/image", task.id))
    }

    /// Deploys to `target` of a station, in one go.
    ///
    /// # Errors
    /// When the task is not done.
    pub fn deploy(&self, station: &Station, target: &Path, order: DeployOrder) -> Result<Task> {
        let task = self.order_deploy(&station.device, order)?;
        let log = format!("{}-deploy-{}.log", station.client.host().name(), task.id);
        let mut agent = self.start(&station.client, target, &log)?;
        self.done(&task, &mut agent)
    }

    /// Deploys an image onto a disk full of poison, and proves that the disk then holds what `source`
    /// holds.
    ///
    /// # Errors
    /// When the task is not done, or the disks differ.
    pub fn proved(&self, station: &Station, image: &str, source: &Path) -> Result<()> {
        let target = self
            .run
            .file(&format!("proof-{}.raw", station.client.host().name()));
        disk::poisoned(&target, std::fs::metadata(source)?.len())?;
        self.deploy(station, &target, DeployOrder::of(image))?;
        disk::compare(source, &target)?;
        std::fs::remove_file(&target).context("cannot remove a disk")
    }

    /// Waits until at least `part` of what a task is to do is done, and returns it.
    ///
    /// # Errors
    /// When it ends before.
    pub fn reached(&self, task: &Task, part: f64) -> Result<Task> {
        self.server.api().wait("a part of the task", TASK, |_| {
            let task = self.task(task)?;
            ensure!(task.state.is_open(), "it ended first: {task:?}");
            let progress = task.progress;
            let far = progress.total > 0 && progress.done as f64 >= progress.total as f64 * part;
            Ok(far.then_some(task))
        })
    }

    /// `POST` to the operator's API.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn post<T: DeserializeOwned + Send>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T> {
        self.server.api().post(path, body)
    }

    /// Runs an operator's command on the server's host, and returns what it printed.
    ///
    /// # Errors
    /// When the command fails.
    pub fn bugler(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self
            .server
            .host()
            .command(&self.product.bugler.display().to_string());
        command.arg(format!("--server=http://{}", self.server.operator()));
        output_of(command.args(arguments))
    }
}
