//! Decides when each target is probed, by which path, and when traffic itself is evidence enough.
//!
//! Probes are spread over their interval, never sent in bursts. A probe leaves by its uplink and nothing else: an uplink
//! whose own table has no live default route is not probed. A metered uplink that stands by is asked one target at a
//! time; an uplink whose device carries traffic both ways need not be asked for a while.

use core::net::IpAddr;

use super::action::{Action, ProbePath, ProbeRequest, Token};
use super::event::ProbeId;
use super::fib::Have;
use super::object::{Hop, RouteSpec, RouteTarget};
use super::probe::{Reach, Trouble, Verdict};
use super::{Engine, SAVE_AFTER, layout};
use crate::config::probe::{Host, ProbeConfig};
use crate::time::{Duration, Instant};
use crate::types::{Family, FwMark, IfIndex, UplinkSlot};

/// How long traffic alone may speak for an uplink: this many intervals.
const HOLD_ROUNDS: u32 = 3;
/// The same for a metered one.
const HOLD_METERED: Duration = Duration::from_secs(60);
/// How often at most a device's counters are read.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Netlink answers at once: without an answer by then the probe goes out.
const LOOK_TIMEOUT: Duration = Duration::from_millis(50);
/// A name is resolved again so long after it was, when its address has stopped to answer.
const RESOLVE_AGAIN: Duration = Duration::from_secs(30);
/// So many probes of a metered uplink may be forgotten when the daemon is killed.
const SAVE_EVERY: u32 = 64;
/// Above this pace a missing answer is worth a wake-up of its own, so that the next probe comes sooner.
const SLOW_PACE: Duration = Duration::from_secs(2);

/// What stands in the way of a probe.
enum Obstacle {
    /// It cannot leave.
    Trouble(Trouble),
    /// The device is asked first whether it carries traffic.
    Look(Token, IfIndex),
    /// Traffic is evidence enough.
    Held,
}

impl Engine {
    /// The next probe that is due.
    pub(super) fn poll_probe(&mut self, now: Instant) -> Option<Action> {
        if self.probe_at.is_some_and(|at| at > now) {
            return None;
        }
        for at in 0..self.uplinks.len() {
            self.turn_sparing(at, now);
            for place in 0..self.uplinks.get(at).map_or(0, |u| u.probing.tracks.len()) {
                if let Some(action) = self.poll_track(at, place, now) {
                    return Some(action);
                }
            }
        }
        let mut next = Instant::END;
        for (config, uplink) in self.config.uplinks.iter().zip(&self.uplinks) {
            for family in Family::BOTH.into_iter().filter(|f| uplink.usable(config, *f).is_ok()) {
                for (_, track) in uplink.probing.of(&config.probe, family) {
                    next = next.min(track.next_at);
                }
            }
        }
        self.probe_at = Some(next);
        None
    }

    fn poll_track(&mut self, at: usize, place: usize, now: Instant) -> Option<Action> {
        let (config, uplink) = (self.config.uplinks.get(at)?, self.uplinks.get(at)?);
        let family = config.probe.targets.get(place)?.family;
        let track = uplink.probing.tracks.get(place)?;
        let hop = uplink.usable(config, family).ok()?;
        if track.next_at > now {
            return None;
        }
        if track.path.is_none() && track.window.is_empty() {
            // The first of its life: each target has its own place within the interval.
            let first = self.first_place(at, place);
            let track = self.uplinks.get_mut(at)?.probing.tracks.get_mut(place)?;
            track.path = Some((IpAddr::from([0; 4]), IpAddr::from([0; 4]), IfIndex(0)));
            track.next_at = now.after(first);
            if track.next_at > now {
                return None;
            }
        }
        match self.clear_path(at, place, hop, now) {
            Ok((path, target)) => self.send_probe(at, place, path, target, now),
            Err(Obstacle::Look(token, ifindex)) => Some(Action::AskLink { token, ifindex, traffic: true }),
            Err(Obstacle::Held) => {
                self.plan_next(at, place, now);
                self.uplinks.get_mut(at)?.probing.tracks.get_mut(place)?.held = true;
                None
            }
            Err(Obstacle::Trouble(trouble)) => {
                self.plan_next(at, place, now);
                self.uplinks.get_mut(at)?.probing.tracks.get_mut(place)?.trouble = trouble;
                None
            }
        }
    }

    /// Spreads the first probes of all targets over the interval.
    fn first_place(&self, at: usize, place: usize) -> Duration {
        let before = self.uplinks.iter().take(at).map(|u| u.probing.tracks.len()).sum::<usize>();
        let all = self.uplinks.iter().map(|u| u.probing.tracks.len()).sum::<usize>().max(1);
        let interval = self.config.uplinks.get(at).map_or(Duration::ZERO, |c| c.probe.interval);
        let share = u32::try_from(before + place).unwrap_or(0);
        // At a start everybody waits for the first answers: a tenth of the interval is spread enough for those.
        interval * share / u32::try_from(all).unwrap_or(1) / 10
    }

    /// How the probe leaves and whom it asks (`None`: the name must be resolved first), or what stands in its way.
    fn clear_path(
        &mut self,
        at: usize,
        place: usize,
        hop: Hop,
        now: Instant,
    ) -> Result<(ProbePath, Option<IpAddr>), Obstacle> {
        let gone = Obstacle::Trouble(Trouble::NoRoute);
        let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get(at)) else {
            return Err(gone);
        };
        let (Some(target), Some(track)) = (config.probe.targets.get(place), uplink.probing.tracks.get(place)) else {
            return Err(gone);
        };
        let family = target.family;
        if !self.has_live_default(at, family) {
            return Err(Obstacle::Trouble(Trouble::NoRoute));
        }
        let Some(source) = uplink.source(family, hop) else { return Err(Obstacle::Trouble(Trouble::NoAddress)) };
        let mark = FwMark::spread(u32::from(config.id.0), self.config.globals.mark_mask);
        let path = ProbePath { source, hop, mark };
        let addr = match &target.host {
            Host::Addr(addr) => Some(*addr),
            Host::Gateway => match hop.gateway {
                Some(gateway) => Some(gateway),
                None => return Err(Obstacle::Trouble(Trouble::NoRoute)),
            },
            Host::Name(_) if track.verdict == Verdict::Bad && track.resolve_at <= now => None,
            Host::Name(_) => track.addr,
        };
        if let Some(obstacle) = self.hold_back(at, family, hop.ifindex, now) {
            return Err(obstacle);
        }
        Ok((path, addr))
    }

    /// Whether the uplink's own table has its default route in the kernel now.
    fn has_live_default(&self, at: usize, family: Family) -> bool {
        let Some(id) = self.config.uplinks.get(at).map(|c| c.id) else { return false };
        let (table, metric) = (layout::uplink_table(id), layout::METRIC_UPLINK);
        let place = RouteSpec { family, table, metric, target: RouteTarget::Unreachable };
        self.routes.get(&place).is_some_and(|route| route.wanted && route.have == Have::Same)
    }

    /// Whether the kernel keeps refusing the default route of the uplink's own table.
    pub(super) fn lacks_route(&self, at: usize, family: Family) -> bool {
        let Some(id) = self.config.uplinks.get(at).map(|c| c.id) else { return false };
        let (table, metric) = (layout::uplink_table(id), layout::METRIC_UPLINK);
        let place = RouteSpec { family, table, metric, target: RouteTarget::Unreachable };
        self.routes.get(&place).is_some_and(|route| route.wanted && route.is_refused())
    }

    /// Traffic as evidence: looked at before a probe of an uplink that carries some.
    fn hold_back(&mut self, at: usize, family: Family, ifindex: IfIndex, now: Instant) -> Option<Obstacle> {
        let applies = self.is_passive(at, family, now);
        let (config, uplink) = (self.config.uplinks.get(at)?, self.uplinks.get_mut(at)?);
        if !applies {
            return None;
        }
        let (probe, traffic) = (&config.probe, &uplink.probing.traffic);
        let longest = if probe.metered { HOLD_METERED } else { probe.interval * HOLD_ROUNDS };
        let silent = uplink.probing.sent_at.is_none_or(|sent| now.since(sent) >= longest);
        if silent {
            return None;
        }
        let fresh = traffic.at.is_some_and(|at| now.since(at) < probe.interval.min(LOOK_EVERY) / 2);
        if fresh {
            return traffic.both_ways.then_some(Obstacle::Held);
        }
        match traffic.asked {
            Some((_, asked)) if now.since(asked) >= LOOK_TIMEOUT => None,
            Some(_) => Some(Obstacle::Held),
            None => {
                let token = self.token();
                let uplink = self.uplinks.get_mut(at)?;
                uplink.probing.traffic.asked = Some((token, now));
                uplink.watch.asked = Some(token);
                Some(Obstacle::Look(token, ifindex))
            }
        }
    }

    /// Whether traffic may speak for the family: only while all is well and it is clear whose traffic it is.
    fn is_passive(&self, at: usize, family: Family, now: Instant) -> bool {
        let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get(at)) else { return false };
        let (probe, probing) = (&config.probe, &uplink.probing);
        let alone = Family::BOTH.into_iter().filter(|f| probe.tracks(*f)).count() < 2;
        let well = probing.of(probe, family).all(|(_, t)| t.verdict == Verdict::Good || t.sick);
        probe.passive
            && probe.quality.is_none()
            && (probe.metered || alone)
            && well
            && !probing.is_late(probe, family, now)
            && self.carries(at)
    }

    /// Whether some policy sends traffic there.
    fn carries(&self, at: usize) -> bool {
        self.ways.iter().flatten().any(|way| way.chosen.contains(UplinkSlot(at as u8)))
    }

    /// How much a device has carried.
    pub(super) fn traffic(&mut self, ifindex: IfIndex, received: u32, sent: u32, now: Instant) -> bool {
        for (config, uplink) in self.config.uplinks.iter().zip(&mut self.uplinks) {
            if uplink.ifindex() != Some(ifindex) {
                continue;
            }
            let probing = &mut uplink.probing;
            probing.traffic.counted(received, sent, now);
            let waited = |sent: Instant| now.since(sent) >= config.probe.failure_interval;
            let speak = probing.traffic.one_way && probing.sent_at.is_none_or(waited);
            // Held back for this answer, or wanted at once because nothing comes back.
            for track in &mut probing.tracks {
                if speak || (track.next_at > now && !probing.traffic.both_ways && track.held) {
                    track.next_at = now;
                }
                track.held = false;
            }
        }
        self.probe_at = None;
        false
    }

    fn send_probe(
        &mut self,
        at: usize,
        place: usize,
        path: ProbePath,
        target: Option<IpAddr>,
        now: Instant,
    ) -> Option<Action> {
        self.plan_next(at, place, now);
        let config = &self.config.uplinks.get(at)?.probe;
        let uplink = self.uplinks.get_mut(at)?;
        uplink.probing.sent_at = Some(now);
        uplink.probing.history.sent(now);
        uplink.probes = uplink.probes.saturating_add(1);
        if config.metered && uplink.probes.is_multiple_of(SAVE_EVERY) {
            self.save_at.get_or_insert(now.after(SAVE_AFTER));
        }
        let track = uplink.probing.tracks.get_mut(place)?;
        let slot = UplinkSlot(at as u8);
        self.counters.probes_sent = self.counters.probes_sent.saturating_add(1);
        let Some(target) = target else {
            // A name that is not resolved is a probe that is not answered.
            track.resolve_at = now.after(RESOLVE_AGAIN);
            track.sent(config, now);
            track.trouble = Trouble::NoName;
            return Some(Action::Resolve { uplink: slot, track: place as u8, path });
        };
        let shape = (path.source, target, path.hop.ifindex);
        if track.path != Some(shape) {
            let next_at = track.next_at;
            track.restart(now);
            (track.path, track.next_at, track.addr) = (Some(shape), next_at, Some(target));
        }
        let seq = track.sent(config, now);
        let id = ProbeId { uplink: slot, track: place as u8, seq, life: track.life };
        Some(Action::Probe(ProbeRequest { id, target, path }))
    }

    /// A name was resolved.
    pub(super) fn resolved(&mut self, slot: UplinkSlot, place: u8, addr: Option<IpAddr>, now: Instant) -> bool {
        let Some(uplink) = self.uplinks.get_mut(usize::from(slot.0)) else { return false };
        let Some(track) = uplink.probing.tracks.get_mut(usize::from(place)) else { return false };
        if addr.is_some() && track.addr != addr {
            track.addr = addr;
            track.next_at = now;
            self.probe_at = None;
        }
        false
    }

    /// When this target is probed after now.
    fn plan_next(&mut self, at: usize, place: usize, now: Instant) {
        let Some(pace) = self.pace(at, place, now) else { return };
        if let Some(track) = self.uplinks.get_mut(at).and_then(|u| u.probing.tracks.get_mut(place)) {
            let due = track.next_at.after(pace);
            // Late probes are not made up for: they would come in a burst.
            track.next_at = if due > now { due } else { now.after(pace) };
            track.held = false;
        }
    }

    fn pace(&self, at: usize, place: usize, now: Instant) -> Option<Duration> {
        let (config, uplink) = (&self.config.uplinks.get(at)?.probe, self.uplinks.get(at)?);
        let (family, track) = (config.targets.get(place)?.family, uplink.probing.tracks.get(place)?);
        let reach = uplink.probing.reach.get(family.index()).copied().unwrap_or_default();
        let rounds = if uplink.probing.sparing {
            config.standby_interval * u32::try_from(config.targets.len()).unwrap_or(1)
        } else if reach == Reach::Bad || track.verdict == Verdict::Bad {
            if track.rises() && !track.is_late(config, now) {
                config.recovery_interval
            } else if config.keep_failure_interval {
                config.failure_interval
            } else {
                config.interval
            }
        } else if uplink.probing.is_late(config, family, now) || track.verdict == Verdict::Unknown {
            config.failure_interval
        } else {
            config.interval
        };
        Some(rounds / u32::from(config.count.max(1)))
    }

    /// A metered uplink that nobody uses and nobody doubts is asked sparingly.
    fn turn_sparing(&mut self, at: usize, now: Instant) {
        let carries = self.carries(at);
        let (Some(config), Some(uplink)) = (self.config.uplinks.get(at), self.uplinks.get_mut(at)) else { return };
        let (probe, probing) = (&config.probe, &mut uplink.probing);
        let calm = |family| {
            let still = |reach: &Reach| *reach == Reach::Bad;
            let down = probing.reach.get(Family::index(family)).is_some_and(still);
            let rising = probing.of(probe, family).any(|(_, t)| t.rises() && !t.is_late(probe, now));
            let good = probing.of(probe, family).all(|(_, t)| t.verdict == Verdict::Good || t.sick);
            !rising && (down || good && !probing.is_late(probe, family, now))
        };
        let sparing = probe.metered && !carries && Family::BOTH.into_iter().all(calm);
        if sparing == probing.sparing {
            return;
        }
        probing.sparing = sparing;
        let count = u32::try_from(probing.tracks.len()).unwrap_or(1).max(1);
        for (n, track) in (0_u32..).zip(&mut probing.tracks) {
            let wait = if sparing { probe.standby_interval * (n + 1) } else { probe.failure_interval * n / count };
            track.next_at = now.after(wait);
        }
    }

    /// An answer is overdue: what is asked next is asked sooner.
    pub(super) fn hurry_probes(&mut self, now: Instant) {
        for (config, uplink) in self.config.uplinks.iter().zip(&mut self.uplinks) {
            let (probe, probing) = (&config.probe, &mut uplink.probing);
            if probe.failure_interval >= probe.interval && !probing.sparing {
                continue;
            }
            for family in Family::BOTH {
                if !probing.is_late(probe, family, now) {
                    continue;
                }
                let soon = now.after(probe.failure_interval);
                for (target, track) in probe.targets.iter().zip(&mut probing.tracks) {
                    if target.family == family && track.next_at > soon {
                        track.next_at = soon;
                        self.probe_at = None;
                    }
                }
            }
        }
    }

    /// When a missing answer is to be noticed though nothing is sent before.
    pub(super) fn next_hurry(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for (config, uplink) in self.config.uplinks.iter().zip(&self.uplinks) {
            let probe: &ProbeConfig = &config.probe;
            let slow = uplink.probing.sparing || probe.interval >= SLOW_PACE && probe.failure_interval < probe.interval;
            if !slow {
                continue;
            }
            for track in &uplink.probing.tracks {
                if track.verdict == Verdict::Good && !track.sick && !track.is_late(probe, now) {
                    next = Instant::first(&[next, track.late_at(probe, now)]);
                }
            }
        }
        next
    }
}
