//! What must hold in a random run, after every step and at its end.

use super::*;

/// How long an own route may lead out of a device that is no uplink's, once nothing hinders its removal (I1).
const WRONG_DEVICE: Duration = Duration::from_secs(2);
/// How soon a dead uplink must be left when another could carry (L2).
const LEAVE: Duration = Duration::from_millis(250);
/// For how long after a fault the two bounds above do not hold: a lost answer and a few retries.
const AFTERMATH: Duration = Duration::from_secs(6);
/// How soon an uplink that answers nothing must be left when another could carry: three of the slowest rounds to fall,
/// three to find the other one good again, and the time of a voucher.
const LEAVE_DARK: Duration = Duration::from_secs(30);

impl Run {
    /// After every step: I1, I2, I4, I12, I13 and L2.
    pub(super) fn check_step(&mut self) -> Result<(), String> {
        if let Some(violation) = self.world.violations.first() {
            return Err(violation.clone());
        }
        if let Some(harm) = self.world.kernel.foreign_harmed.first() {
            return Err(format!("I2: {harm}"));
        }
        let now = self.world.now();
        let faults = &self.world.kernel.faults;
        if self.world.engine.is_none() || !faults.refuse.is_empty() || faults.deaf.contains(&true) {
            self.last_fault = now;
        }
        self.check_devices(now)?;
        self.check_left(now)?;
        self.check_dark(now)
    }

    pub(super) fn check_devices(&mut self, now: Instant) -> Result<(), String> {
        let (kernel, config) = (&self.world.kernel, &self.world.config);
        let wrong = |hop: &Hop| {
            let name = kernel.links().iter().find(|l| l.ifindex == hop.ifindex).map(|l| l.name);
            !config.uplinks.iter().any(|u| Some(u.device) == name)
        };
        let mut found = Vec::new();
        for route in kernel.routes().iter().filter(|r| r.own) {
            if let RouteTarget::Via(hop) = route.spec.target
                && wrong(&hop)
            {
                found.push(format!("{:?}", route.spec));
            }
        }
        for nexthop in kernel.nexthops() {
            if let NexthopBody::Leaf { hop, .. } = nexthop.body
                && wrong(&hop)
            {
                found.push(format!("{nexthop:?}"));
            }
        }
        self.wrong_since.retain(|what, _| found.contains(what));
        for what in found {
            let since = *self.wrong_since.entry(what.clone()).or_insert(now);
            if now.since(since) > WRONG_DEVICE && now.since(self.last_fault) > AFTERMATH {
                return Err(format!("I1: since {} out of a device that is no uplink's: {what}", show_time(since)));
            }
        }
        Ok(())
    }

    pub(super) fn check_left(&mut self, now: Instant) -> Result<(), String> {
        if self.world.config.default_policy.is_none() {
            return Ok(());
        }
        for family in Family::BOTH {
            let kernel = &self.world.kernel;
            let via = self.world.default_via(family);
            let dead = via.is_some_and(|name| kernel.link(name).is_some_and(|l| !l.is_live()));
            // One that is probed may be down for want of answers.
            let could = |u: &UplinkConfig| eligible(kernel, u, family) && !u.probe.tracks(family);
            let other = dead && self.world.config.uplinks.iter().any(could);
            let Some(place) = self.dead_since.get_mut(family.index()) else { continue };
            match (other, *place) {
                (false, _) => *place = None,
                (true, None) => *place = Some(now),
                (true, Some(since)) if now.since(since) > LEAVE && now.since(self.last_fault) > AFTERMATH => {
                    return Err(format!("L2: {family} leads out of a dead device since {}", show_time(since)));
                }
                (true, Some(_)) => {}
            }
        }
        Ok(())
    }

    /// I5: what answers nothing is left when another that answers could carry.
    pub(super) fn check_dark(&mut self, now: Instant) -> Result<(), String> {
        for family in Family::BOTH {
            let world = &self.world;
            let via = world.default_via(family);
            let answers = |u: &UplinkConfig| {
                let mut targets = u.probe.targets.iter().filter(|t| t.family == family);
                targets.all(|t| match t.host {
                    Host::Addr(addr) => world.paths.answers(u.device, addr),
                    _ => world.paths.answers(u.device, crate::sim::FAR_AWAY[family.index()]),
                })
            };
            let probed = |u: &&UplinkConfig| u.serves(family) && u.probe.tracks(family);
            let uplinks = || world.config.uplinks.iter().filter(probed);
            let dark = uplinks().any(|u| Some(u.device) == via && world.paths.is_dark(u.device, family));
            let bright =
                |u: &UplinkConfig| eligible(&world.kernel, u, family) && answers(u) && !world.paths.is_lossy(u.device);
            let other = dark && world.config.default_policy.is_some() && uplinks().any(bright);
            let Some(place) = self.dark_since.get_mut(family.index()) else { continue };
            match (other, *place) {
                (false, _) => *place = None,
                (true, None) => *place = Some(now),
                (true, Some(since)) => {
                    let calm = now.since(since).min(now.since(self.last_fault));
                    if calm > LEAVE_DARK {
                        return Err(format!("I5: {family} leads into the dark since {}", show_time(since)));
                    }
                }
            }
        }
        Ok(())
    }

    /// L1: the best uplink carries what no rule names.
    pub(super) fn check_default(&self) -> Result<(), String> {
        let (kernel, config) = (&self.world.kernel, &self.world.config);
        let policy = config.default_policy.and_then(|p| config.policies.get(usize::from(p.0)));
        let Some(policy) = policy else { return Ok(()) };
        for family in Family::BOTH.into_iter().filter(|f| *f == Family::V4 || !kernel.no_ipv6) {
            let best: Vec<IfName> = carriers(kernel, config, policy, family).iter().map(|(u, _)| u.device).collect();
            let found = self.world.default_via(family);
            let right = found.map_or(best.is_empty(), |via| best.contains(&via));
            if !right && (!best.is_empty() || policy.last_resort != LastResort::Default) {
                return Err(format!("L1: {family} goes via {found:?}, best is {best:?}"));
            }
        }
        Ok(())
    }
}
