//! The fuzzers' corpora, each file replayed, and a bounded number of seeded mutations of them.
//!
//! `LINKWATCH_FUZZ=N` makes N times as many mutations; an input that fails is written to a file that the message names.
//! Longer hunts are libFuzzer's: `cargo +nightly fuzz run --fuzz-dir tests/fuzz netlink`.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use linkwatch::sim::chance::Chance;
use linkwatch::sim::{fuzz, fuzz_trace, fuzz_ubus};

type Body = fn(&[u8]);

/// Longer inputs only cost time.
const LONGEST: usize = 8192;
/// Values that have been wrong before: 0, 1, sizes of headers, ends of ranges.
const TELLING: [u32; 12] = [0, 1, 3, 4, 15, 16, 127, 255, 0x7fff, 0xffff, 0x7fff_ffff, u32::MAX];

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("a readable folder").path()).collect();
    // The same order on every machine: a seed then always means the same.
    paths.sort();
    assert!(paths.len() >= 3, "{target}: a corpus of {} files", paths.len());
    paths.into_iter().map(|p| (p.clone(), std::fs::read(&p).expect("a readable file"))).collect()
}

fn check(target: &str, body: Body, what: &str, input: &[u8]) {
    if catch_unwind(|| body(input)).is_ok() {
        return;
    }
    let path = std::env::temp_dir().join(format!("linkwatch-fuzz-{target}-{}", std::process::id()));
    let kept = std::fs::write(&path, input).map_or_else(|e| e.to_string(), |()| path.display().to_string());
    panic!("{target}: {what} fails; the input is kept: {kept}");
}

/// Every file as it is, then `count` mutations of them.
fn run(target: &str, body: Body, count: u64) {
    let corpus = corpus(target);
    for (path, bytes) in &corpus {
        check(target, body, &path.display().to_string(), bytes);
    }
    let times = std::env::var("LINKWATCH_FUZZ").map_or(1, |n| n.parse().expect("LINKWATCH_FUZZ is a number"));
    for seed in 0..count * times {
        let input = mutated(&corpus, seed);
        check(target, body, &format!("mutation {seed}"), &input);
    }
    println!("{target}: {} files, {} mutations", corpus.len(), count * times);
}

fn mutated(corpus: &[(PathBuf, Vec<u8>)], seed: u64) -> Vec<u8> {
    let mut chance = Chance::new(seed);
    let pick = |chance: &mut Chance| corpus[chance.below(corpus.len() as u64) as usize].1.clone();
    let mut bytes = pick(&mut chance);
    for _ in 0..=chance.below(5) {
        let len = bytes.len() as u64;
        let at = chance.below(len + 1) as usize;
        let to = at + chance.below(len - at as u64 + 1) as usize;
        match chance.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let part = bytes[at..to].to_vec();
                bytes.splice(at..at, part);
            }
            3 => {
                let other = pick(&mut chance);
                let from = chance.below(other.len() as u64 + 1) as usize;
                bytes.splice(at..to, other[from..].iter().copied());
            }
            4 | 5 => {
                let value = TELLING[chance.below(TELLING.len() as u64) as usize].to_ne_bytes();
                let width = [1, 2, 4][chance.below(3) as usize];
                // Fields of netlink lie at even places.
                for (place, byte) in bytes.iter_mut().skip(at & !1).zip(value).take(width) {
                    *place = byte;
                }
            }
            6 => {
                if let Some(place) = bytes.get_mut(at) {
                    *place ^= 1 << chance.below(8);
                }
            }
            _ => {
                let random = chance.take(1 + at % 7);
                bytes.splice(at..at, random);
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

#[test]
fn no_datagram_breaks_the_netlink_codec() {
    run("netlink", fuzz::netlink, 60_000);
}

#[test]
fn no_file_breaks_the_configuration_reader() {
    run("config", fuzz::config, 3_000);
}

#[test]
fn no_row_of_mishaps_breaks_the_engine() {
    run("engine", fuzz::engine, 300);
}

#[test]
fn no_lying_kernel_breaks_the_engine() {
    run("hostile", fuzz::hostile, 4_000);
}

#[test]
fn no_saved_state_breaks_the_start() {
    run("snapshot", fuzz::snapshot, 1_000);
}

/// Otherwise a corpus of yesterday's layout would be refused at the first byte, and nothing would be tested.
#[test]
fn most_saved_states_of_the_corpus_are_of_todays_layout() {
    let readable = corpus("snapshot").iter().filter(|(_, bytes)| fuzz::is_snapshot(bytes)).count();
    assert!(readable >= 3, "{readable} files only: make new ones from a state file, without its first byte");
}

#[test]
fn most_configurations_of_the_corpus_are_accepted() {
    let accepted = |bytes: &[u8]| {
        let read = |dialect| linkwatch::proto::config_file::read(bytes, dialect, &[]).config.is_some();
        read(linkwatch::proto::config_file::Dialect::Mwan3)
    };
    for name in ["mwan3-everything", "ours-everything", "shipped"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/config").join(name);
        assert!(accepted(&std::fs::read(&path).expect("a readable file")), "{name} is refused");
    }
}

#[test]
fn no_answer_breaks_the_codecs_of_probes() {
    run("probe", linkwatch::sim::fuzz_probe::any, 100_000);
}

#[test]
fn no_list_of_fields_breaks_blobmsg() {
    run("blobmsg", fuzz_ubus::blobmsg, 30_000);
}

#[test]
fn no_bus_breaks_its_client() {
    run("ubus", fuzz_ubus::ubus, 10_000);
}

#[test]
fn no_word_of_netfilter_breaks_its_codecs() {
    run("flows", linkwatch::sim::fuzz_flows::any, 60_000);
}

#[test]
fn no_file_breaks_the_replay() {
    run("trace", fuzz_trace::trace, 2_000);
}

/// The corpus is read as it is; what changes is the engine in it.
#[test]
fn no_engine_in_a_file_breaks_the_replay() {
    let times = std::env::var("LINKWATCH_FUZZ").map_or(1, |n| n.parse().expect("LINKWATCH_FUZZ is a number"));
    for (path, bytes) in corpus("trace") {
        for seed in 0..100_u32 * times {
            // What stands behind the end is not read, and changes the chances.
            let input = [&bytes[..], &seed.to_le_bytes()].concat();
            check("trace", fuzz_trace::strange_state, &format!("{} with {seed}", path.display()), &input);
        }
    }
}

/// Otherwise a corpus of yesterday's layout would be refused at the first step, and nothing would be tested.
#[test]
fn most_recorded_runs_of_the_corpus_are_of_todays_layout() {
    let readable = corpus("trace").iter().filter(|(_, bytes)| fuzz_trace::is_run(bytes)).count();
    assert!(readable >= 3, "{readable} files only: LINKWATCH_BLESS=1 cargo test --test replay makes new ones");
}

#[test]
fn every_corpus_has_its_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    for entry in std::fs::read_dir(fuzz.join("corpus")).expect("a readable folder") {
        let name = entry.expect("a readable folder").file_name().into_string().expect("a plain name");
        assert!(fuzz.join(format!("targets/{name}.rs")).exists(), "no target for {name}");
    }
}

#[test]
fn no_stream_breaks_the_control_socket() {
    run("control", linkwatch::sim::fuzz_control::control, 100_000);
}
