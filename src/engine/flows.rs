//! Decides when connections are forgotten, when nft writes our table, and what this kernel has to spread flows with.
//!
//! A flow is pinned to the uplink that it started on by a mark of its connection, which nft writes and restores; it is
//! forgotten when its uplink is down, after traffic was moved and before anybody is told, and only if somebody else can
//! take it. nft is started when the configuration changes or its table was taken away, never for a switch.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use super::action::{Action, Dump, Load, Token};
use super::contention::wait_after;
use super::event::NftFailure;
use super::notice::Notice;
use super::uplink::Setting;
use super::{Engine, REQUEST_TIMEOUT};
use crate::config::Failback;
use crate::limits;
use crate::time::{Duration, Instant};
use crate::types::{Errno, Family, IfName, PolicySlot, UplinkSet, UplinkSlot};

/// The longest that a notice waits for connections to be forgotten.
const HOLD: Duration = Duration::from_millis(500);
/// nft has had enough time.
const LOAD_TIMEOUT: Duration = Duration::from_secs(20);
/// First wait after nft refused twice, or after somebody took the table away again soon; doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_millis(20);
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// A table that was in place for this long was not taken away by somebody who fights us.
const PEACE: Duration = Duration::from_secs(10);

/// Whether the kernel has something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Support {
    #[default]
    Unknown,
    Asked(Token),
    Yes,
    No,
}

/// Connections of one family of an uplink that are to be forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Drop {
    #[default]
    None,
    /// As soon as somebody else has taken over.
    Wanted,
    /// Whoever else there is: the configuration says so.
    Due,
    Asked,
}

/// Our nft table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Nobody has looked yet; `loaded`: nft says that it has written it.
    Unknown { loaded: bool },
    /// The kernel was asked whether it is there as it should be.
    Asking { token: Token, since: Instant, loaded: bool },
    /// To be written, not before a time.
    Wanted { load: Load, at: Instant },
    /// nft is at it.
    Loading { since: Instant },
    /// It is there.
    Ready { since: Instant },
    /// To be deleted.
    Unwanted,
    /// The kernel was asked to delete it.
    Deleting { token: Token, since: Instant },
    /// It is not needed, or nft is not there.
    #[default]
    Off,
}

/// What is known of nft and of the flows.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Flows {
    stage: Stage,
    /// Refusals and losses in a row.
    troubles: u8,
    told: bool,
    /// Somebody took something away while nft was at it.
    lost: bool,
    drops: Vec<[Drop; 2], { limits::UPLINKS }>,
    /// Until when notices may wait for connections to be forgotten.
    hold_until: Option<Instant>,
    /// `fib_multipath_hash_policy`, by family.
    pub(super) spread: [Setting; 2],
}

impl Engine {
    /// Another configuration: the table may have to look different. Connections to be forgotten are those of uplinks by
    /// place; whose place changed is looked at anew when it changes its state.
    pub(super) fn reconfigure_flows(&mut self, same_places: bool) {
        let mut drops: Vec<[Drop; 2], { limits::UPLINKS }> = Vec::new();
        for at in 0..self.config.uplinks.len() {
            let kept = if same_places { self.flows.drops.get(at).copied() } else { None };
            // Cannot fail: the configuration has the same capacity.
            let _ = drops.push(kept.unwrap_or_default());
        }
        self.flows.drops = drops;
        self.flows.troubles = 0;
        self.flows.spread = [Setting::Wanted; 2];
        let needed = !self.config.uplinks.is_empty() && (self.config.globals.pinning || self.config.rules_need_nft());
        self.flows.stage = if needed { Stage::Unknown { loaded: false } } else { Stage::Unwanted };
    }

    /// Which legs could carry traffic, by family.
    pub(super) fn usable_legs(&self) -> [UplinkSet; 2] {
        Family::BOTH.map(|family| {
            let legs = self.uplinks.iter().map(|u| u.legs.get(family.index()).is_some_and(|l| l.state.is_usable()));
            legs.enumerate().filter(|(_, usable)| *usable).map(|(at, _)| UplinkSlot(at as u8)).collect()
        })
    }

    /// Legs have changed: whose connections are to be forgotten?
    pub(super) fn review_flows(&mut self, before: [UplinkSet; 2], now: Instant) {
        let after = self.usable_legs();
        for (family, (before, after)) in Family::BOTH.into_iter().zip(before.into_iter().zip(after)) {
            for (at, config) in self.config.uplinks.iter().enumerate() {
                let slot = UplinkSlot(at as u8);
                let Some(drop) = self.flows.drops.get_mut(at).and_then(|d| d.get_mut(family.index())) else { continue };
                match (before.contains(slot), after.contains(slot)) {
                    (true, false) if config.flush.down => {
                        *drop = Drop::Wanted;
                        self.flows.hold_until = Some(now.after(HOLD));
                    }
                    (false, true) if config.flush.up => *drop = Drop::Due,
                    // It lives again before anybody could take over: its connections do too.
                    (false, true) if *drop == Drop::Wanted => *drop = Drop::None,
                    _ => {}
                }
            }
        }
    }

    /// A policy left uplinks that could still carry its traffic: its connections follow if they are to.
    pub(super) fn left_behind(
        &mut self,
        slot: PolicySlot,
        family: Family,
        old: UplinkSet,
        new: UplinkSet,
        now: Instant,
    ) {
        let immediate =
            self.config.policies.get(usize::from(slot.0)).is_some_and(|p| p.failback == Failback::Immediate);
        if !immediate || new.is_empty() {
            return;
        }
        for left in old.iter().filter(|u| !new.contains(*u)) {
            let used = self.ways.iter().any(|w| w.get(family.index()).is_some_and(|w| w.chosen.contains(left)));
            let place = self.flows.drops.get_mut(usize::from(left.0)).and_then(|d| d.get_mut(family.index()));
            if let (false, Some(drop)) = (used, place) {
                *drop = Drop::Wanted;
                self.flows.hold_until = Some(now.after(HOLD));
            }
        }
    }

    /// An operator's word: forget the connections of an uplink, whoever else there is.
    pub fn forget_flows(&mut self, uplink: UplinkSlot) {
        Family::BOTH.into_iter().for_each(|family| self.set_drop(uplink, family, Drop::Due));
    }

    /// Connections to forget now: traffic is where it should be.
    pub(super) fn poll_drop(&mut self) -> Option<Action> {
        for at in 0..self.flows.drops.len() {
            for family in Family::BOTH {
                let place = self.flows.drops.get(at).and_then(|d| d.get(family.index())).copied();
                let slot = UplinkSlot(at as u8);
                let now = match place? {
                    Drop::None | Drop::Asked => false,
                    Drop::Due => true,
                    Drop::Wanted => self.is_replaced(slot, family),
                };
                if now {
                    let all = self.config.uplinks.get(at).is_some_and(|u| u.flush.all);
                    self.set_drop(slot, family, Drop::Asked);
                    return Some(Action::DropFlows { uplink: slot, family, all });
                }
            }
        }
        None
    }

    /// Whether somebody else carries traffic that an uplink could have carried, and the kernel has all of it.
    fn is_replaced(&self, slot: UplinkSlot, family: Family) -> bool {
        let ways = || self.ways.iter().filter_map(|w| w.get(family.index()));
        ways().any(|way| !way.chosen.is_empty() && !way.chosen.contains(slot))
            && self.knows_ways(family)
            && (0..self.ways.len()).all(|at| self.is_committed(PolicySlot(at as u8), family))
    }

    /// Whether what the kernel may have taken away in silence was looked for.
    fn knows_ways(&self, family: Family) -> bool {
        self.sync.is_known(Dump::Nexthops) && self.sync.is_known(Dump::OwnRoutes(family))
    }

    /// Whether connections will be forgotten as soon as requests under way are answered: until then nobody is told, but
    /// not for longer than [`HOLD`].
    pub(super) fn drops_soon(&self, now: Instant) -> bool {
        let flights = self.nexthops.flights() + self.routes.flights() + self.rules.flights();
        let waits = flights > 0 || !Family::BOTH.into_iter().all(|f| self.knows_ways(f));
        waits
            && self.flows.hold_until.is_some_and(|until| until > now)
            && self.flows.drops.iter().flatten().any(|d| *d == Drop::Wanted)
    }

    fn set_drop(&mut self, slot: UplinkSlot, family: Family, to: Drop) {
        if let Some(drop) = self.flows.drops.get_mut(usize::from(slot.0)).and_then(|d| d.get_mut(family.index())) {
            *drop = to;
        }
    }

    pub(super) fn flows_dropped(&mut self, uplink: UplinkSlot, family: Family, count: u32, errno: Errno) -> bool {
        self.set_drop(uplink, family, Drop::None);
        match errno {
            Errno::OK if count > 0 => self.notices.push(Notice::FlowsDropped { uplink, family, count }),
            Errno::OK => {}
            // Without connection tracking there is nothing to forget.
            Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT => {}
            errno => self.notices.push(Notice::FlowsStuck { uplink, errno }),
        }
        self.counters.flows_dropped = self.counters.flows_dropped.saturating_add(count);
        false
    }

    // --- nft -----------------------------------------------------------------------------------------------------------

    pub(super) fn poll_nft(&mut self, now: Instant) -> Option<Action> {
        match self.flows.stage {
            Stage::Unknown { loaded } => {
                let token = self.token();
                self.flows.stage = Stage::Asking { token, since: now, loaded };
                Some(Action::AskNft { token })
            }
            Stage::Wanted { load, at } if at <= now => {
                self.flows.stage = Stage::Loading { since: now };
                self.counters.nft_loads = self.counters.nft_loads.saturating_add(1);
                Some(Action::LoadNft(load))
            }
            Stage::Unwanted => {
                let token = self.token();
                self.flows.stage = Stage::Deleting { token, since: now };
                Some(Action::DeleteNft { token })
            }
            _ => None,
        }
    }

    /// An answer to a question about nft or about resilient groups; `false` when it is none.
    pub(super) fn flows_acked(&mut self, token: Token, errno: Errno, now: Instant) -> bool {
        if self.resilient == Support::Asked(token) {
            self.resilient = if errno == Errno::EOPNOTSUPP { Support::No } else { Support::Yes };
            if self.resilient == Support::No {
                self.notices.push(Notice::NoResilient);
            }
            if self.sync.synced {
                self.settle(now);
            }
            return true;
        }
        match self.flows.stage {
            Stage::Asking { token: asked, loaded, .. } if asked == token => {
                match (errno, loaded) {
                    (Errno::OK, _) => self.nft_ready(now),
                    (_, false) => self.flows.stage = Stage::Wanted { load: Load::Change, at: now },
                    // Somebody was faster than we looked.
                    (_, true) => self.nft_trouble(now),
                }
                true
            }
            Stage::Deleting { token: asked, .. } if asked == token => {
                self.flows.stage = Stage::Off;
                true
            }
            _ => false,
        }
    }

    fn nft_ready(&mut self, now: Instant) {
        self.flows.stage = Stage::Ready { since: now };
        if core::mem::take(&mut self.flows.lost) {
            self.nft_lost(now);
            return;
        }
        if core::mem::take(&mut self.flows.told) {
            self.notices.push(Notice::NftBack);
        }
    }

    pub(super) fn nft_loaded(&mut self, result: Result<(), NftFailure>, now: Instant) -> bool {
        if !matches!(self.flows.stage, Stage::Loading { .. }) {
            // What came of a configuration that is no longer ours.
            return false;
        }
        match result {
            Ok(()) => {
                self.flows.stage = Stage::Unknown { loaded: true };
            }
            Err(NftFailure::Missing) => {
                self.flows.stage = Stage::Off;
                self.tell_no_nft(NftFailure::Missing);
            }
            Err(NftFailure::Refused) => self.nft_trouble(now),
        }
        false
    }

    fn nft_trouble(&mut self, now: Instant) {
        self.flows.troubles = self.flows.troubles.saturating_add(1);
        let mut at = now;
        if self.flows.troubles >= 2 {
            at = now.after(wait_after(self.flows.troubles, WAIT_MIN, WAIT_MAX));
            self.tell_no_nft(NftFailure::Refused);
        }
        self.flows.stage = Stage::Wanted { load: Load::Anew, at };
    }

    fn tell_no_nft(&mut self, why: NftFailure) {
        if !core::mem::replace(&mut self.flows.told, true) {
            self.notices.push(Notice::NoNft { why });
        }
    }

    /// Somebody else took something out of our table.
    pub(super) fn nft_lost(&mut self, now: Instant) -> bool {
        let Stage::Ready { since } = self.flows.stage else {
            // Before or after nft wrote it: the stamp does not tell, so it is written once more.
            self.flows.lost = matches!(
                self.flows.stage,
                Stage::Loading { .. } | Stage::Unknown { loaded: true } | Stage::Asking { loaded: true, .. }
            );
            return false;
        };
        let peace = now.since(since) >= PEACE;
        self.flows.troubles = if peace { 0 } else { self.flows.troubles.saturating_add(1) };
        let wait = match self.flows.troubles {
            0..=2 => Duration::ZERO,
            n => wait_after(n, WAIT_MIN, WAIT_MAX),
        };
        self.flows.stage = Stage::Wanted { load: Load::Whole, at: now.after(wait) };
        false
    }

    pub(super) fn flows_timeout(&mut self, now: Instant) {
        let over = |since: Instant, limit| now.since(since) >= limit;
        match self.flows.stage {
            Stage::Asking { since, .. } if over(since, REQUEST_TIMEOUT) => {
                self.flows.stage = Stage::Wanted { load: Load::Whole, at: now };
            }
            Stage::Loading { since } if over(since, LOAD_TIMEOUT) => self.nft_trouble(now),
            Stage::Deleting { since, .. } if over(since, REQUEST_TIMEOUT) => self.flows.stage = Stage::Off,
            _ => {}
        }
    }

    pub(super) fn next_flows(&self, now: Instant) -> Option<Instant> {
        let hold = self.flows.hold_until.filter(|_| self.drops_soon(now));
        let stage = match self.flows.stage {
            Stage::Asking { since, .. } | Stage::Deleting { since, .. } => Some(since.after(REQUEST_TIMEOUT)),
            Stage::Loading { since } => Some(since.after(LOAD_TIMEOUT)),
            Stage::Wanted { at, .. } => Some(at),
            _ => None,
        };
        Instant::first(&[stage, hold])
    }

    pub(super) fn flows_settled(&self) -> bool {
        let waits = matches!(self.flows.stage, Stage::Wanted { .. }) && self.flows.troubles >= 2;
        waits || matches!(self.flows.stage, Stage::Ready { .. } | Stage::Off)
    }

    /// What nft was told was only shown.
    pub fn nft_pretended(&mut self) {
        self.flows.stage = Stage::Off;
    }

    /// Whether connections carry the marks of their uplinks.
    pub fn pins_flows(&self) -> bool {
        matches!(self.flows.stage, Stage::Ready { .. })
    }

    // --- what spreads flows --------------------------------------------------------------------------------------------

    fn shares_in(&self, family: Family) -> bool {
        self.has_family(family) && self.config.policies.iter().any(|p| self.config.shares(p, family))
    }

    /// Before anything is read, so that the answer is there when the first group is made.
    pub(super) fn poll_resilient(&mut self) -> Option<Action> {
        let needed = self.uses_nexthops() && Family::BOTH.into_iter().any(|f| self.shares_in(f));
        if !needed || self.resilient != Support::Unknown {
            return None;
        }
        let token = self.token();
        self.resilient = Support::Asked(token);
        Some(Action::AskResilient { token })
    }

    pub(super) fn poll_spread(&mut self) -> Option<Action> {
        for family in Family::BOTH {
            let wanted = self.flows.spread.get(family.index()) == Some(&Setting::Wanted);
            if self.sync.synced && wanted && self.shares_in(family) {
                self.set_spread(family, Setting::Asked);
                return Some(Action::SpreadFlows { family });
            }
        }
        None
    }

    /// The answer to a sysctl was about no device: it was about spreading.
    pub(super) fn spread_written(&mut self, device: IfName, family: Family) {
        if device.is_none() {
            self.set_spread(family, Setting::Done);
        }
    }

    fn set_spread(&mut self, family: Family, to: Setting) {
        if let Some(setting) = self.flows.spread.get_mut(family.index()) {
            *setting = to;
        }
    }
}
