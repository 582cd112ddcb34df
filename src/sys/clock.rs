//! The only reader of clocks. Everything runs on the monotonic one; the wall clock is only read to understand the
//! kernel's time stamps, and never decides.

use serde::Serialize;

use crate::time::{Duration, Instant, micros};

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
        Instant::from_micros(micros(self.start.elapsed()))
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// The beginning of the kernel's `boot_id`; 0 when that cannot be read.
    pub id: u32,
    /// Seconds since the boot, suspended ones included.
    pub seconds: u32,
}

impl Boot {
    /// As the kernel says it now. In a jail without `/proc` only the time is known: then any boot may be meant, unless it
    /// would have begun in the future; the state file is in tmpfs, and gone after a boot.
    pub fn read() -> Self {
        let id = super::file::text("/proc/sys/kernel/random/boot_id".as_ref()).ok();
        // SAFETY: plain numbers, of which any value is valid, and a call that writes them.
        let uptime = unsafe {
            let mut info: libc::sysinfo = std::mem::zeroed();
            libc::sysinfo(&raw mut info);
            info.uptime
        };
        Self { id: id.map_or(0, |id| Self::number(&id)), seconds: u32::try_from(uptime).unwrap_or(0) }
    }

    fn number(id: &str) -> u32 {
        id.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }

    /// So much later in the same boot.
    pub fn after(self, time: Duration) -> Self {
        Self { seconds: self.seconds.saturating_add(u32::try_from(time.as_secs()).unwrap_or(u32::MAX)), ..self }
    }

    /// How long ago `earlier` was; `None` when that was another boot.
    pub fn since(&self, earlier: &Self) -> Option<Duration> {
        let same = self.id == earlier.id || self.id == 0 || earlier.id == 0;
        self.seconds.checked_sub(earlier.seconds).filter(|_| same).map(|s| Duration::from_secs(s.into()))
    }
}

/// The monotonic clock as the system counts it.
pub fn monotonic() -> std::time::Instant {
    std::time::Instant::now()
}

/// The wall clock, microseconds since 1970; negative before.
pub fn wall() -> i64 {
    let micros = |d| i64::try_from(micros(d)).unwrap_or(i64::MAX);
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
        let at = |id: &str, seconds| Boot { id: Boot::number(id), seconds };
        let id = "c7a1e5d0-0a6b-4d8e-9c39-1b1f4d6f7a11\n";
        let (early, late) = (at(id, 41), at(id, 41).after(Duration::from_millis(60_900)));
        assert_eq!(late.since(&early), Some(Duration::from_secs(60)));
        assert_eq!(early.since(&late), None);
        assert_eq!(at("00000001-0a6b", 500).since(&early), None);
        // Whose boot is not known may be any; so may one that is no number.
        assert_eq!(at("", 42).since(&early), Some(Duration::from_secs(1)));
        assert_eq!(at("\u{fc}\u{fc}\u{fc}\u{fc}-", 42).id, 0);
    }
}
