//! Replays the kept corpus of every fuzz target, and bytes made on the spot.

use bugler_fuzzing::TARGETS;
use proptest::prelude::*;
use std::path::Path;

#[test]
fn the_kept_corpus_is_still_read_without_a_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for target in TARGETS {
        let dir = corpus.join(target.name);
        let files: Vec<_> = std::fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("{} has no corpus: {error}", dir.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(!files.is_empty(), "{} is empty", dir.display());
        for file in &files {
            (target.run)(&std::fs::read(file).unwrap());
        }
        println!("{}: {} inputs", target.name, files.len());
    }
}

#[test]
fn every_target_is_known_to_cargo_fuzz() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let file = format!("fuzz_targets/{}.rs", target.name);
        assert!(fuzz.join(&file).is_file(), "{file} is missing");
        assert!(
            manifest.contains(&file),
            "fuzz/Cargo.toml does not name {file}"
        );
    }
}

proptest! {
    /// Mutations of the corpus: far more of these get past the first checks than of random bytes.
    #[test]
    fn changed_inputs_are_read_without_a_panic(
        target in 0..TARGETS.len(),
        pick: prop::sample::Index,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut: prop::sample::Index,
    ) {
        let target = TARGETS[target];
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target.name);
        let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let mut bytes = std::fs::read(&files[pick.index(files.len())]).unwrap();
        for (place, byte) in edits {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
        }
        let keep = cut.index(2 * bytes.len() + 1);
        bytes.truncate(keep);
        (target.run)(&bytes);
    }
}

/// Seconds that a processor has worked for this thread: a busy computer does not make them more.
fn worked() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec
}

/// Not a measurement, but a limit that a reader of quadratic time would not keep: `bugler-lab bench decode`
/// measures.
#[test]
fn the_worst_that_could_be_thought_of_is_read_quickly() {
    for target in TARGETS {
        for input in bugler_fuzzing::inputs::inputs(target.name).unwrap() {
            let begun = worked();
            (target.run)(&input.bytes);
            let took = worked() - begun;
            assert!(took < 6, "{} took {took} s for {}", target.name, input.name);
        }
    }
}
