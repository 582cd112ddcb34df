//! What survives a restart: history only, never routes; the kernel keeps those itself.
//!
//! Ages instead of instants, names instead of slots: another clock and another file may read it.

use heapless::Vec;
use serde::Serialize;

use super::uplink::{Leg, State};
use super::{Engine, Hold};
use crate::limits;
use crate::time::{Duration, Instant};
use crate::types::{Name, UplinkId, UplinkSlot};

/// The history of all uplinks; at most [`limits::UPLINKS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// By uplink.
    pub uplinks: Vec<UplinkHistory, { limits::UPLINKS }>,
    /// By policy; at most [`limits::POLICIES`].
    pub preferred: Vec<Preference, { limits::POLICIES }>,
}

/// The history of one uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UplinkHistory {
    /// Its section's name.
    pub name: Name,
    /// Its number: it stays with the name.
    pub id: UplinkId,
    /// Its damping penalty when this was taken.
    pub penalty: u32,
    /// Its carrier losses.
    pub flaps: u32,
    /// What an operator says of it.
    pub hold: Hold,
    /// Its families' states, by [`Family::index`](crate::types::Family::index).
    pub legs: [Standing; 2],
    /// Its probes.
    pub probes: u32,
}

/// A state, and for how long it has been so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The state.
    pub state: State,
    /// Seconds; at most 136 years.
    pub seconds: u32,
}

impl Standing {
    fn of(leg: &Leg, now: Instant) -> Self {
        Self { state: leg.state, seconds: u32::try_from(leg.age(now).as_secs()).unwrap_or(u32::MAX) }
    }
}

/// A policy that an operator holds on a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preference {
    /// The policy's name.
    pub policy: Name,
    /// The member's.
    pub uplink: Name,
}

impl Snapshot {
    /// So much time has passed since it was taken; `None` when nobody knows.
    pub fn grow_older(&mut self, by: Option<Duration>) {
        for leg in self.uplinks.iter_mut().flat_map(|u| &mut u.legs) {
            let by = by.and_then(|by| u32::try_from(by.as_secs()).ok());
            *leg = by.map_or(Standing::default(), |by| Standing { seconds: leg.seconds.saturating_add(by), ..*leg });
        }
    }
}

impl Engine {
    /// What is worth keeping over a restart.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (config, uplink) in self.config.uplinks.iter().zip(&self.uplinks) {
            let penalty = config.damping.map_or(0, |d| uplink.damping.penalty(&d, now));
            let (name, flaps, hold) = (config.name.clone(), uplink.flaps, uplink.hold);
            let legs = uplink.legs.map(|leg| Standing::of(&leg, now));
            let history = UplinkHistory { name, id: config.id, penalty, flaps, hold, legs, probes: uplink.probes };
            // Cannot fail: both tables have the same capacity.
            let _ = snapshot.uplinks.push(history);
        }
        for (policy, preferred) in self.config.policies.iter().zip(&self.preferred) {
            let uplink = preferred.and_then(|u| self.config.uplinks.get(usize::from(u.0)));
            if let Some(uplink) = uplink {
                // Cannot fail: both tables have the same capacity.
                let _ =
                    snapshot.preferred.push(Preference { policy: policy.name.clone(), uplink: uplink.name.clone() });
            }
        }
        snapshot
    }

    /// Takes over the history of uplinks that still have the same name. Before the first event only.
    pub fn restore(&mut self, saved: &Snapshot, now: Instant) {
        for (config, uplink) in self.config.uplinks.iter().zip(&mut self.uplinks) {
            let Some(history) = saved.uplinks.iter().find(|h| h.name == config.name) else { continue };
            if let Some(damping) = config.damping {
                uplink.damping.restore(history.penalty, &damping, now);
            }
            uplink.flaps = history.flaps;
            uplink.probes = history.probes;
            uplink.hold = history.hold;
            for (leg, was) in uplink.legs.iter_mut().zip(history.legs) {
                leg.was(was.state, Duration::from_secs(was.seconds.into()));
            }
        }
        for (policy, place) in self.config.policies.iter().zip(&mut self.preferred) {
            let Some(saved) = saved.preferred.iter().find(|p| p.policy == policy.name) else { continue };
            let at = self.config.uplinks.iter().position(|u| u.name == saved.uplink);
            *place = at.map(|at| UplinkSlot(at as u8));
        }
    }
}
