//! What a device would boot if it asked now: the decision that the next packet would get.

use crate::boot::BootService;
use bugler_boot::{BootAction, ClientFacts, Goal, MOST_TRIES};
use bugler_model::{Device, MacAddr};
use bugler_protocol::operator::{PlanAction, PlanGoal, PlanView, RuleVerdict};

impl BootService {
    /// What a device would boot if it asked now, and why.
    ///
    /// It is taken to ask as in its latest boot: from the same interface and address, with the
    /// firmware that asked first.
    pub(crate) fn explain(&self, device: &Device) -> PlanView {
        let heard = device.macs.iter().find_map(|mac| self.clients.facts(*mac));
        let known = heard.is_some();
        let facts = as_switched_on(heard, device);
        let from = device.address;
        let plan = self.decide(&facts, Some(device), from);
        let rules = self.weigh(&facts, Some(device), from);
        let why = match facts.firmware {
            Some(_) => plan.why,
            None => {
                "its firmware has not asked to boot yet, so what it takes is not known: switch it \
                     on with network boot first in its boot order"
                    .into()
            }
        };
        let action = match plan.action {
            BootAction::Silent => PlanAction::Silent,
            BootAction::Tftp(path) => PlanAction::Tftp { path },
            BootAction::Http(path) => PlanAction::Http { path },
            BootAction::RaspberryPi => PlanAction::RaspberryPi,
        };
        let policy = self.store.boot_policy();
        PlanView {
            device: device.id,
            mac: device.macs.first().map(|_| facts.mac),
            firmware: facts.firmware,
            heard: known,
            from,
            goal: match plan.goal {
                Goal::None => PlanGoal::None,
                Goal::Local => PlanGoal::Local,
                Goal::Agent => PlanGoal::Agent,
                Goal::Profile => PlanGoal::Profile,
            },
            boots: plan
                .profile
                .as_ref()
                .and_then(|name| policy.profile(name))
                .map(|profile| profile.boots),
            profile: plan.profile,
            why,
            answer: action.to_string(),
            action,
            shape: plan.shape,
            unanswered: self.clients.unanswered(facts.mac),
            rules: rules
                .into_iter()
                .map(|verdict| RuleVerdict {
                    number: verdict.number,
                    profile: verdict.profile,
                    unmet: verdict.unmet,
                })
                .collect(),
            netboot: device.netboot,
            secure_boot: device.secure_boot,
            quirks: device.quirks,
            tries: device.tries,
            most_tries: MOST_TRIES,
        }
    }
}

/// The facts of its first request. What was heard last may be from its loader, which asks again; a
/// loader in ROM is the firmware itself.
fn as_switched_on(heard: Option<ClientFacts>, device: &Device) -> ClientFacts {
    let mac = device.macs.first().copied().unwrap_or(MacAddr([0; 6]));
    let mut facts = heard.unwrap_or_else(|| ClientFacts {
        firmware: device.firmware,
        uuid: device.uuid,
        ..ClientFacts::of_script_request(mac, bugler_model::Firmware::BiosPxe, device.arch)
    });
    if device.firmware.is_some() {
        facts.firmware = device.firmware;
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Site;
    use bugler_model::{
        Arch, Conditions, DevicePatch, Firmware, Netboot, OfferShape, Quirks, Rule, Timestamp,
    };
    use bugler_store::Sighting;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    impl Site {
        async fn seen(&self, firmware: Option<Firmware>, arch: Option<Arch>) -> Arc<Device> {
            let sighting = Sighting {
                mac: MAC,
                uuid: None,
                arch,
                firmware,
            };
            self.boot.store.observe(sighting, NOW).await.unwrap().device
        }

        async fn patched(&self, device: &Device, patch: DevicePatch) -> Arc<Device> {
            let store = &self.boot.store;
            store.patch_device(device.id, patch, NOW).await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_device_of_which_nothing_was_heard_is_answered_from_the_registry() {
        let site = Site::new();
        let device = site.seen(Some(Firmware::UefiPxe), Some(Arch::X86_64)).await;
        let plan = site.boot.explain(&device);
        assert_eq!((plan.goal, plan.heard), (PlanGoal::Agent, false));
        assert_eq!(plan.answer, "snponly.efi by TFTP");
        assert_eq!((plan.mac, plan.most_tries), (Some(MAC), MOST_TRIES));
        // What was learned of its firmware counts, as it does for a packet.
        let quirks = Quirks {
            efi: bugler_model::EfiStart::OwnDriver,
            offer: OfferShape::Direct,
        };
        let store = &site.boot.store;
        store
            .learn_quirks(device.id, quirks, "nothing followed".into(), NOW)
            .await
            .unwrap();
        let plan = site.boot.explain(&store.device(device.id).await.unwrap());
        assert_eq!(plan.answer, "ipxe.efi by TFTP");
        assert_eq!((plan.shape, plan.quirks), (OfferShape::Direct, quirks));
    }

    #[tokio::test]
    async fn the_first_program_that_asks_is_meant_and_not_its_loader() {
        let site = Site::new();
        let device = site.seen(Some(Firmware::BiosPxe), Some(Arch::X86)).await;
        for (firmware, message) in [
            (Firmware::BiosPxe, "DISCOVER"),
            (Firmware::BiosPxe, "DISCOVER"),
            (Firmware::IpxeBios, "DISCOVER"),
        ] {
            let facts = ClientFacts::of_script_request(MAC, firmware, Some(Arch::X86));
            site.boot
                .clients
                .learn(&facts, OfferShape::Standard, message, NOW);
        }
        let plan = site.boot.explain(&device);
        assert!(plan.heard);
        assert_eq!(plan.firmware, Some(Firmware::BiosPxe));
        assert_eq!(
            (plan.answer.as_str(), plan.unanswered),
            ("undionly.kpxe by TFTP", 2)
        );
    }

    #[tokio::test]
    async fn rules_are_weighed_with_the_address_and_the_tags_of_the_device() {
        let site = Site::new();
        let device = site.seen(Some(Firmware::BiosPxe), Some(Arch::X86)).await;
        let rule = |when| Rule {
            when,
            profile: "local".parse().unwrap(),
        };
        let rules = vec![
            rule(Conditions {
                tag: Some("rack-7".into()),
                ..Conditions::default()
            }),
            rule(Conditions {
                subnet: Some("10.1.0.0/16".parse().unwrap()),
                ..Conditions::default()
            }),
        ];
        site.boot.store.set_rules(rules, NOW).await.unwrap();
        let plan = site.boot.explain(&device);
        let unmet: Vec<Option<&str>> = plan
            .rules
            .iter()
            .map(|rule| rule.unmet.as_deref())
            .collect();
        assert_eq!(
            unmet,
            [
                Some("it does not have the tag rack-7"),
                Some("it does not ask from 10.1.0.0/16")
            ]
        );
        assert_eq!(plan.goal, PlanGoal::Agent);

        site.boot
            .store
            .touch(device.id, Some(Ipv4Addr::new(10, 1, 2, 3)), NOW);
        let device = site.boot.store.device(device.id).await.unwrap();
        let plan = site.boot.explain(&device);
        assert_eq!(
            (plan.goal, plan.why.as_str()),
            (PlanGoal::Local, "it meets rule 2")
        );
        assert_eq!(plan.action, PlanAction::Silent);
        // What waits for the device counts more than rules.
        let patch = DevicePatch {
            next: Some("agent".into()),
            netboot: Some(Netboot::Off),
            ..DevicePatch::default()
        };
        let plan = site.boot.explain(&*site.patched(&device, patch).await);
        assert_eq!(plan.goal, PlanGoal::Agent);
        assert!(plan.why.contains("this once"), "{}", plan.why);
    }

    #[tokio::test]
    async fn a_device_that_never_asked_to_boot_has_no_answer_yet() {
        let site = Site::new();
        let device = site.seen(None, None).await;
        let plan = site.boot.explain(&device);
        assert_eq!((plan.goal, plan.firmware), (PlanGoal::None, None));
        assert!(plan.why.contains("switch it on"), "{}", plan.why);
    }
}
