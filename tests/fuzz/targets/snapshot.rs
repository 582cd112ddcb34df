//! Feeds libFuzzer's bytes to `linkwatch::sim::fuzz::snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| linkwatch::sim::fuzz::snapshot(bytes));
