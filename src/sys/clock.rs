//! The only reader of clocks. Everything runs on the monotonic one; the wall clock is only read to understand the
//! kernel's time stamps, and never decides.

use serde::{Deserialize, Serialize};

use crate::time::{Duration, Instant};

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

/// Which boot of the machine this is, and the time since it: what a state file needs to tell how old it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The beginning of the kernel's `boot_id`.
    pub id: u32,
    /// Seconds since the boot, suspended ones included.
    pub seconds: u32,
}

impl Boot {
    /// As the kernel says it now; `None` where it does not, as in some sandboxes.
    pub fn read() -> Option<Self> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        Self::parse(&id, &uptime)
    }

    fn parse(id: &str, uptime: &str) -> Option<Self> {
        let id = u32::from_str_radix(id.get(..8)?, 16).ok()?;
        Some(Self { id, seconds: uptime.split('.').next()?.parse().ok()? })
    }

    /// How long ago `earlier` was; `None` when that was another boot.
    pub fn since(&self, earlier: &Self) -> Option<Duration> {
        (self.id == earlier.id).then(|| Duration::from_secs(self.seconds.saturating_sub(earlier.seconds).into()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_boot_has_one_time() {
        let at = |id: &str, uptime: &str| Boot::parse(id, uptime);
        let early = at("c7a1e5d0-0a6b-4d8e-9c39-1b1f4d6f7a11\n", "41.27 70.11\n").expect("as the kernel writes it");
        let late = at("c7a1e5d0-0a6b-4d8e-9c39-1b1f4d6f7a11\n", "101.00 0.00\n").expect("as the kernel writes it");
        let other = at("00000001-0a6b-4d8e-9c39-1b1f4d6f7a11\n", "500.00 0.00\n").expect("as the kernel writes it");
        assert_eq!(late.since(&early), Some(Duration::from_secs(60)));
        assert_eq!(early.since(&late), Some(Duration::ZERO));
        assert_eq!(other.since(&early), None);
        assert_eq!([at("", "1.0"), at("c7a1e5d0-", ""), at("\u{fc}\u{fc}\u{fc}\u{fc}-", "1.0")], [None; 3]);
    }
}
