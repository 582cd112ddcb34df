//! The three kinds of kernel object that we own: routes, rules and nexthops, as values.
//!
//! All carry our route protocol, [`PROTOCOL`]; what does not carry it is not ours and never appears here as a wish.
//! Numbering (tables, priorities, nexthop ids) is decided in `super::layout`.

use core::cmp::Ordering;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::types::{Family, FwMark, IfIndex, IfName, PortRange, Prefix};

/// Our `rtm_protocol`, `nh_protocol` and `FRA_PROTOCOL` (`linux/rtnetlink.h` leaves 76 to nobody).
pub const PROTOCOL: u8 = 76;

/// Table main (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;

/// A default route of ours (`struct rtmsg` with destination length 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteSpec {
    /// Family; part of the identity.
    pub family: Family,
    /// Routing table (`RTA_TABLE`); part of the identity.
    pub table: u32,
    /// `RTA_PRIORITY`; part of the identity.
    pub metric: u32,
    /// Where it leads.
    pub target: RouteTarget,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteTarget {
    /// Out of a device, by a gateway or straight on to the link.
    Via(Hop),
    /// To a nexthop object (`RTA_NH_ID`).
    Nexthop(u32),
    /// `RTN_UNREACHABLE`
    Unreachable,
    /// `RTN_BLACKHOLE`
    Blackhole,
}

/// A gateway on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hop {
    /// `None` on point-to-point links: the device alone is the way.
    pub gateway: Option<IpAddr>,
    /// The device.
    pub ifindex: IfIndex,
    /// `RTNH_F_ONLINK`: the gateway counts as reachable though no address of ours covers it.
    pub onlink: bool,
}

/// An ip rule of ours (`struct fib_rule_hdr`); all of it is its identity, since rules have no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleSpec {
    /// Family.
    pub family: Family,
    /// `FRA_PRIORITY`, lower is asked first.
    pub priority: u32,
    /// Which packets.
    pub select: Selector,
    /// What with them.
    pub action: RuleAction,
}

/// Which packets a rule is about; an empty one means all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    /// `FRA_SRC`
    pub src: Option<Prefix>,
    /// `FRA_DST`
    pub dst: Option<Prefix>,
    /// `FRA_IIFNAME`, or [`IfName::NONE`]
    pub iif: IfName,
    /// `FRA_OIFNAME`, or [`IfName::NONE`]: sockets bound to the device
    pub oif: IfName,
    /// `FRA_FWMARK` and `FRA_FWMASK`
    pub mark: Option<FwMark>,
    /// `FRA_IP_PROTO`
    pub proto: Option<u8>,
    /// `FRA_SPORT_RANGE`
    pub sport: Option<PortRange>,
    /// `FRA_DPORT_RANGE`
    pub dport: Option<PortRange>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleAction {
    /// `FR_ACT_TO_TBL`; routes with a prefix not longer than `suppress` are passed over
    /// (`FRA_SUPPRESS_PREFIXLEN`).
    Lookup { table: u32, suppress: Option<u8> },
    /// `FR_ACT_UNREACHABLE`
    Unreachable,
    /// `FR_ACT_BLACKHOLE`
    Blackhole,
}

/// A nexthop object of ours (`linux/nexthop.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NexthopSpec {
    /// `NHA_ID`; the identity.
    pub id: u32,
    /// What it is.
    pub body: NexthopBody,
}

/// A leaf, or a group of leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NexthopBody {
    /// One way out.
    Leaf { family: Family, hop: Hop },
    /// `NHA_GROUP`; never empty.
    Group(Group),
}

/// The members of a nexthop group: at most [`limits::GROUP`], further ones are refused by [`Group::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Group {
    /// How it picks a member.
    pub kind: GroupKind,
    len: u8,
    #[serde(with = "crate::row")]
    members: [GroupMember; limits::GROUP],
}

/// How a group picks a member for a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GroupKind {
    /// By the flow's hash alone (`NEXTHOP_GRP_TYPE_MPATH`): when the members change, flows move.
    #[default]
    Plain,
    /// By a table of buckets that a flow's hash points into (`NEXTHOP_GRP_TYPE_RES`): a busy bucket keeps its member.
    /// Neither the kind nor the number of buckets can be changed in place. Timers in seconds; `unbalanced` 0 is never.
    Resilient { buckets: u16, idle: u32, unbalanced: u32 },
}

/// A leaf and its share (`struct nexthop_grp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupMember {
    /// The leaf's `NHA_ID`.
    pub id: u32,
    /// Share, 1 to 256.
    pub weight: u16,
}

impl Default for Group {
    fn default() -> Self {
        Self { kind: GroupKind::default(), len: 0, members: [GroupMember::default(); limits::GROUP] }
    }
}

impl Group {
    /// An empty group of a kind.
    pub fn new(kind: GroupKind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// A plain group of one.
    pub fn of(id: u32) -> Self {
        let mut group = Self::default();
        group.push(GroupMember { id, weight: 1 });
        group
    }

    /// Adds a member; `false` when full.
    pub fn push(&mut self, member: GroupMember) -> bool {
        match self.members.get_mut(usize::from(self.len)) {
            Some(place) => {
                *place = member;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// The members, in the order in which they were added.
    pub fn members(&self) -> &[GroupMember] {
        self.members.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

/// An object with an identity.
pub trait Object: Copy {
    /// Whether an object that the kernel may have deleted is asked for with [`Op::Replace`](super::Op::Replace) (only where the identity
    /// is ours alone), else with [`Op::Add`](super::Op::Add): what sits there now might be somebody else's.
    const REPLACE_UNKNOWN: bool = false;

    /// Orders by identity: two specs with equal identity cannot both be installed.
    fn order(&self, other: &Self) -> Ordering;

    /// Whether two with the same identity look the same.
    fn looks_like(&self, other: &Self) -> bool;
}

impl Object for RouteSpec {
    fn order(&self, other: &Self) -> Ordering {
        (self.table, self.metric, self.family).cmp(&(other.table, other.metric, other.family))
    }

    fn looks_like(&self, other: &Self) -> bool {
        self.target == other.target
    }
}

impl Object for RuleSpec {
    fn order(&self, other: &Self) -> Ordering {
        self.cmp(other)
    }

    /// All of a rule is its identity.
    fn looks_like(&self, _: &Self) -> bool {
        true
    }
}

impl Object for NexthopSpec {
    const REPLACE_UNKNOWN: bool = true;

    fn order(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }

    fn looks_like(&self, other: &Self) -> bool {
        self.body == other.body
    }
}
