//! Ten thousand random worlds: whatever happens, the engine keeps its promises and the kernel ends up as it should.
//!
//! `LINKWATCH_SEEDS=N` runs the first N seeds, `LINKWATCH_SEEDS=FROM..TO` that range: one failing seed with its timeline
//! is `LINKWATCH_SEEDS=7..8 cargo test --test random`.

use std::ops::Range;
use std::sync::Mutex;

use linkwatch::sim::random;

const SEEDS: u64 = 10_000;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("LINKWATCH_SEEDS") else { return 0..SEEDS };
    let number = |t: &str| t.parse::<u64>().unwrap_or_else(|e| panic!("LINKWATCH_SEEDS={text}: {e}"));
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&text),
    }
}

#[test]
fn random_worlds_hold_the_invariants_and_converge() {
    // A panic of the engine is caught and told with its seed; its own message in between would only be noise.
    std::panic::set_hook(Box::new(|_| {}));
    let range = seeds();
    // Not an atomic: MIPS has none of 64 bits.
    let seeds = Mutex::new(range.clone());
    let next = || seeds.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
    let failed = std::thread::scope(|s| {
        let work = || {
            let mut failed = Vec::new();
            while let Some(seed) = next() {
                if let Err(story) = random::run(seed) {
                    failed.push((seed, story));
                }
            }
            failed
        };
        let threads: Vec<_> = (0..2).map(|_| s.spawn(work)).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap_or_default()).collect::<Vec<_>>()
    });
    let _ = std::panic::take_hook();
    let Some((_, story)) = failed.iter().min_by_key(|(_, story)| story.len()) else { return };
    let mut all: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    all.sort_unstable();
    for (seed, story) in &failed {
        println!("seed {seed}: {}", story.rsplit_once("seed ").map_or("", |(_, what)| what));
    }
    panic!("{story}\n{} of {} seeds fail: {:?}", all.len(), range.end - range.start, all.get(..all.len().min(40)));
}
