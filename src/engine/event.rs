//! Everything that can happen to the engine, already decoded.
//!
//! Facts about the kernel are levels, not edges: applying one twice, or an old one before a new dump, does no harm.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::action::{Dump, Token};
use super::command::Command;
use super::object::{Hop, NexthopSpec, RouteSpec, RuleSpec};
use crate::time::Instant;
use crate::types::{Errno, Family, IfIndex, IfName, UplinkSlot};

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A link exists and looks like this (`RTM_NEWLINK`).
    Link { link: LinkInfo, source: LinkSource },
    /// A link is gone (`RTM_DELLINK`, or `ENODEV` in answer to [`super::Action::AskLink`]).
    LinkGone(IfIndex),
    /// An address is usable, or is not yet (`RTM_NEWADDR`).
    Address(AddressInfo),
    /// An address is gone (`RTM_DELADDR`).
    AddressGone { ifindex: IfIndex, addr: IpAddr },
    /// Somebody's default route in table main (`RTM_NEWROUTE`); `replaced` when it took the place of the one with
    /// the same metric (`NLM_F_REPLACE`).
    MainDefault { route: MainDefault, replaced: bool },
    /// Somebody's default route in table main is gone (`RTM_DELROUTE`).
    MainDefaultGone(MainDefault),
    /// A route with our protocol is there: seen in a dump, or put there by someone else (never the echo of our own request).
    OwnRoute(RouteSpec),
    /// A route with our protocol was taken away by `by`, a netlink port (the kernel itself is 0).
    OwnRouteGone { route: RouteSpec, by: u32 },
    /// A rule with our protocol is there; as for routes.
    OwnRule(RuleSpec),
    /// A rule with our protocol was taken away.
    OwnRuleGone { rule: RuleSpec, by: u32 },
    /// A nexthop with our protocol is there; as for routes.
    OwnNexthop(NexthopSpec),
    /// A nexthop with our protocol was taken away.
    OwnNexthopGone { id: u32, by: u32 },
    /// The kernel's answer to a request.
    Acked { token: Token, errno: Errno },
    /// Where the kernel would send a packet now (answer to [`super::Action::AskRoute`]); `oif` is `None` when it would not.
    RouteAnswer { token: Token, oif: Option<IfIndex> },
    /// Notifications were lost (`ENOBUFS`, truncation, a message that made no sense).
    Overrun(Feed),
    /// The first message of a dump, or the request itself, is on its way.
    DumpBegan(Dump),
    /// A dump is over.
    DumpEnded { dump: Dump, outcome: DumpOutcome },
    /// A probe was answered, refused, or could not be sent (answer to [`super::Action::Probe`]). `at` is when that was, not
    /// when it was read: answers wait in the socket until the next look.
    Probe { id: ProbeId, outcome: ProbeOutcome, at: Instant },
    /// A name was resolved, or was not (answer to [`super::Action::Resolve`]).
    Resolved { uplink: UplinkSlot, track: u8, addr: Option<IpAddr> },
    /// How many packets a link has carried (comes with the answer to [`super::Action::AskLink`] if wanted);
    /// both wrap.
    Traffic { ifindex: IfIndex, received: u32, sent: u32 },
    /// An operator's word.
    Command(Command),
    /// Somebody who changes routes without a word of it (netifd) has been at work: read addresses and all that follows.
    Look,
    /// A sysctl was written (answer to [`super::Action::IgnoreLinkdown`], and with [`IfName::NONE`] to
    /// [`super::Action::SpreadFlows`]).
    SysctlWritten { device: IfName, family: Family, errno: Errno },
    /// nft has done what it was told, or has not (answer to [`super::Action::LoadNft`]).
    NftLoaded(Result<(), NftFailure>),
    /// Somebody took something out of our nft table, or may have.
    NftLost,
    /// Connections were forgotten (answer to [`super::Action::DropFlows`]).
    FlowsDropped { uplink: UplinkSlot, family: Family, count: u32, errno: Errno },
}

/// Why nft has not done it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NftFailure {
    /// There is no such program.
    Missing,
    /// It refused; what it said is in the log.
    Refused,
}

/// Which probe: a place in the tables, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeId {
    /// The uplink.
    pub uplink: UplinkSlot,
    /// The place of the target in [`crate::config::ProbeConfig::targets`].
    pub track: u8,
    /// Counts on with each probe of the target and wraps; compared by equality only.
    pub seq: u16,
    /// Which life of the target: another address, device or configuration is another life.
    pub life: u16,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeOutcome {
    /// A valid answer from the target.
    Answered,
    /// Somebody said no.
    Refused(Refusal),
    /// It could not be sent.
    NotSent(Errno),
}

/// How somebody said no. None of these is evidence that the uplink works: they can be forged more easily than an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// An ICMP error quotes the probe (RFC 792, RFC 4443): destination unreachable.
    Unreachable,
    /// An ICMP error quotes the probe: time exceeded.
    Expired,
    /// The connection was reset or refused.
    Closed,
    /// The DNS server refuses, or answers nonsense.
    BadAnswer,
    /// The HTTP status is another one: a portal (redirect), or an error.
    BadStatus(u16),
}

/// The engine's view of a kernel link (`struct ifinfomsg`, `IFLA_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// `ifi_index`
    pub ifindex: IfIndex,
    /// `IFLA_IFNAME`
    pub name: IfName,
    /// `IFF_UP`
    pub admin_up: bool,
    /// `IFF_LOWER_UP`: the carrier, true at the moment of asking
    pub carrier: bool,
    /// `IFF_RUNNING`: lags behind the carrier; shown, never decided by
    pub running: bool,
    /// `IFLA_OPERSTATE` (RFC 2863); lags as well
    pub operstate: u8,
    /// `IFLA_CARRIER_UP_COUNT`
    pub up_count: u32,
    /// `IFLA_CARRIER_DOWN_COUNT`
    pub down_count: u32,
}

impl LinkInfo {
    /// Whether what is sent leaves: the kernel drops it while it has not taken note of the carrier itself, which may be
    /// a second later, and shows that by an operational state of before (RFC 2863: unknown 0, down 2, lower layer down 3).
    /// A device that never had a change of carrier stays at unknown for ever, and sends.
    pub fn sends(&self) -> bool {
        let before = match self.operstate {
            0 => self.up_count > 0,
            2 | 3 => true,
            _ => false,
        };
        self.admin_up && self.carrier && !before
    }
}

/// How we know about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkSource {
    /// The kernel announced it by multicast.
    Announced,
    /// The kernel answered a question.
    Answered,
    /// It stood in a dump.
    Dumped,
}

/// An address on a link (`struct ifaddrmsg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressInfo {
    /// The link.
    pub ifindex: IfIndex,
    /// `IFA_LOCAL`, else `IFA_ADDRESS`
    pub addr: IpAddr,
    /// `ifa_prefixlen`
    pub prefix_len: u8,
    /// Usable as a source now: neither tentative nor failed duplicate detection (`IFA_F_TENTATIVE`, `IFA_F_DADFAILED`;
    /// an optimistic address is usable).
    pub usable: bool,
}

/// Somebody's default route in table main.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainDefault {
    /// Family.
    pub family: Family,
    /// `RTA_PRIORITY`
    pub metric: u32,
    /// Where it leads.
    pub hop: Hop,
}

/// A stream of notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Feed {
    /// The socket that hears of links only.
    Links,
    /// The socket that hears of addresses, routes, rules and nexthops.
    State,
    /// The socket of requests and answers: acknowledgements may be lost.
    Requests,
}

/// How a dump went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DumpOutcome {
    /// Whole and consistent.
    Complete,
    /// The kernel changed meanwhile (`NLM_F_DUMP_INTR`): do it again.
    Interrupted,
    /// Refused.
    Failed(Errno),
}
