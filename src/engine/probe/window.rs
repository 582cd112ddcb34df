//! Decides how much is lost and how long it takes: the last probes of one target, newest first.
//!
//! Nothing is lost for good: loss is counted when it is asked for, and a late answer turns a lost probe into a slow one
//! (dpinger's method). Integers only: OpenWrt's MIPS has no floating point.
//!
//! Holds [`limits::PROBE_SLOTS`] probes; the oldest is forgotten.

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::time::{Duration, Instant, micros};
use crate::types::Permille;

/// Not answered yet.
const PENDING: u32 = 0;
/// Refused, or past its time: may still be answered.
const LOST: u32 = u32::MAX;

/// One probe.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Slot {
    /// When it was sent, microseconds; wraps after 71 minutes.
    sent: u32,
    /// Round-trip time in microseconds, at least 1; or [`PENDING`], or [`LOST`].
    rtt: u32,
}

/// The last probes of one target.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ProbeWindow {
    #[serde(with = "crate::row")]
    slots: [Slot; limits::PROBE_SLOTS],
    /// Where the next one goes.
    next: u8,
    filled: u8,
}

impl Default for ProbeWindow {
    fn default() -> Self {
        Self { slots: [Slot::default(); limits::PROBE_SLOTS], next: 0, filled: 0 }
    }
}

/// What a window amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Probes that were answered or had the time to be.
    pub judged: u16,
    /// Those of them that were not answered.
    pub lost: u16,
    /// Mean round-trip time of those that were, microseconds; `None` without any.
    pub rtt: Option<u32>,
    /// Mean distance between the round-trip times of neighbours, microseconds; `None` with fewer than two.
    pub jitter: Option<u32>,
    /// Shortest and longest round-trip time, microseconds.
    pub range: Option<(u32, u32)>,
}

impl Report {
    /// Share of the probes lost; 0 without any.
    pub fn loss(&self) -> Permille {
        let judged = u32::from(self.judged).max(1);
        Permille(u16::try_from(u32::from(self.lost) * 1000 / judged).unwrap_or(1000))
    }
}

impl ProbeWindow {
    /// A probe was sent.
    pub fn sent(&mut self, now: Instant) {
        if let Some(slot) = self.slots.get_mut(usize::from(self.next)) {
            *slot = Slot { sent: now.micros() as u32, rtt: PENDING };
        }
        self.next = if usize::from(self.next) + 1 >= limits::PROBE_SLOTS { 0 } else { self.next + 1 };
        self.filled = self.filled.saturating_add(1).min(limits::PROBE_SLOTS as u8);
    }

    /// The probe that was sent `back` probes before the newest was answered. `None` when it is forgotten or was answered
    /// before: no answer counts twice.
    pub fn answered(&mut self, back: u16, at: Instant) -> Option<Duration> {
        let slot = self.slot_mut(back)?;
        if slot.rtt != PENDING && slot.rtt != LOST {
            return None;
        }
        let rtt = (at.micros() as u32).wrapping_sub(slot.sent);
        slot.rtt = rtt.clamp(1, LOST - 1);
        Some(Duration::from_micros(u64::from(slot.rtt)))
    }

    /// Answers within `timeout` from the one `back` probes before the newest backwards, over at most `among` probes, up to
    /// a row of `gap` probes without one.
    pub fn run(&self, back: u16, among: u16, gap: u8, timeout: Duration) -> u16 {
        let longest = u32::try_from(micros(timeout)).unwrap_or(LOST - 1).min(LOST - 1);
        let (mut run, mut missing) = (0, 0);
        for slot in (back..back.saturating_add(among)).map_while(|back| self.slot(back)) {
            if slot.rtt != PENDING && slot.rtt <= longest {
                run += 1;
                missing = 0;
            } else {
                missing += 1;
                if missing >= gap.max(1) {
                    break;
                }
            }
        }
        run
    }

    /// The probe that was sent `back` probes before the newest will not be answered.
    pub fn refused(&mut self, back: u16) {
        if let Some(slot) = self.slot_mut(back).filter(|s| s.rtt == PENDING) {
            slot.rtt = LOST;
        }
    }

    /// Counts as lost what has waited for `timeout`.
    pub fn expire(&mut self, timeout: Duration, now: Instant) {
        let (now, timeout) = (now.micros() as u32, u32::try_from(micros(timeout)).unwrap_or(u32::MAX / 2));
        for back in 0..u16::from(self.filled) {
            let Some(slot) = self.slot_mut(back) else { return };
            if slot.rtt == PENDING && now.wrapping_sub(slot.sent) >= timeout {
                slot.rtt = LOST;
            }
        }
    }

    /// How long ago the probe was sent that came `back` probes before the newest.
    pub fn age(&self, back: u16, now: Instant) -> Option<Duration> {
        let slot = self.slot(back)?;
        Some(Duration::from_micros(u64::from((now.micros() as u32).wrapping_sub(slot.sent))))
    }

    /// The last probes, oldest first, in microseconds: `Some(None)` lost, `None` not known yet.
    pub fn history(&self) -> impl Iterator<Item = Option<Option<u32>>> + '_ {
        (0..u16::from(self.filled)).rev().filter_map(|back| self.slot(back)).map(|slot| match slot.rtt {
            PENDING => None,
            LOST => Some(None),
            rtt => Some(Some(rtt)),
        })
    }

    /// Whether nothing was ever sent.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Sums up; probes that may still be answered do not count.
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        let (mut answered, mut sum, mut steps, mut step_sum) = (0_u64, 0_u64, 0_u64, 0_u64);
        let mut before = None;
        for probe in self.history().flatten() {
            report.judged += 1;
            let Some(rtt) = probe else {
                report.lost += 1;
                continue;
            };
            answered += 1;
            sum += u64::from(rtt);
            if let Some(before) = before.replace(rtt) {
                steps += 1;
                step_sum += u64::from(rtt.abs_diff(before));
            }
            let (low, high) = report.range.unwrap_or((rtt, rtt));
            report.range = Some((low.min(rtt), high.max(rtt)));
        }
        report.rtt = sum.checked_div(answered).and_then(|mean| u32::try_from(mean).ok());
        report.jitter = step_sum.checked_div(steps).and_then(|mean| u32::try_from(mean).ok());
        report
    }

    fn place(&self, back: u16) -> Option<usize> {
        if back >= u16::from(self.filled) {
            return None;
        }
        Some((usize::from(self.next) + 2 * limits::PROBE_SLOTS - 1 - usize::from(back)) % limits::PROBE_SLOTS)
    }

    fn slot(&self, back: u16) -> Option<&Slot> {
        self.slots.get(self.place(back)?)
    }

    fn slot_mut(&mut self, back: u16) -> Option<&mut Slot> {
        let at = self.place(back)?;
        self.slots.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    const TIMEOUT: Duration = Duration::from_secs(1);

    #[test]
    fn late_answer_turns_a_lost_probe_into_a_slow_one() {
        let mut window = ProbeWindow::default();
        window.sent(at(0));
        assert_eq!(window.report(), Report::default());
        window.expire(TIMEOUT, at(1000));
        assert_eq!(window.report().loss(), Permille(1000));
        assert_eq!(window.answered(0, at(3000)), Some(Duration::from_secs(3)));
        assert_eq!(window.report().loss(), Permille(0));
    }

    #[test]
    fn no_answer_counts_twice() {
        let mut window = ProbeWindow::default();
        window.sent(at(0));
        assert!(window.answered(0, at(10)).is_some());
        assert_eq!(window.answered(0, at(11)), None);
        assert_eq!(window.answered(1, at(11)), None);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut window = ProbeWindow::default();
        for n in 0..limits::PROBE_SLOTS as u64 + 5 {
            window.sent(at(n));
            if n >= 5 {
                window.answered(0, at(n + 2));
            }
        }
        let report = window.report();
        assert_eq!((usize::from(report.judged), report.lost), (limits::PROBE_SLOTS, 0));
        assert_eq!(window.answered(limits::PROBE_SLOTS as u16, at(100)), None);
    }

    #[test]
    fn mean_jitter_and_range_are_integers_of_the_answered() {
        let mut window = ProbeWindow::default();
        for (n, rtt) in [10, 20, 30].into_iter().enumerate() {
            window.sent(at(100 * n as u64));
            window.answered(0, at(100 * n as u64 + rtt));
        }
        window.sent(at(300));
        window.expire(TIMEOUT, at(2000));
        let report = window.report();
        assert_eq!((report.rtt, report.jitter, report.range), (Some(20_000), Some(10_000), Some((10_000, 30_000))));
        assert_eq!((report.judged, report.lost, report.loss()), (4, 1, Permille(250)));
    }

    #[test]
    fn the_clock_of_a_window_may_wrap() {
        let start = u64::from(u32::MAX) - 10;
        let mut window = ProbeWindow::default();
        window.sent(Instant::from_micros(start));
        assert_eq!(window.answered(0, Instant::from_micros(start + 40)), Some(Duration::from_micros(40)));
    }
}
