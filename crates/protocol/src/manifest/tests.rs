use super::*;
use proptest::prelude::*;

fn sample() -> Manifest {
    Manifest {
        disk_size: (3 << 20) + 512,
        sector_size: 512,
        chunks: vec![
            ChunkRef {
                index: 0,
                stored_len: 0x0102_0304,
                hash: ChunkHash([0x11; 32]),
            },
            ChunkRef {
                index: 3,
                stored_len: 30,
                hash: ChunkHash(std::array::from_fn(|i| u8::try_from(i).unwrap())),
            },
        ],
    }
}

/// The bytes of version 1, for good: what is stored and sent today must be readable tomorrow.
/// A change of format is a new version with a table of its own, not a change of this one.
#[test]
fn version_1_is_frozen() {
    let mut manifest = sample();
    manifest.chunks[0].stored_len = 0x000f_0304;
    let golden = concat!(
        "42474c4d",         // BGLM
        "0100",             // version
        "0000",             // flags
        "0002300000000000", // disk size
        "00020000",         // sector size
        "00001000",         // chunk size
        "02000000",         // entries
        "0000000004030f00",
        "1111111111111111111111111111111111111111111111111111111111111111",
        "030000001e000000",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    );
    assert_eq!(hex::encode(manifest.encode()), golden);
    let decoded = Manifest::decode(&hex::decode(golden).unwrap());
    assert_eq!(decoded, Ok(manifest));
}

#[test]
fn lengths_are_those_of_the_disk() {
    let manifest = sample();
    assert_eq!(manifest.chunk_len(0), CHUNK_SIZE);
    assert_eq!(manifest.chunk_len(2), CHUNK_SIZE);
    assert_eq!(manifest.chunk_len(3), 512);
    assert_eq!(manifest.chunk_len(4), 0);
    assert_eq!(manifest.chunk_len(u32::MAX), 0);
    assert_eq!(manifest.used_bytes(), u64::from(CHUNK_SIZE) + 512);
    assert_eq!(manifest.stored_bytes(), 0x0102_0304 + 30);
    let largest = Manifest {
        disk_size: MAX_DISK_SIZE,
        sector_size: 4096,
        chunks: Vec::new(),
    };
    assert_eq!(largest.check(), Ok(()));
    assert_eq!(largest.chunk_len(0), CHUNK_SIZE);
    assert_eq!(largest.chunk_len((1 << 26) - 1), CHUNK_SIZE);
    assert_eq!(largest.chunk_len(1 << 26), 0);
}

/// Breaks a good manifest in one way and gives what `decode` says to its bytes.
fn broken(change: impl FnOnce(&mut Manifest)) -> ManifestError {
    let mut manifest = sample();
    manifest.chunks[0].stored_len = 100;
    assert_eq!(manifest.check(), Ok(()));
    change(&mut manifest);
    Manifest::decode(&manifest.encode()).unwrap_err()
}

#[test]
fn every_rule_is_checked() {
    use ManifestError as E;
    assert_eq!(broken(|m| m.sector_size = 0), E::SectorSize(0));
    assert_eq!(broken(|m| m.sector_size = 768), E::SectorSize(768));
    assert_eq!(broken(|m| m.sector_size = 8192), E::SectorSize(8192));
    for size in [0, 513, MAX_DISK_SIZE + 512, u64::MAX] {
        assert!(matches!(
            broken(|m| m.disk_size = size),
            E::DiskSize { disk_size, .. } if disk_size == size
        ));
    }
    assert_eq!(broken(|m| m.chunks[1].index = 0), E::Order(0));
    assert_eq!(broken(|m| m.chunks.swap(0, 1)), E::Order(0));
    assert_eq!(broken(|m| m.chunks[1].index = 4), E::BeyondDisk(4));
    assert_eq!(
        broken(|m| m.chunks[1].index = u32::MAX),
        E::BeyondDisk(u32::MAX)
    );
    for stored_len in [0, MAX_FRAME_LEN + 1] {
        assert_eq!(
            broken(|m| m.chunks[1].stored_len = stored_len),
            E::StoredLength {
                index: 3,
                stored_len
            }
        );
    }
}

#[test]
fn every_header_field_is_checked() {
    let good = {
        let mut manifest = sample();
        manifest.chunks[0].stored_len = 100;
        manifest.encode()
    };
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Manifest::decode(&bytes)
    };
    assert_eq!(with(0, b'b'), Err(ManifestError::Magic));
    assert_eq!(with(4, 2), Err(ManifestError::Version(2, 0)));
    assert_eq!(with(6, 1), Err(ManifestError::Version(1, 1)));
    assert_eq!(with(22, 0x20), Err(ManifestError::ChunkSize(2 << 20)));
    assert_eq!(
        with(24, 3),
        Err(ManifestError::Length {
            expected: 148,
            actual: 108
        })
    );
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(
        Manifest::decode(&longer),
        Err(ManifestError::Length {
            expected: 108,
            actual: 109
        })
    );
    for cut in 0..good.len() {
        assert!(Manifest::decode(&good[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_count_beyond_all_memory_is_only_a_wrong_length() {
    let mut bytes = sample().encode();
    bytes[24..28].fill(0xff);
    assert_eq!(
        Manifest::decode(&bytes),
        Err(ManifestError::Length {
            expected: 28 + 40 * u64::from(u32::MAX),
            actual: 108
        })
    );
}

#[test]
fn a_hash_has_one_spelling() {
    let text = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";
    let hash: ChunkHash = text.parse().unwrap();
    assert_eq!(hash.to_string(), text);
    assert_eq!(serde_json::to_string(&hash).unwrap(), format!("{text:?}"));
    let back: ChunkHash = serde_json::from_str(&format!("{text:?}")).unwrap();
    assert_eq!(back, hash);
    for bad in ["", "00", &text[1..], &text.to_uppercase(), &"g".repeat(64)] {
        assert!(bad.parse::<ChunkHash>().is_err(), "{bad:?}");
    }
    assert!("ä".repeat(32).parse::<ChunkHash>().is_err());
}

fn manifests() -> impl Strategy<Value = Manifest> {
    let entries =
        prop::collection::btree_map(0u32..300, (1..=MAX_FRAME_LEN, any::<[u8; 32]>()), 0..40);
    (entries, 0u32..3, 1u64..4096).prop_map(|(entries, sector_shift, tail)| {
        let sector_size = 512 << sector_shift;
        let chunks: Vec<_> = entries
            .into_iter()
            .map(|(index, (stored_len, hash))| ChunkRef {
                index,
                stored_len,
                hash: ChunkHash(hash),
            })
            .collect();
        let tail = (tail * u64::from(sector_size)).min(CHUNK_SIZE.into());
        Manifest {
            disk_size: chunks.last().map_or(0, ChunkRef::offset) + tail,
            sector_size,
            chunks,
        }
    })
}

proptest! {
    #[test]
    fn decode_undoes_encode(manifest in manifests()) {
        prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::decode(&bytes).is_err());
    }

    /// One flipped bit is refused or gives another manifest, which then has another name.
    #[test]
    fn a_flipped_bit_is_never_the_same_manifest(
        manifest in manifests(), at in any::<prop::sample::Index>(), bit in 0u32..8,
    ) {
        let mut bytes = manifest.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Manifest::decode(&bytes) {
            prop_assert_ne!(&other, &manifest);
            prop_assert_eq!(other.encode(), bytes);
        }
    }
}
