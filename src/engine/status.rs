//! What can be asked of the engine at any time: no event, no copy.

use super::action::Dump;
use super::event::Feed;
use super::switch::Way;
use super::uplink::Uplink;
use super::{Counters, Engine};
use crate::config::{Config, UplinkConfig};
use crate::types::{Family, PolicySlot};

impl Engine {
    /// The last time that was told: what ages are counted from.
    pub fn now(&self) -> crate::time::Instant {
        self.now
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The uplinks with their configuration.
    pub fn uplinks(&self) -> impl Iterator<Item = (&UplinkConfig, &Uplink)> {
        self.config.uplinks.iter().zip(&self.uplinks)
    }

    /// The way of a policy in a family.
    pub fn policy_way(&self, slot: PolicySlot, family: Family) -> Option<&Way> {
        self.ways.get(usize::from(slot.0))?.get(family.index())
    }

    /// The member that an operator holds a policy on.
    pub fn preferred(&self, slot: PolicySlot) -> Option<crate::types::UplinkSlot> {
        self.preferred.get(usize::from(slot.0)).copied().flatten()
    }

    /// How long switches took.
    pub fn failover_times(&self) -> &super::switch::FailoverTimes {
        &self.failover_times
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        Counters { notices_dropped: self.notices.dropped(), ..self.counters }
    }

    /// Lost notifications since the start.
    pub fn overruns(&self) -> u32 {
        self.overruns
    }

    /// The feed that must wait until the dump under way has ended: its news are newer than what the dump will say.
    pub fn feed_on_hold(&self) -> Option<Feed> {
        self.sync.reading().map(|dump| if dump == Dump::Links { Feed::Links } else { Feed::State })
    }

    /// What this kernel was seen not to have.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        let [v4, v6] = self.missing_families;
        let parts = [("ipv4", v4), ("ipv6", v6), ("nexthops", self.missing_nexthops)];
        parts.into_iter().filter(|(_, missing)| *missing).map(|(name, _)| name)
    }

    /// Whether everything has been read once.
    pub fn is_synced(&self) -> bool {
        self.sync.synced
    }

    /// Whether everything has been read and the kernel has all that is wanted and nothing else of ours.
    pub fn settled(&self) -> bool {
        self.sync.synced
            && self.sync.is_clean()
            && self.nexthops.is_settled()
            && self.routes.is_settled()
            && self.rules.is_settled()
            && self.flows_settled()
    }
}
