//! Decides who is to blame when a target does not answer: the uplink, or the target.
//!
//! A target is believed to have failed by an uplink only if somebody vouches for it: another uplink heard from it
//! since, or no other uplink asks it. A target that fails by every uplink at the same time is sick itself and moves
//! nobody. Whoever could vouch but was not asked lately is asked at once.

use super::Engine;
use super::event::{ProbeId, ProbeOutcome};
use super::notice::Notice;
use super::probe::{Reach, Track, Trouble, Verdict};
use crate::config::ProbeConfig;
use crate::config::probe::Host;
use crate::time::{Duration, Instant};
use crate::types::{Family, UplinkSlot};

/// Added to how long a voucher may take: it is asked and read by timers of the loop.
const VOUCHER_SLACK: Duration = Duration::from_millis(20);

/// What the other uplinks say of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Nobody else asks it, or somebody heard from it since.
    Blame,
    /// Whoever asks it hears nothing either.
    Sick,
    /// Somebody has to be asked; the answer is there after so long.
    Wait(Duration),
}

impl Engine {
    /// What became of a probe. Returns whether anything is to be judged anew.
    pub(super) fn probed(&mut self, id: ProbeId, outcome: ProbeOutcome, at: Instant, now: Instant) -> bool {
        let place = usize::from(id.uplink.0);
        let (Some(config), Some(uplink)) = (self.config.uplinks.get(place), self.uplinks.get_mut(place)) else {
            return false;
        };
        let Some(track) = uplink.probing.tracks.get_mut(usize::from(id.track)).filter(|t| t.life == id.life) else {
            return false;
        };
        let before = (track.verdict, track.poor, track.rises());
        let waiting = track.lost_at(&config.probe, now).is_some();
        match outcome {
            ProbeOutcome::Answered => {
                let rtt = track.answered(id.seq, at.min(now), &config.probe);
                if let Some(rtt) = rtt {
                    let sent = Instant::from_micros(at.micros().saturating_sub(crate::time::micros(rtt)));
                    uplink.probing.history.answered(sent, rtt);
                    self.counters.probes_answered = self.counters.probes_answered.saturating_add(1);
                }
            }
            ProbeOutcome::Refused(refusal) => {
                track.failed(id.seq, Trouble::Refused(refusal));
            }
            ProbeOutcome::NotSent(errno) => {
                track.failed(id.seq, Trouble::CannotSend(errno));
            }
        }
        if let Some(quality) = &config.probe.quality {
            track.judge_quality(quality);
        }
        let turned = before.2 != track.rises();
        let judged_anew = before != (track.verdict, track.poor, track.rises());
        if turned {
            // The way back up has a pace of its own.
            track.next_at = track.next_at.min(now.after(config.probe.recovery_interval));
            self.probe_at = None;
        }
        judged_anew || waiting || track.lost_at(&config.probe, now).is_some() || self.doubts > 0
    }

    /// Looks at every target: which is lost, which is sick, which families of uplinks still reach.
    pub(super) fn judge_probes(&mut self, now: Instant) {
        self.doubts = 0;
        for (config, uplink) in self.config.uplinks.iter().zip(&mut self.uplinks) {
            for family in Family::BOTH.into_iter().filter(|f| config.probe.tracks(*f)) {
                if uplink.usable(config, family).is_err() {
                    uplink.probing.forget(&config.probe, family, now);
                }
            }
        }
        for at in 0..self.uplinks.len() {
            for track in 0..self.uplinks.get(at).map_or(0, |u| u.probing.tracks.len()) {
                self.judge_track(at, track, now);
            }
        }
        for at in 0..self.uplinks.len() {
            for family in Family::BOTH {
                self.judge_family(at, family, now);
            }
        }
    }

    fn track(&self, at: usize, track: usize) -> Option<(&ProbeConfig, &Track)> {
        let config = &self.config.uplinks.get(at)?.probe;
        Some((config, self.uplinks.get(at)?.probing.tracks.get(track)?))
    }

    fn track_mut(&mut self, at: usize, track: usize) -> Option<&mut Track> {
        self.uplinks.get_mut(at)?.probing.tracks.get_mut(track)
    }

    fn judge_track(&mut self, at: usize, place: usize, now: Instant) {
        let Some((config, track)) = self.track(at, place) else { return };
        let lost = track.lost_at(config, now).is_some_and(|lost| lost <= now);
        if track.sick {
            return self.judge_sick(at, place, now);
        }
        if !lost {
            return;
        }
        let doubted_since = track.doubted_since.unwrap_or(now);
        match self.word(at, place, now) {
            Word::Wait(time) if now.since(doubted_since) < time => {
                self.doubts = self.doubts.saturating_add(1);
                if let Some(track) = self.track_mut(at, place).filter(|t| t.doubted_since.is_none()) {
                    track.doubted_since = Some(now);
                    self.ask_vouchers(at, place, now);
                }
            }
            Word::Blame => {
                if let Some(track) = self.track_mut(at, place) {
                    track.lose();
                }
            }
            Word::Sick | Word::Wait(_) => {
                if let Some(track) = self.track_mut(at, place) {
                    track.lose();
                    track.sick = true;
                }
                self.tell_sick(at, place, true);
            }
        }
    }

    /// A sick target stays so until it answers here, or has been answering elsewhere for as long as a loss takes.
    fn judge_sick(&mut self, at: usize, place: usize, now: Instant) {
        let Some((config, track)) = self.track(at, place) else { return };
        if track.verdict == Verdict::Good {
            if let Some(track) = self.track_mut(at, place) {
                track.sick = false;
                track.doubted_since = None;
            }
            self.tell_sick(at, place, false);
            return;
        }
        let patience = (config.interval * u32::from(config.fall.max(1))).saturating_add(track.grace(config));
        let (doubted_since, heard) = (track.doubted_since, self.heard_elsewhere(at, place));
        let blamed = heard && doubted_since.is_some_and(|since| now.since(since) >= patience);
        let Some(track) = self.track_mut(at, place) else { return };
        if blamed {
            track.sick = false;
            track.doubted_since = None;
        } else if heard && doubted_since.is_none() {
            track.doubted_since = Some(now);
        } else if !heard {
            track.doubted_since = None;
        }
        if !blamed && heard {
            self.doubts = self.doubts.saturating_add(1);
        }
    }

    /// One notice when the first uplink finds out, one when the last has forgotten.
    fn tell_sick(&mut self, at: usize, place: usize, sick: bool) {
        let mut others = false;
        self.each_twin(at, place, &mut |_, _, _, twin| others |= twin.sick);
        if !others {
            self.notices.push(Notice::TargetSick { uplink: UplinkSlot(at as u8), track: place as u8, sick });
        }
    }

    /// Shows the same target, asked the same way by other uplinks that could reach it: where it is, and how it is asked.
    fn each_twin(&self, at: usize, place: usize, show: &mut dyn FnMut(usize, usize, &ProbeConfig, &Track)) {
        let Some((my_config, my_track)) = self.track(at, place) else { return };
        let Some(mine) = my_config.targets.get(place) else { return };
        for (n, (config, uplink)) in self.config.uplinks.iter().zip(&self.uplinks).enumerate() {
            let probe = &config.probe;
            if n == at || probe.method != my_config.method {
                continue;
            }
            for (k, (target, track)) in probe.targets.iter().zip(&uplink.probing.tracks).enumerate() {
                let same_host = match (&mine.host, &target.host) {
                    (Host::Gateway, _) | (_, Host::Gateway) => false,
                    (a, b) if a == b => true,
                    _ => my_track.addr.is_some() && my_track.addr == track.addr,
                };
                if same_host && mine.family == target.family && uplink.usable(config, target.family).is_ok() {
                    show(n, k, probe, track);
                }
            }
        }
    }

    fn heard_elsewhere(&self, at: usize, place: usize) -> bool {
        let mut heard = false;
        self.each_twin(at, place, &mut |_, _, _, twin| heard |= twin.verdict == Verdict::Good);
        heard
    }

    fn word(&self, at: usize, place: usize, now: Instant) -> Word {
        let Some((config, track)) = self.track(at, place) else { return Word::Blame };
        // An answer elsewhere vouches if it came when the target, were it sick, had been silent here already.
        let silent_since = track.last_good.map(|good| good.after(config.interval)).unwrap_or(Instant::ZERO);
        let (mut asked, mut heard, mut wait) = (false, false, None);
        self.each_twin(at, place, &mut |_, _, theirs, twin| {
            asked = true;
            heard |= twin.last_good.is_some_and(|good| good > silent_since);
            if twin.verdict == Verdict::Good && twin.lost_at(theirs, now).is_none_or(|at| at > now) {
                wait = wait.max(Some(twin.grace(theirs).saturating_add(VOUCHER_SLACK)));
            }
        });
        match wait {
            _ if heard || !asked => Word::Blame,
            Some(time) => Word::Wait(time),
            None => Word::Sick,
        }
    }

    /// Asks the others for the target now.
    fn ask_vouchers(&mut self, at: usize, place: usize, now: Instant) {
        let mut twins: heapless::Vec<(usize, usize), { crate::limits::UPLINKS }> = heapless::Vec::new();
        self.each_twin(at, place, &mut |n, k, _, _| {
            // One voucher per uplink is plenty: what does not fit is not asked.
            let _ = twins.push((n, k));
        });
        for (n, k) in twins {
            if let Some(track) = self.track_mut(n, k) {
                track.next_at = now;
            }
        }
        self.probe_at = None;
    }

    fn judge_family(&mut self, at: usize, family: Family, now: Instant) {
        let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get_mut(at)) else { return };
        if !config.probe.tracks(family) || uplink.usable(config, family).is_err() {
            return;
        }
        let before = uplink.probing.reach;
        uplink.probing.count(&config.probe, family);
        let (Some(before), Some(after)) = (before.get(family.index()), uplink.probing.reach.get(family.index())) else {
            return;
        };
        if *before == Reach::Good
            && *after == Reach::Bad
            && let (Some(damping), Some(leg)) = (config.damping, uplink.legs.get_mut(family.index()))
        {
            leg.damping.charge(1, &damping, now);
        }
        if before != after {
            self.probe_at = None;
        }
    }

    /// When targets are to be looked at again though nothing is heard.
    pub(super) fn next_judgement(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for (at, (config, uplink)) in self.config.uplinks.iter().zip(&self.uplinks).enumerate() {
            for (place, track) in uplink.probing.tracks.iter().enumerate() {
                let due = if let Some(since) = track.doubted_since {
                    let wait = match (track.sick, self.word(at, place, now)) {
                        (true, _) => {
                            let row = config.probe.interval * u32::from(config.probe.fall.max(1));
                            row.saturating_add(track.grace(&config.probe))
                        }
                        (false, Word::Wait(time)) => time,
                        (false, _) => Duration::ZERO,
                    };
                    Some(since.after(wait))
                } else if track.sick {
                    None
                } else {
                    track.lost_at(&config.probe, now)
                };
                next = Instant::first(&[next, due]);
            }
        }
        next
    }
}
