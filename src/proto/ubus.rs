//! ubus: how OpenWrt's programs talk to each other, spoken without libubus.
//!
//! [`message`] is the wire, [`receiver`] cuts the stream into messages, [`outbox`] holds what is to be written,
//! [`client`] is the conversation: a state machine without a socket and without a clock. What linkwatch says over it
//! is in [`object`] (its own object), [`news`] (what it
//! tells unasked), [`mwan3`] (for what knows only that) and [`netifd`] (what it asks); [`sink`] makes reports fields.
//!
//! The bus is treated as fallible: nothing here is needed for a switch.

pub mod client;
pub mod message;
pub mod mwan3;
pub mod netifd;
pub mod news;
pub mod object;
pub mod outbox;
pub mod receiver;
pub mod sink;

/// Status of a request (`enum ubus_msg_status`, `ubusmsg.h`). Any number may come; it is passed on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// Fine.
    pub const OK: Self = Self(0);
    /// The message type is unknown.
    pub const INVALID_COMMAND: Self = Self(1);
    /// An argument is missing or of the wrong type; also: a path that may not be published.
    pub const INVALID_ARGUMENT: Self = Self(2);
    /// No such method.
    pub const METHOD_NOT_FOUND: Self = Self(3);
    /// No such object.
    pub const NOT_FOUND: Self = Self(4);
    /// Nothing to say.
    pub const NO_DATA: Self = Self(5);
    /// An access rule says no.
    pub const PERMISSION_DENIED: Self = Self(6);
    /// No answer in time; made by the caller.
    pub const TIMEOUT: Self = Self(7);
    /// Not supported.
    pub const NOT_SUPPORTED: Self = Self(8);
    /// Something else.
    pub const UNKNOWN_ERROR: Self = Self(9);
    /// The connection broke; made by the caller.
    pub const CONNECTION_FAILED: Self = Self(10);
    /// No room.
    pub const NO_MEMORY: Self = Self(11);
}

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match *self {
            Self::OK => "fine",
            Self::INVALID_COMMAND => "invalid command",
            Self::INVALID_ARGUMENT => "invalid argument",
            Self::METHOD_NOT_FOUND => "no such method",
            Self::NOT_FOUND => "not found",
            Self::NO_DATA => "no data",
            Self::PERMISSION_DENIED => "permission denied",
            Self::TIMEOUT => "no answer in time",
            Self::NOT_SUPPORTED => "not supported",
            Self::CONNECTION_FAILED => "connection lost",
            Self::NO_MEMORY => "no room",
            Self(n) => return write!(f, "status {n}"),
        })
    }
}
