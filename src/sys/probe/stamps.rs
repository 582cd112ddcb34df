//! When a datagram came in: the kernel's time stamp, on the engine's clock.
//!
//! The kernel stamps by the wall clock. Both clocks run at the same speed, so their distance only changes when somebody
//! sets the wall clock; a stamp that makes no sense by the distance now is tried by the one before. What still makes no
//! sense counts as just now, and nothing counts as earlier than its own probe.

use crate::time::{Duration, Instant};

/// The distance is read with this much error: between the two clocks the thread may lose the processor.
const SLACK: i64 = 1000;

/// The distance between the clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamps {
    distance: i64,
    before: i64,
}

impl Stamps {
    /// Reads both clocks. Must be called with each sending and each reading, so that a step is noticed.
    pub fn look(&mut self, now: Instant, wall: i64) {
        let distance = wall.saturating_sub(signed(now));
        if distance.saturating_sub(self.distance).unsigned_abs() > SLACK.unsigned_abs() {
            self.before = self.distance;
        }
        self.distance = distance;
    }

    /// When it was `stamp` on the wall clock, which was not before `sent` and is not after `now`.
    pub fn instant(&self, stamp: Option<i64>, sent: Instant, now: Instant) -> Instant {
        let Some(stamp) = stamp else { return now };
        let (earliest, latest) = (signed(sent).saturating_sub(SLACK), signed(now).saturating_add(SLACK));
        let by = |distance: i64| Some(stamp.saturating_sub(distance)).filter(|at| (earliest..=latest).contains(at));
        let Some(at) = by(self.distance).or_else(|| by(self.before)) else { return now };
        Instant::from_micros(u64::try_from(at).unwrap_or(0)).clamp(sent, now.max(sent))
    }

    /// A moment before the oldest probe that a datagram stamped like this may answer: for answers that do not say which.
    pub fn earliest(&self, stamp: Option<i64>, now: Instant) -> Instant {
        self.instant(stamp, Instant::ZERO, now).after(Duration::from_micros(SLACK.unsigned_abs()))
    }
}

fn signed(at: Instant) -> i64 {
    i64::try_from(at.micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: i64 = 1_700_000_000_000_000;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn wall(millis: i64) -> i64 {
        WALL + millis * 1000
    }

    #[test]
    fn a_stamp_is_older_than_its_reading() {
        let mut stamps = Stamps::default();
        stamps.look(at(1000), wall(0));
        stamps.look(at(1500), wall(500));
        assert_eq!(stamps.instant(Some(wall(20)), at(1000), at(1500)), at(1020));
        assert_eq!(stamps.instant(None, at(1000), at(1500)), at(1500));
    }

    #[test]
    fn a_step_of_the_wall_clock_does_not_matter() {
        for step in [3_600_000, -3_600_000, 86_400_000 * 365] {
            let mut stamps = Stamps::default();
            stamps.look(at(1000), wall(0));
            stamps.look(at(1500), wall(500 + step));
            assert_eq!(stamps.instant(Some(wall(20)), at(1000), at(1500)), at(1020), "stamped before the step");
            assert_eq!(stamps.instant(Some(wall(40 + step)), at(1000), at(1500)), at(1040), "stamped after it");
            assert_eq!(stamps.instant(Some(wall(7)), at(1400), at(1500)), at(1500), "nonsense is now");
        }
    }

    #[test]
    fn nothing_is_answered_before_it_was_sent_or_after_now() {
        let mut stamps = Stamps::default();
        stamps.look(at(1000), wall(0));
        assert_eq!(stamps.instant(Some(wall(0) - 900), at(1000), at(1001)), at(1000));
        assert_eq!(stamps.instant(Some(wall(1) + 900), at(1000), at(1001)), at(1001));
    }
}
