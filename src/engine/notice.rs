//! Facts that an operator may rely on. Kept in a ring: when it is full the oldest is forgotten and counted.
//!
//! A notice holds slots, not names; whoever shows it has the configuration at hand.

use heapless::Deque;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::event::{Feed, NftFailure};
use super::object::{NexthopSpec, RouteSpec, RuleSpec};
use super::uplink::{Reason, State};
use crate::limits;
use crate::time::Duration;
use crate::types::{Errno, Family, IfName, PolicySlot, UplinkSet, UplinkSlot};

/// Something worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    /// An uplink changed its state; `family` is `None` when both of its families did so together.
    Uplink { uplink: UplinkSlot, family: Option<Family>, from: State, to: State, reason: Reason, flaps: u16 },
    /// The kernel's counters tell of carrier losses that it never announced.
    Bounced { uplink: UplinkSlot, count: u32 },
    /// A policy's traffic takes another way; `to` is empty when no uplink can take it, and holds several that share it.
    Switched { policy: PolicySlot, family: Family, from: UplinkSet, to: UplinkSet, times: SwitchTimes },
    /// Connections of an uplink were forgotten, so that they start anew by another; `count` is how many.
    FlowsDropped { uplink: UplinkSlot, family: Family, count: u32 },
    /// Connections could not be forgotten: they hang until they time out.
    FlowsStuck { uplink: UplinkSlot, errno: Errno },
    /// nft cannot be used: flows are not pinned to their uplink, and rules only say what ip rules can say.
    NoNft { why: NftFailure },
    /// nft's table is in place again.
    NftBack,
    /// The kernel refused a change; it is tried again.
    Refused { object: Object, errno: Errno, retry: Duration },
    /// Somebody keeps undoing a change of ours; `by` is its netlink port.
    Contended { object: Object, by: u32, retry: Duration },
    /// A probe target fails by every uplink that asks it (`sick`), or answers again: the uplinks are not to blame.
    TargetSick { uplink: UplinkSlot, track: u8, sick: bool },
    /// Something that is not ours holds the place of an object of ours.
    Occupied { object: Object },
    /// Notifications were lost and the state is being read again; `total` counts since the start.
    Overrun { feed: Feed, total: u32 },
    /// A table was too small; what did not fit goes unwatched.
    Full { table: TableName, capacity: usize },
    /// A sysctl could not be set: without it the kernel does not fail over by itself.
    SysctlFailed { device: IfName, family: Family, errno: Errno },
    /// The kernel has no nexthop objects: routes are replaced instead.
    NoNexthops,
    /// The kernel has no resilient nexthop groups: shared traffic uses plain ones.
    NoResilient,
    /// The kernel lacks a family; its half of everything is off.
    NoFamily(Family),
}

/// What a table holds, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TableName(pub &'static str);

impl TableName {
    /// All that are told of. A recorded run may only name these.
    pub const ALL: [Self; 4] = [Self("routes"), Self("rules"), Self("nexthops"), Self("addresses of an uplink")];
}

impl core::fmt::Display for TableName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.0)
    }
}

impl<'de> Deserialize<'de> for TableName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = <&str>::deserialize(from)?;
        Self::ALL.into_iter().find(|t| t.0 == name).ok_or_else(|| D::Error::custom("no such table"))
    }
}

/// An object of ours, whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Object {
    /// A route.
    Route(RouteSpec),
    /// A rule.
    Rule(RuleSpec),
    /// A nexthop.
    Nexthop(NexthopSpec),
}

/// The four times of a switch, as distances from the event that caused it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchTimes {
    /// Until the engine had decided.
    pub decided: Duration,
    /// Until the kernel had acknowledged the change.
    pub committed: Duration,
    /// Until `RTM_GETROUTE` showed it, and whether it did.
    pub verified: Option<Duration>,
}

/// The ring of notices: at most [`limits::NOTICES`], oldest forgotten first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Notices {
    ring: Deque<Notice, { limits::NOTICES }>,
    dropped: u32,
}

impl Notices {
    /// Adds one, forgetting the oldest when full.
    pub fn push(&mut self, notice: Notice) {
        if self.ring.is_full() {
            self.ring.pop_front();
            self.dropped = self.dropped.saturating_add(1);
        }
        // Cannot fail: a place was just made.
        let _ = self.ring.push_back(notice);
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Notice> {
        self.ring.pop_front()
    }

    /// How many were forgotten.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }
}
