//! Decides whether one target answers: silence, counts, and what the last trouble was.
//!
//! A target is lost when so many probes in a row are unanswered and the last of them had the time to be answered
//! ([`Track::grace`]): one interval less than counting timeouts would cost. It is back after so many good rounds.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::window::ProbeWindow;
use crate::config::ProbeConfig;
use crate::config::probe::Quality;
use crate::engine::event::Refusal;
use crate::time::{Duration, Instant, micros};
use crate::types::{Errno, IfIndex};

/// What is thought of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Nothing was heard yet.
    #[default]
    Unknown,
    /// It answers.
    Good,
    /// It does not.
    Bad,
}

/// Why there was no answer, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// None known.
    #[default]
    None,
    /// Silence.
    NoAnswer,
    /// Somebody said no.
    Refused(Refusal),
    /// The kernel did not send it.
    CannotSend(Errno),
    /// The uplink has no address of the family.
    NoAddress,
    /// The uplink's table has no default route.
    NoRoute,
    /// The name was not resolved.
    NoName,
}

/// One target of one uplink.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Track {
    /// Its last probes.
    pub window: ProbeWindow,
    /// What is thought of it.
    pub verdict: Verdict,
    /// It fails by every uplink that asks it: it is to blame, not they.
    pub sick: bool,
    /// Loss or latency are over their limits.
    pub poor: bool,
    /// Why the last probe that failed did so.
    pub trouble: Trouble,
    /// Its address, once known.
    pub addr: Option<IpAddr>,
    /// When the last answer in time came in.
    pub last_good: Option<Instant>,
    /// When it is probed next.
    pub(in crate::engine) next_at: Instant,
    /// When the name is to be resolved again.
    pub(in crate::engine) resolve_at: Instant,
    /// The next probe was put off; what traffic shows may call it back.
    pub(in crate::engine) held: bool,
    /// What the probes of this life have in common.
    pub(in crate::engine) path: Option<(IpAddr, IpAddr, IfIndex)>,
    pub(in crate::engine) life: u16,
    seq: u16,
    /// Probes since the newest that was answered.
    unanswered: u16,
    /// Answers in time since the last failed round, up to the newest answer.
    run: u16,
    /// Probes of this life.
    lived: u16,
    /// The newest probe was refused: waiting for its answer is in vain.
    final_word: bool,
    /// Smoothed round-trip time and its deviation, microseconds (RFC 6298); 0 before the first answer.
    srtt: u32,
    rttvar: u32,
    /// When the silence began to be blamed on the target, until somebody vouches for it.
    pub(in crate::engine) doubted_since: Option<Instant>,
}

impl Track {
    /// A probe goes out; its number.
    pub fn sent(&mut self, config: &ProbeConfig, now: Instant) -> u16 {
        self.window.expire(config.timeout, now);
        self.window.sent(now);
        self.seq = self.seq.wrapping_add(1);
        self.unanswered = self.unanswered.saturating_add(1);
        self.lived = self.lived.saturating_add(1);
        self.final_word = false;
        self.seq
    }

    fn back(&self, seq: u16) -> u16 {
        self.seq.wrapping_sub(seq)
    }

    /// An answer came in at `at`. Returns how long it took, if it was one that we waited for.
    pub fn answered(&mut self, seq: u16, at: Instant, config: &ProbeConfig) -> Option<Duration> {
        let back = self.back(seq);
        let rtt = self.window.answered(back, at)?;
        self.estimate(u32::try_from(micros(rtt)).unwrap_or(u32::MAX));
        self.unanswered = self.unanswered.min(back);
        self.final_word &= back != 0;
        self.last_good = self.last_good.max(Some(at));
        self.doubted_since = None;
        if rtt <= config.timeout {
            // Counted anew with each answer, because answers are read late and out of order: whether a round has failed
            // is known only once everything that waits was read.
            self.run = self.window.run(back, self.lived.saturating_sub(back), config.count, config.timeout);
        }
        let enough = match self.verdict {
            Verdict::Good => true,
            Verdict::Unknown => config.initial_online || self.run >= self.rise(config),
            Verdict::Bad => self.run >= self.rise(config),
        };
        if enough {
            self.verdict = Verdict::Good;
            self.trouble = Trouble::None;
        }
        Some(rtt)
    }

    fn rise(&self, config: &ProbeConfig) -> u16 {
        u16::from(config.rise).max(1).min(crate::limits::PROBE_SLOTS as u16 - 1)
    }

    /// Probes in a row that must fail until the target is lost.
    fn fall(config: &ProbeConfig) -> u16 {
        (u16::from(config.fall).max(1) * u16::from(config.count).max(1)).min(crate::limits::PROBE_SLOTS as u16 - 1)
    }

    /// RFC 6298 section 2, in integers.
    fn estimate(&mut self, rtt: u32) {
        if self.srtt == 0 {
            self.srtt = rtt.max(1);
            self.rttvar = rtt / 2;
            return;
        }
        let deviation = self.srtt.abs_diff(rtt);
        self.rttvar = self.rttvar - self.rttvar / 4 + deviation / 4;
        self.srtt = (self.srtt - self.srtt / 8 + rtt / 8).max(1);
    }

    /// A probe was refused or could not be sent. Returns whether it was one that we waited for.
    pub fn failed(&mut self, seq: u16, trouble: Trouble) -> bool {
        let back = self.back(seq);
        if back >= self.unanswered {
            return false;
        }
        self.window.refused(back);
        self.trouble = trouble;
        // An ICMP error can be forged by who cannot see the probe; the others are the target's or the kernel's own word.
        let own_word = !matches!(trouble, Trouble::Refused(Refusal::Unreachable | Refusal::Expired));
        self.final_word |= own_word && back == 0;
        true
    }

    /// How long an answer may take before its absence counts: as long as answers were seen to take, and some.
    pub fn grace(&self, config: &ProbeConfig) -> Duration {
        if self.srtt == 0 {
            return config.timeout;
        }
        let floor = u32::try_from(micros(config.interval) / 10).unwrap_or(u32::MAX).clamp(2_000, 100_000);
        let usual = self.srtt.saturating_add(self.rttvar.saturating_mul(4).max(self.srtt / 4));
        Duration::from_micros(u64::from(usual.max(floor))).min(config.timeout)
    }

    /// Since when the oldest probe waits that came after the newest answer.
    fn waits(&self, now: Instant) -> Option<Duration> {
        self.window.age(self.unanswered.checked_sub(1)?, now)
    }

    /// Whether an answer is overdue: the next probe should come sooner.
    pub fn is_late(&self, config: &ProbeConfig, now: Instant) -> bool {
        self.waits(now).is_some_and(|waits| waits >= self.grace(config))
    }

    /// When an answer will be overdue; `None` without a probe under way.
    pub(in crate::engine) fn late_at(&self, config: &ProbeConfig, now: Instant) -> Option<Instant> {
        let waits = self.waits(now)?;
        Some(now.after(self.grace(config).saturating_sub(waits)))
    }

    /// When the target counts as lost if nothing is heard until then; `None` before the last probe of the row was sent.
    pub(in crate::engine) fn lost_at(&self, config: &ProbeConfig, now: Instant) -> Option<Instant> {
        let fall = Self::fall(config);
        if self.verdict == Verdict::Bad || self.unanswered < fall {
            return None;
        }
        if self.final_word {
            return Some(now);
        }
        let age = self.window.age(self.unanswered.min(crate::limits::PROBE_SLOTS as u16) - fall, now)?;
        Some(now.after(self.grace(config).saturating_sub(age)))
    }

    /// Whether the way back up is being counted.
    pub(in crate::engine) fn rises(&self) -> bool {
        self.verdict == Verdict::Bad && self.run > 0
    }

    /// It is lost.
    pub(in crate::engine) fn lose(&mut self) {
        self.verdict = Verdict::Bad;
        self.run = 0;
        self.doubted_since = None;
        if matches!(self.trouble, Trouble::None) {
            self.trouble = Trouble::NoAnswer;
        }
    }

    /// Another address, device or path: probes of the life before are strangers. What is thought of it stays until
    /// the new path has shown otherwise.
    pub(in crate::engine) fn restart(&mut self, now: Instant) {
        self.life = self.life.wrapping_add(1);
        self.unanswered = 0;
        self.run = 0;
        self.lived = 0;
        self.final_word = false;
        self.doubted_since = None;
        self.next_at = now;
    }

    /// The link is gone: what was thought of the target is too.
    pub(in crate::engine) fn forget(&mut self, now: Instant) {
        if self.path.take().is_some() || self.verdict != Verdict::Unknown {
            self.restart(now);
            self.verdict = Verdict::Unknown;
            self.sick = false;
            self.poor = false;
            self.trouble = Trouble::None;
            (self.srtt, self.rttvar) = (0, 0);
        }
    }

    /// Looks at loss and latency. Between the limits the opinion stays as it is; a share of few probes must be further
    /// off to count, by two standard deviations.
    pub(in crate::engine) fn judge_quality(&mut self, quality: &Quality) {
        let report = self.window.report();
        if report.judged < 5 {
            return;
        }
        let (n, lost) = (u32::from(report.judged), u32::from(report.lost));
        let share = |limit: u16| n * u32::from(limit);
        // In thousandths of a probe: sqrt(n p (1 - p)) with p in thousandths is sqrt(n p (1000 - p)) thousandths.
        let deviation = |limit: u16| root(share(limit) * (1000 - u32::from(limit).min(1000)));
        let (fail, recover) = (quality.failure_loss.0, quality.recovery_loss.0);
        let lossy = lost > 0 && 1000 * lost >= share(fail) + 2 * deviation(fail);
        let clean = 1000 * lost <= share(recover).saturating_sub(2 * deviation(recover));
        let (slow, quick) = match report.rtt {
            Some(rtt) => (rtt >= quality.failure_latency, rtt <= quality.recovery_latency),
            // Nothing was answered: that is for the loss to say.
            None => (false, false),
        };
        if lossy || slow {
            self.poor = true;
        } else if clean && quick {
            self.poor = false;
        }
    }
}

/// The whole part of a square root, bit by bit: the library's is half a kilobyte of code.
fn root(n: u32) -> u32 {
    let mut root: u32 = 0;
    for bit in (0..16).rev() {
        let more = root | 1 << bit;
        if more * more <= n {
            root = more;
        }
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn config(interval: u64) -> ProbeConfig {
        ProbeConfig { interval: Duration::from_millis(interval), ..ProbeConfig::default() }
    }

    #[test]
    fn a_root_is_the_librarys() {
        let edges = (0..=u32::from(u16::MAX)).flat_map(|n| [n * n, (n * n).saturating_sub(1), n]);
        assert!(edges.chain([u32::MAX]).all(|n| root(n) == n.isqrt()));
    }

    #[test]
    fn three_unanswered_probes_and_a_round_trip_are_enough() {
        let config = config(50);
        let mut track = Track::default();
        for n in 0..10 {
            let seq = track.sent(&config, at(50 * n));
            assert_eq!(track.answered(seq, at(50 * n + 10), &config), Some(Duration::from_millis(10)));
        }
        assert_eq!(track.verdict, Verdict::Good);
        for n in 10..12 {
            track.sent(&config, at(50 * n));
            assert_eq!(track.lost_at(&config, at(50 * n + 49)), None);
        }
        track.sent(&config, at(600));
        let lost = track.lost_at(&config, at(600)).expect("a time is known");
        assert!(lost > at(610) && lost < at(630), "{lost:?}");
    }

    #[test]
    fn an_answer_in_between_begins_the_row_anew() {
        let config = config(50);
        let mut track = Track::default();
        let first = track.sent(&config, at(0));
        track.answered(first, at(1), &config);
        let seqs = [50, 100, 150].map(|t| track.sent(&config, at(t)));
        assert!(track.lost_at(&config, at(150)).is_some());
        // The answer to the one in the middle leaves one unanswered.
        track.answered(seqs[1], at(160), &config);
        assert_eq!(track.lost_at(&config, at(160)), None);
        assert_eq!(track.unanswered, 1);
    }

    #[test]
    fn a_lost_target_is_back_after_so_many_good_rounds() {
        let config = config(50);
        let mut track = Track::default();
        track.lose();
        for n in 0..3 {
            assert_eq!(track.verdict, Verdict::Bad);
            let seq = track.sent(&config, at(50 * n));
            track.answered(seq, at(50 * n + 1), &config);
        }
        assert_eq!(track.verdict, Verdict::Good);
    }

    #[test]
    fn a_refusal_by_the_target_itself_is_not_waited_for() {
        let config = config(500);
        let mut track = Track::default();
        for n in 0..3 {
            let seq = track.sent(&config, at(500 * n));
            track.failed(seq, Trouble::Refused(Refusal::Closed));
        }
        assert_eq!(track.lost_at(&config, at(1001)), Some(at(1001)));
        assert_eq!(track.trouble, Trouble::Refused(Refusal::Closed));
    }

    #[test]
    fn strangers_answers_change_nothing() {
        let config = config(50);
        let mut track = Track::default();
        let seq = track.sent(&config, at(0));
        assert_eq!(track.answered(seq.wrapping_add(1), at(1), &config), None);
        assert_eq!(track.answered(seq.wrapping_sub(7), at(1), &config), None);
        assert_eq!(track.verdict, Verdict::Unknown);
    }

    #[test]
    fn between_the_limits_the_opinion_stays() {
        let quality = Quality {
            failure_latency: 1_000_000,
            recovery_latency: 500_000,
            failure_loss: crate::types::Permille(200),
            recovery_loss: crate::types::Permille(100),
        };
        let config = config(50);
        let mut track = Track::default();
        let fill = |track: &mut Track, percent: u64| {
            for n in 0..crate::limits::PROBE_SLOTS as u64 {
                let seq = track.sent(&config, at(10_000 * n));
                if n * 37 % 100 >= percent {
                    track.answered(seq, at(10_000 * n + 5), &config);
                }
            }
            track.window.expire(config.timeout, at(100_000_000));
            track.judge_quality(&quality);
            track.poor
        };
        assert!(!fill(&mut track, 15));
        assert!(fill(&mut track, 50));
        assert!(fill(&mut track, 15));
        assert!(!fill(&mut track, 0));
    }
}
