//! Decides what the probes of one uplink say: whether each family of it reaches the world.
//!
//! One [`Track`] per target with its [`ProbeWindow`]; [`Probing`] counts them up. Who is to blame when a target fails,
//! and when to send, is decided across uplinks in `super::reach` and `super::pace`.

pub mod history;
pub mod track;
pub mod window;

use heapless::Vec;
use serde::{Deserialize, Serialize};

pub use history::History;
pub use track::{Track, Trouble, Verdict};
pub use window::{ProbeWindow, Report};

use super::action::Token;
use super::uplink::Reason;
use crate::config::ProbeConfig;
use crate::limits;
use crate::time::Instant;
use crate::types::Family;

/// Whether a family of an uplink reaches its targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// Not known yet, or not probed.
    #[default]
    Unknown,
    /// Enough targets answer.
    Good,
    /// Too few do.
    Bad,
}

/// The probing of one uplink.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Probing {
    /// By target, in the order of [`ProbeConfig::targets`].
    pub tracks: Vec<Track, { limits::TARGETS }>,
    /// By [`Family::index`].
    pub reach: [Reach; 2],
    /// Its last hour.
    pub history: History,
    /// It stands by and is probed sparingly.
    pub sparing: bool,
    /// What its device carried lately.
    pub(in crate::engine) traffic: Traffic,
    /// When the last probe went out.
    pub(in crate::engine) sent_at: Option<Instant>,
}

/// What a device carried between the last two looks.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    counted: Option<(u32, u32)>,
    /// When that was.
    pub(in crate::engine) at: Option<Instant>,
    /// It went both ways.
    pub(in crate::engine) both_ways: bool,
    /// It went out only.
    pub(in crate::engine) one_way: bool,
    /// The question that has not been answered, and when it was asked.
    pub(in crate::engine) asked: Option<(Token, Instant)>,
}

impl Traffic {
    /// The device has carried so much in all. Both counters wrap.
    pub fn counted(&mut self, received: u32, sent: u32, now: Instant) {
        if let Some((r, s)) = self.counted.replace((received, sent)) {
            let (received, sent) = (received.wrapping_sub(r), sent.wrapping_sub(s));
            // A lone packet may be anybody's broadcast, and so may few among many sent.
            self.both_ways = sent > 0 && received >= 2 && received.saturating_mul(8) >= sent;
            self.one_way = sent >= 3 && received == 0;
        }
        self.at = Some(now);
        self.asked = None;
    }
}

impl Probing {
    /// Tracks for the targets of a configuration.
    pub fn new(config: &ProbeConfig) -> Self {
        let mut probing = Self::default();
        for _ in &config.targets {
            // Cannot fail: the configuration has the same capacity.
            let _ = probing.tracks.push(Track::default());
        }
        probing
    }

    /// Another configuration: targets that are asked the same way keep their story.
    pub fn reconfigure(&mut self, old: &ProbeConfig, new: &ProbeConfig, now: Instant) {
        if old == new {
            return;
        }
        let mut tracks = Vec::new();
        let asked_alike = old.method == new.method
            && (old.port, &old.name, &old.path, old.status) == (new.port, &new.name, &new.path, new.status);
        for target in &new.targets {
            let kept = old.targets.iter().position(|t| asked_alike && t == target).and_then(|at| self.tracks.get(at));
            let mut track = kept.copied().unwrap_or_default();
            track.restart(now);
            // Cannot fail: both have the same capacity.
            let _ = tracks.push(track);
        }
        self.tracks = tracks;
        if new.targets.is_empty() {
            self.reach = [Reach::Unknown; 2];
        }
    }

    /// The tracks of one family, with their places.
    pub fn of<'a>(&'a self, config: &'a ProbeConfig, family: Family) -> impl Iterator<Item = (usize, &'a Track)> {
        config
            .targets
            .iter()
            .zip(&self.tracks)
            .enumerate()
            .filter(move |(_, (t, _))| t.family == family)
            .map(|(at, (_, track))| (at, track))
    }

    /// How many targets of a family must answer: those that are to blame themselves are not asked for.
    fn need(&self, config: &ProbeConfig, family: Family) -> usize {
        let asked_for = self.of(config, family).filter(|(_, t)| !t.sick).count();
        usize::from(config.reliability.max(1)).min(asked_for)
    }

    /// Counts up one family.
    pub fn count(&mut self, config: &ProbeConfig, family: Family) {
        let need = self.need(config, family);
        let judged = |verdicts: &[Verdict]| {
            self.of(config, family).filter(|(_, t)| !t.sick && verdicts.contains(&t.verdict)).count()
        };
        // What is sick keeps nobody down and lifts nobody up.
        let (good, open) = (judged(&[Verdict::Good]), judged(&[Verdict::Good, Verdict::Unknown]));
        let Some(reach) = self.reach.get(family.index()).copied() else { return };
        let next = match reach {
            _ if open < need => Reach::Bad,
            _ if good >= need.max(1) => Reach::Good,
            Reach::Bad | Reach::Unknown => reach,
            // The last good target was taken out as sick: nobody is moved by that.
            Reach::Good => Reach::Good,
        };
        if let Some(reach) = self.reach.get_mut(family.index()) {
            *reach = next;
        }
    }

    /// Why a family does not reach: what the first failing target has to say.
    pub fn reason(&self, config: &ProbeConfig, family: Family) -> Reason {
        let mut troubles = self.of(config, family).filter(|(_, t)| t.verdict == Verdict::Bad && !t.sick);
        match troubles.next().map(|(_, t)| t.trouble) {
            Some(Trouble::Refused(_)) => Reason::Refused,
            Some(Trouble::CannotSend(_)) => Reason::CannotSend,
            Some(Trouble::NoName) => Reason::NoName,
            _ => Reason::NoAnswer,
        }
    }

    /// Whether too few targets of a family answer well, and how.
    pub fn poor(&self, config: &ProbeConfig, family: Family) -> Option<Reason> {
        let quality = config.quality?;
        let well = self.of(config, family).filter(|(_, t)| !t.sick && !t.poor && t.verdict != Verdict::Bad).count();
        if well >= self.need(config, family) {
            return None;
        }
        let slow = |t: &Track| t.window.report().rtt.is_some_and(|rtt| rtt >= quality.failure_latency);
        let any_slow = self.of(config, family).any(|(_, t)| t.poor && slow(t));
        Some(if any_slow { Reason::Slow } else { Reason::Lossy })
    }

    /// Whether a target of the family that used to answer is overdue.
    pub fn is_late(&self, config: &ProbeConfig, family: Family, now: Instant) -> bool {
        self.of(config, family).any(|(_, t)| t.verdict == Verdict::Good && !t.sick && t.is_late(config, now))
    }

    /// The link is gone.
    pub fn forget(&mut self, config: &ProbeConfig, family: Family, now: Instant) {
        for (target, track) in config.targets.iter().zip(&mut self.tracks) {
            if target.family == family {
                track.forget(now);
            }
        }
        if let Some(reach) = self.reach.get_mut(family.index()) {
            *reach = Reach::Unknown;
        }
        self.traffic = Traffic::default();
    }
}
