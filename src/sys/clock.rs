//! The only reader of clocks. Everything runs on the monotonic one; the wall clock is only read to understand the
//! kernel's time stamps, and never decides.

use crate::time::Instant;

/// A clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// Starts it.
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    /// What time it is.
    pub fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Seconds since 1970 by the system's clock: for people to read, never to decide by.
    pub fn wall(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.ok().and_then(|d| i64::try_from(d.as_secs()).ok()).unwrap_or(0)
    }

    /// An engine's instant as the reactor wants it.
    pub fn deadline(&self, at: Instant) -> std::time::Instant {
        self.start + std::time::Duration::from_micros(at.micros())
    }
}

/// The monotonic clock as the system counts it.
pub fn monotonic() -> std::time::Instant {
    std::time::Instant::now()
}

/// The wall clock, microseconds since 1970; negative before.
pub fn wall() -> i64 {
    let micros = |d: std::time::Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => micros(since),
        Err(before) => micros(before.duration()).saturating_neg(),
    }
}
