//! The engine: told what happened and what time it is, it says what should be done and when it wants to be woken.
//!
//! The contract: after every `handle_*` the caller drains [`Engine::poll_action`] until `None`, performs each action,
//! and re-arms its timer from [`Engine::poll_timeout`]. The engine cannot fail, it can only decide: what is malformed
//! is refused before it comes here, what does not fit is a counter and a [`Notice`]. It knows no clock, no socket and
//! no file, and it allocates nothing.
//!
//! This file routes each event to its owner; the decisions are next door.

pub mod action;
mod answers;
pub mod command;
mod contention;
pub mod damping;
mod decide;
pub mod event;
pub mod explain;
mod facts;
pub mod fib;
mod flows;
pub mod layout;
pub mod link;
pub mod marks;
pub mod notice;
pub mod object;
mod pace;
pub mod probe;
mod reach;
mod requests;
mod select;
pub mod snapshot;
mod status;
pub mod switch;
pub mod sync;
#[cfg(test)]
mod tests;
pub mod uplink;
mod want;

use heapless::Vec;
use serde::{Deserialize, Serialize};

pub use action::{Action, Dump, Op, Token};
pub use command::{Command, Hold};
pub use event::{Event, Feed};
pub use notice::{Notice, Object};
pub use snapshot::{Preference, Snapshot, Standing, UplinkHistory};
pub use uplink::{Reason, State};

use crate::config::{Config, UplinkConfig};
use crate::limits;
use crate::time::{Duration, Instant};
use crate::types::{Errno, Family, UplinkSlot};
use fib::Table;
use flows::{Flows, Support};
use notice::Notices;
use object::{NexthopSpec, RouteSpec, RuleSpec};
use switch::{FailoverTimes, Way};
use sync::Sync;
use uplink::{Setting, Uplink};

/// A request whose answer has not come by then was lost (netlink answers at once).
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Changes worth saving are saved together, this long after the first.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// An overrun is told at most this often.
const OVERRUN_TELL: Duration = Duration::from_secs(10);

/// The engine. One value, owned by one loop. Recorded runs begin with all of it.
///
/// Small things lie first and large tables last: a MIPS machine reaches the first 32 KB in one instruction and what is
/// beyond in four.
#[derive(Serialize, Deserialize)]
#[repr(C)]
pub struct Engine {
    sync: Sync,
    /// The last time that was told.
    now: Instant,
    /// When the event being handled came in: what a switch is measured from.
    event_at: Instant,
    /// Until when the kernel may hold link events back, and when the links are asked next.
    window_until: Instant,
    ask_at: Option<Instant>,
    last_ask: Instant,
    save_at: Option<Instant>,
    /// When to look for objects of ours that did not fit into a table.
    look_again: Option<Instant>,
    overrun_told: Option<Instant>,
    /// Since when notifications are missing that no dump has made good yet.
    missing_since: Option<Instant>,
    /// When the next probe is due; `None`: to be found out.
    probe_at: Option<Instant>,
    overruns: u32,
    next_token: u32,
    /// Families and nexthop objects that this kernel was seen not to have.
    missing_families: [bool; 2],
    missing_nexthops: bool,
    resilient: Support,
    reopen: bool,
    /// Targets whose failure waits for somebody's word.
    doubts: u8,
    counters: Counters,
    failover_times: FailoverTimes,
    /// The member that an operator prefers, by policy.
    preferred: Vec<Option<UplinkSlot>, { limits::POLICIES }>,
    flows: Flows,
    ways: Vec<[Way; 2], { limits::POLICIES }>,
    notices: Notices,
    config: Config,
    uplinks: Vec<Uplink, { limits::UPLINKS }>,
    nexthops: Table<NexthopSpec, { limits::NEXTHOPS }>,
    rules: Table<RuleSpec, { limits::RULES }>,
    routes: Table<RouteSpec, { limits::ROUTES }>,
}

const _: () = assert!(size_of::<Engine>() <= limits::ENGINE_BYTES, "the board's promise of memory is broken");

/// What was counted since the start. Nothing here ever decreases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Datagrams that were not from the kernel, dropped unread.
    pub foreign: u32,
    /// Notices forgotten before they were told.
    pub notices_dropped: u32,
    /// Probes sent, names asked for among them.
    pub probes_sent: u32,
    /// Probes answered, late answers among them.
    pub probes_answered: u32,
    /// Connections forgotten.
    pub flows_dropped: u32,
    /// How often nft was started.
    pub nft_loads: u32,
}

impl Engine {
    /// An engine that knows nothing yet: it first asks for everything, and changes nothing before it knows.
    pub fn new(config: &Config, now: Instant) -> Self {
        let mut engine = Self::empty(now);
        engine.reconfigure(config, now);
        engine
    }

    /// An engine without a configuration. It may be a megabyte, nearly all of it unwritten: inlined, so that whoever
    /// has a place for it has only the written part stored there, and untouched pages cost no memory.
    #[inline(always)]
    pub fn empty(now: Instant) -> Self {
        Self {
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
            resilient: Support::default(),
            flows: Flows::default(),
            window_until: now,
            ask_at: None,
            last_ask: Instant::ZERO,
            next_token: 1,
            event_at: now,
            reopen: false,
            save_at: None,
            look_again: None,
            overruns: 0,
            overrun_told: None,
            missing_since: None,
            probe_at: None,
            preferred: Vec::new(),
            doubts: 0,
            failover_times: FailoverTimes::default(),
            now,
            counters: Counters::default(),
        }
    }

    /// Takes another configuration. Uplinks and policies that keep their name (and device) keep their state; the
    /// difference is applied once everything has been read again.
    pub fn reconfigure(&mut self, config: &Config, now: Instant) {
        // Nothing big is moved through the stack: a table is worth hundreds of kilobytes on a large board.
        let place = |c: &Config, at: usize| c.uplinks.get(at).map(|u| (u.name.clone(), u.device));
        let same_places = (0..limits::UPLINKS).all(|at| place(&self.config, at) == place(config, at));
        self.keep_ways(config);
        self.keep_uplinks(config, now);
        self.config.assign(config);
        self.reconfigure_flows(same_places);
        self.probe_at = None;
        self.sync.mark(&Dump::ALL);
        if self.sync.synced {
            self.event_at = now;
            self.settle(now);
        }
    }

    /// Brings the uplinks into the order of the new configuration: those that stay are moved, others made or dropped.
    fn keep_uplinks(&mut self, config: &Config, now: Instant) {
        let old = &self.config;
        let same = |a: &UplinkConfig, b: &UplinkConfig| a.name == b.name && a.device == b.device;
        // For each place in `uplinks`: where its configuration was.
        let mut origin: Vec<Option<u8>, { limits::UPLINKS }> =
            (0..self.uplinks.len()).map(|at| Some(at as u8)).collect();
        let config_of = |origin: Option<u8>| old.uplinks.get(usize::from(origin?));
        for at in (0..self.uplinks.len()).rev() {
            let was = config_of(origin.get(at).copied().flatten());
            if !was.is_some_and(|was| config.uplinks.iter().any(|new| same(new, was))) {
                self.uplinks.swap_remove(at);
                origin.swap_remove(at);
            }
        }
        for (at, new) in config.uplinks.iter().enumerate() {
            let is_it = |o: &Option<u8>| config_of(*o).is_some_and(|was| same(new, was));
            match origin.iter().skip(at).position(is_it).map(|after| at.saturating_add(after)) {
                Some(from) => {
                    self.uplinks.swap(at, from);
                    origin.swap(at, from);
                }
                None => {
                    // Neither can fail: only those that stay and those made so far are there, and the configuration
                    // has the same capacity.
                    let _ = self.uplinks.push(Uplink::new(new, now));
                    let _ = origin.push(None);
                    let last = self.uplinks.len().saturating_sub(1);
                    self.uplinks.swap(at, last);
                    origin.swap(at, last);
                }
            }
            let was = config_of(origin.get(at).copied().flatten()).unwrap_or(new);
            if let Some(uplink) = self.uplinks.get_mut(at) {
                uplink.probing.reconfigure(&was.probe, &new.probe, now);
            }
        }
    }

    /// Brings the policies' ways into the order of the new configuration.
    fn keep_ways(&mut self, config: &Config) {
        let slot_of = |slot: UplinkSlot| {
            let name = &self.config.uplinks.get(usize::from(slot.0))?.name;
            config.uplinks.iter().position(|c| c.name == *name).map(|at| UplinkSlot(at as u8))
        };
        let old_ways = core::mem::take(&mut self.ways);
        let old_preferred = core::mem::take(&mut self.preferred);
        for policy in &config.policies {
            let mut ways = [Way::default(); 2];
            let mut preferred = None;
            if let Some(at) = self.config.policies.iter().position(|p| p.name == policy.name) {
                for (way, old) in ways.iter_mut().zip(old_ways.get(at).copied().unwrap_or_default()) {
                    way.told = old.told.iter().filter_map(slot_of).collect();
                    way.chosen = way.told;
                }
                preferred = old_preferred.get(at).copied().flatten().and_then(slot_of);
            }
            let _ = self.preferred.push(preferred);
            // Cannot fail: the configuration has the same capacity.
            let _ = self.ways.push(ways);
        }
    }

    /// Takes in what happened. Never fails; malformed input cannot be written down as an [`Event`].
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        self.counters.events = self.counters.events.saturating_add(1);
        self.event_at = now;
        self.now = now;
        let changed = match event {
            Event::Link { link, source } => self.link(&link, source, now),
            Event::LinkGone(ifindex) => self.link_gone(ifindex, now),
            Event::Address(news) => {
                let mut full = false;
                let mut ours = false;
                for uplink in self.uplinks.iter_mut().filter(|u| u.ifindex() == Some(news.ifindex)) {
                    // Most of what a dump shows is known: nothing follows from that.
                    ours |= !uplink.knows_address(&news);
                    full |= !uplink.address(news);
                }
                if full {
                    self.tell_full("addresses of an uplink", limits::ADDRESSES);
                }
                ours
            }
            Event::AddressGone { ifindex, addr } => self.address_gone(ifindex, addr),
            Event::MainDefault { route, replaced } => {
                let (mut ours, mut room) = (false, false);
                for uplink in &mut self.uplinks {
                    if replaced {
                        room |= uplink.main_default_gone(&|d| (d.family, d.metric) == (route.family, route.metric));
                        ours = true;
                    }
                    if uplink.ifindex() == Some(route.hop.ifindex) {
                        ours |= !uplink.knows_default(&route);
                        uplink.main_default(route);
                    }
                }
                self.look_for_more(room, &Dump::MAIN_DEFAULTS);
                ours
            }
            Event::MainDefaultGone(route) => {
                // The hop decides, not its flags: a route that lost its carrier looks different when it goes.
                let same = |d: &event::MainDefault| {
                    (d.family, d.metric, d.hop.gateway, d.hop.ifindex)
                        == (route.family, route.metric, route.hop.gateway, route.hop.ifindex)
                };
                let room = self.uplinks.iter_mut().fold(false, |room, u| u.main_default_gone(&same) | room);
                self.look_for_more(room, &Dump::MAIN_DEFAULTS);
                true
            }
            Event::OwnRoute(route) => {
                let full = self.routes.seen(&route).is_err();
                self.seen_full(full, "routes", limits::ROUTES, now)
            }
            Event::OwnRule(rule) => {
                let full = self.rules.seen(&rule).is_err();
                self.seen_full(full, "rules", limits::RULES, now)
            }
            Event::OwnNexthop(nexthop) => {
                let full = self.nexthops.seen(&nexthop).is_err();
                self.seen_full(full, "nexthops", limits::NEXTHOPS, now)
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
            Event::Probe { id, outcome, at } => self.probed(id, outcome, at, now),
            Event::Resolved { uplink, track, addr } => self.resolved(uplink, track, addr, now),
            Event::Command(command) => self.command(command, now),
            Event::Look => {
                self.sync.mark(&Dump::ALL[1..]);
                false
            }
            Event::Traffic { ifindex, received, sent } => self.traffic(ifindex, received, sent, now),
            Event::NftLoaded(result) => self.nft_loaded(result, now),
            Event::NftLost => self.nft_lost(now),
            Event::FlowsDropped { uplink, family, count, errno } => self.flows_dropped(uplink, family, count, errno),
            Event::SysctlWritten { device, family, errno } => {
                self.spread_written(device, family);
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

    /// A datagram came that was not from the kernel. It was dropped unread and changes nothing; it is counted.
    pub fn handle_foreign(&mut self) {
        self.counters.foreign = self.counters.foreign.saturating_add(1);
    }

    /// Lets time pass. Call it when [`Engine::poll_timeout`] is due, after all sockets were read: news that waits
    /// there comes before any verdict of a clock.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.event_at = now;
        self.now = now;
        let oldest = [self.nexthops.oldest_flight(), self.routes.oldest_flight(), self.rules.oldest_flight()];
        let lost = oldest.into_iter().flatten().any(|since| now.since(since) >= REQUEST_TIMEOUT);
        if lost || self.sync.is_overdue(now) {
            self.reopen_requests();
        }
        if self.look_again.is_some_and(|at| at <= now) {
            self.look_again = None;
            self.sync.mark(&Dump::ALL[4..]);
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
        self.flows_timeout(now);
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
            if let Some(action) = self.poll_drop() {
                return Some(action);
            }
        }
        if let Some(action) = self.poll_resilient() {
            return Some(action);
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
        if self.sync.synced {
            self.hurry_probes(now);
            if let Some(action) = self.poll_probe(now) {
                return Some(action);
            }
        }
        if let Some(action) = self.poll_sysctl() {
            return Some(action);
        }
        if let Some(action) = self.poll_spread() {
            return Some(action);
        }
        if self.sync.synced
            && let Some(action) = self.poll_nft(now)
        {
            return Some(action);
        }
        // First the switch, then the connections, then the word.
        if !self.drops_soon(now)
            && let Some(notice) = self.notices.pop()
        {
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
        let flights = Instant::first(&oldest).map(|since| since.after(REQUEST_TIMEOUT));
        let retries = [self.nexthops.next(), self.routes.next(), self.rules.next()];
        let mut next = Instant::first(&[flights, self.sync.next(), self.ask_at, self.save_at, self.look_again]);
        let mut sooner = |at: Option<Instant>| next = Instant::first(&[next, at]);
        if self.sync.synced {
            retries.into_iter().for_each(&mut sooner);
            for (config, uplink) in self.config.uplinks.iter().zip(&self.uplinks) {
                uplink.legs.iter().for_each(|leg| sooner(leg.next(config.hold_down)));
                if let Some(d) = config.damping {
                    sooner(uplink.damping.release_at(&d));
                    uplink.legs.iter().for_each(|leg| sooner(leg.damping.release_at(&d)));
                }
            }
            self.ways.iter().flatten().for_each(|way| sooner(way.overdue_at()));
            sooner(self.probe_at.filter(|at| *at != Instant::END));
            sooner(self.next_judgement(self.now));
            sooner(self.next_hurry(self.now));
            sooner(self.next_flows(self.now));
        }
        next
    }

    pub(super) fn has_family(&self, family: Family) -> bool {
        !self.missing_families.get(family.index()).is_some_and(|missing| *missing)
    }

    pub(super) fn uses_nexthops(&self) -> bool {
        self.config.globals.nexthops && !self.missing_nexthops
    }
}
