//! The bytes of version 1. An agent of this version may boot from a server of the next one, and the
//! other way round: do not change a test here. A message that must change gets a new version, and
//! a file of its own beside this one.

use bugler_model::{
    Capture, Compare, Cpu, Deploy, DeviceId, Disk, DiskRule, Identity, ImageId, Inventory, Nic,
    Phase, Progress, Seed, TaskAction, TaskId, TaskState, Transport, Unclean, VerifyMode, Wipe,
    WipeMethod,
};
use bugler_protocol::agent::{
    Assignment, ChunkRequest, Damaged, Diskless, DisklessStage, ErrorBody, Heartbeat, Register,
    Registered, Report, ReportAnswer, VERSION,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// `value` is written as `bytes`, and `bytes` is read as `value`.
fn frozen<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, bytes: &str) {
    assert_eq!(serde_json::to_string(value).unwrap(), bytes);
    assert_eq!(&serde_json::from_str::<T>(bytes).unwrap(), value);
}

#[test]
fn version_1_is_version_1() {
    assert_eq!(VERSION, 1);
}

#[test]
fn register() {
    let message = Register {
        protocol: 1,
        agent_version: "0.1.0".into(),
        boot_token: "abc".into(),
        boot_mac: "52:54:00:12:34:56".parse().unwrap(),
        inventory: Inventory {
            uuid: Some("1eadff66-19e7-84ad-9831-b8aeed7d5f80".parse().unwrap()),
            serial: Some("S1".into()),
            vendor: Some("V".into()),
            model: None,
            cpu: Cpu {
                model: "C".into(),
                threads: 4,
            },
            memory: 1 << 30,
            disks: vec![Disk {
                path: "/dev/nvme0n1".into(),
                model: Some("M".into()),
                serial: None,
                size: 4096,
                sector_size: 512,
                transport: Transport::Nvme,
                removable: false,
                read_only: false,
            }],
            nics: vec![Nic {
                name: "eth0".into(),
                mac: "52:54:00:12:34:56".parse().unwrap(),
                link: true,
                speed: Some(1000),
                driver: Some("e1000e".into()),
            }],
        },
        uptime_ms: 4500,
    };
    frozen(
        &message,
        concat!(
            r#"{"protocol":1,"agent_version":"0.1.0","boot_token":"abc","#,
            r#""boot_mac":"52:54:00:12:34:56","inventory":{"#,
            r#""uuid":"1eadff66-19e7-84ad-9831-b8aeed7d5f80","serial":"S1","vendor":"V","#,
            r#""model":null,"cpu":{"model":"C","threads":4},"memory":1073741824,"disks":[{"#,
            r#""path":"/dev/nvme0n1","model":"M","serial":null,"size":4096,"sector_size":512,"#,
            r#""transport":"nvme","removable":false,"read_only":false}],"nics":[{"name":"eth0","#,
            r#""mac":"52:54:00:12:34:56","link":true,"speed":1000,"driver":"e1000e"}]},"#,
            r#""uptime_ms":4500}"#
        ),
    );
}

#[test]
fn registered() {
    let message = Registered {
        protocol: 1,
        device: DeviceId(3),
        label: "rack1-07".into(),
        token: "t".into(),
        heartbeat_s: 10,
    };
    frozen(
        &message,
        r#"{"protocol":1,"device":"d3","label":"rack1-07","token":"t","heartbeat_s":10}"#,
    );
}

#[test]
fn diskless() {
    let message = Diskless {
        boot_token: "abc".into(),
        boot_mac: "52:54:00:12:34:56".parse().unwrap(),
        stage: DisklessStage::RootAttached,
        detail: "an export".into(),
        uptime_ms: 4500,
    };
    frozen(
        &message,
        concat!(
            r#"{"boot_token":"abc","boot_mac":"52:54:00:12:34:56","stage":"root-attached","#,
            r#""detail":"an export","uptime_ms":4500}"#
        ),
    );
    frozen(&DisklessStage::RootFailed, r#""root-failed""#);
}

#[test]
fn assignment() {
    let deploy = Deploy {
        image: ImageId(2),
        image_name: "debian-12".parse().unwrap(),
        version: 3,
        manifest: "00ff".into(),
        disk: DiskRule::Auto,
        verify: VerifyMode::ReadBack,
        compare: Compare::Auto,
        grow: false,
        identity: None,
        limit_rate: None,
    };
    let message = Assignment {
        task: TaskId(5),
        action: TaskAction::Deploy(deploy.clone()),
        attempt: 1,
    };
    frozen(
        &message,
        concat!(
            r#"{"task":"t5","action":{"kind":"deploy","image":"i2","image_name":"debian-12","#,
            r#""version":3,"manifest":"00ff","disk":"auto","verify":"read_back","#,
            r#""compare":"auto","grow":false,"identity":null,"limit_rate":null},"attempt":1}"#
        ),
    );
    let named = Deploy {
        disk: DiskRule::Named("/dev/sda".into()),
        verify: VerifyMode::WriteOnly,
        compare: Compare::Never,
        grow: true,
        identity: Some(Identity {
            hostname: Some("pc-7".into()),
            machine_id: true,
            ssh_host_keys: true,
            gpt_guids: false,
            seed: Some(Seed {
                user_data: "#cloud-config".into(),
                meta_data: "instance-id: 1".into(),
                network_config: None,
            }),
        }),
        limit_rate: Some(1_000_000),
        ..deploy
    };
    frozen(
        &TaskAction::Deploy(named),
        concat!(
            r#"{"kind":"deploy","image":"i2","image_name":"debian-12","version":3,"#,
            r#""manifest":"00ff","disk":{"named":"/dev/sda"},"verify":"write_only","#,
            r#""compare":"never","grow":true,"identity":{"hostname":"pc-7","machine_id":true,"#,
            r#""ssh_host_keys":true,"gpt_guids":false,"seed":{"user_data":"#,
            r##""#cloud-config","meta_data":"instance-id: 1","network_config":null}},"##,
            r#""limit_rate":1000000}"#
        ),
    );
    // What a server from before these fields sends.
    let old = concat!(
        r#"{"kind":"deploy","image":"i2","image_name":"debian-12","manifest":"00ff","#,
        r#""disk":"auto","verify":"read_back"}"#
    );
    let TaskAction::Deploy(old) = serde_json::from_str(old).unwrap() else {
        panic!("no deploy");
    };
    assert_eq!(
        (old.version, old.grow, old.compare),
        (0, false, Compare::Auto)
    );
    let capture = Capture {
        image_name: "debian-12".parse().unwrap(),
        note: "before the upgrade".into(),
        disk: DiskRule::Auto,
        partition: Some(2),
        whole: false,
        unclean: Unclean::Refuse,
        limit_rate: None,
    };
    frozen(
        &TaskAction::Capture(capture),
        concat!(
            r#"{"kind":"capture","image_name":"debian-12","note":"before the upgrade","#,
            r#""disk":"auto","partition":2,"whole":false,"unclean":"refuse","limit_rate":null}"#
        ),
    );
    let wipe = Wipe {
        disk: DiskRule::Named("S1".into()),
        method: WipeMethod::AtaSecureErase,
    };
    frozen(
        &TaskAction::Wipe(wipe),
        r#"{"kind":"wipe","disk":{"named":"S1"},"method":"ata-secure-erase"}"#,
    );
    frozen(&TaskAction::Reboot, r#"{"kind":"reboot"}"#);
    frozen(&TaskAction::PowerOff, r#"{"kind":"power_off"}"#);
}

#[test]
fn report() {
    let message = Report {
        state: TaskState::Running,
        progress: Progress {
            phase: Phase::Writing,
            done: 3,
            total: 9,
            skipped: 1,
            fetched: 2,
            elapsed_ms: 77,
        },
        message: None,
        disk: Some("S1".into()),
    };
    frozen(
        &message,
        concat!(
            r#"{"state":"running","progress":{"phase":"writing","done":3,"total":9,"skipped":1,"#,
            r#""fetched":2,"elapsed_ms":77},"message":null,"disk":"S1"}"#
        ),
    );
    for (state, word) in [
        (TaskState::Verifying, "verifying"),
        (TaskState::Done, "done"),
        (TaskState::Failed, "failed"),
        (TaskState::Cancelled, "cancelled"),
    ] {
        frozen(&state, &format!("\"{word}\""));
    }
    for (phase, word) in [
        (Phase::Checking, "checking"),
        (Phase::Comparing, "comparing"),
        (Phase::Finalizing, "finalizing"),
        (Phase::Verifying, "verifying"),
    ] {
        frozen(&phase, &format!("\"{word}\""));
    }
    frozen(&ReportAnswer { cancel: true }, r#"{"cancel":true}"#);
}

#[test]
fn the_small_messages() {
    frozen(
        &Heartbeat {
            log: vec!["line".into()],
        },
        r#"{"log":["line"]}"#,
    );
    frozen(
        &ChunkRequest {
            hashes: vec!["ab".into()],
        },
        r#"{"hashes":["ab"]}"#,
    );
    frozen(
        &Damaged {
            hash: "ab".into(),
            detail: "d".into(),
        },
        r#"{"hash":"ab","detail":"d"}"#,
    );
    frozen(&ErrorBody { error: "e".into() }, r#"{"error":"e"}"#);
}

#[test]
fn what_a_neighbouring_version_adds_is_ignored_and_what_it_lacks_has_a_default() {
    let newer = r#"{"task":"t5","action":{"kind":"reboot"},"attempt":1,"colour":"red"}"#;
    assert_eq!(
        serde_json::from_str::<Assignment>(newer).unwrap().task,
        TaskId(5)
    );
    let older = r#"{"state":"running","progress":{"done":1}}"#;
    let report: Report = serde_json::from_str(older).unwrap();
    assert_eq!(
        (report.progress.done, report.message, report.disk),
        (1, None, None)
    );
    assert_eq!(
        serde_json::from_str::<Heartbeat>("{}").unwrap(),
        Heartbeat::default()
    );
}
