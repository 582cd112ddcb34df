//! Fuzz bodies for recorded runs: whatever bytes stand in a file, reading and replaying it ends without a panic.

use super::DRAIN;
use super::chance::Chance;
use crate::engine::Engine;
use crate::proto::trace::replay::replay;
use crate::proto::trace::{Reader, Step};
use crate::time::Instant;

/// Any bytes as a file. The sums over the frames are put right first, since damage that they find is found early.
pub fn trace(bytes: &[u8]) {
    let _ = replay(bytes, &mut |_, _| {});
    let mended = mend(bytes);
    if let Ok(mut reader) = Reader::new(&mended) {
        for _ in 0..100_000 {
            if !matches!(reader.next(), Ok(Some(_))) {
                break;
            }
        }
    }
    if let Ok(summary) = replay(&mended, &mut |_, _| {}) {
        assert!(summary.actions < 10_000_000, "{summary:?}");
    }
}

/// A run whose first step is an engine that never was: its bytes are changed here and there, by chances from the file itself.
pub fn strange_state(bytes: &[u8]) {
    let seed = u64::from(crate::proto::trace::sum(bytes));
    let mut chance = Chance::new(seed);
    let Ok(mut reader) = Reader::new(bytes) else { return };
    let Ok(Some(Step::State(state))) = reader.next() else { return };
    let mut state = state.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(state.len() as u64) as usize;
        state[at] = if chance.one_in(2) { chance.draw() as u8 } else { state[at] ^ 1 << chance.below(8) };
    }
    let Ok(mut engine) = postcard::from_bytes::<Engine>(&state).map(Box::new) else { return };
    let mut now = Instant::ZERO;
    while let Ok(Some(step)) = reader.next() {
        match step {
            Step::State(_) => return,
            Step::Foreign => engine.handle_foreign(),
            Step::Config(config, at) => {
                now = at;
                let Ok(config) = postcard::from_bytes(config) else { return };
                engine.reconfigure(&config, now);
            }
            Step::Event(event, at) => {
                now = at;
                engine.handle_event(event, now);
            }
            Step::Timeout(at) => {
                now = at;
                engine.handle_timeout(now);
            }
            Step::Action(_, at) => {
                now = at;
                let _ = engine.poll_action(now);
            }
            Step::Done(at) => {
                now = at;
                for _ in 0..DRAIN {
                    if engine.poll_action(now).is_none() {
                        break;
                    }
                }
            }
        }
    }
    let _ = (engine.poll_timeout(), engine.snapshot(now));
}

/// Whether these bytes are a whole run.
pub fn is_run(bytes: &[u8]) -> bool {
    replay(bytes, &mut |_, _| {}).is_ok_and(|summary| summary.damage.is_none() && summary.events > 0)
}

/// The same file with sums that fit.
fn mend(bytes: &[u8]) -> Vec<u8> {
    let mut mended = bytes.to_vec();
    let mut at = 6 + bytes.get(5).map_or(0, |len| usize::from(*len));
    while let Some(len) = bytes.get(at..at + 2).map(|l| usize::from(u16::from_le_bytes([l[0], l[1]]))) {
        let Some(content) = bytes.get(at + 6..at + 6 + len) else { break };
        let sum = crate::proto::trace::sum(content).to_le_bytes();
        if let Some(place) = mended.get_mut(at + 2..at + 6) {
            place.copy_from_slice(&sum);
        }
        at += 6 + len;
    }
    mended
}
