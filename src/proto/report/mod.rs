//! The one table of what can be asked: each field of a status has its name, its unit and its place here and nowhere else.
//!
//! [`Sink`] takes it as JSON, as blobmsg, as frames of the control socket; all of them say the same. Integers only, no
//! floats; times are in seconds unless the name says `_ms` or `_us`; shares and losses in thousandths. Fields are never
//! renamed; new ones may come.
//!
//! A report is written in parts ([`parts`]), so that nobody needs a buffer for all of it.

pub mod explain;
pub mod json;
pub mod words;

use core::fmt::Write as _;
use core::net::IpAddr;

use crate::config::UplinkConfig;
use crate::engine::probe::{Reach, Track};
use crate::engine::uplink::{Leg, Uplink};
use crate::engine::{Engine, Hold, State, layout};
use crate::limits;
use crate::time::{Duration, Instant, micros};
use crate::types::{Family, PolicySlot};

/// Takes a report, field by field. Names are empty within arrays.
pub trait Sink {
    /// Opens a table.
    fn table(&mut self, name: &str);
    /// Opens an array.
    fn array(&mut self, name: &str);
    /// Closes what was opened last.
    fn end(&mut self);
    /// A text.
    fn text(&mut self, name: &str, value: &str);
    /// A number.
    fn number(&mut self, name: &str, value: i64);
    /// A truth value.
    fn flag(&mut self, name: &str, value: bool);
}

/// How many parts a status has: a head, one per uplink, one per policy, a tail.
pub fn parts(engine: &Engine) -> usize {
    2 + engine.config().uplinks.len() + engine.config().policies.len()
}

/// Writes one part of the status, from 0 to [`parts`] less one. The parts one after another are one table's inside:
/// the caller opens and closes that table.
pub fn status_part(engine: &Engine, part: usize, now: Instant, out: &mut dyn Sink) {
    let (uplinks, policies) = (engine.config().uplinks.len(), engine.config().policies.len());
    match part {
        0 => {
            head(engine, now, out);
            out.table("uplinks");
            if uplinks == 0 {
                out.end();
                out.table("policies");
            }
        }
        n if n <= uplinks => {
            uplink_part(engine, n - 1, now, out);
            if n == uplinks {
                out.end();
                out.table("policies");
            }
        }
        n if n <= uplinks + policies => policy_part(engine, n - 1 - uplinks, out),
        _ => {
            out.end();
            tail(engine, out);
        }
    }
}

/// The whole status as the inside of a table.
pub fn status(engine: &Engine, now: Instant, out: &mut dyn Sink) {
    (0..parts(engine)).for_each(|part| status_part(engine, part, now, out));
}

fn head(engine: &Engine, now: Instant, out: &mut dyn Sink) {
    out.text("version", env!("CARGO_PKG_VERSION"));
    out.text("board", limits::BOARD);
    out.number("uptime", seconds(now.since(Instant::ZERO)));
    out.flag("synced", engine.is_synced());
}

fn uplink_part(engine: &Engine, at: usize, now: Instant, out: &mut dyn Sink) {
    if let Some((config, uplink)) = engine.uplinks().nth(at) {
        out.table(&config.name);
        uplink_fields(config, uplink, now, out);
        out.end();
    }
}

/// The better of an uplink's families speaks for it.
pub fn best_leg<'a>(config: &UplinkConfig, uplink: &'a Uplink) -> &'a Leg {
    let [v4, v6] = &uplink.legs;
    match config.families {
        [true, false] => v4,
        [false, true] => v6,
        _ if v6.state > v4.state => v6,
        _ => v4,
    }
}

/// One uplink as the inside of a table.
pub fn uplink_fields(config: &UplinkConfig, uplink: &Uplink, now: Instant, out: &mut dyn Sink) {
    let best = best_leg(config, uplink);
    out.number("id", config.id.0.into());
    out.text("device", &shown(config.device));
    out.number("ifindex", uplink.ifindex().map_or(0, |i| i.0).into());
    let link = uplink.watch.link();
    out.flag("admin_up", link.is_some_and(|l| l.admin_up));
    out.flag("carrier", link.is_some_and(|l| l.carrier));
    leg_fields(best, now, out);
    let hold = match uplink.hold {
        Hold::Auto => "auto",
        Hold::Up => "up",
        Hold::Down => "down",
    };
    out.text("hold", hold);
    out.number("carrier_losses", uplink.flaps.into());
    out.number("probes_sent", uplink.probes.into());
    out.flag("metered", config.probe.metered);
    out.flag("sparing", uplink.probing.sparing);
    if let Some(damping) = &config.damping {
        out.table("damping");
        out.number("penalty", uplink.damping.penalty(damping, now).into());
        out.number("suppress", damping.suppress.into());
        out.number("reuse", damping.reuse.into());
        out.end();
    }
    out.table("families");
    for family in Family::BOTH.into_iter().filter(|f| config.serves(*f)) {
        out.table(words::family(family));
        if let Some(leg) = uplink.legs.get(family.index()) {
            leg_fields(leg, now, out);
        }
        let gateway = uplink.hop(config, family).ok().and_then(|hop| hop.gateway);
        out.text("gateway", &gateway.map_or(Text::new(), |g| text(&g)));
        out.array("addresses");
        for addr in uplink.sources().filter(|a| Family::of(*a) == family) {
            out.text("", &text(&addr));
        }
        out.end();
        let reach = uplink.probing.reach.get(family.index()).copied().unwrap_or_default();
        let reach = if config.probe.tracks(family) { Some(reach) } else { None };
        out.text("reach", reach_word(reach));
        out.end();
    }
    out.end();
    out.array("probes");
    for (target, track) in config.probe.targets.iter().zip(&uplink.probing.tracks) {
        out.table("");
        let mut name = heapless::String::<64>::new();
        // A host name is at most 63 bytes, an address at most 45.
        let _ = write!(name, "{}", target.host);
        out.text("target", &name);
        out.text("family", words::family(target.family));
        track_fields(track, now, out);
        out.end();
    }
    out.end();
}

fn reach_word(reach: Option<Reach>) -> &'static str {
    match reach {
        None => "not-probed",
        Some(Reach::Unknown) => "unknown",
        Some(Reach::Good) => "good",
        Some(Reach::Bad) => "bad",
    }
}

fn leg_fields(leg: &Leg, now: Instant, out: &mut dyn Sink) {
    let (word, phrase) = words::reason(leg.reason);
    out.text("state", words::state(leg.state));
    out.flag("up", matches!(leg.state, State::Up | State::Degraded));
    out.text("reason", word);
    out.text("because", phrase);
    out.number("since", seconds(leg.age(now)));
}

fn track_fields(track: &Track, now: Instant, out: &mut dyn Sink) {
    let report = track.window.report();
    let optional = |value: Option<u32>| value.map_or(-1, i64::from);
    out.text("address", &track.addr.map_or(Text::new(), |a| text(&a)));
    out.text("status", words::verdict(track.verdict));
    out.flag("sick", track.sick);
    out.flag("poor", track.poor);
    out.text("trouble", words::trouble(track.trouble).map_or("", |(word, _)| word));
    out.number("probes", report.judged.into());
    out.number("loss_permille", report.loss().0.into());
    out.number("rtt_us", optional(report.rtt));
    out.number("rtt_min_us", optional(report.range.map(|r| r.0)));
    out.number("rtt_max_us", optional(report.range.map(|r| r.1)));
    out.number("jitter_us", optional(report.jitter));
    let last = track.last_good.map(|good| micros(now.since(good)) / 1000);
    out.number("last_answer_ms", last.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX)));
}

/// One policy as a table with its name.
pub fn policy_part(engine: &Engine, at: usize, out: &mut dyn Sink) {
    let config = engine.config();
    let Some(policy) = config.policies.get(at) else { return };
    out.table(&policy.name);
    out.number("table", layout::policy_table(PolicySlot(at as u8)).into());
    let held = engine.preferred(PolicySlot(at as u8)).and_then(|u| config.uplinks.get(usize::from(u.0)));
    out.text("held_on", held.map_or("", |u| u.name.as_str()));
    for family in Family::BOTH {
        out.array(words::family(family));
        let slot = PolicySlot(at as u8);
        let carriers = engine.policy_way(slot, family).map(|w| w.told).unwrap_or_default();
        for carrier in carriers.iter() {
            let Some(uplink) = config.uplinks.get(usize::from(carrier.0)) else { continue };
            out.table("");
            out.text("uplink", &uplink.name);
            out.number("share_permille", config.share(slot, carriers, carrier).0.into());
            out.end();
        }
        out.end();
    }
    out.array("members");
    for member in &policy.members {
        let Some(uplink) = config.uplinks.get(usize::from(member.uplink.0)) else { continue };
        out.table("");
        out.text("uplink", &uplink.name);
        out.number("metric", member.metric.into());
        out.number("weight", member.weight.into());
        out.end();
    }
    out.end();
    out.end();
}

fn tail(engine: &Engine, out: &mut dyn Sink) {
    out.array("missing");
    for what in engine.missing() {
        out.text("", what);
    }
    out.end();
    let times = engine.failover_times();
    out.table("failover_us");
    out.array("buckets");
    for (le, count) in times.buckets() {
        out.table("");
        out.number("le", le.into());
        out.number("count", count.into());
        out.end();
    }
    out.end();
    out.number("count", times.count.into());
    out.number("sum", i64::try_from(times.sum).unwrap_or(i64::MAX));
    out.end();
    let counters = engine.counters();
    out.table("counters");
    for (name, value) in [
        ("events", counters.events),
        ("requests", counters.requests),
        ("refused", counters.refused),
        ("asks", counters.asks),
        ("vanished", counters.vanished),
        ("full", counters.full),
        ("overruns", engine.overruns()),
        ("foreign", counters.foreign),
        ("notices_dropped", counters.notices_dropped),
        ("probes_sent", counters.probes_sent),
        ("probes_answered", counters.probes_answered),
    ] {
        out.number(name, value.into());
    }
    out.end();
}

/// An address or an escaped device name (15 bytes, four characters each) as text.
type Text = heapless::String<64>;

fn text(addr: &IpAddr) -> Text {
    let mut text = Text::new();
    // The longest address has 45 characters.
    let _ = write!(text, "{addr}");
    text
}

fn shown(device: crate::types::IfName) -> Text {
    let mut text = Text::new();
    let _ = write!(text, "{device}");
    text
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
