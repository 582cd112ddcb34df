//! Decides the next request to the kernel, derived from what is wanted and what is there.
//!
//! The order is make before break: nexthops, routes, rules; then what is wanted no more, the other way round.

use super::action::{Action, Dump, Op, RouteQuestion, Token};
use super::event::LinkInfo;
use super::fib::{Objects, Story};
use super::object::{NexthopBody, NexthopSpec, RouteSpec, RouteTarget, RuleAction, RuleSpec};
use super::switch::Way;
use super::uplink::Setting;
use super::{Engine, layout, want};
use crate::limits;
use crate::time::Instant;
use crate::types::Family;

impl Engine {
    /// Never inlined: a dozen instructions at each of many places.
    #[inline(never)]
    pub(super) fn token(&mut self) -> Token {
        let token = Token(self.next_token);
        // The upper half belongs to the shell's dumps, 0 to nobody.
        self.next_token = if self.next_token >= 0x7fff_ffff { 1 } else { self.next_token + 1 };
        token
    }

    pub(super) fn poll_objects(&mut self, now: Instant) -> Option<Action> {
        let in_flight = self.nexthops.flights() + self.routes.flights() + self.rules.flights();
        if in_flight >= limits::IN_FLIGHT {
            // Every answer, and every end of a dump, stirs all tables.
            return None;
        }
        let action = self.poll_tables(now, Token(self.next_token))?;
        self.token();
        self.counters.requests = self.counters.requests.saturating_add(1);
        if let Action::Nexthop { op: Op::Add | Op::Replace, nexthop, .. } = action {
            // A route that was refused for want of this nexthop need not wait any longer.
            self.routes.hurry(now, &|route| route.target == RouteTarget::Nexthop(nexthop.id));
        }
        Some(action)
    }

    fn poll_tables(&mut self, now: Instant, token: Token) -> Option<Action> {
        let adding = |op: Op| op != Op::Delete;
        let sync = &self.sync;
        let known = |family| sync.is_known(Dump::OwnRoutes(family));
        let picked = self.nexthops.poll(now, token, &|all, nexthop, op| adding(op) && leaves_ready(all, nexthop));
        if let Some((op, nexthop)) = picked {
            return Some(Action::Nexthop { token, op, nexthop });
        }
        let nexthops = self.nexthops.objects();
        let picked = self.routes.poll(now, token, &|all, route, op| {
            let ready = match route.target {
                RouteTarget::Nexthop(id) => is_coming(nexthops, id),
                RouteTarget::Via(_) => true,
                // The last way out hides what others have in main: it comes after the ways that it ends.
                RouteTarget::Unreachable | RouteTarget::Blackhole => {
                    let known = known(route.family) || !layout::is_policy_table(route.table);
                    known && has_way(all, route.family, route.table)
                }
            };
            adding(op) && ready
        });
        if let Some((op, route)) = picked {
            return Some(Action::Route { token, op, route });
        }
        let routes = self.routes.objects();
        let ready = |rule: &RuleSpec| match rule.action {
            // Nobody is sent into a policy's table before there is a way out of it.
            RuleAction::Lookup { table, .. } if layout::is_policy_table(table) => {
                known(rule.family) && has_way(routes, rule.family, table)
            }
            _ => true,
        };
        let picked = self.rules.poll(now, token, &|_, rule, op| adding(op) && ready(rule));
        let picked = picked.or_else(|| self.rules.poll(now, token, &|_, _, op| !adding(op)));
        if let Some((op, rule)) = picked {
            return Some(Action::Rule { token, op, rule });
        }
        let uplinks = &self.uplinks;
        let picked = self.routes.poll(now, token, &|all, route, op| {
            let leads_out = match route.target {
                RouteTarget::Via(hop) => uplinks.iter().any(|u| u.ifindex() == Some(hop.ifindex)),
                _ => false,
            };
            // The way that is left stays until the one that replaces it is there.
            !adding(op) && (!leads_out || has_way(all, route.family, route.table))
        });
        if let Some((op, route)) = picked {
            return Some(Action::Route { token, op, route });
        }
        let picked = self.nexthops.poll(now, token, &|all, nexthop, op| !adding(op) && unused(all, nexthop));
        picked.map(|(op, nexthop)| Action::Nexthop { token, op, nexthop })
    }

    pub(super) fn poll_neighbour(&mut self, now: Instant) -> Option<Action> {
        for (config, uplink) in self.config.uplinks.iter().zip(&mut self.uplinks) {
            let sends = uplink.watch.link().is_some_and(LinkInfo::sends);
            for family in Family::BOTH {
                let usable = uplink.usable(config, family);
                let Some(leg) = uplink.legs.get_mut(family.index()) else { continue };
                if leg.resolve_at.is_none_or(|at| at > now) {
                    continue;
                }
                if !sends && leg.wait_to_send(now) {
                    continue;
                }
                leg.resolved(config.hold_down, now);
                if let Some((gateway, hop)) = usable.ok().and_then(|hop| hop.gateway.map(|g| (g, hop))) {
                    return Some(Action::UseNeighbour { ifindex: hop.ifindex, gateway });
                }
            }
        }
        None
    }

    pub(super) fn poll_question(&mut self) -> Option<Action> {
        for at in 0..self.ways.len() {
            for family in Family::BOTH {
                if !self.way(at, family).is_some_and(Way::awaits_question) {
                    continue;
                }
                let token = self.token();
                if let Some(way) = self.ways.get_mut(at).and_then(|w| w.get_mut(family.index())) {
                    way.asked(token);
                }
                let question = RouteQuestion { dst: want::witness(family), mark: None };
                return Some(Action::AskRoute { token, question });
            }
        }
        None
    }

    pub(super) fn poll_sysctl(&mut self) -> Option<Action> {
        if !self.sync.synced {
            return None;
        }
        for (config, uplink) in self.config.uplinks.iter().zip(&mut self.uplinks) {
            if uplink.watch.link().is_none() {
                continue;
            }
            for family in Family::BOTH {
                let missing = self.missing_families.get(family.index()).is_some_and(|missing| *missing);
                let Some(setting) = uplink.linkdown.get_mut(family.index()) else { continue };
                if config.serves(family) && !missing && *setting == Setting::Wanted {
                    *setting = Setting::Asked;
                    return Some(Action::IgnoreLinkdown { device: config.device, family });
                }
            }
        }
        None
    }
}

/// Whether a policy's table leads out if it should: the pointer is in place, or there is nothing to point at. Other
/// tables need not wait: who is sent into an uplink's has no other way.
fn has_way(routes: Objects<'_, RouteSpec>, family: Family, table: u32) -> bool {
    if !layout::is_policy_table(table) {
        return true;
    }
    // What is there and should not be, in front of the pointer, would be the way instead.
    let decides = |route: &RouteSpec, story: &Story| {
        let here = route.family == family && route.table == table;
        here && (story.wanted && route.metric == layout::METRIC_POINTER
            || !story.wanted && route.metric < layout::METRIC_POINTER)
    };
    routes.iter().all(|(route, story)| !decides(route, story) || story.is_settled())
}

/// A leaf stays until no group can have it any more: the kernel would empty the group and drop its routes in silence.
fn unused(all: Objects<'_, NexthopSpec>, nexthop: &NexthopSpec) -> bool {
    let is_group = |n: &NexthopSpec| matches!(n.body, NexthopBody::Group(_));
    is_group(nexthop) || all.iter().all(|(other, story)| !is_group(other) || story.is_settled())
}

/// A group waits until the kernel has all of its leaves, or will have by the time it reads the request.
fn leaves_ready(all: Objects<'_, NexthopSpec>, nexthop: &NexthopSpec) -> bool {
    match &nexthop.body {
        NexthopBody::Leaf { .. } => true,
        NexthopBody::Group(group) => group.members().iter().all(|m| is_coming(all, m.id)),
    }
}

/// Whether the kernel has a nexthop, or will have it by the time it reads the next request.
pub(super) fn is_coming(nexthops: Objects<'_, NexthopSpec>, id: u32) -> bool {
    nexthops.iter().any(|(nexthop, story)| nexthop.id == id && story.is_coming())
}
