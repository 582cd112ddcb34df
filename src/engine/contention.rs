//! Decides how long to wait before an object that somebody took away is put back.

use serde::{Deserialize, Serialize};

use crate::time::{Duration, micros};

/// Longest wait after a refusal or in a fight.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(30);

/// How long to wait after so many failures: `first` doubled as often, at most `longest`.
#[inline(never)]
pub(super) fn wait_after(failures: u8, first: Duration, longest: Duration) -> Duration {
    (first * (1 << u32::from(failures.min(14)))).min(longest)
}

/// How hard somebody fights for the place of an object.
///
/// A few losses are repaired at once. Eight within some seconds are a fight: then the repairs wait 1 s, 2 s, 4 s …
/// up to 30 s, until a minute passes in peace.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Contention {
    losses: u8,
    rounds: u8,
}

impl Contention {
    /// Charges one loss after so much `peace`; returns how long to wait before repairing it.
    pub(super) fn lost(&mut self, peace: Duration) -> Duration {
        if peace > Duration::from_secs(60) {
            *self = Self::default();
        }
        // One loss is forgiven for each half second of peace.
        let forgiven = u8::try_from(micros(peace) / 500_000).unwrap_or(u8::MAX);
        self.losses = self.losses.saturating_sub(forgiven).saturating_add(1);
        if self.losses <= 8 {
            return Duration::ZERO;
        }
        let wait = Duration::from_secs(1 << self.rounds.min(5)).min(RETRY_MAX);
        self.rounds = self.rounds.saturating_add(1);
        wait
    }
}
