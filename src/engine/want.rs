//! Decides which routes, rules and nexthops should be in the kernel, from the configuration and the uplinks' states.
//!
//! Three layers (see the crate's documentation): plain routes that fail over with the daemon dead, one pointer per
//! policy and family that the daemon moves, and the ip rules that lead packets there.

use core::net::IpAddr;

use super::Engine;
use super::fib::Full;
use super::layout;
use super::object::{
    Group, Hop, NexthopBody, NexthopSpec, RouteSpec, RouteTarget, RuleAction, RuleSpec, Selector, TABLE_MAIN,
};
use super::uplink::State;
use crate::config::{LastResort, RuleTarget};
use crate::limits;
use crate::types::{Family, FwMark, IfName, PolicySlot, Prefix, UplinkSlot};

impl Engine {
    /// Says anew what is wanted; what is missing from it will be deleted.
    pub(super) fn want_all(&mut self) {
        self.nexthops.want_begin();
        self.routes.want_begin();
        self.rules.want_begin();
        let mut full = [false; 3];
        for family in Family::BOTH {
            if self.config.uplinks.is_empty() || !self.has_family(family) {
                continue;
            }
            full[2] |= self.want_common_rules(family).is_err();
            for at in 0..self.config.uplinks.len() {
                let (nexthops, routes, rules) = self.want_uplink(at, family);
                full = [full[0] | nexthops.is_err(), full[1] | routes.is_err(), full[2] | rules.is_err()];
            }
            for at in 0..self.config.policies.len() {
                let (nexthops, routes) = self.want_policy(PolicySlot(at as u8), family);
                full = [full[0] | nexthops.is_err(), full[1] | routes.is_err(), full[2]];
            }
            full[2] |= self.want_policy_rules(family).is_err();
        }
        self.nexthops.want_end();
        self.routes.want_end();
        self.rules.want_end();
        for (table, capacity, full) in [
            ("nexthops", limits::NEXTHOPS, full[0]),
            ("routes", limits::ROUTES, full[1]),
            ("rules", limits::RULES, full[2]),
        ] {
            if full {
                self.tell_full(table, capacity);
            }
        }
    }

    fn want_common_rules(&mut self, family: Family) -> Result<(), Full> {
        let main = |priority, suppress| RuleSpec {
            family,
            priority,
            select: Selector::default(),
            action: RuleAction::Lookup { table: TABLE_MAIN, suppress: Some(suppress) },
        };
        self.rules.want(main(layout::RULE_MAIN_SPECIFIC, 1))?;
        self.rules.want(main(layout::RULE_MAIN, 0))
    }

    /// Layer 1 of an uplink: its table, and the rules that lead bound, local and marked packets there.
    fn want_uplink(&mut self, at: usize, family: Family) -> (Result<(), Full>, Result<(), Full>, Result<(), Full>) {
        let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get(at)) else {
            return (Ok(()), Ok(()), Ok(()));
        };
        if !config.serves(family) {
            return (Ok(()), Ok(()), Ok(()));
        }
        let table = layout::uplink_table(config.id);
        let mut routes = self.routes.want(RouteSpec {
            family,
            table,
            metric: layout::METRIC_LAST,
            target: RouteTarget::Unreachable,
        });
        if let Ok(hop) = uplink.hop(config, family) {
            let metric = layout::METRIC_UPLINK;
            routes = routes.and(self.routes.want(RouteSpec { family, table, metric, target: RouteTarget::Via(hop) }));
        }
        let mut nexthops = Ok(());
        if let (true, Ok(hop)) = (self.uses_nexthops(), uplink.usable(config, family)) {
            let id = layout::leaf(family, config.id);
            nexthops = self.nexthops.want(NexthopSpec { id, body: NexthopBody::Leaf { family, hop } });
        }
        let lookup = RuleAction::Lookup { table, suppress: None };
        let bound = layout::rule_bound(config.id);
        let rule = |priority, select| RuleSpec { family, priority, select, action: lookup };
        let mut rules = self.rules.want(rule(bound, Selector { oif: config.device, ..Selector::default() }));
        for addr in uplink.sources().filter(|a| Family::of(*a) == family) {
            let src = Some(Prefix::host(addr));
            rules = rules.and(self.rules.want(rule(bound, Selector { src, ..Selector::default() })));
        }
        let mark = Some(FwMark::spread(u32::from(config.id.0), self.config.globals.mark_mask));
        let marked = rule(layout::rule_marked(config.id), Selector { mark, ..Selector::default() });
        rules = rules.and(self.rules.want(marked));
        (nexthops, routes, rules)
    }

    /// A policy's table: a plain route per member, the pointer above them, the last resort below.
    fn want_policy(&mut self, slot: PolicySlot, family: Family) -> (Result<(), Full>, Result<(), Full>) {
        let Some(policy) = self.config.policies.get(usize::from(slot.0)) else { return (Ok(()), Ok(())) };
        let table = layout::policy_table(slot);
        let route = |metric, target| RouteSpec { family, table, metric, target };
        let mut routes = Ok(());
        for (rank, member) in policy.members.iter().enumerate() {
            let at = usize::from(member.uplink.0);
            let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get(at)) else { continue };
            if !config.serves(family) {
                continue;
            }
            if let Ok(hop) = uplink.hop(config, family) {
                let plain = route(layout::metric_member(rank), RouteTarget::Via(hop));
                routes = routes.and(self.routes.want(plain));
            }
        }
        match policy.last_resort {
            LastResort::Default => {}
            LastResort::Unreachable => {
                routes = routes.and(self.routes.want(route(layout::METRIC_LAST, RouteTarget::Unreachable)));
            }
            LastResort::Blackhole => {
                routes = routes.and(self.routes.want(route(layout::METRIC_LAST, RouteTarget::Blackhole)));
            }
        }
        let Some((uplink, hop)) = self.chosen_hop(slot, family) else { return (Ok(()), routes) };
        if !self.uses_nexthops() {
            let pointer = route(layout::METRIC_POINTER, RouteTarget::Via(hop));
            return (Ok(()), routes.and(self.routes.want(pointer)));
        }
        let Some(config) = self.config.uplinks.get(usize::from(uplink.0)) else { return (Ok(()), routes) };
        let id = layout::group(family, slot);
        let body = NexthopBody::Group(Group::of(layout::leaf(family, config.id)));
        let pointer = route(layout::METRIC_POINTER, RouteTarget::Nexthop(id));
        (self.nexthops.want(NexthopSpec { id, body }), routes.and(self.routes.want(pointer)))
    }

    fn want_policy_rules(&mut self, family: Family) -> Result<(), Full> {
        let mut result = Ok(());
        for (n, rule) in self.config.rules.iter().enumerate() {
            if !rule.families.get(family.index()).is_some_and(|serves| *serves) {
                continue;
            }
            let action = match rule.target {
                RuleTarget::Policy(slot) => RuleAction::Lookup { table: layout::policy_table(slot), suppress: None },
                RuleTarget::Default => RuleAction::Lookup { table: TABLE_MAIN, suppress: None },
                RuleTarget::Unreachable => RuleAction::Unreachable,
                RuleTarget::Blackhole => RuleAction::Blackhole,
            };
            let select = Selector {
                src: rule.src,
                dst: rule.dst,
                iif: rule.iif,
                oif: IfName::NONE,
                mark: None,
                proto: rule.proto,
                sport: rule.sport,
                dport: rule.dport,
            };
            let spec = RuleSpec { family, priority: layout::rule_policy(n), select, action };
            result = result.and(self.rules.want(spec));
        }
        if let Some(slot) = self.config.default_policy {
            let action = RuleAction::Lookup { table: layout::policy_table(slot), suppress: None };
            let select = Selector::default();
            let spec = RuleSpec { family, priority: layout::RULE_DEFAULT, select, action };
            result = result.and(self.rules.want(spec));
        }
        result
    }

    /// The member that should carry a policy's traffic: the best state, then the order of the members.
    pub(super) fn choose(&self, slot: PolicySlot, family: Family) -> Option<UplinkSlot> {
        let policy = self.config.policies.get(usize::from(slot.0))?;
        let usable = policy.members.iter().enumerate().filter_map(|(rank, member)| {
            let at = usize::from(member.uplink.0);
            let serves = self.config.uplinks.get(at)?.serves(family);
            let state = self.uplinks.get(at)?.legs.get(family.index())?.state;
            let state = if policy.use_degraded && state == State::Degraded { State::Up } else { state };
            (serves && state.is_usable()).then_some((core::cmp::Reverse(state), rank, member.uplink))
        });
        let best = usable.clone().min().map(|(_, _, uplink)| uplink);
        let preferred = self.preferred.get(usize::from(slot.0)).copied().flatten();
        let good = |state: State| state >= State::Degraded;
        preferred.filter(|p| usable.into_iter().any(|(state, _, uplink)| uplink == *p && good(state.0))).or(best)
    }

    fn chosen_hop(&self, slot: PolicySlot, family: Family) -> Option<(UplinkSlot, Hop)> {
        let uplink = self.choose(slot, family)?;
        let at = usize::from(uplink.0);
        let hop = self.uplinks.get(at)?.usable(self.config.uplinks.get(at)?, family).ok()?;
        Some((uplink, hop))
    }
}

/// Where the kernel is asked whether a switch took effect: addresses that nobody has a special route to
/// (RFC 7600: the IPv4 dummy address; RFC 6666: the IPv6 discard prefix).
pub(super) fn witness(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 0, 8]),
        Family::V6 => IpAddr::from([0x0100, 0, 0, 0, 0, 0, 0, 8]),
    }
}
