//! What is worth knowing beside the cause: a loop, a slow switch port, two servers, a bad cable.

use super::Finding;
use super::story::{self, span};
use super::view::View;
use crate::timeline::{Asking, Step, What};
use bugler_dhcp::PXE_PORT;

/// What stands beside the cause.
pub(super) fn also(view: &View<'_>, boots: &[&[Step]]) -> Vec<Finding> {
    let mut found = vec![];
    found.extend(looping(boots));
    found.extend(spanning_tree(view));
    found.extend(two_servers(view));
    found.extend(unknown_architecture(view));
    found.extend(lossy(view));
    found
}

/// Many boots without an outcome.
fn looping(boots: &[&[Step]]) -> Option<Finding> {
    const MANY: usize = 4;
    const WITHIN_MS: i64 = 30 * 60_000;
    let ended = |boot: &&[Step]| {
        boot.iter()
            .any(|step| matches!(step.what, What::Registered | What::Local | What::Started))
    };
    let failed = boots.iter().rev().take_while(|boot| !ended(boot)).count();
    let from = boots.len().checked_sub(failed.max(1))?;
    let first = boots.get(from)?.first()?.at;
    let last = boots.last()?.first()?.at;
    let took = last.millis_since(first);
    (failed >= MANY && took < WITHIN_MS.saturating_mul(failed as i64)).then(|| {
        Finding::new(
            "boot-loop",
            format!(
                "it has begun {failed} times in {} without getting there",
                span(took)
            ),
            "it will go on so by itself: set its network boot to off, or cut its power, while you \
             look for the cause",
        )
    })
}

/// The first question of all came late: the switch did not let earlier ones through.
fn spanning_tree(view: &View<'_>) -> Option<Finding> {
    let first = view
        .questions
        .iter()
        .find(|question| question.who.boots() && question.message == Asking::Discover)?;
    (first.secs > 20).then(|| {
        Finding::new(
            "spanning-tree",
            format!(
                "its first question that was heard says that it has been asking for {} s: earlier \
                 ones did not get through, most likely because its switch port was still learning \
                 (spanning tree, 30 s)",
                first.secs
            ),
            "make it an edge port (portfast) on the switch; firmware that gives up sooner does not \
             boot at all behind such a port",
        )
    })
}

fn two_servers(view: &View<'_>) -> Option<Finding> {
    let mut servers: Vec<_> = view
        .replies
        .iter()
        .filter(|reply| reply.address.is_some())
        .map(|reply| reply.server)
        .collect();
    servers.sort_unstable();
    servers.dedup();
    if servers.len() < 2 {
        return None;
    }
    let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let won = view
        .questions
        .iter()
        .rev()
        .find_map(|question| question.server.filter(|_| question.port != PXE_PORT))
        .map_or("it took none".to_owned(), |server| {
            format!("it took that of {server}")
        });
    Some(Finding::new(
        "two-servers",
        format!(
            "{} servers offer addresses: {}; {won}",
            names.len(),
            names.join(", ")
        ),
        "let one of them give addresses: set Bugler's interface to `dhcp = \"proxy\"`, or switch \
         the other server off",
    ))
}

fn unknown_architecture(view: &View<'_>) -> Option<Finding> {
    let who = view
        .questions
        .iter()
        .map(|question| question.who)
        .find(|who| who.boots() && who.arch.is_none() && !who.archs.is_empty())?;
    let numbers: Vec<String> = who.archs.iter().map(u16::to_string).collect();
    Some(Finding::new(
        "unknown-architecture",
        format!(
            "{} says that its architecture is {}, which has no loader here",
            story::firmware(who.firmware),
            numbers.join(" and ")
        ),
        "choose another boot mode in its firmware (UEFI in the place of BIOS, PXE in the place of \
         HTTP), or boot it from its disk",
    ))
}

fn lossy(view: &View<'_>) -> Option<Finding> {
    const MANY: u64 = 20;
    let (_, worst) = view
        .fetches
        .iter()
        .filter(|(_, fetch)| fetch.is_whole())
        .max_by_key(|(_, fetch)| fetch.resent)?;
    let blocks = worst.bytes / u64::from(worst.block.unwrap_or(1448)).max(1);
    (u64::from(worst.resent) > MANY && u64::from(worst.resent) * 50 > blocks).then(|| {
        Finding::new(
            "lossy",
            format!(
                "{} arrived, but {} of about {blocks} packets had to be sent again",
                worst.path, worst.resent
            ),
            "look at the error counters of the switch port and at the cable",
        )
    })
}
