//! What a device would boot now, in words: a part of `bugler explain`.

use super::profile;
use bugler_model::{EfiStart, OfferShape, Quirks};
use bugler_protocol::operator::{PlanAction, PlanGoal, PlanView};

/// The plan, a line each.
pub(super) fn lines(plan: &PlanView) -> Vec<String> {
    let what = match (plan.goal, &plan.profile, &plan.boots) {
        (PlanGoal::None, _, _) => "nothing".to_owned(),
        (PlanGoal::Local, _, _) => "its local disk".to_owned(),
        (PlanGoal::Agent, _, _) => "the agent".to_owned(),
        (PlanGoal::Profile, Some(name), Some(boots)) => {
            format!("the profile {name}: {}", profile::words(boots))
        }
        (PlanGoal::Profile, ..) => "what its profile says".to_owned(),
    };
    let mut lines = vec![
        format!("Now it would boot {what}."),
        format!("Why: {}.", plan.why),
    ];
    let asked = match (plan.firmware, plan.mac) {
        (Some(firmware), Some(mac)) => format!("{firmware} on {mac}"),
        _ => "It".into(),
    };
    match &plan.action {
        PlanAction::Tftp { .. } | PlanAction::Http { .. } if plan.shape != OfferShape::Standard => {
            lines.push(format!(
                "{asked} is given {}, with the {}.",
                plan.answer, plan.shape
            ));
        }
        _ => lines.push(format!("{asked} is given {}.", plan.answer)),
    }
    if let Some(quirks) = quirks(plan.quirks) {
        lines.push(format!("Learned of its firmware: {quirks}."));
    }
    if plan.unanswered > 0 {
        lines.push(format!(
            "Its firmware has asked {} times without taking what it was offered.",
            plan.unanswered
        ));
    }
    if plan.tries > 1 {
        lines.push(format!(
            "It began {} boots since one had an outcome; a boot that was asked for once is given up \
             after {}.",
            plan.tries, plan.most_tries
        ));
    }
    for rule in &plan.rules {
        let met = rule.unmet.as_deref().unwrap_or("it meets every condition");
        lines.push(format!("Rule {} ({}): {met}.", rule.number, rule.profile));
    }
    if !plan.heard {
        lines.push(
            "It has not asked since the server started, so this is what the registry knows of it."
                .into(),
        );
    }
    lines
}

/// What was learned of a firmware, where that is something.
pub(super) fn quirks(quirks: Quirks) -> Option<String> {
    let mut parts = Vec::new();
    if quirks.efi != EfiStart::default() {
        parts.push(format!("it starts {}", quirks.efi));
    }
    if quirks.offer != OfferShape::default() {
        parts.push(format!("it takes the {}", quirks.offer));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::{Firmware, Netboot, Profile};
    use bugler_protocol::operator::RuleVerdict;

    fn plan() -> PlanView {
        let action = PlanAction::Tftp {
            path: "ipxe.efi".into(),
        };
        PlanView {
            device: bugler_model::DeviceId(7),
            mac: Some("52:54:00:12:34:56".parse().unwrap()),
            firmware: Some(Firmware::UefiPxe),
            heard: false,
            from: None,
            goal: PlanGoal::Agent,
            profile: Some("agent".parse().unwrap()),
            boots: Some(Profile::agent().boots),
            why: "it has no profile and meets no rule: its agent waits".into(),
            answer: action.to_string(),
            action,
            shape: OfferShape::BootServer,
            unanswered: 4,
            rules: vec![RuleVerdict {
                number: 1,
                profile: "thin".parse().unwrap(),
                unmet: Some("it does not have the tag thin".into()),
            }],
            netboot: Netboot::On,
            secure_boot: false,
            quirks: Quirks {
                efi: EfiStart::OwnDriver,
                offer: OfferShape::BootServer,
            },
            tries: 3,
            most_tries: 8,
        }
    }

    #[test]
    fn a_plan_is_told_in_words() {
        assert_eq!(
            lines(&plan()),
            [
                "Now it would boot the agent.",
                "Why: it has no profile and meets no rule: its agent waits.",
                "UEFI PXE on 52:54:00:12:34:56 is given ipxe.efi by TFTP, with the boot file from \
                 port 4011.",
                "Learned of its firmware: it starts ipxe.efi, it takes the boot file from port 4011.",
                "Its firmware has asked 4 times without taking what it was offered.",
                "It began 3 boots since one had an outcome; a boot that was asked for once is given \
                 up after 8.",
                "Rule 1 (thin): it does not have the tag thin.",
                "It has not asked since the server started, so this is what the registry knows of it.",
            ]
        );
        assert_eq!(quirks(Quirks::default()), None);
    }
}
