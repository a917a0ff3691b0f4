//! Raspberry Pis, by the simulator of their boot ROM.

use super::Scenario;
use crate::disk;
use crate::machine::{Firmware, Machine, RamSystem, Spec};
use crate::net::{Net, address};
use crate::peers::Dnsmasq;
use crate::pi::course::Fetched;
use crate::pi::rom::{self, Booted};
use crate::pi::{Board, Pi};
use crate::product;
use crate::run::Run;
use crate::site::Site;
use anyhow::{Context, Result, ensure};
use bugler_boot::pi::eeprom::Signature;
use bugler_boot::pi::{AgentCmdline, BootFiles, cmdline_txt, config_txt};
use bugler_model::{Arch, Device, Event, Netboot};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a machine may take for one stage. Emulated on a busy computer, the longest takes 40 s.
const STAGE: Duration = Duration::from_secs(180);
/// What PID 1 of the boot environment prints first.
const INIT: &str = "init of the boot environment";

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "lab-pi",
        proves: "the simulator of the Raspberry Pi ROM boots from dnsmasq, as a 3B, 3B+, 4 and 5",
        limit: Duration::from_secs(900),
        machines: 0,
        image: false,
        product: false,
        play: from_dnsmasq,
    },
    Scenario {
        name: "lab-pi-start",
        proves: "what the simulated ROM of a 3B fetched starts the agent on QEMU's Raspberry Pi 3B",
        limit: Duration::from_secs(900),
        machines: 1,
        image: false,
        product: true,
        play: to_the_agent,
    },
    Scenario {
        name: "pi",
        proves: "a 3B, 3B+, 4 and 5 get their files from Bugler; the 3B's start the agent, and then it is left alone",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: from_bugler,
    },
    Scenario {
        name: "pi-proxy",
        proves: "beside a dnsmasq that owns the addresses a 3B, 3B+, 4 and 5 get their files from Bugler",
        limit: Duration::from_secs(900),
        machines: 0,
        image: true,
        product: true,
        play: beside_dnsmasq,
    },
];

/// The files of a boot partition, of plausible sizes and without meaning.
fn files(pi: &Pi) -> Result<BTreeMap<String, Vec<u8>>> {
    let boot = BootFiles {
        initramfs: Some("initrd"),
        ..BootFiles::new("vmlinuz")
    };
    let cmdline = AgentCmdline {
        mac: pi.mac,
        server: "http://10.20.50.2:8480",
        token: "t0ken",
        ip: None,
        // The smaller one of the 3B's two.
        extra: "console=ttyS1,115200",
    };
    let mut files = BTreeMap::from([
        (
            "config.txt".to_owned(),
            config_txt(&boot, None)?.into_bytes(),
        ),
        (
            "cmdline.txt".to_owned(),
            cmdline_txt(&cmdline, None)?.into_bytes(),
        ),
    ]);
    let mut add = |name: &str, size: usize| {
        let byte = |at: usize| (at ^ (at >> 8) ^ name.len()) as u8;
        files.insert(name.to_owned(), (0..size).map(byte).collect());
    };
    add("vmlinuz", 9 << 20);
    add("initrd", (12 << 20) + 77);
    add(pi.board.device_trees()[0], 54_321);
    if let Some((stage, fixup)) = pi.board.firmware() {
        add(stage, 2_249_280);
        add(fixup, 5_399);
    }
    Ok(files)
}

fn write(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, content) in files {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn from_dnsmasq(run: &Run) -> Result<()> {
    let net = Net::new()?;
    let _capture = run.capture(&net)?;
    let host = net.add_host("dhcp", address(2))?;
    let tftp = run.file("tftp");
    write(
        &tftp,
        &BTreeMap::from([("bootcode.bin".to_owned(), vec![0xb0; 52_460])]),
    )?;
    let boards: Vec<Pi> = Board::ALL.map(|board| Pi::new(board, 1)).to_vec();
    for pi in &boards {
        write(&tftp.join(pi.prefix()), &files(pi)?)?;
    }
    let _dnsmasq = Dnsmasq::pis(run, &host, &tftp)?;
    for pi in boards {
        let mut machine = rom::Machine::new(&net, "pi", pi)?;
        let began = run.elapsed();
        let booted = machine.boot()?;
        let fetched = &booted.fetched;
        ensure!(
            fetched.prefix == pi.prefix() && booted.server == host.address(),
            "the {} found its files in {:?} of {}",
            pi.board,
            fetched.prefix,
            booted.server
        );
        for (name, content) in files(&pi)? {
            ensure!(
                fetched.file(&name)? == content,
                "{name} came with other bytes"
            );
        }
        ensure!(
            fetched.cmdline.contains(&pi.mac.bootif()),
            "no BOOTIF: {}",
            fetched.cmdline
        );
        run.say(&format!(
            "{}: address {}, {} requests, {} files, {} KiB in {:.1} s; starts {} with {} and {}",
            pi.board,
            booted.address,
            fetched.asked.len(),
            fetched.files.len(),
            fetched.files.values().map(Vec::len).sum::<usize>() / 1024,
            (run.elapsed() - began).as_secs_f64(),
            fetched.kernel,
            fetched.device_tree,
            fetched.initramfs.as_deref().unwrap_or("no initramfs"),
        ));
        run.say(&fetched.asked.join(" "));
    }
    Ok(())
}

/// The ROM by the simulator; from the kernel on by QEMU, with the files that the ROM fetched.
fn to_the_agent(run: &Run) -> Result<()> {
    let net = Net::new()?;
    let _capture = run.capture(&net)?;
    let host = net.add_host("dhcp", address(2))?;
    let pi = Pi::new(Board::Pi3B, 1);
    let bootenv = product::cached()?.bootenv_of(Arch::Aarch64)?;
    let tftp = run.file("tftp");
    let mut served = files(&pi)?;
    let mut take = |name: &str, from: &Path| {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        served.insert(name.to_owned(), content);
        anyhow::Ok(())
    };
    take("vmlinuz", &bootenv.join("vmlinuz"))?;
    take("initrd", &bootenv.join("initrd"))?;
    // Under the name in Raspberry Pi's own kernel, as the server finds it in Debian's.
    take(
        "bcm2710-rpi-3-b.dtb",
        &bootenv.join("dtbs/bcm2837-rpi-3-b.dtb"),
    )?;
    served.insert("bootcode.bin".into(), vec![0xb0; 52_460]);
    write(&tftp, &served)?;
    let dnsmasq = Dnsmasq::pis(run, &host, &tftp)?;

    let booted = rom::Machine::new(&net, "pi", pi)?.boot()?;
    run.say(&format!(
        "the ROM got {} files from {}",
        booted.fetched.files.len(),
        booted.server
    ));
    let mut machine = start_in_qemu(run, &net, &pi, &booted.fetched)?;
    let seen = machine.wait_for(INIT, STAGE)?;
    run.say(&format!(
        "{:.1} s after the ROM: {}",
        seen.at.as_secs_f64(),
        seen.line
    ));
    // The kernel and the agent have the address that cmdline.txt says, and ask for an IP address.
    let kernel = format!("BOOTIF={}", pi.mac.bootif());
    ensure!(
        !machine.console()?.lines_with(&kernel).is_empty(),
        "the kernel was not told {kernel}"
    );
    let leased = format!("DHCPREQUEST(eth0) {} {}", booted.address, pi.mac);
    dnsmasq.process().wait_for(&leased, STAGE)?;
    run.say(&format!("its agent asks for {} again", booted.address));
    machine.cut_power()
}

/// Starts the files on QEMU's Raspberry Pi 3B, with the MAC address of the board that fetched them. What
/// QEMU does not have is the board's own second stage: it would have put the arguments of
/// `cmdline.txt` and the device tree together.
fn start_in_qemu(run: &Run, net: &Net, pi: &Pi, fetched: &Fetched) -> Result<Machine> {
    let save = |name: &str| {
        let path = run.file(&format!("fetched-{name}"));
        fs::write(&path, fetched.file(name)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        anyhow::Ok(path)
    };
    let initramfs = fetched.initramfs.as_deref();
    let system = RamSystem {
        kernel: save(&fetched.kernel)?,
        initrd: save(initramfs.context("the board loaded no initramfs")?)?,
        arguments: fetched.cmdline.clone(),
        device_tree: Some(save(&fetched.device_tree)?),
    };
    let file = run.file("n1.raw");
    // A size that an SD card can have.
    disk::poisoned(&file, 64 << 20)?;
    let mut spec = Spec::new("n1", 1, Firmware::Raspi3b).disk(&file);
    spec.mac = pi.mac;
    let mut machine = Machine::new(run, net, spec)?;
    machine.insert(system);
    machine.power_on()?;
    Ok(machine)
}

/// What the operator has to give: the boot loader's stages, and settings to add to.
pub(super) fn give(site: &Site<'_>, run: &Run) -> Result<PathBuf> {
    let folder = run.file("state").join("files/pi");
    let mut given = BTreeMap::from([
        ("bootcode.bin".to_owned(), vec![0xb0; 52_460]),
        // The smaller one of the 3B's two serial ports.
        ("cmdline.txt".to_owned(), b"console=ttyS1,115200\n".to_vec()),
        (
            "config.txt".to_owned(),
            b"dtparam=audio=on\n[pi4]\nkernel=other.img\n".to_vec(),
        ),
        // Debian's kernel of this release has no device tree for it.
        ("bcm2712-rpi-5-b.dtb".to_owned(), vec![0xd7; 54_321]),
    ]);
    for board in Board::ALL {
        let own = files(&Pi::new(board, 1))?.into_iter();
        given.extend(own.filter(|(name, _)| name.ends_with(".elf") || name.ends_with(".dat")));
    }
    write(&folder, &given)?;
    site.say("the operator has put the boot loader's stages into the folder of boot files");
    Ok(folder)
}

/// Boots a board from Bugler, and proves that it got what it should have.
pub(super) fn boot_from_bugler(site: &Site<'_>, run: &Run, pi: Pi) -> Result<Fetched> {
    let bootenv = site.product.bootenv_of(Arch::Aarch64)?;
    let began = run.elapsed();
    let Booted {
        address,
        server,
        fetched,
    } = rom::Machine::new(&site.net, "pi", pi)?.boot()?;
    ensure!(
        server == site.server.host().address() && fetched.prefix == pi.prefix(),
        "the {} found its files in {:?} of {server}",
        pi.board,
        fetched.prefix
    );
    for name in ["vmlinuz", "initrd"] {
        let kept = fs::read(bootenv.join(name)).with_context(|| format!("cannot read {name}"))?;
        ensure!(
            fetched.file(name)? == kept,
            "{name} is not that of the boot environment"
        );
    }
    let config = String::from_utf8_lossy(fetched.file("config.txt")?);
    ensure!(
        config.starts_with("dtparam=audio=on\n"),
        "the operator's settings are gone: {config}"
    );
    let cmdline = &fetched.cmdline;
    let wanted = format!("console=ttyS1,115200 bugler.server=http://{server}:8480 bugler.token=");
    let interface = format!(" BOOTIF={}", pi.mac.bootif());
    ensure!(
        cmdline.starts_with(&wanted) && cmdline.contains(&interface),
        "it would be started with {cmdline}"
    );
    let device = site.server.api().device(pi.mac)?;
    let device = device.with_context(|| format!("the server does not know the {}", pi.board))?;
    ensure!(
        device.firmware == Some(bugler_model::Firmware::RaspberryPi),
        "the server takes the {} for {:?}",
        pi.board,
        device.firmware
    );
    run.say(&format!(
        "{}: {}, address {address}, {} requests, {} KiB in {:.1} s",
        pi.board,
        device.id,
        fetched.asked.len(),
        fetched.files.values().map(Vec::len).sum::<usize>() / 1024,
        (run.elapsed() - began).as_secs_f64(),
    ));
    Ok(fetched)
}

/// The server is not worried by what these boards look for by habit.
fn no_worry(site: &Site<'_>) -> Result<()> {
    let events: Vec<Event> = site.server.api().get("events?limit=1000")?;
    let worried = events
        .iter()
        .find(|event| event.text.contains("there is no"));
    ensure!(
        worried.is_none(),
        "a habit of these boards worries the server: {worried:?}"
    );
    Ok(())
}

fn from_bugler(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    let folder = give(&site, run)?;
    site.server.start()?;
    for board in [Board::Pi5, Board::Pi4, Board::Pi3BPlus] {
        boot_from_bugler(&site, run, Pi::new(board, 1))?;
    }
    no_worry(&site)?;

    // A newer boot loader for one board, and nobody else.
    let pi = Pi::new(Board::Pi4, 1);
    let image = vec![0xee; 512 << 10];
    let signature = Signature::of(&image, 1_763_000_000).to_string();
    write(
        &folder.join(pi.prefix()),
        &BTreeMap::from([
            ("pieeprom.upd".to_owned(), image.clone()),
            ("pieeprom.sig".to_owned(), signature.into_bytes()),
        ]),
    )?;
    let fetched = rom::Machine::new(&site.net, "pi", pi)?.boot()?.fetched;
    ensure!(
        fetched.update.as_ref() == Some(&image),
        "the 4 got no update"
    );
    let other = boot_from_bugler(&site, run, Pi::new(Board::Pi4, 2))?;
    ensure!(other.update.is_none(), "another 4 got the update too");
    run.say("one 4 got its boot loader update, the other one did not");

    let pi = Pi::new(Board::Pi3B, 1);
    let fetched = boot_from_bugler(&site, run, pi)?;
    let mut machine = start_in_qemu(run, &site.net, &pi, &fetched)?;
    let device = site.registered(&machine)?;
    run.say(&format!(
        "QEMU's Raspberry Pi 3B runs the agent: {}",
        device.id
    ));
    machine.cut_power()?;
    drop(machine);

    let changed: Device = site.bugler(&["device", "netboot", &device.id.to_string(), "off"])?;
    ensure!(changed.netboot == Netboot::Off, "network boot is still on");
    let refused = rom::Machine::new(&site.net, "pi", pi)?.boot();
    let error = refused
        .err()
        .context("it is off, and the ROM found a server")?;
    ensure!(
        format!("{error:#}").contains("says where the files are"),
        "the ROM stopped for another reason: {error:#}"
    );
    run.say(&format!("its network boot is off now: {error:#}"));
    Ok(())
}

fn beside_dnsmasq(run: &Run) -> Result<()> {
    let mut site = Site::new(run, &["--dhcp=proxy"])?;
    let host = site.net.add_host("dhcp", address(2))?;
    let _dnsmasq = Dnsmasq::addresses_only(run, &host)?;
    give(&site, run)?;
    site.server.start()?;
    for board in Board::ALL {
        boot_from_bugler(&site, run, Pi::new(board, 1))?;
    }
    no_worry(&site)
}
