//! Decides when a policy's traffic has really taken another way, and takes the four times of it.
//!
//! Event, decision, commit (the kernel acknowledged group and route), verification (the kernel, asked where a packet
//! would go, names the new device). Nobody is told before.

use serde::{Deserialize, Serialize};

use super::action::Token;
use super::notice::SwitchTimes;
use crate::time::{Duration, Instant};
use crate::types::UplinkSet;

/// How long the answer of `RTM_GETROUTE` is waited for.
pub const VERIFY_TIMEOUT: Duration = Duration::from_millis(500);

/// The way of one policy in one family.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Way {
    /// Who carries it, as far as anyone was told; several when they share it.
    pub told: UplinkSet,
    /// Who should carry it.
    pub chosen: UplinkSet,
    /// Who carried it by what the kernel held at the start.
    pub(super) held: UplinkSet,
    /// The switch under way.
    pub(super) switch: Option<Switch>,
}

/// A switch under way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Switch {
    event_at: Instant,
    decided_at: Instant,
    committed_at: Option<Instant>,
    /// The question to the kernel.
    pub(super) asked: Option<Token>,
}

impl Way {
    /// Chooses; returns whether that is a change.
    pub fn choose(&mut self, chosen: UplinkSet, event_at: Instant, now: Instant) -> bool {
        if self.chosen == chosen {
            return false;
        }
        self.chosen = chosen;
        self.switch =
            (chosen != self.told).then_some(Switch { event_at, decided_at: now, committed_at: None, asked: None });
        true
    }

    /// Whether a switch waits for the kernel to have everything.
    pub fn awaits_commit(&self) -> bool {
        self.switch.is_some_and(|s| s.committed_at.is_none())
    }

    /// Whether a switch waits to be verified, and has not asked yet.
    pub fn awaits_question(&self) -> bool {
        self.switch.is_some_and(|s| s.committed_at.is_some() && s.asked.is_none())
    }

    /// The kernel has acknowledged everything.
    pub fn committed(&mut self, now: Instant) {
        if let Some(switch) = &mut self.switch {
            switch.committed_at = Some(now);
        }
    }

    /// The question is on its way.
    pub fn asked(&mut self, token: Token) {
        if let Some(switch) = &mut self.switch {
            switch.asked = Some(token);
        }
    }

    /// Ends the switch; `verified` when the kernel named the new device.
    pub fn finish(&mut self, verified: bool, now: Instant) -> Option<(UplinkSet, UplinkSet, SwitchTimes)> {
        let switch = self.switch.take()?;
        let from = self.told;
        self.told = self.chosen;
        let committed = switch.committed_at.unwrap_or(now);
        let times = SwitchTimes {
            decided: switch.decided_at.since(switch.event_at),
            committed: committed.since(switch.event_at),
            verified: verified.then(|| now.since(switch.event_at)),
        };
        Some((from, self.told, times))
    }

    /// When the answer is given up.
    pub fn overdue_at(&self) -> Option<Instant> {
        let switch = self.switch?;
        switch.asked.and(switch.committed_at).map(|at| at.after(VERIFY_TIMEOUT))
    }
}

/// How long switches took from the event to the commit, all since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverTimes {
    counts: [u32; BOUNDS.len()],
    /// How many there were.
    pub count: u32,
    /// All of them together, microseconds.
    pub sum: u64,
}

/// Upper bounds of the histogram's buckets, microseconds; what took longer is in none.
const BOUNDS: [u32; 10] = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000];

impl FailoverTimes {
    /// Counts one.
    pub fn add(&mut self, took: Duration) {
        let micros = crate::time::micros(took);
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(micros);
        let bucket = BOUNDS.iter().zip(&mut self.counts).find(|(bound, _)| micros <= u64::from(**bound));
        if let Some((_, count)) = bucket {
            *count = count.saturating_add(1);
        }
    }

    /// Each bucket's upper bound in microseconds, and how many fell into it and no lower one.
    pub fn buckets(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        BOUNDS.iter().copied().zip(self.counts.iter().copied())
    }
}
