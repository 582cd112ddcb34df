//! Feeds libFuzzer's bytes to `linkwatch::sim::fuzz_control::control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| linkwatch::sim::fuzz_control::control(bytes));
