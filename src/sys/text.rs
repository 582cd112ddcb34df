//! Words for people: notices as sentences, objects and actions as `ip` says them.

use std::fmt::{self, Display, Write};

use crate::config::Config;
use crate::engine::event::NftFailure;
use crate::engine::notice::{Notice, Object};
use crate::engine::object::{
    GroupKind, Hop, NexthopBody, NexthopSpec, PROTOCOL, RouteSpec, RouteTarget, RuleAction, RuleSpec, TABLE_MAIN,
};
use crate::engine::{Action, Feed, Op};
use crate::proto::report::words;
use crate::time::Duration;
use crate::types::{Family, IfIndex, PolicySlot, UplinkSet, UplinkSlot};

/// Shows things with the names of a configuration and of the links known now.
pub struct Text<'a> {
    /// The names of uplinks and policies.
    pub config: &'a Config,
    /// The name of a link, if it is known.
    pub link_name: &'a dyn Fn(IfIndex) -> Option<String>,
}

impl Text<'_> {
    // Half the notices name one.
    #[inline(never)]
    fn uplink(&self, slot: UplinkSlot) -> &str {
        self.config.uplinks.get(usize::from(slot.0)).map_or("?", |u| u.name.as_str())
    }

    fn policy(&self, slot: PolicySlot) -> &str {
        self.config.policies.get(usize::from(slot.0)).map_or("?", |p| p.name.as_str())
    }

    /// Uplinks with their shares of a policy: `'wan' (75 %) and 'wanb' (25 %)`.
    fn shares(&self, policy: PolicySlot, set: UplinkSet) -> impl Display + '_ {
        let several = set.iter().nth(1).is_some();
        fmt::from_fn(move |f| {
            for (at, slot) in set.iter().enumerate() {
                let and = if at == 0 { "" } else { " and " };
                write!(f, "{and}'{}'", self.uplink(slot))?;
                if several {
                    write!(f, " ({} %)", (self.config.share(policy, set, slot).0 + 5) / 10)?;
                }
            }
            Ok(())
        })
    }

    /// A notice as a sentence in the shape that admins grep for. Those of a switch are put into words without memory.
    pub fn notice<'b>(&'b self, notice: &'b Notice) -> impl Display + 'b {
        fmt::from_fn(move |f| self.write_notice(notice, f))
    }

    fn write_notice(&self, notice: &Notice, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match notice {
            Notice::Uplink { uplink, family, from: _, to, reason, flaps } => {
                f.write_str("Uplink ")?;
                if let Some(family) = family {
                    write!(f, "{family} of ")?;
                }
                let (state, reason) = (words::state_phrase(*to), words::reason(*reason).1);
                write!(f, "'{}' is now {state}: {reason}", self.uplink(*uplink))?;
                if *flaps > 0 { write!(f, " (carrier lost {flaps} times so far)") } else { Ok(()) }
            }
            Notice::Bounced { uplink, count } => {
                write!(f, "Uplink '{}' lost its carrier {count} times without an announcement", self.uplink(*uplink))
            }
            Notice::Switched { policy, family, from, to, times } => {
                write!(f, "Policy '{}': {family} ", self.policy(*policy))?;
                let (before, after) = (self.shares(*policy, *from), self.shares(*policy, *to));
                match (from.is_empty(), to.is_empty()) {
                    (true, false) => write!(f, "leaves by {after}")?,
                    (false, false) => write!(f, "now leaves by {after} instead of {before}")?,
                    (false, true) => write!(f, "has no uplink left after {before}")?,
                    (true, true) => f.write_str("has no uplink")?,
                }
                write!(f, " (decided {}, committed {}, ", short(times.decided), short(times.committed))?;
                match times.verified {
                    Some(verified) => write!(f, "verified {} after the event)", short(verified)),
                    None => f.write_str("not verified after the event)"),
                }
            }
            Notice::Refused { object, errno, retry } => {
                let object = self.object(object);
                write!(f, "the kernel refused '{object}' ({errno}), retry in {}", short(*retry))
            }
            Notice::Contended { object, by, retry } => {
                let object = self.object(object);
                write!(f, "contended: port {by} keeps undoing '{object}', next repair in {}", short(*retry))
            }
            Notice::TargetSick { uplink, track, sick } => {
                let targets = self.config.uplinks.get(usize::from(uplink.0)).map(|u| &u.probe.targets);
                match targets.and_then(|t| t.get(usize::from(*track))) {
                    Some(target) => write!(f, "Target {} ", target.host)?,
                    None => f.write_str("Target ? ")?,
                }
                f.write_str(match sick {
                    true => "answers by no uplink that asks it: it does not count until it does",
                    false => "answers again and counts",
                })
            }
            Notice::Occupied { object } => {
                write!(f, "somebody else's object is in the way of '{}'", self.object(object))
            }
            Notice::Overrun { feed, total } => {
                let feed = match feed {
                    Feed::Links => "link",
                    Feed::State => "route",
                    Feed::Requests => "request",
                };
                write!(f, "notifications lost on the {feed} socket ({total} times so far): ")?;
                f.write_str("reading the kernel's state again")
            }
            Notice::Full { table, capacity } => {
                write!(f, "table full: {capacity} {table} is all this board's build holds")
            }
            Notice::SysctlFailed { device, family, errno } if device.is_none() => write!(
                f,
                "{family} fib_multipath_hash_policy could not be set ({errno}): flows between the same two hosts share \
                 one uplink"
            ),
            Notice::SysctlFailed { device, family, errno } => write!(
                f,
                "{family} ignore_routes_with_linkdown of {device} could not be set ({errno}): \
                 the kernel does not fail over by itself there"
            ),
            Notice::FlowsDropped { uplink, family, count } => write!(
                f,
                "Forgot {count} {family} connections of '{}': they go on by another uplink",
                self.uplink(*uplink)
            ),
            Notice::FlowsStuck { uplink, errno } => write!(
                f,
                "connections of '{}' could not be forgotten ({errno}{}): they hang until they time out",
                self.uplink(*uplink),
                // What the kernel says when nobody there knows that part of netfilter.
                if *errno == crate::types::Errno::EINVAL { ", this kernel has no ctnetlink" } else { "" },
            ),
            Notice::NoNft { why } => {
                let why = match why {
                    NftFailure::Missing => "there is no program nft",
                    NftFailure::Refused => "nft does not take our table; it is tried again",
                };
                write!(
                    f,
                    "{why}: flows are not pinned to their uplink, rules say only what ip rules can say; failover goes on"
                )
            }
            Notice::NftBack => f.write_str("nft's table is in place: flows are pinned to their uplink"),
            Notice::NoResilient => {
                f.write_str("this kernel has no resilient nexthop groups: shared traffic uses plain ones")
            }
            Notice::NoNexthops => f.write_str("this kernel has no nexthop objects: routes are replaced instead"),
            Notice::NoFamily(family) => write!(f, "this kernel has no {family}: its half is off"),
        }
    }

    /// An action as the words of `ip` or `sysctl`; `None` when it changes nothing.
    pub fn change(&self, action: &Action) -> Option<String> {
        Some(match action {
            Action::Nexthop { op, nexthop, .. } => self.nexthop(*op, nexthop),
            Action::Route { op, route, .. } => self.route(*op, route),
            Action::Rule { op, rule, .. } => rule_text(*op, rule),
            Action::SpreadFlows { family } => {
                format!("sysctl -w net/{}/fib_multipath_hash_policy=1", tree_of(*family))
            }
            Action::DeleteNft { .. } => "nft delete table inet linkwatch".to_owned(),
            Action::IgnoreLinkdown { device, family } => {
                format!("sysctl -w net/{}/conf/{device}/ignore_routes_with_linkdown=1", tree_of(*family))
            }
            _ => return None,
        })
    }

    /// An object as the words of `ip` that make it.
    fn object(&self, object: &Object) -> String {
        match object {
            Object::Route(route) => self.route(Op::Add, route),
            Object::Rule(rule) => rule_text(Op::Add, rule),
            Object::Nexthop(nexthop) => self.nexthop(Op::Add, nexthop),
        }
    }

    fn add_hop(&self, text: &mut String, hop: &Hop) {
        hop.gateway.iter().for_each(|gateway| add(text, "via", gateway));
        let name = (self.link_name)(hop.ifindex).unwrap_or_else(|| format!("if{}", hop.ifindex.0));
        add(text, "dev", &name);
        text.push_str(if hop.onlink { " onlink" } else { "" });
    }

    fn route(&self, op: Op, route: &RouteSpec) -> String {
        let mut text = begin(route.family, "route", op);
        text.push_str(match route.target {
            RouteTarget::Unreachable => " unreachable default",
            RouteTarget::Blackhole => " blackhole default",
            _ => " default",
        });
        match &route.target {
            RouteTarget::Via(hop) => self.add_hop(&mut text, hop),
            RouteTarget::Nexthop(id) => add(&mut text, "nhid", id),
            _ => {}
        }
        add(&mut text, "table", &table(route.table));
        add(&mut text, "metric", &route.metric);
        add(&mut text, "proto", &PROTOCOL);
        text
    }

    fn nexthop(&self, op: Op, nexthop: &NexthopSpec) -> String {
        let family = match nexthop.body {
            NexthopBody::Leaf { family, .. } => family,
            NexthopBody::Group(_) => Family::V4,
        };
        let mut text = begin(family, "nexthop", op);
        add(&mut text, "id", &nexthop.id);
        if op == Op::Delete {
            return text;
        }
        match &nexthop.body {
            NexthopBody::Leaf { hop, .. } => self.add_hop(&mut text, hop),
            NexthopBody::Group(group) => {
                text.push_str(" group");
                for (at, member) in group.members().iter().enumerate() {
                    let between = if at == 0 { ' ' } else { '/' };
                    let _ = write!(text, "{between}{},{}", member.id, member.weight);
                }
                if let GroupKind::Resilient { buckets, idle, unbalanced } = group.kind {
                    add(&mut text, "type resilient buckets", &buckets);
                    add(&mut text, "idle_timer", &idle);
                    add(&mut text, "unbalanced_timer", &unbalanced);
                }
            }
        }
        add(&mut text, "proto", &PROTOCOL);
        text
    }
}

/// The opening words of `ip`.
fn begin(family: Family, what: &str, op: Op) -> String {
    let six = if family == Family::V6 { "-6 " } else { "" };
    let verb = match op {
        Op::Add => "add",
        Op::Replace => "replace",
        Op::Delete => "del",
    };
    format!("ip {six}{what} {verb}")
}

fn add(text: &mut String, word: &str, value: &dyn Display) {
    let _ = write!(text, " {word} {value}");
}

fn rule_text(op: Op, rule: &RuleSpec) -> String {
    let select = &rule.select;
    let mut text = begin(rule.family, "rule", op);
    let mut add = |word: &str, value: &dyn Display| add(&mut text, word, value);
    add("pref", &rule.priority);
    select.src.iter().for_each(|p| add("from", p));
    select.dst.iter().for_each(|p| add("to", p));
    select.mark.iter().for_each(|m| add("fwmark", m));
    for (word, device) in [("iif", &select.iif), ("oif", &select.oif)] {
        if !device.is_none() {
            add(word, device);
        }
    }
    select.proto.iter().for_each(|p| add("ipproto", p));
    for (word, range) in [("sport", &select.sport), ("dport", &select.dport)] {
        if let Some(range) = range {
            add(word, &format_args!("{}-{}", range.first, range.last));
        }
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

fn table(number: u32) -> String {
    if number == TABLE_MAIN { "main".to_owned() } else { number.to_string() }
}

/// The part of `net` that a family has in the tree of sysctls.
fn tree_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// A duration with the unit that leaves at most four digits.
fn short(duration: Duration) -> impl Display {
    let micros = crate::time::micros(duration);
    fmt::from_fn(move |f| match micros {
        0..10_000 => write!(f, "{micros} us"),
        10_000..10_000_000 => write!(f, "{} ms", micros / 1000),
        _ => write!(f, "{} s", micros / 1_000_000),
    })
}
