//! The answer of mwan3's `status`, field by field as mwan3 gives it, for pages and exporters that know nothing else.
//!
//! mwan3 asks its targets in rounds and counts those; what we do not count is made from the windows of the targets:
//!
//! - `score` falls from `down + up` by one for each failed round, not below `up`, as long as it carries traffic. Else it
//!   is the number of good rounds in a row, below `up`. A round is good when `reliability` targets answer.
//! - `lost` are the answers that were missing in the failed rounds since the last good one, of all targets.
//! - `turn` are the rounds that fit into the time since it came up or went down; `age` is the time since the last.
//!
//! A section that is not enabled is there as in mwan3: all numbers 0, the status `unknown`, which pages call disabled.

use crate::config::{ProbeConfig, UplinkConfig};
use crate::engine::probe::{Track, Verdict};
use crate::engine::uplink::Uplink;
use crate::engine::{Engine, Hold, State};
use crate::limits;
use crate::proto::report::{self, Sink, words};
use crate::sort::sort;
use crate::time::{Instant, micros};
use crate::types::{Family, Name, PolicySlot};

/// What mwan3 calls the state of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It carries traffic.
    Online,
    /// It does not.
    Offline,
    /// It is on its way up.
    Connecting,
    /// It still carries traffic, and answers are missing.
    Disconnecting,
}

impl Standing {
    /// Of an uplink; its better family speaks for it.
    pub fn of(config: &UplinkConfig, uplink: &Uplink) -> Self {
        match report::best_leg(config, uplink).state {
            State::Degraded => Self::Disconnecting,
            State::Up => Self::Online,
            State::HoldDown => Self::Connecting,
            State::Absent | State::Down | State::Damped => Self::Offline,
        }
    }

    /// mwan3's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Connecting => "connecting",
            Self::Disconnecting => "disconnecting",
        }
    }

    /// The hotplug action of its begin.
    pub fn action(self) -> &'static str {
        match self {
            Self::Online => "connected",
            Self::Offline => "disconnected",
            Self::Connecting => "connecting",
            Self::Disconnecting => "disconnecting",
        }
    }
}

/// Which parts are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// All; also what an unknown word means.
    All,
    /// `interfaces`
    Interfaces,
    /// `policies`
    Policies,
    /// `connected`
    Connected,
}

impl Section {
    /// From the argument `section`.
    pub fn new(word: Option<&str>) -> Self {
        match word {
            Some("interfaces") => Self::Interfaces,
            Some("policies") => Self::Policies,
            Some("connected") => Self::Connected,
            _ => Self::All,
        }
    }

    fn has(self, part: Self) -> bool {
        self == Self::All || self == part
    }
}

/// What netifd says of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// It is set up.
    pub up: bool,
    /// Since how many seconds.
    pub uptime: u32,
}

/// Whose interface is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logical<'n> {
    /// That of the uplink at this place.
    At(usize),
    /// That of a section that is not enabled.
    Named(&'n Name),
}

/// Writes the answer. `interface` leaves only that one; `logical` knows what netifd says of an uplink; `connected` are
/// the networks on our links, by [`Family::index`].
pub fn status(
    engine: &Engine,
    section: Section,
    interface: Option<&str>,
    logical: &dyn Fn(Logical<'_>) -> Option<Interface>,
    connected: &[Vec<String>; 2],
    now: Instant,
    out: &mut dyn Sink,
) {
    if section.has(Section::Interfaces) {
        out.table("interfaces");
        for (at, (config, uplink)) in engine.uplinks().enumerate() {
            if interface.is_none_or(|name| name == config.name) {
                out.table(&config.name);
                fields(config, uplink, logical(Logical::At(at)), now, out);
                out.end();
            }
        }
        for name in &engine.config().disabled {
            if interface.is_none_or(|wanted| wanted == name) {
                out.table(name);
                disabled(logical(Logical::Named(name)), out);
                out.end();
            }
        }
        out.end();
    }
    if section.has(Section::Connected) {
        out.table("connected");
        for (family, networks) in Family::BOTH.into_iter().zip(connected) {
            out.array(words::family(family));
            networks.iter().for_each(|n| out.text("", n));
            out.end();
        }
        out.end();
    }
    if section.has(Section::Policies) {
        out.table("policies");
        for family in Family::BOTH {
            out.table(words::family(family));
            for (at, policy) in engine.config().policies.iter().enumerate() {
                out.array(&policy.name);
                let (slot, config) = (PolicySlot(at as u8), engine.config());
                let carriers = engine.policy_way(slot, family).map(|w| w.told).unwrap_or_default();
                for carrier in carriers.iter() {
                    let Some(uplink) = config.uplinks.get(usize::from(carrier.0)) else { continue };
                    out.table("");
                    out.text("interface", &uplink.name);
                    out.number("percent", i64::from(config.share(slot, carriers, carrier).0 + 5) / 10);
                    out.end();
                }
                out.end();
            }
            out.end();
        }
        out.end();
    }
}

fn fields(config: &UplinkConfig, uplink: &Uplink, logical: Option<Interface>, now: Instant, out: &mut dyn Sink) {
    let leg = report::best_leg(config, uplink);
    let (standing, probe) = (Standing::of(config, uplink), &config.probe);
    let carries = matches!(standing, Standing::Online | Standing::Disconnecting);
    let since = seconds(leg.age(now));
    let rounds = Rounds::of(probe, &uplink.probing.tracks);
    let age = uplink.probing.tracks.iter().filter_map(|t| t.window.age(0, now)).min();
    let turns = match probe.targets.is_empty() {
        true => 0,
        false => micros(leg.age(now)) / micros(probe.interval).max(1),
    };
    let link_up = uplink.watch.link().is_some_and(|l| l.admin_up && l.carrier);
    let tracking = match (probe.targets.is_empty(), uplink.hold, link_up) {
        (true, ..) => "disabled",
        (_, Hold::Down, _) => "down",
        (_, _, true) => "active",
        (_, _, false) => "paused",
    };
    out.number("age", age.map_or(0, seconds));
    out.number("online", if carries { since } else { 0 });
    out.number("offline", if carries { 0 } else { since });
    out.number("uptime", logical.map_or(if link_up { since } else { 0 }, |l| l.uptime.into()));
    out.number("score", rounds.score(probe, carries));
    out.number("lost", rounds.lost.into());
    out.number("turn", i64::try_from(turns).unwrap_or(i64::MAX));
    out.text("status", standing.word());
    out.flag("enabled", true);
    out.flag("running", tracking == "active");
    out.text("tracking", tracking);
    out.flag("up", logical.map_or(link_up, |l| l.up));
    out.array("track_ip");
    for (target, track) in probe.targets.iter().zip(&uplink.probing.tracks) {
        let report = track.window.report();
        out.table("");
        let mut name = heapless::String::<64>::new();
        // A host name is at most 63 bytes, an address at most 45.
        let _ = core::fmt::Write::write_fmt(&mut name, format_args!("{}", target.host));
        out.text("ip", &name);
        out.text("status", if track.sick { "skipped" } else { verdict(track.verdict) });
        out.number("latency", report.rtt.map_or(0, |us| i64::from(us.div_ceil(1000))));
        out.number("packetloss", i64::from(report.loss().0) / 10);
        out.end();
    }
    out.end();
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unknown => "unknown",
        Verdict::Good => "up",
        Verdict::Bad => "down",
    }
}

/// What nobody watches.
fn disabled(logical: Option<Interface>, out: &mut dyn Sink) {
    for name in ["age", "online", "offline"] {
        out.number(name, 0);
    }
    out.number("uptime", logical.map_or(0, |l| l.uptime.into()));
    for name in ["score", "lost", "turn"] {
        out.number(name, 0);
    }
    out.text("status", "unknown");
    out.flag("enabled", false);
    out.flag("running", false);
    out.text("tracking", "disabled");
    out.flag("up", logical.is_some_and(|l| l.up));
    out.array("track_ip");
    out.end();
}

/// The last rounds as mwan3 would have counted them: the newest probe of each target is the newest round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rounds {
    /// Failed in a row, up to the newest.
    failed: u32,
    /// Good in a row, up to the newest.
    good: u32,
    /// Answers missing in the failed ones.
    lost: u32,
}

impl Rounds {
    fn of(probe: &ProbeConfig, tracks: &[Track]) -> Self {
        let mut silent: heapless::Vec<u32, { limits::TARGETS }> = tracks.iter().map(|t| row(t, false)).collect();
        let mut answered: heapless::Vec<u32, { limits::TARGETS }> = tracks.iter().map(|t| row(t, true)).collect();
        sort(&mut silent, |a, b| a < b);
        sort(&mut answered, |a, b| a > b);
        // Of targets that have been silent for 0, 2 and 5 rounds, two are there again only when the second one is.
        let needed = usize::from(probe.reliability.max(1)) - 1;
        let failed = silent.get(needed).or(silent.last()).copied().unwrap_or(0);
        let good = answered.get(needed).or(answered.last()).copied().unwrap_or(0);
        Self { failed, good, lost: silent.iter().map(|row| row.min(&failed)).sum() }
    }

    fn score(self, probe: &ProbeConfig, carries: bool) -> i64 {
        let (down, up) = (i64::from(probe.fall), i64::from(probe.rise));
        match carries {
            true => (down + up - i64::from(self.failed)).max(up),
            false => i64::from(self.good).min(up - 1).max(0),
        }
    }
}

/// Probes in a row, up to the newest that is known, that were answered, or that were not.
fn row(track: &Track, answered: bool) -> u32 {
    let mut row = 0;
    for probe in track.window.history().flatten() {
        row = if probe.is_some() == answered { row + 1 } else { 0 };
    }
    row
}

fn seconds(duration: crate::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    /// A target whose last probes were answered (`+`) or not (`-`), oldest first.
    fn track(probes: &str) -> Track {
        let mut track = Track::default();
        let config = ProbeConfig::default();
        for (n, probe) in probes.chars().enumerate() {
            let at = Instant::from_millis(1000 * n as u64);
            let seq = track.sent(&config, at);
            match probe {
                '+' => assert!(track.answered(seq, at.after(Duration::from_millis(1)), &config).is_some()),
                _ => assert!(track.failed(seq, crate::engine::probe::Trouble::NoAnswer)),
            }
        }
        track
    }

    fn rounds(reliability: u8, probes: &[&str]) -> Rounds {
        let tracks: std::vec::Vec<Track> = probes.iter().map(|p| track(p)).collect();
        Rounds::of(&ProbeConfig { reliability, ..ProbeConfig::default() }, &tracks)
    }

    #[test]
    fn rounds_are_counted_as_mwan3_counts_them() {
        let is = |failed, good, lost| Rounds { failed, good, lost };
        assert_eq!(rounds(1, &[]), is(0, 0, 0));
        assert_eq!(rounds(1, &["+++--"]), is(2, 0, 2));
        assert_eq!(rounds(1, &["+---+"]), is(0, 1, 0));
        // One of two answers: enough for one, not for two.
        assert_eq!(rounds(1, &["+++--", "+++++"]), is(0, 5, 0));
        assert_eq!(rounds(2, &["+++--", "+++++"]), is(2, 0, 2));
        // What was lost before the last good round is not counted any more.
        assert_eq!(rounds(1, &["+----", "+++--"]), is(2, 0, 4));
        assert_eq!(rounds(2, &["--+++", "---++"]), is(0, 2, 0));
    }

    #[test]
    fn a_score_falls_from_its_top_to_up_and_climbs_to_just_below_it() {
        let probe = ProbeConfig { fall: 3, rise: 5, ..ProbeConfig::default() };
        let score = |failed, good, carries| Rounds { failed, good, lost: 0 }.score(&probe, carries);
        assert_eq!([0, 1, 2, 3, 9].map(|n| score(n, 0, true)), [8, 7, 6, 5, 5]);
        assert_eq!([0, 1, 4, 5, 9].map(|n| score(0, n, false)), [0, 1, 4, 4, 4]);
    }
}
