//! stub
use serde::{Deserialize, Serialize};
/// State of one family of an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// The device does not exist.
    #[default]
    Absent,
    /// It cannot carry traffic; the [`Reason`] says why.
    Down,
    /// It could, but must stay good for a while first.
    HoldDown,
    /// It flapped too much and is kept out until its penalty has decayed.
    Damped,
    /// It carries traffic if a policy wants it.
    Up,
}

/// Why a state is as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// No such device.
    #[default]
    NoDevice,
    /// The device is administratively down.
    AdminDown,
    /// Carrier lost.
    NoCarrier,
    /// No usable address of the family.
    NoAddress,
    /// No gateway: none configured, none in table main.
    NoGateway,
    /// Everything is there again.
    Usable,
    /// It stayed good for its hold-down.
    HeldDown,
    /// It was in use, or usable, when the daemon started.
    AtStart,
    /// Too many flaps.
    Flapping,
    /// The penalty for flapping has decayed.
    Calm,
}
