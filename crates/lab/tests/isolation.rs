//! Nothing of a scenario is left, not even after `kill -9`.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// Every process by id: its parent's id and its name (proc(5), `/proc/PID/stat`).
fn processes() -> BTreeMap<i32, (i32, String)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let name = &stat[stat.find('(').unwrap() + 1..stat.rfind(')').unwrap()];
        let after = &stat[stat.rfind(')').unwrap() + 2..];
        let parent = after.split(' ').nth(1).unwrap().parse().unwrap();
        found.insert(pid, (parent, name.to_owned()));
    }
    found
}

/// The children of `root`, theirs, and so on: handles that become readable when the process ends,
/// and names.
fn descendants(root: i32) -> Vec<(OwnedFd, String)> {
    let all = processes();
    let is_below = |mut pid: i32| {
        while let Some(&(parent, _)) = all.get(&pid) {
            if parent == root {
                return true;
            }
            pid = parent;
        }
        false
    };
    all.iter()
        .filter(|&(&pid, _)| is_below(pid))
        .filter_map(|(&pid, (_, name))| {
            let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            Some((handle, name.clone()))
        })
        .collect()
}

#[test]
fn a_killed_scenario_takes_its_machines_and_servers_with_it() {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_bugler-lab"))
        .args(["e2e", "lab-pxe-bios"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(lab.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let seen = lines.find(|line| line.contains("asks for an address"));
    assert!(
        seen.is_some(),
        "the scenario ended before its machine was up"
    );

    let below = descendants(i32::try_from(lab.id()).unwrap());
    let names: Vec<&str> = below.iter().map(|(_, name)| name.as_str()).collect();
    for program in ["unshare", "bugler-lab", "qemu-system-x86", "dnsmasq"] {
        assert!(names.contains(&program), "{program} is not among {names:?}");
    }

    lab.kill().unwrap();
    lab.wait().unwrap();
    for (handle, name) in below {
        let mut ends = [PollFd::new(&handle, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: 120,
            tv_nsec: 0,
        };
        assert_eq!(
            poll(&mut ends, Some(&limit)).unwrap(),
            1,
            "{name} is still there"
        );
    }
}
