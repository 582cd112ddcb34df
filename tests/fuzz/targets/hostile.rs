//! Feeds libFuzzer's bytes to `linkwatch::sim::fuzz::hostile`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| linkwatch::sim::fuzz::hostile(bytes));
