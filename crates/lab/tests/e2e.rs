//! End-to-end tests on real firmware. Each plays one scenario of `bugler-lab e2e` in a process and a
//! network of its own; what it proves and what it measures is printed as it goes.

use std::process::Command;

fn play(scenario: &str) {
    let status = Command::new(env!("CARGO_BIN_EXE_bugler-lab"))
        .args(["e2e", scenario])
        .status()
        .expect("bugler-lab can be started");
    assert!(
        status.success(),
        "the scenario {scenario} failed ({status}); what it printed says why"
    );
}

#[test]
fn lab_network() {
    play("lab-network");
}

#[test]
fn lab_disk_bios() {
    play("lab-disk-bios");
}

#[test]
fn lab_disk_uefi() {
    play("lab-disk-uefi");
}

#[test]
fn lab_pxe_bios() {
    play("lab-pxe-bios");
}

#[test]
fn lab_pxe_uefi() {
    play("lab-pxe-uefi");
}

#[test]
fn server_start() {
    play("server-start");
}

#[test]
fn deploy_bios() {
    play("deploy-bios");
}

#[test]
fn deploy_uefi() {
    play("deploy-uefi");
}

#[test]
fn two_machines() {
    play("two-machines");
}

#[test]
fn server_killed() {
    play("server-killed");
}

#[test]
fn power_cut() {
    play("power-cut");
}

#[test]
fn proxy_bios() {
    play("proxy-bios");
}

#[test]
fn proxy_uefi() {
    play("proxy-uefi");
}

#[test]
fn shell_client() {
    play("shell-client");
}
