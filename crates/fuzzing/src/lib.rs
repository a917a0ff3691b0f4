//! Every decoder that reads what somebody else wrote, as a function over bytes.
//!
//! `fuzz/` hands these to libFuzzer, one target each; `tests/corpus.rs` replays what was kept of
//! its findings, and random bytes, on the ordinary toolchain. A function here must return for any
//! input, quickly and without much memory; where a decoder has an inverse, it also checks that what
//! was read is written and read back the same.

pub mod inputs;
mod ipmi;
mod worst;

use bugler_boot::ClientFacts;
use bugler_model::MacAddr;
use std::net::Ipv6Addr;

/// A decoder to be fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the fuzz target and of its folder in `fuzz/corpus/`.
    pub name: &'static str,
    /// The decoder.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "dhcp_packet",
        run: dhcp_packet,
    },
    Target {
        name: "dhcp_frame",
        run: bugler_dhcp::fuzz_frame,
    },
    Target {
        name: "tftp_packet",
        run: tftp_packet,
    },
    Target {
        name: "ipmi_packet",
        run: ipmi::packet,
    },
    Target {
        name: "ipmi_session",
        run: ipmi::session,
    },
    Target {
        name: "aoe_frame",
        run: bugler_aoe::fuzz,
    },
    Target {
        name: "ndp_message",
        run: ndp_message,
    },
    Target {
        name: "boot_path",
        run: boot_path,
    },
    Target {
        name: "manifest",
        run: manifest,
    },
    Target {
        name: "module_index",
        run: module_index,
    },
    Target {
        name: "agent_dhcp",
        run: bugler_agent::boot::dhcp_client::fuzz,
    },
    Target {
        name: "agent_cmdline",
        run: agent_cmdline,
    },
    Target {
        name: "agent_nbd",
        run: bugler_agent::diskless::fuzz_nbd,
    },
    Target {
        name: "chunk_stream",
        run: chunk_stream,
    },
    Target {
        name: "gpt",
        run: gpt,
    },
    Target {
        name: "fat_growth",
        run: fat_growth,
    },
    Target {
        name: "identity_text",
        run: bugler_agent::personalize::fuzz_text,
    },
    Target {
        name: "capture_file",
        run: bugler_diagnose::fuzz,
    },
    Target {
        name: "device_form",
        run: device_form,
    },
    Target {
        name: "capture_body",
        run: capture_body,
    },
    Target {
        name: "lease_file",
        run: bugler_store::fuzz_lease_file,
    },
    Target {
        name: "simulate_answer",
        run: bugler_simulate::fuzz,
    },
    Target {
        name: "pi_boot",
        run: bugler_boot::pi::fuzz,
    },
    Target {
        name: "pi_eeprom",
        run: bugler_boot::pi::eeprom::fuzz,
    },
    Target {
        name: "pi_image",
        run: bugler_pifiles::fuzz,
    },
    Target {
        name: "signature",
        run: bugler_protocol::signature::fuzz,
    },
    Target {
        name: "nfs_call",
        run: bugler_nfs::fuzz_call,
    },
    Target {
        name: "nbd_request",
        run: bugler_nbd::fuzz,
    },
    Target {
        name: "disk_overlay",
        run: bugler_disk::fuzz_overlay,
    },
    Target {
        name: "fs_tree",
        run: bugler_fsread::tree::fuzz_tree,
    },
    Target {
        name: "fs_survey",
        run: bugler_fsread::fuzz_survey,
    },
    Target {
        name: "qcow2",
        run: bugler_images::fuzz_qcow2,
    },
    Target {
        name: "bmap",
        run: bugler_images::fuzz_bmap,
    },
    Target {
        name: "sparse_stream",
        run: bugler_images::fuzz_sparse,
    },
];

/// Runs the target of this name.
///
/// # Panics
/// Where there is none, and where the decoder has a defect.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a fuzz target of this name").run)(bytes);
}

fn dhcp_packet(bytes: &[u8]) {
    let Ok(packet) = bugler_dhcp::Packet::decode(bytes) else {
        return;
    };
    if let Some(mac) = packet.mac() {
        let facts = ClientFacts::from_options(mac, |code| packet.options.get(code));
        assert!(facts.describe().len() < 400);
        let _ = bugler_boot::plan(&bugler_boot::Question {
            facts: &facts,
            device: None,
            policy: &bugler_model::BootPolicy::default(),
            from: None,
            loaders: &["undionly.kpxe"],
            unanswered: 0,
        });
    }
}

fn tftp_packet(bytes: &[u8]) {
    use bugler_tftp::packet::Packet;
    if let Ok(Packet::ReadRequest(request)) = Packet::decode(bytes) {
        boot_path(request.filename);
    }
}

fn ndp_message(bytes: &[u8]) {
    let Some((address, message)) = bytes.split_first_chunk::<16>() else {
        return;
    };
    let _ = bugler_ndp::Solicitation::decode(message, Ipv6Addr::from(*address));
}

fn boot_path(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = bugler_boot::parse_path(&text);
    let _ = text.parse::<MacAddr>();
}

fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = bugler_protocol::manifest::Manifest::decode(bytes) {
        assert_eq!(manifest.encode(), bytes, "a manifest has one spelling");
    }
}

fn module_index(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (dep, alias) = text.split_once('\u{1}').unwrap_or((&text, ""));
    let texts = bugler_kmod::Texts {
        dep,
        alias,
        softdep: alias,
        builtin: dep,
    };
    let modules = bugler_kmod::Modules::from_text(std::path::Path::new("/m"), &texts);
    let names = modules.resolve_alias("virtio:d00000001v00001AF4");
    let _ = modules.order(&names);
    let _ = bugler_kmod::matches(dep, alias);
}

fn agent_cmdline(bytes: &[u8]) {
    let cmdline = bugler_agent::cmdline::Cmdline::parse(&String::from_utf8_lossy(bytes));
    let _ = cmdline.diskless.plan();
}

fn chunk_stream(bytes: &[u8]) {
    use bugler_agent::deploy::{Frame, Unpacker, read_frame};
    let mut stream = bytes;
    let mut frame = Vec::new();
    let mut content = vec![0; 4096];
    let hash = bugler_protocol::manifest::ChunkHash([0; 32]);
    while matches!(read_frame(&mut stream, &mut frame), Ok(Frame::Chunk)) {
        let unpacked = Unpacker::default().unpack(&frame, &mut content, &hash);
        assert!(unpacked.is_err(), "nothing has this hash");
    }
}

fn gpt(bytes: &[u8]) {
    let Some((head, disk)) = bytes.split_first_chunk::<9>() else {
        return;
    };
    let [kind, size @ ..] = *head;
    bugler_agent::deploy::fuzz_gpt(disk, kind.into(), u64::from_le_bytes(size));
}

fn fat_growth(bytes: &[u8]) {
    let Some((head, volume)) = bytes.split_first_chunk::<9>() else {
        return;
    };
    let [kind, size @ ..] = *head;
    let bits = [12, 16, 32][usize::from(kind % 3)];
    bugler_agent::personalize::fuzz_fat(volume, bits, u64::from_le_bytes(size));
}

/// What an agent sends that captures an image: the frames, in parts, and the commit.
fn capture_body(bytes: &[u8]) {
    let _ = bugler_api::split_commit(bytes);
    let mut frames = bugler_api::Frames::default();
    for part in bytes.chunks(1024) {
        frames.push(part);
        while let Ok(Some(frame)) = frames.next_frame() {
            assert!(!frame.is_empty());
        }
    }
    let _ = frames.end();
}

fn device_form(bytes: &[u8]) {
    if let Ok(fields) = bugler_api::Fields::parse(bytes) {
        let _ = (fields.mac(), fields.ip(), fields.succeeded());
    }
}
