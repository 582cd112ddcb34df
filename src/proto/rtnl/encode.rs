//! Actions become requests, into a fixed buffer: nothing is allocated on the way to a switch.

use core::net::IpAddr;

use super::super::netlink::{F_ACK, F_CREATE, F_DUMP, F_EXCL, F_REPLACE, Full, Writer};
use super::{af, number as n};
use crate::engine::action::RouteQuestion;
use crate::engine::object::{
    GroupKind, Hop, NexthopBody, NexthopSpec, PROTOCOL, RouteSpec, RouteTarget, RuleAction, RuleSpec, TABLE_MAIN,
};
use crate::engine::{Action, Dump, Op};
use crate::types::{Family, IfIndex, IfName, PortRange, Prefix};

/// Encodes an action; its length in bytes, 0 when the action is not for netlink. Dumps carry `dump_seq`.
///
/// # Errors
/// [`Full`]: the buffer is too small; 512 bytes are enough for everything but the largest group.
pub fn encode(action: &Action, dump_seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    match action {
        Action::Nexthop { token, op, nexthop } => encode_nexthop(*op, nexthop, token.0, buf),
        Action::Route { token, op, route } => encode_route(*op, route, token.0, buf),
        Action::Rule { token, op, rule } => encode_rule(*op, rule, token.0, buf),
        Action::AskLink { token, ifindex, traffic } => {
            let mut writer = Writer::new(buf, n::GETLINK, 0, token.0);
            put_ifinfomsg(&mut writer, *ifindex);
            if !traffic {
                writer.attribute_u32(n::IFLA_EXT_MASK, n::SKIP_STATS);
            }
            writer.finish()
        }
        Action::AskRoute { token, question } => encode_question(question, token.0, buf),
        Action::UseNeighbour { ifindex, gateway } => {
            let mut writer = Writer::new(buf, n::NEWNEIGH, F_CREATE, dump_seq);
            // struct ndmsg: family, pad, ifindex, state, flags, type
            writer.put(&[af(Family::of(*gateway)), 0, 0, 0]);
            writer.put(&ifindex.0.to_ne_bytes());
            writer.put(&0_u16.to_ne_bytes());
            writer.put(&[n::NTF_USE, 0]);
            put_ip(&mut writer, n::NDA_DST, *gateway);
            writer.finish()
        }
        Action::AskResilient { token } => {
            // A bucket that does not exist: a kernel that knows buckets says so, an older one knows no such message.
            let mut writer = Writer::new(buf, n::GETNEXTHOPBUCKET, F_ACK, token.0);
            writer.put(&[0; 8]);
            writer.attribute_u32(n::NHA_ID, u32::MAX);
            nested(&mut writer, n::NHA_RES_BUCKET, &[(n::NHA_RES_BUCKET_INDEX, &0_u16.to_ne_bytes())]);
            writer.finish()
        }
        Action::Dump(dump) => encode_dump(*dump, dump_seq, buf),
        Action::ReopenRequests
        | Action::IgnoreLinkdown { .. }
        | Action::SpreadFlows { .. }
        | Action::AskNft { .. }
        | Action::LoadNft(_)
        | Action::DeleteNft { .. }
        | Action::DropFlows { .. }
        | Action::Probe(_)
        | Action::Resolve { .. }
        | Action::Announce(_)
        | Action::Save => Ok(0),
    }
}

fn flags(op: Op) -> u16 {
    match op {
        Op::Add => F_ACK | F_CREATE | F_EXCL,
        Op::Replace => F_ACK | F_CREATE | F_REPLACE,
        Op::Delete => F_ACK,
    }
}

fn kind(op: Op, new: u16) -> u16 {
    if op == Op::Delete { new + 1 } else { new }
}

pub(super) fn put_ip(writer: &mut Writer<'_>, attribute: u16, addr: IpAddr) {
    match addr {
        IpAddr::V4(addr) => writer.attribute(attribute, &addr.octets()),
        IpAddr::V6(addr) => writer.attribute(attribute, &addr.octets()),
    }
}

fn put_ifinfomsg(writer: &mut Writer<'_>, ifindex: IfIndex) {
    writer.put(&[0; 4]);
    writer.put(&ifindex.0.to_ne_bytes());
    writer.put(&[0; 8]);
}

fn encode_route(op: Op, route: &RouteSpec, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    let mut writer = Writer::new(buf, kind(op, n::NEWROUTE), flags(op), seq);
    let (kind, hop) = match route.target {
        RouteTarget::Via(hop) => (n::RTN_UNICAST, Some(hop)),
        RouteTarget::Nexthop(_) => (n::RTN_UNICAST, None),
        RouteTarget::Unreachable => (n::RTN_UNREACHABLE, None),
        RouteTarget::Blackhole => (n::RTN_BLACKHOLE, None),
    };
    // IPv4 wants link scope where there is no gateway; IPv6 knows no scopes of routes.
    let direct = route.family == Family::V4 && hop.is_some_and(|h| h.gateway.is_none());
    let scope = if direct { n::SCOPE_LINK } else { 0 };
    // The table stands in its attribute: a byte is too small for ours.
    writer.put(&[af(route.family), 0, 0, 0, 0, PROTOCOL, scope, kind]);
    writer.put(&onlink(hop).to_ne_bytes());
    writer.attribute_u32(n::RTA_TABLE, route.table);
    writer.attribute_u32(n::RTA_PRIORITY, route.metric);
    if let RouteTarget::Nexthop(id) = route.target {
        writer.attribute_u32(n::RTA_NH_ID, id);
    }
    if let Some(hop) = hop {
        writer.attribute_u32(n::RTA_OIF, hop.ifindex.0);
        put_gateway(&mut writer, route.family, &hop);
    }
    writer.finish()
}

fn onlink(hop: Option<Hop>) -> u32 {
    if hop.is_some_and(|h| h.onlink && h.gateway.is_some()) { n::RTNH_F_ONLINK } else { 0 }
}

fn put_gateway(writer: &mut Writer<'_>, family: Family, hop: &Hop) {
    let Some(gateway) = hop.gateway else { return };
    match gateway {
        IpAddr::V6(addr) if family == Family::V4 => {
            // struct rtvia: family, address
            let mut via = [0; 18];
            if let (Some(head), Some(tail)) = (via.first_chunk_mut::<2>(), Some(addr.octets())) {
                *head = u16::from(af(Family::V6)).to_ne_bytes();
                via.last_chunk_mut::<16>().into_iter().for_each(|place| *place = tail);
            }
            writer.attribute(n::RTA_VIA, &via);
        }
        _ => put_ip(writer, n::RTA_GATEWAY, gateway),
    }
}

fn encode_rule(op: Op, rule: &RuleSpec, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    let mut writer = Writer::new(buf, kind(op, n::NEWRULE), flags(op), seq);
    let select = &rule.select;
    let len = |prefix: Option<Prefix>| prefix.map_or(0, |p| p.len);
    let action = match rule.action {
        RuleAction::Lookup { .. } => n::FR_ACT_TO_TBL,
        RuleAction::Unreachable => n::FR_ACT_UNREACHABLE,
        RuleAction::Blackhole => n::FR_ACT_BLACKHOLE,
    };
    writer.put(&[af(rule.family), len(select.dst), len(select.src), 0, 0, 0, 0, action]);
    writer.put(&0_u32.to_ne_bytes());
    writer.attribute_u32(n::FRA_PRIORITY, rule.priority);
    writer.attribute(n::FRA_PROTOCOL, &[PROTOCOL]);
    if let RuleAction::Lookup { table, suppress } = rule.action {
        writer.attribute_u32(n::FRA_TABLE, table);
        if let Some(len) = suppress {
            writer.attribute_u32(n::FRA_SUPPRESS_PREFIXLEN, u32::from(len));
        }
    }
    for (attribute, prefix) in [(n::FRA_SRC, select.src), (n::FRA_DST, select.dst)] {
        if let Some(prefix) = prefix {
            put_ip(&mut writer, attribute, prefix.addr);
        }
    }
    for (attribute, name) in [(n::FRA_IIFNAME, select.iif), (n::FRA_OIFNAME, select.oif)] {
        put_name(&mut writer, attribute, &name);
    }
    if let Some(mark) = select.mark {
        writer.attribute_u32(n::FRA_FWMARK, mark.value);
        writer.attribute_u32(n::FRA_FWMASK, mark.mask);
    }
    if let Some(proto) = select.proto {
        writer.attribute(n::FRA_IP_PROTO, &[proto]);
    }
    for (attribute, range) in [(n::FRA_SPORT_RANGE, select.sport), (n::FRA_DPORT_RANGE, select.dport)] {
        if let Some(PortRange { first, last }) = range {
            let [a, b] = first.to_ne_bytes();
            let [c, d] = last.to_ne_bytes();
            writer.attribute(attribute, &[a, b, c, d]);
        }
    }
    writer.finish()
}

fn put_name(writer: &mut Writer<'_>, attribute: u16, name: &IfName) {
    if name.is_none() {
        return;
    }
    let mut text = [0; 16];
    let bytes = name.as_bytes();
    if let Some(place) = text.get_mut(..bytes.len()) {
        place.copy_from_slice(bytes);
    }
    writer.attribute(attribute, text.get(..=bytes.len()).unwrap_or(&[]));
}

fn encode_nexthop(op: Op, nexthop: &NexthopSpec, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    let mut writer = Writer::new(buf, kind(op, n::NEWNEXTHOP), flags(op), seq);
    // struct nhmsg: family, scope, protocol, resvd, flags. A delete may name nothing but the id.
    if op == Op::Delete {
        writer.put(&[0; 8]);
        writer.attribute_u32(n::NHA_ID, nexthop.id);
        return writer.finish();
    }
    match &nexthop.body {
        NexthopBody::Leaf { family, hop } => {
            writer.put(&[af(*family), 0, PROTOCOL, 0]);
            writer.put(&onlink(Some(*hop)).to_ne_bytes());
            writer.attribute_u32(n::NHA_ID, nexthop.id);
            writer.attribute_u32(n::NHA_OIF, hop.ifindex.0);
            if let Some(gateway) = hop.gateway {
                put_ip(&mut writer, n::NHA_GATEWAY, gateway);
            }
        }
        NexthopBody::Group(group) => {
            writer.put(&[0, 0, PROTOCOL, 0]);
            writer.put(&0_u32.to_ne_bytes());
            writer.attribute_u32(n::NHA_ID, nexthop.id);
            let mut bytes: heapless::Vec<u8, { 8 * crate::limits::GROUP }> = heapless::Vec::new();
            for member in group.members() {
                let [low, high] = member.weight.saturating_sub(1).to_le_bytes();
                let [a, b, c, d] = member.id.to_ne_bytes();
                // Cannot fail: a group has at most GROUP members.
                let _ = bytes.extend_from_slice(&[a, b, c, d, low, high, 0, 0]);
            }
            writer.attribute(n::NHA_GROUP, &bytes);
            if let GroupKind::Resilient { buckets, idle, unbalanced } = group.kind {
                writer.attribute(n::NHA_GROUP_TYPE, &n::GROUP_RESILIENT.to_ne_bytes());
                let clock = |seconds: u32| seconds.saturating_mul(n::CLOCK).to_ne_bytes();
                let attributes: [(u16, &[u8]); 3] = [
                    (n::NHA_RES_GROUP_BUCKETS, &buckets.to_ne_bytes()),
                    (n::NHA_RES_GROUP_IDLE_TIMER, &clock(idle)),
                    (n::NHA_RES_GROUP_UNBALANCED_TIMER, &clock(unbalanced)),
                ];
                nested(&mut writer, n::NHA_RES_GROUP, &attributes);
            }
        }
    }
    writer.finish()
}

/// An attribute that holds others; at most three, of four bytes each.
fn nested(writer: &mut Writer<'_>, kind: u16, attributes: &[(u16, &[u8])]) {
    let mut inner = [0; 48];
    let mut nest = Writer::nest(&mut inner);
    attributes.iter().for_each(|(kind, value)| nest.attribute(*kind, value));
    let len = nest.len();
    writer.attribute(kind | n::NESTED, inner.get(..len).unwrap_or(&[]));
}

fn encode_question(question: &RouteQuestion, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    let mut writer = Writer::new(buf, n::GETROUTE, 0, seq);
    let dst_len = if question.dst.is_ipv4() { 32 } else { 128 };
    writer.put(&[af(Family::of(question.dst)), dst_len, 0, 0, 0, 0, 0, 0]);
    writer.put(&[0; 4]);
    put_ip(&mut writer, n::RTA_DST, question.dst);
    if let Some(mark) = question.mark {
        writer.attribute_u32(n::RTA_MARK, mark.value);
    }
    writer.finish()
}

/// With strict checking on, the kernel filters: a full table in main costs nothing where we ask for our own.
fn encode_dump(dump: Dump, seq: u32, buf: &mut [u8]) -> Result<usize, Full> {
    let kind = match dump {
        Dump::Links => n::GETLINK,
        Dump::Addresses => n::GETADDR,
        Dump::MainDefaults(_) | Dump::OwnRoutes(_) => n::GETROUTE,
        Dump::Nexthops => n::GETNEXTHOP,
        Dump::Rules => n::GETRULE,
    };
    let mut writer = Writer::new(buf, kind, F_DUMP, seq);
    match dump {
        Dump::Links => {
            put_ifinfomsg(&mut writer, IfIndex(0));
            writer.attribute_u32(n::IFLA_EXT_MASK, n::SKIP_STATS);
        }
        Dump::Addresses | Dump::Nexthops => writer.put(&[0; 8]),
        Dump::Rules => writer.put(&[0; 12]),
        Dump::MainDefaults(family) => {
            writer.put(&[af(family), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            writer.attribute_u32(n::RTA_TABLE, TABLE_MAIN);
        }
        Dump::OwnRoutes(family) => writer.put(&[af(family), 0, 0, 0, 0, PROTOCOL, 0, 0, 0, 0, 0, 0]),
    }
    writer.finish()
}
