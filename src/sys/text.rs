//! Words for people: notices as sentences, objects and actions as `ip` says them.

use std::fmt::{self, Display, Write};

use crate::config::Config;
use crate::engine::notice::{Notice, Object};
use crate::engine::object::{
    Hop, NexthopBody, NexthopSpec, PROTOCOL, RouteSpec, RouteTarget, RuleAction, RuleSpec, TABLE_MAIN,
};
use crate::engine::{Action, Feed, Op};
use crate::proto::report::words;
use crate::time::Duration;
use crate::types::{Family, IfIndex, PolicySlot, UplinkSlot};

/// Shows things with the names of a configuration and of the links known now.
pub struct Text<'a> {
    /// The names of uplinks and policies.
    pub config: &'a Config,
    /// The name of a link, if it is known.
    pub link_name: &'a dyn Fn(IfIndex) -> Option<String>,
}

impl Text<'_> {
    fn uplink(&self, slot: UplinkSlot) -> &str {
        self.config.uplinks.get(usize::from(slot.0)).map_or("?", |u| u.name.as_str())
    }

    fn policy(&self, slot: PolicySlot) -> &str {
        self.config.policies.get(usize::from(slot.0)).map_or("?", |p| p.name.as_str())
    }

    /// A notice as a sentence in the shape that admins grep for.
    pub fn notice(&self, notice: &Notice) -> String {
        match notice {
            Notice::Uplink { uplink, family, from: _, to, reason, flaps } => {
                let family = family.map_or(String::new(), |f| format!("{f} of "));
                let mut text = format!(
                    "Uplink {family}'{}' is now {}: {}",
                    self.uplink(*uplink),
                    words::state_phrase(*to),
                    words::reason(*reason).1
                );
                if *flaps > 0 {
                    // Cannot fail: a String takes anything.
                    let _ = write!(text, " (carrier lost {flaps} times so far)");
                }
                text
            }
            Notice::Bounced { uplink, count } => {
                format!("Uplink '{}' lost its carrier {count} times without an announcement", self.uplink(*uplink))
            }
            Notice::Switched { policy, family, from, to, times } => {
                let policy = self.policy(*policy);
                let mut text = match (from, to) {
                    (None, Some(to)) => format!("Policy '{policy}': {family} leaves by '{}'", self.uplink(*to)),
                    (Some(from), Some(to)) => {
                        let (from, to) = (self.uplink(*from), self.uplink(*to));
                        format!("Policy '{policy}': {family} now leaves by '{to}' instead of '{from}'")
                    }
                    (Some(from), None) => {
                        format!("Policy '{policy}': {family} has no uplink left after '{}'", self.uplink(*from))
                    }
                    (None, None) => format!("Policy '{policy}': {family} has no uplink"),
                };
                let (decided, committed) = (short(times.decided), short(times.committed));
                let verified = times.verified.map_or("not verified".to_owned(), |t| format!("verified {}", short(t)));
                let _ = write!(text, " (decided {decided}, committed {committed}, {verified} after the event)");
                text
            }
            Notice::Refused { object, errno, retry } => {
                format!("the kernel refused '{}' ({errno}), retry in {}", self.object(Op::Add, object), short(*retry))
            }
            Notice::Contended { object, by, retry } => {
                let object = self.object(Op::Add, object);
                format!("contended: port {by} keeps undoing '{object}', next repair in {}", short(*retry))
            }
            Notice::TargetSick { uplink, track, sick } => {
                let at = usize::from(uplink.0);
                let targets = self.config.uplinks.get(at).map(|u| &u.probe.targets);
                let target = targets.and_then(|t| t.get(usize::from(*track)));
                let target = target.map_or("?".to_owned(), |t| t.host.to_string());
                match sick {
                    true => {
                        format!("Target {target} answers by no uplink that asks it: it does not count until it does")
                    }
                    false => format!("Target {target} answers again and counts"),
                }
            }
            Notice::Occupied { object } => {
                format!("somebody else's object is in the way of '{}'", self.object(Op::Add, object))
            }
            Notice::Overrun { feed, total } => {
                let feed = match feed {
                    Feed::Links => "link",
                    Feed::State => "route",
                    Feed::Requests => "request",
                };
                format!(
                    "notifications lost on the {feed} socket ({total} times so far): reading the kernel's state again"
                )
            }
            Notice::Full { table, capacity } => {
                format!("table full: {capacity} {table} is all this board's build holds")
            }
            Notice::SysctlFailed { device, family, errno } => format!(
                "{family} ignore_routes_with_linkdown of {device} could not be set ({errno}): \
                 the kernel does not fail over by itself there"
            ),
            Notice::NoNexthops => "this kernel has no nexthop objects: routes are replaced instead".to_owned(),
            Notice::NoFamily(family) => format!("this kernel has no {family}: its half is off"),
        }
    }

    /// An action as the words of `ip` or `sysctl`; `None` when it changes nothing.
    pub fn change(&self, action: &Action) -> Option<String> {
        match action {
            Action::Nexthop { op, nexthop, .. } => Some(self.object(*op, &Object::Nexthop(*nexthop))),
            Action::Route { op, route, .. } => Some(self.object(*op, &Object::Route(*route))),
            Action::Rule { op, rule, .. } => Some(self.object(*op, &Object::Rule(*rule))),
            Action::IgnoreLinkdown { device, family } => {
                let family = if *family == Family::V4 { "ipv4" } else { "ipv6" };
                Some(format!("sysctl -w net/{family}/conf/{device}/ignore_routes_with_linkdown=1"))
            }
            _ => None,
        }
    }

    fn object(&self, op: Op, object: &Object) -> String {
        let (family, body) = match object {
            Object::Route(route) => (route.family, self.route(op, route)),
            Object::Rule(rule) => (rule.family, self.rule(op, rule)),
            Object::Nexthop(nexthop) => match nexthop.body {
                NexthopBody::Leaf { family, .. } => (family, self.nexthop(op, nexthop)),
                NexthopBody::Group(_) => (Family::V4, self.nexthop(op, nexthop)),
            },
        };
        let six = if family == Family::V6 { "-6 " } else { "" };
        format!("ip {six}{body}")
    }

    fn dev(&self, ifindex: IfIndex) -> String {
        (self.link_name)(ifindex).unwrap_or_else(|| format!("if{}", ifindex.0))
    }

    fn hop(&self, hop: &Hop) -> String {
        let via = hop.gateway.map_or(String::new(), |g| format!("via {g} "));
        let onlink = if hop.onlink { " onlink" } else { "" };
        format!("{via}dev {}{onlink}", self.dev(hop.ifindex))
    }

    fn route(&self, op: Op, route: &RouteSpec) -> String {
        let (kind, way) = match &route.target {
            RouteTarget::Via(hop) => ("", format!(" {}", self.hop(hop))),
            RouteTarget::Nexthop(id) => ("", format!(" nhid {id}")),
            RouteTarget::Unreachable => ("unreachable ", String::new()),
            RouteTarget::Blackhole => ("blackhole ", String::new()),
        };
        let (table, metric) = (table(route.table), route.metric);
        format!("route {} {kind}default{way} table {table} metric {metric} proto {PROTOCOL}", verb(op))
    }

    fn rule(&self, op: Op, rule: &RuleSpec) -> String {
        let select = &rule.select;
        let mut text = format!("rule {} pref {}", verb(op), rule.priority);
        let mut add = |word: &str, value: &dyn Display| {
            let _ = write!(text, " {word} {value}");
        };
        select.src.iter().for_each(|p| add("from", p));
        select.dst.iter().for_each(|p| add("to", p));
        select.mark.iter().for_each(|m| add("fwmark", m));
        [("iif", select.iif), ("oif", select.oif)].iter().filter(|(_, n)| !n.is_none()).for_each(|(w, n)| add(w, n));
        select.proto.iter().for_each(|p| add("ipproto", p));
        for (word, range) in [("sport", select.sport), ("dport", select.dport)] {
            range.iter().for_each(|r| add(word, &format_args!("{}-{}", r.first, r.last)));
        }
        match rule.action {
            RuleAction::Lookup { table: number, suppress } => {
                add("lookup", &table(number));
                suppress.iter().for_each(|len| add("suppress_prefixlength", len));
            }
            RuleAction::Unreachable => add("type", &"unreachable"),
            RuleAction::Blackhole => add("type", &"blackhole"),
        }
        add("protocol", &PROTOCOL);
        text
    }

    fn nexthop(&self, op: Op, nexthop: &NexthopSpec) -> String {
        let id = nexthop.id;
        if op == Op::Delete {
            return format!("nexthop del id {id}");
        }
        let way = match &nexthop.body {
            NexthopBody::Leaf { hop, .. } => self.hop(hop),
            NexthopBody::Group(group) => {
                let members: Vec<String> = group.members().iter().map(|m| format!("{},{}", m.id, m.weight)).collect();
                format!("group {}", members.join("/"))
            }
        };
        format!("nexthop {} id {id} {way} proto {PROTOCOL}", verb(op))
    }
}

fn verb(op: Op) -> &'static str {
    match op {
        Op::Add => "add",
        Op::Replace => "replace",
        Op::Delete => "del",
    }
}

fn table(number: u32) -> String {
    if number == TABLE_MAIN { "main".to_owned() } else { number.to_string() }
}

/// A duration with the unit that leaves at most four digits.
fn short(duration: Duration) -> impl Display {
    let micros = duration.as_micros();
    fmt::from_fn(move |f| match micros {
        0..10_000 => write!(f, "{micros} us"),
        10_000..10_000_000 => write!(f, "{} ms", micros / 1000),
        _ => write!(f, "{} s", micros / 1_000_000),
    })
}
