//! A server that cannot start says what to do; one that has nothing to do is small.

use super::Scenario;
use crate::net::{INTERFACE, Net, address};
use crate::process::{Process, output_of};
use crate::product;
use crate::run::Run;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

/// How long a server that cannot start may take to say so.
const SOON: Duration = Duration::from_secs(120);
/// Most memory of an idle server, in kB.
const IDLE_KB: u64 = 40_000;

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "server-start",
    proves: "a server that cannot start says why and what to do, and an idle one stays under 40 MB",
    limit: Duration::from_secs(900),
    machines: 0,
    image: false,
    product: true,
    play: server_start,
}];

fn server_start(run: &Run) -> Result<()> {
    let net = Net::new()?;
    let host = net.add_host("srv", address(1))?;
    let product = product::cached()?;
    let bare = "bare0";
    output_of(
        host.command("ip")
            .args(["link", "add", bare, "up", "type", "bridge"]),
    )?;
    let file = run.file("a-file");
    fs::write(&file, "").context("cannot write a file")?;
    let empty = run.file("no-loaders");
    fs::create_dir(&empty).context("cannot make a folder")?;
    let config = run.file("no-loaders.toml");
    fs::write(
        &config,
        format!("[boot]\nloaders = {:?}\n", empty.display().to_string()),
    )?;
    let taken = host.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8480)))??;

    let state = run.file("state-of-failures").display().to_string();
    let inside_a_file = file.join("state").display().to_string();
    let config = config.display().to_string();
    let empty = empty.display().to_string();
    let other_port = "--device-listen=0.0.0.0:8490";
    let cases: [(&str, Vec<&str>, Vec<&str>); 5] = [
        (
            "a port in use",
            vec!["--state-dir", &state, "--interface", INTERFACE],
            vec!["0.0.0.0:8480", "--device-listen"],
        ),
        (
            "a missing interface",
            vec!["--state-dir", &state, "--interface", "nic9", other_port],
            vec!["nic9", "ip link"],
        ),
        (
            "an interface without an address",
            vec!["--state-dir", &state, "--interface", bare, other_port],
            vec![bare, "ip address add"],
        ),
        (
            "a state directory that cannot be made",
            vec![
                "--state-dir",
                &inside_a_file,
                "--interface",
                INTERFACE,
                other_port,
            ],
            vec![&inside_a_file, "--state-dir"],
        ),
        (
            "missing loaders",
            vec![
                "--config",
                &config,
                "--state-dir",
                &state,
                "--interface",
                INTERFACE,
                other_port,
            ],
            vec![&empty, "undionly.kpxe", "ipxe"],
        ),
    ];
    for (number, (what, arguments, expected)) in cases.into_iter().enumerate() {
        let mut command = host.command(&product.bugler.display().to_string());
        command.arg("serve").args(arguments);
        let log = run.file(&format!("failure-{number}.log"));
        let mut process = Process::start(what, command, &log)?;
        let status = process.wait_exit(SOON)?;
        let said = fs::read_to_string(&log).context("cannot read what it said")?;
        let last = said.trim().lines().last().unwrap_or_default().to_owned();
        ensure!(
            status.code() == Some(1),
            "{what}: it ended with {status}: {said}"
        );
        for part in expected {
            ensure!(
                last.contains(part),
                "{what}: {part:?} is missing in: {said}"
            );
        }
        run.say(&format!("{what}: {last}"));
    }
    drop(taken);

    product.furnish(&run.file("state"))?;
    let mut server = Server::new(run, host, &product.bugler, &["--dhcp=proxy"]);
    server.start()?;
    let status = fs::read_to_string(format!("/proc/{}/status", server.process()?.id()))
        .context("cannot read the server's status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or_default();
    let resident: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .context("VmRSS is no number")?;
    ensure!(
        resident < IDLE_KB,
        "the idle server has {resident} kB resident"
    );
    run.say(&format!(
        "an idle server: {:.1} MB resident",
        resident as f64 * 1024.0 / 1e6
    ));
    server.stop()
}
