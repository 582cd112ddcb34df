//! Decides which uplinks are used: reviews them after every event, chooses each policy's way, follows switches to their end.

use heapless::Vec;

use super::action::{Dump, Token};
use super::command::Hold;
use super::fib::Story;
use super::layout;
use super::notice::Notice;
use super::object::{NexthopBody, RouteSpec, RouteTarget};
use super::probe::Reach;
use super::switch::Way;
use super::uplink::{Health, Reason, State, Uplink};
use super::{Engine, SAVE_AFTER};
use crate::config::{Failback, Member, UplinkConfig};
use crate::limits;
use crate::time::Instant;
use crate::types::{Family, IfIndex, PolicySlot, UplinkSet, UplinkSlot};

impl Engine {
    /// The first look after the start: whoever carried traffic goes on carrying it, and is trusted at once.
    pub(super) fn first_look(&mut self, now: Instant) {
        let mut adopted: Vec<(Family, crate::types::UplinkId), { limits::NEXTHOPS }> = Vec::new();
        for (nexthop, _) in self.nexthops.objects().iter() {
            if let NexthopBody::Group(group) = &nexthop.body {
                for uplink in group.members().iter().filter_map(|m| layout::uplink_of_leaf(m.id)) {
                    let _ = adopted.push(uplink);
                }
            }
        }
        for (spec, _) in self.routes.objects().iter() {
            if let (true, layout::METRIC_POINTER, RouteTarget::Via(hop)) =
                (layout::is_policy_table(spec.table), spec.metric, spec.target)
            {
                let carrying = self.uplinks.iter().position(|u| u.ifindex() == Some(hop.ifindex));
                if let Some(config) = carrying.and_then(|at| self.config.uplinks.get(at)) {
                    let _ = adopted.push((spec.family, config.id));
                }
            }
        }
        for at in 0..self.ways.len() {
            for family in Family::BOTH {
                let held = self.held_before(PolicySlot(at as u8), family);
                if let Some(way) = self.ways.get_mut(at).and_then(|w| w.get_mut(family.index())) {
                    way.held = held;
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

    /// Who carries a policy's traffic by what the kernel holds: it goes on if nobody is to be preferred to it.
    fn held_before(&self, slot: PolicySlot, family: Family) -> UplinkSet {
        let table = layout::policy_table(slot);
        let metric = layout::METRIC_POINTER;
        let is_pointer = |r: &RouteSpec| (r.family, r.table, r.metric) == (family, table, metric);
        let pointer = self.routes.objects().iter().find(|(route, _)| is_pointer(route));
        let Some((pointer, _)) = pointer else { return UplinkSet::EMPTY };
        let uplinks = || self.uplinks.iter().zip(&self.config.uplinks).zip((0..).map(UplinkSlot));
        match pointer.target {
            RouteTarget::Via(hop) => {
                uplinks().filter(|((u, _), _)| u.ifindex() == Some(hop.ifindex)).map(|(_, slot)| slot).collect()
            }
            RouteTarget::Nexthop(id) => {
                let group = self.nexthops.objects().iter().find(|(nexthop, _)| nexthop.id == id);
                let Some(NexthopBody::Group(group)) = group.map(|(n, _)| &n.body) else { return UplinkSet::EMPTY };
                let ids = || group.members().iter().filter_map(|m| layout::uplink_of_leaf(m.id));
                let held = |config: &UplinkConfig| ids().any(|(_, id)| id == config.id);
                uplinks().filter(|((_, config), _)| held(config)).map(|(_, slot)| slot).collect()
            }
            RouteTarget::Unreachable | RouteTarget::Blackhole => UplinkSet::EMPTY,
        }
    }

    /// Reads all conditions anew, chooses for each policy, and says what is wanted.
    pub(super) fn settle(&mut self, now: Instant) {
        self.judge_probes(now);
        // Who could not be probed may be now.
        self.probe_at = None;
        let before = self.usable_legs();
        for at in 0..self.uplinks.len() {
            let v4 = self.review_leg(at, Family::V4, None, now);
            let v6 = self.review_leg(at, Family::V6, None, now);
            self.tell_uplink(at, v4, v6);
        }
        self.review_flows(before, now);
        for at in 0..self.ways.len() {
            for family in Family::BOTH {
                let slot = PolicySlot(at as u8);
                let chosen = self.choose(slot, family);
                let event_at = self.event_at;
                let Some(way) = self.ways.get_mut(at).and_then(|w| w.get_mut(family.index())) else { continue };
                let old = way.chosen;
                if way.choose(chosen, event_at, now) {
                    self.left_behind(slot, family, old, chosen, now);
                }
            }
        }
        self.want_all();
    }

    /// The members that should carry a policy's traffic: those in the best state, of these the ones with the lowest metric;
    /// several of equal metric share it.
    fn choose(&self, slot: PolicySlot, family: Family) -> UplinkSet {
        let Some(policy) = self.config.policies.get(usize::from(slot.0)) else { return UplinkSet::EMPTY };
        let state = |member: &Member| {
            let at = usize::from(member.uplink.0);
            let serves = self.config.uplinks.get(at)?.serves(family);
            let state = self.uplinks.get(at)?.legs.get(family.index())?.state;
            let state = if policy.use_degraded && state == State::Degraded { State::Up } else { state };
            (serves && state.is_usable()).then_some(state)
        };
        let members = policy.members.as_slice();
        // An operator's word, as long as it works.
        let preferred = self.preferred.get(usize::from(slot.0)).copied().flatten();
        let works = |m: &&Member| Some(m.uplink) == preferred && state(m) >= Some(State::Degraded);
        if let Some(member) = members.iter().find(works) {
            return UplinkSet::of(member.uplink);
        }
        let best = members.iter().map(state).max().flatten();
        let good = |m: &Member| best.is_some() && state(m) == best;
        let mut holder = UplinkSet::EMPTY;
        if policy.failback == Failback::Never {
            let way = self.way(usize::from(slot.0), family).copied().unwrap_or_default();
            holder = if way.chosen.is_empty() { way.held } else { way.chosen };
        }
        // Members are sorted by metric.
        let held = members.iter().find(|m| holder.contains(m.uplink) && good(m));
        let Some(first) = held.or_else(|| members.iter().find(|m| good(m))) else { return UplinkSet::EMPTY };
        members.iter().filter(|m| m.metric == first.metric && good(m)).map(|m| m.uplink).collect()
    }

    pub(super) fn review_leg(
        &mut self,
        at: usize,
        family: Family,
        trusted: Option<bool>,
        now: Instant,
    ) -> Option<State> {
        let no_route = self.lacks_route(at, family);
        let (config, uplink) = (self.config.uplinks.get(at)?, self.uplinks.get_mut(at)?);
        if !config.serves(family) {
            return None;
        }
        let missing = self.missing_families.get(family.index()).is_some_and(|missing| *missing);
        let usable = if missing { Err(Reason::NoAddress) } else { uplink.usable(config, family) };
        let (probe, probing) = (&config.probe, &uplink.probing);
        let reach = probing.reach.get(family.index()).copied().unwrap_or_default();
        let usable = match (usable, reach) {
            (Ok(_), _) if uplink.hold == Hold::Down => Err(Reason::Operator),
            (usable, _) if uplink.hold == Hold::Up => usable,
            (Ok(_), _) if no_route && probe.tracks(family) => Err(Reason::NoRoute),
            (Ok(_), Reach::Bad) => Err(probing.reason(probe, family)),
            (usable, _) => usable,
        };
        let health = Health {
            held_up: uplink.hold == Hold::Up,
            missing: usable.err(),
            suppressed: false,
            proven: !probe.tracks(family) || reach == Reach::Good || probe.initial_online,
            poor: probing.poor(probe, family),
        };
        let leg = uplink.legs.get_mut(family.index())?;
        // Both, not either: each forgets its suppression only when it is looked at.
        let flapping = config.damping.map(|d| [uplink.damping.review(&d, now), leg.damping.review(&d, now)]);
        let suppressed = flapping.is_some_and(|f| f.contains(&true));
        leg.review(Health { suppressed, ..health }, config.hold_down, trusted, now)
    }

    /// One notice when both families did the same, else one each.
    pub(super) fn tell_uplink(&mut self, at: usize, v4: Option<State>, v6: Option<State>) {
        let Some(uplink) = self.uplinks.get(at) else { return };
        let [four, six] = uplink.legs.each_ref().map(|leg| (leg.state, leg.reason));
        let flaps = u16::try_from(uplink.flaps).unwrap_or(u16::MAX);
        let slot = UplinkSlot(at as u8);
        let serves_both = self.config.uplinks.get(at).is_some_and(|c| c.families == [true; 2]);
        let together = v4 == v6 && four == six;
        for (family, before, (to, reason)) in [(Family::V4, v4, four), (Family::V6, v6, six)] {
            let Some(from) = before else { continue };
            let family = if together { None } else { serves_both.then_some(family) };
            self.notices.push(Notice::Uplink { uplink: slot, family, from, to, reason, flaps });
            if together {
                return;
            }
        }
    }

    pub(super) fn way(&self, at: usize, family: Family) -> Option<&Way> {
        self.ways.get(at)?.get(family.index())
    }

    /// Switches whose objects the kernel has acknowledged are committed; those that need no proof are told.
    pub(super) fn commit_ways(&mut self, now: Instant) {
        for at in 0..self.ways.len() {
            for family in Family::BOTH {
                let Some(way) = self.way(at, family).filter(|w| w.awaits_commit()) else { continue };
                let nobody = way.chosen.is_empty();
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

    pub(super) fn is_committed(&self, slot: PolicySlot, family: Family) -> bool {
        let id = self.group_id(slot, family);
        let group = self.nexthops.objects().iter().find(|(nexthop, _)| nexthop.id == id);
        let pointer = RouteSpec {
            family,
            table: layout::policy_table(slot),
            metric: layout::METRIC_POINTER,
            target: RouteTarget::Unreachable,
        };
        let route = self.routes.get(&pointer);
        group.is_none_or(|(_, story)| story.is_settled()) && route.is_none_or(Story::is_settled)
    }

    pub(super) fn finish_switch(&mut self, at: usize, family: Family, verified: bool, now: Instant) {
        let Some(way) = self.ways.get_mut(at).and_then(|w| w.get_mut(family.index())) else { return };
        if let Some((from, to, times)) = way.finish(verified, now) {
            self.failover_times.add(times.committed);
            self.notices.push(Notice::Switched { policy: PolicySlot(at as u8), family, from, to, times });
            self.save_at.get_or_insert(now.after(SAVE_AFTER));
        }
    }

    pub(super) fn route_answer(&mut self, token: Token, oif: Option<IfIndex>, now: Instant) -> bool {
        for at in 0..self.ways.len() {
            for family in Family::BOTH {
                let Some(way) = self.way(at, family) else { continue };
                if way.switch.and_then(|s| s.asked) != Some(token) {
                    continue;
                }
                let ways = way.chosen.iter().filter_map(|u| self.uplinks.get(usize::from(u.0)));
                let verified = oif.is_some() && ways.map(Uplink::ifindex).any(|wanted| oif == wanted);
                if !verified {
                    // Something is not as we think: look at everything of ours again.
                    self.sync.mark(&Dump::ALL[4..]);
                }
                self.finish_switch(at, family, verified, now);
            }
        }
        false
    }
}
