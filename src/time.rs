//! Time as the engine knows it: microseconds since some start, never wall-clock time.
//!
//! Only `sys` reads a clock; everything else is told. All arithmetic saturates, so no clock can make it panic.

//! What is used all over is never inlined: on a 32-bit machine each of these is a dozen instructions.

use core::num::NonZeroU64;

use serde::{Deserialize, Serialize};

pub use core::time::Duration;

/// A point on the monotonic clock, in microseconds since the process (or the pretend world) started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Instant {
    /// One more than the microseconds, so that `Option<Instant>` is no larger and travels in registers.
    after_start: NonZeroU64,
}

impl Instant {
    /// The start of time.
    pub const ZERO: Self = Self { after_start: NonZeroU64::MIN };

    /// The end of time.
    pub const END: Self = Self { after_start: NonZeroU64::MAX };

    /// From microseconds since the start; the last two that a `u64` holds are one, [`Instant::END`].
    pub const fn from_micros(micros: u64) -> Self {
        Self { after_start: NonZeroU64::MIN.saturating_add(micros) }
    }

    /// From milliseconds since the start.
    pub const fn from_millis(millis: u64) -> Self {
        Self::from_micros(millis.saturating_mul(1000))
    }

    /// Microseconds since the start.
    pub const fn micros(self) -> u64 {
        self.after_start.get() - 1
    }

    /// This instant plus `duration`; stays at the end of time when it would go beyond.
    #[inline(never)]
    pub fn after(self, duration: Duration) -> Self {
        Self { after_start: self.after_start.saturating_add(micros(duration)) }
    }

    /// Time passed since `earlier`; zero when `earlier` is later.
    #[inline(never)]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros().saturating_sub(earlier.micros()))
    }

    /// The first of some times; `None` when there is none.
    #[inline(never)]
    pub fn first(times: &[Option<Self>]) -> Option<Self> {
        times.iter().copied().flatten().min()
    }
}

impl Default for Instant {
    fn default() -> Self {
        Self::ZERO
    }
}

impl From<u64> for Instant {
    fn from(micros: u64) -> Self {
        Self::from_micros(micros)
    }
}

impl From<Instant> for u64 {
    fn from(instant: Instant) -> Self {
        instant.micros()
    }
}

/// A duration in whole microseconds, at most `u64::MAX`.
#[inline(never)]
pub fn micros(duration: Duration) -> u64 {
    // Not `as_micros`: that is 128 bits wide.
    duration.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(duration.subsec_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_may_be_missing_takes_no_more_room() {
        assert_eq!(size_of::<Option<Instant>>(), size_of::<Instant>());
    }

    #[test]
    fn time_saturates_at_both_ends() {
        assert_eq!(Instant::ZERO.micros(), 0);
        assert_eq!(Instant::from_micros(u64::MAX), Instant::END);
        assert_eq!(Instant::END.after(Duration::from_secs(1)), Instant::END);
        assert_eq!(Instant::ZERO.since(Instant::END), Duration::ZERO);
        assert_eq!(Instant::from_millis(7).micros(), 7000);
        assert_eq!(micros(Duration::MAX), u64::MAX);
    }

    #[test]
    fn the_first_time_is_found_among_missing_ones() {
        let (soon, late) = (Instant::from_millis(1), Instant::from_millis(2));
        assert_eq!(Instant::first(&[None, Some(late), Some(soon), None]), Some(soon));
        assert_eq!(Instant::first(&[None]), None);
    }
}
