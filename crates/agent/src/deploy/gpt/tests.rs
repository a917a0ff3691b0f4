use super::*;
use proptest::prelude::*;

/// The first sectors of a disk with one partition, put together by the specification's tables.
fn disk(sector: usize, sectors: u64, partition: Range<u64>) -> (Vec<u8>, Vec<u8>) {
    let entries_len = 128 * 128;
    let mut entries = vec![0; entries_len];
    put(&mut entries, 0, &[0xaf; 16]);
    put(&mut entries, 32, &partition.start.to_le_bytes());
    put(&mut entries, 40, &(partition.end - 1).to_le_bytes());
    let array_sectors = (entries_len / sector) as u64;
    let mut start = vec![0; 2 * sector];
    let last = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    put(
        &mut start,
        446,
        &[0, 0, 2, 0, PROTECTIVE, 0xff, 0xff, 0xff, 1, 0, 0, 0],
    );
    put(&mut start, 458, &last.to_le_bytes());
    put(&mut start, 510, &[0x55, 0xaa]);
    let fields: [(usize, u64, usize); 9] = [
        (8, 0x1_0000, 4),
        (12, 92, 4),
        (24, 1, 8),
        (32, sectors - 1, 8),
        (40, 2 + array_sectors, 8),
        (48, sectors - 2 - array_sectors, 8),
        (72, 2, 8),
        (80, 128, 4),
        (84, 128, 4),
    ];
    put(&mut start, sector, SIGNATURE);
    for (at, value, len) in fields {
        put(&mut start, sector + at, &value.to_le_bytes()[..len]);
    }
    put(&mut start, sector + 88, &crc32(&entries).to_le_bytes());
    seal(&mut start, sector);
    (start, entries)
}

fn seal(start: &mut [u8], sector: usize) {
    let crc = header_crc(&start[sector..], 92);
    put(start, sector + 16, &crc.to_le_bytes());
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn a_larger_disk_gets_its_backup_at_the_end() {
    for sector in [512usize, 4096] {
        let (start, entries) = disk(sector, 1000, 100..900);
        let gpt = Gpt::read(&start, sector as u32).unwrap().unwrap();
        assert_eq!(gpt.entries, 2 * sector as u64..2 * sector as u64 + 16384);
        let size = 5000 * sector as u64;
        let moved = gpt.fill(&start[..sector], &entries, size).unwrap().unwrap();

        let (at, backup) = &moved.backup;
        assert_eq!(
            at + backup.len() as u64,
            size,
            "the header is the last sector"
        );
        assert_eq!(&backup[..16384], entries);
        let header = &backup[backup.len() - sector..];
        assert_eq!(header_crc(header, 92), get_u32(header, 16));
        assert_eq!((get_u64(header, 24), get_u64(header, 32)), (4999, 1));
        assert_eq!(get_u64(header, 72), at / sector as u64);
        assert_eq!(get_u64(header, 48), at / sector as u64 - 1);

        assert_eq!(get_u32(&moved.primary, 458), 4999);
        let again = Gpt::read(&moved.primary, sector as u32).unwrap().unwrap();
        assert_eq!(again.backup_lba, 4999);
        let mbr = &moved.primary[..sector];
        assert_eq!(
            again.fill(mbr, &entries, size),
            Ok(None),
            "nothing is left to do"
        );
    }
}

#[test]
fn a_disk_of_the_same_size_is_left_alone() {
    let (start, entries) = disk(512, 1000, 100..900);
    let gpt = Gpt::read(&start, 512).unwrap().unwrap();
    assert_eq!(gpt.fill(&start[..512], &entries, 512_000), Ok(None));
}

#[test]
fn a_hybrid_mbr_keeps_its_records() {
    let (mut start, entries) = disk(512, 1000, 100..900);
    put(&mut start, 458, &99u32.to_le_bytes());
    let gpt = Gpt::read(&start, 512).unwrap().unwrap();
    let moved = gpt
        .fill(&start[..512], &entries, 5000 * 512)
        .unwrap()
        .unwrap();
    assert_eq!(moved.primary[..512], start[..512]);
}

#[test]
fn what_is_no_gpt_or_a_damaged_one_is_left_alone() {
    let (good, entries) = disk(512, 1000, 100..900);
    assert_eq!(Gpt::read(&[], 512), Ok(None));
    assert_eq!(Gpt::read(&good[..700], 512), Ok(None));
    assert_eq!(
        Gpt::read(&good, 4096),
        Ok(None),
        "an image of other sectors"
    );

    let mut flipped = good.clone();
    flipped[512 + 40] ^= 1;
    assert_eq!(Gpt::read(&flipped, 512), Err(GptError::Header("checksum")));
    let cases = [
        (12, 600u64, "length"),
        (24, 7, "place"),
        (72, 1, "place of the partition array"),
        (72, u64::MAX, "place of the partition array"),
        (80, 0, "partition array"),
        (80, 0xffff_ffff, "partition array"),
        (84, 100, "partition array"),
    ];
    for (at, value, what) in cases {
        let mut bad = good.clone();
        let width = if matches!(at, 24 | 72) { 8 } else { 4 };
        put(&mut bad, 512 + at, &value.to_le_bytes()[..width]);
        seal(&mut bad, 512);
        assert_eq!(Gpt::read(&bad, 512), Err(GptError::Header(what)), "{at}");
    }

    let gpt = Gpt::read(&good, 512).unwrap().unwrap();
    let fill = |entries: &[u8], size| gpt.fill(&good[..512], entries, size);
    assert_eq!(fill(&entries[1..], 5000 * 512), Err(GptError::Entries));
    for sectors in [0, 1, 20, 32, 900, 932] {
        assert_eq!(
            fill(&entries, sectors * 512),
            Err(GptError::NoRoom),
            "{sectors}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..9000),
        sector: u32,
        size: u64,
    ) {
        fuzz(&bytes, sector, size);
    }

    /// Headers with a good checksum and any field changed, which random bytes never reach.
    #[test]
    fn any_field_is_believed_only_where_it_can_be(
        changes in proptest::collection::vec((8usize..92, any::<u8>()), 0..6),
        partition_end: u64,
        size: u64,
    ) {
        let (mut start, mut entries) = disk(512, 1000, 100..900);
        put(&mut entries, 40, &partition_end.to_le_bytes());
        put(&mut start, 512 + 88, &crc32(&entries).to_le_bytes());
        for (at, value) in changes {
            start[512 + at] = value;
        }
        let length = (get_u32(&start, 512 + 12) as usize).min(512);
        let crc = header_crc(&start[512..], length);
        put(&mut start, 512 + 16, &crc.to_le_bytes());
        if let Ok(Some(gpt)) = Gpt::read(&start, 512)
            && let Ok(Some(moved)) = gpt.fill(&start[..512], &entries, size)
        {
            let (at, backup) = &moved.backup;
            prop_assert!(at + backup.len() as u64 <= size);
            prop_assert!(partition_end < at / 512 || partition_end == 0);
            prop_assert!(Gpt::read(&moved.primary, 512).unwrap().is_some());
        }
    }
}
