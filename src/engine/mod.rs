//! The engine: told what happened and what time it is, it says what should be done and when it wants to be woken.
//!
//! The contract: after every `handle_*` the caller drains [`Engine::poll_action`] until `None`, performs each action,
//! and re-arms its timer from [`Engine::poll_timeout`]. The engine cannot fail, it can only decide: what is malformed
//! is refused before it comes here, what does not fit is a counter and a [`Notice`]. It knows no clock, no socket and
//! no file, and it allocates nothing.
//!
//! This file routes each event to its owner; the decisions are next door.

pub mod action;
pub mod damping;
pub mod event;
pub mod fib;
pub mod layout;
pub mod link;
pub mod notice;
pub mod object;
pub mod snapshot;
mod status;
pub mod switch;
pub mod sync;
#[cfg(test)]
mod tests;
pub mod uplink;
mod want;

use core::net::IpAddr;

use heapless::Vec;

pub use action::{Action, Dump, Op, Token};
pub use event::{Event, Feed};
pub use notice::{Notice, Object};
pub use snapshot::Snapshot;
pub use uplink::{Reason, State};

use crate::config::Config;
use crate::limits;
use crate::time::{Duration, Instant};
use crate::types::{Errno, Family, IfIndex, PolicySlot, UplinkSlot};
use action::RouteQuestion;
use event::{DumpOutcome, LinkInfo, LinkSource};
use fib::{Answer, Have, Table};
use link::News;
use notice::Notices;
use object::{NexthopBody, NexthopSpec, RouteSpec, RouteTarget, RuleAction, RuleSpec};
use switch::Way;
use sync::Sync;
use uplink::{Setting, Uplink};

/// A request whose answer has not come by then was lost (netlink answers at once).
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Changes worth saving are saved together, this long after the first.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// An overrun is told at most this often.
const OVERRUN_TELL: Duration = Duration::from_secs(10);

/// The engine. One value, owned by one loop.
pub struct Engine {
    config: Config,
    uplinks: Vec<Uplink, { limits::UPLINKS }>,
    ways: Vec<[Way; 2], { limits::POLICIES }>,
    nexthops: Table<NexthopSpec, { limits::NEXTHOPS }>,
    routes: Table<RouteSpec, { limits::ROUTES }>,
    rules: Table<RuleSpec, { limits::RULES }>,
    sync: Sync,
    notices: Notices,
    /// Families and nexthop objects that this kernel was seen not to have.
    missing_families: [bool; 2],
    missing_nexthops: bool,
    /// Until when the kernel may hold link events back, and when the links are asked next.
    window_until: Instant,
    ask_at: Option<Instant>,
    last_ask: Instant,
    next_token: u32,
    /// When the event being handled came in: what a switch is measured from.
    event_at: Instant,
    reopen: bool,
    save_at: Option<Instant>,
    overruns: u32,
    overrun_told: Option<Instant>,
    counters: Counters,
}

const _: () = assert!(size_of::<Engine>() <= limits::ENGINE_BYTES, "the board's promise of memory is broken");

/// What was counted since the start. Nothing here ever decreases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events handled.
    pub events: u32,
    /// Requests that change the kernel.
    pub requests: u32,
    /// Requests refused by the kernel.
    pub refused: u32,
    /// Links asked.
    pub asks: u32,
    /// Objects of ours that had vanished without a word.
    pub vanished: u32,
    /// Things that did not fit into a table.
    pub full: u32,
    /// Notices forgotten before they were told.
    pub notices_dropped: u32,
}

impl Engine {
    /// An engine that knows nothing yet: it first asks for everything, and changes nothing before it knows.
    pub fn new(config: &Config, now: Instant) -> Self {
        let mut engine = Self {
            config: Config::default(),
            uplinks: Vec::new(),
            ways: Vec::new(),
            nexthops: Table::default(),
            routes: Table::default(),
            rules: Table::default(),
            sync: Sync::default(),
            notices: Notices::default(),
            missing_families: [false; 2],
            missing_nexthops: false,
            window_until: now,
            ask_at: None,
            last_ask: Instant::ZERO,
            next_token: 1,
            event_at: now,
            reopen: false,
            save_at: None,
            overruns: 0,
            overrun_told: None,
            counters: Counters::default(),
        };
        engine.reconfigure(config, now);
        engine
    }

    /// Takes another configuration. Uplinks and policies that keep their name (and device) keep their state; the
    /// difference is applied once everything has been read again.
    pub fn reconfigure(&mut self, config: &Config, now: Instant) {
        let old_config = core::mem::replace(&mut self.config, config.clone());
        let mut old_uplinks = core::mem::take(&mut self.uplinks);
        for uplink in &self.config.uplinks {
            let same = |c: &crate::config::UplinkConfig| c.name == uplink.name && c.device == uplink.device;
            let kept = old_config.uplinks.iter().position(same).and_then(|at| {
                let fresh = old_config.uplinks.get(at).map(|c| Uplink::new(c, now))?;
                old_uplinks.get_mut(at).map(|u| core::mem::replace(u, fresh))
            });
            // Cannot fail: the configuration has the same capacity.
            let _ = self.uplinks.push(kept.unwrap_or_else(|| Uplink::new(uplink, now)));
        }
        let slot_of = |slot: UplinkSlot| {
            let name = &old_config.uplinks.get(usize::from(slot.0))?.name;
            self.config.uplinks.iter().position(|c| c.name == *name).map(|at| UplinkSlot(at as u8))
        };
        let old_ways = core::mem::take(&mut self.ways);
        for policy in &self.config.policies {
            let mut ways = [Way::default(); 2];
            if let Some(at) = old_config.policies.iter().position(|p| p.name == policy.name) {
                for (way, old) in ways.iter_mut().zip(old_ways.get(at).copied().unwrap_or_default()) {
                    way.told = old.told.and_then(slot_of);
                    way.chosen = way.told;
                }
            }
            // Cannot fail: the configuration has the same capacity.
            let _ = self.ways.push(ways);
        }
        self.sync.mark(&Dump::ALL);
        if self.sync.synced {
            self.event_at = now;
            self.settle(now);
        }
    }

    /// Takes in what happened. Never fails; malformed input cannot be written down as an [`Event`].
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        self.counters.events = self.counters.events.saturating_add(1);
        self.event_at = now;
        let changed = match event {
            Event::Link { link, source } => self.link(&link, source, now),
            Event::LinkGone(ifindex) => self.link_gone(ifindex, now),
            Event::Address(news) => {
                let mut full = false;
                let mut ours = false;
                for uplink in self.uplinks.iter_mut().filter(|u| u.ifindex() == Some(news.ifindex)) {
                    ours = true;
                    full |= !uplink.address(news);
                }
                if full {
                    self.tell_full("addresses of an uplink", limits::ADDRESSES);
                }
                ours
            }
            Event::AddressGone { ifindex, addr } => self.address_gone(ifindex, addr),
            Event::MainDefault { route, replaced } => {
                let mut ours = false;
                for uplink in &mut self.uplinks {
                    if replaced {
                        uplink.main_default_gone(|d| (d.family, d.metric) == (route.family, route.metric));
                        ours = true;
                    }
                    if uplink.ifindex() == Some(route.hop.ifindex) {
                        uplink.main_default(route);
                        ours = true;
                    }
                }
                ours
            }
            Event::MainDefaultGone(route) => {
                // The hop decides, not its flags: a route that lost its carrier looks different when it goes.
                let same = |d: &event::MainDefault| {
                    (d.family, d.metric, d.hop.gateway, d.hop.ifindex)
                        == (route.family, route.metric, route.hop.gateway, route.hop.ifindex)
                };
                self.uplinks.iter_mut().for_each(|u| u.main_default_gone(same));
                true
            }
            Event::OwnRoute(route) => {
                let full = self.routes.seen(route).is_err();
                self.seen_full(full, "routes", limits::ROUTES)
            }
            Event::OwnRule(rule) => {
                let full = self.rules.seen(rule).is_err();
                self.seen_full(full, "rules", limits::RULES)
            }
            Event::OwnNexthop(nexthop) => {
                let full = self.nexthops.seen(nexthop).is_err();
                self.seen_full(full, "nexthops", limits::NEXTHOPS)
            }
            Event::OwnRouteGone { route, by } => {
                if let Some((spec, retry)) = self.routes.lost(&route, by, now) {
                    self.notices.push(Notice::Contended { object: Object::Route(spec), by, retry });
                }
                false
            }
            Event::OwnRuleGone { rule, by } => {
                if let Some((spec, retry)) = self.rules.lost(&rule, by, now) {
                    self.notices.push(Notice::Contended { object: Object::Rule(spec), by, retry });
                }
                false
            }
            Event::OwnNexthopGone { id, by } => {
                self.nexthop_gone(id, by, now);
                false
            }
            Event::Acked { token, errno } => self.acked(token, errno, now),
            Event::RouteAnswer { token, oif } => self.route_answer(token, oif, now),
            Event::Overrun(feed) => self.overrun(feed, now),
            Event::DumpBegan(dump) => self.dump_began(dump),
            Event::DumpEnded { dump, outcome } => self.dump_ended(dump, outcome, now),
            Event::SysctlWritten { device, family, errno } => {
                if errno != Errno::OK {
                    self.notices.push(Notice::SysctlFailed { device, family, errno });
                }
                for (config, uplink) in self.config.uplinks.iter().zip(&mut self.uplinks) {
                    if let (true, Some(state)) = (config.device == device, uplink.linkdown.get_mut(family.index())) {
                        *state = Setting::Done;
                    }
                }
                false
            }
        };
        if changed && self.sync.synced {
            self.settle(now);
        }
        self.commit_ways(now);
    }

    /// Lets time pass. Call it when [`Engine::poll_timeout`] is due, after all sockets were read: news that waits
    /// there comes before any verdict of a clock.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.event_at = now;
        let oldest = [self.nexthops.oldest_flight(), self.routes.oldest_flight(), self.rules.oldest_flight()];
        let lost = oldest.into_iter().flatten().any(|since| now.since(since) >= REQUEST_TIMEOUT);
        if lost || self.sync.is_overdue(now) {
            self.reopen_requests();
        }
        for at in 0..self.ways.len() {
            for family in Family::BOTH {
                let overdue = self.way(at, family).and_then(|w| w.overdue_at()).is_some_and(|at| at <= now);
                if overdue {
                    self.finish_switch(at, family, false, now);
                }
            }
        }
        if self.sync.synced {
            self.settle(now);
        }
        self.commit_ways(now);
    }

    /// The next thing to do, derived from what is and what should be; `None` when there is nothing more to do now.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if core::mem::take(&mut self.reopen) {
            return Some(Action::ReopenRequests);
        }
        // What moves traffic comes first.
        if self.sync.synced {
            if let Some(action) = self.poll_neighbour(now) {
                return Some(action);
            }
            if let Some(action) = self.poll_objects(now) {
                return Some(action);
            }
        }
        if let Some(action) = self.poll_ask(now) {
            return Some(action);
        }
        if let Some(action) = self.poll_question() {
            return Some(action);
        }
        if let Some(dump) = self.sync.poll(now) {
            return Some(Action::Dump(dump));
        }
        if let Some(action) = self.poll_sysctl() {
            return Some(action);
        }
        if let Some(notice) = self.notices.pop() {
            return Some(Action::Announce(notice));
        }
        if self.save_at.is_some_and(|at| at <= now) {
            self.save_at = None;
            return Some(Action::Save);
        }
        self.nexthops.rest(now);
        self.routes.rest(now);
        self.rules.rest(now);
        None
    }

    /// When [`Engine::handle_timeout`] is to be called if nothing else happens before; `None`: never.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let oldest = [self.nexthops.oldest_flight(), self.routes.oldest_flight(), self.rules.oldest_flight()];
        let flights = oldest.into_iter().flatten().min().map(|since| since.after(REQUEST_TIMEOUT));
        let retries = [self.nexthops.next(), self.routes.next(), self.rules.next()];
        let mut next = [flights, self.sync.next(), self.ask_at, self.save_at].into_iter().flatten().min();
        let mut sooner = |at: Option<Instant>| next = [next, at].into_iter().flatten().min();
        if self.sync.synced {
            retries.into_iter().for_each(&mut sooner);
            for (config, uplink) in self.config.uplinks.iter().zip(&self.uplinks) {
                uplink.legs.iter().for_each(|leg| sooner(leg.next(config.hold_down)));
                sooner(config.damping.and_then(|d| uplink.damping.release_at(&d)));
            }
            self.ways.iter().flatten().for_each(|way| sooner(way.overdue_at()));
        }
        next
    }

    // --- links -----------------------------------------------------------------------------------------------------

    fn link(&mut self, link: &LinkInfo, source: LinkSource, now: Instant) -> bool {
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
                        log::debug!("link {} is now ifindex {} instead of {}", link.name, link.ifindex.0, old.0);
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

    fn link_changed(&mut self, at: usize, before: &LinkInfo, link: &LinkInfo, losses: u32, hidden: u32, now: Instant) {
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
        let went_down = before.admin_up && !link.admin_up;
        if went_down {
            // The kernel deletes the IPv4 routes of a device that goes down without a word; the IPv6 ones it tells.
            uplink.main_default_gone(|d| d.family == Family::V4);
            self.sync.mark(&[Dump::MainDefaults(Family::V4), Dump::MainDefaults(Family::V6)]);
            let gone = |r: &RouteSpec| r.family == Family::V4 && leaves_by(&r.target, link.ifindex);
            self.routes.doubt(Have::Missing, gone);
        }
        if went_down || losses > 0 {
            self.doubt_nexthops(link.ifindex);
            let own = [Dump::Nexthops, Dump::OwnRoutes(Family::V4), Dump::OwnRoutes(Family::V6)];
            self.sync.mark(&own);
        }
    }

    /// The kernel deletes the leaves of a device that lost its carrier, then groups left empty, then the routes that
    /// used those, all without a word.
    fn doubt_nexthops(&mut self, ifindex: IfIndex) {
        let mut leaves: Vec<u32, { limits::UPLINKS }> = Vec::new();
        for entry in self.nexthops.entries() {
            if matches!(entry.spec.body, NexthopBody::Leaf { hop, .. } if hop.ifindex == ifindex) {
                // At most two leaves per uplink and one device per uplink; what does not fit is found by the dump.
                let _ = leaves.push(entry.spec.id);
            }
        }
        let hit = |n: &NexthopSpec| match &n.body {
            NexthopBody::Leaf { hop, .. } => hop.ifindex == ifindex,
            NexthopBody::Group(group) => group.members().iter().any(|m| leaves.contains(&m.id)),
        };
        let mut groups: Vec<u32, { limits::NEXTHOPS }> = Vec::new();
        for entry in self.nexthops.entries().iter().filter(|e| hit(&e.spec)) {
            let _ = groups.push(entry.spec.id);
        }
        self.nexthops.doubt(Have::Unknown, hit);
        self.routes.doubt(Have::Unknown, |r| matches!(r.target, RouteTarget::Nexthop(id) if groups.contains(&id)));
    }

    fn link_gone(&mut self, ifindex: IfIndex, now: Instant) -> bool {
        self.open_window(now);
        let mut ours = false;
        for uplink in &mut self.uplinks {
            if uplink.watch.gone(ifindex) {
                uplink.forget_link();
                ours = true;
            }
        }
        // Everything on it went with it, also what we had put there while it had another name.
        self.routes.doubt(Have::Missing, |r| leaves_by(&r.target, ifindex));
        if ours {
            self.doubt_nexthops(ifindex);
            self.sync.mark(&Dump::ALL[2..7]);
        }
        ours
    }

    fn open_window(&mut self, now: Instant) {
        self.window_until = now.after(link::WINDOW);
        self.plan_ask(now);
    }

    fn plan_ask(&mut self, now: Instant) {
        if self.ask_at.is_none() && !self.uplinks.is_empty() {
            self.ask_at = Some(self.last_ask.after(link::ASK_EVERY).max(now));
        }
    }

    /// Asks each uplink's link once per round, each device once.
    fn poll_ask(&mut self, now: Instant) -> Option<Action> {
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
                return Some(Action::AskLink { token, ifindex });
            }
        }
        self.last_ask = now;
        let open = now < self.window_until || self.uplinks.iter().any(|u| u.watch.differs(now));
        self.ask_at = open.then(|| now.after(link::ASK_EVERY));
        None
    }

    // --- addresses -------------------------------------------------------------------------------------------------

    fn address_gone(&mut self, ifindex: IfIndex, addr: IpAddr) -> bool {
        let mut ours = false;
        for uplink in self.uplinks.iter_mut().filter(|u| u.ifindex() == Some(ifindex)) {
            uplink.address_gone(addr);
            ours = true;
        }
        if ours {
            let family = Family::of(addr);
            self.sync.mark(&[Dump::MainDefaults(family), Dump::Nexthops, Dump::OwnRoutes(family)]);
        }
        ours
    }

    // --- what the kernel has ---------------------------------------------------------------------------------------

    fn nexthop_gone(&mut self, id: u32, by: u32, now: Instant) {
        let Some(spec) = self.nexthops.entries().iter().map(|e| e.spec).find(|n| n.id == id) else { return };
        if let Some((spec, retry)) = self.nexthops.lost(&spec, by, now) {
            self.notices.push(Notice::Contended { object: Object::Nexthop(spec), by, retry });
        }
        // Groups lose it, routes that used it go: without a word.
        let in_group = |n: &NexthopSpec| match &n.body {
            NexthopBody::Group(group) => group.members().iter().any(|m| m.id == id),
            NexthopBody::Leaf { .. } => false,
        };
        let mut groups: Vec<u32, { limits::NEXTHOPS }> = Vec::new();
        for entry in self.nexthops.entries().iter().filter(|e| in_group(&e.spec)) {
            let _ = groups.push(entry.spec.id);
        }
        self.nexthops.doubt(Have::Unknown, in_group);
        let used = |r: &RouteSpec| matches!(r.target, RouteTarget::Nexthop(n) if n == id || groups.contains(&n));
        self.routes.doubt(Have::Unknown, used);
        self.sync.mark(&[Dump::Nexthops, Dump::OwnRoutes(Family::V4), Dump::OwnRoutes(Family::V6)]);
    }

    fn overrun(&mut self, feed: Feed, now: Instant) -> bool {
        self.overruns = self.overruns.saturating_add(1);
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

    fn reopen_requests(&mut self) {
        self.reopen = true;
        self.nexthops.lose_flights();
        self.routes.lose_flights();
        self.rules.lose_flights();
        self.sync.abandon();
        self.sync.mark(&Dump::ALL[4..]);
        for uplink in &mut self.uplinks {
            uplink.watch.asked = None;
            for setting in uplink.linkdown.iter_mut().filter(|s| **s == Setting::Asked) {
                *setting = Setting::Wanted;
            }
        }
    }

    /// A route does not outlive its nexthop, and the kernel has no word for that.
    fn doubt_routes_without_nexthop(&mut self) {
        let nexthops = &self.nexthops;
        let there = |id| nexthops.entries().iter().any(|e| e.spec.id == id && e.is_coming());
        let mut families = [false; 2];
        for entry in self.routes.entries() {
            if let (RouteTarget::Nexthop(id), true) = (entry.spec.target, entry.have != Have::Missing)
                && let (false, Some(family)) = (there(id), families.get_mut(entry.spec.family.index()))
            {
                *family = true;
            }
        }
        self.routes.doubt(Have::Unknown, |r| matches!(r.target, RouteTarget::Nexthop(id) if !there(id)));
        for (family, _) in Family::BOTH.into_iter().zip(families).filter(|(_, hit)| *hit) {
            self.sync.mark(&[Dump::OwnRoutes(family)]);
        }
    }

    fn dump_began(&mut self, dump: Dump) -> bool {
        self.sync.began(dump);
        match dump {
            Dump::Links => self.uplinks.iter_mut().for_each(|u| u.watch.sweep_begin()),
            Dump::Addresses => self.uplinks.iter_mut().for_each(Uplink::sweep_addresses_begin),
            Dump::MainDefaults(family) => self.uplinks.iter_mut().for_each(|u| u.sweep_defaults_begin(family)),
            Dump::Nexthops => self.nexthops.sweep_begin(|_| true),
            Dump::OwnRoutes(family) => self.routes.sweep_begin(|r| r.family == family),
            Dump::Rules => self.rules.sweep_begin(|_| true),
        }
        false
    }

    fn dump_ended(&mut self, dump: Dump, outcome: DumpOutcome, now: Instant) -> bool {
        if let DumpOutcome::Failed(errno) = outcome {
            self.dump_refused(dump, errno);
        }
        self.routes.stir();
        self.rules.stir();
        let mut vanished = 0;
        if self.sync.ended(dump, outcome, now) {
            match dump {
                Dump::Links => {
                    for at in 0..self.uplinks.len() {
                        let gone = self.uplinks.get(at).and_then(|u| u.watch.sweep_end());
                        if let Some(ifindex) = gone {
                            self.link_gone(ifindex, now);
                        }
                    }
                }
                Dump::Addresses => self.uplinks.iter_mut().for_each(Uplink::sweep_addresses_end),
                Dump::MainDefaults(family) => self.uplinks.iter_mut().for_each(|u| u.sweep_defaults_end(family)),
                Dump::Nexthops => {
                    vanished = self.nexthops.sweep_end(|_| true);
                    self.doubt_routes_without_nexthop();
                }
                Dump::OwnRoutes(family) => vanished = self.routes.sweep_end(|r| r.family == family),
                Dump::Rules => vanished = self.rules.sweep_end(|_| true),
            }
        }
        self.counters.vanished = self.counters.vanished.saturating_add(vanished);
        if !self.sync.synced && self.sync.is_clean() {
            self.sync.synced = true;
            self.first_look(now);
        }
        true
    }

    /// Not every kernel has everything: what it cannot have is off, the rest goes on.
    fn dump_refused(&mut self, dump: Dump, errno: Errno) {
        let lacks = matches!(errno, Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT);
        match dump {
            Dump::Nexthops if lacks || errno == Errno::EINVAL => {
                self.lack_nexthops();
                self.sync.give_up(dump);
            }
            Dump::MainDefaults(family) | Dump::OwnRoutes(family) if lacks => {
                self.lack_family(family);
                self.sync.give_up(dump);
            }
            _ if errno == Errno::EBUSY => self.reopen_requests(),
            _ => log::warn!("dump of {dump:?} refused: {errno}"),
        }
    }

    fn lack_nexthops(&mut self) {
        if !self.missing_nexthops {
            self.missing_nexthops = true;
            self.notices.push(Notice::NoNexthops);
        }
    }

    fn lack_family(&mut self, family: Family) {
        if let Some(missing) = self.missing_families.get_mut(family.index()).filter(|m| !**m) {
            *missing = true;
            self.notices.push(Notice::NoFamily(family));
        }
    }

    fn acked(&mut self, token: Token, errno: Errno, now: Instant) -> bool {
        self.routes.stir();
        self.rules.stir();
        if let Some(answer) = self.nexthops.acked(token, errno, now) {
            if errno == Errno::EOPNOTSUPP {
                self.lack_nexthops();
                return true;
            }
            self.answered(answer, Dump::Nexthops, Object::Nexthop);
            return false;
        }
        if let Some(answer) = self.routes.acked(token, errno, now) {
            let family = match answer {
                Answer::Refused { spec, .. } => spec.family,
                Answer::Done => Family::V4,
            };
            if errno == Errno::EAFNOSUPPORT {
                self.lack_family(family);
                return true;
            }
            self.answered(answer, Dump::OwnRoutes(family), Object::Route);
            return false;
        }
        if let Some(answer) = self.rules.acked(token, errno, now) {
            if let (Errno::EAFNOSUPPORT, Answer::Refused { spec, .. }) = (errno, answer) {
                self.lack_family(spec.family);
                return true;
            }
            self.answered(answer, Dump::Rules, Object::Rule);
            return false;
        }
        if errno == Errno::OK {
            return false;
        }
        let asked = |u: &Uplink| u.watch.asked == Some(token);
        if let Some(ifindex) = self.uplinks.iter().find(|u| asked(u)).and_then(Uplink::ifindex) {
            self.uplinks.iter_mut().filter(|u| u.ifindex() == Some(ifindex)).for_each(|u| u.watch.asked = None);
            // It was gone when we asked; it may be back. A look at all links tells.
            self.sync.mark(&[Dump::Links]);
            return false;
        }
        self.route_answer(token, None, now)
    }

    fn answered<T>(&mut self, answer: Answer<T>, dump: Dump, object: impl Fn(T) -> Object) {
        let Answer::Refused { spec, errno, retry, tell } = answer else { return };
        self.counters.refused = self.counters.refused.saturating_add(1);
        // What is there instead? A nexthop may have gone in silence and taken groups and routes along.
        self.sync.mark(&[dump, Dump::Nexthops]);
        if tell {
            let object = object(spec);
            self.notices.push(match errno {
                Errno::EEXIST => Notice::Occupied { object },
                _ => Notice::Refused { object, errno, retry },
            });
        }
    }

    fn seen_full(&mut self, full: bool, table: &'static str, capacity: usize) -> bool {
        if full {
            self.tell_full(table, capacity);
        }
        false
    }

    fn tell_full(&mut self, table: &'static str, capacity: usize) {
        // Once per power of two: a table that is full stays so.
        self.counters.full = self.counters.full.saturating_add(1);
        if self.counters.full.is_power_of_two() {
            self.notices.push(Notice::Full { table, capacity });
        }
    }

    // --- decisions -------------------------------------------------------------------------------------------------

    /// The first look after the start: whoever carried traffic goes on carrying it, and is trusted at once.
    fn first_look(&mut self, now: Instant) {
        let mut adopted: Vec<(Family, crate::types::UplinkId), { limits::NEXTHOPS }> = Vec::new();
        for entry in self.nexthops.entries() {
            if let NexthopBody::Group(group) = &entry.spec.body {
                for uplink in group.members().iter().filter_map(|m| layout::uplink_of_leaf(m.id)) {
                    let _ = adopted.push(uplink);
                }
            }
        }
        for entry in self.routes.entries() {
            let spec = &entry.spec;
            if let (true, layout::METRIC_POINTER, RouteTarget::Via(hop)) =
                (layout::is_policy_table(spec.table), spec.metric, spec.target)
            {
                let carrying = self.uplinks.iter().position(|u| u.ifindex() == Some(hop.ifindex));
                if let Some(config) = carrying.and_then(|at| self.config.uplinks.get(at)) {
                    let _ = adopted.push((spec.family, config.id));
                }
            }
        }
        for at in 0..self.uplinks.len() {
            let Some(id) = self.config.uplinks.get(at).map(|c| c.id) else { continue };
            let [v4, v6] = Family::BOTH.map(|family| {
                let any = adopted.iter().any(|(f, _)| *f == family);
                self.review_leg(at, family, Some(!any || adopted.contains(&(family, id))), now)
            });
            self.tell_uplink(at, v4, v6);
        }
        self.open_window(now);
    }

    /// Reads all conditions anew, chooses for each policy, and says what is wanted.
    fn settle(&mut self, now: Instant) {
        for at in 0..self.uplinks.len() {
            let v4 = self.review_leg(at, Family::V4, None, now);
            let v6 = self.review_leg(at, Family::V6, None, now);
            self.tell_uplink(at, v4, v6);
        }
        for at in 0..self.ways.len() {
            for family in Family::BOTH {
                let chosen = self.choose(PolicySlot(at as u8), family);
                let event_at = self.event_at;
                if let Some(way) = self.ways.get_mut(at).and_then(|w| w.get_mut(family.index())) {
                    way.choose(chosen, event_at, now);
                }
            }
        }
        self.want_all();
    }

    fn review_leg(&mut self, at: usize, family: Family, trusted: Option<bool>, now: Instant) -> Option<State> {
        let (config, uplink) = (self.config.uplinks.get(at)?, self.uplinks.get_mut(at)?);
        if !config.serves(family) {
            return None;
        }
        let missing = self.missing_families.get(family.index()).is_some_and(|missing| *missing);
        let usable = if missing { Err(Reason::NoAddress) } else { uplink.usable(config, family) };
        let suppressed = config.damping.is_some_and(|d| uplink.damping.review(&d, now));
        uplink.legs.get_mut(family.index())?.review(usable, suppressed, config.hold_down, trusted, now)
    }

    /// One notice when both families did the same, else one each.
    fn tell_uplink(&mut self, at: usize, v4: Option<State>, v6: Option<State>) {
        let Some(uplink) = self.uplinks.get(at) else { return };
        let [four, six] = uplink.legs;
        let flaps = u16::try_from(uplink.flaps).unwrap_or(u16::MAX);
        let slot = UplinkSlot(at as u8);
        let notice = |family, from, leg: uplink::Leg| Notice::Uplink {
            uplink: slot,
            family,
            from,
            to: leg.state,
            reason: leg.reason,
            flaps,
        };
        let serves_both = self.config.uplinks.get(at).is_some_and(|c| c.families == [true; 2]);
        let together = v4.is_some() && v4 == v6 && (four.state, four.reason) == (six.state, six.reason);
        if together {
            if let Some(from) = v4 {
                self.notices.push(notice(None, from, four));
            }
            return;
        }
        for (family, from, leg) in [(Family::V4, v4, four), (Family::V6, v6, six)] {
            if let Some(from) = from {
                self.notices.push(notice(serves_both.then_some(family), from, leg));
            }
        }
    }

    fn way(&self, at: usize, family: Family) -> Option<&Way> {
        self.ways.get(at)?.get(family.index())
    }

    /// Switches whose objects the kernel has acknowledged are committed; those that need no proof are told.
    fn commit_ways(&mut self, now: Instant) {
        for at in 0..self.ways.len() {
            for family in Family::BOTH {
                let Some(way) = self.way(at, family).filter(|w| w.awaits_commit()) else { continue };
                let nobody = way.chosen.is_none();
                if !self.is_committed(PolicySlot(at as u8), family) {
                    continue;
                }
                if let Some(way) = self.ways.get_mut(at).and_then(|w| w.get_mut(family.index())) {
                    way.committed(now);
                }
                // Only the default policy can be asked for by an address alone.
                if nobody || self.config.default_policy != Some(PolicySlot(at as u8)) {
                    self.finish_switch(at, family, false, now);
                }
            }
        }
    }

    fn is_committed(&self, slot: PolicySlot, family: Family) -> bool {
        let id = layout::group(family, slot);
        let group = self.nexthops.entries().iter().find(|e| e.spec.id == id);
        let pointer = RouteSpec {
            family,
            table: layout::policy_table(slot),
            metric: layout::METRIC_POINTER,
            target: RouteTarget::Unreachable,
        };
        let route = self.routes.get(&pointer);
        group.is_none_or(fib::Entry::is_settled) && route.is_none_or(fib::Entry::is_settled)
    }

    fn finish_switch(&mut self, at: usize, family: Family, verified: bool, now: Instant) {
        let Some(way) = self.ways.get_mut(at).and_then(|w| w.get_mut(family.index())) else { return };
        if let Some((from, to, times)) = way.finish(verified, now) {
            self.notices.push(Notice::Switched { policy: PolicySlot(at as u8), family, from, to, times });
            self.save_at.get_or_insert(now.after(SAVE_AFTER));
        }
    }

    fn route_answer(&mut self, token: Token, oif: Option<IfIndex>, now: Instant) -> bool {
        for at in 0..self.ways.len() {
            for family in Family::BOTH {
                let Some(way) = self.way(at, family) else { continue };
                if way.switch.and_then(|s| s.asked) != Some(token) {
                    continue;
                }
                let wanted = way.chosen.and_then(|u| self.uplinks.get(usize::from(u.0))).and_then(Uplink::ifindex);
                let verified = oif.is_some() && oif == wanted;
                if !verified {
                    // Something is not as we think: look at everything of ours again.
                    self.sync.mark(&Dump::ALL[4..]);
                }
                self.finish_switch(at, family, verified, now);
            }
        }
        false
    }

    // --- actions ---------------------------------------------------------------------------------------------------

    fn token(&mut self) -> Token {
        let token = Token(self.next_token);
        // The upper half belongs to the shell's dumps, 0 to nobody.
        self.next_token = if self.next_token >= 0x7fff_ffff { 1 } else { self.next_token + 1 };
        token
    }

    fn poll_objects(&mut self, now: Instant) -> Option<Action> {
        let in_flight = self.nexthops.flights() + self.routes.flights() + self.rules.flights();
        if in_flight >= limits::IN_FLIGHT {
            return None;
        }
        let token = Token(self.next_token);
        let adding = |op: Op| op != Op::Delete;
        let sync = &self.sync;
        let known = |family| sync.is_known(Dump::OwnRoutes(family));
        let action = (self.nexthops.poll(now, token, |all, nexthop, op| adding(op) && leaves_ready(all, nexthop)))
            .map(|(op, nexthop)| Action::Nexthop { token, op, nexthop })
            .or_else(|| {
                let nexthops = &self.nexthops;
                let ready = |all: &[fib::Entry<RouteSpec>], route: &RouteSpec| match route.target {
                    RouteTarget::Nexthop(id) => nexthops.entries().iter().any(|e| e.spec.id == id && e.is_coming()),
                    RouteTarget::Via(_) => true,
                    // The last way out hides what others have in main: it comes after the ways that it ends.
                    RouteTarget::Unreachable | RouteTarget::Blackhole => {
                        let known = known(route.family) || !layout::is_policy_table(route.table);
                        known && has_way(all, route.family, route.table)
                    }
                };
                let picked = self.routes.poll(now, token, |all, route, op| adding(op) && ready(all, route));
                picked.map(|(op, route)| Action::Route { token, op, route })
            })
            .or_else(|| {
                let routes = self.routes.entries();
                let ready = |rule: &RuleSpec| match rule.action {
                    // Nobody is sent into a policy's table before there is a way out of it.
                    RuleAction::Lookup { table, .. } if layout::is_policy_table(table) => {
                        known(rule.family) && has_way(routes, rule.family, table)
                    }
                    _ => true,
                };
                let picked = self.rules.poll(now, token, |_, rule, op| adding(op) && ready(rule));
                let picked = picked.or_else(|| self.rules.poll(now, token, |_, _, op| !adding(op)));
                picked.map(|(op, rule)| Action::Rule { token, op, rule })
            })
            .or_else(|| {
                let uplinks = &self.uplinks;
                let leads_out = |route: &RouteSpec| match route.target {
                    RouteTarget::Via(hop) => uplinks.iter().any(|u| u.ifindex() == Some(hop.ifindex)),
                    _ => false,
                };
                // The way that is left stays until the one that replaces it is there.
                let ready = |all: &[fib::Entry<RouteSpec>], route: &RouteSpec| {
                    !leads_out(route) || has_way(all, route.family, route.table)
                };
                let picked = self.routes.poll(now, token, |all, route, op| !adding(op) && ready(all, route));
                picked.map(|(op, route)| Action::Route { token, op, route })
            })
            .or_else(|| {
                let picked = self.nexthops.poll(now, token, |all, nexthop, op| !adding(op) && unused(all, nexthop));
                picked.map(|(op, nexthop)| Action::Nexthop { token, op, nexthop })
            })?;
        self.token();
        self.counters.requests = self.counters.requests.saturating_add(1);
        if let Action::Nexthop { op: Op::Add | Op::Replace, nexthop, .. } = action {
            // A route that was refused for want of this nexthop need not wait any longer.
            self.routes.hurry(now, |route| route.target == RouteTarget::Nexthop(nexthop.id));
        }
        Some(action)
    }

    fn poll_neighbour(&mut self, now: Instant) -> Option<Action> {
        for (config, uplink) in self.config.uplinks.iter().zip(&mut self.uplinks) {
            for family in Family::BOTH {
                let usable = uplink.usable(config, family);
                let Some(leg) = uplink.legs.get_mut(family.index()) else { continue };
                if leg.resolve_at.is_none_or(|at| at > now) {
                    continue;
                }
                leg.resolved(config.hold_down, now);
                if let Some((gateway, hop)) = usable.ok().and_then(|hop| hop.gateway.map(|g| (g, hop))) {
                    return Some(Action::UseNeighbour { ifindex: hop.ifindex, gateway });
                }
            }
        }
        None
    }

    fn poll_question(&mut self) -> Option<Action> {
        for at in 0..self.ways.len() {
            for family in Family::BOTH {
                if !self.way(at, family).is_some_and(Way::awaits_question) {
                    continue;
                }
                let token = self.token();
                if let Some(way) = self.ways.get_mut(at).and_then(|w| w.get_mut(family.index())) {
                    way.asked(token);
                }
                let question = RouteQuestion { dst: want::witness(family), mark: None };
                return Some(Action::AskRoute { token, question });
            }
        }
        None
    }

    fn poll_sysctl(&mut self) -> Option<Action> {
        if !self.sync.synced {
            return None;
        }
        for (config, uplink) in self.config.uplinks.iter().zip(&mut self.uplinks) {
            if uplink.watch.link().is_none() {
                continue;
            }
            for family in Family::BOTH {
                let missing = self.missing_families.get(family.index()).is_some_and(|missing| *missing);
                let Some(setting) = uplink.linkdown.get_mut(family.index()) else { continue };
                if config.serves(family) && !missing && *setting == Setting::Wanted {
                    *setting = Setting::Asked;
                    return Some(Action::IgnoreLinkdown { device: config.device, family });
                }
            }
        }
        None
    }

    fn has_family(&self, family: Family) -> bool {
        !self.missing_families.get(family.index()).is_some_and(|missing| *missing)
    }

    fn uses_nexthops(&self) -> bool {
        self.config.globals.nexthops && !self.missing_nexthops
    }
}

fn leaves_by(target: &RouteTarget, ifindex: IfIndex) -> bool {
    matches!(target, RouteTarget::Via(hop) if hop.ifindex == ifindex)
}

/// Whether a policy's table leads out if it should: the pointer is in place, or there is nothing to point at. Other
/// tables need not wait: who is sent into an uplink's has no other way.
fn has_way(routes: &[fib::Entry<RouteSpec>], family: Family, table: u32) -> bool {
    if !layout::is_policy_table(table) {
        return true;
    }
    // What is there and should not be, in front of the pointer, would be the way instead.
    let decides = |e: &&fib::Entry<RouteSpec>| {
        let here = e.spec.family == family && e.spec.table == table;
        here && (e.wanted && e.spec.metric == layout::METRIC_POINTER
            || !e.wanted && e.spec.metric < layout::METRIC_POINTER)
    };
    routes.iter().filter(decides).all(fib::Entry::is_settled)
}

/// A leaf stays until no group can have it any more: the kernel would empty the group and drop its routes in silence.
fn unused(all: &[fib::Entry<NexthopSpec>], nexthop: &NexthopSpec) -> bool {
    let is_group = |e: &&fib::Entry<NexthopSpec>| matches!(e.spec.body, NexthopBody::Group(_));
    matches!(nexthop.body, NexthopBody::Group(_)) || all.iter().filter(is_group).all(fib::Entry::is_settled)
}

/// A group waits until the kernel has all of its leaves, or will have by the time it reads the request.
fn leaves_ready(all: &[fib::Entry<NexthopSpec>], nexthop: &NexthopSpec) -> bool {
    match &nexthop.body {
        NexthopBody::Leaf { .. } => true,
        NexthopBody::Group(group) => {
            group.members().iter().all(|m| all.iter().any(|e| e.spec.id == m.id && e.is_coming()))
        }
    }
}
