//! Decides when an uplink flaps too much to be used (RFC 2439, route flap damping).
//!
//! Each loss adds a penalty that halves every half-life; above *suppress* the uplink is kept out until the penalty has
//! decayed below *reuse*. The penalty has a ceiling, so that peace always releases within `max_suppress`.
//! Integers only: OpenWrt's MIPS has no floating point.

use serde::{Deserialize, Serialize};

use crate::config::DampingConfig;
use crate::time::{self, Duration, Instant};

/// 2^(-i/16) in 1/65536: the decay within one half-life (RFC 2439 section 4.8.6 asks for such a table).
const DECAY: [u32; 16] =
    [65536, 62757, 60096, 57548, 55108, 52772, 50534, 48392, 46341, 44376, 42495, 40693, 38968, 37316, 35734, 34219];

/// The flap history of one uplink.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Damping {
    penalty: u32,
    at: Instant,
    suppressed: bool,
}

impl Damping {
    /// Charges `flaps` losses.
    pub fn charge(&mut self, flaps: u32, config: &DampingConfig, now: Instant) {
        let penalty = self.penalty(config, now).saturating_add(flaps.saturating_mul(DampingConfig::PENALTY));
        self.penalty = penalty.min(ceiling(config));
        self.at = now;
        if self.penalty > config.suppress {
            self.suppressed = true;
        }
    }

    /// Takes over a penalty saved earlier.
    pub fn restore(&mut self, penalty: u32, config: &DampingConfig, now: Instant) {
        self.penalty = penalty.min(ceiling(config));
        self.at = now;
        self.suppressed = self.penalty > config.suppress;
    }

    /// Whether the uplink is kept out at `now`; forgets the suppression once the penalty is below *reuse*.
    pub fn review(&mut self, config: &DampingConfig, now: Instant) -> bool {
        if self.suppressed && self.penalty(config, now) < config.reuse {
            self.suppressed = false;
        }
        self.suppressed
    }

    /// The penalty at `now`.
    pub fn penalty(&self, config: &DampingConfig, now: Instant) -> u32 {
        let half_life = time::micros(config.half_life).max(1);
        let passed = time::micros(now.since(self.at));
        let Ok(halvings) = u32::try_from(passed / half_life) else { return 0 };
        let halved = self.penalty.checked_shr(halvings).unwrap_or(0);
        let step = ((passed % half_life).saturating_mul(16) / half_life) as usize;
        let factor = DECAY.get(step).copied().unwrap_or(32768);
        ((u64::from(halved) * u64::from(factor)) >> 16) as u32
    }

    /// When a suppressed uplink is to be looked at again; `None` when it is not suppressed.
    pub fn release_at(&self, config: &DampingConfig) -> Option<Instant> {
        // A sixteenth of a half-life is the table's grain: the first grain at which the penalty is below reuse.
        let grain = config.half_life / 16;
        self.suppressed.then(|| {
            let mut at = self.at;
            for _ in 0..16 * 33 {
                if self.penalty(config, at) < config.reuse {
                    break;
                }
                at = at.after(grain.max(Duration::from_micros(1)));
            }
            at
        })
    }
}

/// reuse × 2^(max_suppress / half_life): the penalty that takes exactly `max_suppress` to decay to *reuse*.
fn ceiling(config: &DampingConfig) -> u32 {
    let sixteenths = time::micros(config.max_suppress).saturating_mul(16) / time::micros(config.half_life).max(1);
    let doubled = u64::from(config.reuse).checked_shl((sixteenths / 16).min(31) as u32).unwrap_or(u64::MAX);
    let factor = DECAY.get((sixteenths % 16) as usize).copied().unwrap_or(65536);
    // A ceiling at or under suppress would switch damping off: then suppress wins by one.
    let raised = doubled.saturating_mul(65536) / u64::from(factor);
    u32::try_from(raised).unwrap_or(u32::MAX).max(config.suppress.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn one_flap_is_forgiven_three_suppress() {
        let config = DampingConfig::default();
        let mut damping = Damping::default();
        damping.charge(1, &config, at(1));
        assert!(!damping.review(&config, at(1)));
        damping.charge(1, &config, at(2));
        damping.charge(1, &config, at(3));
        assert!(damping.review(&config, at(3)));
    }

    #[test]
    fn the_penalty_halves_in_a_half_life() {
        let config = DampingConfig::default();
        let mut damping = Damping::default();
        damping.charge(2, &config, at(0));
        assert_eq!(damping.penalty(&config, at(10)), 1000);
        assert_eq!(damping.penalty(&config, at(20)), 500);
        assert_eq!(damping.penalty(&config, at(5)), 1414);
    }

    #[test]
    fn peace_releases_within_the_longest_suppression_however_bad_it_was() {
        let config = DampingConfig::default();
        let mut damping = Damping::default();
        for _ in 0..1000 {
            damping.charge(1000, &config, at(7));
        }
        assert!(damping.review(&config, at(36)));
        let release = damping.release_at(&config).expect("it is suppressed");
        assert!(release <= at(38), "{release:?}");
        assert!(!damping.review(&config, release));
        assert_eq!(damping.release_at(&config), None);
    }
}
