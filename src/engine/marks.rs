//! Decides what each value of our mark bits means: uplinks from below, as mwan3 has it, the rest from above.
//!
//! With a mask of n bits the values 1 to 2^n-1 are there. The three highest are mwan3's: blackhole, unreachable, default
//! (table main). An uplink's own value is a command: by this one or not at all. Packets of a connection that is pinned to
//! an uplink get another value, right below those three, which is a preference: while the uplink is dead the kernel itself
//! leads them on to the next rule, also with the daemon dead. Below are one value per policy, then, for each sticky rule,
//! one for a source that has no uplink yet and one per member for a source that has; these exist only while a rule needs
//! nft. A value never means two things and depends on nothing but the configuration, so that nft's rules and the ip rules
//! agree without talking.

use crate::config::{Config, RuleConfig, RuleTarget};
use crate::types::{FwMark, PolicySlot, UplinkId, UplinkSlot};

/// What a mark leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The uplink of a pinned connection.
    Pin(UplinkSlot),
    /// A policy.
    Policy(PolicySlot),
    /// The policy of a sticky rule (its place in the configuration), for a source that has no uplink yet.
    Sticky { rule: usize, policy: PolicySlot },
    /// The uplink that a sticky source has, or the rule's policy while that is down.
    Soft { rule: usize, policy: PolicySlot, uplink: UplinkSlot },
}

impl Meaning {
    /// The policy that decides in the end; that of a pinned connection is found by its rules.
    pub fn policy(self) -> Option<PolicySlot> {
        match self {
            Self::Pin(_) => None,
            Self::Policy(policy) | Self::Sticky { policy, .. } | Self::Soft { policy, .. } => Some(policy),
        }
    }

    /// The uplink that is preferred.
    pub fn uplink(self) -> Option<UplinkSlot> {
        match self {
            Self::Pin(uplink) | Self::Soft { uplink, .. } => Some(uplink),
            Self::Policy(_) | Self::Sticky { .. } => None,
        }
    }
}

/// The highest value of the mask's bits.
#[inline(never)]
fn top(config: &Config) -> u32 {
    let bits = config.globals.mark_mask.count_ones().min(16);
    (1 << bits) - 1
}

/// The value for `use_policy blackhole`.
pub fn blackhole(config: &Config) -> u32 {
    top(config).saturating_sub(2)
}

/// The value for `use_policy unreachable`.
pub fn unreachable(config: &Config) -> u32 {
    top(config).saturating_sub(1)
}

/// The value for `use_policy default`: past all policies, to table main.
pub fn main(config: &Config) -> u32 {
    top(config)
}

/// The value of a rule whose sources are not sticky.
pub fn target(config: &Config, target: RuleTarget) -> u32 {
    match target {
        RuleTarget::Policy(policy) => policy_value(config, policy),
        RuleTarget::Default => main(config),
        RuleTarget::Unreachable => unreachable(config),
        RuleTarget::Blackhole => blackhole(config),
    }
}

fn policy_value(config: &Config, policy: PolicySlot) -> u32 {
    top(config).saturating_sub(3 + pins(config) + u32::from(policy.0))
}

fn highest_id(config: &Config) -> u32 {
    config.uplinks.iter().map(|u| u32::from(u.id.0)).max().unwrap_or(0)
}

/// How many values pinned connections take: one per number of an uplink, or none when the mask has no room for them.
fn pins(config: &Config) -> u32 {
    let highest = highest_id(config);
    let mut others = 0;
    rules(config, &mut |_| others += 1);
    let policies = if others > 0 { config.policies.len() as u32 } else { 0 };
    let fits = 2 * highest + policies + others <= top(config).saturating_sub(3);
    if config.globals.pinning && fits { highest } else { 0 }
}

/// The value that packets of a connection of this uplink get.
pub fn pin(config: &Config, uplink: UplinkId) -> u32 {
    match pins(config) {
        0 => u32::from(uplink.0),
        _ => top(config).saturating_sub(2 + u32::from(uplink.0)),
    }
}

/// The mark with this value.
pub fn mark(config: &Config, value: u32) -> FwMark {
    FwMark::spread(value, config.globals.mark_mask)
}

/// Whether a rule keeps its sources on their uplinks: only a policy has several.
pub fn is_sticky(rule: &RuleConfig) -> bool {
    rule.sticky.is_some() && matches!(rule.target, RuleTarget::Policy(_))
}

/// All values above those of the uplinks themselves, with their meaning.
pub fn each(config: &Config, mut sink: impl FnMut(u32, Meaning)) {
    tell(config, &mut sink);
}

fn tell(config: &Config, sink: &mut dyn FnMut(u32, Meaning)) {
    if pins(config) > 0 {
        for (at, uplink) in config.uplinks.iter().enumerate() {
            sink(pin(config, uplink.id), Meaning::Pin(UplinkSlot(at as u8)));
        }
    }
    let mut next = top(config).saturating_sub(3 + pins(config) + config.policies.len() as u32);
    rules(config, &mut |meaning| match meaning {
        Meaning::Policy(policy) => sink(policy_value(config, policy), meaning),
        _ => {
            sink(next, meaning);
            next = next.saturating_sub(1);
        }
    });
}

/// What the rules need; nothing while ip rules can say everything.
fn rules(config: &Config, sink: &mut dyn FnMut(Meaning)) {
    if !config.rules_need_nft() {
        return;
    }
    for at in 0..config.policies.len() {
        let policy = PolicySlot(at as u8);
        let used = |r: &RuleConfig| r.target == RuleTarget::Policy(policy) && !is_sticky(r);
        if config.rules.iter().any(used) {
            sink(Meaning::Policy(policy));
        }
    }
    for (at, rule) in config.rules.iter().enumerate() {
        let (true, RuleTarget::Policy(policy)) = (is_sticky(rule), rule.target) else { continue };
        sink(Meaning::Sticky { rule: at, policy });
        let Some(members) = config.policies.get(usize::from(policy.0)).map(|p| &p.members) else { continue };
        for (n, member) in members.iter().enumerate() {
            // The same uplink may be there twice, with another metric.
            if members.iter().take(n).all(|m| m.uplink != member.uplink) {
                sink(Meaning::Soft { rule: at, policy, uplink: member.uplink });
            }
        }
    }
}

/// The lowest value that is needed; `None` when none is. Uplinks must be below it.
pub fn lowest(config: &Config) -> Option<u32> {
    let mut lowest = None;
    each(config, |value, _| lowest = Some(lowest.map_or(value, |l: u32| l.min(value))));
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mwan3s_reserved_values_are_the_three_highest() {
        let config = Config::default();
        let shown = [blackhole(&config), unreachable(&config), main(&config)].map(|v| mark(&config, v).value);
        assert_eq!(shown, [0x3d00, 0x3e00, 0x3f00]);
    }
}
