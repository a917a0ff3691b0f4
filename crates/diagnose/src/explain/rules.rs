//! The ladder of rules: from the furthest stage that a boot reached down to its first question.

use super::story::span;
use super::view::View;
use super::{Finding, Verdict, dhcp};
use crate::timeline::{Asking, End, Fetch, Protocol, Role, Source, is_probe};
use bugler_model::Timestamp;

/// How long a kernel may take until its agent speaks, in milliseconds: firmware that checks
/// signatures, slow disks and emulators included.
const KERNEL_MS: i64 = 90_000;

/// How long a loader may take until it asks for the next thing, in milliseconds.
const LOADER_MS: i64 = 30_000;

/// How long firmware may take until it takes up an offer, in milliseconds.
const FIRMWARE_MS: i64 = 15_000;

/// What a verdict is made of.
pub(super) type Judgement = (Verdict, String, Option<Finding>);

pub(super) fn stopped(text: impl Into<String>, finding: Finding) -> Judgement {
    (Verdict::Stopped, text.into(), Some(finding))
}

pub(super) fn underway(text: impl Into<String>) -> Judgement {
    (Verdict::Underway, text.into(), None)
}

fn fine(text: impl Into<String>) -> Judgement {
    (Verdict::Fine, text.into(), None)
}

pub(super) fn judge(view: &View<'_>) -> Judgement {
    if view.steps.is_empty() {
        return (
            Verdict::NotAsked,
            "nothing was seen of it".into(),
            Some(nothing_seen()),
        );
    }
    if view.registered {
        return fine("it booted: its agent has registered");
    }
    if view.local {
        return fine("it was told to boot its disk, and that is where it went");
    }
    if view.started {
        return fine("it was given everything that its profile boots; what runs now is its own");
    }
    if view.agent {
        return agent_unregistered(view);
    }
    for role in [Role::Initramfs, Role::Kernel, Role::Script, Role::Loader] {
        let Some((at, fetch)) = view.last(role) else {
            continue;
        };
        if fetch.is_whole() {
            return match role {
                Role::Initramfs => after_initramfs(view, at, fetch),
                Role::Kernel => after_kernel(view, at, fetch),
                Role::Script => after_script(view, at, fetch),
                _ => after_loader(view, at, fetch),
            };
        }
        // Loaders look for more than they need. Of a configuration that has many names the last one
        // counts, but iPXE goes on without its own.
        if matches!(fetch.end, End::Missing(_))
            && is_probe(&fetch.path)
            && (role != Role::Script || fetch.path.ends_with("autoexec.ipxe"))
        {
            continue;
        }
        return broken(view, at, fetch);
    }
    let other = view
        .fetches
        .iter()
        .rfind(|(_, fetch)| !fetch.is_whole() && !is_probe(&fetch.path));
    if let Some((at, fetch)) = other {
        return broken(view, *at, fetch);
    }
    if let Some((at, fetch)) = view.fetches.iter().rfind(|(_, fetch)| fetch.is_whole()) {
        return after_loader(view, *at, fetch);
    }
    let from = view.steps.first().map_or(view.until, |step| step.at);
    if let Some(judgement) = blocked(view, from, "it has an address and was told what to boot") {
        return judgement;
    }
    dhcp::judge(view)
}

/// A port that could not be reached since `from`.
fn blocked(view: &View<'_>, from: Timestamp, text: &str) -> Option<Judgement> {
    let (_, port, said) = view.blocked.iter().rfind(|(at, ..)| *at >= from)?;
    Some(stopped(
        format!("{text}, and it cannot reach port {port}: {said}"),
        Finding::new(
            "port-blocked",
            format!("a firewall keeps it from port {port}, or nothing listens there: {said}"),
            "let the firewall of the server take packets to that port from this network, or start \
             what should listen there; `bugler doctor` checks both",
        ),
    ))
}

fn nothing_seen() -> Finding {
    Finding::new(
        "never-asked",
        "it never asked to boot from the network on a segment that is watched here",
        "switch it on with network boot first in its firmware's boot order, on a port of this \
         segment; `bugler doctor` checks this host's side",
    )
}

fn agent_unregistered(view: &View<'_>) -> Judgement {
    let text = "its agent spoke and has not registered";
    if view.silence_ms() < LOADER_MS {
        return underway(text);
    }
    stopped(
        text,
        Finding::new(
            "agent-refused",
            "the agent reached the server and was refused, or the connection ended: most often its \
             boot token is from an earlier boot",
            "look at the machine's console for what the agent says, then boot it again; a clock \
             or a state directory that was put back on the server has this effect too",
        ),
    )
}

fn after_initramfs(view: &View<'_>, at: Timestamp, fetch: &Fetch) -> Judgement {
    let ended = fetch.ended(at);
    let silence = view.until.millis_since(ended);
    let asked = view.questions.iter().any(|question| {
        question.at >= ended && !question.who.boots() && question.message != Asking::Release
    });
    // Another system's kernel has no agent to speak. The server's own timeline may have lost the path,
    // and keeps files of profiles in a folder of their own.
    let ours =
        fetch.path.contains("bootenv/") || !saw_the_wire(view) && !fetch.path.contains("files/");
    if asked && !ours {
        return fine(
            "kernel and initramfs were fetched, and the system asks for an address: it runs",
        );
    }
    let text = format!(
        "kernel and initramfs were fetched, and {} has not been heard for {}",
        if ours { "its agent" } else { "its system" },
        span(silence)
    );
    if silence < KERNEL_MS {
        return underway(format!("{text}: the kernel is starting"));
    }
    if !ours {
        return stopped(
            text,
            Finding::new(
                "system-silent",
                "what runs now is the system of the profile: it may be well and have nothing to say to \
                 this server, or it stopped while starting",
                "look at the machine's console; the kernel, the initramfs and the arguments are those \
                 of the profile (`bugler profile show NAME`)",
            ),
        );
    }
    if asked {
        return stopped(
            text,
            Finding::new(
                "agent-address",
                "the kernel runs and its network card works, for it asks for an address; it got \
                 none, or cannot reach the server with it",
                "look for an OFFER and an ACK to its last DISCOVER above; where there are, let the \
                 firewall of the server take connections to the device port (`bugler doctor`), and \
                 see that the address is in the server's network or has a route to it",
            ),
        );
    }
    stopped(
        text,
        Finding::new(
            "agent-silent",
            "the kernel has no driver or no firmware file for this network card, or it stopped \
             while starting",
            "look at the machine's console. A missing driver: build a boot environment with \
             `bugler bootenv build --module NAME`, and with `--firmware /lib/firmware` for cards \
             that load files. A black screen after \"Loading\": add `nomodeset` or another console \
             to `[boot] cmdline`",
        ),
    )
}

fn after_kernel(view: &View<'_>, at: Timestamp, fetch: &Fetch) -> Judgement {
    let ended = fetch.ended(at);
    let text = format!(
        "the kernel was fetched ({}), and no initramfs was asked for",
        fetch.path
    );
    if view.until.millis_since(ended) < LOADER_MS {
        return underway(text);
    }
    if view.questions.iter().any(|question| {
        question.at >= ended && !question.who.boots() && question.message != Asking::Release
    }) {
        return fine("the kernel was fetched and asks for an address: it runs");
    }
    stopped(
        text,
        Finding::new(
            "kernel-not-started",
            "the loader could not use the kernel: it is for another architecture, the machine has \
             too little memory, or Secure Boot refuses it; or the script names no initramfs",
            "look at the machine's console for what the loader says; check the script's `initrd` \
             line; switch Secure Boot off, or boot the signed way (shim and GRUB)",
        ),
    )
}

fn after_script(view: &View<'_>, at: Timestamp, fetch: &Fetch) -> Judgement {
    let text = format!("its script was fetched ({}), and no kernel", fetch.path);
    if view.until.millis_since(fetch.ended(at)) < LOADER_MS {
        return underway(text);
    }
    if let Some(judgement) = blocked(view, at, &text) {
        return judgement;
    }
    stopped(
        text,
        Finding::new(
            "script-no-kernel",
            "the script does something else than fetch a kernel (it waits in a menu, goes to the \
             disk, or stops at an error), or the loader cannot reach the kernel's URL",
            "look at the machine's console; fetch the script yourself and try its URLs with curl \
             from the machine's network",
        ),
    )
}

fn after_loader(view: &View<'_>, at: Timestamp, fetch: &Fetch) -> Judgement {
    let ended = fetch.ended(at);
    let later = view
        .questions
        .iter()
        .any(|question| question.at >= at && question.who.is_ipxe());
    let text = format!("the boot loader {} was fetched", fetch.path);
    if let Some(judgement) = blocked(view, ended, &text) {
        return judgement;
    }
    if later {
        // The loader runs and asks for itself: its own exchange is what counts.
        let (verdict, stopped, cause) = dhcp::judge_loader(view, at);
        return (verdict, format!("{text} and runs; {stopped}"), cause);
    }
    let text = format!("{text}, and nothing followed");
    if view.until.millis_since(ended) < LOADER_MS {
        return underway(text);
    }
    stopped(text, loader_silent(view, &fetch.path))
}

fn loader_silent(view: &View<'_>, path: &str) -> Finding {
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
    let uefi = view
        .firmware()
        .and_then(|who| who.firmware)
        .is_some_and(|firmware| firmware.is_uefi());
    let (cause, next) = match name {
        "snponly.efi" => (
            "the loader did not start, or cannot use the firmware's network driver: snponly.efi \
             depends on that driver, and some firmware's does not work once the firmware has \
             handed it over",
            "boot it with ipxe.efi, which has drivers of its own. If the screen says \"Security \
             Violation\" or \"Access Denied\", Secure Boot is on: switch it off, or boot the signed \
             way (shim and GRUB)",
        ),
        "ipxe.efi" => (
            "the loader did not start, or has no driver for this network card",
            "boot it with snponly.efi, which uses the firmware's own driver. If the screen says \
             \"Security Violation\" or \"Access Denied\", Secure Boot is on: switch it off, or boot \
             the signed way",
        ),
        _ if name.contains("undionly") => (
            "the loader did not start, or the ROM's UNDI driver does not work once it has been \
             handed over",
            "boot it with ipxe.pxe, which has drivers of its own, or with PXELINUX; a newer ROM of \
             the network card helps as well",
        ),
        _ if name.contains("shim") || name.contains("grub") => (
            "shim or GRUB started and could not go on: the next file (grubx64.efi, grub.cfg) is \
             looked for beside the first one",
            "see which files it asked for above; put grubx64.efi beside shim, and grub.cfg under \
             grub/",
        ),
        _ if uefi => (
            "the loader did not start: it is for another architecture, not signed although Secure \
             Boot is on, or its own network driver does not work",
            "look at the machine's screen; try snponly.efi in the place of ipxe.efi or the other \
             way round; switch Secure Boot off for a try",
        ),
        _ => (
            "the loader did not start, or does not know what to do next",
            "look at the machine's screen for what it says",
        ),
    };
    Finding::new("loader-silent", cause, next)
}

/// A file that did not arrive.
fn broken(view: &View<'_>, at: Timestamp, fetch: &Fetch) -> Judgement {
    let what = fetch.role.words();
    let ended = fetch.ended(at);
    let silence = view.until.millis_since(ended);
    let path = &fetch.path;
    // The server tells of a transfer once it is over.
    let patience = if saw_the_wire(view) { 10_000 } else { 120_000 };
    match &fetch.end {
        End::Missing(said) => stopped(
            format!("{what} {path} is not on the server"),
            Finding::new(
                "file-missing",
                format!("the server has no {path} ({said})"),
                "compare the name with what the server has, upper and lower case and folders \
                 included; where another DHCP server names this file, correct its boot file name",
            ),
        ),
        End::Unanswered if silence < 5_000 && fetch.resent == 0 => {
            underway(format!("{what} {path} is asked for"))
        }
        End::Unanswered => stopped(
            format!("{what} {path} was asked for, and nobody answered"),
            unanswered(fetch),
        ),
        End::Refused(said) => stopped(
            format!("{what} {path} was not given: {said}"),
            Finding::new(
                "file-refused",
                format!("the server could not give {path}: {said}"),
                "look at the server's log for that moment",
            ),
        ),
        End::Aborted(said) => ended_early(view, fetch, said),
        End::Open | End::Whole if silence < patience => {
            underway(format!("{what} {path} is being fetched"))
        }
        End::Open | End::Whole if !saw_the_wire(view) && fetch.bytes == 0 => stopped(
            format!("the transfer of {what} began, and how it ended is not known"),
            stalled(fetch),
        ),
        End::Open | End::Whole => stopped(
            format!(
                "the transfer of {what} {path} stopped after {}",
                bugler_model::text::bytes(fetch.bytes)
            ),
            stalled(fetch),
        ),
    }
}

/// A transfer that somebody ended in the middle, with what can be told of who and why.
fn ended_early(view: &View<'_>, fetch: &Fetch, said: &str) -> Judgement {
    let what = format!("{} {}", fetch.role.words(), fetch.path);
    let got = bugler_model::text::bytes(fetch.bytes);
    // The server of a stream learns that it ended, and not by whom.
    if fetch.by == Protocol::Http && !saw_the_wire(view) {
        return stopped(
            format!("the connection that carried {what} ended after {got}"),
            Finding::new(
                "connection-ended",
                "the machine was switched off or reset in the middle, its loader gave up, or something \
                 on the way ended the connection: a server cannot tell these apart",
                "look at the machine's console. Where it happens again, record it with `bugler \
                 capture-packets`: `bugler explain --pcap` tells who ended the connection. Loaders need \
                 room for kernel and initramfs together",
            ),
        );
    }
    let words = said.to_ascii_lowercase();
    let room = ["memory", "space", "full", "large", "alloc"];
    if room.iter().any(|word| words.contains(word)) {
        return stopped(
            format!("the client ended the transfer of {what} after {got}: it has no room ({said})"),
            Finding::new(
                "client-no-room",
                "the file does not fit into what the firmware or the loader has of the machine's memory",
                "serve a smaller file, give the machine more memory, or use another loader: a ROM loads \
                 into little memory, iPXE and GRUB into almost all",
            ),
        );
    }
    let text = format!("the client ended the transfer of {what} after {got} ({said})");
    if fetch.by == Protocol::Http {
        return stopped(
            text,
            Finding::new(
                "client-hung-up",
                "its loader ended the connection itself, so the machine ran and the network was well: it \
                 had no room for the file, took it for the wrong kind, or somebody stopped it at the \
                 console",
                "look at the machine's console for what the loader says. Loaders need room for kernel \
                 and initramfs together, and BIOS ones cannot use memory above 4 GB",
            ),
        );
    }
    stopped(
        text,
        Finding::new(
            "client-aborted",
            "the client did not want it: the file is too large for its memory, not of the kind that it \
             expects, or it gave up waiting",
            "check that the file is for this firmware (an .efi for UEFI, a .kpxe for BIOS) and how large \
             it is; try a smaller TFTP block size where it ended in the middle",
        ),
    )
}

fn unanswered(fetch: &Fetch) -> Finding {
    match fetch.by {
        Protocol::Tftp => Finding::new(
            "tftp-unanswered",
            format!(
                "the request to UDP port 69{} was lost, or its answer was: a firewall, or no TFTP \
                 server there",
                fetch
                    .server
                    .map(|server| format!(" of {server}"))
                    .unwrap_or_default()
            ),
            "see that the server listens (`bugler doctor`), and that firewalls on the way let UDP \
             port 69 through, and answers, which come from another port. Through NAT use the \
             single-port mode of the TFTP server",
        ),
        Protocol::Http => Finding::new(
            "http-unanswered",
            "the server took the connection and gave no answer",
            "look at the server's log for that moment; a proxy or a firewall that inspects HTTP \
             has this effect too",
        ),
    }
}

fn stalled(fetch: &Fetch) -> Finding {
    // 20 bytes of IP, 8 of UDP, 4 of TFTP within 1500.
    let large = fetch.block.is_some_and(|block| block > 1468);
    if fetch.by == Protocol::Tftp && (fetch.fragmented || large) {
        let block = fetch.block.unwrap_or_default();
        return Finding::new(
            "tftp-fragments",
            format!(
                "blocks of {block} bytes do not fit into packets of 1500 bytes and travel in \
                 fragments, which a switch, a firewall or the ROM drops"
            ),
            "use a smaller block size (1428 fits everywhere), and the same MTU on the whole segment",
        );
    }
    if fetch.bytes == 0 {
        return Finding::new(
            "transfer-no-data",
            "the server answered and no data arrived: answers come from another port, which a \
             firewall or NAT on the way does not let back",
            "let the firewall track TFTP (nf_conntrack_tftp) or use the single-port mode of the \
             TFTP server",
        );
    }
    match fetch.by {
        Protocol::Tftp => Finding::new(
            "tftp-stalled",
            format!(
                "packets are lost on the way ({} blocks were sent again): a firewall that forgets \
                 the connection, a bad cable or port, or an MTU below 1500 on the way",
                fetch.resent
            ),
            "look at the switch port's error counters; try a block size of 512 or 1024; ping the \
             machine's address with `ping -M do -s 1472` from the server",
        ),
        Protocol::Http => Finding::new(
            "http-stalled",
            format!(
                "the stream stopped ({} segments were sent again): packets of full size are lost on \
                 the way, or the loader hung",
                fetch.resent
            ),
            "try `ping -M do -s 1472` from the server to the machine: where it fails, the MTU on \
             the way is below 1500. Where it works, try another loader (ipxe.efi for snponly.efi)",
        ),
    }
}

/// Whether nothing more can be expected of firmware that was answered at this moment.
pub(super) fn is_silent(view: &View<'_>, since: Timestamp) -> bool {
    view.until.millis_since(since) >= FIRMWARE_MS
}

/// How `view` was watched, for sentences about what is not there.
pub(super) fn saw_the_wire(view: &View<'_>) -> bool {
    view.source == Source::Recording
}
