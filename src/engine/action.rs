//! Everything the engine can ask for. Actions are derived from state when polled; there is no queue of them.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::event::ProbeId;
use super::notice::Notice;
use super::object::{Hop, NexthopSpec, RouteSpec, RuleSpec};
use crate::types::{Family, FwMark, IfIndex, IfName, UplinkSlot};

/// The number of a request: its netlink sequence number. Wraps; compared by equality only; never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub u32);

/// A wish.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Change a nexthop; answered by [`super::Event::Acked`].
    Nexthop { token: Token, op: Op, nexthop: NexthopSpec },
    /// Change a route; answered by [`super::Event::Acked`].
    Route { token: Token, op: Op, route: RouteSpec },
    /// Change a rule ([`Op::Add`] or [`Op::Delete`]); answered by [`super::Event::Acked`].
    Rule { token: Token, op: Op, rule: RuleSpec },
    /// Ask how a link is now (`RTM_GETLINK` by ifindex); answered by [`super::Event::Link`] or [`super::Event::LinkGone`],
    /// and by [`super::Event::Traffic`] if `traffic` is wanted.
    AskLink { token: Token, ifindex: IfIndex, traffic: bool },
    /// Ask where a packet would go (`RTM_GETROUTE`); answered by [`super::Event::RouteAnswer`].
    AskRoute { token: Token, question: RouteQuestion },
    /// Make the kernel resolve a neighbour now (`RTM_NEWNEIGH` with `NTF_USE`); unanswered.
    UseNeighbour { ifindex: IfIndex, gateway: IpAddr },
    /// Read part of the kernel's state; answered by [`super::Event::DumpBegan`], facts, [`super::Event::DumpEnded`].
    /// At most one dump is asked for at a time.
    Dump(Dump),
    /// The request socket lost an answer: throw it away and open a new one. All requests in flight count as lost.
    ReopenRequests,
    /// Set `ignore_routes_with_linkdown` on a device; the shell keeps the old value for `flush`.
    /// Answered by [`super::Event::SysctlWritten`].
    IgnoreLinkdown { device: IfName, family: Family },
    /// Make the kernel spread shared traffic by ports too (`fib_multipath_hash_policy` 1); the shell keeps the old value for
    /// `flush`. Answered by [`super::Event::SysctlWritten`].
    SpreadFlows { family: Family },
    /// Ask whether the kernel has resilient nexthop groups (`RTM_GETNEXTHOPBUCKET`); answered by
    /// [`super::Event::Acked`], with `EOPNOTSUPP` if it has not.
    AskResilient { token: Token },
    /// Ask whether our nft table is there as this configuration wants it; answered by [`super::Event::Acked`].
    AskNft { token: Token },
    /// Have nft write our table; answered by [`super::Event::NftLoaded`].
    LoadNft(Load),
    /// Delete our nft table, without nft's help; answered by [`super::Event::Acked`].
    DeleteNft { token: Token },
    /// Forget connections, by the mark of their uplink or all of them; answered by [`super::Event::FlowsDropped`].
    DropFlows { uplink: UplinkSlot, family: Family, all: bool },
    /// Send a probe; answered by [`super::Event::Probe`], or not at all.
    Probe(ProbeRequest),
    /// Resolve a target's name through its uplink; answered by [`super::Event::Resolved`], or not at all.
    Resolve { uplink: UplinkSlot, track: u8, path: ProbePath },
    /// Tell the world.
    Announce(Notice),
    /// Write [`super::Engine::snapshot`] to the state file.
    Save,
}

/// How much of our nft table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Load {
    /// What differs from the table that was written last.
    Change,
    /// Everything; sets keep their elements.
    Whole,
    /// Everything, after deleting what is there.
    Anew,
}

/// A probe to be sent. How (method, size, port, names) is in the configuration of its uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// Which one.
    pub id: ProbeId,
    /// Who is asked.
    pub target: IpAddr,
    /// How it leaves.
    pub path: ProbePath,
}

/// How a probe leaves: nothing of it is left to the routing tables but the way beyond the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePath {
    /// The uplink's own address.
    pub source: IpAddr,
    /// The device and the gateway.
    pub hop: Hop,
    /// The uplink's mark.
    pub mark: FwMark,
}

/// What to do with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// `NLM_F_CREATE | NLM_F_EXCL`: only if nothing is there.
    Add,
    /// `NLM_F_CREATE | NLM_F_REPLACE`: only over what was seen to be ours.
    Replace,
    /// Take it away; that it is gone already counts as success.
    Delete,
}

/// Where would a packet go?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteQuestion {
    /// Destination.
    pub dst: IpAddr,
    /// Mark, if the packet has one.
    pub mark: Option<FwMark>,
}

/// A part of the kernel's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dump {
    /// All links.
    Links,
    /// All addresses.
    Addresses,
    /// Default routes of table main, in one family.
    MainDefaults(Family),
    /// Nexthops with our protocol.
    Nexthops,
    /// Routes with our protocol, in one family.
    OwnRoutes(Family),
    /// Rules with our protocol, both families.
    Rules,
}

impl Dump {
    /// All parts, in the order in which they are read: what decides before what is decided.
    pub const ALL: [Self; 8] = [
        Self::Links,
        Self::Addresses,
        Self::MainDefaults(Family::V4),
        Self::MainDefaults(Family::V6),
        Self::Nexthops,
        Self::OwnRoutes(Family::V4),
        Self::OwnRoutes(Family::V6),
        Self::Rules,
    ];

    /// Default routes of table main, both families.
    pub const MAIN_DEFAULTS: [Self; 2] = [Self::MainDefaults(Family::V4), Self::MainDefaults(Family::V6)];

    /// Its bit in a set of dumps.
    pub fn bit(self) -> u8 {
        Self::ALL.iter().position(|d| *d == self).map_or(0, |i| 1 << i)
    }
}
