//! Decides what news of links, addresses and lost objects mean, and what they put in doubt.
//!
//! The kernel deletes much without a word; every place where it does is here.

use core::net::IpAddr;

use heapless::Vec;

use super::action::{Action, Dump};
use super::event::{Feed, LinkInfo, LinkSource};
use super::fib::Have;
use super::link::{self, News};
use super::notice::{Notice, Object};
use super::object::{NexthopBody, NexthopSpec, RouteSpec, RouteTarget};
use super::{Engine, OVERRUN_TELL, SAVE_AFTER};
use crate::limits;
use crate::time::Instant;
use crate::types::{Family, IfIndex, UplinkSlot};

impl Engine {
    pub(super) fn link(&mut self, link: &LinkInfo, source: LinkSource, now: Instant) -> bool {
        if source == LinkSource::Announced {
            self.open_window(now);
        }
        let mut changed = false;
        for at in 0..self.uplinks.len() {
            let Some(uplink) = self.uplinks.get_mut(at) else { continue };
            if source == LinkSource::Answered && uplink.ifindex() == Some(link.ifindex) {
                uplink.watch.asked = None;
            }
            match uplink.watch.update(link, source, now) {
                News::None => {}
                News::Doubtful => self.sync.mark(&[Dump::Links]),
                News::Appeared { instead_of } => {
                    uplink.forget_link();
                    if let Some(old) = instead_of.filter(|old| *old != link.ifindex) {
                        // Renamed away or deleted: the news of that is still to come; what we put there is ours to remove.
                        log!(Debug, "link {} is now ifindex {} instead of {}", link.name, link.ifindex.0, old.0);
                    }
                    self.sync.mark(&Dump::ALL[1..7]);
                    changed = true;
                }
                News::RenamedAway(_) => {
                    uplink.forget_link();
                    changed = true;
                }
                News::Changed { before, losses, hidden } => {
                    self.link_changed(at, &before, link, losses, hidden, now);
                    changed = true;
                }
            }
        }
        changed
    }

    pub(super) fn link_changed(
        &mut self,
        at: usize,
        before: &LinkInfo,
        link: &LinkInfo,
        losses: u32,
        hidden: u32,
        now: Instant,
    ) {
        let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get_mut(at)) else { return };
        if losses > 0 {
            uplink.flaps = uplink.flaps.saturating_add(losses);
            if let Some(damping) = config.damping {
                uplink.damping.charge(losses, &damping, now);
            }
            self.save_at.get_or_insert(now.after(SAVE_AFTER));
        }
        if hidden > 0 {
            self.notices.push(Notice::Bounced { uplink: UplinkSlot(at as u8), count: hidden });
        }
        if link.sends() && !before.sends() {
            uplink.legs.iter_mut().filter_map(|leg| leg.resolve_at.as_mut()).for_each(|at| *at = now);
        }
        let went_down = before.admin_up && !link.admin_up;
        if went_down {
            // The kernel deletes the IPv4 routes of a device that goes down without a word; the IPv6 ones it tells.
            uplink.main_default_gone(&|d| d.family == Family::V4);
            self.sync.mark(&[Dump::MainDefaults(Family::V4), Dump::MainDefaults(Family::V6)]);
            let gone = |r: &RouteSpec| r.family == Family::V4 && leaves_by(&r.target, link.ifindex);
            self.routes.doubt(Have::Missing, &gone);
        }
        if went_down || losses > 0 {
            self.doubt_nexthops(link.ifindex);
            let own = [Dump::Nexthops, Dump::OwnRoutes(Family::V4), Dump::OwnRoutes(Family::V6)];
            self.sync.mark(&own);
        }
    }

    /// The kernel deletes the leaves of a device that lost its carrier, then groups left empty, then the routes that
    /// used those, all without a word.
    pub(super) fn doubt_nexthops(&mut self, ifindex: IfIndex) {
        let mut leaves: Vec<u32, { limits::UPLINKS }> = Vec::new();
        for (nexthop, _) in self.nexthops.objects().iter() {
            if matches!(nexthop.body, NexthopBody::Leaf { hop, .. } if hop.ifindex == ifindex) {
                // At most two leaves per uplink and one device per uplink; what does not fit is found by the dump.
                let _ = leaves.push(nexthop.id);
            }
        }
        let hit = |n: &NexthopSpec| match &n.body {
            NexthopBody::Leaf { hop, .. } => hop.ifindex == ifindex,
            NexthopBody::Group(group) => group.members().iter().any(|m| leaves.contains(&m.id)),
        };
        self.doubt_by(&hit, None);
    }

    /// The kernel may have taken these nexthops away without a word, and the routes that use one of them or `gone`.
    fn doubt_by(&mut self, hit: &dyn Fn(&NexthopSpec) -> bool, gone: Option<u32>) {
        let mut groups: Vec<u32, { limits::NEXTHOPS }> = Vec::new();
        for (nexthop, _) in self.nexthops.objects().iter().filter(|(n, _)| hit(n)) {
            let _ = groups.push(nexthop.id);
        }
        self.nexthops.doubt(Have::Unknown, hit);
        let used = |id: u32| Some(id) == gone || groups.contains(&id);
        self.routes.doubt(Have::Unknown, &|r| matches!(r.target, RouteTarget::Nexthop(id) if used(id)));
    }

    pub(super) fn link_gone(&mut self, ifindex: IfIndex, now: Instant) -> bool {
        self.open_window(now);
        let mut ours = false;
        for uplink in &mut self.uplinks {
            if uplink.watch.gone(ifindex) {
                uplink.forget_link();
                ours = true;
            }
        }
        // Everything on it went with it, also what we had put there while it had another name.
        self.routes.doubt(Have::Missing, &|r| leaves_by(&r.target, ifindex));
        if ours {
            self.doubt_nexthops(ifindex);
            self.sync.mark(&Dump::ALL[2..7]);
        }
        ours
    }

    pub(super) fn open_window(&mut self, now: Instant) {
        self.window_until = now.after(link::WINDOW);
        self.plan_ask(now);
    }

    pub(super) fn plan_ask(&mut self, now: Instant) {
        if self.ask_at.is_none() && !self.uplinks.is_empty() {
            self.ask_at = Some(self.last_ask.after(link::ASK_EVERY).max(now));
        }
    }

    /// Asks each uplink's link once per round, each device once.
    pub(super) fn poll_ask(&mut self, now: Instant) -> Option<Action> {
        if self.ask_at.is_none_or(|at| at > now) {
            return None;
        }
        let mut done: Vec<IfIndex, { limits::UPLINKS }> = Vec::new();
        for at in 0..self.uplinks.len() {
            let Some(uplink) = self.uplinks.get(at) else { continue };
            let Some(ifindex) = uplink.ifindex().filter(|i| !done.contains(i)) else { continue };
            // Cannot fail: at most one per uplink.
            let _ = done.push(ifindex);
            if uplink.watch.asked_at.is_none_or(|at| now.since(at) >= link::ASK_EVERY) {
                let token = self.token();
                for twin in self.uplinks.iter_mut().filter(|u| u.ifindex() == Some(ifindex)) {
                    twin.watch.asked = Some(token);
                    twin.watch.asked_at = Some(now);
                }
                self.counters.asks = self.counters.asks.saturating_add(1);
                return Some(Action::AskLink { token, ifindex, traffic: false });
            }
        }
        self.last_ask = now;
        let open = now < self.window_until || self.uplinks.iter().any(|u| u.watch.differs(now));
        self.ask_at = open.then(|| now.after(link::ASK_EVERY));
        None
    }

    // --- addresses -------------------------------------------------------------------------------------------------

    pub(super) fn address_gone(&mut self, ifindex: IfIndex, addr: IpAddr) -> bool {
        let (mut ours, mut room) = (false, false);
        for uplink in self.uplinks.iter_mut().filter(|u| u.ifindex() == Some(ifindex)) {
            room |= uplink.address_gone(addr);
            ours = true;
        }
        self.look_for_more(room, &[Dump::Addresses]);
        if ours {
            let family = Family::of(addr);
            self.sync.mark(&[Dump::MainDefaults(family), Dump::Nexthops, Dump::OwnRoutes(family)]);
        }
        ours
    }

    // --- what the kernel has ---------------------------------------------------------------------------------------

    pub(super) fn nexthop_gone(&mut self, id: u32, by: u32, now: Instant) {
        let Some(spec) = self.nexthops.objects().iter().map(|(spec, _)| *spec).find(|n| n.id == id) else { return };
        if let Some((spec, retry)) = self.nexthops.lost(&spec, by, now) {
            self.notices.push(Notice::Contended { object: Object::Nexthop(spec), by, retry });
        }
        // Groups lose it, routes that used it go: without a word.
        let in_group = |n: &NexthopSpec| match &n.body {
            NexthopBody::Group(group) => group.members().iter().any(|m| m.id == id),
            NexthopBody::Leaf { .. } => false,
        };
        self.doubt_by(&in_group, Some(id));
        self.sync.mark(&[Dump::Nexthops, Dump::OwnRoutes(Family::V4), Dump::OwnRoutes(Family::V6)]);
    }

    pub(super) fn overrun(&mut self, feed: Feed, now: Instant) -> bool {
        self.overruns = self.overruns.saturating_add(1);
        self.missing_since.get_or_insert(now);
        match feed {
            Feed::Links => self.sync.mark(&Dump::ALL[..7]),
            Feed::State => self.sync.mark(&Dump::ALL[1..]),
            Feed::Requests => self.reopen_requests(),
        }
        if self.overrun_told.is_none_or(|at| now.since(at) >= OVERRUN_TELL) {
            self.overrun_told = Some(now);
            self.notices.push(Notice::Overrun { feed, total: self.overruns });
        }
        false
    }
}

fn leaves_by(target: &RouteTarget, ifindex: IfIndex) -> bool {
    matches!(target, RouteTarget::Via(hop) if hop.ifindex == ifindex)
}
