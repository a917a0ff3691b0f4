//! A timeline cut into boots, and one boot put in order.

use crate::timeline::{Answer, Asking, Boot, End, Fetch, Role, Source, Step, Timeline, What, Who};
use bugler_model::Timestamp;
use std::net::Ipv4Addr;

/// Firmware that is silent for so long and asks again has begun anew. Its pauses between questions
/// are 32 s at most (PXE 2.1 section 2.2.6; EDK2 does the same).
const PAUSE_MS: i64 = 90_000;

/// Cuts a timeline where a boot begins.
///
/// Firmware that asks for an address although it has fetched something has started over; iPXE that
/// asks is the next step of the same boot, unless it has fetched a kernel.
pub(super) fn boots(steps: &[Step]) -> Vec<&[Step]> {
    let mut cuts = vec![];
    let mut fetched = false;
    let mut kernel = false;
    let mut last: Option<Timestamp> = None;
    for (index, step) in steps.iter().enumerate() {
        let anew = match &step.what {
            What::Began { .. } => true,
            What::Asked {
                message: Asking::Discover,
                who,
                ..
            } if who.boots() => {
                let paused = last.is_some_and(|last| step.at.millis_since(last) > PAUSE_MS);
                paused || kernel || (fetched && !who.is_ipxe())
            }
            _ => false,
        };
        if anew && index > 0 {
            cuts.push(index);
        }
        if anew {
            (fetched, kernel) = (false, false);
        }
        match &step.what {
            What::Fetched(fetch) => {
                fetched |= fetch.bytes > 0;
                kernel |= fetch.role >= Role::Kernel;
            }
            // Whatever ran is over when firmware asks again.
            What::Agent | What::Registered | What::Local | What::Started => kernel = true,
            _ => {}
        }
        last = Some(step.at);
    }
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([steps.len()]);
    starts
        .zip(ends)
        .filter_map(|(start, end)| steps.get(start..end))
        .filter(|boot| !boot.is_empty())
        .collect()
}

/// A DHCP answer.
pub(super) struct Reply<'a> {
    pub(super) at: Timestamp,
    pub(super) message: Answer,
    pub(super) server: Ipv4Addr,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) boot: Option<&'a Boot>,
    pub(super) class: Option<&'a str>,
    pub(super) text: Option<&'a str>,
}

/// A DHCP question.
pub(super) struct Question<'a> {
    pub(super) at: Timestamp,
    pub(super) message: Asking,
    pub(super) who: &'a Who,
    pub(super) secs: u16,
    pub(super) port: u16,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) address: Option<Ipv4Addr>,
}

/// One boot.
pub(super) struct View<'a> {
    pub(super) source: Source,
    pub(super) steps: &'a [Step],
    pub(super) until: Timestamp,
    pub(super) questions: Vec<Question<'a>>,
    pub(super) replies: Vec<Reply<'a>>,
    pub(super) fetches: Vec<(Timestamp, &'a Fetch)>,
    /// Ports that could not be reached: when, which, how that showed.
    pub(super) blocked: Vec<(Timestamp, u16, &'a str)>,
    /// The last decision of this server: what, and why.
    pub(super) decided: Option<(Timestamp, Option<&'a str>, &'a str)>,
    pub(super) agent: bool,
    pub(super) registered: bool,
    pub(super) local: bool,
    pub(super) started: bool,
}

impl<'a> View<'a> {
    pub(super) fn new(timeline: &Timeline, steps: &'a [Step]) -> Self {
        let mut view = Self {
            source: timeline.source,
            steps,
            until: timeline.until,
            questions: vec![],
            replies: vec![],
            fetches: vec![],
            blocked: vec![],
            decided: None,
            agent: false,
            registered: false,
            local: false,
            started: false,
        };
        for Step { at, what } in steps {
            match what {
                What::Asked {
                    message,
                    who,
                    secs,
                    port,
                    server,
                    address,
                } => view.questions.push(Question {
                    at: *at,
                    message: *message,
                    who,
                    secs: *secs,
                    port: *port,
                    server: *server,
                    address: *address,
                }),
                What::Answered {
                    message,
                    server,
                    address,
                    boot,
                    class,
                    text,
                } => view.replies.push(Reply {
                    at: *at,
                    message: *message,
                    server: *server,
                    address: *address,
                    boot: boot.as_ref(),
                    class: class.as_deref(),
                    text: text.as_deref(),
                }),
                What::Decided { boot, why } => view.decided = Some((*at, boot.as_deref(), why)),
                What::Fetched(fetch) => view.fetches.push((*at, fetch)),
                What::Agent => view.agent = true,
                What::Registered => view.registered = true,
                What::Local => view.local = true,
                What::Started => view.started = true,
                What::Blocked { port, said, .. } => view.blocked.push((*at, *port, said)),
                What::Note { .. } | What::Began { .. } => {}
            }
        }
        view
    }

    /// The last transfer of a file of this kind that matters: one that came, else the last try.
    pub(super) fn last(&self, role: Role) -> Option<(Timestamp, &'a Fetch)> {
        let mut of_role = self.fetches.iter().filter(|(_, fetch)| fetch.role == role);
        of_role
            .clone()
            .rfind(|(_, fetch)| fetch.is_whole())
            .or_else(|| of_role.rfind(|(_, fetch)| !is_size_probe(fetch)))
            .copied()
    }

    /// The firmware that began it.
    pub(super) fn firmware(&self) -> Option<&'a Who> {
        self.questions
            .iter()
            .map(|question| question.who)
            .find(|who| who.boots())
    }

    /// Milliseconds of silence before the end.
    pub(super) fn silence_ms(&self) -> i64 {
        let last = self.steps.iter().map(|step| match &step.what {
            What::Fetched(fetch) => fetch.ended(step.at),
            _ => step.at,
        });
        last.max().map_or(0, |last| self.until.millis_since(last))
    }
}

/// Boot ROMs begin a transfer to learn the size of a file, and end it.
fn is_size_probe(fetch: &Fetch) -> bool {
    matches!(fetch.end, End::Aborted(_)) && fetch.bytes <= u64::from(fetch.block.unwrap_or(1500))
}
