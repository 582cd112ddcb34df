//! A thousand random disturbances: how long the kernel's state takes to be as it should after each.

use std::time::Duration;

use crate::bed::disturb::{Disturber, Step};
use crate::bed::lab::Port;
use crate::{PATIENCE, Sample, Stand, row, short, two_wans};

const LIMIT: Duration = Duration::from_millis(100);

/// Twenty disturbances per round: a thousand in fifty.
pub fn measure(rounds: usize) {
    let seed = std::env::var("LINKWATCH_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_260_101);
    let stand = Stand::new("disturb", Port::Virtual, &two_wans("0"), &[]);
    let daemon = stand.start();
    let mut disturber = Disturber::new(&stand.lab, &two_wans("0"), stand.folder.at("other-state"), seed);
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..20 * rounds {
        match disturber.step(PATIENCE) {
            Ok(step) => steps.push(step),
            Err(what) => {
                println!("after {} disturbances: {what}\n{:#?}", steps.len(), daemon.lines());
                row("random disturbances", &format!("one was not made good within {PATIENCE:?}"), "", Some(false));
                return;
            }
        }
    }
    for step in steps.iter().filter(|s| s.took > LIMIT) {
        println!("late: {step:?}");
    }
    let times = Sample::new(steps.iter().map(|s| s.took).collect());
    let (within, of) = times.count(|t| t <= LIMIT);
    row(
        &format!("kernel state as desired after each of {of} random disturbances (seed {seed})"),
        &format!("{within} within 100 ms; median {}, worst {}", short(times.median()), short(times.worst())),
        "all within 100 ms",
        Some(within == of),
    );
}
