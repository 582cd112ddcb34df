//! A recorded run lived through again: the engine of this program gets what that one got, at the same times, and must wish
//! for the same.

use super::{Ending, Error, Head, Reader, Step};
use crate::config::Config;
use crate::engine::{Action, Engine};
use crate::limits;
use crate::proto::pack::Pack;
use crate::time::{Duration, Instant};

/// Wishes at one time that the recorded engine did not have: more are not asked for.
const MORE: usize = 2 * (limits::ROUTES + limits::RULES + limits::NEXTHOPS);

/// What happens during a replay, in order.
#[derive(Debug)]
pub enum Line<'a> {
    /// A step, before the engine takes it.
    Step(&'a Step<'a>),
    /// The two engines want something else; `None`: nothing.
    Differs { at: Instant, then: Option<&'a Action>, now: Option<&'a Action> },
}

/// What there is to say in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What the file says of itself.
    pub head: Head,
    /// Why it ended.
    pub ending: Ending,
    /// Damage that ended it.
    pub damage: Option<Error>,
    /// Events, wake-ups and configurations.
    pub events: u64,
    /// Recorded actions.
    pub actions: u64,
    /// Those that differ, on either side.
    pub differences: u64,
    /// From the first step to the last.
    pub span: Duration,
    /// Over all recorded actions and their times; and over those of this program.
    pub digests: [u64; 2],
}

/// A sum over actions (FNV-1a, 64 bits).
#[derive(Clone, Copy, Debug)]
struct Digest(u64);

impl Digest {
    fn add(&mut self, action: &Action, at: Instant) {
        for byte in Pack::of(&(at, action)) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Replays a file, and says what happens line by line. The engine in `tell` is the one of this program.
///
/// # Errors
/// The file is none of ours, of another version or board, or its first step is damaged.
pub fn replay(bytes: &[u8], tell: &mut dyn FnMut(Line<'_>, &Engine)) -> Result<Summary, Error> {
    let mut reader = Reader::new(bytes)?;
    let head = reader.head.clone();
    let first = Error::Step { at: 0 };
    let mut engine = match reader.next()? {
        // On the heap at once: it may be a megabyte.
        Some(Step::State(state)) => Box::new(postcard::from_bytes::<Engine>(state).map_err(|_| first)?),
        _ => return Err(first),
    };
    let mut summary = Summary {
        ending: Ending::Cut,
        damage: None,
        events: 0,
        actions: 0,
        differences: 0,
        span: Duration::ZERO,
        digests: [0; 2],
        head,
    };
    let mut digests = [Digest(0xcbf2_9ce4_8422_2325); 2];
    let mut last = summary.head.began;
    loop {
        let step = match reader.next() {
            Ok(Some(step)) => step,
            Ok(None) => break,
            Err(error) => {
                summary.damage = Some(error);
                break;
            }
        };
        tell(Line::Step(&step), &engine);
        match &step {
            Step::Action(..) | Step::Done(_) => {}
            _ => summary.events += 1,
        }
        match step {
            // Only the first step is one.
            Step::State(_) => {}
            Step::Config(bytes, now) => {
                last = now;
                match postcard::from_bytes::<Config>(bytes) {
                    Ok(config) => engine.reconfigure(&config, now),
                    Err(_) => {
                        summary.damage = Some(Error::Step { at: 0 });
                        break;
                    }
                }
            }
            Step::Foreign => engine.handle_foreign(),
            Step::Event(event, now) => {
                last = now;
                engine.handle_event(event, now);
            }
            Step::Timeout(now) => {
                last = now;
                engine.handle_timeout(now);
            }
            Step::Action(then, at) => {
                last = at;
                summary.actions += 1;
                let now = engine.poll_action(at);
                digests[0].add(&then, at);
                if let Some(now) = &now {
                    digests[1].add(now, at);
                }
                if now != Some(then) {
                    summary.differences += 1;
                    tell(Line::Differs { at, then: Some(&then), now: now.as_ref() }, &engine);
                }
            }
            Step::Done(at) => {
                last = at;
                for _ in 0..MORE {
                    let Some(more) = engine.poll_action(at) else { break };
                    digests[1].add(&more, at);
                    summary.differences += 1;
                    tell(Line::Differs { at, then: None, now: Some(&more) }, &engine);
                }
            }
        }
    }
    summary.span = last.since(summary.head.began);
    summary.ending = reader.ending().unwrap_or(Ending::Cut);
    summary.digests = digests.map(|d| d.0);
    Ok(summary)
}
