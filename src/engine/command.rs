//! Decides what an operator's word changes: an uplink held up or down, a policy held on a member, a probe at once.
//!
//! Such words outlive restarts ([`super::Snapshot`]); they end with `auto`.

use serde::{Deserialize, Serialize};

use super::{Engine, SAVE_AFTER};
use crate::time::Instant;
use crate::types::{PolicySlot, UplinkSlot};

/// What an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Judge an uplink so from now on.
    Hold { uplink: UplinkSlot, hold: Hold },
    /// Let a policy use this member as long as it is usable, whatever its metric; `None` ends it.
    Prefer { policy: PolicySlot, uplink: Option<UplinkSlot> },
    /// Probe an uplink now: one target, or all of them.
    Probe { uplink: UplinkSlot, track: Option<u8> },
}

/// An operator's judgement of an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// None: facts decide.
    #[default]
    Auto,
    /// Up while its link, addresses and gateway allow: neither probes, hold-down nor damping keep it out.
    Up,
    /// Down.
    Down,
}

impl Engine {
    pub(super) fn command(&mut self, command: Command, now: Instant) -> bool {
        match command {
            Command::Hold { uplink, hold } => match self.uplinks.get_mut(usize::from(uplink.0)) {
                Some(uplink) => uplink.hold = hold,
                None => return false,
            },
            Command::Prefer { policy, uplink } => match self.preferred.get_mut(usize::from(policy.0)) {
                Some(place) => *place = uplink,
                None => return false,
            },
            Command::Probe { uplink, track } => {
                self.probe_at = None;
                let Some(uplink) = self.uplinks.get_mut(usize::from(uplink.0)) else { return false };
                for (at, place) in uplink.probing.tracks.iter_mut().enumerate() {
                    if track.is_none_or(|t| usize::from(t) == at) {
                        place.next_at = now;
                    }
                }
                return false;
            }
        }
        self.save_at.get_or_insert(now.after(SAVE_AFTER));
        true
    }
}
