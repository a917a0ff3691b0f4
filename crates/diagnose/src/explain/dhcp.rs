//! Rules for a boot that has fetched nothing: everything is in the DHCP messages.

use super::rules::{Judgement, is_silent, saw_the_wire, stopped, underway};
use super::view::{Reply, View};
use super::{Finding, Verdict, story};
use crate::timeline::{Answer, Asking};
use bugler_dhcp::PXE_PORT;
use bugler_model::Timestamp;
use std::net::Ipv4Addr;

/// What of an exchange is looked at: from a moment on.
struct Exchange<'a, 'v> {
    view: &'v View<'a>,
    from: Timestamp,
    /// Whether it is the boot loader's, not the firmware's.
    loader: bool,
}

pub(super) fn judge(view: &View<'_>) -> Judgement {
    let from = view.steps.first().map_or(view.until, |step| step.at);
    let exchange = Exchange {
        view,
        from,
        loader: false,
    };
    exchange.judge()
}

/// The exchange of a boot loader that was fetched at `from`.
pub(super) fn judge_loader(view: &View<'_>, from: Timestamp) -> Judgement {
    let exchange = Exchange {
        view,
        from,
        loader: true,
    };
    exchange.judge()
}

impl<'a, 'v> Exchange<'a, 'v> {
    fn replies(&self, message: Answer) -> impl Iterator<Item = &'v Reply<'a>> + use<'a, 'v> {
        let from = self.from;
        self.view
            .replies
            .iter()
            .filter(move |reply| reply.at >= from && reply.message == message)
    }

    fn who_asks(&self) -> String {
        let asked = self
            .view
            .questions
            .iter()
            .find(|question| question.at >= self.from && question.who.boots());
        story::firmware(asked.and_then(|question| question.who.firmware))
    }

    /// When this exchange last moved.
    fn last(&self) -> Timestamp {
        let questions = self.view.questions.iter().map(|question| question.at);
        let replies = self.view.replies.iter().map(|reply| reply.at);
        let decided = self.view.decided.map(|(at, ..)| at);
        questions
            .chain(replies)
            .chain(decided)
            .max()
            .unwrap_or(self.from)
    }

    fn judge(&self) -> Judgement {
        let view = self.view;
        let boots = view
            .questions
            .iter()
            .any(|question| question.at >= self.from && question.who.boots());
        if view.questions.is_empty() && view.replies.is_empty() && view.decided.is_none() {
            return stopped(
                "a boot began, and nothing more is known of it",
                Finding::new(
                    "nothing-followed",
                    "the machine was switched off, or began anew by another way",
                    "let it boot once more, and record it with `bugler capture-packets DEVICE`",
                ),
            );
        }
        if !boots && view.decided.is_none() {
            return (
                Verdict::NotAsked,
                "it asked for an address and not for anything to boot".into(),
                Some(Finding::new(
                    "not-a-boot-request",
                    "an operating system runs on it, or its firmware does not boot from the network",
                    "put network boot first in its firmware's boot order, or choose it once in the \
                     boot menu, and restart it",
                )),
            );
        }
        if let Some(judgement) = self.declined().or_else(|| self.refused()) {
            return judgement;
        }
        if !saw_the_wire(view) && view.replies.is_empty() {
            return self.decided();
        }
        let mut offers = self.replies(Answer::Offer).peekable();
        if offers.peek().is_none() && self.replies(Answer::Ack).next().is_none() {
            return self.unanswered();
        }
        let boot_offers = || {
            self.replies(Answer::Offer)
                .chain(self.replies(Answer::Ack))
                .filter(|reply| reply.boot.is_some())
        };
        match boot_offers().next() {
            None => self.nothing_to_boot(),
            Some(offer) => self.not_taken(offer),
        }
    }

    /// DECLINE: somebody else has the address (RFC 2131 section 3.1).
    fn declined(&self) -> Option<Judgement> {
        let last = self.view.questions.iter().rfind(|q| q.at >= self.from)?;
        if last.message != Asking::Decline {
            return None;
        }
        let address = last
            .address
            .map_or("the address".into(), |address| address.to_string());
        Some(stopped(
            format!("it found {address} in use and gave it back"),
            Finding::new(
                "address-in-use",
                format!(
                    "another machine answers for {address}: it was set by hand there, or two \
                         DHCP servers give out the same addresses"
                ),
                "find it (`arping` shows its Ethernet address) and take the address out of the \
                 pool, or the machine off it",
            ),
        ))
    }

    fn refused(&self) -> Option<Judgement> {
        let nak = self.replies(Answer::Nak).last()?;
        let later = self
            .view
            .replies
            .iter()
            .any(|reply| reply.at >= nak.at && reply.message != Answer::Nak);
        if later {
            return None;
        }
        let said = nak
            .text
            .map(|text| format!(" ({text})"))
            .unwrap_or_default();
        Some(stopped(
            format!("{} refused the address that it asked for{said}", nak.server),
            Finding::new(
                "nak",
                format!(
                    "it asked for an address that {} does not have for it: one of another network, \
                     or of an earlier lease. It should ask anew by itself; where it does not, two \
                     servers claim to be in charge",
                    nak.server
                ),
                "restart the machine once; where that repeats, let only one server of this segment \
                 be authoritative",
            ),
        ))
    }

    /// What this server decided, where nobody saw the wire.
    fn decided(&self) -> Judgement {
        let Some((at, boot, why)) = self.view.decided else {
            return self.unanswered();
        };
        match boot {
            None => stopped(
                format!("it was given nothing to boot, because {why}"),
                Finding::new(
                    "told-nothing",
                    why,
                    "`bugler device netboot DEVICE on` lets it boot from the network; an \
                     architecture without a loader needs another boot mode in its firmware",
                ),
            ),
            Some(boot) => {
                let text = format!("it was told to boot {boot}, and fetched nothing");
                if !is_silent(self.view, at) {
                    return underway(text);
                }
                stopped(
                    text,
                    Finding::new(
                        "answer-ignored",
                        "the answer did not reach it, or its firmware does not take it: some takes \
                         no boot file from a proxy beside another DHCP server",
                        "record it (`bugler capture-packets DEVICE`) to see which. A firewall or a \
                         switch with DHCP snooping drops answers; where they arrive and are \
                         ignored, serve this interface with `dhcp = \"full\"`",
                    ),
                )
            }
        }
    }

    fn unanswered(&self) -> Judgement {
        let asked = self
            .view
            .questions
            .iter()
            .filter(|q| q.at >= self.from && q.message == Asking::Discover)
            .count();
        let who = self.who_asks();
        let text = format!("{who} asked {asked} times for an address, and nobody offered one");
        if !is_silent(self.view, self.from) {
            return underway(format!("{who} asks for an address"));
        }
        if self.loader {
            return stopped(
                text,
                Finding::new(
                    "loader-no-offer",
                    "the firmware got an address and its loader did not: the link went down and up \
                     when the loader took over, and the switch port is still learning (spanning \
                     tree), or the DHCP server limits how often one client may ask",
                    "make it an edge port (portfast) on the switch; or let the script try `dhcp` \
                     again",
                ),
            );
        }
        stopped(
            text,
            Finding::new(
                "no-offer",
                "no DHCP server hears it, or none may answer: there is none on its segment, a VLAN \
                 or a firewall is between, or every pool is used up",
                "run `bugler doctor` on the host that should answer. Is it on the same segment and \
                 VLAN, or is there a relay? In `proxy` mode somebody else must give addresses",
            ),
        )
    }

    fn nothing_to_boot(&self) -> Judgement {
        let mut servers: Vec<Ipv4Addr> = self
            .replies(Answer::Offer)
            .chain(self.replies(Answer::Ack))
            .map(|reply| reply.server)
            .collect();
        servers.sort_unstable();
        servers.dedup();
        let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let names = names.join(" and ");
        let text = format!("{names} offered an address and nothing to boot");
        if !is_silent(self.view, self.last()) {
            return underway(text);
        }
        stopped(
            text,
            Finding::new(
                "offer-without-boot",
                "the server that gives addresses does not know of network boot, and no boot server \
                 said a word: it is not on this segment, is off for this interface, or its device \
                 has network boot off",
                "serve this interface with `dhcp = \"proxy\"` beside that server, and see with \
                 `bugler explain DEVICE` what the device is meant to boot",
            ),
        )
    }

    /// Somebody offered a boot file, and it was not fetched.
    fn not_taken(&self, offer: &Reply<'a>) -> Judgement {
        let view = self.view;
        let file = offer
            .boot
            .map(|boot| boot.file.as_str())
            .unwrap_or_default();
        let questions = || view.questions.iter().filter(|q| q.at >= self.from);
        let chosen = questions()
            .filter(|q| q.message == Asking::Request && q.port != PXE_PORT)
            .find_map(|q| q.server);
        let requested = questions().any(|q| q.message == Asking::Request && q.port != PXE_PORT);
        let boot_server_asked = questions().rfind(|q| q.port == PXE_PORT);
        let last = self.last();
        if !is_silent(view, last) {
            return underway(format!(
                "{} offered {file:?}; nothing is fetched yet",
                offer.server
            ));
        }
        if let Some(asked) = boot_server_asked {
            let answered = view.replies.iter().any(|r| r.at >= asked.at);
            return if answered {
                stopped(
                    format!("the boot server on port 4011 answered, and {file:?} was not fetched"),
                    self.ignored(offer),
                )
            } else {
                stopped(
                    "it asked the boot server on port 4011, and got no answer",
                    Finding::new(
                        "boot-server-silent",
                        "nothing listens on UDP port 4011 there, or a firewall drops it",
                        "let UDP port 4011 through on the boot server; `bugler doctor` checks it",
                    ),
                )
            };
        }
        if !requested {
            let addresses = self
                .replies(Answer::Offer)
                .any(|reply| reply.address.is_some());
            if !addresses {
                return stopped(
                    format!(
                        "{} offered to boot {file}, and nobody offered an address",
                        offer.server
                    ),
                    Finding::new(
                        "no-address",
                        "only a proxy answered: the server that should give addresses is silent",
                        "start that server, or serve this interface with `dhcp = \"full\"` and a \
                         pool",
                    ),
                );
            }
            return stopped(
                "it was offered an address and a boot file, and took neither",
                self.ignored(offer),
            );
        }
        if let Some(chosen) = chosen
            && chosen != offer.server
            && offer.address.is_some()
        {
            return stopped(
                format!(
                    "it took the address of {chosen}, which offers nothing to boot, although {} \
                     offered {file}",
                    offer.server
                ),
                Finding::new(
                    "other-server-won",
                    format!(
                        "two servers offer addresses, and {chosen} was taken: firmware takes the \
                         first good offer, or the one of its last address"
                    ),
                    format!(
                        "let {chosen} alone give addresses and {} be a proxy (`dhcp = \"proxy\"`), \
                         or switch {chosen} off on this segment",
                        offer.server
                    ),
                ),
            );
        }
        let acknowledged = self.replies(Answer::Ack).next().is_some();
        if !acknowledged {
            return stopped(
                "it asked for the address that it was offered, and got no answer",
                Finding::new(
                    "no-ack",
                    "the server did not hear the REQUEST, or could not store the lease",
                    "look at the DHCP server's log for that moment: a full disk and a used-up pool \
                     have this effect",
                ),
            );
        }
        stopped(
            format!("it has an address and was told to boot {file:?}, and fetched nothing"),
            self.ignored(offer),
        )
    }

    /// Why an offer with a boot file may be passed over.
    fn ignored(&self, offer: &Reply<'a>) -> Finding {
        let http = self
            .view
            .firmware()
            .and_then(|who| who.firmware)
            .is_some_and(|firmware| firmware == bugler_model::Firmware::UefiHttp);
        let wanted = if http { "HTTPClient" } else { "PXEClient" };
        let class = offer.class.unwrap_or_default();
        if !self.loader && !class.starts_with(wanted) && (http || offer.address.is_none()) {
            return Finding::new(
                "wrong-class",
                format!(
                    "the offer of {} has the vendor class {class:?}: this firmware takes only \
                     offers of {wanted}",
                    offer.server
                ),
                format!("set option 60 of that server's answers to {wanted}"),
            );
        }
        let file = offer
            .boot
            .map(|boot| boot.file.as_str())
            .unwrap_or_default();
        if http && !file.starts_with("http://") && !file.starts_with("https://") {
            return Finding::new(
                "not-a-url",
                format!("UEFI HTTP boot wants a whole URL, and was given {file:?}"),
                "give it an absolute URL as its boot file",
            );
        }
        if offer.address.is_none() {
            return Finding::new(
                "proxy-ignored",
                "this firmware does not take a boot file from a proxy: some never merges two \
                 offers, and some calls port 4011 only for certain shapes of the offer",
                "serve this interface with `dhcp = \"full\"`, so that one offer holds address and \
                 boot file; or give the address server the boot file as well. With adaptive offers \
                 Bugler tries other shapes by itself: let the machine ask a few times more",
            );
        }
        Finding::new(
            "offer-ignored",
            "the offer does not reach it (a switch with DHCP snooping drops answers of servers that \
             it does not trust), or its firmware dislikes something in it",
            "mark the server's switch port as trusted for DHCP; let the machine ask again, and \
             compare with an offer that it takes",
        )
    }
}
