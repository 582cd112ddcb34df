//! Feeds libFuzzer's bytes to `linkwatch::sim::fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| linkwatch::sim::fuzz::config(bytes));
