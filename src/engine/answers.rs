//! Decides what the answers to our requests mean: acknowledgements, refusals, dumps from first to last.

use super::Engine;
use super::action::{Dump, Token};
use super::event::DumpOutcome;
use super::fib::{Answer, Have};
use super::flows::Support;
use super::notice::{Notice, Object, TableName};
use super::object::{RouteSpec, RouteTarget};
use super::requests::is_coming;
use super::uplink::{Setting, Uplink};
use crate::time::{Duration, Instant};
use crate::types::{Errno, Family};

/// Objects of ours beyond what we can remember are looked for again after this long: by then those that were seen first
/// are deleted. If they cannot be, a look this often harms nobody.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Engine {
    pub(super) fn reopen_requests(&mut self) {
        self.reopen = true;
        if matches!(self.resilient, Support::Asked(_)) {
            self.resilient = Support::Unknown;
        }
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
    pub(super) fn doubt_routes_without_nexthop(&mut self) {
        let nexthops = self.nexthops.objects();
        let alone = |r: &RouteSpec| matches!(r.target, RouteTarget::Nexthop(id) if !is_coming(nexthops, id));
        for (route, story) in self.routes.objects().iter() {
            if story.have != Have::Missing && alone(route) {
                self.sync.mark(&[Dump::OwnRoutes(route.family)]);
            }
        }
        self.routes.doubt(Have::Unknown, &alone);
    }

    pub(super) fn dump_began(&mut self, dump: Dump) -> bool {
        self.sync.began(dump);
        match dump {
            Dump::Links => self.uplinks.iter_mut().for_each(|u| u.watch.sweep_begin()),
            Dump::Addresses => self.uplinks.iter_mut().for_each(Uplink::sweep_addresses_begin),
            Dump::MainDefaults(family) => self.uplinks.iter_mut().for_each(|u| u.sweep_defaults_begin(family)),
            Dump::Nexthops => self.nexthops.sweep_begin(&|_| true),
            Dump::OwnRoutes(family) => self.routes.sweep_begin(&|r| r.family == family),
            Dump::Rules => self.rules.sweep_begin(&|_| true),
        }
        false
    }

    pub(super) fn dump_ended(&mut self, dump: Dump, outcome: DumpOutcome, now: Instant) -> bool {
        // First, so that the next try waits whatever the refusal leads to.
        let whole = self.sync.ended(dump, outcome, now);
        if let DumpOutcome::Failed(errno) = outcome {
            self.dump_refused(dump, errno);
        }
        self.nexthops.stir();
        self.routes.stir();
        self.rules.stir();
        let mut vanished = 0;
        if whole {
            match dump {
                Dump::Links => {
                    for at in 0..self.uplinks.len() {
                        let gone = self.uplinks.get(at).and_then(|u| u.watch.sweep_end());
                        if let Some(ifindex) = gone {
                            self.link_gone(ifindex, now);
                        }
                    }
                }
                Dump::Addresses => {
                    let room = self.uplinks.iter_mut().fold(false, |room, u| u.sweep_addresses_end() | room);
                    self.look_for_more(room, &[Dump::Addresses]);
                }
                Dump::MainDefaults(family) => {
                    let room = self.uplinks.iter_mut().fold(false, |room, u| u.sweep_defaults_end(family) | room);
                    self.look_for_more(room, &Dump::MAIN_DEFAULTS);
                }
                Dump::Nexthops => {
                    vanished = self.nexthops.sweep_end(&|_| true);
                    self.doubt_routes_without_nexthop();
                }
                Dump::OwnRoutes(family) => vanished = self.routes.sweep_end(&|r| r.family == family),
                Dump::Rules => vanished = self.rules.sweep_end(&|_| true),
            }
        }
        self.counters.vanished = self.counters.vanished.saturating_add(vanished);
        if let (true, Some(since)) = (self.sync.is_clean(), self.missing_since) {
            self.missing_since = None;
            log!(
                Debug,
                "everything read again {} us after notifications were lost",
                crate::time::micros(now.since(since))
            );
        }
        if !self.sync.synced && self.sync.is_clean() {
            self.sync.synced = true;
            self.first_look(now);
        }
        true
    }

    /// What did not fit into a table may now have its place there.
    pub(super) fn look_for_more(&mut self, room: bool, dumps: &[Dump]) {
        if room {
            self.sync.mark(dumps);
        }
    }

    /// Not every kernel has everything: what it cannot have is off, the rest goes on.
    pub(super) fn dump_refused(&mut self, dump: Dump, errno: Errno) {
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
            _ => log!(Warn, "dump of {} refused: {errno}", words(dump)),
        }
    }

    pub(super) fn lack_nexthops(&mut self) {
        if !self.missing_nexthops {
            self.missing_nexthops = true;
            self.notices.push(Notice::NoNexthops);
        }
    }

    pub(super) fn lack_family(&mut self, family: Family) {
        if let Some(missing) = self.missing_families.get_mut(family.index()).filter(|m| !**m) {
            *missing = true;
            self.notices.push(Notice::NoFamily(family));
        }
    }

    pub(super) fn acked(&mut self, token: Token, errno: Errno, now: Instant) -> bool {
        if self.flows_acked(token, errno, now) {
            return false;
        }
        self.nexthops.stir();
        self.routes.stir();
        self.rules.stir();
        if let Some(answer) = self.nexthops.acked(token, errno, now) {
            if errno == Errno::EOPNOTSUPP {
                self.lack_nexthops();
                return true;
            }
            let refused = self.nexthops.refused(answer).map(|spec| Object::Nexthop(*spec));
            self.answered(answer, errno, Dump::Nexthops, refused);
            return false;
        }
        if let Some(answer) = self.routes.acked(token, errno, now) {
            let refused = self.routes.refused(answer);
            let family = refused.map_or(Family::V4, |route| route.family);
            if errno == Errno::EAFNOSUPPORT {
                self.lack_family(family);
                return true;
            }
            let refused = refused.map(|spec| Object::Route(*spec));
            self.answered(answer, errno, Dump::OwnRoutes(family), refused);
            return false;
        }
        if let Some(answer) = self.rules.acked(token, errno, now) {
            let refused = self.rules.refused(answer);
            if let (Errno::EAFNOSUPPORT, Some(rule)) = (errno, refused) {
                self.lack_family(rule.family);
                return true;
            }
            let refused = refused.map(|spec| Object::Rule(*spec));
            self.answered(answer, errno, Dump::Rules, refused);
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

    fn answered(&mut self, answer: Answer, errno: Errno, dump: Dump, refused: Option<Object>) {
        let (Answer::Refused { retry, tell, .. }, Some(object)) = (answer, refused) else { return };
        self.counters.refused = self.counters.refused.saturating_add(1);
        // What is there instead? A nexthop may have gone in silence and taken groups and routes along.
        self.sync.mark(&[dump, Dump::Nexthops]);
        if tell {
            self.notices.push(match errno {
                Errno::EEXIST => Notice::Occupied { object },
                _ => Notice::Refused { object, errno, retry },
            });
        }
    }

    /// An object of ours was seen and could not be remembered: those in its way go first, then all are looked at again.
    pub(super) fn seen_full(&mut self, full: bool, table: &'static str, capacity: usize, now: Instant) -> bool {
        if full {
            self.look_again.get_or_insert(now.after(LOOK_AGAIN));
            self.tell_full(table, capacity);
        }
        false
    }

    pub(super) fn tell_full(&mut self, table: &'static str, capacity: usize) {
        // Once per power of two: a table that is full stays so.
        self.counters.full = self.counters.full.saturating_add(1);
        if self.counters.full.is_power_of_two() {
            self.notices.push(Notice::Full { table: TableName(table), capacity });
        }
    }
}

fn words(dump: Dump) -> &'static str {
    match dump {
        Dump::Links => "links",
        Dump::Addresses => "addresses",
        Dump::MainDefaults(_) => "default routes",
        Dump::Nexthops => "nexthops",
        Dump::OwnRoutes(_) => "routes",
        Dump::Rules => "rules",
    }
}
