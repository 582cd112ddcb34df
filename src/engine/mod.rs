//! The contract.
pub mod action;
pub mod event;
pub mod notice;
pub mod object;
pub mod uplink;

pub use action::Action;
pub use event::Event;
