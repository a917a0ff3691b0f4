//! Which UUIDs tell one machine from another, and which device a client is.

use bugler_model::Device;
use uuid::Uuid;

/// Values that several boards were shipped with. Sources: the vendors' fillers as collected in
/// CapaSystems' list of non-unique UUIDs, and the DMTF SMBIOS specification (DSP0134, section
/// 7.2.1) for the two that mean "none".
const FILLERS: [Uuid; 6] = [
    Uuid::from_u128(0x03000200_0400_0500_0006_000700080009),
    Uuid::from_u128(0x07090201_0103_0301_0807_060504030201),
    Uuid::from_u128(0x12345678_1234_5678_90ab_cddeefaabbcc),
    Uuid::from_u128(0xdc698397_fa54_4cf2_82c8_b1b5307a6a7f),
    Uuid::from_u128(0x8e275844_178f_44a8_aceb_a7d7e5178c63),
    Uuid::from_u128(0x890e2d14_cacd_45d1_ae66_bc80e8bfeb0f),
];

/// The UUID, where it can be one machine's own: not a filler in either byte order of its first
/// three fields, not one byte repeated (all zero and all ones mean "none"), and not ones from the
/// second field on.
pub(super) fn identity(uuid: Option<Uuid>) -> Option<Uuid> {
    uuid.filter(|uuid| {
        let bytes = uuid.as_bytes();
        !FILLERS.contains(uuid)
            && !FILLERS.contains(&swapped(*uuid))
            && !bytes.windows(2).all(|pair| pair.first() == pair.last())
            && !bytes.iter().skip(4).all(|byte| *byte == 0xff)
    })
}

/// The UUID with its first three fields in the other byte order: firmware is known to send it so.
pub(super) fn swapped(uuid: Uuid) -> Uuid {
    Uuid::from_bytes(uuid.to_bytes_le())
}

/// Whether the two are one UUID, in whichever byte order.
pub(super) fn same(one: Uuid, other: Uuid) -> bool {
    one == other || one == swapped(other)
}

/// The UUID that the device's own agent last read from SMBIOS, where it can be an identity.
pub(super) fn agent_uuid(device: &Device) -> Option<Uuid> {
    identity(device.inventory.as_ref()?.uuid)
}

/// Which device a client is that told the UUID `told`: the one that has its MAC address, else the
/// one that has its UUID.
///
/// An interface can be borrowed, a board cannot: the MAC address does not count where the device
/// that has it is known by its agent to have another UUID. Where packets alone told of that other
/// UUID, it does not count against a device whose agent has read the client's.
pub(super) fn which<'a>(
    by_mac: Option<&'a Device>,
    by_uuid: Option<&'a Device>,
    told: Option<Uuid>,
) -> Option<&'a Device> {
    let by_mac = by_mac.filter(|device| {
        let Some(told) = told else {
            return true;
        };
        let proved = by_uuid
            .and_then(agent_uuid)
            .is_some_and(|own| same(own, told));
        let own = agent_uuid(device).or(device.uuid.filter(|_| proved));
        own.is_none_or(|own| same(own, told))
    });
    by_mac.or(by_uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fillers_are_no_identity() {
        for text in [
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "fefefefe-fefe-fefe-fefe-fefefefefefe",
            "58585858-5858-5858-5858-585858585858",
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
            "56f49712-ffff-ffff-ffff-ffffffffffff",
        ] {
            assert_eq!(identity(Some(text.parse().unwrap())), None, "{text}");
        }
    }

    #[test]
    fn a_machine_s_own_uuid_is_its_identity() {
        let uuid = "4c4c4544-0042-3510-8052-b4c04f333732".parse().unwrap();
        assert_eq!(identity(Some(uuid)), Some(uuid));
        assert_eq!(identity(None), None);
    }
}
