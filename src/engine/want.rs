//! Decides which routes, rules and nexthops should be in the kernel, from the configuration and the uplinks' states.
//!
//! Three layers (see the crate's documentation): plain routes that fail over with the daemon dead, one pointer per
//! policy and family that the daemon moves, and the ip rules that lead packets there (`super::select`).

use core::net::IpAddr;

use heapless::Vec;

use super::Engine;
use super::fib::Table;
use super::flows::Support;
use super::layout;
use super::object::{
    Group, GroupKind, GroupMember, Hop, NexthopBody, NexthopSpec, RouteSpec, RouteTarget, RuleAction, RuleSpec,
    Selector,
};
use super::uplink::Uplink;
use crate::config::{LastResort, Member};
use crate::limits;
use crate::types::{Family, FwMark, PolicySlot, Prefix, UplinkId, UplinkSlot};

/// The most that a share can be in every kernel with nexthop groups.
const MAX_SHARE: u32 = 255;

impl Engine {
    /// Says anew what is wanted; what is missing from it will be deleted.
    pub(super) fn want_all(&mut self) {
        self.nexthops.want_begin();
        self.routes.want_begin();
        self.rules.want_begin();
        for family in Family::BOTH {
            if self.config.uplinks.is_empty() || !self.has_family(family) {
                continue;
            }
            self.want_common_rules(family);
            for at in 0..self.config.uplinks.len() {
                self.want_uplink(at, family);
                self.want_preferred(at, family);
            }
            for at in 0..self.config.policies.len() {
                self.want_policy(PolicySlot(at as u8), family);
            }
            self.want_mark_rules(family);
            self.want_policy_rules(family);
        }
        self.nexthops.want_end();
        self.routes.want_end();
        self.rules.want_end();
        for (table, capacity, full) in [
            ("nexthops", limits::NEXTHOPS, self.nexthops.is_full()),
            ("routes", limits::ROUTES, self.routes.is_full()),
            ("rules", limits::RULES, self.rules.is_full()),
        ] {
            if full {
                self.tell_full(table, capacity);
            }
        }
    }

    /// Layer 1 of an uplink: its table, and the rules that lead bound, local and marked packets there.
    fn want_uplink(&mut self, at: usize, family: Family) {
        let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get(at)) else { return };
        if !config.serves(family) {
            return;
        }
        let table = layout::uplink_table(config.id);
        let target = RouteTarget::Unreachable;
        self.routes.want(RouteSpec { family, table, metric: layout::METRIC_LAST, target });
        if let Ok(hop) = uplink.hop(config, family) {
            let metric = layout::METRIC_UPLINK;
            let route = RouteSpec { family, table, metric, target: RouteTarget::Via(hop) };
            want_plain(&mut self.routes, route, uplink);
        }
        if let (true, Ok(hop)) = (self.uses_nexthops(), uplink.usable(config, family)) {
            let body = NexthopBody::Leaf { family, hop };
            self.nexthops.want(NexthopSpec { id: layout::leaf(family, config.id), body });
            if self.is_shared(UplinkSlot(at as u8), family) {
                self.nexthops.want(NexthopSpec { id: layout::alias(family, config.id), body });
            }
        }
        let lookup = RuleAction::Lookup { table, suppress: None };
        let bound = layout::rule_bound(config.id);
        let rule = |priority, select| RuleSpec { family, priority, select, action: lookup };
        self.rules.want(rule(bound, Selector { oif: config.device, ..Selector::default() }));
        for addr in uplink.sources().filter(|a| Family::of(*a) == family) {
            let src = Some(Prefix::host(addr));
            self.rules.want(rule(bound, Selector { src, ..Selector::default() }));
        }
        let mark = Some(FwMark::spread(u32::from(config.id.0), self.config.globals.mark_mask));
        self.rules.want(rule(layout::rule_marked(config.id), Selector { mark, ..Selector::default() }));
    }

    /// An uplink's second table, with a way out only as long as it lives: for sources that prefer it and may go elsewhere.
    fn want_preferred(&mut self, at: usize, family: Family) {
        let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get(at)) else { return };
        let prefixes = || self.config.prefixes(config.sources).iter().filter(|p| Family::of(p.addr) == family);
        let preferred = prefixes().next().is_some() || self.is_preferred(UplinkSlot(at as u8));
        if !config.serves(family) || !preferred {
            return;
        }
        let table = layout::soft_table(config.id);
        let lives = uplink.legs.get(family.index()).is_some_and(|leg| leg.state.is_usable());
        if let (true, Ok(hop)) = (lives, uplink.usable(config, family)) {
            let target = RouteTarget::Via(hop);
            self.routes.want(RouteSpec { family, table, metric: layout::METRIC_UPLINK, target });
        }
        let action = RuleAction::Lookup { table, suppress: None };
        for prefix in prefixes() {
            let select = Selector { src: Some(*prefix), ..Selector::default() };
            self.rules.want(RuleSpec { family, priority: layout::rule_source(config.id), select, action });
        }
    }

    /// A policy's table: a plain route per member, the pointer above them, the last resort below.
    fn want_policy(&mut self, slot: PolicySlot, family: Family) {
        let Some(policy) = self.config.policies.get(usize::from(slot.0)) else { return };
        let table = layout::policy_table(slot);
        let route = |metric, target| RouteSpec { family, table, metric, target };
        for (rank, member) in policy.members.iter().enumerate() {
            let at = usize::from(member.uplink.0);
            let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get(at)) else { continue };
            if !config.serves(family) {
                continue;
            }
            if let Ok(hop) = uplink.hop(config, family) {
                let plain = route(layout::metric_member(rank), RouteTarget::Via(hop));
                want_plain(&mut self.routes, plain, uplink);
            }
        }
        let last = match policy.last_resort {
            LastResort::Default => None,
            LastResort::Unreachable => Some(RouteTarget::Unreachable),
            LastResort::Blackhole => Some(RouteTarget::Blackhole),
        };
        if let Some(target) = last {
            self.routes.want(route(layout::METRIC_LAST, target));
        }
        let carriers = self.carriers(slot, family);
        let Some(first) = carriers.first() else { return };
        let target = if self.uses_nexthops() {
            let (id, group) = (self.group_id(slot, family), self.group(slot, family, &carriers));
            self.nexthops.want(NexthopSpec { id, body: NexthopBody::Group(group) });
            RouteTarget::Nexthop(id)
        } else {
            // One route leads one way: the member with the largest share is it.
            RouteTarget::Via(carriers.iter().fold(first, |a, b| if b.weight > a.weight { b } else { a }).hop)
        };
        self.routes.want(route(layout::METRIC_POINTER, target));
    }

    /// The members that carry a policy's traffic now.
    fn carriers(&self, slot: PolicySlot, family: Family) -> Vec<Carrier, { limits::UPLINKS }> {
        let mut carriers: Vec<Carrier, { limits::UPLINKS }> = Vec::new();
        let chosen = self.way(usize::from(slot.0), family).map(|w| w.chosen).unwrap_or_default();
        let members = self.config.policies.get(usize::from(slot.0)).map(|p| p.members.as_slice()).unwrap_or(&[]);
        for Member { uplink: slot, weight, .. } in members.iter().copied() {
            let at = usize::from(slot.0);
            let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get(at)) else { continue };
            // An uplink that is a member twice counts once, with its better metric.
            if !chosen.contains(slot) || carriers.iter().any(|c| c.id == config.id) {
                continue;
            }
            if let Ok(hop) = uplink.usable(config, family) {
                // Cannot fail: each uplink is there once.
                let _ = carriers.push(Carrier { id: config.id, weight, hop });
            }
        }
        carriers
    }

    fn group(&self, slot: PolicySlot, family: Family, carriers: &[Carrier]) -> Group {
        let largest = carriers.iter().map(|c| u32::from(c.weight)).max().unwrap_or(1);
        let kind = self.group_kind(slot, family);
        let mut group = Group::new(kind);
        for carrier in carriers {
            let weight = if carriers.len() == 1 { 1 } else { share(carrier.weight, largest) };
            // Cannot overflow: a group has room for two leaves of each uplink.
            group.push(GroupMember { id: layout::leaf(family, carrier.id), weight });
            if kind != GroupKind::Plain {
                group.push(GroupMember { id: layout::alias(family, carrier.id), weight });
            }
        }
        group
    }

    /// A policy that never shares has a plain group: which kind it is depends on the configuration alone, not on who is
    /// up, because it cannot be changed in place.
    fn group_kind(&self, slot: PolicySlot, family: Family) -> GroupKind {
        let policy = self.config.policies.get(usize::from(slot.0));
        let shares = policy.is_some_and(|p| self.config.shares(p, family));
        if !shares || self.resilient != Support::Yes {
            return GroupKind::Plain;
        }
        let balance = &self.config.globals.balance;
        let idle = balance.idle.map_or(if self.config.globals.pinning { 1 } else { 60 }, |idle| idle.as_secs());
        GroupKind::Resilient {
            buckets: balance.buckets,
            idle: u32::try_from(idle).unwrap_or(u32::MAX),
            unbalanced: u32::try_from(balance.unbalanced.as_secs()).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn group_id(&self, slot: PolicySlot, family: Family) -> u32 {
        match self.group_kind(slot, family) {
            GroupKind::Plain => layout::group(family, slot),
            GroupKind::Resilient { buckets, .. } => layout::resilient_group(family, slot, buckets),
        }
    }

    /// Whether an uplink is a member of a policy with a resilient group.
    fn is_shared(&self, uplink: UplinkSlot, family: Family) -> bool {
        self.config.policies.iter().enumerate().any(|(at, policy)| {
            policy.members.iter().any(|m| m.uplink == uplink)
                && self.group_kind(PolicySlot(at as u8), family) != GroupKind::Plain
        })
    }
}

/// A member that carries traffic, and its way out.
struct Carrier {
    id: UplinkId,
    weight: u16,
    hop: Hop,
}

/// A weight as a share that every kernel takes; proportions stay as they are up to 255.
fn share(weight: u16, largest: u32) -> u16 {
    let weight = u32::from(weight);
    let scaled = if largest <= MAX_SHARE { weight } else { weight.saturating_mul(MAX_SHARE).div_ceil(largest) };
    scaled.clamp(1, MAX_SHARE) as u16
}

/// Wants a plain route of layer 1, which stays while its uplink has no carrier; but while it has none the kernel takes
/// no new IPv6 route whose gateway is to be looked up there (EHOSTUNREACH): what is not there is wanted when it can be.
fn want_plain(routes: &mut Table<RouteSpec, { limits::ROUTES }>, route: RouteSpec, uplink: &Uplink) {
    let looked_up = match route.target {
        RouteTarget::Via(Hop { gateway: Some(IpAddr::V6(gateway)), onlink: false, .. }) => {
            !gateway.is_unicast_link_local()
        }
        _ => false,
    };
    let carrier = uplink.watch.link().is_some_and(|link| link.carrier);
    if carrier || !looked_up || routes.is_there(&route) {
        routes.want(route);
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
