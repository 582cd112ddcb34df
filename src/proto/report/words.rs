//! The words for states and reasons: one short word for machines, one phrase for people. Machines' words never change.

use crate::engine::event::Refusal;
use crate::engine::probe::{Trouble, Verdict};
use crate::engine::{Reason, State};
use crate::types::Family;

/// A state, for machines.
pub fn state(state: State) -> &'static str {
    match state {
        State::Absent => "absent",
        State::Down => "down",
        State::Damped => "damped",
        State::HoldDown => "hold-down",
        State::Degraded => "degraded",
        State::Up => "up",
    }
}

/// A state, for people.
pub fn state_phrase(state: State) -> &'static str {
    match state {
        State::HoldDown => "in hold-down",
        other => self::state(other),
    }
}

/// A reason, for machines and for people.
pub fn reason(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::NoDevice => ("no-device", "no such device"),
        Reason::AdminDown => ("admin-down", "device is administratively down"),
        Reason::NoCarrier => ("no-carrier", "carrier lost"),
        Reason::NoAddress => ("no-address", "no usable address"),
        Reason::NoGateway => ("no-gateway", "no gateway, neither configured nor in table main"),
        Reason::Usable => ("usable", "usable again, must stay so for a while"),
        Reason::HeldDown => ("held-down", "stayed usable"),
        Reason::AtStart => ("at-start", "usable at the start"),
        Reason::Operator => ("operator", "an operator said so"),
        Reason::Flapping => ("flapping", "flaps too much"),
        Reason::NoRoute => ("no-route", "the kernel refuses its default route"),
        Reason::NoAnswer => ("no-answer", "too few probe targets answer"),
        Reason::Refused => ("refused", "its probe targets refuse"),
        Reason::CannotSend => ("cannot-send", "probes cannot be sent"),
        Reason::NoName => ("no-name", "names of probe targets are not resolved"),
        Reason::Lossy => ("lossy", "too many probes are lost"),
        Reason::Slow => ("slow", "probes take too long"),
        Reason::Recovered => ("recovered", "loss and latency are low again"),
    }
}

/// What is thought of a target, for machines.
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unknown => "unknown",
        Verdict::Good => "up",
        Verdict::Bad => "down",
    }
}

/// Why a target does not answer, for machines and for people; `None` when nothing is known to be wrong.
pub fn trouble(trouble: Trouble) -> Option<(&'static str, &'static str)> {
    Some(match trouble {
        Trouble::None => return None,
        Trouble::NoAnswer => ("no-answer", "no answer"),
        Trouble::Refused(Refusal::Unreachable) => ("unreachable", "somebody on the way says unreachable"),
        Trouble::Refused(Refusal::Expired) => ("expired", "its TTL ends on the way"),
        Trouble::Refused(Refusal::Closed) => ("closed", "the connection is refused"),
        Trouble::Refused(Refusal::BadAnswer) => ("bad-answer", "the answer is a refusal or makes no sense"),
        Trouble::Refused(Refusal::BadStatus(_)) => ("bad-status", "another HTTP status: perhaps a portal"),
        Trouble::CannotSend(_) => ("cannot-send", "the kernel does not send it"),
        Trouble::NoAddress => ("no-address", "the uplink has no address of the family"),
        Trouble::NoRoute => ("no-route", "the uplink's table has no default route"),
        Trouble::NoName => ("no-name", "the name is not resolved"),
    })
}

/// A family, for machines.
pub fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}
