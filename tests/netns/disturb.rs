//! Whatever is done to links, addresses and tables, the kernel's state comes back to what it should be.
//!
//! `LINKWATCH_DISTURBANCES=1000 LINKWATCH_SEED=7 cargo test --test netns disturb` does more of them, or the same again.

use std::time::Duration;

use crate::bed::disturb::Disturber;
use crate::bed::lab::Port;
use crate::{Case, PATIENCE, Setup, two_wans};

pub const CASES: &[Case] = &[("disturb::after_each_of_many_disturbances_all_is_as_it_should_be", disturbances)];

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn disturbances() {
    let count = number("LINKWATCH_DISTURBANCES", 100);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    let seed = number("LINKWATCH_SEED", clock);
    let setup = Setup::new("disturb", Port::Virtual, &two_wans(""));
    setup.wait_way(0);
    let mut disturber = Disturber::new(&setup.lab, &two_wans(""), setup.folder.at("other-state"), seed);
    let mut steps = Vec::new();
    for n in 0..count {
        match disturber.step(PATIENCE) {
            Ok(step) => steps.push(step),
            Err(what) => {
                let story: Vec<_> = steps.iter().rev().take(10).rev().collect();
                panic!("seed {seed}, disturbance {n}: {what}\nbefore: {story:#?}\n{:#?}", setup.daemon.lines());
            }
        }
    }
    // How long each took is for the benchmark to judge; here it is told.
    steps.sort_by_key(|step| step.took);
    let late = steps.iter().filter(|step| step.took > Duration::from_millis(100)).count();
    let (middle, last) = (steps[steps.len() / 2], steps[steps.len() - 1]);
    println!("    seed {seed}: {count} disturbances, median {:?}, {late} over 100 ms, last {last:?}", middle.took);
}
