#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bugler_fuzzing::run("pi_eeprom", bytes));
