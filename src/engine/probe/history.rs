//! Decides what the last hour of an uplink looked like: loss and round-trip time by the minute, oldest forgotten first.

use serde::{Deserialize, Serialize};

use crate::time::{Duration, Instant, micros};
use crate::types::Permille;

/// Minutes that are remembered.
pub const MINUTES: usize = 60;

/// One minute of all probes of an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minute {
    /// Probes sent.
    pub sent: u16,
    /// Those of them that were answered, however late.
    pub answered: u16,
    /// Longest round-trip time, microseconds.
    pub longest: u32,
    /// Sum of the round-trip times in units of 16 us: a minute of answers of a second each fits.
    sum: u32,
}

impl Minute {
    /// Mean round-trip time in microseconds; `None` without an answer.
    pub fn rtt(&self) -> Option<u32> {
        (u64::from(self.sum) * 16).checked_div(u64::from(self.answered)).and_then(|rtt| u32::try_from(rtt).ok())
    }

    /// Share lost; `None` when nothing was sent.
    pub fn loss(&self) -> Option<Permille> {
        let lost = u32::from(self.sent.saturating_sub(self.answered));
        let share = (lost * 1000).checked_div(u32::from(self.sent))?;
        Some(Permille(u16::try_from(share).unwrap_or(1000)))
    }
}

/// The last hour.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct History {
    #[serde(with = "crate::row")]
    minutes: [Minute; MINUTES],
    /// The number of the newest minute, counted from the start of time.
    newest: u32,
}

impl Default for History {
    fn default() -> Self {
        Self { minutes: [Minute::default(); MINUTES], newest: 0 }
    }
}

impl History {
    /// A probe was sent.
    pub fn sent(&mut self, now: Instant) {
        if let Some(minute) = self.minute(now) {
            minute.sent = minute.sent.saturating_add(1);
        }
    }

    /// The probe that was sent at `sent` was answered after `rtt`.
    pub fn answered(&mut self, sent: Instant, rtt: Duration) {
        let rtt = u32::try_from(micros(rtt)).unwrap_or(u32::MAX);
        if let Some(minute) = self.minute(sent) {
            minute.answered = minute.answered.saturating_add(1);
            minute.longest = minute.longest.max(rtt);
            minute.sum = minute.sum.saturating_add(rtt / 16);
        }
    }

    fn minute(&mut self, at: Instant) -> Option<&mut Minute> {
        let number = u32::try_from(at.micros() / 60_000_000).unwrap_or(u32::MAX);
        if number > self.newest {
            let passed = (number - self.newest).min(MINUTES as u32);
            for n in 0..passed {
                if let Some(minute) = self.minutes.get_mut((number - n) as usize % MINUTES) {
                    *minute = Minute::default();
                }
            }
            self.newest = number;
        }
        if self.newest - number >= MINUTES as u32 {
            return None;
        }
        self.minutes.get_mut(number as usize % MINUTES)
    }

    /// The last hour up to `now`, oldest first: always [`MINUTES`] minutes.
    pub fn minutes(&self, now: Instant) -> impl Iterator<Item = Minute> + '_ {
        let number = u32::try_from(now.micros() / 60_000_000).unwrap_or(u32::MAX);
        (0..MINUTES as u32).rev().map(move |back| {
            let wanted = number.checked_sub(back).filter(|n| *n <= self.newest);
            let kept = wanted.filter(|n| self.newest - n < MINUTES as u32);
            kept.and_then(|n| self.minutes.get(n as usize % MINUTES)).copied().unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> Instant {
        Instant::from_millis(minute * 60_000 + 500)
    }

    #[test]
    fn the_last_hour_is_kept_by_the_minute() {
        let mut history = History::default();
        history.sent(at(0));
        history.sent(at(0));
        history.answered(at(0), Duration::from_millis(32));
        let first: Vec<Minute> = history.minutes(at(0)).collect();
        assert_eq!((first.len(), first[59].sent, first[59].rtt()), (60, 2, Some(32_000)));
        assert_eq!(first[59].loss(), Some(Permille(500)));
        history.sent(at(30));
        let later: Vec<Minute> = history.minutes(at(40)).collect();
        assert_eq!((later[19].sent, later[49].sent, later[59].sent), (2, 1, 0));
        history.sent(at(60));
        assert!(history.minutes(at(60)).take(59).all(|m| m.sent < 2), "the first minute is forgotten");
        // An answer to a probe of a forgotten minute changes nothing.
        history.answered(at(0), Duration::from_secs(1));
        assert_eq!(history.minutes(at(60)).map(|m| m.answered).sum::<u16>(), 0);
    }
}
