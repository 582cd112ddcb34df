//! The numbers of everything we put into the kernel: tables, priorities, metrics, nexthop ids.
//!
//! Where a user of mwan3 can have written a number into a script (table N, rules 1000+N and 2000+N, marks), it is the same.

use crate::types::{Family, PolicySlot, UplinkId};

/// Rule: main's specific routes come before any table of ours, so that a reply from a WAN address to a LAN host stays
/// in the LAN. Prefixes of length 0 *and 1* are passed over: a VPN's pair of /1 routes must not take our probes.
pub const RULE_MAIN_SPECIFIC: u32 = 1000;
/// Rule: connected, static and VPN routes of main win; only its default is hidden.
pub const RULE_MAIN: u32 = 1900;
/// Rules: the specific routes of further tables, the first of them here.
pub const RULE_TABLES: u32 = 1901;
/// Rules: a mark of a sticky source leads to the uplink that it prefers (see `super::marks`). Marks never overlap, so all
/// of these can have one number.
pub const RULE_SOFT: u32 = 2600;
/// Rules: a mark of a policy leads to its table.
pub const RULE_POLICY_MARK: u32 = 2700;
/// Rule: everything that no rule names.
pub const RULE_DEFAULT: u32 = 3900;

/// Metric of an uplink's default route in its own table.
pub const METRIC_UPLINK: u32 = 10;
/// Metric of the daemon's lever in a policy table: below all others.
pub const METRIC_POINTER: u32 = 10;
/// Metric of the last way out of a table: the highest there is.
pub const METRIC_LAST: u32 = u32::MAX;

/// First policy table: 76 is our route protocol.
const POLICY_TABLES: u32 = 7600;

/// First table of an uplink for traffic that prefers it and may go elsewhere.
const SOFT_TABLES: u32 = 7200;

/// An uplink's table for traffic that prefers it and goes on to the next rule when it is down.
pub fn soft_table(id: UplinkId) -> u32 {
    SOFT_TABLES + u32::from(id.0)
}

/// Priority of the rules for an uplink's source prefixes.
pub fn rule_source(id: UplinkId) -> u32 {
    2300 + u32::from(id.0)
}

/// Priority of the rule for one of the three reserved marks; 2061 to 2063 with the default mask, as with mwan3.
pub fn rule_reserved(mark: u32) -> u32 {
    2000 + mark.min(299)
}

/// An uplink's routing table.
pub fn uplink_table(id: UplinkId) -> u32 {
    u32::from(id.0)
}

/// A policy's routing table.
pub fn policy_table(policy: PolicySlot) -> u32 {
    POLICY_TABLES + u32::from(policy.0)
}

/// Whether a table is a policy's.
pub fn is_policy_table(table: u32) -> bool {
    (POLICY_TABLES..POLICY_TABLES + 256).contains(&table)
}

/// Priority of the rules for sockets bound to an uplink and for its addresses.
pub fn rule_bound(id: UplinkId) -> u32 {
    1000 + u32::from(id.0)
}

/// Priority of the rule for packets marked for an uplink.
pub fn rule_marked(id: UplinkId) -> u32 {
    2000 + u32::from(id.0)
}

/// Priority of the n-th rule of the configuration.
pub fn rule_policy(n: usize) -> u32 {
    3000 + n.min(899) as u32
}

/// Metric of a member's plain route in a policy table; the best has rank 0.
pub fn metric_member(rank: usize) -> u32 {
    1000 + rank.min(9999) as u32
}

/// Nexthop id of an uplink's leaf.
pub fn leaf(family: Family, id: UplinkId) -> u32 {
    761_000 + 1000 * family.index() as u32 + u32::from(id.0)
}

/// Nexthop id of an uplink's second leaf. In a resilient group each uplink has two, because a group that shrinks to one
/// member stops to keep the clocks of its buckets.
pub fn alias(family: Family, id: UplinkId) -> u32 {
    leaf(family, id) + ALIASES
}

/// How far a second leaf is from the first.
const ALIASES: u32 = 500;

/// The uplink whose leaf this is.
pub fn uplink_of_leaf(nexthop: u32) -> Option<(Family, UplinkId)> {
    let family = match nexthop / 1000 {
        761 => Family::V4,
        762 => Family::V6,
        _ => return None,
    };
    u8::try_from(nexthop % 1000 % ALIASES).ok().map(|id| (family, UplinkId(id)))
}

/// Nexthop id of a policy's resilient group. The number of buckets cannot be changed in place: it is part of the id, so
/// that another number is another group, made before the old one goes.
pub fn resilient_group(family: Family, policy: PolicySlot, buckets: u16) -> u32 {
    770_000 + 2000 * u32::from(buckets).trailing_zeros() + 1000 * family.index() as u32 + u32::from(policy.0)
}

/// Nexthop id of a policy's group.
pub fn group(family: Family, policy: PolicySlot) -> u32 {
    763_000 + 1000 * family.index() as u32 + u32::from(policy.0)
}
