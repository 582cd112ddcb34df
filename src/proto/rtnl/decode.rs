//! Notifications and the parts of dumps: bytes of the kernel become events.
//!
//! What is neither ours nor of use is passed over: foreign rules, routes that are no default, cloned routes, bridge
//! ports, loopback addresses.

use core::net::IpAddr;

use super::super::netlink::{self, Attributes, Bytes, Malformed, Message, messages};
use super::{family, number as n};
use crate::engine::Event;
use crate::engine::event::{AddressInfo, LinkInfo, LinkSource, MainDefault};
use crate::engine::object::{
    Group, GroupKind, GroupMember, Hop, NexthopBody, NexthopSpec, PROTOCOL, RouteSpec, RouteTarget, RuleAction,
    RuleSpec, Selector, TABLE_MAIN,
};
use crate::types::{Family, FwMark, IfIndex, IfName, PortRange, Prefix};

/// Decodes a datagram of a multicast socket. Changes of routes, rules and nexthops that our own requests made
/// (`own_port` in the header) are left out: their acknowledgements tell.
///
/// # Errors
/// [`Malformed`]: facts before the bad place were delivered, the rest is lost; treat it as an overrun.
pub fn decode_notification(datagram: &[u8], own_port: u32, sink: &mut dyn FnMut(Event)) -> Result<(), Malformed> {
    for message in messages(datagram) {
        let message = message?;
        match message.kind {
            netlink::OVERRUN => {
                return Err(Malformed { what: "NLMSG_OVERRUN", at: message.body.at, have: 0, want: 0 });
            }
            n::NEWLINK | n::DELLINK | n::NEWADDR | n::DELADDR => fact(&message, LinkSource::Announced, sink)?,
            _ if is_default_of_others(&message) || own_port == 0 || message.port != own_port => {
                fact(&message, LinkSource::Announced, sink)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Our requests never touch what does not carry our protocol, but a default route in main is news whoever made it.
fn is_default_of_others(message: &Message<'_>) -> bool {
    matches!(message.kind, n::NEWROUTE | n::DELROUTE) && message.body.u8(5, "rtmsg").is_ok_and(|p| p != PROTOCOL)
}

/// Decodes one message, whether announced, answered or dumped.
pub(super) fn fact(message: &Message<'_>, source: LinkSource, sink: &mut dyn FnMut(Event)) -> Result<(), Malformed> {
    let event = match message.kind {
        n::NEWLINK => link(&message.body)?.map(|link| Event::Link { link, source }),
        n::DELLINK => link(&message.body)?.map(|link| Event::LinkGone(link.ifindex)),
        n::NEWADDR => address(&message.body)?.map(Event::Address),
        n::DELADDR => address(&message.body)?.map(|a| Event::AddressGone { ifindex: a.ifindex, addr: a.addr }),
        n::NEWROUTE | n::DELROUTE => return route(message, sink),
        n::NEWRULE => rule(&message.body)?.map(Event::OwnRule),
        n::DELRULE => rule(&message.body)?.map(|rule| Event::OwnRuleGone { rule, by: message.port }),
        n::NEWNEXTHOP => nexthop(&message.body)?.map(Event::OwnNexthop),
        n::DELNEXTHOP => nexthop_id(&message.body)?.map(|id| Event::OwnNexthopGone { id, by: message.port }),
        _ => None,
    };
    if let Some(event) = event {
        sink(event);
    }
    Ok(())
}

fn link(body: &Bytes<'_>) -> Result<Option<LinkInfo>, Malformed> {
    // struct ifinfomsg: family, pad, type, index, flags, change
    let flags = body.u32(8, "ifinfomsg")?;
    let mut link = LinkInfo {
        ifindex: IfIndex(body.u32(4, "ifinfomsg")?),
        admin_up: flags & n::IFF_UP != 0,
        carrier: flags & n::IFF_LOWER_UP != 0,
        running: flags & n::IFF_RUNNING != 0,
        ..LinkInfo::default()
    };
    for attribute in body.attributes(16, "ifinfomsg")? {
        let (kind, value) = attribute?;
        match kind {
            n::IFLA_IFNAME => link.name = name(&value),
            n::IFLA_OPERSTATE => link.operstate = value.u8(0, "IFLA_OPERSTATE")?,
            n::IFLA_CARRIER_UP_COUNT => link.up_count = value.u32(0, "IFLA_CARRIER_UP_COUNT")?,
            n::IFLA_CARRIER_DOWN_COUNT => link.down_count = value.u32(0, "IFLA_CARRIER_DOWN_COUNT")?,
            _ => {}
        }
    }
    // Bridge ports are told once more under AF_BRIDGE, also when they only leave the bridge.
    let plain = body.u8(0, "ifinfomsg")? == 0;
    Ok((plain && link.ifindex.0 != 0 && !link.name.is_none()).then_some(link))
}

/// How many packets a link has carried, where the kernel says so (`struct rtnl_link_stats64`). The numbers wrap: their
/// lower halves are enough to see whether they move.
pub(super) fn traffic(body: &Bytes<'_>, sink: &mut dyn FnMut(Event)) -> Result<(), Malformed> {
    for attribute in body.attributes(16, "ifinfomsg")? {
        let (kind, value) = attribute?;
        if kind == n::IFLA_STATS64 {
            let low = |at| value.u64(at, "IFLA_STATS64").map(|count| count as u32);
            let (received, sent) = (low(0)?, low(8)?);
            sink(Event::Traffic { ifindex: IfIndex(body.u32(4, "ifinfomsg")?), received, sent });
        }
    }
    Ok(())
}

fn name(value: &Bytes<'_>) -> IfName {
    let end = value.bytes.iter().position(|b| *b == 0).unwrap_or(value.bytes.len());
    IfName::new(value.bytes.get(..end).unwrap_or(&[])).unwrap_or(IfName::NONE)
}

fn address(body: &Bytes<'_>) -> Result<Option<AddressInfo>, Malformed> {
    // struct ifaddrmsg: family, prefixlen, flags, scope, index
    let Some(family) = family(body.u8(0, "ifaddrmsg")?) else { return Ok(None) };
    let prefix_len = body.u8(1, "ifaddrmsg")?;
    let mut flags = u32::from(body.u8(2, "ifaddrmsg")?);
    let ifindex = IfIndex(body.u32(4, "ifaddrmsg")?);
    let (mut peer, mut local) = (None, None);
    for attribute in body.attributes(8, "ifaddrmsg")? {
        let (kind, value) = attribute?;
        match kind {
            n::IFA_ADDRESS => peer = Some(ip(family, &value, "IFA_ADDRESS")?),
            n::IFA_LOCAL => local = Some(ip(family, &value, "IFA_LOCAL")?),
            n::IFA_FLAGS => flags = value.u32(0, "IFA_FLAGS")?,
            _ => {}
        }
    }
    let Some(addr) = local.or(peer).filter(|a| !a.is_loopback()) else { return Ok(None) };
    let waiting = flags & n::IFA_F_TENTATIVE != 0 && flags & n::IFA_F_OPTIMISTIC == 0;
    let usable = !waiting && flags & n::IFA_F_DADFAILED == 0;
    Ok(Some(AddressInfo { ifindex, addr, prefix_len, usable }))
}

#[inline(never)]
fn ip(family: Family, value: &Bytes<'_>, what: &'static str) -> Result<IpAddr, Malformed> {
    let have = value.bytes.len();
    let short = |want| Malformed { what, at: value.at, have, want };
    match family {
        Family::V4 => value.bytes.first_chunk::<4>().map(|b| IpAddr::from(*b)).ok_or_else(|| short(4)),
        Family::V6 => value.bytes.first_chunk::<16>().map(|b| IpAddr::from(*b)).ok_or_else(|| short(16)),
    }
}

fn route(message: &Message<'_>, sink: &mut dyn FnMut(Event)) -> Result<(), Malformed> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
    let body = &message.body;
    let Some(family) = family(body.u8(0, "rtmsg")?) else { return Ok(()) };
    let (dst_len, src_len) = (body.u8(1, "rtmsg")?, body.u8(2, "rtmsg")?);
    let mut table = u32::from(body.u8(4, "rtmsg")?);
    let (protocol, kind) = (body.u8(5, "rtmsg")?, body.u8(7, "rtmsg")?);
    let flags = body.u32(8, "rtmsg")?;
    if dst_len != 0 || src_len != 0 || flags & n::RTM_F_CLONED != 0 {
        return Ok(());
    }
    let (mut metric, mut nexthop, mut multipath) = (0, None, None);
    let mut hop = Hop { gateway: None, ifindex: IfIndex(0), onlink: flags & n::RTNH_F_ONLINK != 0 };
    for attribute in body.attributes(12, "rtmsg")? {
        let (attribute, value) = attribute?;
        match attribute {
            n::RTA_TABLE => table = value.u32(0, "RTA_TABLE")?,
            n::RTA_PRIORITY => metric = value.u32(0, "RTA_PRIORITY")?,
            n::RTA_OIF => hop.ifindex = IfIndex(value.u32(0, "RTA_OIF")?),
            n::RTA_GATEWAY => hop.gateway = Some(ip(family, &value, "RTA_GATEWAY")?),
            n::RTA_VIA => hop.gateway = Some(via(&value)?),
            n::RTA_NH_ID => nexthop = Some(value.u32(0, "RTA_NH_ID")?),
            n::RTA_MULTIPATH => multipath = Some(value),
            _ => {}
        }
    }
    if protocol == PROTOCOL {
        let target = match (kind, nexthop) {
            (n::RTN_UNICAST, Some(id)) => RouteTarget::Nexthop(id),
            (n::RTN_UNICAST, None) => RouteTarget::Via(hop),
            (n::RTN_BLACKHOLE, _) => RouteTarget::Blackhole,
            (n::RTN_UNREACHABLE, _) => RouteTarget::Unreachable,
            _ => return Ok(()),
        };
        let route = RouteSpec { family, table, metric, target };
        sink(match message.kind {
            n::NEWROUTE => Event::OwnRoute(route),
            _ => Event::OwnRouteGone { route, by: message.port },
        });
        return Ok(());
    }
    let mut replaced = message.flags & netlink::F_REPLACE != 0;
    if table != TABLE_MAIN && replaced && message.kind == n::NEWROUTE {
        // A stranger took this place. If it was ours, ours is gone, and the kernel has no other word for that.
        let route = RouteSpec { family, table, metric, target: RouteTarget::Unreachable };
        sink(Event::OwnRouteGone { route, by: message.port });
    }
    if table != TABLE_MAIN || kind != n::RTN_UNICAST {
        return Ok(());
    }
    let mut tell = |hop: Hop| {
        let route = MainDefault { family, metric, hop };
        if hop.ifindex.0 != 0 {
            sink(match message.kind {
                n::NEWROUTE => Event::MainDefault { route, replaced },
                _ => Event::MainDefaultGone(route),
            });
        }
        replaced = false;
    };
    match multipath {
        Some(hops) => each_hop(family, hops, &mut tell)?,
        None => tell(hop),
    }
    Ok(())
}

/// `struct rtvia`: the gateway of an IPv4 route may be an IPv6 address.
fn via(value: &Bytes<'_>) -> Result<IpAddr, Malformed> {
    let family = family(value.u16(0, "RTA_VIA")? as u8).unwrap_or(Family::V6);
    ip(family, &value.rest(2, "RTA_VIA")?, "RTA_VIA")
}

/// `struct rtnexthop`: length, flags, hops, ifindex, attributes.
fn each_hop(family: Family, hops: Bytes<'_>, tell: &mut dyn FnMut(Hop)) -> Result<(), Malformed> {
    let mut rest = hops;
    while !rest.bytes.is_empty() {
        let len = usize::from(rest.u16(0, "rtnexthop")?);
        let one = rest.bytes.get(..len).filter(|_| len >= 8);
        let short = Malformed { what: "rtnexthop", at: rest.at, have: rest.bytes.len(), want: len.max(8) };
        let one = Bytes { bytes: one.ok_or(short)?, at: rest.at };
        let onlink = u32::from(one.u8(2, "rtnexthop")?) & n::RTNH_F_ONLINK != 0;
        let mut hop = Hop { gateway: None, ifindex: IfIndex(one.u32(4, "rtnexthop")?), onlink };
        for attribute in one.attributes(8, "rtnexthop")? {
            let (kind, value) = attribute?;
            match kind {
                n::RTA_GATEWAY => hop.gateway = Some(ip(family, &value, "RTA_GATEWAY")?),
                n::RTA_VIA => hop.gateway = Some(via(&value)?),
                _ => {}
            }
        }
        tell(hop);
        let step = (len + 3) & !3;
        rest = Bytes { bytes: rest.bytes.get(step..).unwrap_or(&[]), at: rest.at.saturating_add(step) };
    }
    Ok(())
}

fn rule(body: &Bytes<'_>) -> Result<Option<RuleSpec>, Malformed> {
    // struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, flags
    let Some(family) = family(body.u8(0, "fib_rule_hdr")?) else { return Ok(None) };
    let (dst_len, src_len) = (body.u8(1, "fib_rule_hdr")?, body.u8(2, "fib_rule_hdr")?);
    let mut table = u32::from(body.u8(4, "fib_rule_hdr")?);
    let kind = body.u8(7, "fib_rule_hdr")?;
    let mut select = Selector::default();
    let (mut protocol, mut priority, mut suppress) = (0, 0, None);
    let (mut mark, mut mask) = (None, u32::MAX);
    for attribute in body.attributes(12, "fib_rule_hdr")? {
        let (attribute, value) = attribute?;
        match attribute {
            n::FRA_PROTOCOL => protocol = value.u8(0, "FRA_PROTOCOL")?,
            n::FRA_PRIORITY => priority = value.u32(0, "FRA_PRIORITY")?,
            n::FRA_TABLE => table = value.u32(0, "FRA_TABLE")?,
            n::FRA_SUPPRESS_PREFIXLEN => suppress = u8::try_from(value.u32(0, "FRA_SUPPRESS_PREFIXLEN")?).ok(),
            n::FRA_FWMARK => mark = Some(value.u32(0, "FRA_FWMARK")?),
            n::FRA_FWMASK => mask = value.u32(0, "FRA_FWMASK")?,
            n::FRA_IIFNAME => select.iif = name(&value),
            n::FRA_OIFNAME => select.oif = name(&value),
            n::FRA_SRC => select.src = Prefix::new(ip(family, &value, "FRA_SRC")?, src_len),
            n::FRA_DST => select.dst = Prefix::new(ip(family, &value, "FRA_DST")?, dst_len),
            n::FRA_IP_PROTO => select.proto = Some(value.u8(0, "FRA_IP_PROTO")?),
            n::FRA_SPORT_RANGE => select.sport = Some(ports(&value)?),
            n::FRA_DPORT_RANGE => select.dport = Some(ports(&value)?),
            _ => {}
        }
    }
    if protocol != PROTOCOL {
        return Ok(None);
    }
    // Without a mark, or with one that compares nothing, there is no mark to speak of.
    select.mark = mark.filter(|m| *m != 0 || mask != u32::MAX).map(|value| FwMark { value, mask });
    let action = match kind {
        n::FR_ACT_TO_TBL => RuleAction::Lookup { table, suppress },
        n::FR_ACT_BLACKHOLE => RuleAction::Blackhole,
        n::FR_ACT_UNREACHABLE => RuleAction::Unreachable,
        _ => return Ok(None),
    };
    Ok(Some(RuleSpec { family, priority, select, action }))
}

/// `struct fib_rule_port_range`
fn ports(value: &Bytes<'_>) -> Result<PortRange, Malformed> {
    Ok(PortRange { first: value.u16(0, "fib_rule_port_range")?, last: value.u16(2, "fib_rule_port_range")? })
}

fn nexthop(body: &Bytes<'_>) -> Result<Option<NexthopSpec>, Malformed> {
    // struct nhmsg: family, scope, protocol, resvd, flags
    let family = family(body.u8(0, "nhmsg")?);
    let protocol = body.u8(2, "nhmsg")?;
    let flags = body.u32(4, "nhmsg")?;
    let mut hop = Hop { gateway: None, ifindex: IfIndex(0), onlink: flags & n::RTNH_F_ONLINK != 0 };
    let (mut id, mut group) = (0, None);
    let (mut resilient, mut timers) = (false, GroupKind::Plain);
    for attribute in body.attributes(8, "nhmsg")? {
        let (kind, value) = attribute?;
        match (kind, family) {
            (n::NHA_ID, _) => id = value.u32(0, "NHA_ID")?,
            (n::NHA_OIF, _) => hop.ifindex = IfIndex(value.u32(0, "NHA_OIF")?),
            (n::NHA_GATEWAY, Some(family)) => hop.gateway = Some(ip(family, &value, "NHA_GATEWAY")?),
            (n::NHA_GROUP, _) => group = Some(members(&value)?),
            (n::NHA_GROUP_TYPE, _) => resilient = value.u16(0, "NHA_GROUP_TYPE")? == n::GROUP_RESILIENT,
            (n::NHA_RES_GROUP, _) => timers = buckets(value)?,
            _ => {}
        }
    }
    if let (Some(group), true) = (&mut group, resilient) {
        group.kind = timers;
    }
    let body = match (group, family) {
        (Some(group), _) => NexthopBody::Group(group),
        (None, Some(family)) => NexthopBody::Leaf { family, hop },
        (None, None) => return Ok(None),
    };
    Ok((protocol == PROTOCOL && id != 0).then_some(NexthopSpec { id, body }))
}

/// `struct nexthop_grp`: id, weight - 1, its high byte, reserved. A group of more than ours can hold is not ours.
fn members(value: &Bytes<'_>) -> Result<Group, Malformed> {
    let mut group = Group::default();
    for at in (0..value.bytes.len()).step_by(8) {
        let id = value.u32(at, "nexthop_grp")?;
        let low = u16::from(value.u8(at.saturating_add(4), "nexthop_grp")?);
        let high = u16::from(value.u8(at.saturating_add(5), "nexthop_grp")?);
        let weight = (low | high << 8).saturating_add(1);
        if !group.push(GroupMember { id, weight }) {
            break;
        }
    }
    Ok(group)
}

/// The attributes in `NHA_RES_GROUP`.
fn buckets(value: Bytes<'_>) -> Result<GroupKind, Malformed> {
    let (mut buckets, mut idle, mut unbalanced) = (0, 0, 0);
    for attribute in Attributes::of(value) {
        let (kind, value) = attribute?;
        match kind {
            n::NHA_RES_GROUP_BUCKETS => buckets = value.u16(0, "NHA_RES_GROUP_BUCKETS")?,
            n::NHA_RES_GROUP_IDLE_TIMER => idle = value.u32(0, "NHA_RES_GROUP_IDLE_TIMER")? / n::CLOCK,
            n::NHA_RES_GROUP_UNBALANCED_TIMER => {
                unbalanced = value.u32(0, "NHA_RES_GROUP_UNBALANCED_TIMER")? / n::CLOCK;
            }
            _ => {}
        }
    }
    Ok(GroupKind::Resilient { buckets, idle, unbalanced })
}

fn nexthop_id(body: &Bytes<'_>) -> Result<Option<u32>, Malformed> {
    if body.u8(2, "nhmsg")? != PROTOCOL {
        return Ok(None);
    }
    for attribute in Attributes::of(body.rest(8, "nhmsg")?) {
        let (kind, value) = attribute?;
        if kind == n::NHA_ID {
            return value.u32(0, "NHA_ID").map(Some);
        }
    }
    Ok(None)
}
