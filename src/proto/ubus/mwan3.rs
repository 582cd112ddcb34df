//! The answer of mwan3's `status`, field by field as mwan3 gives it, for pages and exporters that know nothing else.
//!
//! What mwan3 counts and we do not is made from what we know: `score` is what mwan3's counting would have reached, `turn`
//! the probes that were judged, `lost` those lost in a row by the best target.

use super::netifd::Interface;
use crate::config::{ProbeConfig, UplinkConfig};
use crate::engine::probe::{Track, Verdict};
use crate::engine::uplink::Uplink;
use crate::engine::{Engine, Hold, State};
use crate::proto::report::{self, Sink, words};
use crate::time::Instant;
use crate::types::{Family, PolicySlot};

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

/// Writes the answer. `interface` leaves only that one; `logical` knows what netifd says of an uplink; `connected` are
/// the networks on our links, by [`Family::index`].
pub fn status(
    engine: &Engine,
    section: Section,
    interface: Option<&str>,
    logical: &dyn Fn(usize) -> Option<Interface>,
    connected: &[Vec<String>; 2],
    now: Instant,
    out: &mut dyn Sink,
) {
    if section.has(Section::Interfaces) {
        out.table("interfaces");
        for (at, (config, uplink)) in engine.uplinks().enumerate() {
            if interface.is_none_or(|name| name == config.name) {
                out.table(&config.name);
                fields(config, uplink, logical(at).as_ref(), now, out);
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

fn fields(config: &UplinkConfig, uplink: &Uplink, logical: Option<&Interface>, now: Instant, out: &mut dyn Sink) {
    let leg = report::best_leg(config, uplink);
    let (standing, probe) = (Standing::of(config, uplink), &config.probe);
    let carries = matches!(standing, Standing::Online | Standing::Disconnecting);
    let since = seconds(leg.age(now));
    let lost = uplink.probing.tracks.iter().map(lost_in_a_row).min().unwrap_or(0);
    let judged: u32 = uplink.probing.tracks.iter().map(|t| u32::from(t.window.report().judged)).max().unwrap_or(0);
    let age = uplink.probing.tracks.iter().filter_map(|t| t.last_good).map(|at| now.since(at)).min();
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
    out.number("score", score(probe, carries, lost));
    out.number("lost", lost.into());
    out.number("turn", judged.into());
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

/// mwan3 counts from 0 to `down` + `up`; online at `up` and above.
fn score(probe: &ProbeConfig, carries: bool, lost: u32) -> i64 {
    let full = i64::from(probe.fall) + i64::from(probe.rise);
    if carries { (full - i64::from(lost)).max(i64::from(probe.rise)) } else { 0 }
}

fn lost_in_a_row(track: &Track) -> u32 {
    let mut row = 0;
    for probe in track.window.history().flatten() {
        row = if probe.is_none() { row + 1 } else { 0 };
    }
    row
}

fn seconds(duration: crate::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
