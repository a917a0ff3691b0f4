//! Overlay files that somebody changed, as a function over bytes.

use super::{
    OverlayOptions,
    format::{BLOCK, Entry, JOURNAL_START, STATE_BYTES, State, encode_page, encode_tx, page_place},
    memory::Memory,
    open::{create_in, open_in},
    replay,
};
use crate::{BlockDevice, Durability, EmptyBase};
use std::{path::Path, sync::Arc};

const SIZE: u64 = 40 << 20;

/// Opens an overlay after changes that the bytes describe, and uses it where it opens. The first byte
/// of each change says what it is: bytes anywhere in the first 2 MiB, or a header, page or transaction
/// of arbitrary content whose checksum is right.
pub fn fuzz_overlay(bytes: &[u8]) {
    let memory = Memory::default();
    let path = Path::new("fuzz");
    let base = Arc::new(EmptyBase { size: SIZE });
    let options = OverlayOptions::default();
    {
        let Ok(overlay) = create_in(Box::new(memory.clone()), path, base.clone(), &options) else {
            return;
        };
        for block in [0, 1, 9000] {
            let written = overlay.write(block * BLOCK as u64, &[7; BLOCK], Durability::Durable);
            debug_assert!(written.is_ok());
        }
    }
    for change in bytes.chunks(64).take(16) {
        apply(&memory, change);
    }
    if let Ok(overlay) = open_in(Box::new(memory), path, base, &options) {
        let mut buf = vec![0; 3 * BLOCK];
        for at in [0, 9000 * BLOCK as u64, SIZE - 3 * BLOCK as u64] {
            let _ = overlay.read(at, &mut buf);
            let _ = overlay.write(at + 512, &buf[..BLOCK], Durability::Durable);
        }
        let _ = overlay.discard(0, SIZE);
        let _ = overlay.extents(0, SIZE, 100);
        let _ = overlay.held(0, 100);
        let _ = overlay.usage();
        let _ = overlay.flush();
    }
}

fn apply(memory: &Memory, change: &[u8]) {
    let Some((&[kind, a, b, c], rest)) = change.split_first_chunk::<4>() else {
        return;
    };
    let Ok((mut header, _)) = replay::read_header(memory) else {
        return;
    };
    let number = |at: usize| {
        let bytes = rest.get(at..).and_then(|rest| rest.first_chunk::<8>());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    match kind % 4 {
        0 => {
            let offset = u64::from_le_bytes([a, b, c, 0, 0, 0, 0, 0]) % (2 << 20);
            memory.damage(offset, rest);
        }
        1 => {
            header.generation = header.generation.wrapping_add(u64::from(a));
            header.quota = number(0);
            header.table_sum = header.table_sum.wrapping_add(u64::from(b));
            header.disk_size = header.disk_size.wrapping_sub(u64::from(c) * 512);
            memory.damage(0, &header.encode());
        }
        2 => {
            let mut states = [0; STATE_BYTES];
            for (state, byte) in states.iter_mut().zip(rest) {
                *state = *byte;
            }
            let generation = header.generation.wrapping_add(u64::from(b % 3));
            let group = u64::from(a % 2);
            let (page, sum) = encode_page(&header.id, group, generation, &states);
            memory.damage(page_place(group, c), &page);
            if c & 2 != 0 {
                header.table_sum = header.table_sum.wrapping_add(sum);
                memory.damage(0, &header.encode());
            }
        }
        _ => {
            let entries: Vec<Entry> = rest
                .chunks(9)
                .map(|bytes| Entry {
                    block: bytes
                        .iter()
                        .take(5)
                        .fold(0, |sum, b| sum << 8 | u64::from(*b)),
                    run: bytes.get(5).map_or(1, |run| u64::from(*run) * 257 + 1),
                    state: State::from_bits(bytes.get(6).copied().unwrap_or(1)),
                    sum: number(7),
                })
                .collect();
            let tx = encode_tx(&header.id, header.generation, u64::from(a % 8), &entries);
            memory.damage(JOURNAL_START + u64::from(b % 8) * BLOCK as u64, &tx);
        }
    }
}
