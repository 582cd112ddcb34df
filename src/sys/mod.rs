//! The shell: sockets, files, clock, signals, log. It decides nothing.
//!
//! One future on one thread owns the engine and reads everything itself, in an order that is the policy: links first,
//! then answers, then other notifications, signals, and the timer last, so that news is read before a clock judges.
//! No channel and no task lies between a datagram and the engine; an idle daemon never wakes.

pub mod bind;
pub mod client;
pub mod clock;
pub mod console;
pub mod control;
pub mod daemon;
mod failure;
pub mod file;
pub mod journal;
pub mod last_words;
pub mod log;
pub mod lookup;
pub mod monitor;
pub mod netfilter;
pub mod netlink;
pub mod networks;
pub mod nft;
pub mod peer;
pub mod probe;
pub mod process;
pub mod ration;
pub mod resolv;
pub mod signal;
pub mod store;
pub mod sysctl;
pub mod terminal;
pub mod text;
pub mod trace;
pub mod ubus;
pub mod wait;
