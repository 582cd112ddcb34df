//! Time as the engine knows it: microseconds since some start, never wall-clock time.
//!
//! Only `sys` reads a clock; everything else is told. All arithmetic saturates, so no clock can make it panic.

use serde::{Deserialize, Serialize};

pub use core::time::Duration;

/// A point on the monotonic clock, in microseconds since the process (or the pretend world) started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instant {
    micros: u64,
}

impl Instant {
    /// The start of time.
    pub const ZERO: Self = Self { micros: 0 };

    /// The end of time.
    pub const END: Self = Self { micros: u64::MAX };

    /// From microseconds since the start.
    pub const fn from_micros(micros: u64) -> Self {
        Self { micros }
    }

    /// From milliseconds since the start.
    pub const fn from_millis(millis: u64) -> Self {
        Self { micros: millis.saturating_mul(1000) }
    }

    /// Microseconds since the start.
    pub const fn micros(self) -> u64 {
        self.micros
    }

    /// This instant plus `duration`; stays at the end of time when it would go beyond.
    pub fn after(self, duration: Duration) -> Self {
        Self { micros: self.micros.saturating_add(micros(duration)) }
    }

    /// Time passed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(earlier.micros))
    }
}

/// A duration in whole microseconds, at most `u64::MAX`.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
