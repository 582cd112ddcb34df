//! What is told unasked: notices as fields, the same for notifications and for events.
//!
//! A notification has the name of a kind (`uplink`, `policy`, `trouble`), an event the same with `linkwatch.` in front.
//! Every field is always there. `serial` counts all news of this run of the daemon: a gap means that later news took the
//! place of what a slow bus did not take, and that the status is worth a look.

use crate::config::Config;
use crate::engine::{Notice, State};
use crate::limits;
use crate::proto::report::{Sink, words};
use crate::time::Duration;
use crate::types::{Family, PolicySlot, UplinkSet, UplinkSlot};

/// The kinds of news: name of the notification, name of the event.
pub const KINDS: [(&str, &str); 3] =
    [("uplink", "linkwatch.uplink"), ("policy", "linkwatch.policy"), ("trouble", "linkwatch.trouble")];

/// Which of [`KINDS`] a notice is.
pub fn kind(notice: &Notice) -> usize {
    match notice {
        Notice::Uplink { .. } | Notice::Bounced { .. } => 0,
        Notice::Switched { .. } => 1,
        _ => 2,
    }
}

/// What a notice is about: of two with the same key only the later need be told. Below 2^16. Troubles differ all from
/// each other: the last 16 of them.
pub fn key(notice: &Notice, serial: u32) -> u32 {
    let part = |family: &Option<Family>| family.map_or(2, |f| f.index() as u32);
    match notice {
        Notice::Uplink { uplink, family, .. } => u32::from(uplink.0) << 2 | part(family),
        Notice::Bounced { uplink, .. } => u32::from(uplink.0) << 2 | 3,
        Notice::Switched { policy, family, .. } => 0x1000 | u32::from(policy.0) << 1 | family.index() as u32,
        _ => 0x2000 | serial & 0xf,
    }
}

/// Writes a notice; `message` is the sentence that the log has.
pub fn fields(notice: &Notice, message: &str, config: &Config, serial: u32, out: &mut dyn Sink) {
    out.number("serial", serial.into());
    match notice {
        Notice::Uplink { uplink, family, from, to, reason, flaps } => {
            let (word, phrase) = words::reason(*reason);
            out.text("uplink", uplink_name(config, *uplink));
            out.text("family", family.map_or("any", words::family));
            out.text("from", words::state(*from));
            out.text("to", words::state(*to));
            out.flag("up", matches!(to, State::Up | State::Degraded));
            out.text("reason", word);
            out.text("because", phrase);
            out.number("carrier_losses", (*flaps).into());
            out.number("hidden", 0);
        }
        Notice::Bounced { uplink, count } => {
            out.text("uplink", uplink_name(config, *uplink));
            out.text("family", "any");
            out.text("from", "");
            out.text("to", "");
            out.flag("up", true);
            out.text("reason", "bounced");
            out.text("because", "carrier lost without an announcement");
            out.number("carrier_losses", 0);
            out.number("hidden", (*count).into());
        }
        Notice::Switched { policy, family, from, to, times } => {
            out.text("policy", policy_name(config, *policy));
            out.text("family", words::family(*family));
            out.text("from", &names(config, *from));
            out.text("to", &names(config, *to));
            out.number("decided_us", micros(times.decided));
            out.number("committed_us", micros(times.committed));
            out.number("verified_us", times.verified.map_or(-1, micros));
        }
        _ => {}
    }
    out.text("message", message);
}

fn uplink_name(config: &Config, slot: UplinkSlot) -> &str {
    config.uplinks.get(usize::from(slot.0)).map_or("", |u| u.name.as_str())
}

/// The names of all uplinks of a set, with commas between them.
pub fn names(config: &Config, set: UplinkSet) -> heapless::String<{ 16 * limits::UPLINKS }> {
    let mut names = heapless::String::new();
    for slot in set.iter() {
        // A name has at most 15 bytes: all of them fit with their commas.
        let comma = if names.is_empty() { "" } else { "," };
        let _ = names.push_str(comma).and_then(|()| names.push_str(uplink_name(config, slot)));
    }
    names
}

/// The name of a policy.
pub fn policy_name(config: &Config, slot: PolicySlot) -> &str {
    config.policies.get(usize::from(slot.0)).map_or("", |p| p.name.as_str())
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(crate::time::micros(duration)).unwrap_or(i64::MAX)
}
