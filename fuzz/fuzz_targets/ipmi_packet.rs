#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bugler_fuzzing::run("ipmi_packet", bytes));
