//! Decides how notices read in scenarios: one line each, without measured times.

use crate::config::Config;
use crate::engine::event::NftFailure;
use crate::engine::notice::{Notice, Object};
use crate::engine::uplink::{Reason, State};
use crate::sim::show_time;
use crate::time::{Duration, Instant};
use crate::types::{UplinkSet, UplinkSlot};

/// A notice in one line, without its measured times.
pub fn show_notice(notice: &Notice, config: &Config) -> String {
    let uplink = |slot: UplinkSlot| match config.uplinks.get(usize::from(slot.0)) {
        Some(uplink) => uplink.name.to_string(),
        None => format!("uplink#{}", slot.0),
    };
    let way = |policy, set: UplinkSet| {
        let several = set.iter().nth(1).is_some();
        let share = |slot| config.share(policy, set, slot).0;
        let one = |slot| if several { format!("{} {}", uplink(slot), share(slot)) } else { uplink(slot) };
        let all: Vec<String> = set.iter().map(one).collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join(" + ") }
    };
    match notice {
        Notice::Uplink { uplink: slot, family, to, reason, flaps, .. } => {
            let family = family.map_or(String::new(), |f| format!(" {f}"));
            let flaps = if *flaps > 1 { format!(" ({flaps} flaps)") } else { String::new() };
            format!("notice {}{family} {}: {}{flaps}", uplink(*slot), show_state(*to), show_reason(*reason))
        }
        Notice::Bounced { uplink: slot, count } => format!("notice {} bounced {count} times unseen", uplink(*slot)),
        Notice::Switched { policy, family, from, to, .. } => {
            let name = config.policies.get(usize::from(policy.0)).map_or("?", |p| p.name.as_str());
            format!("switch {name} {family} {} -> {}", way(*policy, *from), way(*policy, *to))
        }
        Notice::Refused { object, errno, retry } => {
            format!("notice {} refused: {errno}, again in {}", show_object(object), show_duration(*retry))
        }
        Notice::Contended { object, by, retry } => {
            format!("notice {} contended by {by}, again in {}", show_object(object), show_duration(*retry))
        }
        Notice::Occupied { object } => format!("notice {} occupied", show_object(object)),
        Notice::Overrun { feed, total } => format!("notice overrun of {feed:?}, {total} so far"),
        Notice::Full { table, capacity } => format!("notice table {table} full at {capacity}"),
        Notice::SysctlFailed { device, family, errno } => format!("notice sysctl of {device} {family}: {errno}"),
        Notice::TargetSick { uplink: slot, track, sick } => {
            let target = config.uplinks.get(usize::from(slot.0)).and_then(|u| u.probe.targets.get(usize::from(*track)));
            let target = target.map_or("?".to_owned(), |t| t.host.to_string());
            format!("notice target {target} {}", if *sick { "is sick" } else { "is well" })
        }
        Notice::FlowsDropped { uplink: slot, family, count } => {
            format!("notice {count} {family} flows of {} forgotten", uplink(*slot))
        }
        Notice::FlowsStuck { uplink: slot, errno } => format!("notice flows of {} stuck: {errno}", uplink(*slot)),
        Notice::NoNft { why: NftFailure::Missing } => "notice no nft: missing".into(),
        Notice::NoNft { why: NftFailure::Refused } => "notice no nft: refused".into(),
        Notice::NftBack => "notice nft is back".into(),
        Notice::NoResilient => "notice no resilient groups".into(),
        Notice::NoNexthops => "notice no nexthop objects".into(),
        Notice::NoFamily(family) => format!("notice no {family}"),
    }
}

fn show_duration(duration: Duration) -> String {
    show_time(Instant::ZERO.after(duration))
}

fn show_state(state: State) -> &'static str {
    match state {
        State::Absent => "absent",
        State::Down => "down",
        State::HoldDown => "held down",
        State::Degraded => "degraded",
        State::Damped => "damped",
        State::Up => "up",
    }
}

fn show_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NoDevice => "no device",
        Reason::AdminDown => "administratively down",
        Reason::NoCarrier => "carrier lost",
        Reason::NoAddress => "no address",
        Reason::NoGateway => "no gateway",
        Reason::Usable => "usable again",
        Reason::HeldDown => "stayed good",
        Reason::AtStart => "at start",
        Reason::Flapping => "flapping",
        Reason::Operator => "operator",
        Reason::NoRoute => "no route",
        Reason::NoAnswer => "no answer",
        Reason::Refused => "refused",
        Reason::CannotSend => "cannot send",
        Reason::NoName => "no name",
        Reason::Lossy => "lossy",
        Reason::Slow => "slow",
        Reason::Recovered => "recovered",
    }
}

fn show_object(object: &Object) -> String {
    match object {
        Object::Route(r) => format!("{} route of table {} metric {}", r.family, r.table, r.metric),
        Object::Rule(r) => format!("{} rule {}", r.family, r.priority),
        Object::Nexthop(n) => format!("nexthop {}", n.id),
    }
}
