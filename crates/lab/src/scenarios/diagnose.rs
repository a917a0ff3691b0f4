//! Why did it not boot: what `doctor`, `explain` and `capture-packets` say of faults that were made
//! on purpose.

use super::Scenario;
use crate::machine::Firmware;
use crate::net::{Host, INTERFACE, Net, address};
use crate::peers::Dnsmasq;
use crate::process::{Process, output_of};
use crate::product;
use crate::run::Run;
use crate::server::Server;
use crate::site::{STAGE, Site};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "doctor",
        proves: "bugler doctor finds each fault of a host that was made on purpose, and none on a good one",
        limit: Duration::from_secs(900),
        machines: 0,
        image: false,
        product: true,
        play: doctor,
    },
    Scenario {
        name: "explain",
        proves: "a boot is recorded and explained, and so is one that a firewall stops",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: explain,
    },
];

/// What `bugler doctor --json` says on a host, and whether it ended with 0.
fn examine(host: &Host, bugler: &Path, arguments: &[&str]) -> Result<(Vec<Value>, bool)> {
    let mut command = host.command(&bugler.display().to_string());
    let output = command
        .args(["doctor", "--json"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run bugler doctor")?;
    let said: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "bugler doctor printed no JSON: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let checks = said["checks"].as_array().cloned().unwrap_or_default();
    Ok((checks, output.status.success()))
}

/// Checks that a fault is found, at this level and about this, and says what it was told.
fn expect(run: &Run, what: &str, checks: &[Value], level: &str, about: &str) -> Result<()> {
    let found = checks
        .iter()
        .find(|check| check["level"] == level && check["about"] == about);
    let found = found
        .with_context(|| format!("{what}: there is no {level} about {about} in {checks:#?}"))?;
    let remedy = found["remedy"].as_str().unwrap_or_default();
    ensure!(
        level == "ok" || !remedy.is_empty(),
        "{what}: no remedy: {found}"
    );
    run.say(&format!(
        "{what}: {} -> {remedy}",
        found["text"].as_str().unwrap_or_default()
    ));
    Ok(())
}

fn problems(checks: &[Value]) -> Vec<&Value> {
    checks
        .iter()
        .filter(|check| check["level"] == "problem")
        .collect()
}

fn doctor(run: &Run) -> Result<()> {
    let net = Net::new()?;
    let host = net.add_host("srv", address(1))?;
    let product = product::cached()?;
    let bugler = &product.bugler;
    let state = run.file("state");
    product.furnish(&state)?;
    let state = format!("--state-dir={}", state.display());
    let interface = format!("--interface={INTERFACE}");
    let pool = format!("--pool={}-{}", address(100), address(150));
    let full = ["--dhcp=full", &pool, &state, &interface];
    let ip = |arguments: &str| output_of(host.command("ip").args(arguments.split_whitespace()));

    let (checks, good) = examine(&host, bugler, &full)?;
    ensure!(
        good && problems(&checks).is_empty(),
        "a good host has problems: {:#?}",
        problems(&checks)
    );
    run.say(&format!("a good host: {} checks, no problem", checks.len()));

    let quick = |more: &[&str]| {
        let mut arguments = full.to_vec();
        arguments.push("--no-probe");
        arguments.extend(more);
        examine(&host, bugler, &arguments)
    };
    let bad = |what: &str, level: &str, about: &str, more: &[&str]| -> Result<()> {
        let (checks, good) = quick(more)?;
        ensure!(
            good == (level != "problem"),
            "{what}: the exit code is wrong: {checks:#?}"
        );
        expect(run, what, &checks, level, about)
    };
    ip("link set eth0 mtu 1400")?;
    bad("a small MTU", "warning", "mtu", &[])?;
    ip("link set eth0 mtu 1500")?;
    let taken = host.run(|| UdpSocket::bind("0.0.0.0:69"))??;
    bad("a port in use", "problem", "port", &[])?;
    drop(taken);
    output_of(host.command("nft").args([
        "table inet filter { chain input { type filter hook input priority 0; policy drop; tcp dport 22 accept; }; }",
    ]))?;
    bad("a firewall", "problem", "firewall", &[])?;
    output_of(
        host.command("nft")
            .args(["delete", "table", "inet", "filter"]),
    )?;
    let empty = run.file("no-loaders");
    fs::create_dir(&empty).context("cannot make a folder")?;
    let config = run.file("no-loaders.toml");
    fs::write(
        &config,
        format!("[boot]\nloaders = {:?}\n", empty.display().to_string()),
    )?;
    let config = format!("--config={}", config.display());
    bad("missing loaders", "problem", "loader", &[&config])?;
    let file = run.file("a-file");
    fs::write(&file, "").context("cannot write a file")?;
    let inside = format!("--state-dir={}", file.join("state").display());
    let (checks, _) = examine(
        &host,
        bugler,
        &["--no-probe", &interface, "--dhcp=proxy", &inside],
    )?;
    expect(
        run,
        "a state directory in a file",
        &checks,
        "problem",
        "state-dir",
    )?;
    let (checks, _) = examine(
        &host,
        bugler,
        &["--no-probe", "--interface=nic9", "--dhcp=off", &state],
    )?;
    expect(run, "a missing interface", &checks, "problem", "interface")?;
    ip("link add bare0 up type bridge")?;
    let (checks, _) = examine(
        &host,
        bugler,
        &["--no-probe", "--interface=bare0", "--dhcp=off", &state],
    )?;
    expect(
        run,
        "an interface without an address",
        &checks,
        "problem",
        "interface",
    )?;
    ip("link del bare0")?;

    let proxy = ["--dhcp=proxy", &state, &interface];
    let (checks, _) = examine(&host, bugler, &proxy)?;
    expect(run, "a proxy alone", &checks, "problem", "other-servers")?;
    let other = net.add_host("dhcp", address(2))?;
    let dnsmasq = Dnsmasq::addresses_only(run, &other)?;
    let (checks, _) = examine(&host, bugler, &full)?;
    expect(
        run,
        "a second DHCP server",
        &checks,
        "problem",
        "other-servers",
    )?;
    let (checks, good) = examine(&host, bugler, &proxy)?;
    ensure!(
        good,
        "a proxy beside dnsmasq has problems: {:#?}",
        problems(&checks)
    );
    expect(
        run,
        "a proxy beside dnsmasq",
        &checks,
        "ok",
        "other-servers",
    )?;
    drop(dnsmasq);

    // While the server runs its ports are its own.
    let bugler = bugler.clone();
    let mut server = Server::new(run, host, &bugler, &["--dhcp=full", &pool]);
    server.start()?;
    let (checks, good) = examine(server.host(), &bugler, &full)?;
    ensure!(
        good,
        "a running server has problems: {:#?}",
        problems(&checks)
    );
    let held = checks
        .iter()
        .filter(|check| {
            check["text"]
                .as_str()
                .is_some_and(|t| t.contains("the server itself"))
        })
        .count();
    ensure!(held == 5, "{held} ports are the server's own: {checks:#?}");
    run.say("beside a running server: no problem, its five ports are its own");
    server.stop()
}

/// The one explanation that `bugler explain --pcap` gives of a machine.
fn offline(site: &Site<'_>, file: &Path, mac: &str) -> Result<Value> {
    let file = file.display().to_string();
    let output = site.try_bugler(&["--json", "explain", "--pcap", &file, mac])?;
    let said: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("explain: {}", String::from_utf8_lossy(&output.stderr)))?;
    said.get(0)
        .cloned()
        .with_context(|| format!("{mac} is not in {file}"))
}

/// Begins to record a device's packets.
fn record(site: &Site<'_>, run: &Run, device: &str, name: &str) -> Result<Process> {
    let file = run.file(name).display().to_string();
    let command = site.command(&["capture-packets", device, "--output", &file]);
    let log = run.file(&format!("{name}.log"));
    let process = Process::start("the capture", command, &log)?;
    process.wait_for("recording the boot traffic", STAGE)?;
    Ok(process)
}

fn explain(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let mut node = site.node(1, Firmware::Uefi, 64)?;
    node.machine.power_on()?;
    let device = site.registered(&node.machine)?;
    let id = device.id.to_string();
    let mac = node.machine.spec().mac.to_string();

    let mut capture = record(&site, run, &id, "good.pcapng")?;
    node.machine.reset()?;
    site.registered(&node.machine)?;
    let file = run.file("good.pcapng");
    let mut last = Value::Null;
    let said = site
        .server
        .api()
        .wait("the recording to have the whole boot", STAGE, |_| {
            last = offline(&site, &file, &mac).unwrap_or_default();
            Ok((last["verdict"] == "fine").then(|| last.clone()))
        })
        .with_context(|| format!("a good boot: {last:#}"))?;
    capture.kill()?;
    let mut tshark = Command::new("tshark");
    tshark
        .arg("-r")
        .arg(&file)
        .args(["-T", "fields", "-e", "_ws.col.Protocol"]);
    let read = output_of(&mut tshark)?;
    for protocol in ["DHCP", "TFTP", "HTTP"] {
        let count = read.lines().filter(|line| *line == protocol).count();
        ensure!(
            count > 0,
            "tshark finds no {protocol} in {}",
            file.display()
        );
        run.say(&format!("tshark reads {count} packets of {protocol}"));
    }
    run.say(&format!(
        "the recording: {} lines, {}",
        said["story"].as_array().map_or(0, Vec::len),
        said["stopped"]
    ));
    let text = site.try_bugler(&["explain", &id])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    ensure!(
        text.contains("Fine"),
        "of a good boot the server says: {text}"
    );
    run.say(&format!("the server's own:\n{text}"));

    // From now on the server's host drops requests for files.
    let rules = "table inet trouble { chain input { type filter hook input priority 0; udp dport 69 drop; }; }";
    output_of(site.server.host().command("nft").arg(rules))?;
    let mut capture = record(&site, run, &id, "bad.pcapng")?;
    node.machine.reset()?;
    let file = run.file("bad.pcapng");
    let said = site.server.api().wait("the boot to stop", STAGE, |_| {
        let Ok(said) = offline(&site, &file, &mac) else {
            return Ok(None);
        };
        Ok((said["cause"]["rule"] == "tftp-unanswered").then_some(said))
    })?;
    run.say(&format!(
        "a firewall in the way: {} {}",
        said["stopped"], said["cause"]
    ));
    capture.kill()?;
    explained(&site, run, &id, "answer-ignored")?;
    output_of(
        site.server
            .host()
            .command("nft")
            .args(["delete", "table", "inet", "trouble"]),
    )?;
    node.machine.cut_power()
}

/// Waits until the server itself says of a device's boot that it stopped by this rule, and says what a
/// person reads of it.
fn explained(site: &Site<'_>, run: &Run, device: &str, rule: &str) -> Result<()> {
    let mut last = Value::Null;
    site.server
        .api()
        .wait("the server to see that the boot stopped", STAGE, |_| {
            last = site.bugler(&["explain", device])?;
            Ok((last["cause"]["rule"] == rule).then_some(()))
        })
        .with_context(|| format!("it explains: {last:#}"))?;
    let text = site.try_bugler(&["explain", device])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for part in ["Stopped: ", "Likely cause: ", "Try next: "] {
        ensure!(text.contains(part), "{part:?} is missing in: {text}");
    }
    run.say(&format!("the server's own:\n{text}"));
    Ok(())
}
