//! Feeds libFuzzer's bytes to `linkwatch::sim::fuzz_trace::trace`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| linkwatch::sim::fuzz_trace::trace(bytes));
