//! What the kernel should hold: a slow model written from the documentation and not from the engine. It knows the kernel's
//! true state and no history, and its numbers are literal: what users see is promised, and here the promise is written a
//! second time.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::kernel::{FakeKernel, key};
use crate::config::{Config, LastResort, PolicyConfig, RuleTarget, UplinkConfig};
use crate::engine::object::{
    Group, GroupKind, GroupMember, Hop, NexthopBody, NexthopSpec, RouteSpec, RouteTarget, RuleAction, RuleSpec,
    Selector,
};
use crate::types::{Family, FwMark, Prefix};

/// The way out of an uplink that could be written into the kernel, carrier or not; from the kernel's true state.
fn hop_of(kernel: &FakeKernel, uplink: &UplinkConfig, family: Family) -> Option<Hop> {
    let link = kernel.link(uplink.device).filter(|l| l.admin_up)?;
    if !uplink.serves(family) || (kernel.no_ipv6 && family == Family::V6) {
        return None;
    }
    let mut addresses = kernel.addresses().iter().filter(|a| a.ifindex == link.ifindex && Family::of(a.addr) == family);
    if !addresses.clone().any(|a| a.usable) {
        return None;
    }
    let fixed = match family {
        Family::V4 => uplink.gateway.map(IpAddr::V4),
        Family::V6 => uplink.gateway6.map(IpAddr::V6),
    };
    let mut learned = kernel.main_defaults();
    learned.retain(|d| d.family == family && d.hop.ifindex == link.ifindex);
    let learned = learned.iter().min_by_key(|d| d.metric).map(|d| d.hop);
    let hop = fixed.map_or(learned, |g| Some(Hop { gateway: Some(g), ifindex: link.ifindex, onlink: false }))?;
    let gateway = hop.gateway?;
    let link_local = matches!(gateway, IpAddr::V6(a) if a.is_unicast_link_local());
    let covered = addresses.any(|a| Prefix::new(a.addr, a.prefix_len).is_some_and(|p| p.contains(gateway)));
    Some(Hop { onlink: hop.onlink || !(covered || link_local), ..hop })
}

/// Whether an uplink could carry a family's traffic: device, up, carrier, address, gateway.
pub fn eligible(kernel: &FakeKernel, uplink: &UplinkConfig, family: Family) -> bool {
    kernel.link(uplink.device).is_some_and(|l| l.is_live()) && hop_of(kernel, uplink, family).is_some()
}

/// Who should carry a policy's traffic, with the weights of their shares: the eligible members of lowest metric.
pub fn carriers<'a>(
    kernel: &FakeKernel,
    config: &'a Config,
    policy: &PolicyConfig,
    family: Family,
) -> Vec<(&'a UplinkConfig, u16)> {
    let members = policy.members.iter().filter_map(|m| Some((m, config.uplinks.get(usize::from(m.uplink.0))?)));
    let good: Vec<_> = members.filter(|(_, u)| eligible(kernel, u, family)).collect();
    let best = good.iter().map(|(m, _)| m.metric).min();
    good.into_iter().filter(|(m, _)| Some(m.metric) == best).map(|(m, u)| (u, m.weight)).collect()
}

/// Whether two members of a policy share a family whenever both can.
fn balances(config: &Config, policy: &PolicyConfig, family: Family) -> bool {
    let mut metrics: Vec<u32> = Vec::new();
    for member in &policy.members {
        if config.uplinks.get(usize::from(member.uplink.0)).is_some_and(|u| u.serves(family)) {
            metrics.push(member.metric);
        }
    }
    metrics.windows(2).any(|pair| matches!(pair, [a, b] if a == b))
}

/// What of ours a kernel should hold.
#[derive(Debug, Default)]
pub struct Expected {
    /// Nexthops by id.
    pub nexthops: Vec<NexthopSpec>,
    /// Routes.
    pub routes: Vec<RouteSpec>,
    /// Rules.
    pub rules: Vec<RuleSpec>,
}

/// What of ours the kernel should hold once all hold-downs and suppressions are over. The numbers are literal: what users
/// see is promised, and this is where the promise is written a second time.
pub fn expected(kernel: &FakeKernel, config: &Config) -> Expected {
    let mut want = Expected::default();
    let with_nexthops = config.globals.nexthops && !kernel.no_nexthops;
    let everything = Selector::default();
    for family in Family::BOTH {
        if config.uplinks.is_empty() || (family == Family::V6 && kernel.no_ipv6) {
            continue;
        }
        let leaf = |u: &UplinkConfig| if family == Family::V4 { 761_000 } else { 762_000 } + u32::from(u.id.0);
        let mut rule = |priority, select, table, suppress| {
            want.rules.push(RuleSpec { family, priority, select, action: RuleAction::Lookup { table, suppress } });
        };
        rule(1000, everything, 254, Some(1));
        rule(1900, everything, 254, Some(0));
        let reserved = |value: u32| Selector { mark: Some(FwMark { value, mask: 0x3F00 }), ..everything };
        rule(2063, reserved(0x3F00), 254, None);
        if let Some(policy) = config.default_policy {
            rule(3900, everything, 7600 + u32::from(policy.0), None);
        }
        // Pinned connections prefer their uplink: 60 is the highest free mark.
        let highest = config.uplinks.iter().map(|u| u32::from(u.id.0)).max().unwrap_or(0);
        for uplink in config.uplinks.iter().filter(|u| u.serves(family)) {
            let id = u32::from(uplink.id.0);
            rule(2600, reserved((61 - id) << 8), 7200 + id, None);
            if let Some(hop) = hop_of(kernel, uplink, family).filter(|_| eligible(kernel, uplink, family)) {
                let target = RouteTarget::Via(hop);
                want.routes.push(RouteSpec { family, table: 7200 + id, metric: 10, target });
            }
        }
        // The random worlds have at most one sticky rule, and no other that needs nft.
        for sticky in config.rules.iter().filter(|r| r.sticky.is_some()) {
            let RuleTarget::Policy(slot) = sticky.target else { continue };
            let mut mark = 60 - highest - config.policies.len() as u32;
            rule(2700, reserved(mark << 8), 7600 + u32::from(slot.0), None);
            for member in config.policies.get(usize::from(slot.0)).iter().flat_map(|p| &p.members) {
                mark -= 1;
                let Some(uplink) = config.uplinks.get(usize::from(member.uplink.0)) else { continue };
                if uplink.serves(family) {
                    rule(2600, reserved(mark << 8), 7200 + u32::from(uplink.id.0), None);
                    rule(2700, reserved(mark << 8), 7600 + u32::from(slot.0), None);
                }
            }
        }
        for (priority, mark, action) in [(2061, 0x3D00, RuleAction::Blackhole), (2062, 0x3E00, RuleAction::Unreachable)]
        {
            want.rules.push(RuleSpec { family, priority, select: reserved(mark), action });
        }
        let mut rule = |priority, select, table, suppress| {
            want.rules.push(RuleSpec { family, priority, select, action: RuleAction::Lookup { table, suppress } });
        };
        for uplink in config.uplinks.iter().filter(|u| u.serves(family)) {
            let id = u32::from(uplink.id.0);
            rule(1000 + id, Selector { oif: uplink.device, ..everything }, id, None);
            let mark = FwMark { value: id << 8, mask: 0x3F00 };
            rule(2000 + id, Selector { mark: Some(mark), ..everything }, id, None);
            let ifindex = kernel.link(uplink.device).map(|l| l.ifindex);
            for address in kernel.addresses().iter().filter(|a| a.usable && Some(a.ifindex) == ifindex) {
                if Family::of(address.addr) == family {
                    rule(1000 + id, Selector { src: Some(Prefix::host(address.addr)), ..everything }, id, None);
                }
            }
            want.routes.push(RouteSpec { family, table: id, metric: u32::MAX, target: RouteTarget::Unreachable });
            let Some(hop) = hop_of(kernel, uplink, family) else { continue };
            want.routes.push(RouteSpec { family, table: id, metric: 10, target: RouteTarget::Via(hop) });
            if with_nexthops && eligible(kernel, uplink, family) {
                want.nexthops.push(NexthopSpec { id: leaf(uplink), body: NexthopBody::Leaf { family, hop } });
                let member = |p: &&PolicyConfig| {
                    p.members
                        .iter()
                        .any(|m| config.uplinks.get(usize::from(m.uplink.0)).is_some_and(|u| u.id == uplink.id))
                };
                if config.policies.iter().filter(member).any(|p| balances(config, p, family)) && !kernel.no_resilient {
                    let body = NexthopBody::Leaf { family, hop };
                    want.nexthops.push(NexthopSpec { id: leaf(uplink) + 500, body });
                }
            }
        }
        for (n, rule) in config.rules.iter().enumerate() {
            if rule.families.get(family.index()) == Some(&true)
                && let RuleTarget::Policy(policy) = rule.target
            {
                let src = config.prefixes(rule.src).first().copied();
                let select = Selector { src, iif: rule.iif, proto: rule.proto, ..everything };
                let action = RuleAction::Lookup { table: 7600 + u32::from(policy.0), suppress: None };
                want.rules.push(RuleSpec { family, priority: 3000 + n as u32, select, action });
            }
        }
        for (n, policy) in config.policies.iter().enumerate() {
            let table = 7600 + n as u32;
            let members: Vec<_> =
                policy.members.iter().filter_map(|m| config.uplinks.get(usize::from(m.uplink.0))).collect();
            for (rank, uplink) in members.iter().enumerate() {
                if let Some(hop) = hop_of(kernel, uplink, family) {
                    let metric = 1000 + rank as u32;
                    want.routes.push(RouteSpec { family, table, metric, target: RouteTarget::Via(hop) });
                }
            }
            let last = match policy.last_resort {
                LastResort::Unreachable => Some(RouteTarget::Unreachable),
                LastResort::Blackhole => Some(RouteTarget::Blackhole),
                LastResort::Default => None,
            };
            want.routes.extend(last.map(|target| RouteSpec { family, table, metric: u32::MAX, target }));
            let carriers = carriers(kernel, config, policy, family);
            // Without nexthops one route leads one way: the first of the largest share.
            let Some(best) = carriers.iter().rev().max_by_key(|(_, weight)| *weight) else { continue };
            let resilient = balances(config, policy, family) && !kernel.no_resilient;
            let group_id = match (family, resilient) {
                (Family::V4, false) => 763_000 + n as u32,
                (Family::V6, false) => 764_000 + n as u32,
                // 1024 buckets: the tenth power of two.
                (Family::V4, true) => 790_000 + n as u32,
                (Family::V6, true) => 791_000 + n as u32,
            };
            let target = if with_nexthops {
                let kind = GroupKind::Resilient { buckets: 1024, idle: 1, unbalanced: 120 };
                let mut group = Group::new(if resilient { kind } else { GroupKind::Plain });
                for (uplink, weight) in &carriers {
                    // Weights above 255 are scaled down, rounded up.
                    let largest = u32::from(best.1);
                    let scaled =
                        if largest > 255 { (u32::from(*weight) * 255).div_ceil(largest) } else { u32::from(*weight) };
                    let weight = if carriers.len() == 1 { 1 } else { scaled as u16 };
                    group.push(GroupMember { id: leaf(uplink), weight });
                    if resilient {
                        group.push(GroupMember { id: leaf(uplink) + 500, weight });
                    }
                }
                want.nexthops.push(NexthopSpec { id: group_id, body: NexthopBody::Group(group) });
                RouteTarget::Nexthop(group_id)
            } else {
                // It is eligible, so it has one.
                hop_of(kernel, best.0, family).map_or(RouteTarget::Unreachable, RouteTarget::Via)
            };
            want.routes.push(RouteSpec { family, table, metric: 10, target });
        }
    }
    want.nexthops.sort();
    want.routes.sort();
    want.rules.sort();
    want
}

/// Compares what the kernel holds of ours with what it should hold.
///
/// # Errors
/// What is missing and what is too much, one a line.
pub fn compare(kernel: &FakeKernel, config: &Config) -> Result<(), String> {
    let mut want = expected(kernel, config);
    let mut found = Expected {
        nexthops: kernel.nexthops().to_vec(),
        routes: kernel.routes().iter().filter(|r| r.own).map(|r| r.spec).collect(),
        rules: kernel.rules().to_vec(),
    };
    found.nexthops.sort();
    found.routes.sort();
    found.rules.sort();
    // What came too late for the kernel to take it waits for the carrier.
    let in_vain = |r: &RouteSpec| matches!(r.target, RouteTarget::Via(hop) if kernel.looks_in_vain(r.family, &hop));
    want.routes.retain(|r| found.routes.contains(r) || !in_vain(r));
    let mut text = String::new();
    differ(&mut text, &want.nexthops, &found.nexthops);
    differ(&mut text, &want.routes, &found.routes);
    differ(&mut text, &want.rules, &found.rules);
    if found.routes.windows(2).any(|pair| matches!(pair, [a, b] if key(a) == key(b))) {
        text.push_str("\n  I3: two routes of ours with the same key");
    }
    if text.is_empty() { Ok(()) } else { Err(format!("the kernel holds something else than it should:{text}")) }
}

fn differ<T: PartialEq + std::fmt::Debug>(text: &mut String, want: &[T], found: &[T]) {
    for missing in want.iter().filter(|w| !found.contains(w)) {
        let _ = write!(text, "\n  missing  {missing:?}");
    }
    for extra in found.iter().filter(|f| !want.contains(f)) {
        let _ = write!(text, "\n  too much {extra:?}");
    }
}
