//! End-to-end tests on real firmware. Each plays one scenario of `bugler-lab e2e` in a process and a
//! network of its own; what it proves and what it measures is printed as it goes.
//!
//! `make test` plays one scenario of each story, and is to take no more than half an hour. The second
//! and third ways to tell one are marked, and played by `make test-long`.

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
#[ignore = "played by `make test-long`"]
fn lab_disk_uefi() {
    play("lab-disk-uefi");
}

#[test]
fn lab_pxe_bios() {
    play("lab-pxe-bios");
}

#[test]
#[ignore = "played by `make test-long`"]
fn lab_pxe_uefi() {
    play("lab-pxe-uefi");
}

#[test]
fn lab_pi() {
    play("lab-pi");
}

#[test]
fn lab_pi_start() {
    play("lab-pi-start");
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
#[ignore = "played by `make test-long`"]
fn power_ipmi() {
    play("power-ipmi");
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
#[ignore = "played by `make test-long`"]
fn proxy_uefi() {
    play("proxy-uefi");
}

#[test]
fn proxy_every_kind() {
    play("proxy-every-kind");
}

#[test]
#[ignore = "played by `make test-long`"]
fn proxy_every_kind_kea() {
    play("proxy-every-kind-kea");
}

#[test]
fn simulate() {
    play("simulate");
}

#[test]
fn doctor() {
    play("doctor");
}

#[test]
fn explain() {
    play("explain");
}

#[test]
fn shell_client() {
    play("shell-client");
}

#[test]
#[ignore = "played by `make test-long`"]
fn lab_pxe_uefi_arm() {
    play("lab-pxe-uefi-arm");
}

#[test]
#[ignore = "played by `make test-long`"]
fn lab_pxe_uboot() {
    play("lab-pxe-uboot");
}

#[test]
fn lab_raspi3b() {
    play("lab-raspi3b");
}

#[test]
fn pi() {
    play("pi");
}

#[test]
#[ignore = "played by `make test-long`"]
fn pi_diskless() {
    play("pi-diskless");
}

#[test]
#[ignore = "played by `make test-long`"]
fn arm_uefi() {
    play("arm-uefi");
}

#[test]
fn uboot() {
    play("uboot");
}

#[test]
fn pi_proxy() {
    play("pi-proxy");
}

#[test]
#[ignore = "played by `make test-long`"]
fn boot_pxelinux() {
    play("boot-pxelinux");
}

#[test]
#[ignore = "played by `make test-long`"]
fn boot_lpxelinux() {
    play("boot-lpxelinux");
}

#[test]
#[ignore = "played by `make test-long`"]
fn boot_uefi_http() {
    play("boot-uefi-http");
}

#[test]
fn boot_secure() {
    play("boot-secure");
}

#[test]
fn proxy_kea() {
    play("proxy-kea");
}

#[test]
fn boot_relay() {
    play("boot-relay");
}

#[test]
fn every_kind() {
    play("every-kind");
}

#[test]
#[ignore = "played by `make test-long`"]
fn boot_other_uefi() {
    play("boot-other-uefi");
}

#[test]
#[ignore = "played by `make test-long`"]
fn secure_unmarked() {
    play("secure-unmarked");
}

#[test]
#[ignore = "played by `make test-long`"]
fn offer_shapes() {
    play("offer-shapes");
}

#[test]
#[ignore = "played by `make test-long`"]
fn boot_loop() {
    play("boot-loop");
}

#[test]
#[ignore = "played by `make test-long`"]
fn menus() {
    play("menus");
}

#[test]
#[ignore = "played by `make test-long`"]
fn installer() {
    play("installer");
}

#[test]
fn capture() {
    play("capture");
}

#[test]
fn round_trip() {
    play("round-trip");
}

#[test]
fn faults() {
    play("faults");
}

#[test]
#[ignore = "played by `make test-long`"]
fn identity() {
    play("identity");
}

#[test]
#[ignore = "played by `make test-long`"]
fn growth() {
    play("growth");
}

#[test]
fn orders() {
    play("orders");
}

#[test]
fn diskless_nbd() {
    play("diskless-nbd");
}

#[test]
#[ignore = "played by `make test-long`"]
fn diskless_aoe() {
    play("diskless-aoe");
}

#[test]
#[ignore = "played by `make test-long`"]
fn diskless_nfs() {
    play("diskless-nfs");
}

#[test]
#[ignore = "played by `make test-long`"]
fn diskless_six() {
    play("diskless-six");
}

#[test]
#[ignore = "played by `make test-long`"]
fn overlay_crash() {
    play("overlay-crash");
}

#[test]
fn diskless_sanboot() {
    play("diskless-sanboot");
}

#[test]
#[ignore = "played by `make test-long`"]
fn aoe_linux() {
    play("aoe-linux");
}
