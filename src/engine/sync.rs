//! Decides which part of the kernel's state to read, and when: one dump at a time, again while it was interrupted.
//!
//! Notifications are hints. Whatever puts our picture in doubt (lost notifications, an interrupted dump, an event
//! after which the kernel deletes in silence) marks parts dirty; they stay so until a whole dump began after the cause.

use serde::{Deserialize, Serialize};

use super::action::Dump;
use super::event::DumpOutcome;
use crate::time::{Duration, Instant};

/// A dump that has not ended by then never will: the request or its end was lost.
const DUMP_TIMEOUT: Duration = Duration::from_secs(5);
/// First wait before an interrupted or refused dump is repeated; doubles up to a second.
const RETRY: Duration = Duration::from_millis(5);

/// What is dirty and what is being read.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Sync {
    dirty: u8,
    running: Option<Running>,
    retry_at: Instant,
    retries: u8,
    /// Everything was read at least once.
    pub synced: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Running {
    dump: Dump,
    since: Instant,
    /// It was made dirty again meanwhile: what is being read may be older than the cause.
    spoiled: bool,
    /// The kernel has the request.
    began: bool,
}

impl Sync {
    /// Puts parts in doubt.
    pub fn mark(&mut self, dumps: &[Dump]) {
        for dump in dumps {
            self.dirty |= dump.bit();
            if let Some(running) = self.running.as_mut().filter(|r| r.dump == *dump) {
                running.spoiled = true;
            }
        }
    }

    /// The dump to ask for now.
    pub fn poll(&mut self, now: Instant) -> Option<Dump> {
        if self.running.is_some() || self.dirty == 0 || self.retry_at > now {
            return None;
        }
        let dump = Dump::ALL.into_iter().find(|d| self.dirty & d.bit() != 0)?;
        self.running = Some(Running { dump, since: now, spoiled: false, began: false });
        Some(dump)
    }

    /// A dump is over. Returns whether what it did not show is gone.
    pub fn ended(&mut self, dump: Dump, outcome: DumpOutcome, now: Instant) -> bool {
        let Some(running) = self.running.filter(|r| r.dump == dump) else { return false };
        self.running = None;
        if outcome == DumpOutcome::Complete {
            self.retries = 0;
            self.retry_at = Instant::ZERO;
            if running.spoiled {
                // Facts newer than this dump may have been applied already: it may add, never take away.
                return false;
            }
            self.dirty &= !dump.bit();
            return true;
        }
        self.retry_at = now.after(RETRY * (1 << u32::from(self.retries.min(7))));
        self.retries = self.retries.saturating_add(1);
        false
    }

    /// A part cannot be read in this kernel: it is empty.
    pub fn give_up(&mut self, dump: Dump) {
        self.dirty &= !dump.bit();
        self.retry_at = Instant::ZERO;
        self.retries = 0;
    }

    /// The request socket was replaced: a dump that was running never ends.
    pub fn abandon(&mut self) {
        self.running = None;
    }

    /// The kernel has the request for this dump.
    pub fn began(&mut self, dump: Dump) {
        if let Some(running) = self.running.as_mut().filter(|r| r.dump == dump) {
            running.began = true;
        }
    }

    /// What is being read.
    pub fn reading(&self) -> Option<Dump> {
        self.running.filter(|r| r.began).map(|r| r.dump)
    }

    /// Whether the running dump should have ended by now.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.running.is_some_and(|r| now.since(r.since) >= DUMP_TIMEOUT)
    }

    /// Whether a part is beyond doubt.
    pub fn is_known(&self, dump: Dump) -> bool {
        self.dirty & dump.bit() == 0
    }

    /// Whether nothing is dirty.
    pub fn is_clean(&self) -> bool {
        self.dirty == 0 && self.running.is_none()
    }

    /// When to look again though nothing happens.
    pub fn next(&self) -> Option<Instant> {
        match self.running {
            Some(running) => Some(running.since.after(DUMP_TIMEOUT)),
            None if self.dirty != 0 => Some(self.retry_at),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn one_dump_at_a_time_and_again_when_interrupted() {
        let mut sync = Sync::default();
        sync.mark(&[Dump::Rules, Dump::Links]);
        assert_eq!(sync.poll(at(0)), Some(Dump::Links));
        assert_eq!(sync.poll(at(0)), None);
        assert!(!sync.ended(Dump::Links, DumpOutcome::Interrupted, at(1)));
        assert_eq!(sync.poll(at(1)), None);
        assert_eq!(sync.poll(at(6)), Some(Dump::Links));
        assert!(sync.ended(Dump::Links, DumpOutcome::Complete, at(7)));
        assert_eq!(sync.poll(at(7)), Some(Dump::Rules));
        assert!(sync.ended(Dump::Rules, DumpOutcome::Complete, at(8)));
        assert!(sync.is_clean());
    }

    #[test]
    fn doubt_during_a_dump_means_another_dump_and_no_sweep() {
        let mut sync = Sync::default();
        sync.mark(&[Dump::Rules]);
        sync.poll(at(0));
        sync.mark(&[Dump::Rules]);
        assert!(!sync.ended(Dump::Rules, DumpOutcome::Complete, at(1)));
        assert_eq!(sync.poll(at(1)), Some(Dump::Rules));
    }
}
