//! Decides which notices are worth a line in the log: whoever has much to tell is heard less often.
//!
//! Each uplink, each policy, and everything else together may write [`BURST`] lines at once and one more every
//! [`EVERY`]; so no flapping link fills a router's log or hides another's lines. What was not written is counted and
//! told with the next line. The journal and whoever follows it get everything.

use crate::engine::Notice;
use crate::limits;
use crate::time::{Duration, Instant, micros};

/// Lines at once: four uplinks' bursts are a third of the 64 KiB that OpenWrt's log holds.
const BURST: u32 = 48;
/// Then one in this time.
const EVERY: Duration = Duration::from_secs(5);
/// Who is rationed: uplinks, then policies, then all the rest as one.
const SUBJECTS: usize = limits::UPLINKS + limits::POLICIES + 1;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    lines: u32,
    since: Instant,
    hidden: u32,
}

/// What everybody has left.
#[derive(Debug)]
pub struct Ration {
    buckets: [Bucket; SUBJECTS],
}

impl Default for Ration {
    fn default() -> Self {
        Self { buckets: [Bucket { lines: BURST, since: Instant::ZERO, hidden: 0 }; SUBJECTS] }
    }
}

impl Ration {
    /// Whether the notice is to be written, and how many before it were not; `None` when it is not.
    pub fn take(&mut self, notice: &Notice, now: Instant) -> Option<u32> {
        let subject = match notice {
            Notice::Uplink { uplink, .. } | Notice::Bounced { uplink, .. } => usize::from(uplink.0),
            Notice::Switched { policy, .. } => limits::UPLINKS + usize::from(policy.0),
            _ => SUBJECTS - 1,
        };
        let bucket = self.buckets.get_mut(subject)?;
        let every = micros(EVERY);
        let earned = u32::try_from(micros(now.since(bucket.since)) / every).unwrap_or(u32::MAX);
        bucket.lines = bucket.lines.saturating_add(earned).min(BURST);
        bucket.since = if bucket.lines == BURST { now } else { bucket.since.after(EVERY.saturating_mul(earned)) };
        if bucket.lines == 0 {
            bucket.hidden = bucket.hidden.saturating_add(1);
            return None;
        }
        bucket.lines -= 1;
        Some(std::mem::take(&mut bucket.hidden))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::UplinkSlot;

    fn bounced(uplink: u8) -> Notice {
        Notice::Bounced { uplink: UplinkSlot(uplink), count: 1 }
    }

    #[test]
    fn a_flapping_uplink_is_heard_less_often_and_hides_nobody() {
        let mut ration = Ration::default();
        let at = Instant::from_millis;
        let written: Vec<u32> = (0..1000).filter_map(|n| ration.take(&bounced(0), at(10 * n))).collect();
        assert_eq!(written.len(), 48 + 1, "a burst, and one more in ten seconds less than two");
        assert_eq!(ration.take(&bounced(1), at(9_999)), Some(0), "another is heard");
        let told = written.iter().sum::<u32>() + ration.take(&bounced(0), at(20_000)).unwrap_or(0);
        assert_eq!(told, 1000 - 49, "what was hidden is counted");
        assert_eq!(ration.take(&bounced(0), at(3_600_000)), Some(0));
    }

    #[test]
    fn one_line_now_and_then_is_always_written() {
        let mut ration = Ration::default();
        assert!((0..1000).all(|n| ration.take(&bounced(0), Instant::from_millis(5_000 * n)) == Some(0)));
    }
}
