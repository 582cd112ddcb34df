//! One file per language that we speak: bytes in, events out; actions in, bytes out.
//!
//! A codec never panics, never allocates on the way from an event to a switch, never reads beyond what it was given,
//! and says what it refused and at which byte. It does no input or output of its own.

pub mod blobmsg;
pub mod config_file;
pub mod control;
pub mod ctnetlink;
pub mod describe;
pub mod netlink;
pub mod nfnetlink;
pub mod nft;
mod nft_rules;
pub mod pack;
pub mod probe;
pub mod report;
pub mod rtnl;
pub mod trace;
pub mod ubus;
pub mod uci;
pub mod unpack;
